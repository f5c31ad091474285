"""The languages that contexts can have, as data."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nsbox._config import Runtime
from nsbox._contexts.frames import pack
from nsbox._errors import ConfigError
from nsbox._runtimes import RUNTIMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the program of a context is told to run.

    Attributes:
        number: Names it in what comes back; unlike any other of the context's.
        source: Path of its text.
        stdin: Path of what it can read, or None.
        directory: Where to run it, or None: where the last one left off.
        environment: Variables, for it alone.
    """

    number: int
    source: str
    stdin: str | None
    directory: str | None
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLanguage:
    """How contexts of a language are started and spoken to.

    Attributes:
        runtime: The program of the context, its text's file name, and its environment.
        request: Encodes a cell for it.
        forks: Whether it can fork itself.
        program: Of the language.
        package: What brings that, on Debian.
        stdin: Whether a cell can be given one.
    """

    runtime: Runtime
    request: Callable[[Cell], bytes]
    forks: bool
    program: str
    package: str
    stdin: bool = True

    @property
    def name(self) -> str:
        """Of the language."""
        return self.runtime.name

    def text(self) -> bytes:
        """What the program of the context is."""
        return _read(self.runtime.file_name)


@functools.cache
def _read(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()


def _frame(cell: Cell) -> bytes:
    flat = [word for variable in cell.environment.items() for word in variable]
    return pack("run", cell.number, cell.source, cell.stdin, cell.directory, *flat)


def _line(cell: Cell) -> bytes:
    """For bash, which reads up to a NUL, and takes it for words."""
    variables: Sequence[str] = [f"{name}={value}" for name, value in cell.environment.items()]
    done = "".join(f"\\x{byte:02x}" for byte in _done(cell.number))
    words = [cell.source, cell.stdin or "/dev/null", cell.directory or "", done, *variables]
    return shlex.join(words).encode("utf-8", "surrogateescape") + b"\0"


def _done(number: int) -> bytes:
    """A frame that says that a cell is done, but for its last byte, the status (spec.md of msgpack/msgpack)."""
    body = b"\x93\xa4done\xce" + number.to_bytes(4, "big") + b"\xcc"
    return (len(body) + 1).to_bytes(4, "little") + body


LANGUAGES: Mapping[str, ContextLanguage] = MappingProxyType(
    {
        "python": ContextLanguage(
            runtime=Runtime(
                name="python",
                file_name="python_agent.py",
                run=("python3", "{source}"),
                environment=RUNTIMES["python"].environment,
            ),
            request=_frame,
            forks=True,
            program="python3",
            package="python3",
        ),
        "javascript": ContextLanguage(
            # Node cannot move a descriptor out of the way of what the cells start.
            runtime=Runtime(
                name="javascript",
                file_name="node_agent.js",
                run=("/bin/sh", "-c", 'exec node "$0" "$@" 3<&0 0</dev/null', "{source}"),
            ),
            request=_frame,
            forks=False,
            program="node",
            package="nodejs",
            stdin=False,
        ),
        "bash": ContextLanguage(
            runtime=Runtime(name="bash", file_name="bash_agent.sh", run=("bash", "--noprofile", "--norc", "{source}")),
            request=_line,
            forks=False,
            program="bash",
            package="bash",
        ),
    }
)
"""By name."""


def find_language(name: str) -> ContextLanguage:
    """The language of a name.

    Raises:
        ConfigError: There are no contexts of it.
    """
    try:
        return LANGUAGES[name]
    except (KeyError, TypeError):
        raise ConfigError(f"language={name!r}: contexts are there for {', '.join(LANGUAGES)}") from None
