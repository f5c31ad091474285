"""The configuration: frozen data, checked when made, and pure functions over it.

Modules, lower ones first: frozen (immutable mapping) · validation (shared checks) · networks, runtime · resources
(layer 1) · policies (layers 2 and 3) · sandbox (`SandboxConfig`) · options (`ExecutionOptions`, `Limits`) · build
(keyword arguments to objects).
"""

from nsbox._config.build import SHORT_FORMS, make_config, make_options, split_fields
from nsbox._config.frozen import FrozenMap
from nsbox._config.networks import BLOCKED_NETWORKS, PRIVATE_NETWORKS
from nsbox._config.options import ExecutionOptions, Limits, effective_limits
from nsbox._config.policies import EnforcementPolicy, MonitoringThresholds, RecoveryPolicy
from nsbox._config.resources import (
    CpuAllocation,
    DiskAllocation,
    MemoryAllocation,
    NetworkAllocation,
    ProcessAllocation,
    ResourceAllocation,
)
from nsbox._config.runtime import Runtime
from nsbox._config.sandbox import Mount, SandboxConfig

__all__ = [
    "BLOCKED_NETWORKS",
    "PRIVATE_NETWORKS",
    "SHORT_FORMS",
    "CpuAllocation",
    "DiskAllocation",
    "EnforcementPolicy",
    "ExecutionOptions",
    "FrozenMap",
    "Limits",
    "MemoryAllocation",
    "MonitoringThresholds",
    "Mount",
    "NetworkAllocation",
    "ProcessAllocation",
    "RecoveryPolicy",
    "ResourceAllocation",
    "Runtime",
    "SandboxConfig",
    "effective_limits",
    "make_config",
    "make_options",
    "split_fields",
]
