"""What `Sandbox` hands out: those of `_handles` for blocking code, where everything is told."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from nsbox._core.emitter import EventReader
from nsbox._core.interactive import Interactive
from nsbox._core.streaming import Streaming
from nsbox._core.watching import Watching
from nsbox._documented import documented_by
from nsbox._events import Event
from nsbox._handles import (
    EventStream,
    ExecutionStream,
    FileWatch,
    Process,
    ProcessInput,
    ProcessOutput,
    result_of,
)
from nsbox._records import FileChange
from nsbox._results import ExecutionResult
from nsbox._supervisor.portal import Portal


@documented_by(ExecutionStream)
class BlockingExecutionStream:
    """See `ExecutionStream`; a plain iterator."""

    def __init__(self, portal: Portal, streaming: Streaming) -> None:
        self._portal = portal
        self._streaming = streaming
        self._over = False

    @property
    def result(self) -> ExecutionResult:
        """See `ExecutionStream.result`."""
        return result_of(self._streaming)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._over:
            raise StopIteration
        try:
            event: Event | None = self._portal.call(self._streaming.next)
        except BaseException:
            self.close()
            raise
        if event is None:
            self._over = True
            raise StopIteration
        return event

    def close(self) -> None:
        """See `ExecutionStream.aclose`."""
        if not self._over:
            self._over = True
            self._portal.call(self._streaming.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self._portal.run_soon(self._streaming.cancel)


@documented_by(EventStream)
class BlockingEventStream:
    """See `EventStream`; a plain iterator."""

    def __init__(self, portal: Portal, reader: EventReader) -> None:
        self._portal = portal
        self._reader = reader

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event: Event | None = self._portal.call(self._reader.next)
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """See `EventStream.aclose`."""
        self._portal.run_soon(self._reader.close)

    def __del__(self) -> None:
        self._portal.run_soon(self._reader.close)


@documented_by(FileWatch)
class BlockingFileWatch:
    """See `FileWatch`; a plain iterator, which begins with `with`, else with the first step."""

    def __init__(self, portal: Portal, watching: Watching) -> None:
        self._portal = portal
        self._watching = watching

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FileChange:
        change: FileChange | None = self._portal.call(self._watching.next)
        if change is None:
            raise StopIteration
        return change

    def close(self) -> None:
        """See `FileWatch.aclose`; from any thread."""
        self._portal.call(self._watching.aclose)

    def __enter__(self) -> Self:
        self._portal.call(self._watching.start)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._portal.run_soon(self._watching.close)


@documented_by(ProcessInput)
class BlockingProcessInput:
    """See `ProcessInput`."""

    def __init__(self, portal: Portal, stream: Any) -> None:
        self._portal = portal
        self._stream = stream

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `ProcessInput.send_all`."""
        self._portal.call(self._stream.send_all, data)

    def close(self) -> None:
        """See `ProcessInput.aclose`."""
        self._portal.call(self._stream.aclose)


@documented_by(ProcessOutput)
class BlockingProcessOutput:
    """See `ProcessOutput`."""

    def __init__(self, portal: Portal, stream: Any) -> None:
        self._portal = portal
        self._stream = stream

    def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `ProcessOutput.receive_some`."""
        received: bytes = self._portal.call(self._stream.receive_some, max_bytes)
        return received

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        data = self.receive_some()
        if not data:
            raise StopIteration
        return data

    def close(self) -> None:
        """See `ProcessOutput.aclose`."""
        self._portal.call(self._stream.aclose)


@documented_by(Process)
class BlockingProcess:
    """See `Process`; as `with`, it is ended on the way out."""

    def __init__(self, portal: Portal, process: Interactive) -> None:
        self._portal = portal
        self._process = process
        self.pid = process.pid
        self.execution_id = process.execution_id
        self.stdin = BlockingProcessInput(portal, process.stdin)
        self.stdout = BlockingProcessOutput(portal, process.stdout)
        self.stderr = None if process.stderr is None else BlockingProcessOutput(portal, process.stderr)

    def __repr__(self) -> str:
        state = "ended" if self._process.over else "running"
        return f"<{type(self).__name__} {self.execution_id}: {state}, pid {self.pid}>"

    def wait(self) -> ExecutionResult:
        """See `Process.wait`."""
        result: ExecutionResult = self._portal.call(self._process.wait)
        return result

    def send_signal(self, signal: int) -> None:
        """See `Process.send_signal`."""
        self._portal.call(self._process.send_signal, signal)

    def resize(self, rows: int, columns: int) -> None:
        """See `Process.resize`."""
        self._portal.call(self._process.resize, rows, columns)

    def close(self) -> None:
        """See `Process.aclose`."""
        self._portal.call(self._process.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
