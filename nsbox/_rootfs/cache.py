"""Where unpacked roots are: a directory of this user's alone, safe under several processes.

    lock          flock(2) on it is held while names change
    names/NAME    a link to the tree of this name
    trees/ID/     root/, and record.json about it; the ID is never used again
    new-RANDOM/   being made, or being removed; who does that holds flock(2) on it

A tree is complete when it gets its place (rename(2)), and is never changed then. Who uses one holds flock(2) on it,
shared: it is removed only when nobody does. What a process left that was killed is removed by the next one that makes
or removes something: its locks have gone with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nsbox._compile.store import cache_directory
from nsbox._errors import ConfigError, InvalidStateError, SetupError
from nsbox._rootfs.recipe import NAME
from nsbox._rootfs.record import Record, from_json

_TEMPORARY = "new-"
_SCRATCH = "scratch"
_RECORD = "record.json"
_LARGEST_RECORD = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One root that is there.

    Attributes:
        record: What it is.
        place: Its directory in the cache.
        used: When it was last used, or made: seconds since 1970.
    """

    record: Record
    place: Path
    used: float

    @property
    def root(self) -> Path:
        """The root file system itself."""
        return self.place / "root"


@dataclass(frozen=True, slots=True)
class New:
    """A directory in which a tree is made.

    Attributes:
        path: It.
        fd: The descriptor with its lock.
    """

    path: Path
    fd: int

    @property
    def root(self) -> str:
        """The root file system itself, empty at first."""
        return str(self.path / "root")


class Hold:
    """A tree that is in use, for as long as this is not closed.

    Args:
        tree: It.
        fd: Of its directory, with the lock; ours to close.
    """

    def __init__(self, tree: Tree, fd: int) -> None:
        self.tree = tree
        self._fd = fd

    def close(self) -> None:
        """It may be removed; a second time, nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _release(self.tree.place, fd)


_held: dict[Path, tuple[int, int]] = {}
_held_lock = threading.Lock()
"""One descriptor for each tree, whatever the number of sandboxes: path to descriptor and users."""


def _acquire(place: Path) -> int:
    with _held_lock:
        fd, users = _held.get(place, (-1, 0))
        if fd < 0:
            fd = _open_directory(place)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(fd), os.stat(place)):
                    raise FileNotFoundError(errno.ENOENT, "removed meanwhile", str(place))
            except BaseException:
                os.close(fd)
                raise
        _held[place] = (fd, users + 1)
        return fd


def _release(place: Path, fd: int) -> None:
    with _held_lock:
        _, users = _held[place]
        if users > 1:
            _held[place] = (fd, users - 1)
        else:
            del _held[place]
            os.close(fd)


def open_cache() -> Cache:
    """The cache of this user, in the same directory as that of compiled programs: `cache_directory`.

    Raises:
        ConfigError: NSBOX_CACHE_DIR is no absolute path.
    """
    return Cache(Path(cache_directory()) / "rootfs")


def check_name(name: str) -> str:
    """A name that a root may have.

    Raises:
        ConfigError: It is none.
    """
    if not NAME.fullmatch(name) or name == "host":
        raise ConfigError(
            f"rootfs {name!r}: a name begins with a lower-case letter or a digit, goes on with those and . _ -, "
            "has at most 160 characters, and is not 'host'"
        )
    return name


class Cache:
    """See the module. Every method may block for as long as the disk takes.

    Args:
        directory: Where; made when it is first written to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # ------------------------------------------------------------ looking

    def names(self) -> tuple[str, ...]:
        """Of all roots that are there."""
        try:
            self._check()
            return tuple(sorted(name for name in os.listdir(self.directory / "names") if NAME.fullmatch(name)))
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise _refused(exc, self.directory) from exc

    def find(self, name: str) -> Tree | None:
        """The root of a name; None: there is none, or it is damaged.

        Raises:
            SetupError: The directory is not this user's alone.
        """
        if not self._has(name):
            return None
        tree = self._look(name)
        if tree is None:  # or it was replaced between two steps of looking
            with _translated(self.directory), self._locked():
                tree = self._look(name)
        return tree

    def _has(self, name: str) -> bool:
        try:
            self._check()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _refused(exc, self.directory) from exc
        return os.path.lexists(self.directory / "names" / name)

    def _look(self, name: str) -> Tree | None:
        try:
            place = self.directory / "trees" / os.path.basename(os.readlink(self.directory / "names" / name))
            with open(place / _RECORD, encoding="utf-8") as file:
                record = from_json(file.read(_LARGEST_RECORD))
            used = os.stat(place / _RECORD).st_mtime
        except (OSError, ValueError):
            return None
        return None if record is None else Tree(record=record, place=place, used=used)

    def hold(self, name: str) -> Hold | None:
        """The same, in use from now on."""
        if not self._has(name):
            return None
        tree = self._look(name)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if tree is not None:
                return self._take(tree)
        with _translated(self.directory), self._locked():  # it was replaced or removed in between, or is damaged
            tree = self._look(name)
            return None if tree is None else self._take(tree)

    def _take(self, tree: Tree) -> Hold:
        fd = _acquire(tree.place)
        with contextlib.suppress(OSError):
            os.utime(tree.place / _RECORD)
        return Hold(tree, fd)

    # ------------------------------------------------------------ making

    @contextlib.contextmanager
    def new(self) -> Iterator[New]:
        """A directory for a tree to be made in, with an empty `root`; gone afterwards, unless `keep` has taken it.

        Raises:
            SetupError: It cannot be made, or the disk is full; and for any OSError from inside.
        """
        with _translated(self.directory), self._locked():  # else another one would sweep it before it is locked
            self._sweep()
            path = self.directory / f"{_TEMPORARY}{secrets.token_hex(8)}"
            path.mkdir(0o700)
            fd = _open_directory(path)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            with _translated(self.directory):
                (path / "root").mkdir(0o755)
                yield New(path, fd)
        finally:
            if path.exists():
                _remove(path)
            os.close(fd)

    def keep(self, new: New, record: Record) -> tuple[Tree, bool]:
        """Give what was made its name, in place of what had it.

        Args:
            new: From `new`.
            record: What it is; its name is the name.

        Returns:
            The tree, and whether it is the new one: where the old one is the same to the last bit, that stays.

        Raises:
            SetupError: The disk is full.
        """
        name = check_name(record.name)
        with _translated(self.directory):
            with open(new.path / _RECORD, "x", encoding="utf-8") as file:
                file.write(record.to_json())
            _sync(new.path)
            with self._locked():
                old = self._look(name)
                same = old is not None and old.record.digest == record.digest and old.root.is_dir()
                if old is not None and same:
                    os.replace(new.path / _RECORD, old.place / _RECORD)
                    return Tree(record=record, place=old.place, used=record.made), False
                place = self.directory / "trees" / f"{record.digest[7:23]}-{secrets.token_hex(4)}"
                fcntl.flock(new.fd, fcntl.LOCK_SH)  # from here on others may use it
                os.rename(new.path, place)
                link = self.directory / "names" / f"{_TEMPORARY.upper()}{secrets.token_hex(8)}"  # no name has capitals
                os.symlink(f"../trees/{place.name}", link)
                os.rename(link, self.directory / "names" / name)
                self._sweep()
        return Tree(record=record, place=place, used=record.made), True

    def remove(self, name: str) -> None:
        """Remove a root.

        Raises:
            ConfigError: There is none of this name.
            InvalidStateError: A sandbox uses it.
            SetupError: It cannot be removed.
        """
        check_name(name)
        link = self.directory / "names" / name
        with _translated(self.directory):
            if not os.path.lexists(link):
                raise ConfigError(f"rootfs {name!r}: there is none of this name{self.others()}")
            with self._locked():
                try:
                    place = self.directory / "trees" / os.path.basename(os.readlink(link))
                    fd = _lock_alone(place)
                except BlockingIOError as exc:
                    raise InvalidStateError(f"rootfs {name!r}: a sandbox uses it; end that first") from exc
                except FileNotFoundError:
                    fd = -1
                link.unlink()
                if fd >= 0:
                    os.close(fd)
                self._sweep()

    def others(self) -> str:
        """For errors: which names there are."""
        names = self.names()
        return f"; there are {', '.join(names)}" if names else "; there are none yet"

    # ------------------------------------------------------------ sweeping

    def sweep(self) -> None:
        """Remove what has no name, and what was left half made; never what somebody uses or makes."""
        with self._locked():
            self._sweep()

    def _sweep(self) -> None:
        names = self.directory / "names"
        named = set()
        for one in os.listdir(names):
            if one.startswith(_TEMPORARY.upper()):
                (names / one).unlink()
            else:
                named.add(os.path.basename(os.readlink(names / one)))
        unnamed = [entry for entry in (self.directory / "trees").iterdir() if entry.name not in named]
        for place in (*unnamed, *self.directory.glob(f"{_TEMPORARY}*")):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fd = _lock_alone(place)
                try:
                    gone = place
                    if place.parent.name == "trees":
                        gone = self.directory / f"{_TEMPORARY}{secrets.token_hex(8)}"
                        os.rename(place, gone)
                    _remove(gone)
                finally:
                    os.close(fd)

    # ------------------------------------------------------------ the directory

    def _make(self) -> None:
        os.makedirs(self.directory.parent, 0o700, exist_ok=True)
        self.directory.mkdir(0o700, exist_ok=True)
        self._check()
        for name in ("names", "trees"):
            (self.directory / name).mkdir(0o700, exist_ok=True)

    def _check(self) -> None:
        """Nobody else may write here: he would decide what runs, and as whom."""
        for path in (self.directory.parent, self.directory):
            status = os.stat(path, follow_symlinks=False)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PermissionError(errno.EPERM, "must be this user's, and nobody else may write to it", str(path))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.directory / "lock", flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def write_scratch(new: New, scratch: str) -> None:
    """Note a directory that lies elsewhere and goes with `new`, whoever removes that."""
    (new.path / _SCRATCH).write_text(scratch, encoding="utf-8")


def _remove(place: Path) -> None:
    """All of a directory of ours, and what lies elsewhere for it."""
    try:
        scratch = (place / _SCRATCH).read_text(encoding="utf-8")
    except OSError:
        scratch = ""
    if scratch and os.path.basename(scratch).startswith("nsbox-rootfs-"):
        shutil.rmtree(scratch, ignore_errors=True)
        if os.path.exists(scratch):  # of users that only a user namespace has; mmdebstrap(1), MODES, unshare
            command = ("mmdebstrap", "--unshare-helper", "rm", "-rf", scratch)
            with contextlib.suppress(OSError):
                subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)


def _lock_alone(place: Path) -> int:
    fd = _open_directory(place)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _sync(path: Path) -> None:
    """Write all of the file system to its disk: a name must not outlive what it names (syncfs(2))."""
    fd = _open_directory(path)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(ctypes.c_int(fd)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def _refused(exc: OSError, directory: Path) -> SetupError:
    return SetupError("rootfs", exc.errno or errno.EIO, exc.strerror or "", str(exc.filename or directory))


@contextlib.contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except SetupError:
        raise
    except OSError as exc:
        raise _refused(exc, directory) from exc
