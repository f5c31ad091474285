"""From decisions to what the launcher and the pumps are told, for programs and for compilers alike."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Mapping, Sequence

from nsbox._config import ExecutionOptions, Limits, SandboxConfig
from nsbox._plan import disk_slack_bytes, plan_execution
from nsbox._supervisor.order import Order
from nsbox._supervisor.supervisor import Supervisor

_MIB = 1 << 20


def make_order(
    supervisor: Supervisor,
    config: SandboxConfig,
    limits: Limits,
    options: ExecutionOptions,
    argv: Sequence[str],
    *,
    passwd: str,
    runtime_environment: Mapping[str, str],
) -> Order:
    """What one execution is told.

    Args:
        supervisor: Whose sandbox it runs in.
        config: Of that sandbox.
        limits: What holds for this execution.
        options: Its options.
        argv: The program and its arguments, without those of `options`.
        passwd: The text of the sandbox's /etc/passwd.
        runtime_environment: Variables of the language.
    """
    plan = plan_execution(
        config, supervisor.tree, supervisor.ids, limits, options, argv,
        passwd=passwd, runtime_environment=runtime_environment, allowed_cpus=supervisor.allowed_cpus,
    )  # fmt: skip
    resources = config.resources
    stdin = options.stdin
    return Order(
        id=supervisor.next_number(),
        plan=plan,
        stdin=stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin or b"",
        keep_output=options.capture_output,
        output_bytes=round(config.enforcement.max_output_mb * _MIB),
        memory_bytes=limits.memory_bytes or resources.memory.limit_mb * _MIB,
        cpu_seconds=limits.cpu_seconds,
        process_limit=resources.processes.max_processes,
        disk_bytes=resources.disk.quota_mb * _MIB,
        disk_slack_bytes=disk_slack_bytes(config),
        file_size_bytes=resources.processes.max_file_size_mb * _MIB,
        cgroup_mode=supervisor.tree.mode,
        enforce_memory=config.enforcement.enforce_memory_limits,
        group=supervisor.tree.hierarchies[0].path if supervisor.tree.hierarchies else None,
        sampled=supervisor.tree.index_of("memory") is None,
    )


def without_time(order: Order) -> Order:
    """The order for a program that lives on, and has its limits of time anew for each thing that it does."""
    rlimits = tuple(limit for limit in order.plan.rlimits if limit[0] != resource.RLIMIT_CPU)
    plan = dataclasses.replace(order.plan, wall_ns=0, cpu_us=0, rlimits=rlimits)
    return dataclasses.replace(order, plan=plan, cpu_seconds=None)
