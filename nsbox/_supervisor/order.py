"""What the supervisor is told of an execution, and what it tells of its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nsbox._outputs import CodeError, RichOutput
from nsbox._plan import ExecutionPlan
from nsbox._verdict import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What holds for executions, and how it is enforced.

    Attributes:
        output_bytes: Most that it may write.
        memory_bytes: The limit in force.
        cpu_seconds: The limit in force, or None.
        process_limit: The limit in force.
        disk_bytes: The limit in force.
        disk_slack_bytes: With so much or less left, the disk counts as full.
        file_size_bytes: The limit in force.
        cgroup_mode: As `CgroupTree.mode`.
        enforce_memory: Whether an excess of memory ends it.
        group: The supervisor's base directory in cgroup v2, or None.
        sampled: Whether memory and CPU time have to be sampled, for want of cgroups.
    """

    output_bytes: int
    memory_bytes: int
    cpu_seconds: float | None
    process_limit: int
    disk_bytes: int
    disk_slack_bytes: int
    file_size_bytes: int
    cgroup_mode: str
    enforce_memory: bool
    group: Path | None
    sampled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One execution.

    Attributes:
        id: The launcher's name for it.
        argv: The program and its arguments.
        stdin: What the program can read.
        keep_output: Whether to return what it wrote.
        plan: What else the launcher is told.
        bounds: What holds for it.
        warm: Whether a warm interpreter may run it.
    """

    id: int
    argv: tuple[bytes, ...]
    stdin: bytes
    keep_output: bool
    plan: ExecutionPlan
    bounds: Bounds
    warm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended; `notes` are added to the evidence."""

    observation: Observation
    stdout: bytes
    stderr: bytes
    suspended_seconds: float
    notes: Mapping[str, object] = field(default_factory=dict)
    reported: Reported | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the program of a context says of a cell: it informs, and only of how the cell itself ended does it decide.

    Attributes:
        outputs: What was displayed.
        error: What the cell has raised.
        alive: Whether the context goes on.
    """

    outputs: Sequence[RichOutput]
    error: CodeError | None
    alive: bool
