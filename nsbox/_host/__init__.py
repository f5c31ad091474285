"""What this host gives: facts, capabilities, checks.

::

    syscalls      real system calls with arguments that fail, to see whether the kernel knows them
    facts         everything that is read from the host, once, as data
    capabilities  facts -> one check a capability; the names of `SandboxConfig.require`
    doctor        those, and what else a person wants to see, for `nsbox doctor`
"""

from nsbox._host.capabilities import KNOWN_CAPABILITIES, Check, capability_checks, missing_capabilities
from nsbox._host.doctor import checks, host_checks
from nsbox._host.facts import HostFacts, probe_host

__all__ = [
    "KNOWN_CAPABILITIES",
    "Check",
    "HostFacts",
    "capability_checks",
    "checks",
    "host_checks",
    "missing_capabilities",
    "probe_host",
]
