"""The contexts of a sandbox: programs that live on, and run one cell after the other in the state of the last one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import socket
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import trio

from nsbox._config import ExecutionOptions, effective_limits
from nsbox._contexts.frames import Forked, FrameError, Ready, pack
from nsbox._contexts.languages import Cell as Request
from nsbox._contexts.languages import ContextLanguage, find_language
from nsbox._core.cells import CellRun
from nsbox._core.executions import result_of
from nsbox._core.orders import without_time
from nsbox._core.output import OutputSink
from nsbox._core.part import Part
from nsbox._core.program import Program, Running
from nsbox._core.residence import Ends, Residence
from nsbox._core.sources import Place, Source, program_source
from nsbox._errors import (
    ConfigError,
    ExecutionError,
    InvalidStateError,
    ProgramStartError,
    ResourceLimitError,
    SetupError,
    UnsupportedHostError,
)
from nsbox._results import ExecutionResult
from nsbox._states import ACTIVE
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.order import Order, Outcome
from nsbox._verdict import KillReason

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

MOST_CONTEXTS = 32
"""Of one sandbox; its limits on memory and processes are the ones that are felt before."""
_READY_SECONDS = 60.0
_FORK_SECONDS = 10.0
_MIB = 1 << 20
_MOST_SAID = 1 << 16
_NOT_FOUND = 127
"""The exit status of the one line of sh that starts Node, where there is no Node (POSIX, 2.8.2)."""


class Contexts(Part):
    """All of one sandbox.

    Args:
        core: The sandbox.
    """

    def __init__(self, core: SandboxCore) -> None:
        self.core = core
        self._living: set[Context] = set()
        self._residences: weakref.WeakSet[Residence] = weakref.WeakSet()
        self._starting = 0

    async def create(self, language: str) -> Context:
        """A new one, ready for its first cell.

        Cancellation ends its program, and waits for that.
        """
        context = Context(self, find_language(language))
        await context.restart()
        return context

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """For one more.

        Raises:
            InvalidStateError: The sandbox is not active.
            ResourceLimitError: There are as many as may be.
        """
        self.core.machine.require(*ACTIVE, action="make a context in")
        if len(self._living) + self._starting >= MOST_CONTEXTS:
            raise ResourceLimitError(f"{MOST_CONTEXTS} contexts are alive in this sandbox, and no more may be")
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add(self, context: Context, residence: Residence) -> None:
        """It is alive."""
        self._living.add(context)
        self._residences.add(residence)

    def remove(self, context: Context) -> None:
        """It is not."""
        self._living.discard(context)

    def closed(self) -> None:
        for context in tuple(self._living):
            context.lose("its sandbox was restarted, reset or lost")

    async def end(self) -> None:
        residences = tuple(self._residences)
        for residence in residences:
            residence.gone = "its sandbox was terminated"
        if residences:  # else no nursery, which is a checkpoint
            async with trio.open_nursery() as nursery:
                for residence in residences:
                    nursery.start_soon(residence.kill, KillReason.CANCELLED)
        self.closed()


class Context:
    """One of them; its methods are for the supervisor's run.

    Args:
        contexts: Those of the sandbox.
        language: Which.
    """

    def __init__(self, contexts: Contexts, language: ContextLanguage) -> None:
        self._contexts = contexts
        self._core = contexts.core
        self._language = language
        self._residence: Residence | None = None
        self._ends: Ends | None = None
        self._cell: CellRun | None = None
        self._gone = "it was not started"
        self._closed = False
        self._changing = trio.Lock()  # restart, fork, close
        self.id = f"ctx-{secrets.token_hex(8)}"

    @property
    def language(self) -> str:
        return self._language.name

    @property
    def _largest(self) -> int:
        """Bytes of an output: one that is larger is over the limit whatever came before."""
        return max(1, round(self._core.config.enforcement.max_output_mb * _MIB))

    # ------------------------------------------------------------ its life

    async def restart(self) -> None:
        """A new program, in place of the old one if that is alive."""
        async with self._changing:
            if self._closed:
                raise InvalidStateError("the context was closed")
            self._core.machine.require(*ACTIVE, action="restart a context of")
            await self._leave("it is being restarted")
            with self._contexts.room():
                residence, ends = await self._start()
            self._take(residence, ends)

    async def _start(self) -> tuple[Residence, Ends]:
        core, runtime = self._core, self._language.runtime
        _, cell = core.living()
        running = core.executions.new_cell("", self.language, ExecutionOptions())
        with _texts():
            text = self._language.text()
            source = Source(cell.source, f"{self.id}-{secrets.token_hex(4)}", runtime.file_name, text)
        try:
            order = self._order(running, source.place, text)
            ends = Ends(self._largest)
        except BaseException:
            source.close()
            raise
        residence = Residence(cell, order, running)
        residence.start(ends, source)
        try:
            await self._wait_ready(residence, ends)
        except BaseException:
            await residence.kill(KillReason.CANCELLED)
            ends.close()
            raise
        return residence, ends

    def _order(self, running: Running, place: Place, text: bytes) -> Order:
        """No limit of time: that is each cell's own."""
        runtime = self._language.runtime
        argv = (*runtime.run, str(self._largest))
        program = Program(runtime=runtime, text=text, names={}, place=place)
        order = self._core.executions.order(running, argv, program)
        own = self._core.runtime
        warm = own.name == runtime.name and self._core.wants_warm(running.options, text, own)
        return dataclasses.replace(without_time(order), warm=warm)

    async def _wait_ready(self, residence: Residence, ends: Ends) -> None:
        frame = None
        with trio.move_on_after(_READY_SECONDS) as scope:
            try:
                frame = await ends.receive()
            except FrameError as exc:
                raise SetupError("context", errno.EPROTO, str(exc), self.language) from exc
        if scope.cancelled_caught:
            raise SetupError("context", errno.ETIMEDOUT, f"not ready within {_READY_SECONDS:g} s", self.language)
        if isinstance(frame, Ready):
            await residence.settled.wait()  # the program's word may be faster than the launcher's
            return
        await residence.wait_death()
        await residence.kill(KillReason.NONE)
        raise self._start_failure(residence, ends)

    def _start_failure(self, residence: Residence, ends: Ends) -> Exception:
        """Why its program was never ready."""
        program, package = self._language.program, self._language.package
        failure, outcome = residence.failure, residence.outcome
        missing = isinstance(failure, ProgramStartError) and failure.errno == errno.ENOENT
        if missing or (outcome is not None and outcome.observation.exit_code == _NOT_FOUND):
            return UnsupportedHostError(
                f"a context of {self.language} needs {program}, which is not there in the sandbox",
                missing=(program,),
                remedies=(f"install it (Debian, Ubuntu: apt-get install {package}), or use a rootfs that has it",),
            )
        if failure is not None:
            return failure
        assert outcome is not None
        with contextlib.suppress(BlockingIOError):
            outcome = dataclasses.replace(outcome, stderr=os.read(ends.stderr, _MOST_SAID))
        result = result_of(residence.running, outcome, 0.0)
        try:
            result.raise_for_verdict()
        except ExecutionError as exc:
            return exc
        return ExecutionError(f"the program of a context of {self.language} ended before it was ready", result)

    def _take(self, residence: Residence, ends: Ends) -> None:
        residence.members += 1
        self._residence, self._ends = residence, ends
        self._contexts.add(self, residence)

    def lose(self, why: str) -> None:
        """Its program is dead, or about to be."""
        self._gone = why
        if self._residence is not None:
            self._residence.gone = self._residence.gone or why
        if self._cell is None:
            self._let_go()

    def _let_go(self) -> None:
        ends, residence = self._ends, self._residence
        self._ends = self._residence = None
        self._contexts.remove(self)
        if ends is not None and residence is not None:
            residence.let_go(ends)

    async def _leave(self, why: str) -> None:
        """End what it has, its cell included; not cancelled."""
        residence = self._residence
        if residence is None:
            return
        self._gone = why
        with trio.CancelScope(shield=True):
            if residence.members == 1:
                residence.gone = residence.gone or why
                await residence.kill(KillReason.CANCELLED)
            elif self._cell is not None:
                await self._cell.stop()
            async with residence.turns:  # a cell of it that still runs has its result by then
                if self._residence is residence:
                    self._let_go()  # a fork ends at the end of its channel
            await residence.leave()

    async def close(self) -> None:
        """End it. A second time, nothing."""
        async with self._changing:
            self._closed = True
            await self._leave("it was closed")

    # ------------------------------------------------------------ cells

    async def execute(self, code: str, options: ExecutionOptions) -> ExecutionResult:
        """Run a cell."""
        core = self._core
        _check_options(options, self._language)
        running = core.executions.new_cell(code, self.language, options)
        async with self._turn() as (residence, ends):
            core.executions.require_room()
            order = self._cell_order(residence, options)
            with contextlib.ExitStack() as stack:
                with _texts():
                    request = self._request(residence.cell.source, running, order, code, stack)
                return await self._run(residence, ends, running, order, request)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[tuple[Residence, Ends]]:
        """What it consists of, once nothing else is done with it.

        Raises:
            InvalidStateError: It has ended, also while this was waited for.
        """
        while True:
            residence, ends = self._require()
            async with residence.turns:
                if self._residence is residence and residence.over is None:
                    yield residence, ends
                    return
            await trio.lowlevel.checkpoint()  # it was restarted meanwhile, or has ended

    def _request(
        self, directory: int, running: Running, order: Order, code: str, stack: contextlib.ExitStack
    ) -> Request:
        """The texts of a cell, in the sandbox until `stack` is left."""
        options, name = running.options, running.execution.id
        text, stdin = code.encode("utf-8", "surrogatepass"), None
        source = stack.enter_context(program_source(directory, name, "cell", text)).source
        if options.stdin is not None:
            stdin = stack.enter_context(program_source(directory, f"{name}-in", "stdin", order.stdin)).source
        return Request(
            number=secrets.randbits(32),
            source=source,
            stdin=stdin,
            directory=None if options.working_directory is None else self._directory(options),
            environment=options.environment,
        )

    async def _run(
        self, residence: Residence, ends: Ends, running: Running, order: Order, request: Request
    ) -> ExecutionResult:
        sink = OutputSink(self._core.emitter, running.execution.id, None)
        cell = self._cell = CellRun(residence, ends, order, request.number, sink)
        running.stop = cell.stop

        async def carry_out(_: Cell) -> Outcome:
            outcome = await cell.run(self._language.request(request))
            sink.finish()
            return outcome

        why = None
        try:
            result = await self._core.executions.perform(running, order, carry_out)
            why = f"a cell has ended its program ({result.verdict.value})"
            return result
        finally:
            self._cell = None
            if residence.ended.is_set() or residence.gone is not None:
                residence.gone = residence.gone or why or "its program has ended"
                if self._residence is residence:
                    self._gone = residence.gone
                self._let_go()

    def _require(self) -> tuple[Residence, Ends]:
        """What it consists of.

        Raises:
            InvalidStateError: It has ended.
        """
        if self._residence is not None and self._residence.over is not None and self._cell is None:
            self.lose(self._residence.over)
        if self._residence is None or self._ends is None:
            again = "" if self._closed else "; restart() makes it anew"
            raise InvalidStateError(f"the context has ended: {self._gone}{again}")
        return self._residence, self._ends

    def _cell_order(self, residence: Residence, options: ExecutionOptions) -> Order:
        limits = effective_limits(self._core.config, options, self._core.environment.variables)
        order, stdin = residence.resident.order, options.stdin
        return dataclasses.replace(
            order,
            plan=dataclasses.replace(order.plan, wall_ns=round(limits.wall_seconds * 1e9)),
            bounds=dataclasses.replace(order.bounds, cpu_seconds=limits.cpu_seconds),
            keep_output=options.capture_output,
            stdin=stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin or b"",
        )

    def _directory(self, options: ExecutionOptions) -> str:
        return effective_limits(self._core.config, options).working_directory

    async def interrupt(self) -> None:
        """SIGINT for the cell that runs, if one does."""
        cell, residence = self._cell, self._residence
        if cell is not None and residence is not None:
            cell.interrupted = True
            await residence.resident.interrupt(KillReason.NONE)

    # ------------------------------------------------------------ fork

    async def fork(self) -> Context:
        """A second one with the same state, in the same execution."""
        if not self._language.forks:
            raise ConfigError(f"a context of {self.language} cannot be forked: only one of python can")
        async with self._changing, self._turn() as (residence, ends):
            with self._contexts.room():
                forked, theirs = Context(self._contexts, self._language), Ends(self._largest)
                try:
                    with trio.CancelScope(shield=True):
                        await self._ask_for_fork(residence, ends, theirs)
                except BaseException:
                    theirs.close()
                    raise
                forked._take(residence, theirs)
                return forked

    async def _ask_for_fork(self, residence: Residence, ends: Ends, theirs: Ends) -> None:
        owner = os.fstat(ends.stdout)
        with contextlib.suppress(PermissionError):  # an id of a range that is not ours to give: /dev/stdout stays shut
            for fd in theirs.theirs[1:]:
                os.fchown(fd, owner.st_uid, owner.st_gid)
        answer = None
        with trio.move_on_after(_FORK_SECONDS), contextlib.suppress(FrameError, OSError):
            socket.send_fds(ends.channel, [pack("fork")], theirs.theirs)
            theirs.give()
            answer = await ends.receive()
            if isinstance(answer, Forked) and answer.refusal is None:
                answer = await theirs.receive()
        if isinstance(answer, Ready):
            return
        if isinstance(answer, Forked):
            raise InvalidStateError(f"the context cannot be forked: {answer.refusal}")
        await residence.kill(KillReason.CANCELLED)  # half a fork: nobody knows what there is now
        self.lose("it was to be forked, and its program did not answer")
        raise InvalidStateError("the context could not be forked: its program did not answer, and has been ended")


@contextlib.contextmanager
def _texts() -> Iterator[None]:
    """Writing program texts fails for want of descriptors here, or of room there, of which ConfigError tells."""
    try:
        yield
    except SetupError:
        raise
    except OSError as exc:
        raise SetupError("source", exc.errno or errno.EIO, exc.strerror or "", "a program's text") from exc


def _check_options(options: ExecutionOptions, language: ContextLanguage) -> None:
    """What is the context's cannot be the cell's.

    Raises:
        ConfigError: It is asked for.
    """
    if options.language not in (None, language.name):
        raise ConfigError(f"language={options.language!r}: this context's cells are {language.name}")
    if options.stdin is not None and not language.stdin:
        raise ConfigError(f"stdin: a cell of {language.name} has none; write a file instead")
    if options.memory_limit_mb is not None:
        raise ConfigError(
            "memory_limit_mb: the memory of a context is that of all its cells, and has the sandbox's limit"
        )
    if options.user is not None:
        raise ConfigError("user: a context has one user for all its cells")
    if options.arguments:
        raise ConfigError("arguments: a cell has none; give it variables, or stdin")
