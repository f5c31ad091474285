"""Everything about an execution but its command, told to the launcher at once."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from nsbox._cgroups import CgroupTree, Level, Write, execution_writes
from nsbox._config import Limits, SandboxConfig
from nsbox._errors import UnsupportedHostError
from nsbox._plan.identity import IdMap
from nsbox._plan.users import DEFAULT_USER, find_user
from nsbox._plan.writable import ROOT_MASK

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPlan:
    """What the launcher needs to run a program, and is the same for many of them.

    Attributes:
        wall_ns: Wall clock limit in nanoseconds.
        cpu_us: CPU time limit of the tree in microseconds; 0: none.
        cpu_rate_milli: The most CPU time the tree can use in a second, in ms.
        writes: Into the execution's cgroups, after the template's.
        uid: Inside.
        gid: Inside.
        rlimits: Resource, soft and hard limit.
        capabilities: One bit each: of root in a sandbox with a writable root, else none.
        directory: Where it starts.
        search: Where programs without a slash are looked for, in order.
        environment: NAME=value.
    """

    wall_ns: int
    cpu_us: int
    cpu_rate_milli: int
    writes: tuple[Write, ...]
    uid: int
    gid: int
    rlimits: tuple[tuple[int, int, int], ...]
    capabilities: int
    directory: str
    search: str
    environment: tuple[bytes, ...]


def plan_execution(
    config: SandboxConfig,
    tree: CgroupTree,
    ids: IdMap,
    limits: Limits,
    *,
    user: str | int | None,
    passwd: str,
    runtime_environment: Mapping[str, str],
    allowed_cpus: int,
) -> ExecutionPlan:
    """Plan executions.

    Args:
        config: The sandbox's configuration.
        tree: The cgroups there are.
        ids: The ids there are.
        limits: What holds for them, `effective_limits(config, options)`.
        user: As `ExecutionOptions.user`.
        passwd: The text of the sandbox's /etc/passwd.
        runtime_environment: Variables of the language, below those of the sandbox.
        allowed_cpus: How many CPUs the host has for us.

    Raises:
        ProgramStartError: No such user.
        UnsupportedHostError: A limit above what this process itself has.
    """
    who = find_user(user, passwd, ids)
    environment = {
        "PATH": search_path(config),
        "HOME": who.home if who != DEFAULT_USER else DEFAULT_USER.home,
        "USER": who.name,
        "LOGNAME": who.name,
        "LANG": "C.UTF-8",
        **runtime_environment,
        **limits.environment,
    }
    return ExecutionPlan(
        wall_ns=round(limits.wall_seconds * 1e9),
        cpu_us=0 if limits.cpu_seconds is None else max(1, round(limits.cpu_seconds * 1e6)),
        cpu_rate_milli=_cpu_rate(config, tree, allowed_cpus),
        writes=_own_writes(config, tree, limits),
        uid=who.uid,
        gid=who.gid,
        rlimits=_rlimits(config, tree, limits),
        capabilities=ROOT_MASK if config.writable_root and who.uid == 0 else 0,
        directory=limits.working_directory,
        search=environment["PATH"],
        environment=tuple([os.fsencode(f"{name}={value}") for name, value in environment.items()]),
    )


def search_path(config: SandboxConfig) -> str:
    """The application's interpreter first: `python3` in a sandbox on the host's root is the one that runs nsbox."""
    return _path_on_host(sys.executable) if config.rootfs == "host" else _SYSTEM_PATH


@lru_cache(maxsize=4)
def _path_on_host(interpreter: str) -> str:
    directory = os.path.dirname(os.path.abspath(interpreter)) if interpreter else ""
    return _SYSTEM_PATH if directory in ("", *_SYSTEM_PATH.split(":")) else f"{directory}:{_SYSTEM_PATH}"


def _cpu_rate(config: SandboxConfig, tree: CgroupTree, allowed_cpus: int) -> int:
    """Bounded by the sandbox's bandwidth where that is in force, else by the CPUs there are. A bandwidth is kept on
    average only: within one period two threads can use up the quota of two CPUs, so some room is left.
    """
    cpu = config.resources.cpu
    bandwidth = cpu.cores * cpu.limit_percent / 100 * 1.25
    if tree.index_of("cpu") is None:
        bandwidth = float(allowed_cpus)
    return max(1, round(min(bandwidth, float(allowed_cpus)) * 1000))


def _own_writes(config: SandboxConfig, tree: CgroupTree, limits: Limits) -> tuple[Write, ...]:
    """Those of the template are in force already: what remains is a tighter memory limit."""
    if limits.memory_bytes is None or not config.enforcement.enforce_memory_limits:
        return ()
    common = set(execution_writes(tree, config.resources, memory_bytes=None))
    writes = execution_writes(tree, config.resources, memory_bytes=limits.memory_bytes)
    return tuple(write for write in writes if write not in common and write.level is Level.EXECUTION)


def _rlimits(config: SandboxConfig, tree: CgroupTree, limits: Limits) -> tuple[tuple[int, int, int], ...]:
    processes = config.resources.processes
    wanted = {
        resource.RLIMIT_NOFILE: processes.max_open_files,
        resource.RLIMIT_FSIZE: processes.max_file_size_mb * _MIB,
        resource.RLIMIT_STACK: processes.stack_mb * _MIB,
        resource.RLIMIT_MEMLOCK: 8 * _MIB,
        resource.RLIMIT_MSGQUEUE: 819_200,
        resource.RLIMIT_RTPRIO: 0,  # SCHED_FIFO is outside of CPU quotas: an application that may use it keeps that
        resource.RLIMIT_NICE: 0,
    }
    if tree.index_of("pids") is None:
        wanted[resource.RLIMIT_NPROC] = processes.max_processes + 3
    if tree.index_of("memory") is None and config.enforcement.enforce_memory_limits:
        # Counts private writable mappings, not address space: what the JVM, Go and Node only reserve is free,
        # getrlimit(2). The supervisor samples the sum over the processes; this bounds each of them in between.
        own = limits.memory_bytes or config.resources.memory.limit_mb * _MIB
        wanted[resource.RLIMIT_DATA] = own + own // 4
    if not tree.hierarchies and limits.cpu_seconds is not None:
        wanted[resource.RLIMIT_CPU] = int(limits.cpu_seconds) + 1
    planned = [(number, value, value) for number, value in wanted.items() if _allowed(number, value)]
    # 1 byte: a core dump would start the host's handler as the host's root, and unlike 0 it keeps a pipe handler
    # from running, core(5).
    core = 1 if _hard(resource.RLIMIT_CORE) is None or (_hard(resource.RLIMIT_CORE) or 0) >= 1 else 0
    return (*planned, (resource.RLIMIT_CORE, core, core))


def _hard(number: int) -> int | None:
    """The hard limit of this process, None for infinity."""
    hard = resource.getrlimit(number)[1]
    return None if hard == resource.RLIM_INFINITY else hard


_FIELDS = {
    resource.RLIMIT_NOFILE: ("processes.max_open_files", "ulimit -Hn"),
    resource.RLIMIT_FSIZE: ("processes.max_file_size_mb", "ulimit -Hf"),
    resource.RLIMIT_STACK: ("processes.stack_mb", "ulimit -Hs"),
}


def _allowed(number: int, value: int) -> bool:
    """Whether a limit has to be set; one of ours beyond the hard limit is no limit of the caller's, and left as it is.

    Raises:
        UnsupportedHostError: The caller asked for more than this process has to give.
    """
    hard = _hard(number)
    if hard is None or value <= hard:
        return True
    if number not in _FIELDS:
        return False
    field, command = _FIELDS[number]
    raise UnsupportedHostError(
        f"resources.{field}: this process itself may have no more than {hard} ({command}), asked for is {value}",
        missing=(field,),
        remedies=(f"raise the hard limit ({command}) of the process that uses nsbox, or ask for less",),
    )
