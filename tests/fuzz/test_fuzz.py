"""The fuzz targets: a minute of CPU time in every run, and that they find what is there to be found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 12
"""For each of five targets, two at a time on two CPUs: half a minute, and a minute of CPU time."""

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("clang")]  # root: in one lane is enough


def run_fuzz(root: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`scripts/fuzz` of a checkout."""
    command = [str(root / "scripts" / "fuzz"), "--output", str(output), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.slow
def test_a_minute_of_any_bytes_breaks_nothing_that_the_launcher_parses(tmp_path: Path) -> None:
    """Control frames, payloads, the first message, orders, and whole lives of sandboxes, from the corpus on."""
    ended = run_fuzz(ROOT, tmp_path, "--seconds", str(SECONDS))
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("nothing found") == len(list(Path(__file__).parent.glob("*.c")))


@pytest.mark.slow
def test_a_bound_that_is_missing_is_found_and_its_input_kept(tmp_path: Path) -> None:
    """A copy of native/control.c that does not look how long a word is reads beyond its frame within seconds."""
    for name in ("native", "tests/fuzz", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "native" / "control.c"
    check = " || (size_t)(input->end - input->at) < length"
    assert broken.read_text().count(check) == 1
    broken.write_text(broken.read_text().replace(check, ""))
    ended = run_fuzz(tmp_path, tmp_path / "output", "--seconds", "20", "control")
    assert ended.returncode == 1, ended.stdout
    assert "heap-buffer-overflow" in ended.stdout
    again = ended.stdout.strip().rpartition("again with: ")[2].split()
    assert "heap-buffer-overflow" in subprocess.run(again, capture_output=True, text=True, check=False).stderr


def test_the_corpus_is_what_nsbox_sends_today(tmp_path: Path) -> None:
    """`python tests/fuzz/seeds.py` would change nothing."""
    directory = Path(__file__).parent
    subprocess.run([sys.executable, directory / "seeds.py", tmp_path], check=True)

    def content(root: Path) -> dict[Path, bytes]:
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert content(tmp_path) == content(directory / "corpus")
