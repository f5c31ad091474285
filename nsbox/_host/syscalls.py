"""Feature tests by system calls whose arguments no kernel accepts: ENOSYS tells one that is not there.

EPERM counts as not there, too: none of these calls gives it for such arguments, but the syscall filters of container
runtimes do. Version numbers are not asked, for distributions backport and filters forbid.
"""

import ctypes
import errno
import os
from collections.abc import Callable

_NUMBERS = {  # the same on every architecture since Linux 5.2, see scripts/syscall.tbl
    "pidfd_open": (434, (0, 0)),  # pid 0
    "clone3": (435, (0, 0)),  # size below the first version of the struct
    "close_range": (436, (1, 0, 0)),  # last before first
    "openat2": (437, (-1, 0, 0, 0)),  # size below the first version
    "mount_setattr": (442, (-1, 0, 0, 0, 0)),  # the same
    "open_tree": (428, (-1, 0, 0xFFFF_FFFF)),  # unknown flags
}
_SECCOMP_NUMBERS = {
    "x86_64": 317,
    "aarch64": 277,
    "riscv64": 277,
    "loongarch64": 277,
    "ppc64le": 358,
    "s390x": 348,
    "armv7l": 383,
    "i686": 354,
}
_GET_ACTION_AVAIL = 2
_ACTIONS = {"kill_process": 0x8000_0000, "errno": 0x0005_0000, "user_notif": 0x7FC0_0000}  # <linux/seccomp.h>


def probe_syscalls() -> dict[str, bool]:
    """Which of the calls that nsbox is built on are there. Starts nothing, opens nothing."""
    call = _syscall()
    return {
        name: call(number, *arguments) not in (errno.ENOSYS, errno.EPERM)
        for name, (number, arguments) in _NUMBERS.items()
    }


def probe_seccomp_actions() -> frozenset[str]:
    """Which of the actions kill_process, errno and user_notif the kernel has; empty without seccomp(2)."""
    number = _SECCOMP_NUMBERS.get(os.uname().machine)
    if number is None:
        return frozenset()
    call = _syscall()
    found = set()
    for name, value in _ACTIONS.items():
        action = ctypes.c_uint32(value)
        if call(number, _GET_ACTION_AVAIL, 0, ctypes.addressof(action)) == 0:
            found.add(name)
    return frozenset(found)


def libseccomp_version() -> tuple[int, int, int] | None:
    """The version of the libseccomp that pyseccomp would load; None when there is none."""
    library: ctypes.CDLL | None = None
    for name in ("libseccomp.so.2", "libseccomp.so"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        break
    if library is None:
        return None
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    major, minor, micro = library.seccomp_version().contents
    return major, minor, micro


def _syscall() -> Callable[..., int]:
    """A caller of raw system calls that returns the errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long

    def call(number: int, *arguments: int) -> int:
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))
        return 0 if result != -1 else ctypes.get_errno()

    return call
