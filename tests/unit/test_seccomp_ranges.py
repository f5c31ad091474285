"""A filter over ranges of numbers decides as the one it is made from, and whatever is not sure of that is refused."""

import random

import pytest

from nsbox._seccomp.assemble import (
    JUMP,
    JUMP_EQUAL,
    LOAD_WORD,
    RET_ALLOW,
    RET_ERRNO,
    RET_USER_NOTIF,
    RETURN,
    Instruction,
)
from nsbox._seccomp.ranges import by_ranges, decide

ARCH, OTHER = 0xC000003E, 0x40000003


def ret(value: int) -> Instruction:
    """An answer."""
    return Instruction(RETURN, 0, 0, value)


def plain_program(answers: dict[int, int], default: int, blocks: dict[int, list[Instruction]]) -> list[Instruction]:
    """As libseccomp's, one comparison a number; a number in `blocks` goes there instead."""
    body: list[Instruction] = []
    for number, answer in answers.items():
        body += [Instruction(JUMP_EQUAL, 0, 1, number), ret(answer)]
    jumps = {}
    for number in blocks:
        jumps[number] = len(body) + 1
        body += [Instruction(JUMP_EQUAL, 0, 1, number), Instruction(JUMP, 0, 0, 0)]
    body.append(ret(default))
    for number, block in blocks.items():
        body[jumps[number]] = Instruction(JUMP, 0, 0, len(body) - jumps[number] - 1)
        body += block
    head = [Instruction(LOAD_WORD, 0, 0, 4), Instruction(JUMP_EQUAL, 1, 0, ARCH), ret(RET_USER_NOTIF)]
    return [*head, Instruction(LOAD_WORD, 0, 0, 0), *body]


def run(program: list[Instruction], arch: int, number: int, argument: int) -> int:
    """Interpret it as the kernel does, refusing what the kernel refuses: a jump of more than 255 or out of it."""
    accumulator, at = 0, 0
    while True:
        one = program[at]
        assert 0 <= one.jump_true <= 255
        assert 0 <= one.jump_false <= 255
        at += 1
        match one.code:
            case 0x20:
                accumulator = {0: number, 4: arch, 16: argument}[one.k]
            case 0x05:
                at += one.k
            case 0x15:
                at += one.jump_true if accumulator == one.k else one.jump_false
            case 0x35:
                at += one.jump_true if accumulator >= one.k else one.jump_false
            case 0x06:
                return one.k
            case _:
                raise AssertionError(one)


@pytest.mark.parametrize("seed", range(12))
def test_the_two_programs_answer_every_number_alike(seed: int) -> None:
    """Drawn policies, of few numbers and of so many that jumps exceed what one instruction can skip."""
    rng = random.Random(seed)  # noqa: S311 - drawing test cases
    numbers = rng.sample(range(1200), rng.choice((0, 1, 7, 90, 700)))
    values = [RET_ALLOW, RET_USER_NOTIF, *(RET_ERRNO | number for number in range(1, rng.choice((2, 40))))]
    load = Instruction(LOAD_WORD, 0, 0, 16)
    blocks = {
        number: [load, Instruction(JUMP_EQUAL, 0, 1, number), ret(RET_ALLOW), ret(RET_ERRNO | 1)]
        for number in rng.sample(range(1200, 2400), rng.choice((0, 3, 130)))
    }
    answers = {number: rng.choice(values) for number in numbers}
    program = plain_program(answers, rng.choice(values), blocks)
    made = by_ranges(program, ARCH)
    seen = set()
    for number in [*range(2500), 2**31, 2**32 - 1]:
        for argument in (number, 0):
            answer = run(program, ARCH, number, argument)
            seen.add(answer)
            assert run(made, ARCH, number, argument) == answer, number
        assert run(made, OTHER, number, 0) == RET_USER_NOTIF
    assert len(seen) > 1 or len(numbers) + len(blocks) < 2  # else there was nothing to tell apart


def test_neighbours_with_one_answer_become_one_comparison() -> None:
    """What it is for: 300 numbers in 2 ranges take a handful of instructions, instead of two for each."""
    program = plain_program(dict.fromkeys(range(300), RET_ALLOW), RET_ERRNO | 38, {})
    assert len(program) > 600
    assert len(by_ranges(program, ARCH)) == 7


def test_a_program_that_looks_at_more_than_numbers_is_refused() -> None:
    """An instruction that the comparison does not know could decide otherwise: nothing is made of such a program."""
    bits = plain_program({}, RET_ALLOW, {})
    bits.insert(4, Instruction(0x45, 0, 0, 1))  # BPF_JSET
    with pytest.raises(RuntimeError, match="instruction 0x45"):
        by_ranges(bits, ARCH)
    by_arch = [
        Instruction(LOAD_WORD, 0, 0, 4),
        Instruction(JUMP_EQUAL, 0, 1, ARCH),
        ret(RET_ALLOW),
        ret(RET_USER_NOTIF),
    ]
    assert len(by_ranges(by_arch, ARCH)) > 0
    third = [Instruction(LOAD_WORD, 0, 0, 4), Instruction(JUMP_EQUAL, 0, 1, ARCH + 1), ret(RET_ALLOW), *by_arch]
    with pytest.raises(RuntimeError, match="other architectures"):
        by_ranges(third, ARCH)


def test_a_block_is_told_from_an_answer() -> None:
    """`decide` names a block by its distance from the end, which is the same in both programs."""
    block = [Instruction(LOAD_WORD, 0, 0, 16), Instruction(JUMP_EQUAL, 0, 1, 5), ret(RET_ALLOW), ret(RET_ERRNO | 1)]
    program = plain_program({1: RET_ALLOW}, RET_ERRNO | 38, {2: block})
    for one in (program, by_ranges(program, ARCH)):
        assert decide(one, ARCH, 1) == (RET_ALLOW, 0)
        assert decide(one, ARCH, 2) == (0, 4)
        assert decide(one, ARCH, 3) == (RET_ERRNO | 38, 0)
