"""`nsbox run`: one program in a fresh sandbox."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nsbox._blocking import Sandbox
from nsbox._cli import exits, report, session, streams
from nsbox._cli.request import Kind, Program, Request, decode_program, execution_options, sandbox_config
from nsbox._config import ExecutionOptions, SandboxConfig
from nsbox._errors import ConfigError, SandboxError
from nsbox._results import ExecutionResult


def run(program: Program, request: Request, *, as_json: bool, quiet: bool) -> int:
    """Run it, pass on what it wrote, and return the exit status.

    Args:
        program: What to run.
        request: With which limits.
        as_json: The whole result on stdout, as JSON, instead of the program's output.
        quiet: No verdict on stderr.

    Raises:
        SandboxError: It was not run to its end; with `as_json`, stdout has it already.
    """
    try:
        config = sandbox_config(request)
        code, stdin = _read(program)
        result, isolation = _execute(config, program, code, execution_options(request, program, stdin))
    except SandboxError as exc:
        if as_json:
            streams.write(streams.STDOUT, report.error_json(exc, exits.error_status(exc)))
        raise
    status = exits.result_status(result)
    if as_json:
        streams.write(streams.STDOUT, report.result_json(result, isolation, status))
    else:
        _pass_on(result, quiet=quiet)
    return status


def _read(program: Program) -> tuple[str, bytes]:
    """The program's text, and what it finds on its stdin."""
    if program.kind is Kind.COMMAND:
        return "", streams.read_stdin()
    if program.kind is Kind.CODE:
        return decode_program("-c", os.fsencode(program.text)), streams.read_stdin()
    if program.text == "-":  # from a terminal too: "-" asks for it
        return decode_program("stdin", streams.read_all(streams.STDIN, "stdin", streams.PROGRAM_LIMIT_MB)), b""
    try:
        fd = os.open(program.text, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte, which a shell cannot pass but a caller of main can
        hint = "; a command of the sandbox stands behind --" if isinstance(exc, FileNotFoundError) else ""
        raise ConfigError(f"{program.text}: cannot be read ({getattr(exc, 'strerror', None) or exc}){hint}") from exc
    try:
        content = streams.read_all(fd, program.text, streams.PROGRAM_LIMIT_MB)
    finally:
        os.close(fd)
    return decode_program(program.text, content), streams.read_stdin()


def _execute(
    config: SandboxConfig, program: Program, code: str, options: ExecutionOptions
) -> tuple[ExecutionResult, Mapping[str, str]]:
    with Sandbox(config) as sandbox:
        isolation = sandbox.isolation
        if program.kind is Kind.COMMAND:
            return sandbox.run(program.words, options), isolation
        return sandbox.execute(code, options), isolation


def _pass_on(result: ExecutionResult, *, quiet: bool) -> None:
    streams.write(streams.STDOUT, result.stdout_bytes)
    streams.write(streams.STDERR, result.stderr_bytes)
    if not result.ok and not quiet:
        if result.stderr_bytes and not result.stderr_bytes.endswith(b"\n"):
            streams.write(streams.STDERR, b"\n")
        session.tell(report.verdict_line(result))
