"""libseccomp, loaded when first needed, and the names and numbers of system calls.

pyseccomp looks for the library when it is imported (and starts ldconfig for it), so nothing imports it before a filter
is wanted: a host without libseccomp can still import nsbox and run `nsbox doctor`.
"""

import ctypes
import importlib
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, ModuleType

from nsbox._errors import UnsupportedHostError

# AUDIT_ARCH_* of <linux/audit.h>: what seccomp_data.arch holds
ARCH_X86_64 = 0xC000_003E
ARCH_AARCH64 = 0xC000_00B7
ARCH_I386 = 0x4000_0003
ARCH_ARM = 0x4000_0028
X32_BIT = 0x4000_0000  # __X32_SYSCALL_BIT; the arch of an x32 call is ARCH_X86_64

# libseccomp's name for the x32 table (SCMP_ARCH_X32); the kernel never says this
_LIBSECCOMP_X32 = 0x4000_003E

# Calls that the oldest libseccomp in use (2.5.4, Debian 12: Linux 5.17) does not know. From 424 on all architectures
# share their numbers (scripts/syscall.tbl); uretprobe and uprobe are x86_64's alone.
_NEW_EVERYWHERE = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
    "rseq_slice_yield": 471,
}
NEW_CALLS: Mapping[int, Mapping[str, int]] = MappingProxyType(
    {
        ARCH_X86_64: MappingProxyType({**_NEW_EVERYWHERE, "uretprobe": 335, "uprobe": 336}),
        ARCH_AARCH64: MappingProxyType(_NEW_EVERYWHERE),
    }
)

_UNKNOWN = -1  # __NR_SCMP_ERROR; names of other architectures get numbers below it


@cache
def library() -> ModuleType:
    """Return pyseccomp, bound to libseccomp.so.2.

    Raises:
        UnsupportedHostError: libseccomp is not installed, or the machine is neither x86_64 nor aarch64.
    """
    try:
        module = importlib.import_module("pyseccomp")
    except RuntimeError as exc:  # pyseccomp's own: ctypes.util.find_library found nothing
        raise UnsupportedHostError(
            "the syscall filter needs libseccomp.so.2, which is not installed",
            missing=("libseccomp",),
            remedies=("apt-get install libseccomp2",),
        ) from exc
    if module.system_arch() not in NEW_CALLS or sys.byteorder != "little":
        raise UnsupportedHostError(
            f"the syscall filter knows x86_64 and aarch64, not AUDIT_ARCH {module.system_arch():#x}",
            missing=("x86_64 or aarch64",),
            remedies=("run nsbox on a 64-bit x86 or ARM machine",),
        )
    return module


@cache
def library_version() -> tuple[int, int, int]:
    """Return libseccomp's version; pyseccomp has no function for it, the C library does (seccomp_version(3))."""

    class Version(ctypes.Structure):
        _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]

    function = library()._libseccomp.seccomp_version
    function.argtypes, function.restype = (), ctypes.POINTER(Version)
    version = function().contents
    return version.major, version.minor, version.micro


def native_arch() -> int:
    """Return this machine's AUDIT_ARCH value."""
    arch: int = library().system_arch()
    return arch


def is_known(name: str) -> bool:
    """Say whether any architecture has a system call of this name."""
    return library().resolve_syscall(native_arch(), name) != _UNKNOWN or any(name in new for new in NEW_CALLS.values())


def syscall_number(name: str) -> int | None:
    """Return this machine's number of a system call; None where it has none of this name."""
    number: int = library().resolve_syscall(native_arch(), name)
    if number >= 0:
        return number
    return NEW_CALLS[native_arch()].get(name)


def syscall_name(number: int, arch: int) -> str:
    """Return the name of a system call, for evidence and messages.

    Args:
        number: seccomp_data.nr; with the x32 bit or without.
        arch: seccomp_data.arch, an AUDIT_ARCH value.

    Returns:
        The name in that architecture's table, such as "ptrace"; "unknown_NNN" where no table has the number, which
        includes i386 and others on a host whose libseccomp has gone.
    """
    table = arch
    if arch == ARCH_X86_64 and number & X32_BIT and number > 0:
        table, number = _LIBSECCOMP_X32, number & ~X32_BIT
    for name, new_number in NEW_CALLS.get(arch, {}).items():
        if new_number == number:
            return name
    try:
        # The x32 table of libseccomp counts with the bit, and may return what x86_64 has under the plain number.
        found: bytes = library().resolve_syscall(table, number | X32_BIT if table == _LIBSECCOMP_X32 else number)
    except (ValueError, UnsupportedHostError):
        return f"unknown_{number}"
    return found.decode()


def abi_name(number: int, arch: int) -> str:
    """Return which table of system calls was used: "x86_64", "x32", "i386", "aarch64", "arm", or "arch_0x…"."""
    if arch == ARCH_X86_64 and number & X32_BIT and number > 0:
        return "x32"
    names = {ARCH_X86_64: "x86_64", ARCH_AARCH64: "aarch64", ARCH_I386: "i386", ARCH_ARM: "arm"}
    return names.get(arch, f"arch_{arch:#x}")
