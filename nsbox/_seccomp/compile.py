"""A policy as BPF, ready for seccomp(2): decided once per policy, loaded by the launcher for every program.

A kill is SECCOMP_RET_USER_NOTIF, not SECCOMP_RET_KILL_PROCESS: a killed process leaves only SIGSYS, which it could
send itself, and the number would be in the host's audit log at best. With a notification the launcher learns process,
number, architecture and arguments while the caller waits inside the call; it records them, kills the execution's
cgroup, and never answers "continue" (seccomp_unotify(2) forbids decisions on what a program can still change). Should
the launcher die, the kernel answers ENOSYS: the call is never carried out.
"""

import errno
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nsbox._errors import ConfigError, UnsupportedHostError
from nsbox._seccomp import assemble
from nsbox._seccomp.policy import ALLOW, KILL, Policy, PolicySource, Rule, parse_policy, read_source
from nsbox._seccomp.ranges import by_ranges
from nsbox._seccomp.syscalls import is_known, library, library_version, native_arch, syscall_number

# What the launcher's child still has to do once the filter is loaded (hand over the listener, report a failure, start
# the program, end), and what a program needs to return from a signal.
REQUIRED_CALLS = ("sendmsg", "write", "close", "execve", "exit", "exit_group", "rt_sigreturn")

# What it does between waiting for a program and starting it, with the first two arguments where they matter: a filter
# that allows all of it can be loaded before the wait, and then costs no execution anything (81 us, measured).
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_CAPBSET_DROP, _PR_SET_DUMPABLE = 24, 4
STARTING_CALLS: tuple[tuple[str, tuple[int, int]], ...] = (
    ("recvmsg", (0, 0)), ("mmap", (0, 0)), ("dup2", (0, 0)), ("prlimit64", (0, 0)), ("setrlimit", (0, 0)),
    ("umask", (0, 0)), ("setgroups", (0, 0)), ("setresgid", (0, 0)), ("setresuid", (0, 0)),
    ("prctl", (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)), ("prctl", (_PR_CAPBSET_DROP, 0)),
    ("prctl", (_PR_SET_DUMPABLE, 0)), ("capset", (0, 0)), ("chdir", (0, 0)),
    ("close_range", (3, 0)), ("rt_sigprocmask", (0, 0)),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPolicy:
    """A filter for this machine's architecture.

    Attributes:
        name: "default", "strict", or the policy file's name.
        bpf: An array of struct sock_filter, 8 bytes each, for seccomp(SECCOMP_SET_MODE_FILTER).
        instructions: How many; at most 4096.
        notifies: Whether it must be loaded with SECCOMP_FILTER_FLAG_NEW_LISTENER. True for every policy, since foreign
            system call tables are killed under each.
        loads_early: Whether it allows all that is done before a program starts, and so can be loaded ahead.
    """

    name: str
    bpf: bytes
    instructions: int
    notifies: bool
    loads_early: bool = False


def compile_policy(policy: Literal["default", "strict"] | Path) -> CompiledPolicy:
    """Compile a policy to BPF, or return it as compiled before.

    Args:
        policy: The name of one of nsbox's own policies, or the path of a policy file (see policies/default.toml).

    Returns:
        The filter; cached in the process by the policy's content, the architecture and libseccomp's version.

    Raises:
        ConfigError: The file is missing or malformed, names an unknown system call, or refuses a call without which no
            program starts. The message names file, rule and what is allowed.
        UnsupportedHostError: libseccomp is not installed or too old, or the machine is neither x86_64 nor aarch64.
    """
    return _compile(read_source(policy), native_arch(), library_version())


@lru_cache(maxsize=64)
def _compile(source: PolicySource, arch: int, version: tuple[int, int, int]) -> CompiledPolicy:
    policy = parse_policy(source)
    _check_names(policy, version)
    _check_required(policy)
    blocks: dict[int, tuple[assemble.Instruction, ...]] = {}
    program = by_ranges(assemble.splice(assemble.unpack(_export(policy, arch, blocks)), blocks), arch)
    notifies = any(i.code == assemble.RETURN and i.k == assemble.RET_USER_NOTIF for i in program)
    early = all(policy.decide(call, (*arguments, 0, 0, 0, 0)) == "allow" for call, arguments in STARTING_CALLS)
    return CompiledPolicy(
        name=policy.name, bpf=assemble.pack(program), instructions=len(program), notifies=notifies, loads_early=early
    )


def _export(policy: Policy, arch: int, blocks: dict[int, tuple[assemble.Instruction, ...]]) -> bytes:
    """Have libseccomp decide by number, and fill `blocks` with what it leaves to arguments, by marker."""
    seccomp = library()
    default = return_value(policy.default)
    try:
        # The library starts with the machine's own architecture only, and sends all others, and x32, to ACT_BADARCH.
        tree = seccomp.SyscallFilter(default)
        tree.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.NOTIFY)
        tree.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: 0.12 ms to load instead of 0.6 (libseccomp 2.5)
        markers: dict[tuple[assemble.Instruction, ...], int] = {}
        for call, rules in policy.rules.items():
            number = syscall_number(call)
            if number is None:
                continue  # this architecture has no such call, or no table knows it and the rule is optional
            action = return_value(rules[-1].answer)
            if len(rules) > 1:
                block = _block(rules)
                marker = markers.setdefault(block, len(markers) + 1)
                blocks[marker] = block
                action = seccomp.TRACE(marker)
            if action != default:  # libseccomp refuses a rule that repeats its default
                tree.add_rule(action, number)
        with os.fdopen(os.memfd_create(f"nsbox-filter-{arch:x}"), "w+b") as file:
            tree.export_bpf(file)
            file.seek(0)
            return file.read()
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EEXIST):
            raise  # out of memory or descriptors: not the policy's fault, nor the library's
        raise UnsupportedHostError(
            f"libseccomp {'.'.join(map(str, library_version()))} cannot build the filter: {exc.strerror}",
            missing=("libseccomp 2.5 with user notification (Linux 5.0)",),
            remedies=("apt-get install libseccomp2", "boot Linux 5.14 or newer"),
        ) from exc


def _block(rules: tuple[Rule, ...]) -> tuple[assemble.Instruction, ...]:
    return assemble.argument_block(rules, {rule.answer: return_value(rule.answer) for rule in rules})


def return_value(answer: str) -> int:
    """Return the SECCOMP_RET_* value of an answer."""
    if answer == ALLOW:
        return assemble.RET_ALLOW
    if answer == KILL:
        return assemble.RET_USER_NOTIF
    number: int = getattr(errno, answer)
    return assemble.RET_ERRNO | number


def _check_names(policy: Policy, version: tuple[int, int, int]) -> None:
    for call, rules in policy.rules.items():
        if not rules[-1].optional and not is_known(call):
            raise ConfigError(
                f"{rules[-1].place}: unknown system call {call!r}: allowed are the names that libseccomp "
                f"{'.'.join(map(str, version))} or nsbox knows; for others say optional = true"
            )


def _check_required(policy: Policy) -> None:
    for call in REQUIRED_CALLS:
        if policy.decide(call) != ALLOW or (policy.rules[call][-1].answer != ALLOW):
            raise ConfigError(
                f"{policy.name}: {call} is answered {policy.decide(call)!r}: no program could start; a policy must "
                f"allow {', '.join(REQUIRED_CALLS)}"
            )
