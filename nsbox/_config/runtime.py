"""A language, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nsbox._config.frozen import FrozenMap
from nsbox._config.validation import assign, environment, refuse, text, texts

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
        environment: Variables for compiling and running, below those of the sandbox and of the options.

    Raises:
        ConfigError: A value of another type, or empty, or with NUL bytes.
    """

    name: str
    file_name: str
    run: Sequence[str]
    compile: Sequence[str] | None = None
    version: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        language_name("runtime.name", self.name)
        text("runtime.file_name", self.file_name, empty=False)
        if "/" in self.file_name or self.file_name in (".", ".."):
            refuse("runtime.file_name", self.file_name, "a file name without a directory")
        assign(
            self,
            run=_command("runtime.run", self.run),
            compile=None if self.compile is None else _command("runtime.compile", self.compile),
            version=texts("runtime.version", self.version),
            environment=environment("runtime.environment", self.environment),
        )


def _command(field_name: str, value: object) -> tuple[str, ...]:
    """An argv: at least the program."""
    argv = texts(field_name, value)
    if not argv or not argv[0]:
        refuse(field_name, value, "a command: a program and its arguments")
    return argv
