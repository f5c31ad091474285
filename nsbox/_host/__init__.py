"""What this host gives: facts, capabilities, checks.

::

    syscalls      real system calls with arguments that fail, to see whether the kernel knows them
    network       what the network of a sandbox is made of, and its ways out
    facts         everything that is read from the host, once, as data
    capabilities  facts -> one check a capability; the names of `SandboxConfig.require`
    landlock      what keeps executions of one sandbox apart
    doctor        those, and what else a person wants to see, for `nsbox doctor`
"""

from nsbox._host.capabilities import KNOWN_CAPABILITIES, Check, capability_checks, missing_capabilities
from nsbox._host.doctor import checks, host_checks
from nsbox._host.facts import HostFacts, probe_host
from nsbox._host.landlock import executions_are_apart, landlock_abi, separation_of_executions

__all__ = [
    "KNOWN_CAPABILITIES",
    "Check",
    "HostFacts",
    "capability_checks",
    "checks",
    "executions_are_apart",
    "host_checks",
    "landlock_abi",
    "missing_capabilities",
    "probe_host",
    "separation_of_executions",
]
