"""`nsbox shell`: a person, or a script, and a shell in a fresh sandbox."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

import trio

from nsbox._cli import exits, report, session, streams
from nsbox._cli.request import Kind, Program, Request, execution_options, sandbox_config
from nsbox._cli.terminal import Terminal
from nsbox._config import ExecutionOptions
from nsbox._core import SandboxCore
from nsbox._core.interactive import Interactive, ReadEnd, spawn
from nsbox._core.sources import program_source
from nsbox._errors import ConfigError, ProgramNotFoundError, SandboxError
from nsbox._results import ExecutionResult, Verdict
from nsbox._supervisor.portal import Portal, get_portal

_CHUNK = 1 << 16
_OWN_ENDS = frozenset({Verdict.OK, Verdict.NONZERO_EXIT, Verdict.SIGNALED})
_BASHRC = """\
[ -r ~/.bashrc ] && . ~/.bashrc
alias ls='ls --color=auto' grep='grep --color=auto'
PS1='\\[\\e[1;36m\\]{name}\\[\\e[0m\\]:\\[\\e[1;34m\\]\\w\\[\\e[0m\\]\\$ '
"""


def shell(words: Sequence[str], request: Request, *, pty: bool | None) -> int:
    """Run it to its end.

    Args:
        words: A command instead of the shell.
        request: The options of the sandbox.
        pty: Whether it has a terminal; None: where stdin and stdout are one.

    Returns:
        The exit status: the shell's, or what says why it was ended.

    Raises:
        ConfigError: A terminal was asked for, and there is none.
        SandboxError: There is no sandbox, or no shell in it.
    """
    there = os.isatty(streams.STDIN) and os.isatty(streams.STDOUT)
    if pty and not there:
        raise ConfigError("--pty: stdin and stdout must both be terminals")
    config = sandbox_config(request)
    options = execution_options(request, Program(kind=Kind.COMMAND, text="", words=()), None)
    core = SandboxCore(config)
    portal = get_portal()
    on_terminal = there if pty is None else pty
    portal.call(core.start)
    try:
        with _commands(core, words, on_terminal=on_terminal) as commands:
            if on_terminal:
                result = _on_terminal(portal, core, commands, _with_terminal(options, config.environment, core.id))
            else:
                result = portal.call(_on_pipes, core, commands, options)
    finally:
        portal.call(core.terminate)
    if result.verdict not in _OWN_ENDS:
        session.tell(report.verdict_line(result))
    return exits.result_status(result)


@contextlib.contextmanager
def _commands(core: SandboxCore, words: Sequence[str], *, on_terminal: bool) -> Iterator[list[Sequence[str]]]:
    """What to try, in turn."""
    if words:
        yield [tuple(words)]
        return
    if not on_terminal:
        yield [("bash",), ("sh",)]
        return
    text = _BASHRC.format(name=_prompt(core.id)).encode()
    with program_source(core.living()[1].source, f"shell-{secrets.token_hex(8)}", "bashrc", text) as place:
        yield [("bash", "--rcfile", place.source, "-i"), ("sh", "-i")]


def _prompt(sandbox_id: str) -> str:
    return f"nsbox {sandbox_id}"


def _with_terminal(options: ExecutionOptions, given: Mapping[str, str], sandbox_id: str) -> ExecutionOptions:
    """With what programs want to know of the terminal; what --env gives is kept."""
    variables = {"TERM": "xterm-256color", "PS1": f"{_prompt(sandbox_id)}$ "}
    for name in ("TERM", "COLORTERM"):
        value = os.environ.get(name, "")
        if re.fullmatch(r"[A-Za-z0-9._+-]{1,64}", value):
            variables[name] = value
    return options.with_environment(**{**variables, **{k: v for k, v in given.items() if k in variables}})


async def _spawn_first(
    core: SandboxCore, commands: Sequence[Sequence[str]], options: ExecutionOptions, pty: tuple[int, int] | None
) -> Interactive:
    """The first of the commands that is there."""
    for command in commands[:-1]:
        with contextlib.suppress(ProgramNotFoundError):
            return await spawn(core, command, options, pty)
    return await spawn(core, commands[-1], options, pty)


class _Tasks:
    """What goes on beside the program. What one of them fails with ends all."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.failure: Exception | None = None

    def start(self, function: Callable[..., Awaitable[None]], *args: object) -> trio.Event:
        """Start one; returns what is set at its end."""
        ended = trio.Event()

        async def task() -> None:
            try:
                await function(*args)
            except (OSError, streams.OutputClosedError, trio.BrokenResourceError) as exc:
                self.failure = self.failure or exc
                self._nursery.cancel_scope.cancel()
            finally:
                ended.set()

        self._nursery.start_soon(task)
        return ended


async def _accompany(
    process: Interactive, feed: Callable[[], Awaitable[None]], outputs: Sequence[tuple[ReadEnd, int]],
    *others: Callable[[], Awaitable[None]],
) -> ExecutionResult:  # fmt: skip
    """Pass bytes on in both directions until it has ended, and all that it wrote is passed on."""
    result: ExecutionResult | None = None
    try:
        async with trio.open_nursery() as nursery:
            tasks = _Tasks(nursery)
            for function in (feed, *others):
                tasks.start(function)
            shown = [tasks.start(_pass_on, stream, fd) for stream, fd in outputs]
            try:
                result = await process.wait()
                for ended in shown:
                    await ended.wait()
            except SandboxError as exc:  # from here it would go up in an exception group
                tasks.failure = exc
            nursery.cancel_scope.cancel()
    finally:
        await process.close()
    if tasks.failure is not None:
        raise tasks.failure
    assert result is not None
    return result


async def _pass_on(stream: ReadEnd, fd: int) -> None:
    """In a worker thread: a terminal that is held by Ctrl-S, or a slow reader, must not stop the supervisor."""
    while data := await stream.receive_some(_CHUNK):
        await trio.to_thread.run_sync(streams.write, fd, data, abandon_on_cancel=True)


async def _read_stdin() -> bytes:
    """What is there, as soon as it is; b"" at the end."""
    try:
        await trio.lowlevel.wait_readable(streams.STDIN)
    except PermissionError:
        await trio.lowlevel.checkpoint()  # a file: epoll(7) does not take it, and it never makes anybody wait
    try:
        return os.read(streams.STDIN, _CHUNK)
    except BlockingIOError:
        return await _read_stdin()


# ------------------------------------------------------------------ with a terminal


def _on_terminal(
    portal: Portal, core: SandboxCore, commands: Sequence[Sequence[str]], options: ExecutionOptions
) -> ExecutionResult:
    terminal = Terminal()
    noted, changes = trio.open_memory_channel[None](1)

    def note() -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            noted.send_nowait(None)

    try:
        with terminal.raw(partial(portal.run_soon, note)):
            result = portal.call(_converse, core, commands, options, terminal, changes)
    except OSError as exc:
        if exc.errno != errno.EIO:  # what reading and writing say of a terminal that has gone
            raise
        session.hang_up()
    except BaseException:
        terminal.leave_screen()
        raise
    if result.verdict not in _OWN_ENDS:
        terminal.leave_screen()
    return result


async def _converse(
    core: SandboxCore, commands: Sequence[Sequence[str]], options: ExecutionOptions, terminal: Terminal,
    changes: trio.MemoryReceiveChannel[None],
) -> ExecutionResult:  # fmt: skip
    process = await _spawn_first(core, commands, options, terminal.size)

    async def feed() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await _read_stdin():
                await process.stdin.send_all(data)
            raise OSError(errno.EIO, os.strerror(errno.EIO))  # the same as an end of file

    async def follow() -> None:
        async for _ in changes:
            await process.resize(*terminal.size)

    return await _accompany(process, feed, [(process.stdout, streams.STDOUT)], follow)


# ------------------------------------------------------------------ on pipes


async def _on_pipes(core: SandboxCore, commands: Sequence[Sequence[str]], options: ExecutionOptions) -> ExecutionResult:
    process = await _spawn_first(core, commands, options, None)
    assert process.stderr is not None

    async def feed() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it does not want to read more
            while data := await _read_stdin():
                await process.stdin.send_all(data)
            await process.stdin.aclose()

    return await _accompany(process, feed, [(process.stdout, streams.STDOUT), (process.stderr, streams.STDERR)])
