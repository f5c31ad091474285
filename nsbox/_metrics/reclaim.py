"""Memory of a suspended sandbox given back: memory.reclaim, cgroup-v2.rst, Linux 5.19."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nsbox._cgroups import CgroupTree

_ROUNDS = 16
_WORTH_ANOTHER = 1 << 20  # bytes; a round that frees less was the last


def reclaim_directory(tree: CgroupTree, number: int) -> Path | None:
    """Where to ask for it; None: this host cannot do it.

    Args:
        tree: The supervisor's cgroups.
        number: The sandbox's in them.
    """
    index = tree.index_of("memory")
    if index is None or "memory_reclaim" in tree.reasons:
        return None
    return tree.hierarchies[index].path / f"s{number}"


def reclaim(directory: Path) -> int:
    """Have the kernel take back what it can: file cache, and what programs allocated where there is swap.

    Blocks, for up to seconds where much goes to swap.

    Returns:
        Bytes by which the sandbox has become smaller.

    Raises:
        OSError: The sandbox is gone, or the kernel refused.
    """
    current = directory / "memory.current"
    first = left = int(current.read_text())
    for _ in range(_ROUNDS):
        with contextlib.suppress(BlockingIOError):  # EAGAIN: less than asked for, which is more than there is
            (directory / "memory.reclaim").write_text(str(max(left, 4096)))
        before, left = left, int(current.read_text())
        if before - left < _WORTH_ANOTHER:
            break
    return max(0, first - left)
