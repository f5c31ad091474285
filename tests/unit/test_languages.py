"""What a text is written in: right on real programs of each language, and never more than None on anything else."""

import json
import random
import subprocess
import sys
import sysconfig
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox import RUNTIMES, detect_language
from nsbox._languages import choose_language
from nsbox._languages.python import _RUN, _runs_on, begins_as_python

PROGRAMS = Path(__file__).parent.parent / "programs"
RARE = frozenset({"javascript", "typescript", "rust", "cpp"})
"""Languages whose toolchains need not bring sources along; `tests/programs` has some of each."""
LEAST_RIGHT = 0.97
LEAST_PROGRAMS = 25
LEAST_BYTES = 3000
"""Of a source that lies on the machine: less is a license, or a list of other files."""
SAMPLE = 150

INSTALLED = {
    "python": ([sysconfig.get_path("stdlib")], "*.py"),
    "javascript": (["/usr/share/nodejs", "/usr/lib/node_modules"], "*.js"),
    "typescript": (["/usr/share/nodejs/typescript/lib"], "*.d.ts"),
    "go": (sorted(str(path) for path in Path("/usr/share").glob("go-1.*/src")), "*.go"),
    "c": (["/usr/share/doc", "/usr/share/go-1.19"], "*.c"),
    "rust": (["/usr/lib/rustlib/src"], "*.rs"),
}
"""Where toolchains have sources of their own, and their names; those of the JDK are in an archive."""


def chance() -> random.Random:
    """The same numbers each time, whatever other tests have drawn."""
    return random.Random(7)  # noqa: S311


def short_programs(language: str) -> list[str]:
    """The programs of tests/programs."""
    return (PROGRAMS / f"{language}.txt").read_text().split("%%\n")


def installed_programs(language: str) -> list[str]:
    """Sources that lie on this machine, without those that hold nothing but comments."""
    if language == "java":
        archives = sorted(Path("/usr/lib/jvm").glob("*/lib/src.zip"))
        return list(_archived(archives[0])) if archives else []
    if language == "bash":
        paths = [
            path for path in sorted(Path("/usr/bin").iterdir()) if path.is_file() and _first_line(path).endswith("sh")
        ]
        return [path.read_text("utf-8", "replace").partition("\n")[2] for path in paths]
    places, pattern = INSTALLED.get(language, ([], ""))
    paths = [path for place in places for path in sorted(Path(place).rglob(pattern))]
    paths = [path for path in paths if path.is_file() and path.stat().st_size > LEAST_BYTES]
    paths = chance().sample(paths, min(SAMPLE, len(paths)))
    return [path.read_text("utf-8", "replace") for path in paths]


def _archived(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".java") and "-info" not in name]
        for name in chance().sample(names, min(SAMPLE, len(names))):
            yield archive.read(name).decode("utf-8", "replace")


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        line = file.readline(100).decode("latin-1").strip()
    return line if line.startswith("#!/") else ""


@pytest.mark.parametrize("language", RUNTIMES)
def test_short_programs_are_told(language: str) -> None:
    """At least 97 % of those that people write to try something out, and no two languages are mixed up by design."""
    programs = short_programs(language)
    assert len(programs) >= LEAST_PROGRAMS
    wrong = [(detect_language(code), code) for code in programs if detect_language(code) != language]
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(programs), wrong


@pytest.mark.parametrize("language", RUNTIMES)
def test_sources_of_this_machine_are_told(language: str) -> None:
    """At least 97 % of what toolchains bring along, shell scripts without their first line."""
    programs = installed_programs(language)
    assert len(programs) >= LEAST_PROGRAMS or language in RARE, f"there are {len(programs)} on this machine"
    wrong = [code[:200] for code in programs if detect_language(code) != language]
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(programs), [(detect_language(code), code) for code in wrong]


@pytest.mark.parametrize("language", RUNTIMES)
def test_a_program_of_a_sandbox_s_own_language_stays_that(language: str) -> None:
    """Nothing is sent to another language's interpreter that is a program of this one."""
    for code in short_programs(language):
        assert choose_language(code, language) == language, code


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("#!/usr/bin/env python3", "python"), ("#!/usr/bin/python3.12 -u", "python"), ("#!/bin/sh", "bash"),
        ("#! /usr/bin/env -S node --no-warnings", "javascript"), ("#!/usr/bin/env VAR=1 bash", "bash"),
        ("#!/usr/bin/perl", None), ("#!/usr/bin/env ts-node", "typescript"), ("#!/usr/bin/pypy3", "python"),
    ],
)  # fmt: skip
def test_the_first_line_decides(line: str, language: str | None) -> None:
    """Whatever follows: an interpreter of no language of nsbox's is none."""
    assert detect_language(f"{line}\nconsole.log(1)\n") == language


@pytest.mark.parametrize(
    "code",
    ["", " \n", "x = 1", "x", "f(1)", "hello world", "a b c", "1 + 1", "{}", "[]", ";", "//", "#", "#!", "#!\n",
     "Dear reader,\nthis is no program. It is for nobody.\n", "let x = 1;", "x = [1, 2, 3]", '{"a": [1, 2]}',
     "SELECT * FROM t WHERE x = 1;", "<html><body>x</body></html>", "key: value\nother: 2\n"],
)  # fmt: skip
def test_what_is_everybody_s_or_nobody_s_is_not_told(code: str) -> None:
    """A text that is a program in several languages, or in none, stays with the sandbox's own."""
    assert detect_language(code) is None
    assert choose_language(code, "javascript") == "javascript"


@pytest.mark.parametrize(
    ("code", "own", "language"),
    [
        ("console.log(1)", "python", "python"),  # it parses
        ("console.log(1);\nlet x = 2;", "python", "javascript"),
        ("print(1)", "javascript", "python"),
        ('#include <stdio.h>\nint main() { puts("x"); }', "cpp", "cpp"),
        ("#include <iostream>\nint main() { std::cout << 1; }", "c", "cpp"),
        ("const x = 1; console.log(x)", "typescript", "typescript"),
        ("const x: number = 1; console.log(x)", "javascript", "typescript"),
        ("print('a'", "python", "python"),
        ("\n# x\ndef f(x):\n    let y = 1;\n    console.log(y);\n    return y;\n", "python", "python"),
        ("from math import sqrt\nconst x = sqrt(2);\nconsole.log(x);\n", "python", "python"),
        ("const f = 1;\ndef f(x):\nconsole.log(f);\n", "python", "javascript"),
        ("#!/bin/sh\nx = 1", "python", "bash"),
    ],
)  # fmt: skip
def test_the_sandbox_s_own_language_is_preferred(code: str, own: str, language: str) -> None:
    """Where a text is a program of it, too: Python that parses, C in C++, JavaScript in TypeScript."""
    assert choose_language(code, own) == language


@pytest.mark.parametrize("language", [name for name in RUNTIMES if name != "python"])
def test_no_other_language_begins_as_python(language: str) -> None:
    """What is Python by its first line alone is no program of this machine's in another language."""
    assert [code[:200] for code in installed_programs(language) if begins_as_python(code)] == []


@pytest.mark.parametrize(
    "run", ["-" * 99 + "1", "-" * 100 + "1", "not " * 100 + "x", "x" + ".y" * 400, "f" + "()" * 400]
)
def test_runs_that_take_the_parser_long_are_seen(run: str) -> None:
    """By their pattern, which is only looked for where a text has enough of what they are made of."""
    assert _runs_on(run) == (_RUN.search(run) is not None)
    assert _runs_on(run) == (run != "-" * 99 + "1")


def test_anything_is_answered() -> None:
    """Random text, damaged programs, deep nesting, bytes, half characters: an answer, without a warning."""
    numbers = chance()
    alphabet = "(){}[]<>;:,.'\"`\\/*#$&|=!?-+~@%^ \n\t\r\0abcdefxyz_019é\ud800\u2028"
    corpus = [code for language in RUNTIMES for code in short_programs(language)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in range(1500):
            if turn % 3:
                code = list(numbers.choice(corpus))
                for _ in range(numbers.randrange(1, 12)):
                    code[numbers.randrange(len(code))] = numbers.choice(alphabet) * numbers.choice((0, 1, 1, 2, 60))
                text = "".join(code)
            else:
                text = "".join(numbers.choice(alphabet) for _ in range(numbers.randrange(600)))
            for own in ("python", "cpp"):
                assert choose_language(text, own) in RUNTIMES
            assert detect_language(text) in (None, *RUNTIMES)


UNITS = [
    "(", "[", "{", "not ", "-", ".a", "()", "lambda:", "if a:\n ", "await ", "@a\n", "**2", "a if b else ", "'", '"',
    "\\\n", "/*", "a.", "$", "<a", "a,", "[]", "\n", " ", "\t", "static ", "f'{", "\ud800", "\0", "é", "x=1;", "#",
    '"""', "`",
]  # fmt: skip

LARGE = """
import json, os, resource, sys
from nsbox import detect_language
for unit in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        for size in (3, 60_000, 10_000_000):
            text = (unit * size)[:size]
            detect_language(text)
            detect_language("a" + text)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_ten_megabytes_are_answered() -> None:
    """Of anything; each in a process of its own, which a crash of the parser would end, with little CPU time."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE], input=json.dumps(UNITS), capture_output=True, text=True, check=False
    )
    assert (dict(zip(UNITS, done.stdout.split(), strict=True)), done.stderr) == (dict.fromkeys(UNITS, "0"), "")
