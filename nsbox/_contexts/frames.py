"""What the program of a context says: frames of msgpack, each with its length ahead.

All of it is the program's to forge. A frame is one flat array of scalars, text and bytes: no maps, no arrays inside, no
extension types, so that what it becomes here is never much larger than what was read. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgpack

from nsbox._outputs import CodeError

_HEADER = 4
_MOST_ITEMS = 256
_OVERHEAD = 256 * 1024
"""Bytes of a frame beside a bundle of the largest size: its MIME types, and the report of an error."""
_COST = 256
"""What an output counts beside its payload: a million empty ones are no less a flood."""
_MOST_TEXT = 64 * 1024
"""Characters of a traceback; the rest of a longer one is cut out of its middle."""
_STATUSES = range(256)


class FrameError(ValueError):
    """The program said what no agent says: its context cannot go on."""


@dataclass(frozen=True, slots=True)
class Ready:
    """It waits for its first cell."""


@dataclass(frozen=True, slots=True)
class Output:
    """Something is displayed; the program waits for the answer."""

    cell: int
    is_main_result: bool
    data: Mapping[str, str | bytes]

    @property
    def size(self) -> int:
        """What it counts against the output limit."""
        return _COST + sum(len(name) + len(payload) for name, payload in self.data.items())


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something was displayed that is larger than a frame may be."""

    cell: int
    size: int


@dataclass(frozen=True, slots=True)
class Done:
    """A cell has ended; by what the program says."""

    cell: int
    status: int
    error: CodeError | None


@dataclass(frozen=True, slots=True)
class Forked:
    """The answer to the wish for a fork; `refusal`: why there is none."""

    refusal: str | None


Frame = Ready | Output | Dropped | Done | Forked


class FrameReader:
    """Makes frames of bytes as they come; never holds more than one.

    Args:
        largest: Bytes that a bundle may have.
    """

    def __init__(self, largest: int) -> None:
        self._buffer = bytearray()
        self.largest = largest
        self._most = largest + _OVERHEAD

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most: never beyond the end of a frame."""
        have = len(self._buffer)
        if have < _HEADER:
            return _HEADER - have
        return _HEADER + self._length() - have

    def _length(self) -> int:
        return int.from_bytes(self._buffer[:_HEADER], "little")

    def feed(self, data: bytes) -> Frame | None:
        """Take what was read, at most `wanted` bytes.

        Returns:
            A frame, when it is whole.

        Raises:
            FrameError: That is none.
        """
        self._buffer += data
        if len(self._buffer) < _HEADER:
            return None
        length = self._length()
        if not 0 < length <= self._most:
            raise FrameError(f"a frame of {length} bytes, at most {self._most} may be")
        if len(self._buffer) < _HEADER + length:
            return None
        body, self._buffer = bytes(self._buffer[_HEADER:]), bytearray()
        return _frame(_unpack(body))


def _unpack(body: bytes) -> list[object]:
    def refuse(_: object) -> object:
        raise FrameError("a frame that is nested")

    seen = 0

    def count(items: list[object]) -> list[object]:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise FrameError("a frame that is nested")
        return items

    try:
        found = msgpack.unpackb(
            body, raw=False, strict_map_key=True, object_hook=refuse, list_hook=count, max_array_len=_MOST_ITEMS,
            max_map_len=0, max_ext_len=0, max_str_len=len(body), max_bin_len=len(body),
        )  # fmt: skip
    except FrameError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError, MemoryError, OverflowError) as exc:
        raise FrameError(f"a frame that is not msgpack: {type(exc).__name__}") from None
    if not isinstance(found, list):
        raise FrameError("a frame that is no array")
    return found


def _frame(items: list[object]) -> Frame:
    match items:
        case ["ready"]:
            return Ready()
        case ["output", int(cell), bool(main), *rest]:
            return Output(cell, main, dict(_bundle(rest)))
        case ["dropped", int(cell), int(size)] if size >= 0:
            return Dropped(cell, size)
        case ["done", int(cell), int(status)] if status in _STATUSES:
            return Done(cell, status, None)
        case ["done", int(cell), int(status), str(name), str(value), str(traceback)] if status in _STATUSES:
            return Done(cell, status, CodeError(name=_cut(name), value=_cut(value), traceback=_cut(traceback)))
        case ["forked"]:
            return Forked(None)
        case ["forked", str(refusal)]:
            return Forked(_cut(refusal))
    raise FrameError("a frame of no kind")


def _bundle(items: list[object]) -> Iterator[tuple[str, str | bytes]]:
    if len(items) % 2 or not items:
        raise FrameError("an output without a payload")
    for name, payload in zip(items[::2], items[1::2], strict=True):
        if not isinstance(name, str) or not isinstance(payload, str | bytes):
            raise FrameError("an output that is neither text nor bytes")
        yield name, payload


def _cut(text: str) -> str:
    half = _MOST_TEXT // 2
    return text if len(text) <= _MOST_TEXT else f"{text[:half]}\n[...]\n{text[-half:]}"


def pack(*items: str | bytes | int | None) -> bytes:
    """A frame for the program."""
    body: bytes = msgpack.packb(items, use_bin_type=True, unicode_errors="surrogateescape")
    return len(body).to_bytes(_HEADER, "little") + body
