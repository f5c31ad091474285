"""A host on which what nsbox writes to is read-only or full: it is told, or done without, and nothing is left."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

import needs
import pytest
from forked import in_child

import nsbox
from nsbox._blocking import shutdown

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

CLONE_NEWNS = 0x0002_0000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 1 << 14, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """In a namespace of this process' own."""
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    if LIBC.mount(words[0], words[1], words[2], flags, words[3]) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def own_mounts() -> None:
    """What is mounted from now on is for this process and its children."""
    assert LIBC.unshare(CLONE_NEWNS) == 0
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def run_once() -> tuple[str, str]:
    """What a sandbox says, and how its memory is limited."""
    with nsbox.Sandbox(memory_mb=64) as sandbox:
        return sandbox.run(["echo", "ran"]).stdout, sandbox.isolation["memory"]


@pytest.mark.lane_unified
def test_cgroups_that_are_read_only_are_done_without_and_that_is_told() -> None:
    """As in a container that has them so. Who insists on a limit by the kernel is refused, with the reason."""

    def main() -> tuple[str, str, str]:
        own_mounts()
        for point, kind, _ in needs.mounts():
            if kind.startswith("cgroup"):
                mount(None, str(point), None, MS_REMOUNT | MS_BIND | MS_RDONLY)
        said, memory = run_once()
        try:
            nsbox.Sandbox.create(require=["memory_limit"]).terminate()
        except nsbox.UnsupportedHostError as exc:
            return said, memory, str(exc)
        finally:
            shutdown()
        return said, memory, ""

    said, memory, refusal = in_child(main)
    assert said == "ran\n"
    assert not memory.startswith("cgroup"), memory
    assert "memory" in refusal


def test_a_place_for_temporary_files_that_is_read_only_or_full_is_told() -> None:
    """Programs run: they need none. What does need one, a disk image, is a SetupError; and works once there is room."""

    def main() -> list[str]:
        own_mounts()
        place = tempfile.mkdtemp()
        said = []
        disk = nsbox.ResourceAllocation(disk=nsbox.DiskAllocation(quota_mb=64, iops_limit=1000))
        for data, flags in (("size=4k", 0), ("size=4k", MS_RDONLY), ("size=512m", 0)):
            mount("tmpfs", place, "tmpfs", flags, data)
            tempfile.tempdir = place
            said.append(run_once()[0])
            try:
                with nsbox.Sandbox(resources=disk) as sandbox:
                    said.append(sandbox.run(["echo", "on disk"]).stdout)
            except nsbox.SetupError as exc:
                said.append(type(exc).__name__)
            shutdown()
            said.append(str(sorted(os.listdir(place))))
            LIBC.umount2(place.encode(), 0)
        Path(place).rmdir()
        return said

    assert in_child(main, seconds=60) == [
        "ran\n", "SetupError", "[]", "ran\n", "SetupError", "[]", "ran\n", "on disk\n", "[]",
    ]  # fmt: skip
