"""The frames of the control channel: what PID 1 makes of any bytes, and what the supervisor does.

control_probe.c runs native/control.c under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import random
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from nsbox import NetworkError
from nsbox._supervisor.control import FRAME_BYTES, Control, ControlWatcher

NATIVE = Path(__file__).parents[2] / "native"
ROUNDS = 20_000
MOST = 2**64 - 1

pytestmark = pytest.mark.needs_tool("cc")


@pytest.fixture(name="parse", scope="module")
def _parse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[bytes]], list[str]]:
    directory = tmp_path_factory.mktemp("control")
    program = directory / "control_probe"
    source = Path(__file__).with_name("control_probe.c")
    subprocess.run(
        ["cc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", "-I", NATIVE, "-o", program, source, NATIVE / "control.c"],
        check=True,
    )  # fmt: skip

    def parse(frames: list[bytes]) -> list[str]:
        file = directory / "frames"
        file.write_bytes(b"".join(struct.pack("=H", len(frame)) + frame for frame in frames))
        done = subprocess.run([program, file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(frames)
        return lines

    return parse


def pack(**fields: object) -> bytes:
    """A frame."""
    frame: bytes = msgpack.packb(fields)
    return frame


PING = pack(op="ping", n=7)
SOCKET = pack(op="socket", n=8, family=2, type=1)


def expected(frame: bytes) -> str | None:
    """What a general reader of msgpack makes of it: operation, number, family, type; None: no request."""
    try:
        found = msgpack.unpackb(frame, raw=True, object_pairs_hook=list)
    except Exception:  # noqa: BLE001  # msgpack's have no common base
        return None
    if not isinstance(found, list) or not all(isinstance(pair, tuple) for pair in found):
        return None
    fields: dict[Any, Any] = {}
    for key, value in found:
        if not isinstance(key, bytes) or key in fields:
            return None
        fields[key] = value
    numbers = [value for key, value in fields.items() if key != b"op"]
    if not all(type(number) is int and 0 <= number <= MOST for number in numbers):
        return None
    if set(fields) == {b"op", b"n"} and fields[b"op"] == b"ping":
        return f"1 {fields[b'n']} 0 0"
    if set(fields) == {b"op", b"n", b"family", b"type"} and fields[b"op"] == b"socket":
        family, kind = fields[b"family"], fields[b"type"]
        if family in (socket.AF_INET, socket.AF_INET6) and kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            return f"2 {fields[b'n']} {family} {kind}"
    return None


def mutated(source: random.Random) -> bytes:
    """A frame that was right once, or never."""
    kind = source.randrange(4)
    if kind == 0:
        return source.randbytes(source.randrange(64))
    frame = bytearray(source.choice([PING, SOCKET, pack(n=source.randrange(2**64), op="ping"), pack(op="socket", n=1)]))
    for _ in range(source.randrange(1, 4)):
        at = source.randrange(len(frame) + 1)
        action = source.randrange(4)
        if action == 0 and at < len(frame):
            frame[at] = source.randrange(256)
        elif action == 1:
            frame[at:at] = source.randbytes(source.randrange(1, 5))
        elif action == 2:
            del frame[at : at + source.randrange(1, 5)]
        elif at < len(frame):
            frame[at] ^= 1 << source.randrange(8)
    return bytes(frame)


def test_requests_are_read_and_answered(parse: Callable[[list[bytes]], list[str]]) -> None:
    """In any order of their fields, and numbers of any size; the answers are msgpack that Python reads."""
    frames = [PING, pack(n=MOST, op="ping"), pack(type=2, family=10, n=300, op="socket"), SOCKET]
    lines = [line.split() for line in parse(frames)]
    assert [" ".join(line[:4]) for line in lines] == ["1 7 0 0", f"1 {MOST} 0 0", "2 300 10 2", "2 8 2 1"]
    answers = [msgpack.unpackb(bytes.fromhex(line[4])) for line in lines]
    assert answers == [
        {"op": "pong", "n": 7}, {"op": "pong", "n": MOST}, {"op": "socket", "n": 300, "errno": 24},
        {"op": "socket", "n": 8, "errno": 24},
    ]  # fmt: skip
    assert max(len(line[4]) // 2 for line in lines) < FRAME_BYTES


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"\x80", PING[:-1], PING + b"\0", pack(op="ping"), pack(op="ping", n=-1), pack(op="ping", n=1.0),
        pack(op="ping", n=1, family=2), pack(op="pong", n=1), pack(op="socket", n=1, family=1, type=1),
        pack(op="socket", n=1, family=16, type=3), pack(op="socket", n=1, family=2, type=3),
        pack(op="socket", n=1, family=2, type=1 | 0x800), pack(op="socket", n=1, family=2 + 2**32, type=1),
        pack(op=[["ping"]], n=1), pack(op="ping", n={"n": 1}), b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x8f" * 500,
        b"\x82\xa2op\xa4ping\xa2op\xa4ping", b"\x82\xa1n\x01\xa1n\x01", b"\x84\xbf", b"\x82\xa2op\xdb\xff\xff\xff\xff",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(parse: Callable[[list[bytes]], list[str]], frame: bytes) -> None:
    """Too short, too long, double, foreign: also raw, packet and netlink sockets, and flags or bits beside the kind."""
    assert parse([frame, PING]) == ["-", parse([PING])[0]]


def test_any_bytes_at_all_do_no_harm_and_are_read_as_msgpack_says(parse: Callable[[list[bytes]], list[str]]) -> None:
    """20,000 frames, random and mutated: no sanitizer speaks, and what is accepted is what msgpack would read.

    The reader is stricter than msgpack (it knows no long form of strings and maps), never laxer.
    """
    source = random.Random(20)  # noqa: S311  # the same frames every time
    frames = [PING, SOCKET, *(mutated(source) for _ in range(ROUNDS))]
    accepted = 0
    for frame, line in zip(frames, parse(frames), strict=True):
        if line != "-":
            accepted += 1
            assert line.rpartition(" ")[0] == expected(frame), frame
    assert accepted > 100
    assert sum(expected(frame) is not None for frame in frames) >= accepted


async def answers(*frames: bytes) -> str:
    """What a ping of the supervisor's comes to when these frames come back for it, "" in them being its number."""
    watcher = ControlWatcher()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    control = Control(watcher)
    control.take(ours.detach())
    outcome = "answered"
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            for frame in frames:
                theirs.send(frame)
            try:
                await control.ping(0.5)
            except NetworkError as exc:
                outcome = str(exc)
            nursery.cancel_scope.cancel()
    control.close()
    watcher.close()
    return outcome


@pytest.mark.parametrize(
    "frame",
    [
        b"junk", b"\xc1", msgpack.packb([1]), msgpack.packb({"n": 1}), msgpack.packb({"op": "pong", "n": "1"}),
        msgpack.packb({"op": "pong", "n": 1, "more": 1}), msgpack.packb({"op": "pong", "n": 1, "x": b"x" * 500}),
        msgpack.packb({"op": "socket", "n": 1, "errno": 10**9}), msgpack.packb({"op": "socket", "n": 1, "errno": 0}),
        b"\x91" * 400, b"\xdf\xff\xff\xff\xff", msgpack.packb({1: 2}), msgpack.packb({"op": ["pong"], "n": 1}),
        bytes(FRAME_BYTES + 1),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_closes_the_channel(frame: bytes) -> None:
    """A PID 1 that talks nonsense is told apart from one that is silent, and nothing of it is believed."""
    assert "talks nonsense" in trio.run(answers, frame)


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    """A late answer does no harm, and the one behind it is heard."""
    assert trio.run(answers, msgpack.packb({"op": "pong", "n": 99}), msgpack.packb({"op": "pong", "n": 98})) == (
        "the sandbox's PID 1 did not answer within 0.5 s"
    )


def test_any_bytes_at_all_do_the_supervisor_no_harm() -> None:
    """2,000 random and mutated answers: each is an answer, or the channel is closed; nothing else is raised."""
    source = random.Random(21)  # noqa: S311

    async def feed() -> set[str]:
        found = set()
        watcher = ControlWatcher()
        for _ in range(2000):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            control = Control(watcher)
            reasons: list[NetworkError] = []
            control.on_closed = reasons.append
            control.take(ours.detach())
            theirs.send(mutated(source).replace(b"ping", b"pong") or b"\0")
            control._read()
            found.add("closed" if reasons else "open")
            assert control.open is not bool(reasons)
            control.close()
            theirs.close()
        watcher.close()
        return found

    assert trio.run(feed) == {"closed", "open"}
