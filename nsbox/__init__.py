"""nsbox: run code that is not trusted, on this Linux host, in a sandbox of its own.

_sandbox, _blocking   AsyncSandbox, Sandbox, execute
_core                 the state machine, and the one path of every execution
_supervisor           the launcher's process and socket, pumps, the supervisor's thread
_plan                 decisions: from configuration to what the launcher is told
_cgroups, _seccomp, _host   what the kernel gives: limits, the filter, facts about the host
_verdict, _results    from what the kernel said to a verdict, and what the caller gets
_config, _states, _errors   the vocabulary
_runtimes             languages, as data
_cli                  the command `nsbox`
"""

from nsbox._blocking import Sandbox, execute
from nsbox._config import (
    CpuAllocation,
    DiskAllocation,
    EnforcementPolicy,
    ExecutionOptions,
    MemoryAllocation,
    MonitoringThresholds,
    Mount,
    NetworkAllocation,
    ProcessAllocation,
    RecoveryPolicy,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
)
from nsbox._errors import (
    ConfigError,
    ExecutionError,
    ExecutionTimeoutError,
    FileOperationError,
    InvalidStateError,
    InvalidStateTransitionError,
    NetworkError,
    ProgramStartError,
    ResourceExceededError,
    ResourceLimitError,
    SandboxError,
    SecurityViolationError,
    SetupError,
    UnsupportedHostError,
)
from nsbox._outputs import CodeError, RichOutput
from nsbox._results import Execution, ExecutionMetrics, ExecutionResult, SandboxMetadata, Verdict
from nsbox._runtimes import RUNTIMES
from nsbox._sandbox import AsyncSandbox
from nsbox._states import ALLOWED_TRANSITIONS, ExecutionStatus, SandboxStatus

__all__ = [
    "ALLOWED_TRANSITIONS",
    "RUNTIMES",
    "AsyncSandbox",
    "CodeError",
    "ConfigError",
    "CpuAllocation",
    "DiskAllocation",
    "EnforcementPolicy",
    "Execution",
    "ExecutionError",
    "ExecutionMetrics",
    "ExecutionOptions",
    "ExecutionResult",
    "ExecutionStatus",
    "ExecutionTimeoutError",
    "FileOperationError",
    "InvalidStateError",
    "InvalidStateTransitionError",
    "MemoryAllocation",
    "MonitoringThresholds",
    "Mount",
    "NetworkAllocation",
    "NetworkError",
    "ProcessAllocation",
    "ProgramStartError",
    "RecoveryPolicy",
    "ResourceAllocation",
    "ResourceExceededError",
    "ResourceLimitError",
    "RichOutput",
    "Runtime",
    "Sandbox",
    "SandboxConfig",
    "SandboxError",
    "SandboxMetadata",
    "SandboxStatus",
    "SecurityViolationError",
    "SetupError",
    "UnsupportedHostError",
    "Verdict",
    "execute",
]
