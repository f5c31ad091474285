"""The system calls that the standard library does not have: openat2(2), statx(2), fstatfs(2), inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from nsbox._errors import UnsupportedHostError

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_OPENAT2 = 437  # the same on every architecture
_STATX = {"x86_64": 332, "s390x": 379, "ppc64le": 383, "i686": 383, "armv7l": 397}  # 291 where numbers are generic
_GENERIC_STATX = 291

_HOW = struct.Struct("QQQ")  # struct open_how: flags, mode, resolve
_STATX_TYPE = struct.Struct("=IIQIIIHxxQQQQ qIxxxx qIxxxx qIxxxx qIxxxx IIII Q")
_STATX_SIZE = 256
_STATX_BASIC_AND_BIRTH = 0xFFF
_STATX_BTIME = 0x800
_STATX_MNT_ID = 0x1000
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800

PROC_MAGIC = 0x9FA0
_PSEUDO = frozenset(
    {
        PROC_MAGIC,
        0x6265_6572,  # sysfs
        0x0027_E0EB,  # cgroup
        0x6367_7270,  # cgroup2
        0x6462_6720,  # debugfs
        0x7472_6163,  # tracefs
        0x7363_6673,  # securityfs
        0xF97C_FF8C,  # selinuxfs
        0xCAFE_4A11,  # bpf
        0x6E73_6673,  # nsfs
    }
)
"""File systems whose files are conversations with the kernel: f_type, <linux/magic.h>."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def open_at(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Look a path up and open what it leads to, by the call openat2(2). The descriptor is close-on-exec.

    Args:
        directory: What relative paths, and with RESOLVE_IN_ROOT all paths, begin at.
        path: Any, without NUL.
        flags: As of open(2); nothing is created.
        resolve: RESOLVE_ flags.

    Raises:
        OSError: As the kernel says.
        UnsupportedHostError: There is no openat2 here, or a filter of a container's forbids it.
    """
    how = ctypes.create_string_buffer(_HOW.pack(flags | os.O_CLOEXEC, 0, resolve))
    fd: int = _libc.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_long(directory), ctypes.c_char_p(path), how, ctypes.c_size_t(_HOW.size)
    )
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code == 38:  # ENOSYS
        raise UnsupportedHostError(
            "the file API needs openat2(2)",
            missing=("openat2",),
            remedies=("Linux 5.6 or newer, and a container runtime whose filter allows openat2",),
        )
    raise _fail(code)


@dataclass(frozen=True, slots=True)
class Status:
    """What statx(2) says.

    Attributes:
        mode: Type and permissions.
        uid: Owner, as the caller's user namespace knows him.
        gid: The group, likewise.
        size: In bytes; for what is no regular file, whatever the file system says.
        born: Seconds and nanoseconds since the epoch; where the file system does not keep it, of the last change of
            the inode.
        modified: Seconds and nanoseconds since the epoch: whatever the owner wants, any 64-bit number.
        device: As st_dev.
        inode: As st_ino.
        mount: The id of the mount that it was found through.
    """

    mode: int
    uid: int
    gid: int
    size: int
    born: tuple[int, int]
    modified: tuple[int, int]
    device: tuple[int, int]
    inode: int
    mount: int


def statx(directory: int, name: bytes = b"") -> Status:
    """The status of an entry, itself where it is a link; of the descriptor when `name` is empty.

    Raises:
        OSError: As the kernel says.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if name else _AT_EMPTY_PATH)
    number = _STATX.get(os.uname().machine, _GENERIC_STATX)
    done = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(directory), ctypes.c_char_p(name), ctypes.c_long(flags),
        ctypes.c_ulong(_STATX_BASIC_AND_BIRTH | _STATX_MNT_ID), buffer,
    )  # fmt: skip
    if done != 0:
        raise _fail(ctypes.get_errno())
    return parse_statx(buffer.raw)


def parse_statx(raw: bytes) -> Status:
    """A struct statx as data."""
    (
        mask, _, _, _, uid, gid, mode, inode, size, _, _, _, _, born, born_ns, changed, changed_ns, modified,
        modified_ns, _, _, major, minor, mount,
    ) = _STATX_TYPE.unpack_from(raw)  # fmt: skip
    return Status(
        mode=mode, uid=uid, gid=gid, size=size,
        born=(born, born_ns) if mask & _STATX_BTIME else (changed, changed_ns),
        modified=(modified, modified_ns), device=(major, minor), inode=inode, mount=mount,
    )  # fmt: skip


def is_pseudo(fd: int) -> bool:
    """Whether a descriptor is of a file system like procfs.

    Raises:
        OSError: As the kernel says.
    """
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes at most; f_type is its first word
    if _libc.fstatfs(ctypes.c_int(fd), buffer) != 0:
        raise _fail(ctypes.get_errno())
    return (ctypes.c_ulong.from_buffer(buffer).value & 0xFFFF_FFFF) in _PSEUDO


def inotify_init() -> int:
    """A new inotify instance, not blocking and close-on-exec; inotify_init1(2).

    Raises:
        OSError: As the kernel says.
    """
    fd: int = _libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise _fail(ctypes.get_errno())
    return fd


def inotify_add(instance: int, fd: int, mask: int) -> int:
    """Watch what a descriptor is of, O_PATH too: by its link in /proc, so that no name is looked up.

    Raises:
        OSError: As the kernel says.
    """
    path = b"/proc/self/fd/%d" % fd
    number: int = _libc.inotify_add_watch(ctypes.c_int(instance), ctypes.c_char_p(path), ctypes.c_uint32(mask))
    if number < 0:
        raise _fail(ctypes.get_errno())
    return number


def inotify_remove(instance: int, watch: int) -> None:
    """End a watch; one that has ended by itself is no error."""
    _libc.inotify_rm_watch(ctypes.c_int(instance), ctypes.c_int(watch))
