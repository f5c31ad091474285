"""The policy for graders: every language does under `strict` what its programs do, by what it was derived from."""

from pathlib import Path

import pytest
from compiling import compile_cache, languages

import nsbox
from nsbox._runtimes import RUNTIMES, language_of_file

__all__ = ["compile_cache"]  # a fixture
pytestmark = [pytest.mark.usefixtures("_compile_cache")]

PROGRAMS = Path(__file__).resolve().parents[1] / "programs" / "smoke"


@pytest.mark.parametrize("language", languages())
def test_a_language_does_what_its_programs_do(language: str) -> None:
    """Files, threads, children, timers, signals, memory: to the last line, and with nothing refused that it needs."""
    (program,) = (path for path in PROGRAMS.iterdir() if language_of_file(path.name) == language)
    text = program.read_text(encoding="utf-8")
    with nsbox.Sandbox(security="strict", timeout=60, memory_mb=1024) as sandbox:
        result = sandbox.execute(text, language=language, stdin="line\n", arguments=("a", "b"))
    assert (result.verdict, result.stdout) == (nsbox.Verdict.OK, "line a b\ndone\n"), result.stderr


def test_no_language_is_left_out() -> None:
    """A runtime without such a program is one that nobody has tried under `strict`."""
    assert {language_of_file(path.name) for path in PROGRAMS.iterdir()} == set(RUNTIMES)
