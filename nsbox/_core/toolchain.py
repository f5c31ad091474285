"""What a runtime's commands are told about their sandbox, and the error where a toolchain is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nsbox._config import Runtime, SandboxConfig
from nsbox._errors import UnsupportedHostError

_MIB = 1 << 20


def values_for(config: SandboxConfig, memory_bytes: int, allowed_cpus: int) -> Mapping[str, str]:
    """The placeholders that stand for limits: runtimes that read them from the machine would read the wrong ones.

    Args:
        config: Of the sandbox.
        memory_bytes: The memory limit in force.
        allowed_cpus: How many CPUs the host has for us.
    """
    cpu = config.resources.cpu
    cpus = math.ceil(cpu.cores * cpu.limit_percent / 100)
    if cpu.cpuset is not None:
        cpus = min(cpus, len(cpu.cpuset))
    return {
        "cpus": str(max(1, min(cpus, allowed_cpus))),
        "memory_mb": str(max(1, memory_bytes // _MIB)),
        "memory_soft_bytes": str(memory_bytes // 10 * 9),
    }


def missing_toolchain(runtime: Runtime, program: str) -> UnsupportedHostError:
    """The error that names what brings the program."""
    remedies = []
    if runtime.packages:
        remedies.append(f"apt-get install {' '.join(runtime.packages)}")
    remedies.append(
        f"where {program} is outside of what a sandbox sees (/usr, and the root given as rootfs), such as in a home "
        "directory: show it with mounts=, and name it in PATH or in a Runtime of your own"
    )
    return UnsupportedHostError(
        f"language {runtime.name!r}: there is no {program!r} in the sandbox's root", (program,), remedies
    )
