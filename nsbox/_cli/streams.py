"""The command's own stdin, stdout and stderr: exact bytes, by descriptor.

Python's text streams would encode, buffer, and complain about a closed pipe a second time when the interpreter ends.
"""

from __future__ import annotations

import os
import select

from nsbox._errors import ConfigError

STDIN, STDOUT, STDERR = 0, 1, 2
STDIN_LIMIT_MB = 256
"""All of stdin is read before the program starts; what is not bounded would fill the host's memory."""

PROGRAM_LIMIT_MB = 16
_CHUNK = 1 << 20


class OutputClosedError(Exception):
    """What read our output has gone, as `head` does when it has its lines."""


def occupy_standard_descriptors() -> None:
    """Open /dev/null on those of 0, 1 and 2 that are closed.

    Else the next file or socket would get the number, and the program's output would be written into it.
    """
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, open(2): this one


def write(fd: int, data: bytes | str) -> None:
    """Write all of it; a str as UTF-8, with what no encoding has escaped.

    Raises:
        OutputClosedError: The reader has gone.
        OSError: It cannot be written, e.g. to a full disk.
    """
    rest = memoryview(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
    while rest:
        try:
            rest = rest[os.write(fd, rest[:_CHUNK]) :]
        except BlockingIOError:  # whoever shares the pipe with us may have set O_NONBLOCK on it
            select.select([], [fd], [])
        except BrokenPipeError as exc:
            raise OutputClosedError from exc
        except OSError as exc:
            raise OSError(exc.errno, f"{exc.strerror}, when writing to descriptor {fd}") from exc


def read_stdin() -> bytes:
    """All that is on stdin, but nothing where it is a terminal: nobody is asked to type.

    Raises:
        ConfigError: There is more than `STDIN_LIMIT_MB`, or it cannot be read.
    """
    return b"" if os.isatty(STDIN) else read_all(STDIN, "stdin", STDIN_LIMIT_MB)


def read_all(fd: int, name: str, limit_mb: int) -> bytes:
    """Everything up to the end of a file, pipe or terminal.

    Raises:
        ConfigError: There is more than the limit, or it cannot be read.
    """
    collected = bytearray()
    while len(collected) <= limit_mb << 20:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            select.select([fd], [], [])
            continue
        except OSError as exc:
            raise ConfigError(f"{name}: cannot be read ({exc.strerror})") from exc
        if not chunk:
            return bytes(collected)
        collected += chunk
    raise ConfigError(f"{name}: must be at most {limit_mb} MiB")
