"""Starting the launcher. Blocking code, run in a worker thread: some milliseconds, once per supervisor."""

from __future__ import annotations

import array
import contextlib
import getpass
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsbox._cgroups import CgroupTree, make_tree
from nsbox._errors import NetworkError, SetupError, UnsupportedHostError
from nsbox._plan.identity import RANGE_SIZE, ROOT_MAP, SINGLE_MAP, SUBUID_MAP, IdMap
from nsbox._supervisor import wire
from nsbox._supervisor.garbage import collect
from nsbox._supervisor.registry import Registry

_BINARY = Path(__file__).parent.parent / "_bin" / "nsbox-launcher"
_STATE_DIRECTORY = Path("/run/nsbox")
_START_SECONDS = 10.0
_SOCKET_BUFFER = 1 << 20  # a few hundred records may wait here while the supervisor is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """A launcher that answers.

    Attributes:
        socket: To it; not blocking.
        pidfd: Of it, readable once it has ended.
        tree: The cgroups that it works in.
        ids: The ids that it hands out.
        registry: What tells other processes of its sandboxes.
    """

    socket: socket.socket
    pidfd: int
    tree: CgroupTree
    ids: IdMap
    registry: Registry

    def let_go(self) -> None:
        """Reap it, once `pidfd` has become readable, and close that.

        One whose processes are not all dead, because the kernel is at work for them or a debugger was not told yet,
        is reaped when the next launcher starts, or ends.
        """
        _let_go(self.pidfd)


_late: list[int] = []


def _let_go(pidfd: int) -> None:
    _late.append(pidfd)
    _reap_late()


def _reap_late() -> None:
    """Those that have ended by now. Two threads may do so at the same time: each takes one out of the list first."""
    for _ in range(len(_late)):
        with contextlib.suppress(IndexError):
            pidfd = _late.pop(0)
            if not _reap(pidfd):
                _late.append(pidfd)


def _reap(pidfd: int) -> bool:
    """Whether it has ended; then it is reaped, and the descriptor closed."""
    try:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
            return False
    except ChildProcessError:  # reaped already, by an application that waits for everybody
        pass
    os.close(pidfd)
    return True


def start_launcher() -> Launcher:
    """Start a launcher and wait until it answers. Blocks.

    Raises:
        SetupError: The kernel refused a step; nothing is left.
        UnsupportedHostError: The host, or this installation, lacks something.
        NetworkError: The launcher has ended meanwhile, or does not answer.
    """
    if not os.access(_BINARY, os.X_OK):
        raise UnsupportedHostError(
            f"nsbox is not installed completely: {_BINARY.name} is missing",
            missing=("nsbox-launcher",),
            remedies=("pip install nsbox, on a machine with a C compiler, or from a wheel",),
        )
    _reap_late()
    collect()
    tree = make_tree()
    try:
        return _start(tree)
    except (ConnectionError, TimeoutError) as exc:
        with contextlib.suppress(SetupError):
            tree.remove()
        raise NetworkError("the launcher has ended, or does not answer, while it is started") from exc
    except BaseException:
        with contextlib.suppress(SetupError):  # the first error tells more; what is left, the next start collects
            tree.remove()
        raise


def _start(tree: CgroupTree) -> Launcher:
    as_root = os.geteuid() == 0
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(theirs.close)
        failed = stack.enter_context(contextlib.ExitStack())
        failed.callback(ours.close)
        registry = Registry(tree)
        failed.callback(registry.close)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        ours.settimeout(_START_SECONDS)
        application = os.pidfd_open(os.getpid())
        stack.callback(os.close, application)
        mode = "root" if as_root else "user"
        first = subprocess.Popen(
            [_BINARY, str(theirs.fileno()), str(application), mode],
            pass_fds=(theirs.fileno(), application), env={}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        try:
            pidfd = _receive_hello(ours)
            failed.callback(_let_go, pidfd)
        finally:
            first.wait()
        ids = ROOT_MAP if as_root else _map_user(pid_of(pidfd))
        _send_setup(ours, tree, ids, registry)
        record, _ = receive(ours)
        if record.type is not wire.Up.DONE:
            raise setup_error(record, "the launcher's own namespaces and mounts")
        ours.setblocking(False)
        failed.pop_all()
        return Launcher(socket=ours, pidfd=pidfd, tree=tree, ids=ids, registry=registry)


def receive(connection: socket.socket) -> tuple[wire.Record, list[int]]:
    """One record and the descriptors that came with it.

    Raises:
        BlockingIOError: Nothing there, on a socket that does not block.
        NetworkError: The launcher is gone, or talks nonsense.
    """
    fds = array.array("i")
    sizes = (wire.UP.size + 1, socket.CMSG_SPACE(8 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    try:
        packet, ancillary, _, _ = connection.recvmsg(*sizes)
    except ConnectionResetError:  # told once, before what it had still sent, where it has not read all that it was sent
        packet, ancillary, _, _ = connection.recvmsg(*sizes)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        if not packet:
            raise NetworkError("the launcher has ended")
        return wire.decode(packet), list(fds)
    except BaseException as exc:
        for fd in fds:
            os.close(fd)
        if isinstance(exc, ValueError):
            raise NetworkError(f"the launcher sent {exc}") from exc
        raise


def setup_error(record: wire.Record, subject: str) -> SetupError:
    """The failure in a record as an exception; `subject` is what the step was about."""
    error = SetupError(record.stage.label, record.error, os.strerror(record.error), subject)
    error.add_note(f"it was step {record.index} of {record.stage.label}; `nsbox doctor` tells what this host lacks")
    return error


def _receive_hello(connection: socket.socket) -> int:
    try:
        record, fds = receive(connection)
    except TimeoutError as exc:
        raise NetworkError(f"the launcher did not answer within {_START_SECONDS:g} s") from exc
    if record.type is wire.Up.FAILED:
        raise setup_error(record, "the launcher's own namespaces")
    if record.type is not wire.Up.HELLO or record.id != wire.VERSION or len(fds) != 1:
        raise NetworkError("the launcher is of another version of nsbox; install it anew")
    return fds[0]


def _send_setup(connection: socket.socket, tree: CgroupTree, ids: IdMap, registry: Registry) -> None:
    payload = wire.encode_setup(tree, ids, registry.name)
    with contextlib.ExitStack() as stack:
        fds: list[int] = []
        for hierarchy, base in zip(tree.hierarchies, tree.dirfds, strict=True):
            parent = os.open(hierarchy.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, parent)
            fds += (base, parent)
        if registry.directory is not None:
            fds.append(os.open(registry.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        if ids.ranges:
            lock = _open_range_locks()
            stack.callback(os.close, lock)
            fds.append(lock)
        header = wire.DOWN.pack(wire.Down.SETUP, wire.VERSION, 0, 0, len(payload))
        socket.send_fds(connection, [header, payload], fds)


def _open_range_locks() -> int:
    """The file whose bytes stand for ranges of uids. Its directory is root's alone, or it is not used.

    Raises:
        SetupError: It is somebody else's, or cannot be made.
    """
    path = _STATE_DIRECTORY / "uid-ranges"
    try:
        _STATE_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        found = _STATE_DIRECTORY.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise SetupError(
                "state-directory", 1, "must be a directory that only root can write", str(_STATE_DIRECTORY)
            )
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except SetupError:
        raise
    except OSError as exc:
        raise SetupError("state-directory", exc.errno or 5, exc.strerror or "", str(path)) from exc


def pid_of(pidfd: int) -> int:
    """The process' pid, as this process sees it; pidfd_open(2), /proc/PID/fdinfo."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def _map_user(pid: int) -> IdMap:
    """Give the launcher's user namespace its ids: a subordinate range where the host has one for us, else our own."""
    uids, gids = _subordinate("/etc/subuid"), _subordinate("/etc/subgid")
    if uids is not None and gids is not None and shutil.which("newuidmap") and shutil.which("newgidmap"):
        _run_mapper("newuidmap", pid, os.geteuid(), uids)
        _run_mapper("newgidmap", pid, os.getegid(), gids)
        return SUBUID_MAP
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {os.geteuid()} 1"),
            ("gid_map", f"0 {os.getegid()} 1"),
        ):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as exc:
        raise SetupError("id-map", exc.errno or 5, exc.strerror or "", exc.filename) from exc
    return SINGLE_MAP


def _run_mapper(program: str, pid: int, own: int, first: int) -> None:
    command: Sequence[str] = (program, str(pid), "0", str(own), "1", "1", str(first), str(RANGE_SIZE))
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={"PATH": os.environ.get("PATH", "")}
    )
    if done.returncode:
        raise SetupError("id-map", 1, done.stderr.strip() or f"{program} failed", program)


def _subordinate(path: str) -> int | None:
    """The first of a range of at least 65,536 ids that subuid(5) gives this user; None: there is none."""
    try:
        names = {str(os.geteuid()), getpass.getuser()}
    except (KeyError, OSError):
        names = {str(os.geteuid())}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = [line.strip().split(":") for line in file]
    except OSError:
        return None
    for entry in fields:
        numeric = len(entry) == 3 and entry[1].isdecimal() and entry[2].isdecimal()
        if numeric and entry[0] in names and int(entry[2]) >= RANGE_SIZE:
            return int(entry[1])
    return None
