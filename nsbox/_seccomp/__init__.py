"""The syscall filter: policy files, their compilation to BPF, and the names of system calls.

policy.py    policy files (TOML) parsed and validated; what a policy answers to a call (pure)
syscalls.py  libseccomp, loaded when first needed; numbers and names of system calls
assemble.py  BPF for the rules about arguments, joined to libseccomp's program (pure)
compile.py   compile_policy: a policy as BPF, ready for seccomp(2)
policies/    default.toml and strict.toml, each rule with its reason
"""

from nsbox._seccomp.compile import CompiledPolicy, compile_policy
from nsbox._seccomp.policy import Condition, Policy, Rule, load_policy
from nsbox._seccomp.syscalls import abi_name, syscall_name

__all__ = [
    "CompiledPolicy",
    "Condition",
    "Policy",
    "Rule",
    "abi_name",
    "compile_policy",
    "load_policy",
    "syscall_name",
]
