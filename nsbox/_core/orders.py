"""From decisions to what the launcher and the pumps are told, for programs and for compilers alike."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Mapping, Sequence

from nsbox._config import ExecutionOptions, Limits, SandboxConfig
from nsbox._supervisor.order import Order
from nsbox._supervisor.supervisor import Supervisor


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
    plan, bounds = supervisor.planner.plan(
        config, limits, user=options.user, passwd=passwd, runtime_environment=runtime_environment
    )
    stdin = options.stdin
    return Order(
        id=supervisor.next_number(),
        argv=tuple(map(os.fsencode, (*argv, *options.arguments))),
        stdin=stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin or b"",
        keep_output=options.capture_output,
        plan=plan,
        bounds=bounds,
    )


def without_time(order: Order) -> Order:
    """The order for a program that lives on, and has its limits of time anew for each thing that it does."""
    rlimits = tuple(limit for limit in order.plan.rlimits if limit[0] != resource.RLIMIT_CPU)
    plan = dataclasses.replace(order.plan, wall_ns=0, cpu_us=0, rlimits=rlimits)
    return dataclasses.replace(order, plan=plan, bounds=dataclasses.replace(order.bounds, cpu_seconds=None))
