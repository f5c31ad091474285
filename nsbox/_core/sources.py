"""Program texts, written where the sandbox can read them and nobody in it can write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from nsbox._errors import ConfigError
from nsbox._plan import SOURCE_DIRECTORY


@contextlib.contextmanager
def program_source(directory: int, name: str, file_name: str, code: bytes) -> Iterator[str]:
    """The path, in the sandbox, of a file with `code`; gone afterwards.

    Args:
        directory: The sandbox's directory for program texts.
        name: Of a directory of its own in there, used by nothing else.
        file_name: Without a directory.
        code: Anything.

    Raises:
        ConfigError: It does not fit.
    """
    os.mkdir(name, 0o755, dir_fd=directory)
    try:
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.fchmod(own, 0o755)  # mkdir is subject to the umask
            _write(own, file_name, code)
            yield f"{SOURCE_DIRECTORY}/{name}/{file_name}"
        finally:
            with contextlib.suppress(OSError):  # gone with the sandbox at the latest: no result is lost for it
                os.unlink(file_name, dir_fd=own)
            os.close(own)
    finally:
        with contextlib.suppress(OSError):  # the same
            os.rmdir(name, dir_fd=directory)


def _write(directory: int, name: str, code: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory)
    try:
        os.fchmod(fd, 0o644)
        rest = memoryview(code)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as exc:
        raise ConfigError(f"code: {len(code)} bytes do not fit into {SOURCE_DIRECTORY} ({exc.strerror})") from exc
    finally:
        os.close(fd)
