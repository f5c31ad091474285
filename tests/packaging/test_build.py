"""The package is built from a copy of the checkout, by the front ends that its users have."""

import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LAUNCHER = "nsbox/_bin/nsbox-launcher"
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "_bin", "*.egg-info", "__pycache__")

pytestmark = pytest.mark.slow


def run_python(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in `directory`, bounded in time; stdout and stderr come back as one text."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def build_wheel(source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pip wheel` into `source`/dist, with the setuptools of this environment and no network."""
    return run_python(
        source, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", **environment
    )


def call_hook(source: Path, hook: str) -> subprocess.CompletedProcess[str]:
    """One hook of PEP 517 or PEP 660, into `source`/dist."""
    Path(source, "dist").mkdir(exist_ok=True)
    return run_python(source, "-c", f"import setuptools.build_meta as backend; backend.{hook}('dist')")


def program_headers(program: bytes) -> set[int]:
    """The types of the program headers of a 64-bit, little-endian ELF file (elf(5))."""
    assert program[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return {struct.unpack_from("<I", program, offset + index * size)[0] for index in range(count)}


def built_wheel(source: Path) -> Path:
    """The one wheel in `source`/dist."""
    (wheel,) = Path(source, "dist").glob("*.whl")
    return wheel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the checkout's sources, without anything that was built from them."""
    return Path(shutil.copytree(CHECKOUT, tmp_path / "source", ignore=NOT_SOURCES))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout as it is."""
    copy = Path(shutil.copytree(CHECKOUT, tmp_path_factory.mktemp("wheel") / "source", ignore=NOT_SOURCES))
    built = build_wheel(copy)
    assert built.returncode == 0, built.stdout
    return built_wheel(copy)


def test_a_wheel_carries_the_launcher_and_its_tag_says_for_which_machine(wheel: Path) -> None:
    """The tag is py3-none-linux_<machine>; launcher, policies and the typing mark are inside, the C sources are not."""
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        mode = archive.getinfo(LAUNCHER).external_attr >> 16
    assert mode & 0o111 == 0o111
    policies = sorted(CHECKOUT.glob("nsbox/_seccomp/policies/*.toml"))
    assert policies
    recipes = sorted(path.name for path in CHECKOUT.glob("rootfs/*.toml"))
    assert recipes
    assert {f"nsbox/_rootfs/recipes/{name}" for name in recipes} <= set(names)
    assert {"nsbox/py.typed", *(str(path.relative_to(CHECKOUT)) for path in policies)} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".h")) or name.startswith(("tests/", "native/"))]


def test_the_launcher_needs_no_dynamic_loader(wheel: Path) -> None:
    """No PT_INTERP (3), and PT_GNU_RELRO (0x6474e552); the control is a program that has a loader."""
    with zipfile.ZipFile(wheel) as archive:
        launcher = program_headers(archive.read(LAUNCHER))
    assert 3 in program_headers(Path("/bin/true").read_bytes())
    assert 3 not in launcher
    assert 0x6474E552 in launcher


def test_a_missing_compiler_is_named_with_its_remedy(source: Path) -> None:
    """Without a C compiler there is no package, and the error says what to install."""
    built = build_wheel(source, CC="no-such-compiler")
    assert built.returncode != 0
    assert "no C compiler 'no-such-compiler'" in built.stdout
    assert "apt-get install gcc libc6-dev" in built.stdout


def test_a_warning_in_the_launcher_stops_the_build(source: Path) -> None:
    """The launcher is compiled with -Werror; the same sources without the warning are the `wheel` fixture."""
    Path(source, "native", "careless.c").write_text("int careless(int number) { return 1; }\n")
    built = build_wheel(source)
    assert built.returncode != 0
    assert "unused parameter" in built.stdout
    assert "compiling the launcher failed" in built.stdout


def test_the_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    """All that the build needs is in the source distribution."""
    made = call_hook(source, "build_sdist")
    assert made.returncode == 0, made.stdout
    (archive,) = Path(source, "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = Path(tmp_path, "unpacked").iterdir()
    built = build_wheel(unpacked)
    assert built.returncode == 0, built.stdout
    with zipfile.ZipFile(wheel) as expected, zipfile.ZipFile(built_wheel(unpacked)) as found:
        assert found.namelist() == expected.namelist()


def test_an_editable_build_puts_the_launcher_into_the_tree_and_compiles_only_what_changed(source: Path) -> None:
    """After one source is touched, its object alone is new."""

    def objects() -> dict[str, int]:
        made = call_hook(source, "build_editable")
        assert made.returncode == 0, made.stdout
        return {path.name: path.stat().st_mtime_ns for path in source.glob("build/launcher-*/*.o")}

    before = objects()
    assert os.access(source / LAUNCHER, os.X_OK)
    touched = min(source.glob("native/*.c"))
    touched.touch()
    after = objects()
    assert {name for name in after if after[name] != before[name]} == {f"{touched.stem}.o"}


def test_a_sanitized_launcher_is_built_on_request(source: Path, wheel: Path) -> None:
    """NSBOX_SANITIZE brings AddressSanitizer's runtime in; the control is the launcher without it."""
    built = build_wheel(source, NSBOX_SANITIZE="address,undefined")
    assert built.returncode == 0, built.stdout
    with zipfile.ZipFile(wheel) as plain, zipfile.ZipFile(built_wheel(source)) as sanitized:
        assert b"__asan_init" not in plain.read(LAUNCHER)
        assert b"__asan_init" in sanitized.read(LAUNCHER)
