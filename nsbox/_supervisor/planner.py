"""What many executions have in common is decided once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from nsbox._cgroups import CgroupTree
from nsbox._config import Limits, SandboxConfig
from nsbox._plan import ExecutionPlan, IdMap, disk_slack_bytes, plan_execution
from nsbox._supervisor.order import Bounds

_KEPT = 64
_MIB = 1 << 20


class Planner:
    """Plans executions, and keeps the last plans: they are the same for one program after another.

    Args:
        tree: The cgroups there are.
        ids: The ids there are.
        allowed_cpus: How many CPUs the host has for us.
    """

    def __init__(self, tree: CgroupTree, ids: IdMap, allowed_cpus: int) -> None:
        self._tree, self._ids, self._allowed_cpus = tree, ids, allowed_cpus
        self._kept = lru_cache(maxsize=_KEPT)(self._plan)

    def plan(
        self, config: SandboxConfig, limits: Limits, *, user: str | int | None, passwd: str,
        runtime_environment: Mapping[str, str],
    ) -> tuple[ExecutionPlan, Bounds]:  # fmt: skip
        """As `plan_execution`, and what else holds for them."""
        return self._kept(config, limits, user, passwd, tuple(runtime_environment.items()))

    def _plan(
        self, config: SandboxConfig, limits: Limits, user: str | int | None, passwd: str,
        runtime_environment: tuple[tuple[str, str], ...],
    ) -> tuple[ExecutionPlan, Bounds]:  # fmt: skip
        tree, resources = self._tree, config.resources
        plan = plan_execution(
            config, tree, self._ids, limits, user=user, passwd=passwd, runtime_environment=dict(runtime_environment),
            allowed_cpus=self._allowed_cpus,
        )  # fmt: skip
        return plan, Bounds(
            output_bytes=round(config.enforcement.max_output_mb * _MIB),
            memory_bytes=limits.memory_bytes or resources.memory.limit_mb * _MIB,
            cpu_seconds=limits.cpu_seconds,
            process_limit=resources.processes.max_processes,
            disk_bytes=resources.disk.quota_mb * _MIB,
            disk_slack_bytes=disk_slack_bytes(config),
            file_size_bytes=resources.processes.max_file_size_mb * _MIB,
            cgroup_mode=tree.mode,
            enforce_memory=config.enforcement.enforce_memory_limits,
            group=tree.hierarchies[0].path if tree.hierarchies else None,
            sampled=tree.index_of("memory") is None,
        )
