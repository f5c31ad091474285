"""Builds the native launcher, `nsbox/_bin/nsbox-launcher`, and the library of warm interpreters beside it.

`build_launcher` is a sub-command of `build` in setuptools' protocol (`setuptools.command.build.SubCommand`), so that
wheels, `pip install .` and `pip install -e .` all come here; an editable install gets the binary in the source tree.

Environment: CC names the compiler (cc), CFLAGS is added to the flags, and NSBOX_SANITIZE=address,undefined builds a
launcher with those sanitizers, for tests.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import CompileError, ExecError

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "native"
LAUNCHER = Path("nsbox", "_bin", "nsbox-launcher")
LIBRARY = Path("nsbox", "_bin", "nsbox-interpreter.so")
RECIPES = Path("nsbox", "_rootfs", "recipes")
SHARED = ("credentials.c", "enter.c", "packet.c", "payload.c", "sys.c")
"""What of the launcher a warm interpreter needs, too."""

CODE = ("-std=gnu11", "-O2", "-fstack-protector-strong")
WARNINGS = (
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wvla", "-Wformat=2"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-Wswitch-enum"),
)
FORTIFY = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2")
HARDEN = ("-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack")


def find_compiler() -> list[str]:
    """The C compiler's command, or an error that names the remedy."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if not command or shutil.which(command[0]) is None:
        raise ExecError(
            f"nsbox compiles its launcher, and there is no C compiler {os.environ.get('CC', 'cc')!r}. "
            "Install one (Debian, Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc glibc-static; "
            "Alpine: apk add gcc musl-dev), or name yours in CC."
        )
    return command


def find_linkage(compiler: list[str]) -> str:
    """`-static-pie` where this toolchain can link it, else `-static`.

    Static, because the dynamic loader costs the launcher 0.3 ms and open files, and because it has to start in a mount
    namespace that need not hold the host's libraries.
    """
    with tempfile.TemporaryDirectory(prefix="nsbox-probe-") as directory:
        source = Path(directory, "probe.c")
        source.write_text("int main(void)\n{\n\treturn 0;\n}\n")
        for linkage in ("-static-pie", "-static"):
            command = [*compiler, "-fPIE", linkage, "-o", str(source.with_suffix("")), str(source)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return linkage
    raise CompileError(
        f"{shlex.join(compiler)} can link no static program. Install the C library for static linking "
        "(Debian, Ubuntu: apt-get install libc6-dev; Fedora: dnf install glibc-static)."
    )


class BuildLauncher(Command):
    """Compile `native/*.c` into one static program."""

    description = "compile the native launcher"
    user_options: ClassVar = [
        ("build-lib=", None, "directory to build into"),
        ("build-temp=", None, "directory for object files"),
    ]

    def initialize_options(self) -> None:
        """Set every option to "not given"; `editable_mode` is set by an editable install."""
        self.build_lib: str | None = None
        self.build_temp: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take the directories from `build`."""
        self.set_undefined_options("build", ("build_lib", "build_lib"), ("build_temp", "build_temp"))

    def run(self) -> None:
        """Compile what is older than its source, and link."""
        sources = sorted(NATIVE.glob("*.c"))
        if not sources:
            raise CompileError(f"the launcher's sources, {NATIVE}/*.c, are missing")
        compiler = find_compiler()
        sanitizers = os.environ.get("NSBOX_SANITIZE", "")
        if sanitizers:  # their runtimes are shared libraries, and fortified calls hide from them
            code = [*CODE, f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-g"]
            link = [f"-fsanitize={sanitizers}", "-pie"]
        else:
            code = [*CODE, *FORTIFY]
            link = [find_linkage(compiler)]
        code += [*WARNINGS, *shlex.split(os.environ.get("CFLAGS", ""))]
        objects = self.compile([*compiler, *code, "-fPIE"], sources)
        self.link([*compiler, *link, *HARDEN], objects, self.target(LAUNCHER))
        sources = [*(NATIVE / "interpreter").glob("*.c"), *(NATIVE / name for name in SHARED)]
        code = [*CODE, *FORTIFY, *WARNINGS, "-fPIC", "-fvisibility=hidden"]
        self.link([*compiler, "-shared", *HARDEN], self.compile([*compiler, *code], sources), self.target(LIBRARY))

    def compile(self, command: list[str], sources: list[Path]) -> list[Path]:
        """Compile each source that has changed since its object was made, by other flags in another directory."""
        variant = hashlib.sha256(shlex.join(command).encode()).hexdigest()[:12]
        # An editable install has a new build_temp every time, and is the one that is repeated.
        base = Path(self.build_temp or "build") if not self.editable_mode else ROOT / "build"
        directory = base / f"launcher-{variant}"
        directory.mkdir(parents=True, exist_ok=True)
        newest_header = max(path.stat().st_mtime for path in (*NATIVE.rglob("*.h"), ROOT / "setup.py"))
        objects = []
        for source in sources:
            target = directory / f"{source.stem}.o"
            objects.append(target)
            if target.exists() and target.stat().st_mtime > max(newest_header, source.stat().st_mtime):
                continue
            self.execute_checked([*command, "-c", "-o", str(target), str(source)])
        return objects

    def link(self, command: list[str], objects: list[Path], target: Path) -> None:
        """Link into a new file and rename it, because the old one may be running."""
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        self.execute_checked([*command, "-o", str(fresh), *map(str, objects)])
        fresh.replace(target)

    def execute_checked(self, command: list[str]) -> None:
        """Run one compiler command; the compiler has explained a failure on stderr."""
        self.announce(shlex.join(command), level=2)
        if subprocess.run(command, check=False).returncode != 0:
            raise CompileError(f"compiling the launcher failed: {shlex.join(command)}")

    def target(self, file: Path) -> Path:
        """Where a file goes: the source tree in an editable install, else the directory the wheel is made of."""
        return (ROOT if self.editable_mode else Path(self.build_lib or "build/lib")) / file

    def get_outputs(self) -> list[str]:
        """The files that this command makes."""
        return [str(self.target(file)) for file in (LAUNCHER, LIBRARY)]

    def get_output_mapping(self) -> dict[str, str]:
        """No output corresponds to one source file."""
        return {}

    def get_source_files(self) -> list[str]:
        """What a source distribution has to contain for this command."""
        return [str(path.relative_to(ROOT)) for path in sorted(NATIVE.rglob("*.[ch]"))]


class BuildRecipes(Command):
    """Put the recipes of root file systems into the package; an editable install reads them from the checkout."""

    description = "copy the recipes of root file systems"
    user_options: ClassVar = [("build-lib=", None, "directory to build into")]

    def initialize_options(self) -> None:
        """As `BuildLauncher`."""
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take the directory from `build`."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Copy them."""
        for target, source in self.get_output_mapping().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, target)

    def get_outputs(self) -> list[str]:
        """The files that this command makes."""
        return [*self.get_output_mapping()]

    def get_output_mapping(self) -> dict[str, str]:
        """Each file, and what it is a copy of."""
        directory = Path(self.build_lib or "build/lib", RECIPES)
        return {} if self.editable_mode else {str(directory / Path(one).name): one for one in self.get_source_files()}

    def get_source_files(self) -> list[str]:
        """What a source distribution has to contain for this command."""
        return [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("rootfs/*.toml"))]


class ProgramDistribution(Distribution):
    """A distribution with a program of this platform in it, though without extension modules."""

    def has_ext_modules(self) -> bool:
        """Ask for a platform's directories and tag; `build_ext` then finds nothing to do."""
        return True


class ProgramWheel(bdist_wheel):
    """A wheel for this platform and any Python 3: its program knows nothing of a Python ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-linux_<architecture>`."""
        return "py3", "none", super().get_tag()[2]


build.sub_commands = [*build.sub_commands, ("build_launcher", None), ("build_recipes", None)]
setup(
    distclass=ProgramDistribution,
    cmdclass={"build_launcher": BuildLauncher, "build_recipes": BuildRecipes, "bdist_wheel": ProgramWheel},
)
