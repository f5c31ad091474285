"""A language, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nsbox._config.frozen import FrozenMap
from nsbox._config.validation import assign, environment, integer, megabytes, refuse, seconds, text, text_map, texts

_MOST_PROCESSES = 2**22  # PID_MAX_LIMIT
_NAME = re.compile(r"[a-z0-9][a-z0-9+._#-]{0,63}")


def language_name(field_name: str, value: object) -> str:
    """The name of a language: lower case letters, digits and "+._#-", at most 64. Whether it is known comes later."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        refuse(field_name, value, 'the name of a language in lower case, such as "python" or "cpp"')
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How the programs of one language are compiled and run.

    Attributes:
        name: The language, in lower case.
        file_name: The name that the source file gets, without a directory.
        run: The argv that runs the program.
        compile: The argv that compiles it, or None where nothing is compiled.
        version: The argv that prints the version; empty: there is none.
        environment: Variables for compiling and running, below those of the sandbox, and for running below those of
            the options too.
        suffixes: Of its source files, such as ".cpp", for the command line.
        packages: The Debian packages that bring the toolchain, for the error where it is missing.
        compile_files: Further files that lie beside the source while it is compiled: name and text.
        compile_seconds: Wall clock limit of the compiler, at least 0.001.
        compile_memory_mb: Memory limit of the compiler in MiB, at least 1; what it writes is memory, too.
        compile_processes: Most processes and threads of the compiler, at least 1.
        prepare: The argv of what is done once for a toolchain and kept, such as a precompiled header, or None.
        prepare_when: The text that a source must contain for `prepare` to be worth it; empty: any.
        standby: The argv of a program that waits, once it has started, until it has read one byte from stdin, and then
            is the one that `run` starts: "{source}" is there only then. Empty: programs are not started ahead.
        standby_files: Further files that lie beside the source of such a program: name and text.

    In `file_name`, `run`, `compile`, `prepare`, `standby` and the values of `environment` these are replaced:

    - "{source}": the path of the source file. "{directory}": the working directory.
    - "{beside}": the directory that the source file is in.
    - "{output}": the directory that the compiler writes to, and that its results are in when the program runs.
    - "{prepared}": the directory with what `prepare` wrote to its "{output}".
    - "{cpus}": the CPUs that there are, at least 1. "{memory_mb}": the memory limit in MiB, and
      "{memory_soft_bytes}": nine tenths of it in bytes.
    - "{main_class}", "{public_class}": of a Java source, the class with the main method, with its package, and the
      name that its file must have.

    Raises:
        ConfigError: A value of another type, or empty, or with NUL bytes.
    """

    name: str
    file_name: str
    run: Sequence[str]
    compile: Sequence[str] | None = None
    version: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=FrozenMap)
    suffixes: Sequence[str] = ()
    packages: Sequence[str] = ()
    compile_files: Mapping[str, str] = field(default_factory=FrozenMap)
    compile_seconds: float = 30.0
    compile_memory_mb: int = 1024
    compile_processes: int = 128
    prepare: Sequence[str] | None = None
    prepare_when: str = ""
    standby: Sequence[str] = ()
    standby_files: Mapping[str, str] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        language_name("runtime.name", self.name)
        _file_name("runtime.file_name", self.file_name)
        beside = {name: text_map(f"runtime.{name}", getattr(self, name)) for name in ("compile_files", "standby_files")}
        for field_name, files in beside.items():
            for name in files:
                _file_name(f"a key of runtime.{field_name}", name)
        text("runtime.prepare_when", self.prepare_when)
        megabytes("runtime.compile_memory_mb", self.compile_memory_mb)
        integer("runtime.compile_processes", self.compile_processes, minimum=1, maximum=_MOST_PROCESSES)
        assign(
            self,
            run=_command("runtime.run", self.run),
            compile=None if self.compile is None else _command("runtime.compile", self.compile),
            version=texts("runtime.version", self.version),
            environment=environment("runtime.environment", self.environment),
            suffixes=_suffixes(self.suffixes),
            packages=texts("runtime.packages", self.packages, empty=False),
            **beside,
            compile_seconds=seconds("runtime.compile_seconds", self.compile_seconds),
            prepare=None if self.prepare is None else _command("runtime.prepare", self.prepare),
            standby=_command("runtime.standby", self.standby) if self.standby else (),
        )


def _file_name(field_name: str, value: object) -> str:
    name = text(field_name, value, empty=False)
    if "/" in name or name in (".", ".."):
        refuse(field_name, value, "a file name without a directory")
    return name


def _suffixes(value: object) -> tuple[str, ...]:
    found = texts("runtime.suffixes", value)
    for suffix in found:
        if not suffix.startswith(".") or suffix == "." or "/" in suffix:
            refuse("runtime.suffixes", suffix, 'a suffix such as ".cpp"')
    return found


def _command(field_name: str, value: object) -> tuple[str, ...]:
    """An argv: at least the program."""
    argv = texts(field_name, value)
    if not argv or not argv[0]:
        refuse(field_name, value, "a command: a program and its arguments")
    return argv
