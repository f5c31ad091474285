"""What `AsyncSandbox` hands out, for trio and for asyncio: streams of events, and programs on pipes or a terminal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from nsbox._core.emitter import EventReader
from nsbox._core.interactive import Interactive
from nsbox._core.streaming import Streaming
from nsbox._core.watching import Watching
from nsbox._errors import InvalidStateError
from nsbox._events import Event
from nsbox._records import FileChange
from nsbox._results import ExecutionResult

P = ParamSpec("P")
T = TypeVar("T")


class Caller(Protocol):
    """How the supervisor's run is reached from where the caller lives."""

    async def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `function(*args)` there."""

    def run_soon(self, function: Callable[[], object]) -> None:
        """Call a plain function there, without waiting; never raises."""


def result_of(streaming: Streaming) -> ExecutionResult:
    """The result of a stream that was read to its end.

    Raises:
        InvalidStateError: It was not.
    """
    if streaming.result is None:
        raise InvalidStateError("the stream has no result: it was not read to its end")
    return streaming.result


class ExecutionStream:
    """The events of one execution while it runs: `ExecutionOutput`, and `MetricsUpdated` of its sandbox.

    `async for event in sandbox.execute_stream(code)` starts it. Leaving the loop early, and cancellation, cancel the
    execution; with `async with`, or `aclose`, that is awaited. A slow reader holds the program up: it waits in a full
    pipe while its wall clock goes on.

    Raises:
        SandboxError: From the iteration, as `AsyncSandbox.execute`.
    """

    def __init__(self, caller: Caller, streaming: Streaming) -> None:
        self._caller = caller
        self._streaming = streaming
        self._over = False

    @property
    def result(self) -> ExecutionResult:
        """After the last event.

        Raises:
            InvalidStateError: Before.
        """
        return result_of(self._streaming)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        try:
            event: Event | None = await self._caller.call(self._streaming.next)
        except BaseException:
            await self.aclose()
            raise
        if event is None:
            self._over = True
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Cancel the execution, if it still runs, and wait for that."""
        if not self._over:
            self._over = True
            await self._caller.call(self._streaming.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._over:
            self._caller.run_soon(self._streaming.cancel)


class EventStream:
    """The events of a sandbox from now on, `Terminated` last. Who reads too slowly finds an `EventsLost` among them."""

    def __init__(self, caller: Caller, reader: EventReader) -> None:
        self._caller = caller
        self._reader = reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event: Event | None = await self._caller.call(self._reader.next)
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """No more of them."""
        self._caller.run_soon(self._reader.close)

    def __del__(self) -> None:
        self._caller.run_soon(self._reader.close)


class FileWatch:
    """Changes in a directory, as they happen; made by `AsyncSandbox.watch_files`.

    It begins with `async with watch`, else with the first step of the iteration, and ends, and the iteration with it,
    when the directory is removed or moved, and when the sandbox is terminated, reset or restarted. Cancelling a step
    loses no change.

    Raises:
        FileOperationError: There is no such directory; or changes were lost (EOVERFLOW); or there are more than 8,192
            directories to be watched (ENOSPC).
        UnsupportedHostError: A limit of this host on what a user may watch is reached; the remedy is in it.
        InvalidStateError: The sandbox is neither active nor suspended; or another task waits for a change.
    """

    def __init__(self, caller: Caller, watching: Watching) -> None:
        self._caller = caller
        self._watching = watching

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FileChange:
        change: FileChange | None = await self._caller.call(self._watching.next)
        if change is None:
            raise StopAsyncIteration
        return change

    async def aclose(self) -> None:
        """End the watch; an iteration that waits ends as well."""
        await self._caller.call(self._watching.aclose)

    async def __aenter__(self) -> Self:
        await self._caller.call(self._watching.start)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._caller.run_soon(self._watching.close)


class ProcessInput:
    """The program's stdin, or its terminal's keyboard; with the methods of a trio.abc.SendStream."""

    def __init__(self, caller: Caller, stream: Any) -> None:
        self._caller = caller
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it; waits while the pipe is full.

        Raises:
            trio.BrokenResourceError: The program has closed it, or has ended.
        """
        await self._caller.call(self._stream.send_all, data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self._caller.call(self._stream.wait_send_all_might_not_block)

    async def aclose(self) -> None:
        """Close it: on a pipe the program reads an end of file; on a terminal send Ctrl-D (byte 4) for that."""
        await self._caller.call(self._stream.aclose)


class ProcessOutput:
    """The program's stdout or stderr, or all that its terminal shows; with the methods of a trio.abc.ReceiveStream."""

    def __init__(self, caller: Caller, stream: Any) -> None:
        self._caller = caller
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What there is, as soon as there is something; b"": nothing more will come.

        Args:
            max_bytes: At most so many; None: some 64 KiB.
        """
        received: bytes = await self._caller.call(self._stream.receive_some, max_bytes)
        return received

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.receive_some()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Close it: a program that goes on writing gets SIGPIPE."""
        await self._caller.call(self._stream.aclose)


class Process:
    """An interactive program; made by `AsyncSandbox.spawn`. As `async with`, it is ended on the way out.

    Attributes:
        pid: Of its first process, as this process sees it; without cgroups, of the process that waits for it.
        stdin: A `ProcessInput`.
        stdout: A `ProcessOutput`.
        stderr: The same; None on a terminal, which shows both as one.
        execution_id: As in events and `executions`.
    """

    def __init__(self, caller: Caller, process: Interactive) -> None:
        self._caller = caller
        self._process = process
        self.pid = process.pid
        self.execution_id = process.execution_id
        self.stdin = ProcessInput(caller, process.stdin)
        self.stdout = ProcessOutput(caller, process.stdout)
        self.stderr = None if process.stderr is None else ProcessOutput(caller, process.stderr)

    def __repr__(self) -> str:
        state = "ended" if self._process.over else "running"
        return f"<{type(self).__name__} {self.execution_id}: {state}, pid {self.pid}>"

    async def wait(self) -> ExecutionResult:
        """Its result, when it and all that it has started are dead. What it wrote is in the streams, not in there.

        Cancellation leaves it running.

        Raises:
            NetworkError: The launcher or the sandbox's PID 1 died.
        """
        result: ExecutionResult = await self._caller.call(self._process.wait)
        return result

    async def send_signal(self, signal: int) -> None:
        """Send one to its first process; nothing happens when that has ended.

        Raises:
            ConfigError: No such signal.
        """
        await self._caller.call(self._process.send_signal, signal)

    async def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size; it gets SIGWINCH.

        Raises:
            ConfigError: No such size.
            InvalidStateError: It has no terminal.
        """
        await self._caller.call(self._process.resize, rows, columns)

    async def aclose(self) -> None:
        """End it and all that it has started, if it still runs, wait for that, and close the streams."""
        await self._caller.call(self._process.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()
