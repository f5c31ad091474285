"""A tree from layers that are not trusted: nothing is made, changed or removed but in the tree.

Layers are applied as layer.md of the OCI image specification 1.1 says, and as container engines do where it is silent.
What may not be decided on the text of a path is decided by the kernel: the directory that an entry is in is resolved by
openat2(2) with RESOLVE_IN_ROOT, so that links on the way, absolute ones too, lead into the tree; the last name is never
followed. What is there is never written to: it is removed, and made anew.

Left out, and counted: devices; FIFOs and sockets, by which two sandboxes of one root could talk, for they can be
written to on a read-only mount; set-uid and set-gid bits, which no sandbox heeds; extended attributes, capabilities
among them. Without root all files are the user's own, and he may always read and change them: else he could not remove
them.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nsbox._errors import ConfigError, SetupError
from nsbox._files import calls
from nsbox._files.resolve import closing, retried
from nsbox._rootfs.tar import Archive, Entry, Kind, Reader

_IN_ROOT = calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # other marks of the file system that docker began with
_LAST_ID = 65_535  # of a sandbox's range
_NOBODY = 65_534
_DEEPEST = 200
_LONGEST = 3_800  # bytes of a directory's path, so that every file in it has one below PATH_MAX
_MODES = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO | stat.S_ISVTX
_THEIR_FAULT = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOENT, errno.EXDEV, errno.EMLINK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an image may have at most.

    Attributes:
        bytes: Of all its layers, unpacked.
        entries: In all its layers, and looked at to remove what they hide.
    """

    bytes: int = 16 << 30
    entries: int = 2_000_000


class Unpacker:
    """A tree that layers are applied to, one after the other; use it as a context manager.

    Nobody else may change the tree meanwhile.

    Args:
        directory: An empty directory.
        limits: See there.
        leave_out: Of plain archives: whether a path, such as "/usr/share/doc/x", is left out.
    """

    def __init__(self, directory: str, limits: Limits, leave_out: Callable[[str], bool] | None = None) -> None:
        self.left_out: Counter[str] = Counter()
        """What has been left out, by kind."""
        self._limits = limits
        self._leave_out = leave_out
        self._entries = self._examined = 0
        self._as_root = os.geteuid() == 0
        self._times: dict[bytes, int] = {b"": 0}
        """Of directories, by their true paths in the tree: set at last, as every new entry changes them."""
        self._made: set[bytes] = set()
        """The true paths of what the current layer has made."""
        self._root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._base = os.readlink(f"/proc/self/fd/{self._root}").encode("utf-8", "surrogateescape")

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    # ------------------------------------------------------------ layers

    def apply(self, reader: Reader, name: str, *, plain: bool = False) -> None:
        """Apply one layer. Blocks for as long as that takes.

        Args:
            reader: A tar archive, not compressed.
            name: What errors call it.
            plain: A whole tree, in which names that begin with ".wh." mean nothing.

        Raises:
            ConfigError: It is damaged, or more than is allowed.
            SetupError: The tree cannot be written: the disk is full, for example.
        """
        self._made.clear()
        archive = Archive(reader, name)
        for entry in archive:
            self._count()
            with _translated(name, entry.name):
                self._apply(archive, entry, plain=plain)

    def finish(self) -> None:
        """Give directories the times that they are to have.

        Raises:
            SetupError: The disk is full.
        """
        for path, modified in self._times.items():
            with _translated("the tree", path):
                try:
                    fd = retried(self._root, b"/" + path, os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
                except OSError as exc:
                    if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        continue  # removed or replaced by a later layer
                    raise
                with closing(fd):
                    os.utime(fd, ns=(modified, modified))

    def _apply(self, archive: Archive, entry: Entry, *, plain: bool) -> None:
        parts = [part for part in entry.name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ConfigError(f"the entry {_shown(entry.name)} has '..' in it, which no layer needs")
        if plain and self._leave_out is not None and self._leave_out("/" + os.fsdecode(b"/".join(parts))):
            return
        if not parts:
            if entry.kind is Kind.DIRECTORY:
                self._attributes(self._root, b"", entry)
            return
        with closing(self._directory(parts[:-1])) as parent:
            inside = self._true_path(parent)
            if parts[-1].startswith(_WHITEOUT) and not plain:
                self._hide(parent, inside, parts[-1], entry)
            elif entry.kind in (Kind.DEVICE, Kind.FIFO):
                self._remove(parent, parts[-1])
                self.left_out["devices" if entry.kind is Kind.DEVICE else "FIFOs"] += 1
            else:
                self._make(archive, entry, parent, _below(inside, parts[-1]), parts[-1])

    def _make(self, archive: Archive, entry: Entry, parent: int, path: bytes, name: bytes) -> None:
        self._made.add(path)
        self.left_out["attributes"] += entry.attributes
        if entry.kind is Kind.DIRECTORY:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                    self._remove(parent, name)
                    os.mkdir(name, 0o700, dir_fd=parent)
            with closing(self._entry_itself(parent, name)) as fd:
                self._attributes(fd, path, entry)
            return
        if entry.kind is Kind.HARDLINK:
            self._link(entry, parent, name)
            return
        self._remove(parent, name)
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
            if self._as_root:
                os.chown(name, *_owner(entry), dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(entry.modified, entry.modified), dir_fd=parent, follow_symlinks=False)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with closing(os.open(name, flags, 0o600, dir_fd=parent)) as fd:
            for data in archive.content():
                _write(fd, data)
            self._attributes(fd, None, entry)

    def _link(self, entry: Entry, parent: int, name: bytes) -> None:
        """One more name of a file, which may be one of a lower layer."""
        parts = [part for part in entry.target.split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts:
            raise ConfigError(f"the hard link {_shown(entry.name)} leads to {_shown(entry.target)}, which is no name")
        with closing(self._existing(parts[:-1])) as place:
            found = os.lstat(parts[-1], dir_fd=place)
            if stat.S_ISDIR(found.st_mode):
                raise ConfigError(f"the hard link {_shown(entry.name)} leads to a directory")
            try:
                there = os.lstat(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            else:
                if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                    return  # it is that already; removing one first could remove the only one
                self._remove(parent, name)
            os.link(parts[-1], name, src_dir_fd=place, dst_dir_fd=parent, follow_symlinks=False)

    def _attributes(self, fd: int, directory: bytes | None, entry: Entry) -> None:
        """Owner, mode and time of what a descriptor is of.

        Args:
            fd: O_PATH for directories.
            directory: Its path, if it is one.
            entry: What they are to be.
        """
        if entry.mode & (stat.S_ISUID | stat.S_ISGID):
            self.left_out["set-uid bits"] += 1
        mode = entry.mode & _MODES
        path = f"/proc/self/fd/{fd}"  # neither fchown(2) nor fchmod(2) takes an O_PATH descriptor
        if self._as_root:
            os.chown(path, *_owner(entry))
        else:
            mode |= 0o600 if directory is None else 0o700
        os.chmod(path, mode)
        if directory is None:
            os.utime(path, ns=(entry.modified, entry.modified))
        else:
            self._times[directory] = entry.modified

    # ------------------------------------------------------------ places

    def _existing(self, parts: list[bytes]) -> int:
        return retried(self._root, b"/" + b"/".join(parts), os.O_PATH | os.O_DIRECTORY, _IN_ROOT)

    def _directory(self, parts: list[bytes]) -> int:
        """The directory that an entry is to be in, as an O_PATH descriptor; made where it is not there."""
        try:
            return self._existing(parts)
        except FileNotFoundError:
            pass
        fd = os.dup(self._root)
        try:
            for index, part in enumerate(parts):
                try:
                    below = self._existing(parts[: index + 1])
                except FileNotFoundError:
                    self._count()
                    os.mkdir(part, 0o755, dir_fd=fd)  # FileExistsError: a link that leads nowhere
                    below = self._entry_itself(fd, part)
                    self._times[self._true_path(below)] = 0
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _entry_itself(self, parent: int, name: bytes) -> int:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

    def _true_path(self, fd: int) -> bytes:
        """Where in the tree a directory is, whatever links led to it."""
        path = os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))
        inside = path[len(self._base) :].lstrip(b"/")
        if path[: len(self._base)] != self._base or inside.count(b"/") >= _DEEPEST or len(path) > _LONGEST:
            raise ConfigError(f"directories more than {_DEEPEST} deep, or with paths of more than {_LONGEST} bytes")
        return inside

    # ------------------------------------------------------------ removing

    def _hide(self, parent: int, inside: bytes, name: bytes, entry: Entry) -> None:
        """A whiteout: it hides what lower layers have, and nothing of its own layer."""
        if name == _OPAQUE:
            with closing(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)) as directory:
                self._hide_all(directory, inside)
            return
        if name.startswith(_AUFS):
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b"..") or entry.kind is Kind.DIRECTORY:
            raise ConfigError(f"{_shown(entry.name)} is no whiteout, and nothing else may be called so")
        if _below(inside, hidden) not in self._made:
            self._remove(parent, hidden)

    def _hide_all(self, directory: int, inside: bytes) -> None:
        """Remove what is in a directory, but for what the current layer has made.

        A directory of a lower layer stays as long as something of this layer is in it.
        """
        for one in os.listdir(directory):
            name = os.fsencode(one)
            path = _below(inside, name)
            self._look()
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                with closing(os.open(name, flags, dir_fd=directory)) as below:
                    self._hide_all(below, path)
                    empty = not os.listdir(below)
                if empty and path not in self._made:
                    os.rmdir(name, dir_fd=directory)
            elif path not in self._made:
                os.unlink(name, dir_fd=directory)

    def _remove(self, parent: int, name: bytes) -> None:
        """Whatever has this name; nothing is no error."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):  # EPERM is what POSIX says for a directory
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise
            shutil.rmtree(name, dir_fd=parent)

    # ------------------------------------------------------------ bounds

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ConfigError(f"it has more than {self._limits.entries} entries, which is the limit")

    def _look(self) -> None:
        self._examined += 1
        if self._examined > self._limits.entries:
            raise ConfigError(f"its whiteouts hide more than {self._limits.entries} entries, which is the limit")


def _below(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _owner(entry: Entry) -> tuple[int, int]:
    """Nobody, for who has an id that no sandbox has."""
    return (
        entry.uid if entry.uid <= _LAST_ID else _NOBODY,
        entry.gid if entry.gid <= _LAST_ID else _NOBODY,
    )


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


@contextmanager
def _translated(layer: str, name: bytes) -> Iterator[None]:
    """What goes wrong with an entry: the archive's fault, or this machine's."""
    try:
        yield
    except ConfigError as exc:
        if str(exc).startswith(layer):
            raise
        raise ConfigError(f"{layer}: {exc}") from exc
    except FileExistsError as exc:
        raise ConfigError(f"{layer}: the entry {_shown(name)} is behind a link that leads nowhere") from exc
    except OSError as exc:
        if exc.errno in _THEIR_FAULT:
            raise ConfigError(f"{layer}: the entry {_shown(name)} cannot be: {exc.strerror}") from exc
        raise SetupError("rootfs", exc.errno or errno.EIO, exc.strerror or "", os.fsdecode(name)) from exc
