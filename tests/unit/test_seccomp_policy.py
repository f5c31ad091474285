"""The syscall policies as data: what they answer, which files are refused, and that the BPF says the same."""

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nsbox._errors import ConfigError, UnsupportedHostError
from nsbox._seccomp import CompiledPolicy, Condition, Policy, abi_name, compile_policy, load_policy, syscall_name
from nsbox._seccomp.compile import REQUIRED_CALLS, return_value
from nsbox._seccomp.syscalls import (
    ARCH_AARCH64,
    ARCH_I386,
    ARCH_X86_64,
    NEW_CALLS,
    X32_BIT,
    native_arch,
    syscall_number,
)

HEAD = '[policy]\ndescription = "a test"\ndefault = "ENOSYS"\n'
MINIMAL = HEAD + f'[[rule]]\nanswer = "allow"\nreason = "to start"\ncalls = {list(REQUIRED_CALLS)}\n'

# What only an attack does. Written out here so that no line of the policy moves without this test being changed.
KILLED = {
    *("mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount"),
    *("fspick", "mount_setattr", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "bpf"),
    *("open_by_handle_at", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "iopl", "ioperm"),
}


def run_bpf(program: bytes, number: int, arch: int, arguments: tuple[int, ...]) -> int:
    """Interpret a filter as the kernel does, and return its SECCOMP_RET_* value."""
    data = struct.pack("<IIQ6Q", number & 0xFFFF_FFFF, arch, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, position = 0, 0
    while True:
        code, jump_true, jump_false, k = instructions[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x05:
                position += k
            case 0x15 | 0x25 | 0x35 | 0x45:
                tests = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: accumulator & k}
                position += jump_true if tests[code] else jump_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"instruction {code:#x} at {position - 1}")


def interesting_arguments(policy: Policy, call: str, rng: random.Random) -> list[tuple[int, ...]]:
    """Return argument lists at and beside every number of the call's conditions, with noise in the upper 32 bits."""
    rules = policy.rules.get(call, ())
    conditions = [condition for rule in rules for condition in rule.when]
    values: list[list[int]] = [[0, 0xFFFF_FFFF] for _ in range(6)]
    for condition in conditions:
        for value in condition.values:
            values[condition.argument] += [value, value + 1, value ^ (1 << rng.randrange(32))]
    lists = []
    for rule in rules or (None,):
        for _ in range(60 if conditions else 1):
            drawn = [rng.choice(choices) & 0xFFFF_FFFF for choices in values]
            for condition in rule.when if rule is not None else ():
                if condition.test != "not_in":  # aim at this rule: all its conditions at once are seldom drawn
                    noise = rng.getrandbits(32) & ~condition.mask
                    drawn[condition.argument] = rng.choice(condition.values) | noise
            lists.append(tuple(low | rng.choice((0, rng.getrandbits(32))) << 32 for low in drawn))
    return lists


def write_policy(directory: Path, text: str) -> Path:
    """Write a policy file."""
    path = directory / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["default", "strict"])
def test_the_program_answers_every_number_and_argument_as_the_policy_file_does(name: str) -> None:
    """The BPF of libseccomp and the argument blocks is equal to `Policy.decide`, for 0..600 and drawn arguments."""
    policy, compiled = load_policy(name), compile_policy(name)  # type: ignore[arg-type]
    rng = random.Random(20260101)  # noqa: S311 - drawing test cases
    answers = set()
    for number in range(601):
        call = syscall_name(number, native_arch())
        for arguments in interesting_arguments(policy, call, rng):
            expected = policy.decide(call, arguments)
            answers.add((call, expected))
            returned = run_bpf(compiled.bpf, number, native_arch(), arguments)
            assert returned == return_value(expected), (call, [hex(a) for a in arguments], expected)
    narrowed = {call for call, rules in policy.rules.items() if len(rules) > 1 and syscall_number(call) is not None}
    for call in narrowed:  # the drawing is worth something only if it reached every answer of each rule
        reached = {answer for reached_call, answer in answers if reached_call == call}
        assert reached == {rule.answer for rule in policy.rules[call]}, call


@pytest.mark.parametrize("name", ["default", "strict"])
def test_foreign_tables_are_killed_whatever_the_number(name: str) -> None:
    """i386, AArch32 and x32 calls go to the listener; the control is the same number in the machine's own table."""
    bpf, zeros = compile_policy(name).bpf, (0,) * 6  # type: ignore[arg-type]
    getpid = syscall_number("getpid")
    assert getpid is not None
    assert run_bpf(bpf, getpid, native_arch(), zeros) == return_value("allow")
    foreign = {ARCH_X86_64, ARCH_AARCH64, ARCH_I386, 0x4000_0028} - {native_arch()}
    for arch in foreign:
        assert {run_bpf(bpf, number, arch, zeros) for number in range(601)} == {return_value("kill")}
    if native_arch() == ARCH_X86_64:
        for number in range(601):
            assert run_bpf(bpf, number | X32_BIT, ARCH_X86_64, zeros) == return_value("kill")


def test_the_default_policy_names_every_call_there_is() -> None:
    """No call is answered by oversight: what libseccomp's table or ours has, up to Linux 7.0, has its rule."""
    known = {syscall_name(number, arch) for arch in NEW_CALLS for number in range(600)}
    known = {call for call in known if not call.startswith("unknown_")}
    assert len(known) > 370
    assert known - load_policy("default").rules.keys() == set()


@pytest.mark.parametrize("name", ["default", "strict"])
def test_exactly_the_calls_of_an_attack_are_killed(name: str) -> None:
    """The set of calls that end an execution is the one written down in this file."""
    policy = load_policy(name)  # type: ignore[arg-type]
    assert {call for call, rules in policy.rules.items() if any(rule.answer == "kill" for rule in rules)} == KILLED


def test_strict_allows_nothing_that_default_refuses() -> None:
    """For every call, and for drawn arguments, what strict allows default allows too; and it does refuse more."""
    default, strict = load_policy("default"), load_policy("strict")
    rng = random.Random(7)  # noqa: S311 - drawing test cases
    refused_more = set()
    for call in strict.rules:
        for policy in (default, strict):
            for arguments in interesting_arguments(policy, call, rng):
                if strict.decide(call, arguments) == "allow":
                    assert default.decide(call, arguments) == "allow", (call, arguments)
                elif default.decide(call, arguments) == "allow":
                    refused_more.add(call)
    assert {"socket", "seccomp", "setuid", "memfd_create", "inotify_init1", "shmget", "splice"} <= refused_more


def test_a_condition_sees_the_low_32_bits_only() -> None:
    """TIOCSTI | 1 << 32 is TIOCSTI to the kernel, and so to a condition (K04)."""
    tiocsti = Condition(argument=1, test="in", values=(0x5412,))
    assert tiocsti.holds((0, 0x5412, 0, 0, 0, 0))
    assert tiocsti.holds((0, 0x5412 | 1 << 32, 0, 0, 0, 0))
    assert not tiocsti.holds((0, 0x5413, 0, 0, 0, 0))


def test_the_first_rule_whose_conditions_hold_answers_and_the_unconditional_one_is_last(tmp_path: Path) -> None:
    """Order decides among conditional rules; the rule without `when` is for the rest, wherever it is written."""
    rules = (
        '[[rule]]\nanswer = "allow"\nreason = "r"\ncalls = ["socket"]\n'
        '[[rule]]\nanswer = "EPERM"\nreason = "r"\ncalls = ["socket"]\nwhen = [{ argument = 0, in = [1, 2] }]\n'
        '[[rule]]\nanswer = "kill"\nreason = "r"\ncalls = ["socket"]\nwhen = [{ argument = 0, not_in = [3] }]\n'
    )
    path = write_policy(tmp_path, MINIMAL + rules)
    policy, compiled, number = load_policy(path), compile_policy(path), syscall_number("socket")
    assert number is not None
    for family, answer in {1: "EPERM", 2: "EPERM", 3: "allow", 4: "kill"}.items():
        arguments = (family, 0, 0, 0, 0, 0)
        assert policy.decide("socket", arguments) == answer
        assert run_bpf(compiled.bpf, number, native_arch(), arguments) == return_value(answer)


def test_a_policy_that_extends_another_overrides_it_call_by_call(tmp_path: Path) -> None:
    """A call named in the file has that file's rules alone; all others keep the rules of the policy it extends."""
    own = HEAD.replace("ENOSYS", "EPERM") + 'extends = "default"\n'
    own += '[[rule]]\nanswer = "allow"\nreason = "profiling"\ncalls = ["perf_event_open", "ioctl"]\n'
    policy = load_policy(write_policy(tmp_path, own))
    tiocsti = (0, 0x5412, 0, 0, 0, 0)
    assert load_policy("default").decide("ioctl", tiocsti) == "EPERM"
    assert policy.decide("ioctl", tiocsti) == "allow"
    assert policy.decide("perf_event_open") == "allow"
    assert policy.decide("ptrace") == "kill"
    assert policy.decide("no_such_call") == "EPERM"
    assert policy.name == "own.toml"


def test_a_policy_is_compiled_once_until_its_content_changes(tmp_path: Path) -> None:
    """The cache goes by content: an unchanged file gives the same object, a changed one a new filter."""
    path = write_policy(tmp_path, MINIMAL)
    first = compile_policy(path)
    assert compile_policy(path) is first
    assert isinstance(first, CompiledPolicy)
    assert first.instructions * 8 == len(first.bpf)
    assert first.notifies
    path.write_text(MINIMAL + '[[rule]]\nanswer = "allow"\nreason = "r"\ncalls = ["read"]\n')
    number = syscall_number("read")
    assert number is not None
    assert run_bpf(first.bpf, number, native_arch(), (0,) * 6) == return_value("ENOSYS")
    assert run_bpf(compile_policy(path).bpf, number, native_arch(), (0,) * 6) == return_value("allow")


RULE = '[[rule]]\nanswer = "EPERM"\nreason = "r"\ncalls = ["ioctl"]\n'
ELSE = '[[rule]]\nanswer = "allow"\nreason = "r"\ncalls = ["ioctl"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 1", "own.toml: not a TOML file"),
        ("", r"own.toml: the table \[policy\] is missing"),
        (
            MINIMAL.replace("ENOSYS", "ENOSUCH"),
            "default = 'ENOSUCH': allowed is the name of an errno",
        ),
        (MINIMAL.replace("ENOSYS", "allow"), "default = 'allow': allowed is the name of an errno"),
        (
            MINIMAL.replace("default =", "fallback ="),
            "unknown key 'fallback': allowed are default, desc",
        ),
        (HEAD + 'extends = "own"\n', "extends = 'own': allowed are 'default' and 'strict'"),
        (MINIMAL + RULE.replace("EPERM", "trap"), "own.toml, rule 2: answer = 'trap': allowed are 'allow', 'kill', or"),
        (MINIMAL + RULE.replace('"r"', '" "'), "own.toml, rule 2: reason = ' ': allowed is a text"),
        (MINIMAL + RULE.replace('["ioctl"]', "[]"), "own.toml, rule 2: calls = "),
        (MINIMAL + RULE.replace('"ioctl"', '"ioctl", "ioctl"'), "calls names .'ioctl'. more than once"),
        (
            MINIMAL + RULE.replace("ioctl", "ioctll"),
            "own.toml, rule 2: unknown system call 'ioctll': allowed are",
        ),
        (MINIMAL + RULE + ELSE, "own.toml, rule 3: ioctl is answered already by own.toml, rule 2"),
        (MINIMAL + RULE + "when = []\n", "own.toml, rule 2: when = "),
        (MINIMAL + RULE + "when = [{ argument = 1, in = [1] }]\n", "rule 2: ioctl also needs a rule without `when`"),
        (
            MINIMAL + RULE + "when = [{ argument = 6, in = [1] }]\n" + ELSE,
            "rule 2, when: argument = 6: allowed are 0 to",
        ),
        (
            MINIMAL + RULE + "when = [{ argument = 1, equals = 1 }]\n" + ELSE,
            "unknown key 'equals': allowed are any",
        ),
        (MINIMAL + RULE + "when = [{ argument = 1 }]\n" + ELSE, "has exactly one of in, not_in, any_bits"),
        (MINIMAL + RULE + "when = [{ argument = 1, in = 5 }]\n" + ELSE, "in and not_in lists of integers"),
        (MINIMAL + RULE + "when = [{ argument = 1, in = [true] }]\n" + ELSE, "in and not_in lists of integers"),
        (MINIMAL + RULE + "when = [{ argument = 1, in = [0x1_0000_0000] }]\n" + ELSE, "allowed are 0 to 0xffffffff"),
        (MINIMAL + RULE + "when = [{ argument = 1, any_bits = 0 }]\n" + ELSE, "any_bits takes one number, not 0"),
        (MINIMAL + RULE + "when = [{ argument = 1, mask = 1, in = [2] }]\n" + ELSE, "outside mask = 0x1"),
        (
            MINIMAL + RULE + f"when = [{{ argument = 1, in = {list(range(65))} }}]\n" + ELSE,
            "65 numbers: allowed are 1",
        ),
        (MINIMAL.replace("'execve', ", ""), "own.toml: execve is answered 'ENOSYS': no program could start"),
        (MINIMAL.replace('"allow"', '"kill"'), "own.toml: sendmsg is answered 'kill'"),
        (MINIMAL.replace("[[rule]]", "[rule]"), "own.toml: rules are written"),
    ],
)
def test_a_bad_policy_file_is_refused_with_file_rule_and_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    """Every fault is a ConfigError that says where; the control is the file that all of them are made from."""
    assert compile_policy(write_policy(tmp_path, MINIMAL)).instructions > 0
    with pytest.raises(ConfigError, match=message):
        compile_policy(write_policy(tmp_path, text))


def test_an_optional_rule_may_name_a_call_that_no_table_knows(tmp_path: Path) -> None:
    """`optional = true` lets a policy name a call of a kernel to come; until then it gets the default."""
    text = MINIMAL + RULE.replace("ioctl", "call_of_2040")
    with pytest.raises(ConfigError, match="unknown system call 'call_of_2040'"):
        compile_policy(write_policy(tmp_path, text))
    assert compile_policy(write_policy(tmp_path, text + "optional = true\n")).instructions > 0


def test_a_missing_or_unreadable_policy_is_a_config_error(tmp_path: Path) -> None:
    """A path that is no regular file, and a name that is none of ours, are refused and named."""
    with pytest.raises(ConfigError, match=r"absent\.toml.*no such policy file"):
        compile_policy(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="no such policy file"):
        compile_policy(tmp_path)
    with pytest.raises(ConfigError, match="'lax': allowed are 'default', 'strict', or the Path"):
        compile_policy("lax")  # type: ignore[arg-type]
    (tmp_path / "big.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        compile_policy(tmp_path / "big.toml")


def test_without_libseccomp_the_host_is_unsupported_and_nsbox_still_imports() -> None:
    """The import of the filter needs no library; compiling says what is missing and how to get it."""
    program = (
        "import ctypes.util; real = ctypes.util.find_library\n"
        "import sys; hide = sys.argv[1]\n"
        "ctypes.util.find_library = lambda name: None if name == hide else real(name)\n"
        "from nsbox._seccomp import compile_policy, syscall_name\n"
        "from nsbox._errors import UnsupportedHostError\n"
        "try:\n"
        "    print(compile_policy('default').name)\n"
        "except UnsupportedHostError as exc:\n"
        "    print(*exc.missing, *exc.remedies, syscall_name(101, 0xC000003E))\n"
    )

    def output(hide: str) -> str:
        command = [sys.executable, "-c", program, hide]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert output("nothing") == "default"
    assert output("seccomp") == "libseccomp apt-get install libseccomp2 unknown_101"
    assert issubclass(UnsupportedHostError, Exception)


@pytest.mark.parametrize(
    ("number", "arch", "name", "abi"),
    [
        (101, ARCH_X86_64, "ptrace", "x86_64"),
        (117, ARCH_AARCH64, "ptrace", "aarch64"),
        (26, ARCH_I386, "ptrace", "i386"),
        (X32_BIT | 521, ARCH_X86_64, "ptrace", "x32"),
        (X32_BIT | 39, ARCH_X86_64, "getpid", "x32"),
        (467, ARCH_X86_64, "open_tree_attr", "x86_64"),
        (471, ARCH_AARCH64, "rseq_slice_yield", "aarch64"),
        (335, ARCH_X86_64, "uretprobe", "x86_64"),
        (599, ARCH_X86_64, "unknown_599", "x86_64"),
        (-1, ARCH_X86_64, "unknown_-1", "x86_64"),
        (5, 0x1234, "unknown_5", "arch_0x1234"),
    ],
)
def test_evidence_names_the_call_and_its_table(number: int, arch: int, name: str, abi: str) -> None:
    """Names come from the caller's own table, x32's from x32's, and unknown numbers are said to be so."""
    assert syscall_name(number, arch) == name
    assert abi_name(number, arch) == abi
