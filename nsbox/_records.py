"""What the sandbox tells about its files, ports and resources. All frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a name in the sandbox stands for, links not followed.

    Attributes:
        path: Absolute, in the sandbox. Bytes that are no UTF-8 are escaped as `os.fsdecode` does.
        name: The last component of `path`.
        size: Bytes.
        type: What it is; "other": a FIFO, a socket, a device.
        mime_type: As its name says; None: the name says nothing.
        permissions: As ls(1) writes them: "rw-r--r--".
        created_at: When it was made, or where the file system does not keep that, last changed; aware, UTC.
        modified_at: When it was last written to; aware, UTC.
    """

    path: str
    name: str
    size: int
    type: Literal["file", "directory", "symlink", "other"]
    mime_type: str | None
    permissions: str
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One change below a watched directory.

    Attributes:
        path: What was changed, absolute, in the sandbox.
        kind: How.
        moved_to: Where to, for "moved".
    """

    path: str
    kind: Literal["created", "modified", "deleted", "moved"]
    moved_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedPort:
    """A port of the sandbox that can be reached from outside.

    Attributes:
        port: In the sandbox.
        protocol: What is spoken on it.
        url: On the loopback interface of the host.
        public_url: On all its interfaces; None unless `is_public`.
        is_public: Whether other machines can reach it.
    """

    port: int
    protocol: Literal["http", "https", "tcp"]
    url: str
    public_url: str | None
    is_public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of a limit is used.

    Attributes:
        usage: In the unit that `ResourceUsage` names.
        limit: In the same unit; infinite where there is none.
    """

    usage: float
    limit: float

    @property
    def utilization(self) -> float:
        """`usage / limit`."""
        return self.usage / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUsage:
    """What a sandbox uses now.

    Attributes:
        cpu: Percent of one CPU's time, since the last look; the limit is `cores * limit_percent`.
        memory: MiB.
        disk: MiB, of all that the sandbox can write.
        network: Mbit/s, since the last look, of the direction with more; the limit is one of each direction.
    """

    cpu: Usage
    memory: Usage
    disk: Usage
    network: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceMetrics:
    """One look at a sandbox's counters.

    Attributes:
        usage: Against the limits.
        cpu_seconds: Of all processes so far, since the sandbox was started or restarted.
        memory_bytes: In use now.
        disk_bytes: Written and kept, now.
        disk_inodes: Files and directories among that.
        processes: Of programs, now.
        threads: Of those; None where nothing was running to ask, or it was not asked for.
        open_files: Descriptors of those; None the same.
        read_bytes: From storage so far; None where the host does not tell.
        written_bytes: To storage so far; None the same.
        sent_bytes: To the network so far, with all headers; None where the sandbox is in none but its loopback.
        received_bytes: From it so far; None the same.
    """

    usage: ResourceUsage
    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int
    disk_inodes: int
    processes: int
    threads: int | None = None
    open_files: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
