"""A list of operations while it is written."""

from __future__ import annotations

import os
from pathlib import Path

from nsbox._plan import hostfiles
from nsbox._plan.operations import Operation, OperationFlag, OperationKind

_K = OperationKind
_F = OperationFlag


class Tree:
    """Collects the operations of one list, and makes the directories on the way to each path once."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._made = {"/"}

    def add(self, kind: OperationKind, path: str, arg: str = "", flags: OperationFlag = _F.NONE, a: int = 0, b: int = 0) -> None:  # fmt: skip  # noqa: E501
        """One operation."""
        self.operations.append(Operation(kind, path, arg, flags, a, b))
        self._made.add(path)

    def directory(self, path: str) -> None:
        """A directory, with all above it."""
        for parent in [*reversed([str(parent) for parent in Path(path).parents]), path]:
            if parent not in self._made:
                self.add(_K.DIR, parent, a=0o755)

    def bind(self, path: str, entry: hostfiles.HostEntry, flags: OperationFlag = _F.NONE) -> None:
        """Show something of the host's at `path`."""
        self.directory(path if entry.is_directory else os.path.dirname(path))
        if not entry.is_directory and path not in self._made:
            self.add(_K.FILE, path, a=0o444)
        self.add(_K.BIND, path, entry.path, flags, entry.device, entry.inode)

    def has(self, path: str) -> bool:
        """Whether an operation of this list makes `path`."""
        return path in self._made

    def covers(self, path: str) -> bool:
        """Whether a bind mount of this tree is at or above `path`: nothing can be made below it."""
        return any(one.kind is _K.BIND and hostfiles.is_below(path, one.path) for one in self.operations)
