"""The layout of what goes to the launcher and comes back; native/wire.h is the same, and a test compares the two."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from nsbox._cgroups import CgroupTree, Level, Write, counters
from nsbox._plan import ExecutionPlan, IdMap, Operation, TemplatePlan

VERSION: Final = 1
INLINE_PAYLOAD: Final = 96 * 1024
CREATE_AHEAD: Final = 1
EXEC_TELL_START: Final = 1
EXEC_TERMINAL: Final = 2
EXEC_WARM: Final = 4
EXEC_COLD: Final = 8
REASON_LOST: Final = 7  # beside the values of KillReason: PID 1 died, and all with it; no verdict comes of that
_PLANS_KEPT: Final = 64
UNKNOWN: Final = 2**64 - 1  # a counter that this host does not have


class Down(IntEnum):
    """What the supervisor asks for."""

    SETUP = 1
    TEMPLATE = 2
    FORGET = 3
    CREATE = 4
    DESTROY = 5
    EXEC = 6
    KILL = 7
    FREEZE = 8
    THAW = 9
    RESTART = 10
    CONNECT = 11
    NETWORK = 12
    WARM = 20
    COOL = 21
    TURN = 30
    TURN_END = 31
    INTERRUPT = 32


class Up(IntEnum):
    """What the launcher says."""

    HELLO = 1
    DONE = 2
    FAILED = 3
    EXITED = 4
    LOST = 5
    STARTED = 6


class Stage(IntEnum):
    """The step that failed."""

    NONE = 0
    PROTOCOL = 1
    LAUNCHER = 2
    ROOT = 3
    CGROUP = 4
    LIMIT = 5
    CLONE = 6
    JOIN_CGROUP = 7
    NAMESPACE = 8
    NETWORK = 9
    MOUNT = 10
    PIVOT = 11
    ID_MAP = 12
    SYSCTL = 13
    CREDENTIALS = 14
    STDIO = 15
    RLIMIT = 16
    DIRECTORY = 17
    FILTER = 18
    EXEC = 19
    FREEZE = 20
    DIED = 21
    CONNECT = 22
    WARM = 30

    @property
    def label(self) -> str:
        """As `SetupError.stage` has it: "join-cgroup"."""
        return self.name.lower().replace("_", "-")


DOWN = struct.Struct("=IIIIQ")
UP = struct.Struct("=IIIIii IiIi 6Q 7Q 16Q")


@dataclass(slots=True)  # not frozen: three of them an execution, each of which would take twice as long to make
class Record:
    """What the launcher said, `struct up`."""

    type: Up
    of: int
    id: int
    stage: Stage
    error: int
    index: int
    reason: int
    wait_status: int
    violation_arch: int
    violation_number: int
    violation_args: tuple[int, ...]
    wall_ns: int
    suspended_ns: int
    user_us: int
    system_us: int
    max_rss_bytes: int
    read_bytes: int
    written_bytes: int
    counters: tuple[int, ...]


def decode(packet: bytes) -> Record:
    """The record in a packet.

    Raises:
        ValueError: It is none.
    """
    if len(packet) != UP.size:
        raise ValueError(f"a record of {len(packet)} bytes, expected {UP.size}")
    values = UP.unpack(packet)
    return Record(
        Up(values[0]), values[1], values[2], Stage(values[3]), values[4], values[5], values[6], values[7], values[8],
        values[9], values[10:16], values[16], values[17], values[18], values[19], values[20], values[21], values[22],
        values[23:39],
    )  # fmt: skip


class Payload:
    """Collects integers and NUL-ended strings, as native/payload.c reads them."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u32(self, value: int) -> None:
        self._parts.append(value.to_bytes(4, "little"))

    def u64(self, value: int) -> None:
        self._parts.append(value.to_bytes(8, "little"))

    def raw(self, value: bytes) -> None:
        self._parts += (len(value).to_bytes(4, "little"), value, b"\0")

    def text(self, value: str) -> None:
        self.raw(value.encode("utf-8", "surrogateescape"))

    def texts(self, values: tuple[bytes, ...]) -> None:
        self.u32(len(values))
        for value in values:
            self.raw(value)

    def writes(self, writes: Iterable[Write]) -> None:
        items = tuple(writes)
        self.u32(len(items))
        for write in items:
            self.u32(write.hierarchy)
            self.text(write.file)
            self.text(write.value)

    def operations(self, operations: tuple[Operation, ...]) -> None:
        self.u32(len(operations))
        for one in operations:
            self.u32(one.kind)
            self.u32(one.flags)
            self.u64(one.a)
            self.u64(one.b)
            self.text(one.path)
            self.text(one.arg)

    def join(self) -> bytes:
        return b"".join(self._parts)


def encode_setup(tree: CgroupTree, ids: IdMap, socket_name: str) -> bytes:
    """The payload of `Down.SETUP`: ids, hierarchies, counters, the socket to remove at the end ("": none)."""
    payload = Payload()
    for value in (ids.inside, ids.outside, ids.count, ids.ranges):
        payload.u32(value)
    payload.u32(len(tree.hierarchies))
    for hierarchy in tree.hierarchies:
        payload.u32(hierarchy.version)
        payload.u32(hierarchy.per_execution)
        payload.u32(hierarchy.version == 2 and bool(hierarchy.controllers))  # PID 1 in a leaf of its own
        payload.text(hierarchy.path.name)
    wanted = counters(tree)
    payload.u32(len(wanted))
    for counter in wanted:
        payload.u32(counter.slot)
        payload.u32(counter.hierarchy)
        payload.u32(counter.level is Level.EXECUTION)
        payload.text(counter.file)
        payload.text(counter.key)
    payload.text(socket_name)
    return payload.join()


def encode_template(plan: TemplatePlan) -> bytes:
    """The payload of `Down.TEMPLATE`."""
    payload = Payload()
    payload.u32(sum(1 << index for index in plan.hierarchies))
    payload.u32(plan.init_id)
    payload.u32(plan.spares)
    payload.u32(plan.policy.notifies)
    payload.u32(plan.policy.loads_early)
    payload.u64(plan.capabilities)
    payload.text(plan.hostname)
    payload.raw(plan.policy.bpf)
    payload.writes(plan.sandbox_writes)
    payload.writes(plan.execution_writes)
    payload.u32(len(plan.user_sysctls))
    for name, value in plan.user_sysctls:
        payload.text(name)
        payload.text(value)
    payload.operations(plan.root_operations)
    payload.operations(plan.cell_operations)
    return payload.join()


def encode_execution(plan: ExecutionPlan, argv: tuple[bytes, ...]) -> bytes:
    """The payload of `Down.EXEC`: the launcher's part, then the child's."""
    before, behind = _encode_plan(plan)
    payload = Payload()
    payload.texts(argv)
    return b"".join((before, payload.join(), behind))


@lru_cache(maxsize=_PLANS_KEPT)
def _encode_plan(plan: ExecutionPlan) -> tuple[bytes, bytes]:
    """What is before and what is behind the command."""
    payload = Payload()
    payload.u64(plan.wall_ns)
    payload.u64(plan.cpu_us)
    payload.u64(plan.cpu_rate_milli)
    payload.u32(plan.uid)
    payload.u32(plan.gid)
    payload.writes(plan.writes)
    payload.u32(len(plan.rlimits))
    for number, soft, hard in plan.rlimits:
        payload.u32(number)
        payload.u64(soft)
        payload.u64(hard)
    payload.u64(plan.capabilities)
    payload.text(plan.directory)
    payload.text(plan.search)
    environment = Payload()
    environment.texts(plan.environment)
    return payload.join(), environment.join()
