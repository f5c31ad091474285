"""Layer 1 of the protection: what a sandbox is given, enforced by the kernel.

Sizes are MiB, durations seconds, and a number of whatever the field's name says otherwise. All are frozen, checked when
made, and raise `ConfigError` naming the field, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nsbox._config.networks import BLOCKED_NETWORKS, domain_pattern, network
from nsbox._config.validation import (
    assign,
    choice,
    distinct,
    flag,
    instance_of,
    integer,
    items,
    megabytes,
    number,
    percent,
    refuse,
)

_MOST_CPUS = 8192  # CONFIG_NR_CPUS at its largest
_LEAST_CORES = 0.001  # the kernel takes no quota below 1 ms and no period above 1 s (cgroup-v2.rst, cpu.max)
_MOST_PIDS = 2**22  # PID_MAX_LIMIT
_LEAST_INODES = 16  # the directories that every sandbox starts with need some
_LEAST_OPEN_FILES = 8  # stdin, stdout, stderr, and what a dynamic loader and an interpreter hold at once
_LEAST_RATE = 0.001  # of a Mbit or a MiB a second; below it not one packet or block would pass in a lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuAllocation:
    """CPU time of all processes of the sandbox together.

    Attributes:
        cores: Bandwidth, in CPUs, at most 8192; 0.5 is half of the time of one CPU.
        limit_percent: Above 0, at most 100: the part of `cores` that is really given. The product is at least 0.001.
        priority: The weight against others when the CPUs are short.
        cpuset: The CPUs to run on, by number; None: all that the application may use.
    """

    cores: float = 1.0
    limit_percent: float = 100.0
    priority: Literal["low", "normal", "high"] = "normal"
    cpuset: Sequence[int] | None = None

    def __post_init__(self) -> None:
        cores = number("cpu.cores", self.cores, minimum=_LEAST_CORES, maximum=_MOST_CPUS, unit="CPUs")
        limit_percent = percent("cpu.limit_percent", self.limit_percent)
        if cores * limit_percent / 100 < _LEAST_CORES:
            refuse("cpu.limit_percent", limit_percent, f"at least {_LEAST_CORES} CPUs when applied to cores={cores}")
        choice("cpu.priority", self.priority, ("low", "normal", "high"))
        assign(self, cores=cores, limit_percent=limit_percent)
        if self.cpuset is not None:
            name = "cpu.cpuset"
            cpus = tuple(integer(name, cpu, minimum=0, maximum=_MOST_CPUS - 1) for cpu in items(name, self.cpuset))
            if not cpus:
                refuse(name, self.cpuset, "None or at least one CPU")
            assign(self, cpuset=distinct(name, cpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAllocation:
    """Memory of all processes of the sandbox together, with its in-memory files and the kernel's memory for it.

    Attributes:
        limit_mb: MiB, at least 1.
        swap_limit_mb: MiB of swap on top; 0: none.
        oom_kill_disable: True: at its limit the sandbox is suspended instead of killed.
    """

    limit_mb: int = 512
    swap_limit_mb: int = 0
    oom_kill_disable: bool = False

    def __post_init__(self) -> None:
        megabytes("memory.limit_mb", self.limit_mb)
        megabytes("memory.swap_limit_mb", self.swap_limit_mb, minimum=0)
        flag("memory.oom_kill_disable", self.oom_kill_disable)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskAllocation:
    """All that the sandbox can write: /workspace, /tmp, /dev/shm and home, in one quota.

    Attributes:
        quota_mb: MiB, at least 1.
        quota_inodes: Files and directories, at least 16.
        iops_limit: Operations a second, at least 1, each direction; None: not limited.
        throughput_mbps: MiB a second, at least 0.001, each direction; None: not limited. With either of the two set
            the files are on disk, else they may be in memory.
    """

    quota_mb: int = 256
    quota_inodes: int = 65_536
    iops_limit: int | None = None
    throughput_mbps: float | None = None

    def __post_init__(self) -> None:
        megabytes("disk.quota_mb", self.quota_mb)
        integer("disk.quota_inodes", self.quota_inodes, minimum=_LEAST_INODES, unit="files and directories")
        if self.iops_limit is not None:
            integer("disk.iops_limit", self.iops_limit, minimum=1, unit="operations a second")
        if self.throughput_mbps is not None:
            rate = number("disk.throughput_mbps", self.throughput_mbps, minimum=_LEAST_RATE, unit="MiB a second")
            assign(self, throughput_mbps=rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAllocation:
    """What of the network the sandbox sees; everything but `access` matters with "egress" only.

    Attributes:
        access: "none": a network of its own with nothing but a loopback. "egress": connections to the outside.
        bandwidth_mbps: Megabits a second, at least 0.001, each direction; None: not limited.
        connections_limit: At least 1; None: 4096.
        allowed_ports: Destination ports, 1 to 65535; None: any; (): none.
        blocked_domains: Names that are not resolved; "*.example.com" is all below example.com.
        allowed_domains: The only names that are; None: all but the blocked ones; (): none.
        blocked_networks: Ranges that are not connected to, whatever the name, and "host" for all addresses of the
            host's; by default that, and the private, link-local, loopback, metadata, multicast and reserved ranges.
    """

    access: Literal["none", "egress"] = "none"
    bandwidth_mbps: float | None = None
    connections_limit: int | None = None
    allowed_ports: Sequence[int] | None = None
    blocked_domains: Sequence[str] = ()
    allowed_domains: Sequence[str] | None = None
    blocked_networks: Sequence[str] = BLOCKED_NETWORKS

    def __post_init__(self) -> None:
        choice("network.access", self.access, ("none", "egress"))
        if self.bandwidth_mbps is not None:
            rate = number("network.bandwidth_mbps", self.bandwidth_mbps, minimum=_LEAST_RATE, unit="Mbit a second")
            assign(self, bandwidth_mbps=rate)
        if self.connections_limit is not None:
            integer("network.connections_limit", self.connections_limit, minimum=1, unit="connections")
        if self.allowed_ports is not None:
            name = "network.allowed_ports"
            ports = tuple(integer(name, port, minimum=1, maximum=65_535) for port in items(name, self.allowed_ports))
            assign(self, allowed_ports=distinct(name, ports))
        if self.allowed_domains is not None:
            assign(self, allowed_domains=_domains("network.allowed_domains", self.allowed_domains))
        if self.blocked_networks is not BLOCKED_NETWORKS:  # the default is known to be right, and is on the usual path
            name = "network.blocked_networks"
            ranges = tuple(network(name, item) for item in items(name, self.blocked_networks))
            assign(self, blocked_networks=ranges)
        assign(self, blocked_domains=_domains("network.blocked_domains", self.blocked_domains))


def _domains(name: str, value: object) -> tuple[str, ...]:
    return tuple(domain_pattern(name, item) for item in items(name, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessAllocation:
    """Processes and what each of them may hold.

    Attributes:
        max_processes: Processes and threads of the sandbox together, at least 1.
        max_open_files: File descriptors of one process, at least 8.
        max_file_size_mb: MiB that one file may reach, at least 1.
        stack_mb: MiB of stack of a process' main thread, at least 1.
    """

    max_processes: int = 64
    max_open_files: int = 256
    max_file_size_mb: int = 64
    stack_mb: int = 64

    def __post_init__(self) -> None:
        integer("processes.max_processes", self.max_processes, minimum=1, maximum=_MOST_PIDS)
        integer("processes.max_open_files", self.max_open_files, minimum=_LEAST_OPEN_FILES, maximum=2**30)
        megabytes("processes.max_file_size_mb", self.max_file_size_mb)
        megabytes("processes.stack_mb", self.stack_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceAllocation:
    """All that a sandbox is given."""

    cpu: CpuAllocation = field(default_factory=CpuAllocation)
    memory: MemoryAllocation = field(default_factory=MemoryAllocation)
    disk: DiskAllocation = field(default_factory=DiskAllocation)
    network: NetworkAllocation = field(default_factory=NetworkAllocation)
    processes: ProcessAllocation = field(default_factory=ProcessAllocation)

    def __post_init__(self) -> None:
        instance_of("resources.cpu", self.cpu, CpuAllocation)
        instance_of("resources.memory", self.memory, MemoryAllocation)
        instance_of("resources.disk", self.disk, DiskAllocation)
        instance_of("resources.network", self.network, NetworkAllocation)
        instance_of("resources.processes", self.processes, ProcessAllocation)
