"""The vocabulary of building a root; the values are on the wire, native/wire.h has the same."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag


class OperationKind(IntEnum):
    """One step; what its fields mean is said at `enum op_kind` in native/wire.h."""

    DIR = 1
    SYMLINK = 2
    FILE = 3
    BIND = 4
    PROC = 6
    DEVPTS = 7
    QUOTA_TMPFS = 8
    QUOTA_DEVICE = 9
    QUOTA_DIR = 10
    MASK = 12
    READ_ONLY = 13
    SYSCTL = 14
    SOURCE = 15
    OVERLAY = 16
    COPY = 17


class OperationFlag(IntFlag):
    """What a mount allows beyond reading and executing."""

    NONE = 0
    WRITABLE = 1
    DEVICES = 2
    NO_EXEC = 4
    DIRECTORY = 8


@dataclass(frozen=True, slots=True)
class Operation:
    """One step in building a root.

    Attributes:
        kind: What to do.
        path: Where, absolute, in the sandbox.
        arg: The second path, or a text; its meaning depends on the kind. So does that of `a` and `b`.
        flags: For what becomes a mount.
        a: A number.
        b: A number.
    """

    kind: OperationKind
    path: str
    arg: str = ""
    flags: OperationFlag = OperationFlag.NONE
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        """What a failed step is reported as."""
        of_host = self.kind in (OperationKind.BIND, OperationKind.COPY)
        subject = f"{self.arg} at {self.path}" if of_host else self.path
        return f"{self.kind.name.lower().replace('_', ' ')} {subject}"
