"""Scripts that come to the same in a warm interpreter as in a cold one, and how that is found out.

Most are in tests/programs/warm, by what they are about. They write into the working directory, and a script may read
what the one before it has left there.
"""

import concurrent.futures
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nsbox

PROGRAMS = Path(__file__).parents[1] / "programs" / "warm"
INPUT = "one\ntwo\n"

UNUSUAL = (
    "",
    "\n",
    "   ",
    "\n\n\n1 / 0",
    "\ufeffprint(1)",
    "\ufeff1 / 0",
    '\ufeff# -*- coding: utf-8 -*-\nprint("\xe4")',
    "\ufeff# -*- coding: latin-1 -*-\nprint(1)",
    "\ufeff\ufeffprint(1)",
    "print(1)\r\nprint(2)\r\n1 / 0\r\n",
    "print(1)\rprint(2)\r1 / 0\r",
    'x = """a\r\nb"""\r\nprint(repr(x))\r\n',
    'x = """a\rb"""\nprint(repr(x))',
    "if 1:\r\n    print(1)\r\n  print(2)\r\n",
    "print(1)\x0c\n\x0cprint(2)\n",
    "\x0cif 1:\n\x0c    print(1)\n",
    "if 1:\n    print(1)\n\x0c\n    print(2)\n",
    "print(1)\x1a\nprint(2)",
    "print(1)\x00print(2)",
    'print("\x00")',
    "# \x00\nprint(1)",
    "print(1)\n\x00",
    'print("\x01\x02\x7f")',
    "\xa0print(1)",
    "print(1)\xa0",
    "print(1)\u2028print(2)",
    "print(1)\u200b",
    "\\\nprint(1)\\\n",
    "print(1)\\",
    "if 1:\n\tprint(1)\n        print(2)\n",
    "if 1:\n  \tprint(1)\n\t  print(2)\n",
    "print(1)\n\n\n   ",
    "print(1)\n   # comment\n\tprint(2)",
    "1 / 0  # " + "long " * 2000,
    'x = "' + "a" * 200000 + '"; print(len(x)); 1 / 0',
    "x = " + "(" * 150 + "1" + ")" * 150 + "; print(x)",
    "x = " + "(" * 250 + "1" + ")" * 250,
    "x = " + "[" * 90 + "]" * 90 + "; print(x)",
    "x = " + "-" * 5000 + "1",
    "x = " + " + ".join(["1"] * 4000) + "; print(x)",
    "x = " + "not " * 300 + "1; print(x)",
    "".join("    " * i + "if 1:\n" for i in range(60)) + "    " * 60 + 'print("deep")',
    "".join(" " * i + "if 1:\n" for i in range(120)) + " " * 120 + "pass",
    "".join(" " * i + "for _ in [1]:\n" for i in range(25)) + " " * 25 + "pass",
    "\n" * 70000 + "1 / 0",
    "x = [" + "1,\n" * 3000 + "]\n1 / 0",
    "print(" + "9" * 5000 + ")",
    "x = " + "9" * 4000 + "; print(x % 97)",
    "f(" + ", ".join(f"a{i}" for i in range(300)) + ")",
    "def f(" + ", ".join(f"a{i}" for i in range(300)) + "): return a299\nprint(f(*range(300)))",
    'print("' + "\U0001f600" * 3 + '"); 1 / 0; "' + "\xe4" * 50 + '"',
    "a\u0308 = 1; print(\xe4)",
    'print("tab\there"); \t1 / 0',
    'raise ValueError("' + "v" * 3000 + '")',
    'raise ValueError("two\\nlines\\r\\x00\\x1b[31m\\udc80")',
    'def \xe4\xf6(): raise ValueError("\xfc")\n\xe4\xf6()',
    "1 +\n" * 30 + "1 / 0",
    "f = lambda: (\n  1\n  /\n  0\n)\nf()",
    '"""doc\nstring"""\nprint(__doc__)',
    'from __future__ import annotations, division\n"""no doc string"""\nprint(__doc__, division)',
    "x = {\n" + "".join(f"    {i}: {i},\n" for i in range(50)) + "\nprint(x)",
)
"""Sources that an editor would spoil, or that are too long to be read."""

SCRIPTS: Mapping[str, Sequence[str]] = {
    "unusual": UNUSUAL,
    **{path.stem: path.read_text().strip("\n").split("\n---\n") for path in sorted(PROGRAMS.glob("*.txt"))},
}

DOCUMENTED = {
    "- The hash seed": "print(hash('a'))",
    "- The layout of the address space": "import sys; print(id(sys))",
    "- What it has imported is in `sys.modules`": "import sys; print(len(sys.modules))",
    "they are frozen": "import gc; print(gc.get_freeze_count())",
    "- There is one frame below the program's first one": "import sys; print(sys._getframe().f_back is None)",
    "`traceback.print_stack`": "import traceback; traceback.print_stack()",
    "`faulthandler`": "import faulthandler; faulthandler.dump_traceback()",
    "a `stacklevel` that leads out of the program": "import warnings; warnings.warn('x', stacklevel=2)",
    "The limit of recursion is reached two calls earlier": "def f(n): return f(n + 1)\nf(0)",
    "- `/proc/self/environ`": "print(open('/proc/self/environ').read())",
    "`/proc/self/cmdline`": "print(open('/proc/self/cmdline').read())",
    "A program that counts the functions registered with `atexit`": "import atexit; print(atexit._ncallbacks())",
    "profile functions": "import sys; sys.setprofile(lambda frame, event, arg: print(event))",
    "audit hooks": "import sys; sys.addaudithook(lambda event, arguments: print(event))",
}
"""What docs/warm.md says that differs, by its words there."""


def described(result: nsbox.ExecutionResult) -> tuple[object, ...]:
    """What must be equal: all that a program says and comes to, without what differs from run to run."""

    def plain(text: str) -> str:
        text = re.sub(r"exec-[0-9a-f]{16}", "exec-ID", text)
        return re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", re.sub(r"(Ran \d+ tests? in|started) [0-9.]+", r"\1 0", text))

    return result.verdict, result.exit_code, result.signal, plain(result.stdout), plain(result.stderr)


def outcomes(scripts: Sequence[str], sandbox: nsbox.Sandbox) -> list[tuple[object, ...]]:
    """What scripts come to, one after the other."""
    return [described(sandbox.execute(script, stdin=INPUT, language="python")) for script in scripts]


def differences(scripts: Sequence[str], cold: nsbox.Sandbox, warm: nsbox.Sandbox) -> list[tuple[object, ...]]:
    """The scripts that do not come to the same, with what they come to; both sandboxes work at the same time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, other = pool.map(functools.partial(outcomes, scripts), (cold, warm))
    return [triple for triple in zip(scripts, one, other, strict=True) if triple[1] != triple[2]]
