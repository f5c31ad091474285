"""nsbox: run code that is not trusted, on this Linux host, in a sandbox of its own.

_sandbox, _blocking   AsyncSandbox, Sandbox, execute
_code_context         CodeContext, BlockingCodeContext
_contexts             what the programs of contexts are told, and say
_pool, _blocking_pool sandboxes that are ready before they are asked for: AsyncPool, Pool
_private_network      sandboxes that reach each other by name: AsyncNetwork, Network
_handles, _blocking_handles   what those hand out: streams, processes
_route                from an event loop to the supervisor's
_core                 the state machine, and the one path of every execution
_network              the router of sandboxes with a network: addresses, rules, the way out, names
_ports                connections from outside to servers in sandboxes
_supervisor           the launcher's process and socket, pumps, the supervisor's thread
_files                the file API's work on a sandbox's root
_plan                 decisions: from configuration to what the launcher is told
_cgroups, _seccomp, _host   what the kernel gives: limits, the filter, facts about the host
_events, _records     what happens to a sandbox, and what it tells about its files, ports and resources
_verdict, _results    from what the kernel said to a verdict, and what the caller gets
_config, _states, _errors   the vocabulary
_documented           docstrings of the classes for blocking code
_runtimes             languages, as data
_cli                  the command `nsbox`
"""

from nsbox._blocking import Sandbox, execute
from nsbox._blocking_handles import BlockingEventStream, BlockingExecutionStream, BlockingFileWatch, BlockingProcess
from nsbox._blocking_pool import BlockingPoolMap, Pool
from nsbox._code_context import BlockingCodeContext, CodeContext
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
from nsbox._events import (
    Connected,
    Created,
    Disconnected,
    DiskFull,
    DomainRefused,
    EnvironmentBatchUpdated,
    EnvironmentDeleted,
    EnvironmentUpdated,
    Event,
    EventsLost,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionOutput,
    ExecutionStarted,
    ExecutionTimeout,
    FileDeleted,
    FileDownloaded,
    FileUploaded,
    HeartbeatFailed,
    MetricsUpdated,
    PortClosed,
    PortExposed,
    ReconnectFailed,
    RecoveryAttemptFailed,
    RecoveryFailed,
    RecoverySucceeded,
    ResourceExceeded,
    ResourceWarning,
    Resumed,
    RuntimeErrorEvent,
    SecurityViolation,
    Started,
    StateChanged,
    Suspended,
    Terminated,
)
from nsbox._handles import EventStream, ExecutionStream, FileWatch, Process
from nsbox._languages import detect_language
from nsbox._outputs import CodeError, RichOutput
from nsbox._pool import AsyncPool, PoolMap
from nsbox._private_network import AsyncNetwork, Network
from nsbox._records import ExposedPort, FileChange, FileInfo, ResourceMetrics, ResourceUsage, Usage
from nsbox._results import Execution, ExecutionMetrics, ExecutionResult, SandboxMetadata, Verdict
from nsbox._runtimes import RUNTIMES, load_runtime
from nsbox._sandbox import AsyncSandbox
from nsbox._states import ALLOWED_TRANSITIONS, ExecutionStatus, SandboxStatus

__all__ = [
    "ALLOWED_TRANSITIONS",
    "RUNTIMES",
    "AsyncNetwork",
    "AsyncPool",
    "AsyncSandbox",
    "BlockingCodeContext",
    "BlockingEventStream",
    "BlockingExecutionStream",
    "BlockingFileWatch",
    "BlockingPoolMap",
    "BlockingProcess",
    "CodeContext",
    "CodeError",
    "ConfigError",
    "Connected",
    "CpuAllocation",
    "Created",
    "Disconnected",
    "DiskAllocation",
    "DiskFull",
    "DomainRefused",
    "EnforcementPolicy",
    "EnvironmentBatchUpdated",
    "EnvironmentDeleted",
    "EnvironmentUpdated",
    "Event",
    "EventStream",
    "EventsLost",
    "Execution",
    "ExecutionCompleted",
    "ExecutionError",
    "ExecutionFailed",
    "ExecutionMetrics",
    "ExecutionOptions",
    "ExecutionOutput",
    "ExecutionResult",
    "ExecutionStarted",
    "ExecutionStatus",
    "ExecutionStream",
    "ExecutionTimeout",
    "ExecutionTimeoutError",
    "ExposedPort",
    "FileChange",
    "FileDeleted",
    "FileDownloaded",
    "FileInfo",
    "FileOperationError",
    "FileUploaded",
    "FileWatch",
    "HeartbeatFailed",
    "InvalidStateError",
    "InvalidStateTransitionError",
    "MemoryAllocation",
    "MetricsUpdated",
    "MonitoringThresholds",
    "Mount",
    "Network",
    "NetworkAllocation",
    "NetworkError",
    "Pool",
    "PoolMap",
    "PortClosed",
    "PortExposed",
    "Process",
    "ProcessAllocation",
    "ProgramStartError",
    "ReconnectFailed",
    "RecoveryAttemptFailed",
    "RecoveryFailed",
    "RecoveryPolicy",
    "RecoverySucceeded",
    "ResourceAllocation",
    "ResourceExceeded",
    "ResourceExceededError",
    "ResourceLimitError",
    "ResourceMetrics",
    "ResourceUsage",
    "ResourceWarning",
    "Resumed",
    "RichOutput",
    "Runtime",
    "RuntimeErrorEvent",
    "Sandbox",
    "SandboxConfig",
    "SandboxError",
    "SandboxMetadata",
    "SandboxStatus",
    "SecurityViolation",
    "SecurityViolationError",
    "SetupError",
    "Started",
    "StateChanged",
    "Suspended",
    "Terminated",
    "UnsupportedHostError",
    "Usage",
    "Verdict",
    "detect_language",
    "execute",
    "load_runtime",
]
