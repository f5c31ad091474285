"""PID 1 of the User Mode Linux that `scripts/uml` boots: mounts, modules, cgroups, then one command, then the end.

Runs on the standard library alone (`python -IS`). Consoles: 1 takes the command's stdout, 2 its stderr, 3 its exit
status as one line of decimal digits; they are raw, so that no byte is changed on the way.
"""

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import termios
import tty
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_FINIT_MODULE = 313  # x86-64, the only architecture User Mode Linux has here
RB_HALT_SYSTEM = ctypes.c_int(0xCDEF0123 - (1 << 32))  # <linux/reboot.h>
MS_BIND = 0x1000  # <linux/mount.h>
MODULES = ("loop", "overlay", "veth", "nf_tables")
"""Of nftables(8) that kernel has the family bridge alone: CONFIG_NF_TABLES_INET, _IPV4 and _IPV6 are not set in
Debian's, so that no sandbox has a way out of its network there. IPv6 is a module, and left out: this is the host
without it."""


def check(result: int, step: str) -> None:
    """Raise OSError with the step's name when a system call has failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")


def mount(kind: str, target: str, data: str = "") -> None:
    """Mount a file system without a device (mount(2))."""
    check(LIBC.mount(kind.encode(), target.encode(), kind.encode(), 0, data.encode()), f"mount {kind} on {target}")


def mount_private(seen: list[str]) -> None:
    """Put tmpfs where programs write, and bind back those of the directories `seen` that are covered by it."""
    kept = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in sorted(seen)}  # parents before children
    for target, mode in (("/dev/shm", "1777"), ("/tmp", "1777"), ("/var/tmp", "1777"), ("/run", "755")):  # noqa: S108
        mount("tmpfs", target, f"mode={mode}")
    for path, fd in kept.items():
        if not Path(path).exists():
            Path(path).mkdir(parents=True)
            source = f"/proc/self/fd/{fd}".encode()
            check(LIBC.mount(source, path.encode(), None, MS_BIND, None), f"bind {path}")
        os.close(fd)


def mount_all(seen: list[str]) -> None:
    """The file systems of a running system; the rest stays read-only hostfs, and /dev is there already."""
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("cgroup2", "/sys/fs/cgroup")
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir(exist_ok=True)
    mount("devpts", "/dev/pts", "mode=620,ptmxmode=666")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path("/dev", name).symlink_to(f"/proc/self/fd{target}")
    mount_private(seen)


def load_modules() -> None:
    """Insert MODULES with what they depend on, by modules.dep(5): `module: dependencies`, the last one needed first."""
    base = Path("/usr/lib/uml/modules") / os.uname().release
    lines = (line.split(":") for line in (base / "modules.dep").read_text().splitlines())
    needs = {Path(path).stem: [path, *rest.split()] for path, rest in lines}
    loaded: set[str] = set()
    for path in (path for name in MODULES for path in reversed(needs[name])):
        if path in loaded:
            continue
        loaded.add(path)
        with (base / path).open("rb") as file:
            check(LIBC.syscall(SYS_FINIT_MODULE, file.fileno(), b"", 0), f"finit_module {path}")


def delegate_controllers() -> None:
    """Hand every controller that there is to the children of the root cgroup."""
    root = Path("/sys/fs/cgroup")
    for name in (root / "cgroup.controllers").read_text().split():
        (root / "cgroup.subtree_control").write_text(f"+{name}")


def loopback_up() -> None:
    """Set IFF_UP on lo (netdevice(7)); the kernel adds 127.0.0.1 itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS


def console(number: int) -> int:
    """The fd of a raw console."""
    fd = os.open(f"/dev/tty{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(fd)
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however slow the other side is."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def reap(main: int) -> int | None:
    """Collect every dead child, orphans of others too; the wait status of `main` when it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == main:
            found = status


def run(job: dict[str, object], outputs: tuple[int, int]) -> int:
    """Start the command, pass its output on, and return its exit status, 128 + N for signal N.

    The end is the command's own end: what it left running may hold the pipes open, and dies with the kernel.
    """
    wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer)
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in outputs]
    try:
        process = subprocess.Popen(
            job["command"],  # type: ignore[call-overload]  # a list of str: scripts/uml wrote it
            cwd=job["directory"],
            env=job["environment"],
            stdin=subprocess.DEVNULL,
            stdout=pipes[0][1],
            stderr=pipes[1][1],
            start_new_session=True,
        )
    except OSError as error:
        write_all(outputs[1], f"uml: {error}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126
    targets = {}
    with selectors.DefaultSelector() as selector:
        selector.register(wake_reader, selectors.EVENT_READ)
        for (reader, writer), output in zip(pipes, outputs, strict=True):
            os.close(writer)
            os.set_blocking(reader, False)
            targets[reader] = output
            selector.register(reader, selectors.EVENT_READ)
        status = None
        while True:
            ready = [key.fd for key, _ in selector.select(None if status is None else 0)]
            if status is not None and not ready:
                return os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 128 + os.WTERMSIG(status)
            for fd in ready:
                data = os.read(fd, 1 << 16)
                if fd == wake_reader:
                    ended = reap(process.pid)
                    status = status if ended is None else ended
                elif data:
                    write_all(targets[fd], data)
                else:
                    selector.unregister(fd)


def main() -> None:
    """Boot, run, report, halt."""
    job = json.loads((Path(__file__).parent / "job.json").read_text())
    mount_all(job["seen"])
    load_modules()
    delegate_controllers()
    loopback_up()
    outputs = (console(1), console(2))
    status = console(3)
    write_all(status, f"{run(job, outputs)}\n".encode())
    for fd in (*outputs, status):
        termios.tcdrain(fd)
    LIBC.reboot(RB_HALT_SYSTEM)


if __name__ == "__main__":
    main()
