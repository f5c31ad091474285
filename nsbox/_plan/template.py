"""Everything that sandboxes of one kind have in common, told to the launcher once."""

from __future__ import annotations

from dataclasses import dataclass

from nsbox._cgroups import CgroupTree, Write, execution_writes, sandbox_hierarchies, sandbox_writes
from nsbox._config import SandboxConfig
from nsbox._plan.identity import IdMap
from nsbox._plan.operations import Operation
from nsbox._plan.root import HOSTNAME, disk_backed, root_operations
from nsbox._plan.writable import ROOT_MASK, require_host
from nsbox._seccomp import CompiledPolicy

__all__ = ["TemplatePlan", "disk_backed", "plan_template"]

SPARES = 2
"""Sandboxes that the launcher keeps ready per kind: one is taken while the other is made."""

USER_SYSCTLS = (
    ("user/max_user_namespaces", "0"), ("user/max_mnt_namespaces", "0"), ("user/max_pid_namespaces", "0"),
    ("user/max_net_namespaces", "0"), ("user/max_ipc_namespaces", "0"), ("user/max_uts_namespaces", "0"),
    ("user/max_inotify_instances", "16"), ("user/max_inotify_watches", "8192"),
)  # fmt: skip
"""Per user namespace, user_namespaces(7): a second refusal of namespaces, independent of the filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatePlan:
    """One kind of sandbox. Equal plans make equal sandboxes: the launcher builds them ahead.

    Attributes:
        hierarchies: Indices of the cgroup hierarchies that are used.
        init_id: uid and gid of PID 1 inside.
        spares: How many to keep ready.
        hostname: The name of the machine inside.
        policy: The system call filter.
        sandbox_writes: Into the cgroups of a sandbox.
        execution_writes: Into those of each execution, before its own.
        capabilities: Of root inside, one bit each; with any, nobody inside can become who PID 1 is.
        user_sysctls: Limits of the user namespace: name below /proc/sys, and value.
        root_operations: Carried out once.
        cell_operations: Carried out for each sandbox.
    """

    hierarchies: frozenset[int]
    init_id: int
    spares: int
    hostname: str
    policy: CompiledPolicy
    sandbox_writes: tuple[Write, ...]
    execution_writes: tuple[Write, ...]
    capabilities: int
    user_sysctls: tuple[tuple[str, str], ...]
    root_operations: tuple[Operation, ...]
    cell_operations: tuple[Operation, ...]


def plan_template(
    config: SandboxConfig,
    tree: CgroupTree,
    ids: IdMap,
    policy: CompiledPolicy,
    *,
    device: tuple[int, int] | None = None,
) -> TemplatePlan:
    """Plan one kind of sandbox.

    Args:
        config: The configuration.
        tree: The cgroups there are.
        ids: The ids there are.
        policy: The compiled filter.
        device: Major and minor number of the block device below the writable layer, if it has one.

    Raises:
        ConfigError: The configuration cannot work here: a mount without source, a CPU that is not there.
        UnsupportedHostError: The host lacks something that it asks for.
    """
    if config.writable_root:
        require_host(as_root=ids.ranges > 0, process_limit=tree.index_of("pids") is not None)
    root, cell = root_operations(config, as_root=ids.ranges > 0)
    resources = config.resources
    enforce_memory = config.enforcement.enforce_memory_limits
    return TemplatePlan(
        hierarchies=sandbox_hierarchies(tree, resources),
        init_id=ids.init_id,
        spares=SPARES if device is None else 0,  # an image belongs to one sandbox
        hostname=HOSTNAME,
        policy=policy,
        sandbox_writes=sandbox_writes(tree, resources, io_device=device, enforce_memory=enforce_memory),
        execution_writes=execution_writes(tree, resources, memory_bytes=None, enforce_memory=enforce_memory),
        capabilities=ROOT_MASK if config.writable_root else 0,
        user_sysctls=USER_SYSCTLS,
        root_operations=root,
        cell_operations=cell,
    )
