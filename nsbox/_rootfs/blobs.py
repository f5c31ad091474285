"""The files of an image: a directory, or the members of a tar archive, by name. Nothing of it is trusted.

In a directory a name is resolved by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and only a regular file is
opened: a FIFO would keep us waiting. In an archive a link is a name in the archive and nothing else.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from nsbox._errors import ConfigError, SetupError
from nsbox._files import calls
from nsbox._files.resolve import closing, reopen_file, retried
from nsbox._rootfs.tar import BLOCK, Archive, Kind

_BENEATH = calls.RESOLVE_BENEATH | calls.RESOLVE_NO_SYMLINKS | calls.RESOLVE_NO_MAGICLINKS
_LARGEST_DOCUMENT = 4 << 20
"""Of JSON: registries take no larger manifest (distribution specification 1.1, "Pushing Manifests")."""
_MOST_MEMBERS = 100_000
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")


class Blob(Protocol):
    """One file of an image; `close` it."""

    size: int

    def read(self, size: int, /) -> bytes:
        """As of `Reader`."""
        ...

    def close(self) -> None:
        """No more of it is needed."""
        ...


class Blobs(Protocol):
    """All files of an image."""

    name: str
    """What errors call it."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def open(self, name: str) -> Blob:
        """Open one.

        Raises:
            ConfigError: It is not there, or no file.
        """
        ...

    def close(self) -> None:
        """No more of them is needed."""
        ...


def open_blobs(source: Path) -> Directory | Tar:
    """What an image is in.

    Args:
        source: An OCI image layout, or a tar archive with one or by `docker save`.

    Raises:
        ConfigError: It is neither, or cannot be read.
    """
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as exc:
        raise ConfigError(f"image {str(source)!r}: cannot be read ({exc.strerror})") from exc
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        return Directory(fd, str(source))
    file = os.fdopen(fd, "rb")
    try:
        if stat.S_ISREG(mode):
            return Tar(file, str(source))
        raise ConfigError(f"image {str(source)!r}: must be a directory or a tar archive")
    except BaseException:
        file.close()
        raise


def read_document(blobs: Blobs, name: str) -> bytes:
    """The whole of a small file.

    Raises:
        ConfigError: It is not there, or larger than any of its kind.
    """
    blob = blobs.open(name)
    try:
        content = bytearray()
        while data := blob.read(_LARGEST_DOCUMENT + 1 - len(content)):
            content += data
    finally:
        blob.close()
    if len(content) > _LARGEST_DOCUMENT:
        raise ConfigError(f"image {blobs.name!r}: {name} has more than {_LARGEST_DOCUMENT} bytes")
    return bytes(content)


class _File:
    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self.size = os.fstat(fd).st_size

    def read(self, size: int, /) -> bytes:
        try:
            return os.read(self._fd, size)
        except OSError as exc:
            raise SetupError("rootfs", exc.errno or errno.EIO, exc.strerror or "", self._where) from exc

    def close(self) -> None:
        os.close(self._fd)


class Directory:
    """An image layout that is a directory.

    Args:
        fd: The directory; it is ours to close.
        name: What errors call it.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    def has(self, name: str) -> bool:
        """As of `Blobs`."""
        try:
            os.close(retried(self._fd, os.fsencode(name), os.O_PATH, _BENEATH))
        except OSError:
            return False
        return True

    def open(self, name: str) -> Blob:
        """As of `Blobs`."""
        try:
            with closing(retried(self._fd, os.fsencode(name), os.O_PATH, _BENEATH)) as place:
                return _File(reopen_file(place), f"{self.name}/{name}")
        except OSError as exc:
            why = {errno.ELOOP: "there is a symbolic link on the way to it", errno.EXDEV: "it leads out of the image"}
            detail = why.get(exc.errno or 0, exc.strerror)
            raise ConfigError(f"image {self.name!r}: {name} cannot be opened ({detail})") from exc

    def close(self) -> None:
        """As of `Blobs`."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    size: int
    target: str | None = None


class _Part:
    """The content of a member."""

    def __init__(self, file: BinaryIO, member: _Member) -> None:
        self._file = file
        self._position = member.offset
        self._end = member.offset + member.size
        self.size = member.size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._file.fileno(), min(size, self._end - self._position), self._position)
        self._position += len(data)
        return data

    def close(self) -> None:
        pass


class Tar:
    """An image in a tar archive.

    Args:
        file: The archive, seekable; it is ours to close.
        name: What errors call it.

    Raises:
        ConfigError: It is damaged, or compressed.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self._members: dict[str, _Member] = {}
        first = os.pread(file.fileno(), 6, 0)
        if first.startswith(_COMPRESSED):
            raise ConfigError(f"image {name!r}: is compressed; decompress it first, with gunzip or zstd -d for example")
        archive = Archive(file, f"image {name!r}")
        length = os.fstat(file.fileno()).st_size
        for entry in archive:
            path = posixpath.normpath(os.fsdecode(entry.name)).lstrip("/")
            if entry.kind is Kind.FILE:
                self._members[path] = _Member(entry.offset, entry.size)
                end = entry.offset + entry.size
                if end > length:
                    raise ConfigError(f"image {name!r}: is cut off: {path} ends behind the end of the archive")
                archive.skip_to(file.seek(end + -end % BLOCK))
            elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
                above = posixpath.dirname(path) if entry.kind is Kind.SYMLINK else ""
                target = posixpath.normpath(posixpath.join(above, os.fsdecode(entry.target)))
                self._members[path] = _Member(0, 0, target)
            if len(self._members) > _MOST_MEMBERS:
                raise ConfigError(f"image {name!r}: has more than {_MOST_MEMBERS} members, and no image has")

    def _find(self, name: str) -> _Member | None:
        found = self._members.get(name)
        if found is not None and found.target is not None:  # docker save wrote a layer that it had written as a link
            found = self._members.get(found.target)
        return None if found is None or found.target is not None else found

    def has(self, name: str) -> bool:
        """As of `Blobs`."""
        return self._find(name) is not None

    def open(self, name: str) -> Blob:
        """As of `Blobs`."""
        found = self._find(name)
        if found is None:
            raise ConfigError(f"image {self.name!r}: {name} is not there")
        return _Part(self._file, found)

    def close(self) -> None:
        """As of `Blobs`."""
        self._file.close()
