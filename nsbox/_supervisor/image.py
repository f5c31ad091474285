"""The disk image of a sandbox whose writable layer does not live in memory: sparse ext4, on a loop device."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator

from nsbox._config import DiskAllocation
from nsbox._errors import SetupError, UnsupportedHostError

# linux/loop.h
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_CONFIG = struct.Struct("=II 5Q4I64s64s32s2Q 8Q")
_TRIES = 16  # between asking for a free device and taking it, somebody else may have taken it

_FIXED_MIB = 4  # what ext4 itself takes: descriptors, bitmaps, lost+found; the rest is added from its inode count
_INODE_BYTES = 256
_OWN_INODES = 32  # reserved ones, lost+found, the directories that are bound to their places


@contextlib.contextmanager
def disk_image(disk: DiskAllocation) -> Iterator[tuple[int, tuple[int, int]]]:
    """An empty file system on a loop device. Blocks for some 30 ms.

    Yields:
        A descriptor of the device, and its major and minor number. The image has no name any more: it is freed with the
        last descriptor, once nothing has it mounted.

    Raises:
        UnsupportedHostError: Not root, no loop devices, or no mkfs.ext4.
        SetupError: The kernel refused.
    """
    if os.geteuid() != 0:
        raise UnsupportedHostError(
            "a writable layer on disk needs root: resources.disk.iops_limit, throughput_mbps, or a quota_mb above 1024",
            missing=("loop_device",),
            remedies=("run as root", "leave the rates out, and ask for at most 1024 MiB"),
        )
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mkfs is None:
        raise UnsupportedHostError(
            "a writable layer on disk needs mkfs.ext4", missing=("ext4_tools",), remedies=("apt-get install e2fsprogs",)
        )
    try:
        device = _make_device(mkfs, disk)
    except SetupError:
        raise
    except OSError as exc:
        raise SetupError("disk-image", exc.errno or 5, exc.strerror or str(exc), exc.filename) from exc
    try:
        number = os.fstat(device).st_rdev
        yield device, (os.major(number), os.minor(number))
    finally:
        os.close(device)


def _make_device(mkfs: str, disk: DiskAllocation) -> int:
    with tempfile.TemporaryFile(prefix="nsbox-image-") as image:
        image.truncate(_image_bytes(disk))
        _format(mkfs, image.fileno(), disk)
        return _attach(image.fileno())


def _image_bytes(disk: DiskAllocation) -> int:
    return ((disk.quota_mb + _FIXED_MIB) << 20) + (disk.quota_inodes + _OWN_INODES) * _INODE_BYTES


def _format(mkfs: str, fd: int, disk: DiskAllocation) -> None:
    path = f"/proc/self/fd/{fd}"
    # No journal: nobody recovers a sandbox's files after a crash of the host. No reserve: the quota is for the program.
    # assume_storage_prezeroed: the image is a hole.
    options = ("-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard")
    command = (mkfs, *options, "-N", str(disk.quota_inodes + _OWN_INODES), "-I", str(_INODE_BYTES), path)
    done = subprocess.run(command, check=False, capture_output=True, text=True, pass_fds=(fd,))
    if done.returncode:
        raise SetupError("disk-image", 5, done.stderr.strip().replace("\n", "; "), "mkfs.ext4")


def _attach(image: int) -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            index = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            try:
                device = os.open(f"/dev/loop{index}", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                config = _LOOP_CONFIG.pack(image, 0, *[0] * 8, _LO_FLAGS_AUTOCLEAR, *[b""] * 3, *[0] * 10)
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as exc:
                os.close(device)
                if exc.errno != 16:  # EBUSY: taken in between
                    raise
                continue
            return device
    finally:
        os.close(control)
    raise SetupError("disk-image", 16, "no loop device is free", "/dev/loop-control")
