"""Output as it is written: from bytes in a pipe to `ExecutionOutput` events, and to whoever iterates over them."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

import trio

from nsbox._core.emitter import Emitter
from nsbox._events import Event, ExecutionOutput

_MOST_WAITING = 1 << 20
"""Characters that a reader may be behind before the program has to wait."""
_EVENT_WEIGHT = 512
"""An event counts as so many characters more, which is about what it takes: a program may write single bytes."""


def _weight(event: Event) -> int:
    return len(event.content) + _EVENT_WEIGHT if isinstance(event, ExecutionOutput) else 0


class OutputQueue:
    """Events for one reader, who holds up the program when he is slow: nothing is lost, and memory is bounded."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._size = 0
        self._closed = False
        self._news = trio.Event()
        self._room = trio.Event()

    def put(self, event: Event) -> None:
        """Append; never waits."""
        self._events.append(event)
        self._size += _weight(event)
        self._news.set()

    def put_own(self, execution_id: str) -> Callable[[ExecutionOutput], None]:
        """What puts the output of one execution, and no other's."""

        def put(event: ExecutionOutput) -> None:
            if event.execution_id == execution_id:
                self.put(event)

        return put

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._news.set()

    def discard(self) -> None:
        """Nobody will read: the program need not wait for that."""
        self._size = -(1 << 62)
        self._room.set()

    async def get(self) -> Event | None:
        """The next one; None: there are no more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._events:
            if self._closed:
                return None
            self._news = trio.Event()
            await self._news.wait()
        event = self._events.popleft()
        self._size -= _weight(event)
        if self._size < _MOST_WAITING:
            self._room.set()
        return event

    async def wait_room(self) -> None:
        """Return when the reader has caught up."""
        while self._size >= _MOST_WAITING:
            self._room = trio.Event()
            await self._room.wait()


class OutputSink:
    """Makes events of what the pumps read.

    Args:
        emitter: Of the sandbox.
        execution_id: Whose output.
        queue: The reader that may hold it up, if there is one.
    """

    def __init__(self, emitter: Emitter, execution_id: str, queue: OutputQueue | None) -> None:
        self._emitter = emitter
        self._execution_id = execution_id
        self._queue = queue
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    @property
    def wanted(self) -> bool:
        """Whether somebody would hear of output now."""
        return self._emitter.wants(ExecutionOutput)

    def put(self, stream: str, data: memoryview) -> None:
        """As `Sink`."""
        if self.wanted:
            decoder = self._decoders.get(stream)
            if decoder is None:
                decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
            self._emit(stream, decoder.decode(data))

    async def wait_room(self) -> None:
        """As `Sink`."""
        if self._queue is not None:
            await self._queue.wait_room()

    def finish(self) -> None:
        """What is left of a character that never came whole."""
        for stream, decoder in self._decoders.items():
            self._emit(stream, decoder.decode(b"", final=True))

    def _emit(self, stream: str, content: str) -> None:
        if content:
            self._emitter.emit(ExecutionOutput, execution_id=self._execution_id, stream=stream, content=content)
