"""A writable layer on disk: a loop device of its own, its rates limited, gone with its sandbox."""

import os
import tempfile
from pathlib import Path

import pytest
from leaks import loop_devices
from watching import until

import nsbox
from nsbox import DiskAllocation, MemoryAllocation, ProcessAllocation, ResourceAllocation, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups, pytest.mark.needs_loop]
MIB = 1 << 20


def sandbox_with(disk: DiskAllocation, **fields: object) -> nsbox.Sandbox:
    """Little memory, no limit of a file's size that matters, and `disk`."""
    resources = ResourceAllocation(
        disk=disk, memory=MemoryAllocation(limit_mb=64), processes=ProcessAllocation(max_file_size_mb=2000)
    )
    return nsbox.Sandbox(resources=resources, **{"timeout": 25, **fields})


@pytest.mark.parametrize(
    "disk",
    [
        DiskAllocation(quota_mb=1100),
        DiskAllocation(quota_mb=32, throughput_mbps=100),
        DiskAllocation(quota_mb=32, iops_limit=5000),
    ],
    ids=str,
)
def test_what_is_written_is_on_disk_and_not_in_memory(disk: DiskAllocation) -> None:
    """24 MiB of files do not count against 16 MiB of memory; ext4 wherever one can write; all gone at the end."""
    before = loop_devices()
    with sandbox_with(disk) as sandbox:
        for place in ("/workspace", "/tmp", "/dev/shm", "/home/user"):
            assert sandbox.run(["stat", "-fc", "%T", place]).stdout in ("ext2/ext3\n", "ext4\n")
        written = sandbox.shell("head -c 24M /dev/zero > /tmp/x && sync && wc -c < /tmp/x", memory_limit_mb=16)
        assert (written.verdict, written.stdout) == (Verdict.OK, f"{24 * MIB}\n"), written
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert sum(loop_devices().values()) == sum(before.values()) + 1
    until(lambda: loop_devices() == before, "the kernel lets go of the device after the last unmount")


def test_two_sandboxes_have_two_images() -> None:
    """With nothing in common, and reset makes a new one, while restart keeps it."""
    disk = DiskAllocation(quota_mb=16, iops_limit=10_000)
    with sandbox_with(disk) as first, sandbox_with(disk) as second:
        assert first.shell("echo first > /tmp/f; ls /tmp/f").stdout == "/tmp/f\n"
        assert second.shell("ls /tmp/f").exit_code == 2
        first.restart()
        assert first.shell("cat /tmp/f").stdout == "first\n"
        first.reset()
        assert first.shell("ls /tmp/f").exit_code == 2
        assert first.shell("ls -A /workspace").stdout == ""


def test_the_quota_is_exact_in_bytes_and_inodes() -> None:
    """Neither the file system's own blocks nor its inodes are taken from what was asked for."""
    code = """
import os
def fill(step):
    n = 0
    with open('/tmp/fill', 'wb', buffering=0) as file:
        try:
            while True: n += file.write(bytes(step))
        except OSError as exc: print(n >> 20, exc.errno)
def touch():
    n = 0
    try:
        while True: open(f'/workspace/{n}', 'x').close(); n += 1
    except OSError as exc: print(n, exc.errno)
touch()
for name in os.listdir('/workspace'): os.unlink('/workspace/' + name)
fill(65536)
raise SystemExit(1)
"""
    with sandbox_with(DiskAllocation(quota_mb=8, quota_inodes=200, iops_limit=100_000)) as sandbox:
        result = sandbox.execute(code)
        inodes, error, mebibytes, second_error = map(int, result.stdout.split())
        assert (error, second_error) == (28, 28)
        assert 200 <= inodes <= 232
        assert 8 <= mebibytes <= 12
        assert result.verdict is Verdict.DISK_LIMIT
        assert result.evidence["limit"] == 8


WRITE = """
import os, time
file = os.open('/tmp/x', os.O_CREAT | os.O_RDWR | {flags})
import mmap
block = mmap.mmap(-1, {size})
start = time.monotonic()
for index in range({count}): os.pwrite(file, block, index * {size})
print(time.monotonic() - start)
"""


@pytest.mark.parametrize("flags", ["0", pytest.param("os.O_DIRECT", marks=pytest.mark.lane_unified)])
def test_writing_is_no_faster_than_allowed(flags: str) -> None:
    """2 MiB at 2 MiB/s take about a second, through the page cache too; without the limit they take a fraction."""
    code = WRITE.format(flags=flags, size=65536, count=32)
    with sandbox_with(DiskAllocation(quota_mb=16, throughput_mbps=2)) as sandbox:
        slow = sandbox.execute(code)
        assert slow.ok, slow.stderr
    with sandbox_with(DiskAllocation(quota_mb=16, throughput_mbps=1000)) as sandbox:
        fast = sandbox.execute(code)
        assert fast.ok, fast.stderr
    assert 0.6 < float(slow.stdout) < 4
    assert float(fast.stdout) < 0.5 * float(slow.stdout)


@pytest.mark.parametrize("flags", ["os.O_DIRECT"])
def test_operations_are_no_more_than_allowed(flags: str) -> None:
    """40 small writes at 40 a second take about a second."""
    code = WRITE.format(flags=flags, size=4096, count=40)
    with sandbox_with(DiskAllocation(quota_mb=16, iops_limit=40)) as sandbox:
        slow = sandbox.execute(code)
        assert slow.ok, slow.stderr
    with sandbox_with(DiskAllocation(quota_mb=16, iops_limit=100_000)) as sandbox:
        fast = sandbox.execute(code)
        assert fast.ok, fast.stderr
    assert 0.5 < float(slow.stdout) < 5
    assert float(fast.stdout) < 0.5 * float(slow.stdout)


def test_a_throttled_writer_is_killed_at_its_deadline() -> None:
    """In the middle of a write that would take minutes; the sandbox ends at once, too."""
    with sandbox_with(DiskAllocation(quota_mb=64, throughput_mbps=0.5)) as sandbox:
        result = sandbox.run(["dd", "if=/dev/zero", "of=/tmp/x", "bs=64k"], timeout=0.5)
        assert result.verdict is Verdict.WALL_TIME_LIMIT
        assert result.metrics is not None
        assert result.metrics.wall_seconds < 3


def test_an_image_lies_where_temporary_files_lie_and_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR is honoured; nothing can be found in it even while the sandbox lives."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with sandbox_with(DiskAllocation(quota_mb=16, iops_limit=10_000)) as sandbox:
        assert sandbox.shell("echo x > /tmp/x && cat /tmp/x").stdout == "x\n"
        assert os.listdir(tmp_path) == []
