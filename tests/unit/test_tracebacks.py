"""The error of a Python program, read from the stderr of real interpreters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nsbox._outputs import CodeError
from nsbox._tracebacks import parse_python_error


def stderr_of(program: str, tmp_path: Path) -> str:
    """What a real interpreter writes when it runs a program from a file."""
    file = tmp_path / "main.py"
    file.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(file)], capture_output=True, timeout=60, check=False)
    return done.stderr.decode("utf-8", "replace")


def error_of(program: str, tmp_path: Path) -> CodeError | None:
    """The error that is read from that."""
    return parse_python_error(stderr_of(program, tmp_path))


UNCAUGHT = [
    ("a builtin", "1 / 0", "ZeroDivisionError", "division by zero"),
    ("no message", "assert False", "AssertionError", ""),
    ("an empty message", "raise ValueError('')", "ValueError", ""),
    ("a colon in the message", "raise ValueError('a: b: c')", "ValueError", "a: b: c"),
    ("several lines", "raise ValueError('first\\n  second\\n\\nthird')", "ValueError", "first\n  second\n\nthird"),
    ("a message that begins with a line break", "raise ValueError('\\nx')", "ValueError", "\nx"),
    ("line separators that are none here", "raise ValueError('a\\x0b\\u2028\\rb')", "ValueError", "a\x0b\u2028\rb"),
    ("not ASCII", "raise ValueError('Größe')", "ValueError", "Größe"),
    ("a module", "import json; json.loads('{')", "json.decoder.JSONDecodeError", None),
    ("an own class", "class Mine(Exception): pass\nraise Mine('m')", "Mine", "m"),
    (
        "a class in a function",
        "def f():\n class Mine(Exception): pass\n return Mine\nraise f()('m')",
        "f.<locals>.Mine",
        "m",
    ),
    ("interrupted", "raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ("notes", "e = ValueError('m')\ne.add_note('n1\\nn2')\nraise e", "ValueError", "m\nn1\nn2"),
    ("a key", "{}['a']", "KeyError", "'a'"),
    ("deep recursion", "def f(): f()\nf()", "RecursionError", "maximum recursion depth exceeded"),
    ("in a call", "def f(x):\n    return g(x)\ndef g(x):\n    return x.nope\nf(1)", "AttributeError", None),
    ("a cause", "try:\n 1/0\nexcept Exception as e:\n raise KeyError('b') from e", "KeyError", "'b'"),
    ("a context", "try:\n 1/0\nexcept Exception:\n raise KeyError('b')", "KeyError", "'b'"),
    (
        "a chain of three",
        "try:\n try:\n  1/0\n except Exception:\n  raise KeyError('b')\nexcept Exception:\n raise LookupError('c')",
        "LookupError",
        "c",
    ),
    ("a group", "raise ExceptionGroup('g', [ValueError(1), KeyError(2)])", "ExceptionGroup", "g (2 sub-exceptions)"),
    (
        "a group in a group, with several lines",
        "raise ExceptionGroup('g\\nh', [ValueError(1), ExceptionGroup('i\\nj', [KeyError(2)])])",
        "ExceptionGroup",
        "g\nh (2 sub-exceptions)",
    ),
    (
        "a group with a cause",
        "try:\n 1/0\nexcept Exception as e:\n raise ExceptionGroup('g', [TypeError(1)]) from e",
        "ExceptionGroup",
        "g (1 sub-exception)",
    ),
    (
        "a group after a group",
        "try:\n raise ExceptionGroup('g', [TypeError()])\nexcept Exception as e:\n raise ExceptionGroup('h', [e])",
        "ExceptionGroup",
        "h (1 sub-exception)",
    ),
    (
        "an error after a group",
        "try:\n raise ExceptionGroup('g', [TypeError(1)])\nexcept Exception:\n raise KeyError('b')",
        "KeyError",
        "'b'",
    ),
    (
        "a group printed by the traceback module",
        "import sys, traceback as t\nsys.excepthook = t.print_exception\nraise ExceptionGroup('g\\nh', [TypeError(1)])",
        "ExceptionGroup",
        "g\nh (1 sub-exception)",
    ),
    ("no syntax", "a b", "SyntaxError", "invalid syntax"),
    ("no indentation", "if 1:\npass", "IndentationError", None),
    ("tabs", "if 1:\n        a = 1\n\tb = 1", "TabError", None),
    ("a NUL in the source", "a = \0 1", "SyntaxError", None),
    ("no syntax in what is executed", "exec('a b')", "SyntaxError", "invalid syntax"),
    ("text before it", "import sys\nsys.stderr.write('working\\n')\n1/0", "ZeroDivisionError", "division by zero"),
    ("a progress bar before it", "import sys\nsys.stderr.write('\\r 50% ')\n1/0", "ZeroDivisionError", None),
    (
        "a logged error before it",
        "import logging\ntry:\n {}['a']\nexcept Exception:\n logging.exception('x')\n1/0",
        "ZeroDivisionError",
        "division by zero",
    ),
    (
        "an ignored error after it",
        "class A:\n def __del__(self): {}['a']\na = A()\n1/0",
        "ZeroDivisionError",
        "division by zero",
    ),
    (
        "a failed exit handler after it",
        "import atexit\natexit.register(lambda: {}['a'])\n1/0",
        "ZeroDivisionError",
        "division by zero",
    ),
    (
        "a failed thread before it",
        "import threading\nt = threading.Thread(target=lambda: {}['a']); t.start(); t.join()\n1/0",
        "ZeroDivisionError",
        "division by zero",
    ),
    ("a header quoted in the source", "raise ValueError('x')  # Traceback (most recent call last):", "ValueError", "x"),
]


@pytest.mark.parametrize(("program", "name", "value"), [case[1:] for case in UNCAUGHT], ids=[c[0] for c in UNCAUGHT])
def test_the_uncaught_exception_of_a_real_program_is_found(
    program: str, name: str, value: str | None, tmp_path: Path
) -> None:
    """Name and message are the exception's own; the traceback is a part of what was printed, with the name in it."""
    stderr = stderr_of(program, tmp_path)
    error = parse_python_error(stderr)
    assert error is not None, stderr
    assert error.name == name
    if value is not None:
        assert error.value == value
    assert error.traceback.rstrip("\n") in stderr
    assert f"{name}" in error.traceback


NOTHING = [
    ("a clean end", "print('x')"),
    ("an exit with a text", "raise SystemExit('Error: something: bad')"),
    ("an exit with a code", "raise SystemExit(3)"),
    ("an ignored error alone", "class A:\n def __del__(self): {}['a']\nA()\nraise SystemExit(3)"),
    ("a failed thread alone", "import threading\nt = threading.Thread(target=lambda: {}['a']); t.start(); t.join()"),
    (
        "a failed thread with a chain",
        "import threading\ndef f():\n try: 1/0\n except Exception: {}['a']\nthreading.Thread(target=f).start()",
    ),
    ("a failed exit handler alone", "import atexit\natexit.register(lambda: {}['a'])"),
    ("only stderr", "import sys\nsys.stderr.write('ValueError: no\\n  indented\\nKeyError: no\\n')"),
    ("a crash", "import faulthandler, os\nfaulthandler.enable()\nos.abort()"),
]


@pytest.mark.parametrize("program", [case[1] for case in NOTHING], ids=[case[0] for case in NOTHING])
def test_where_no_exception_ended_the_program_none_is_reported(program: str, tmp_path: Path) -> None:
    """The same program with one more line that raises, the control, has that line's error."""
    assert error_of(program, tmp_path) is None
    raising = "import sys\nsys.stderr.write('x\\n')\n1/0\n" + program
    found = error_of(raising, tmp_path)
    assert found is not None
    assert found.name == "ZeroDivisionError"


def test_the_traceback_has_the_whole_chain_and_not_what_stood_before() -> None:
    """From the first cause on; what the program wrote before is not a part of it."""
    link = "\nDuring handling of the above exception, another exception occurred:\n\n"
    first = 'Traceback (most recent call last):\n  File "a", line 1, in <module>\n    1/0\nZeroDivisionError: x\n'
    second = 'Traceback (most recent call last):\n  File "a", line 3, in <module>\n    {}[1]\nKeyError: 1\n'
    chain = first + link + second
    assert parse_python_error("before\n" + chain) == CodeError(name="KeyError", value="1", traceback=chain)
    alone = CodeError(name="KeyError", value="1", traceback=second)
    assert parse_python_error(first + second) == alone
    assert parse_python_error(first + link.lstrip("\n") + second) == alone  # the sentence without its blank line


def test_repeated_frames_of_a_recursion_stay_in_the_traceback(tmp_path: Path) -> None:
    """The interpreter's own summary is an indented line like the frames around it."""
    error = error_of("def f(): f()\nf()", tmp_path)
    assert error is not None
    assert "[Previous line repeated" in error.traceback


def test_an_error_far_behind_the_beginning_is_found() -> None:
    """Of 16 MiB only the end is read, also when the end begins in the middle of a traceback."""
    report = 'Traceback (most recent call last):\n  File "a", line 1, in <module>\nKeyError: 1\n'
    noise = "x" * 79 + "\n"
    error = parse_python_error(noise * 200_000 + report)
    assert error == CodeError(name="KeyError", value="1", traceback=report)
    frames = '  File "a", line 1, in f\n    f()\n' * 20_000
    cut = parse_python_error("Traceback (most recent call last):\n" + frames + "KeyError: 1\n")
    assert cut is not None
    assert (cut.name, cut.value) == ("KeyError", "1")
    assert len(cut.traceback) <= 256 * 1024
    assert parse_python_error(noise * 200_000 + "KeyError: 1\n") is None  # the control: no frames, no error


HEADER = "Traceback (most recent call last):"
HOSTILE = {
    "zeros": "\0" * (16 << 20),
    "line breaks": "\n" * (16 << 20),
    "headers": (HEADER + "\n") * 500_000,
    "headers and frames": (HEADER + '\n  File "a"\n') * 300_000,
    "frames": '  File "a", line 1\n' * 800_000,
    "group headers": ("  + Exception Group " + HEADER + "\n") * 250_000,
    "groups without an end": ("  + Exception Group " + HEADER + "\n  |   x\n") * 200_000,
    "links": (f"\nDuring handling of the above exception, another exception occurred:\n\n{HEADER}\n") * 150_000,
    "ignored": (f"Exception ignored in: x\n{HEADER}\n") * 250_000,
    "dots": HEADER + '\n  File "a"\n' + "a." * (120 * 1024) + ": x",
    "a name without end": HEADER + '\n  File "a"\n' + "a" * (200 * 1024),
    "a header at the very end": "x\n" + HEADER,
    "nothing": "",
}


@pytest.mark.parametrize("text", list(HOSTILE.values()), ids=list(HOSTILE))
def test_hostile_text_of_16_mib_is_read_to_its_end_and_holds_no_error(text: str) -> None:
    """No exception and no endless work, and the same text with a real report behind it has its error."""
    assert parse_python_error(text) is None
    found = parse_python_error(text + f'\n\n{HEADER}\n  File "a", line 1, in <module>\nValueError: here\n')
    assert found is not None
    assert (found.name, found.value) == ("ValueError", "here")
