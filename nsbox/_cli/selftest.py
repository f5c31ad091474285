"""`nsbox doctor --self-test`: a sandbox, attacked from inside; a new one after each that was ended for an attack."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nsbox._blocking import Sandbox
from nsbox._cli.attacks import ATTACKS, PRELUDE, Attack
from nsbox._config import EnforcementPolicy, SandboxConfig, make_config
from nsbox._results import ExecutionResult, Verdict
from nsbox._seccomp.syscalls import syscall_number
from nsbox._supervisor.garbage import temporary_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one attack.

    Attributes:
        id: The attack's.
        title: The attack's.
        ok: Whether what must hold, holds.
        expected: What must come of it.
        found: What came of it.
    """

    id: str
    title: str
    ok: bool
    expected: str
    found: str


def self_test() -> Iterator[Row]:
    """Start a sandbox, and yield a row for each attack as it ends.

    Raises:
        SandboxError: No sandbox could be started, or it broke.
    """
    with host_secrets() as secret, contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(_config()))
        for attack in ATTACKS:
            if not sandbox.is_active:  # terminated for a forbidden call
                sandbox = stack.enter_context(Sandbox(_config()))
            yield judge_attack(attack, sandbox.execute(fill_in(attack.code, secret), **attack.options))


def judge_attack(attack: Attack, result: ExecutionResult) -> Row:
    """Compare what came of an attack with what must. Pure."""
    said = result.stdout.strip()
    call = str(result.evidence.get("syscall", ""))
    ok = (
        result.verdict is attack.verdict
        and (not attack.says or said in attack.says)
        and (not attack.syscall or call == attack.syscall)
    )
    return Row(
        id=attack.id,
        title=attack.title,
        ok=ok,
        expected=_outcome(attack.verdict, " or ".join(attack.says), attack.syscall),
        found=_outcome(result.verdict, said, call) + ("" if ok else _last_line(result.stderr)),
    )


def fill_in(code: str, secret: Mapping[str, str]) -> str:
    """The whole program of an attack, with the numbers of system calls and where the secrets are."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in secret:
            return secret[name]
        number = syscall_number(name)
        assert number is not None, f"{name}: this machine has no such system call"
        return str(number)

    return PRELUDE + re.sub(r"@(\w+)@", value, code)


@contextlib.contextmanager
def host_secrets() -> Iterator[Mapping[str, str]]:
    """Things on the host that every user may reach, and no sandbox: a file, two sockets, a variable.

    They are used once here, to know that it is the sandbox that keeps a program from them.
    """
    name = f"nsbox-{os.getpid()}-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(temporary_directory(name)) / "secret"
        file.parent.chmod(0o755)
        file.write_text(name)
        file.chmod(0o644)
        loopback = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{name}")
        abstract.listen()
        variable = name.upper().replace("-", "_")
        os.environ[variable] = name
        stack.callback(os.environ.pop, variable)
        for family, address in ((socket.AF_INET, loopback.getsockname()), (socket.AF_UNIX, f"\0{name}")):
            with socket.socket(family) as client:
                client.connect(address)
        yield {"FILE": str(file), "PORT": str(loopback.getsockname()[1]), "ABSTRACT": name, "VARIABLE": variable}


def _config() -> SandboxConfig:
    """Small limits, for a self-test that takes little of the host."""
    base = SandboxConfig(enforcement=EnforcementPolicy(max_output_mb=1))
    return make_config(base, memory_mb=128, disk_mb=8, processes=16, timeout=10)


def _outcome(verdict: Verdict, said: str, call: str) -> str:
    parts = [verdict.value] if verdict is not Verdict.OK or not said else []
    return ": ".join([*parts, *([call] if call else []), *([said] if said else [])])


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[-1]})" if lines else ""
