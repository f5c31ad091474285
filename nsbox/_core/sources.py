"""Program texts and compiled programs, written where the sandbox can read them and nobody in it can write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

from nsbox._compile import BuiltFile
from nsbox._errors import ConfigError
from nsbox._plan import SOURCE_DIRECTORY

_BUILT = "built"


class Place:
    """An execution's own directory among the program texts.

    Attributes:
        directory: Its path in the sandbox.
        source: The path of the source file.
        built: The path of the directory with compiled files.
    """

    __slots__ = ("_fd", "_file_name", "_made", "built", "directory", "source")

    def __init__(self, fd: int, name: str, file_name: str) -> None:
        self._fd = fd
        self._file_name = file_name
        self._made: list[tuple[str, bool]] = []  # paths, and whether each is a directory
        self.directory = f"{SOURCE_DIRECTORY}/{name}"
        self.source = f"{self.directory}/{file_name}"
        self.built = f"{self.directory}/{_BUILT}"

    def add(self, name: str, content: bytes | memoryview, *, executable: bool = False) -> None:
        """A file in it, complete, with directories on the way.

        Raises:
            OSError: It does not fit.
        """
        parents = name.split("/")[:-1]
        for index in range(len(parents)):
            parent = "/".join(parents[: index + 1])
            if (parent, True) not in self._made:
                os.mkdir(parent, 0o755, dir_fd=self._fd)
                self._made.append((parent, True))
                os.chmod(parent, 0o755, dir_fd=self._fd)  # mkdir is subject to the umask
        mode = 0o755 if executable else 0o644
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=self._fd)
        self._made.append((name, False))
        try:
            os.fchmod(fd, mode)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)

    def add_source(self, code: bytes) -> None:
        """The source file.

        Raises:
            ConfigError: It does not fit.
        """
        try:
            self.add(self._file_name, code)
        except OSError as exc:
            raise ConfigError(f"code: {len(code)} bytes do not fit into {SOURCE_DIRECTORY} ({exc.strerror})") from exc

    def add_built(self, files: Iterable[BuiltFile]) -> None:
        """What a compiler made. May block for a moment, in proportion to its size.

        Raises:
            ConfigError: It does not fit.
        """
        try:
            for file in files:
                self.add(f"{_BUILT}/{file.path}", file.content, executable=file.executable)
        except OSError as exc:
            raise ConfigError(f"code: the compiled program does not fit into the sandbox ({exc.strerror})") from exc

    def clear(self) -> None:
        """Remove all of it. What cannot be removed is gone with the sandbox at the latest: no result is lost for it."""
        for name, is_directory in reversed(self._made):
            with contextlib.suppress(OSError):
                (os.rmdir if is_directory else os.unlink)(name, dir_fd=self._fd)
        self._made.clear()


@contextlib.contextmanager
def program_source(
    directory: int, name: str, file_name: str, code: bytes | None, beside: Mapping[str, str] | None = None
) -> Iterator[Place]:
    """A place, in the sandbox, with a file that has `code`; gone afterwards.

    Args:
        directory: The sandbox's directory for program texts.
        name: Of a directory of its own in there, used by nothing else.
        file_name: Without a directory.
        code: Anything; None: `add_source` will have it.
        beside: Further files: name and text.

    Raises:
        ConfigError: It does not fit.
    """
    os.mkdir(name, 0o755, dir_fd=directory)
    try:
        own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        place = Place(own, name, file_name)
        try:
            os.fchmod(own, 0o755)  # mkdir is subject to the umask
            try:
                for other, text in (beside or {}).items():
                    place.add(other, text.encode())
            except OSError as exc:
                raise ConfigError(f"what belongs to {file_name} does not fit into {SOURCE_DIRECTORY}") from exc
            if code is not None:
                place.add_source(code)
            yield place
        finally:
            place.clear()
            os.close(own)
    finally:
        with contextlib.suppress(OSError):  # the same as in `clear`
            os.rmdir(name, dir_fd=directory)


class Source:
    """The text of a program that lives on, in the sandbox for as long as it does.

    Args:
        directory: The sandbox's, for program texts.
        name: Of a directory of its own.
        file_name: Of the text.
        text: As for `program_source`.
        beside: As for `program_source`.

    Raises:
        ConfigError: It does not fit.
        OSError: It cannot be written, or this process may have no more descriptors.
    """

    def __init__(
        self, directory: int, name: str, file_name: str, text: bytes | None, beside: Mapping[str, str] | None = None
    ) -> None:
        with contextlib.ExitStack() as stack:
            own = os.dup(directory)  # a restarted sandbox closes its own before everything in it is seen to be dead
            stack.callback(os.close, own)
            self.place = stack.enter_context(program_source(own, name, file_name, text, beside))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Remove it. A second time, nothing."""
        self._stack.close()
