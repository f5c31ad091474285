"""What the program of a context says is parsed with bounds: every byte of it is hostile."""

import random
import tracemalloc

import msgpack
import pytest

from nsbox._contexts import frames
from nsbox._contexts.frames import Done, Dropped, Forked, Frame, FrameError, FrameReader, Output, Ready
from nsbox._contexts.languages import LANGUAGES, Cell, find_language
from nsbox._errors import ConfigError
from nsbox._outputs import CodeError

LARGEST = 1 << 20


def framed(body: bytes) -> bytes:
    """With its length ahead."""
    return len(body).to_bytes(4, "little") + body


def read(data: bytes, reader: FrameReader | None = None) -> list[Frame]:
    """All frames in some bytes, which come in pieces as `wanted` has it."""
    reader = reader or FrameReader(LARGEST)
    found = []
    while data:
        piece, data = data[: reader.wanted], data[reader.wanted :]
        frame = reader.feed(piece)
        if frame is not None:
            found.append(frame)
    return found


@pytest.mark.parametrize(
    ("items", "frame"),
    [
        (["ready"], Ready()),
        (["output", 7, True, "text/plain", "x", "image/png", b"\x00\xff"],
         Output(7, True, {"text/plain": "x", "image/png": b"\x00\xff"})),
        (["dropped", 7, 1 << 40], Dropped(7, 1 << 40)),
        (["done", 7, 0], Done(7, 0, None)),
        (["done", 7, 1, "E", "v", "t"], Done(7, 1, CodeError(name="E", value="v", traceback="t"))),
        (["forked"], Forked(None)),
        (["forked", "no"], Forked("no")),
    ],
)  # fmt: skip
def test_each_kind_of_frame_is_read(items: list[object], frame: Frame) -> None:
    """Whole, byte by byte, and one behind the other."""
    data = framed(msgpack.packb(items))
    assert read(data) == [frame]
    assert read(data * 3) == [frame] * 3
    reader = FrameReader(LARGEST)
    assert [found for byte in data if (found := reader.feed(bytes([byte]))) is not None] == [frame]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\x91\xa5ready\x00",
        msgpack.packb("ready"),
        msgpack.packb({"ready": 1}),
        msgpack.packb([["ready"]]),
        msgpack.packb(["output", 1, True, "text/plain", ["x"]]),
        msgpack.packb(["output", 1, True, "text/plain", {}]),
        msgpack.packb(["output", 1, True, "text/plain", 5]),
        msgpack.packb(["output", 1, True, b"text/plain", "x"]),
        msgpack.packb(["output", 1, True, "text/plain"]),
        msgpack.packb(["output", 1, True]),
        msgpack.packb(["output", "1", True, "text/plain", "x"]),
        msgpack.packb(["output", 1, 1, "text/plain", "x"]),
        msgpack.packb(["dropped", 1, -1]),
        msgpack.packb(["done", 1, 256]),
        msgpack.packb(["done", 1, -1]),
        msgpack.packb(["done", 1, 0.0]),
        msgpack.packb(["done", 1, 1, "E", "v"]),
        msgpack.packb(["done", 1, 1, "E", "v", b"t"]),
        msgpack.packb(["unknown"]),
        msgpack.packb([]),
        msgpack.packb([msgpack.ExtType(5, b"x")]),
        b"\x91\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x91\xa2\xff\xfe",  # not UTF-8
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81" * 100_000,
    ],
)
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    """FrameError, and nothing else."""
    with pytest.raises(FrameError):
        read(framed(body))


def test_the_length_is_bounded_before_anything_is_read() -> None:
    """Of the header only: what an output may have, and some for what is around it."""
    reader = FrameReader(LARGEST)
    with pytest.raises(FrameError, match="bytes"):
        reader.feed((LARGEST + (1 << 20)).to_bytes(4, "little"))
    with pytest.raises(FrameError):
        FrameReader(LARGEST).feed(bytes(4))
    largest = framed(msgpack.packb(["output", 1, False, "text/plain", "x" * LARGEST]))
    (frame,) = read(largest)
    assert isinstance(frame, Output)
    assert frame.size > LARGEST


def test_nested_arrays_do_not_become_large() -> None:
    """A frame of a mebibyte of empty arrays costs no multiple of it."""
    bodies = [
        b"\xdc\x01\x00" + b"\x90" * (1 << 20),
        b"\xdd\x00\x01\x00\x00" + b"\x90" * (1 << 20),
        b"\xdc\x01\x00" * (1 << 16),
        b"\x9f" * (1 << 20),
    ]
    for body in bodies:
        data = framed(body)
        tracemalloc.start()
        with pytest.raises(FrameError):
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


def test_no_bytes_at_all_raise_anything_else() -> None:
    """Random frames, and frames with a few bytes changed."""
    chance = random.Random(7)  # noqa: S311  # the same bytes each time
    good = [
        msgpack.packb(["output", 7, True, "text/plain", "x", "image/png", b"\x00"]),
        msgpack.packb(["done", 7, 1, "E", "v", "t"]),
    ]
    for number in range(5000):
        if number % 2:
            body = bytearray(chance.choice(good))
            for _ in range(chance.randrange(1, 4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
        else:
            body = bytearray(chance.randbytes(chance.randrange(1, 60)))
        try:
            read(framed(bytes(body)))
        except FrameError:
            continue


def test_long_reports_are_cut_in_their_middle() -> None:
    """A traceback of megabytes is the program's wish, not the caller's."""
    (frame,) = read(framed(msgpack.packb(["done", 1, 1, "E", "v", "a" * 100_000 + "b" * 100_000])))
    assert isinstance(frame, Done)
    assert frame.error is not None
    assert len(frame.error.traceback) < 70_000
    assert frame.error.traceback.startswith("aaa")
    assert frame.error.traceback.endswith("bbb")


def test_requests_carry_what_a_cell_needs() -> None:
    """As a frame, or for bash as words that it quotes itself."""
    cell = Cell(number=1 << 31, source="/s", stdin=None, directory="/d", environment={"A": "it's\udcff"})
    packed = LANGUAGES["python"].request(cell)
    assert packed[:4] == (len(packed) - 4).to_bytes(4, "little")
    unpacked = msgpack.unpackb(packed[4:], unicode_errors="surrogateescape")
    assert unpacked == ["run", 1 << 31, "/s", None, "/d", "A", "it's\udcff"]
    line = LANGUAGES["bash"].request(cell)
    assert line.endswith(b"\0")
    assert line.count(b"\0") == 1
    assert b"'A=it'\"'\"'s\xff'" in line
    assert frames.pack("fork") == framed(b"\x91\xa4fork")


def test_a_language_without_contexts_is_refused() -> None:
    """ConfigError with the names of those that have some."""
    with pytest.raises(ConfigError, match="python, javascript, bash"):
        find_language("rust")
    with pytest.raises(ConfigError):
        find_language(["python"])  # type: ignore[arg-type]
