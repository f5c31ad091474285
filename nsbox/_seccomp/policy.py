"""Policy files: TOML in, a validated `Policy` out. The format is explained at the top of policies/default.toml.

Everything that can be wrong with a file without knowing the machine's system calls is found here, as `ConfigError`
with file, rule and what is allowed; names of system calls are checked in compile.py, against libseccomp's table.
"""

import errno
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from nsbox._errors import ConfigError

ALLOW = "allow"
KILL = "kill"
BUILTIN = ("default", "strict")
MAX_SOURCE_BYTES = 1024 * 1024  # ours have 30 KB; what is larger is not a policy

_LOW_32_BITS = 0xFFFF_FFFF
_TESTS = ("in", "not_in", "any_bits")
_ERRNO_NAMES = frozenset(name for name in dir(errno) if name.startswith("E"))  # errorcode has no second names
_ANSWERS = "'allow', 'kill', or the name of an errno such as 'EPERM'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A test of the low 32 bits of one argument of a system call.

    Args:
        argument: Which argument, 0 to 5.
        test: "in" and "not_in" look for (argument & mask) in `values`; "any_bits" holds when argument & values[0] != 0.
        values: 1 to 64 numbers of at most 32 bits; exactly one, and not 0, for "any_bits".
        mask: Bits that "in" and "not_in" look at; all 32 by default.

    Raises:
        ValueError: A field is out of its range; the caller adds file and rule.
    """

    argument: int
    test: Literal["in", "not_in", "any_bits"]
    values: tuple[int, ...]
    mask: int = _LOW_32_BITS

    def __post_init__(self) -> None:
        if not 0 <= self.argument <= 5:
            raise ValueError(f"argument = {self.argument!r}: allowed are 0 to 5")
        if self.test not in _TESTS:
            raise ValueError(f"unknown test {self.test!r}: allowed are {', '.join(_TESTS)}")
        if not 1 <= len(self.values) <= 64:  # jumps in BPF reach 255 instructions; four such conditions fit
            raise ValueError(f"{self.test} has {len(self.values)} numbers: allowed are 1 to 64")
        for number in (*self.values, self.mask):
            if not 0 <= number <= _LOW_32_BITS:
                raise ValueError(f"{number:#x} does not fit: allowed are 0 to 0xffffffff")
        if self.test == "any_bits" and (len(self.values) != 1 or self.values[0] == 0):
            raise ValueError("any_bits takes one number, not 0")
        if self.test != "any_bits" and any(value & ~self.mask for value in self.values):
            raise ValueError(f"{self.test} has a number with bits outside mask = {self.mask:#x}, which can never match")

    def holds(self, arguments: Sequence[int]) -> bool:
        """Say whether a call with these arguments (64-bit, unsigned) meets the condition."""
        value = arguments[self.argument] & _LOW_32_BITS
        if self.test == "any_bits":
            return value & self.values[0] != 0
        return (value & self.mask in self.values) == (self.test == "in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One answer to some system calls, when all conditions hold, and why."""

    answer: str
    calls: tuple[str, ...]
    when: tuple[Condition, ...]
    reason: str
    optional: bool
    place: str  # "default.toml, rule 3": for messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy: for every system call that it names, its rules in order, the unconditional one last.

    Attributes:
        name: "default", "strict", or the name of the file.
        default: The errno, by name, for every call without a rule.
        rules: Call name to its rules; every tuple ends with exactly one rule without conditions.
    """

    name: str
    description: str
    default: str
    rules: Mapping[str, tuple[Rule, ...]]

    def decide(self, call: str, arguments: Sequence[int] = (0,) * 6) -> str:
        """Return the answer ("allow", "kill", errno name) to a call, by its name and six 64-bit arguments."""
        rule = self.rule_for(call, arguments)
        return self.default if rule is None else rule.answer

    def rule_for(self, call: str, arguments: Sequence[int] = (0,) * 6) -> Rule | None:
        """Return the rule that answers a call, with its reason; None where the policy's default does."""
        for rule in self.rules.get(call, ()):
            if all(condition.holds(arguments) for condition in rule.when):
                return rule
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """A policy file as read, before it is parsed; equal sources are equal policies."""

    name: str
    content: bytes


def load_policy(policy: Literal["default", "strict"] | Path) -> Policy:
    """Read and parse a policy.

    Args:
        policy: The name of one of nsbox's own policies, or the path of a file of at most 1 MiB.

    Raises:
        ConfigError: The file is missing, unreadable, or not a policy; the message names file, rule and what is allowed.
    """
    return parse_policy(read_source(policy))


def read_source(policy: Literal["default", "strict"] | Path) -> PolicySource:
    """Read a policy file; nsbox's own ones once per process, others every time, so that changes are seen."""
    if isinstance(policy, str):
        if policy not in BUILTIN:
            raise ConfigError(f"security = {policy!r}: allowed are 'default', 'strict', or the Path of a policy file")
        return _read_builtin(policy)
    try:
        if not policy.is_file():  # a FIFO would block, a device never end
            raise ConfigError(f"security = {str(policy)!r}: no such policy file")
        with policy.open("rb") as file:
            content = file.read(MAX_SOURCE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"security = {str(policy)!r}: cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_SOURCE_BYTES:
        raise ConfigError(f"security = {str(policy)!r}: larger than {MAX_SOURCE_BYTES} bytes")
    return PolicySource(name=policy.name, content=content)


@cache
def _read_builtin(name: str) -> PolicySource:
    return PolicySource(name=name, content=files("nsbox._seccomp").joinpath(f"policies/{name}.toml").read_bytes())


def parse_policy(source: PolicySource) -> Policy:
    """Parse a policy file, and the one it extends. Pure but for reading nsbox's own files.

    Raises:
        ConfigError: As `load_policy`.
    """
    where = source.name if source.name not in BUILTIN else f"{source.name}.toml"
    try:
        document = tomllib.loads(source.content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{where}: not a TOML file: {exc}") from exc
    _only_keys(document, {"policy", "rule"}, where)
    head = document.get("policy")
    if not isinstance(head, dict):
        raise ConfigError(f"{where}: the table [policy] is missing")
    _only_keys(head, {"description", "default", "extends"}, f"{where}, [policy]")
    description = _text(head, "description", f"{where}, [policy]")
    default = _text(head, "default", f"{where}, [policy]")
    if default not in _ERRNO_NAMES:
        raise ConfigError(f"{where}, [policy]: default = {default!r}: allowed is the name of an errno such as 'ENOSYS'")
    base: Mapping[str, tuple[Rule, ...]] = {}
    if "extends" in head:
        extends = _text(head, "extends", f"{where}, [policy]")
        if extends not in BUILTIN or extends == source.name:
            raise ConfigError(f"{where}, [policy]: extends = {extends!r}: allowed are 'default' and 'strict'")
        base = parse_policy(_read_builtin(extends)).rules
    entries = document.get("rule", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{where}: rules are written [[rule]], with two brackets")
    rules = [_parse_rule(entry, f"{where}, rule {index}") for index, entry in enumerate(entries, start=1)]
    merged = MappingProxyType({**base, **_by_call(rules)})
    return Policy(name=source.name, description=description, default=default, rules=merged)


def _by_call(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    """Sort rules by call, the unconditional one last, which every call must have exactly once."""
    conditional: dict[str, list[Rule]] = {}
    otherwise: dict[str, Rule] = {}
    for rule in rules:
        for call in rule.calls:
            if rule.when:
                conditional.setdefault(call, []).append(rule)
            elif call in otherwise:
                raise ConfigError(f"{rule.place}: {call} is answered already by {otherwise[call].place}")
            else:
                otherwise[call] = rule
    for call, narrowed in conditional.items():
        if call not in otherwise:
            raise ConfigError(f"{narrowed[0].place}: {call} also needs a rule without `when`, for all other arguments")
    return {call: (*conditional.get(call, ()), rule) for call, rule in otherwise.items()}


def _parse_rule(entry: object, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise ConfigError(f"{place}: a rule is a table")
    _only_keys(entry, {"answer", "calls", "reason", "when", "optional"}, place)
    answer = _text(entry, "answer", place)
    if answer not in (ALLOW, KILL) and answer not in _ERRNO_NAMES:
        raise ConfigError(f"{place}: answer = {answer!r}: allowed are {_ANSWERS}")
    calls = entry.get("calls")
    if not (isinstance(calls, list) and calls and all(isinstance(call, str) and call for call in calls)):
        raise ConfigError(f"{place}: calls = {calls!r}: allowed is a list of names of system calls, not empty")
    if len(set(calls)) != len(calls):
        raise ConfigError(f"{place}: calls names {sorted({c for c in calls if calls.count(c) > 1})} more than once")
    when = entry.get("when", [])
    if not isinstance(when, list) or ("when" in entry and not when):
        raise ConfigError(f"{place}: when = {when!r}: allowed is a list of conditions, not empty")
    optional = entry.get("optional", False)
    if not isinstance(optional, bool):
        raise ConfigError(f"{place}: optional = {optional!r}: allowed are true and false")
    conditions = tuple(_parse_condition(condition, place) for condition in when)
    reason = _text(entry, "reason", place)
    return Rule(answer=answer, calls=tuple(calls), when=conditions, reason=reason, optional=optional, place=place)


def _parse_condition(entry: object, place: str) -> Condition:
    if not isinstance(entry, dict):
        raise ConfigError(f"{place}: a condition is a table such as {{ argument = 0, in = [1, 2] }}")
    _only_keys(entry, {"argument", "mask", *_TESTS}, f"{place}, when")
    tests = [test for test in _TESTS if test in entry]
    if len(tests) != 1:
        raise ConfigError(f"{place}, when: a condition has exactly one of {', '.join(_TESTS)}; this has {tests}")
    test = tests[0]
    if test == "any_bits" and "mask" in entry:
        raise ConfigError(f"{place}, when: mask goes with in and not_in; any_bits is a mask itself")
    values = [entry[test]] if test == "any_bits" else entry[test]
    mask, argument = entry.get("mask", _LOW_32_BITS), entry.get("argument")
    if not isinstance(values, list) or not all(type(number) is int for number in (*values, mask, argument)):
        raise ConfigError(f"{place}, when: argument, mask and any_bits are integers, in and not_in lists of integers")
    try:
        return Condition(
            argument=cast("int", argument),
            test=cast("Literal['in', 'not_in', 'any_bits']", test),
            values=tuple(values),
            mask=mask,
        )
    except ValueError as exc:
        raise ConfigError(f"{place}, when: {exc}") from exc


def _only_keys(table: Mapping[str, object], allowed: set[str], place: str) -> None:
    unknown = sorted(table.keys() - allowed)
    if unknown:
        raise ConfigError(f"{place}: unknown key {unknown[0]!r}: allowed are {', '.join(sorted(allowed))}")


def _text(table: Mapping[str, object], key: str, place: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place}: {key} = {value!r}: allowed is a text, not empty")
    return value
