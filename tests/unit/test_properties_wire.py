"""What goes over the wire comes back, and any bytes at all are a record or a ValueError."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import pytest
from anything import ANYTHING, examples
from hypothesis import given
from hypothesis import strategies as st

from nsbox._cgroups import CgroupTree, Counter, CounterSlot, Hierarchy, Level, Write, counters
from nsbox._plan import ExecutionPlan, IdMap, Operation, OperationFlag, OperationKind, TemplatePlan
from nsbox._seccomp import CompiledPolicy
from nsbox._supervisor import control, wire

T = TypeVar("T")

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
BYTES = st.binary(max_size=12).map(lambda text: text.replace(b"\0", b"x"))
TEXT = BYTES.map(os.fsdecode)


class Reader:
    """Payloads by their description in native/payload.h: integers, and bytes with a length in front and NUL behind."""

    def __init__(self, payload: bytes) -> None:
        self.left = payload

    def take(self, size: int) -> bytes:
        """The next bytes."""
        assert len(self.left) >= size
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def u32(self) -> int:
        """A number."""
        return int(struct.unpack("=I", self.take(4))[0])

    def u64(self) -> int:
        """A larger one."""
        return int(struct.unpack("=Q", self.take(8))[0])

    def raw(self) -> bytes:
        """Bytes."""
        text = self.take(self.u32())
        assert self.take(1) == b"\0"
        return text

    def text(self) -> str:
        """Text."""
        return os.fsdecode(self.raw())

    def many(self, one: Callable[[], T]) -> tuple[T, ...]:
        """A count and so many of something."""
        return tuple(one() for _ in range(self.u32()))

    def write(self, level: Level) -> Write:
        """A value for a file; what level it is for is known by where it stands."""
        return Write(hierarchy=self.u32(), level=level, file=self.text(), value=self.text())

    def operation(self) -> Operation:
        """One step in building a root."""
        kind, flags, a, b = OperationKind(self.u32()), OperationFlag(self.u32()), self.u64(), self.u64()
        return Operation(kind, self.text(), self.text(), flags, a, b)


def writes(level: Level) -> st.SearchStrategy[tuple[Write, ...]]:
    """Of one level."""
    one = st.builds(Write, hierarchy=U32, level=st.just(level), file=TEXT, value=TEXT)
    return st.lists(one, max_size=3).map(tuple)


OPERATIONS = st.lists(
    st.builds(
        Operation, st.sampled_from(OperationKind), TEXT, TEXT, st.integers(0, 15).map(OperationFlag), U64, U64
    ),
    max_size=3,
).map(tuple)  # fmt: skip
TEMPLATES = st.builds(
    TemplatePlan,
    hierarchies=st.frozensets(st.integers(0, 15)), init_id=U32, spares=U32, hostname=TEXT,
    policy=st.builds(
        CompiledPolicy, name=TEXT, bpf=st.binary(max_size=40), instructions=st.just(0), notifies=st.booleans(),
        loads_early=st.booleans(),
    ),
    sandbox_writes=writes(Level.SANDBOX), execution_writes=writes(Level.EXECUTION), capabilities=U64,
    user_sysctls=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple), root_operations=OPERATIONS,
    cell_operations=OPERATIONS,
)  # fmt: skip
EXECUTIONS = st.builds(
    ExecutionPlan,
    wall_ns=U64, cpu_us=U64, cpu_rate_milli=U64, writes=writes(Level.EXECUTION), uid=U32, gid=U32,
    rlimits=st.lists(st.tuples(U32, U64, U64), max_size=3).map(tuple), capabilities=U64, directory=TEXT, search=TEXT,
    environment=st.lists(BYTES, max_size=3).map(tuple),
)  # fmt: skip


@examples(150)
@given(TEMPLATES)
def test_a_template_arrives_as_it_was_planned(plan: TemplatePlan) -> None:
    """Read by a reader of its own, to the last byte."""
    reader = Reader(wire.encode_template(plan))
    hierarchies = reader.u32()
    arrived = TemplatePlan(
        hierarchies=frozenset(index for index in range(32) if hierarchies >> index & 1),
        init_id=reader.u32(),
        spares=reader.u32(),
        policy=dataclasses.replace(plan.policy, notifies=bool(reader.u32()), loads_early=bool(reader.u32())),
        capabilities=reader.u64(),
        hostname=reader.text(),
        sandbox_writes=(),
        execution_writes=(),
        user_sysctls=(),
        root_operations=(),
        cell_operations=(),
    )
    assert reader.raw() == plan.policy.bpf
    arrived = dataclasses.replace(
        arrived,
        sandbox_writes=reader.many(lambda: reader.write(Level.SANDBOX)),
        execution_writes=reader.many(lambda: reader.write(Level.EXECUTION)),
        user_sysctls=reader.many(lambda: (reader.text(), reader.text())),
        root_operations=reader.many(reader.operation),
        cell_operations=reader.many(reader.operation),
    )
    assert arrived == plan
    assert reader.left == b""


@examples(150)
@given(EXECUTIONS, st.lists(BYTES, max_size=3).map(tuple))
def test_an_execution_arrives_as_it_was_planned(plan: ExecutionPlan, argv: tuple[bytes, ...]) -> None:
    """Arguments and environment byte by byte, also those that are no text."""
    reader = Reader(wire.encode_execution(plan, argv))
    arrived_argv: tuple[bytes, ...] = ()

    def command() -> str:
        nonlocal arrived_argv
        search = reader.text()
        arrived_argv = reader.many(reader.raw)
        return search

    arrived = ExecutionPlan(
        wall_ns=reader.u64(),
        cpu_us=reader.u64(),
        cpu_rate_milli=reader.u64(),
        uid=reader.u32(),
        gid=reader.u32(),
        writes=reader.many(lambda: reader.write(Level.EXECUTION)),
        rlimits=reader.many(lambda: (reader.u32(), reader.u64(), reader.u64())),
        capabilities=reader.u64(),
        directory=reader.text(),
        search=command(),
        environment=reader.many(reader.raw),
    )
    assert (arrived, arrived_argv) == (plan, argv)
    assert reader.left == b""


NAMES = st.sampled_from(["memory", "pids", "cpu,cpuacct", "blkio", "unified"])
FILES = st.frozensets(
    st.sampled_from(["cpu.stat", "memory.peak", "memory.events", "pids.peak", "pids.events", "memory.oom_control"])
)
HIERARCHIES = st.builds(
    Hierarchy, name=NAMES, path=TEXT.filter(lambda name: name not in ("", ".", "..") and "/" not in name).map(Path),
    version=st.sampled_from([1, 2]), controllers=st.frozensets(st.sampled_from(["memory", "pids", "cpu"])),
    per_execution=st.booleans(),
)  # fmt: skip


@examples(100)
@given(st.lists(st.tuples(HIERARCHIES, FILES), max_size=4), st.builds(IdMap, U32, U32, U32, U32), TEXT)
def test_the_first_message_arrives_as_it_was_meant(
    found: list[tuple[Hierarchy, frozenset[str]]], ids: IdMap, socket_name: str
) -> None:
    """Ids, hierarchies by the names of their directories, counters by their place, and the name of the socket."""
    tree = CgroupTree(
        mode="hybrid",
        hierarchies=tuple(one for one, _ in found),
        files=tuple(files for _, files in found),
        reasons={},
        allowed_cpus=frozenset({0}),
    )
    reader = Reader(wire.encode_setup(tree, ids, socket_name))
    assert IdMap(reader.u32(), reader.u32(), reader.u32(), reader.u32()) == ids
    expected = [
        (one.version, one.per_execution, one.version == 2 and bool(one.controllers), one.path.name)
        for one in tree.hierarchies
    ]
    assert list(reader.many(lambda: (reader.u32(), reader.u32(), reader.u32(), reader.text()))) == expected

    def counter() -> Counter:
        slot, hierarchy, of_execution = reader.u32(), reader.u32(), reader.u32()
        level = Level.EXECUTION if of_execution else Level.SANDBOX
        return Counter(slot=CounterSlot(slot), hierarchy=hierarchy, level=level, file=reader.text(), key=reader.text())

    assert list(reader.many(counter)) == list(counters(tree))
    assert reader.text() == socket_name
    assert reader.left == b""


RECORDS = st.tuples(
    st.sampled_from([int(one) for one in wire.Up]), U32, U32, st.sampled_from([int(one) for one in wire.Stage]), I32,
    I32, U32, I32, U32, I32, *[U64] * 29,
)  # fmt: skip


@examples(150)
@given(RECORDS)
def test_a_record_is_read_as_it_was_written(values: tuple[int, ...]) -> None:
    """Each number into its own field."""
    record = wire.decode(wire.UP.pack(*values))
    read: list[int] = []
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        read += value if isinstance(value, tuple) else [value]
    assert read == list(values)


@examples(300)
@given(st.one_of(st.binary(max_size=400), st.binary(min_size=wire.UP.size, max_size=wire.UP.size)))
def test_any_bytes_are_a_record_or_a_value_error(packet: bytes) -> None:
    """Whatever their number."""
    try:
        record = wire.decode(packet)
    except ValueError:
        return
    assert len(packet) == wire.UP.size
    assert record.type in wire.Up
    assert record.stage in wire.Stage


def _packed(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError):
        return b"\xc1"
    return packed


FRAMES = st.one_of(
    st.binary(max_size=64),
    st.binary(min_size=500, max_size=600),
    st.dictionaries(st.sampled_from(["op", "n", "errno", "x", 1]), ANYTHING, max_size=4).map(_packed),
    st.builds(lambda number: _packed({"op": "pong", "n": number}), U64),
    st.builds(lambda number, code: _packed({"op": "socket", "n": number, "errno": code}), U64, st.integers(-1, 5000)),
)


@examples(400)
@given(FRAMES)
def test_any_frame_of_pid_1_is_an_answer_or_a_value_error(frame: bytes) -> None:
    """And an answer is one of the two kinds, with numbers in it and nothing else."""
    try:
        answer: dict[str, Any] = control._decode(frame)
    except ValueError:
        return
    assert len(frame) <= control.FRAME_BYTES
    assert type(answer["n"]) is int
    assert answer["op"] in ("pong", "socket")
    assert set(answer) == ({"op", "n"} if answer["op"] == "pong" else {"op", "n", "errno"})
    assert 0 <= answer.get("errno", 0) <= 4095
