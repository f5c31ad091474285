"""G: verdicts that a program would like to have, and does not get."""

import json

import pytest
from probing import ASK, TELL

import nsbox
from nsbox import Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


def test_what_a_program_writes_decides_nothing() -> None:
    """G01: text that looks like a result, on both streams, is output; the exit status is the kernel's."""
    fake = json.dumps({"verdict": "ok", "exit_code": 0, "status": "completed"})
    code = f"import sys\nfor stream in (sys.stdout, sys.stderr): stream.write({fake!r} + chr(4) + chr(0))\nsys.exit(3)"
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute(code)
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.NONZERO_EXIT, 3, None)
    assert result.stdout == result.stderr == fake + "\x04\x00"


def test_no_descriptor_leads_to_whoever_decides() -> None:
    """G02: of 0 to 255 only 0, 1 and 2 are open, and what is written to all of them is at most output."""
    questions = """
written = []
for fd in range(3, 256):
    try:
        os.write(fd, bytes(168))
        written.append(fd)
    except OSError:
        pass
ask('written', lambda: written)
"""
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute(ASK + questions + TELL)
    assert (result.verdict, json.loads(result.stdout)) == (Verdict.OK, {"written": []})


@pytest.mark.parametrize(
    ("code", "verdict", "exit_code", "signal"),
    [
        ("os._exit(137)", Verdict.NONZERO_EXIT, 137, None),
        ("os._exit(124)", Verdict.NONZERO_EXIT, 124, None),
        ("os._exit(127)", Verdict.NONZERO_EXIT, 127, None),
        ("os.kill(os.getpid(), 9)", Verdict.SIGNALED, None, 9),
        ("os.kill(os.getpid(), 24)", Verdict.SIGNALED, None, 24),
        ("os.kill(os.getpid(), 31)", Verdict.SIGNALED, None, 31),
        ("os.fork() or os.execv('/bin/sleep', ['sleep', '60'])", Verdict.OK, 0, None),
    ],
)
def test_a_death_that_imitates_a_limit_is_told_as_what_it_was(
    code: str, verdict: Verdict, exit_code: int | None, signal: int | None
) -> None:
    """G03: exit codes and signals of time, memory and filter kills, used by the program, give no such verdict."""
    with nsbox.Sandbox() as sandbox:
        result = sandbox.execute("import os\n" + code)
    assert (result.verdict, result.exit_code, result.signal) == (verdict, exit_code, signal)


def test_a_limit_that_was_hit_cannot_be_hidden_by_a_good_exit() -> None:
    """G03: memory in a child with a parent that exits 0, output over the limit and exit 0, are told as limits."""
    child = "import os\nif os.fork() == 0:\n x = bytearray(256 << 20)\n os._exit(0)\nos.wait()\nos._exit(0)"
    flood = "import os, sys\nfor _ in range(40): sys.stdout.write('x' * 65536)\nsys.stdout.flush(); os._exit(0)"
    enforcement = nsbox.EnforcementPolicy(max_output_mb=1)
    with nsbox.Sandbox(memory_mb=64, enforcement=enforcement) as sandbox:
        assert sandbox.execute(child).verdict is Verdict.MEMORY_LIMIT
        assert sandbox.execute(flood).verdict is Verdict.OUTPUT_LIMIT
        assert sandbox.execute("print(1)").verdict is Verdict.OK


def test_the_clock_that_decides_is_not_the_programs() -> None:
    """G07: setting the time is EPERM, and a program that patches its clocks is stopped at the limit all the same."""
    patched = "import time\ntime.time = time.monotonic = time.perf_counter = lambda: 0.0\nwhile time.time() < 1: pass"
    setting_it = "import time\ntry: time.clock_settime(0, 0)\nexcept OSError as e: print(e.errno)"
    with nsbox.Sandbox() as sandbox:
        setting = sandbox.execute(setting_it, user="root")
        result = sandbox.execute(patched, timeout=0.3)
    assert setting.stdout == "1\n"
    assert result.verdict is Verdict.WALL_TIME_LIMIT
    assert result.metrics is not None
    assert result.metrics.wall_seconds >= 0.3
