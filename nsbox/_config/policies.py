"""Layers 2 and 3 of the protection, and recovery: when to warn, when to kill, how to try again."""

from __future__ import annotations

from dataclasses import dataclass

from nsbox._config.validation import LARGEST_MB, assign, flag, integer, number, percent, seconds

_MOST_EXECUTIONS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringThresholds:
    """Layer 2: crossing one emits a `ResourceWarning` event, once a crossing.

    Attributes:
        cpu_percent: Of the CPU allocation; above 0, at most 100.
        memory_percent: Of the memory limit; above 0, at most 100.
        disk_percent: Of the disk quota; above 0, at most 100.
        execution_seconds: Wall clock of one execution, at least 0.001; None: no warning.
    """

    cpu_percent: float = 80.0
    memory_percent: float = 80.0
    disk_percent: float = 80.0
    execution_seconds: float | None = None

    def __post_init__(self) -> None:
        assign(
            self,
            cpu_percent=percent("thresholds.cpu_percent", self.cpu_percent),
            memory_percent=percent("thresholds.memory_percent", self.memory_percent),
            disk_percent=percent("thresholds.disk_percent", self.disk_percent),
        )
        if self.execution_seconds is not None:
            assign(self, execution_seconds=seconds("thresholds.execution_seconds", self.execution_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcementPolicy:
    """Layer 3: what ends an execution.

    Attributes:
        max_execution_seconds: Wall clock of one execution, 0.001 to 1e9 seconds; stands still while suspended.
        max_cpu_seconds: CPU time of one execution's whole process tree, 0.001 to 1e9 seconds; None: not limited.
        max_output_mb: MiB of stdout and stderr together, above 0.
        max_concurrent_executions: 1 to 65536; one more raises `ResourceLimitError`.
        enforce_memory_limits: False: a memory excess only emits `ResourceExceeded`.
    """

    max_execution_seconds: float = 30.0
    max_cpu_seconds: float | None = None
    max_output_mb: float = 16.0
    max_concurrent_executions: int = 4
    enforce_memory_limits: bool = True

    def __post_init__(self) -> None:
        assign(
            self,
            max_execution_seconds=seconds("enforcement.max_execution_seconds", self.max_execution_seconds),
            max_output_mb=number(
                "enforcement.max_output_mb", self.max_output_mb, above=True, maximum=LARGEST_MB, unit="MiB"
            ),
        )
        if self.max_cpu_seconds is not None:
            assign(self, max_cpu_seconds=seconds("enforcement.max_cpu_seconds", self.max_cpu_seconds))
        integer(
            "enforcement.max_concurrent_executions",
            self.max_concurrent_executions,
            minimum=1,
            maximum=_MOST_EXECUTIONS,
        )
        flag("enforcement.enforce_memory_limits", self.enforce_memory_limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """How often and how patiently to try again.

    Attributes:
        max_retries: Attempts, at least 0.
        retry_delay: Seconds before the second attempt, at least 0.
        backoff_factor: What each further delay is multiplied by, 1 to 1000.
        auto_recover: False: `recover_from_error` does nothing.
    """

    max_retries: int = 3
    retry_delay: float = 1.0
    backoff_factor: float = 2.0
    auto_recover: bool = True

    def __post_init__(self) -> None:
        integer("recovery.max_retries", self.max_retries, minimum=0)
        flag("recovery.auto_recover", self.auto_recover)
        assign(
            self,
            retry_delay=seconds("recovery.retry_delay", self.retry_delay, minimum=0),
            backoff_factor=number("recovery.backoff_factor", self.backoff_factor, minimum=1, maximum=1000),
        )
