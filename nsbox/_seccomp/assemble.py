"""BPF for rules about arguments, and their place in libseccomp's program. Pure.

libseccomp turns syscall numbers into a binary tree, and does it well. Rules about arguments as a policy has them it
cannot express in one filter: an unconditional rule replaces the conditional ones of the same call, so there is no
"else"; an argument can be compared once a rule; and masked inequality does not exist. Two filters could (Flatpak's
way), but each costs its own load, and only one may have the listener that kills need. So a call with conditions gets a
marker, SECCOMP_RET_TRACE with a number, which libseccomp puts where the decision belongs; each marker becomes a jump
to a block made here. Nothing else in the program moves, and a marker that is missing or left over is an error.

Sources: <linux/bpf_common.h>, <linux/seccomp.h>, kernel/seccomp.c (seccomp_check_filter), seccomp(2).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsbox._errors import ConfigError
from nsbox._seccomp.policy import Condition, Rule

RET_ALLOW = 0x7FFF_0000
RET_TRACE = 0x7FF0_0000
RET_USER_NOTIF = 0x7FC0_0000
RET_ERRNO = 0x0005_0000
RET_ACTION = 0xFFFF_0000
RET_DATA = 0x0000_FFFF
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND_CONSTANT = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA: k instructions forward
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

_ARGUMENTS_OFFSET = 16  # of args[6] in struct seccomp_data; the low half comes first, the machine being little-endian
_FORMAT = struct.Struct("=HBBI")  # struct sock_filter


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct sock_filter."""

    code: int
    jump_true: int
    jump_false: int
    k: int


def unpack(program: bytes) -> list[Instruction]:
    """Turn an array of struct sock_filter into instructions."""
    return [Instruction(*fields) for fields in _FORMAT.iter_unpack(program)]


def pack(instructions: Sequence[Instruction]) -> bytes:
    """Turn instructions into an array of struct sock_filter, in the machine's byte order."""
    return b"".join(_FORMAT.pack(i.code, i.jump_true, i.jump_false, i.k) for i in instructions)


def argument_block(rules: Sequence[Rule], returns: Mapping[str, int]) -> tuple[Instruction, ...]:
    """Return the instructions that decide a call by its arguments.

    Args:
        rules: Tried in order; the last has no conditions.
        returns: Each rule's answer as a SECCOMP_RET_* value.

    Raises:
        ConfigError: A rule has so many numbers that the jump over it exceeds BPF's 255 instructions.
    """
    block: list[Instruction] = []
    for rule in rules:
        body = [Instruction(RETURN, 0, 0, returns[rule.answer])]
        for condition in reversed(rule.when):  # from the end, as every test must know how far the next rule is
            body = [*_test(condition, len(body), rule.place), *body]
        block += body
    return tuple(block)


def _test(condition: Condition, rest: int, place: str) -> list[Instruction]:
    """Return a test that falls through to the `rest` instructions of its rule, or jumps past them to the next rule."""
    if rest + len(condition.values) > 255:
        raise ConfigError(f"{place}: too many numbers in its conditions: allowed are about 240 a rule")
    load = [Instruction(LOAD_WORD, 0, 0, _ARGUMENTS_OFFSET + 8 * condition.argument)]
    if condition.test == "any_bits":
        return [*load, Instruction(JUMP_BITS, 0, rest, condition.values[0])]
    if condition.mask != 0xFFFF_FFFF:
        load.append(Instruction(AND_CONSTANT, 0, 0, condition.mask))
    last = len(condition.values) - 1
    tests = []
    for index, value in enumerate(condition.values):
        to_rest, to_next = last - index, last - index + rest
        if condition.test == "not_in":
            tests.append(Instruction(JUMP_EQUAL, to_next, 0, value))
        else:
            tests.append(Instruction(JUMP_EQUAL, to_rest, to_next if index == last else 0, value))
    return [*load, *tests]


def splice(program: Sequence[Instruction], blocks: Mapping[int, Sequence[Instruction]]) -> list[Instruction]:
    """Replace each marker return by a jump to its block, which goes to the end of the program.

    Args:
        program: libseccomp's, with SECCOMP_RET_TRACE | marker where a block belongs.
        blocks: Marker (1 to 0xffff) to block; every block ends in returns only.

    Raises:
        ConfigError: The program exceeds the kernel's 4096 instructions.
        RuntimeError: A marker is missing in the program, or one without a block is there: a fault of nsbox's.
    """
    result = list(program)
    starts: dict[int, int] = {}
    for marker, block in blocks.items():
        starts[marker] = len(result)
        result += block
    if len(result) > MAX_INSTRUCTIONS:
        raise ConfigError(f"the policy needs {len(result)} BPF instructions: allowed are {MAX_INSTRUCTIONS}")
    seen = set()
    for index, instruction in enumerate(program):
        if instruction.code == RETURN and instruction.k & RET_ACTION == RET_TRACE:
            marker = instruction.k & RET_DATA
            seen.add(marker)
            if marker in starts:
                result[index] = Instruction(JUMP, 0, 0, starts[marker] - index - 1)
    if seen != starts.keys():
        raise RuntimeError(f"libseccomp's program has the markers {sorted(seen)}, not {sorted(starts)}")
    return result
