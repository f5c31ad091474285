"""What the fuzzers start from: what nsbox itself sends, and whole lives of sandboxes in the steps of channel.c.

`python tests/fuzz/seeds.py [DIRECTORY]` writes them, to tests/fuzz/corpus by default; a test holds the two equal.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from nsbox._cgroups import CgroupTree, Hierarchy, Level, Write
from nsbox._plan import ExecutionPlan, Operation, OperationFlag, OperationKind, TemplatePlan
from nsbox._plan.identity import INIT_ID, ROOT_MAP
from nsbox._seccomp import CompiledPolicy
from nsbox._supervisor import wire
from nsbox._supervisor.control import FRAME_BYTES, Control, ControlWatcher

CORPUS = Path(__file__).with_name("corpus")

TREE = CgroupTree(
    mode="hybrid",
    hierarchies=(
        Hierarchy(name="unified", path=Path("/v2/b"), version=2, controllers=frozenset(), per_execution=True),
        Hierarchy(name="pids", path=Path("/pids/b"), version=1, controllers=frozenset({"pids"}), per_execution=True),
    ),
    files=(
        frozenset({"cgroup.kill", "cgroup.freeze", "cpu.stat"}),
        frozenset({"pids.max", "pids.peak", "pids.events"}),
    ),
    reasons={},
    allowed_cpus=frozenset({0, 1}),
)
ALLOW = CompiledPolicy(name="allow", bpf=struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), instructions=1, notifies=True)
TEMPLATE = TemplatePlan(
    hierarchies=frozenset({0, 1}),
    init_id=INIT_ID,
    spares=1,
    hostname="sandbox",
    policy=ALLOW,
    sandbox_writes=(Write(hierarchy=1, level=Level.SANDBOX, file="pids.max", value="64"),),
    execution_writes=(Write(hierarchy=1, level=Level.EXECUTION, file="pids.max", value="32"),),
    capabilities=0,
    user_sysctls=(("user/max_user_namespaces", "0"),),
    root_operations=(
        Operation(OperationKind.DIR, "/usr", a=0o755),
        Operation(OperationKind.BIND, "/usr", "/usr", OperationFlag.NONE, 7, 9),
        Operation(OperationKind.SYMLINK, "/bin", "usr/bin"),
    ),
    cell_operations=(Operation(OperationKind.PROC, "/proc"), Operation(OperationKind.QUOTA_TMPFS, "/run/quota", a=1)),
)
EXECUTION = ExecutionPlan(
    wall_ns=10**9,
    cpu_us=10**6,
    cpu_rate_milli=1000,
    writes=(Write(hierarchy=0, level=Level.EXECUTION, file="memory.max", value="1048576"),),
    uid=1000,
    gid=1000,
    rlimits=((7, 256, 256), (4, 0, 0)),
    capabilities=0,
    directory="/workspace",
    search="/usr/bin:/bin",
    environment=(b"PATH=/usr/bin:/bin", b"LANG=C.UTF-8"),
)
COMMAND = (b"sort", b"-r", b"")


def control_frames() -> Mapping[str, bytes]:
    """What `Control` sends."""
    found = {}
    requests: Mapping[str, dict[str, object]] = {
        "ping": {"op": "ping"},
        "tcp": {"op": "socket", "family": int(socket.AF_INET), "type": int(socket.SOCK_STREAM)},
        "udp6": {"op": "socket", "family": int(socket.AF_INET6), "type": int(socket.SOCK_DGRAM)},
    }
    watcher = ControlWatcher()
    control = Control(watcher)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    control.take(ours.detach())
    with theirs:
        for name, request in requests.items():
            control.ask(lambda *_: None, **request)
            found[name] = theirs.recv(FRAME_BYTES)
    control.close()
    watcher.close()
    return found


def payloads() -> Mapping[str, bytes]:
    """For payload.c: the way, the number of reads, what each reads, the payload."""
    written = wire.Payload()
    written.u32(7)
    written.u64(2**40)
    written.text("memory.max")
    written.raw(b"\0\1\0")
    written.texts((b"a", b"", b"bc"))
    reads = bytes((0, 1, 2, 3, 4 + 5 * 4, 2, 2, 2))  # the count of items that take at least 5 bytes
    return {
        name: bytes((way, len(reads))) + reads + written.join()
        for way, name in enumerate(("exact", "inline", "memfd"))
    }  # fmt: skip


def setups() -> Mapping[str, bytes]:
    """For setup.c: the number of descriptors, whether the size is true, the message."""
    found = {}
    for name, socket_name, fds in (("plain", "", 5), ("answers", "nsbox-1-00000000", 6)):
        payload = wire.encode_setup(TREE, ROOT_MAP, socket_name)
        down = wire.DOWN.pack(wire.Down.SETUP, wire.VERSION, 0, 0, len(payload))
        found[name] = bytes((fds, 1)) + down + payload
    return found


def orders() -> Mapping[str, bytes]:
    """For order.c: flags, what execve says, the payload."""
    payload = wire.encode_execution(EXECUTION, COMMAND)
    return {name: bytes((flags,)) + bytes(15) + payload for name, flags in (("inline", 0), ("memfd", 4), ("warm", 10))}


ASK, CHILD, INTERPRETER, _, RAW_SUPERVISOR, END, KERNEL, TIME, CLOSE = range(9)
MAP_ME, READY, _, LISTENER, _, EXECS = range(1, 7)  # enum child_word
WARM_READY, WARM_BORN = range(1, 3)  # enum warm_word
LARGE = 0x40


def ask(kind: wire.Down, id: int = 0, parent: int = 0, flags: int = 0, fds: int = 0, payload: bytes = b"") -> bytes:
    """A step: a message of the supervisor's."""
    return bytes((ASK, kind, id, parent, flags, fds)) + struct.pack("<H", len(payload)) + payload


def child(end: int, word: int, fds: int = 0, stage: int = 0, status: int = 0) -> bytes:
    """A step: a word of PID 1, or of a process that is to become a program."""
    return bytes((CHILD, end, word, stage, status, fds))


def interpreter(end: int, word: int, age: int = 0, fds: int = 0) -> bytes:
    """A step: a word of the warm interpreter's about the newest execution but `age`."""
    return bytes((INTERPRETER, end, word, age, 0, fds))


def kernel(text: bytes, refusals: int = 0) -> bytes:
    """A step: which system calls fail from here on, and what files of the kernel's hold."""
    return bytes((KERNEL, refusals, len(text))) + text


def lives() -> Mapping[str, bytes]:
    """For channel.c. The ends of socket pairs: PID 1's words are 0, its control channel is 1, what is parked is 2."""
    execution = wire.encode_execution(dataclasses.replace(EXECUTION, writes=()), COMMAND)
    turn = wire.Payload()
    for value in (10**9, 10**6, 10**9):
        turn.u64(value)
    words = wire.Payload()
    words.texts((b"/usr/bin/python3", b"-c", b"pass"))
    words.texts((b"LANG=C.UTF-8",))
    born = ask(wire.Down.CREATE, 7, 1) + child(0, MAP_ME) + child(0, READY, 4)
    run = ask(wire.Down.EXEC, parent=7, flags=wire.EXEC_TELL_START, fds=3, payload=execution)
    runs = child(2, LISTENER, 1) + child(2, EXECS) + bytes((CLOSE, 2))
    gone = ask(wire.Down.DESTROY, 7) + bytes((END, 0, 0x80))
    cpu = kernel(b"usage_usec 5000000\n")
    warm = ask(wire.Down.WARM, 1, fds=2, payload=words.join()) + interpreter(0, WARM_READY)
    return {
        "one": born + run + runs + bytes((END, 1, 3)) + gone,
        "kill": born + run + runs + ask(wire.Down.KILL, 1, flags=1) + bytes((END, 1, 0x80)) + gone,
        "cpu": born + run + runs + cpu + bytes((TIME, 1)) + bytes((END, 1, 0x80)) + gone,
        "turns": born + run + runs + ask(wire.Down.TURN, 1, payload=turn.join()) + cpu + bytes((TIME, 255))
        + ask(wire.Down.INTERRUPT, 1, flags=2) + ask(wire.Down.TURN_END, 1) + gone,
        "suspended": born + run + runs + kernel(b"frozen 1\n") + ask(wire.Down.FREEZE, 7) + bytes((TIME, 1))
        + ask(wire.Down.THAW, 7) + ask(wire.Down.CONNECT, 7) + gone,
        "restart": born + run + ask(wire.Down.RESTART, 7) + child(3, MAP_ME) + child(3, READY, 4)
        + bytes((END, 0, 0x80)),
        "lost": born + run + runs + bytes((END, 0, 0x80, END, 1, 0x80)) + ask(wire.Down.RESTART, 7)
        + child(3, READY, 4),
        "spares": born + bytes((TIME, 6)) + ask(wire.Down.CREATE, 8, 1, wire.CREATE_AHEAD) + run + bytes((TIME, 6)),
        "refused": kernel(b"", 0x11) + born + kernel(b"", 0x20) + run + ask(wire.Down.DESTROY, 7) + kernel(b""),
        "warm": warm + ask(wire.Down.CREATE, 7, 1) + child(1, READY, 4) + interpreter(0, WARM_BORN, fds=1)
        + ask(wire.Down.EXEC, parent=7, flags=wire.EXEC_WARM, fds=3, payload=execution) + ask(wire.Down.COOL, 1),
        "kinds": ask(wire.Down.TEMPLATE, 9, fds=1, payload=wire.encode_template(TEMPLATE)) + ask(wire.Down.FORGET, 1),
        "network": born + ask(wire.Down.NETWORK, 7) + ask(wire.Down.NETWORK) + ask(wire.Down.NETWORK)
        + kernel(b"", 0x08) + ask(wire.Down.NETWORK, 7) + ask(wire.Down.NETWORK) + gone,
        "no-network": kernel(b"", 0x14) + ask(wire.Down.NETWORK) + kernel(b"", 0x02) + ask(wire.Down.NETWORK),
        "large": born + ask(wire.Down.EXEC, parent=7, fds=3 | LARGE, payload=execution)
        + bytes((RAW_SUPERVISOR, 3, 1, 2, 3)),
    }  # fmt: skip


def seeds() -> Mapping[Path, bytes]:
    """All of them: path below the corpus to content."""
    kinds: Mapping[str, Mapping[str, bytes]] = {
        "control": control_frames(),
        "payload": payloads(),
        "setup": setups(),
        "order": orders(),
        "channel": lives(),
    }
    return {Path(kind, name): content for kind, found in kinds.items() for name, content in found.items()}


def main(directory: Path) -> None:
    """Write them."""
    for path, content in seeds().items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS)
