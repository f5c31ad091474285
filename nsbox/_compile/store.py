"""Compiled programs and prepared directories, by the hash of all that went into them.

A directory that only this user can write, so that no other user of the machine decides what runs. Each entry is one
file that is complete when it gets its name (rename(2)), so that readers in other processes need no lock; who removes
entries to make room holds flock(2) on `lock`. What is damaged counts as not there.

    built/<key>               a header in JSON, and the files behind it
    prepared/<key>.<random>/  mounted read-only into the sandboxes of compilers; another one never gets the same name
    notes/<key>               a line of text: the versions of toolchains
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from nsbox._compile.built import MOST_BYTES, MOST_FILES, BuiltFile, copy_tree
from nsbox._errors import ConfigError

_MAGIC = b"nsbox built 1\n"
_DEFAULT_MB = 512
_ROOM = 0.9  # of the bound is what is left after making room
_TEMPORARY = "new-"
_STALE_SECONDS = 3600.0
_KINDS = ("built", "prepared", "notes")
_LONGEST_NOTE = 4096
_LARGEST_HEADER = 1 << 20
_RECENT_BYTES = 16 << 20
"""Of programs that are kept in memory, too: one is often run on many inputs."""


def open_store() -> Store:
    """The store of this user: NSBOX_CACHE_DIR, else /var/cache/nsbox for root, else nsbox in $XDG_CACHE_HOME.

    Its bound is NSBOX_CACHE_MB in MiB, 512 unless it is set; 0: nothing is kept.

    Raises:
        ConfigError: NSBOX_CACHE_MB is no number, or NSBOX_CACHE_DIR no absolute path.
    """
    text = os.environ.get("NSBOX_CACHE_MB", str(_DEFAULT_MB))
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise ConfigError(f"NSBOX_CACHE_MB={text!r}: must be a number of MiB")
    return _store(cache_directory(), int(text) << 20)


@lru_cache(maxsize=8)
def _store(directory: str, bound: int) -> Store:
    return Store(Path(directory), bound)


def cache_directory() -> str:
    """Where this user's nsbox keeps what it could make again: see `open_store`.

    Raises:
        ConfigError: NSBOX_CACHE_DIR is no absolute path.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    users = os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "nsbox")
    directory = os.environ.get("NSBOX_CACHE_DIR") or ("/var/cache/nsbox" if os.geteuid() == 0 else users)
    if not os.path.isabs(directory):
        raise ConfigError(f"NSBOX_CACHE_DIR={directory!r}: must be an absolute path")
    return directory


class Store:
    """See the module. Every method may block for as long as the disk takes.

    Args:
        directory: Where; made when it is first written to.
        bound: Bytes that the entries have together at most; 0: nothing is kept.
    """

    def __init__(self, directory: Path, bound: int) -> None:
        self.directory = directory
        self.bound = bound
        self._recent: OrderedDict[str, list[BuiltFile]] = OrderedDict()
        self._recent_bytes = 0
        self._lock = threading.Lock()

    # ------------------------------------------------------------ compiled programs

    def recent(self, key: str) -> list[BuiltFile] | None:
        """A compiled program that this process has used lately, from memory: does not block."""
        with self._lock:
            found = self._recent.get(key)
            if found is not None:
                self._recent.move_to_end(key)
            return found

    def _remember(self, key: str, files: Sequence[BuiltFile]) -> None:
        size = sum(len(file.content) for file in files)
        if size > min(_RECENT_BYTES // 4, self.bound):
            return
        with self._lock:
            if key not in self._recent:
                self._recent_bytes += size
            self._recent[key] = list(files)
            while self._recent_bytes > _RECENT_BYTES:
                _, oldest = self._recent.popitem(last=False)
                self._recent_bytes -= sum(len(file.content) for file in oldest)

    def get(self, key: str) -> list[BuiltFile] | None:
        """A compiled program; None: it is not there, or damaged."""
        path = self.directory / "built" / key
        try:
            self._check(self.directory)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            content = file.read(MOST_BYTES + _LARGEST_HEADER + 1)
            found = _unpack(content)
            with contextlib.suppress(OSError):
                os.utime(fd)  # used last, removed last
        if found is None:
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            self._remember(key, found)
        return found

    def put(self, key: str, files: Sequence[BuiltFile]) -> str:
        """Keep a compiled program.

        Returns:
            "": it is kept; else why it is not, which no caller has to fail for.
        """
        header = json.dumps([[file.path, file.executable, len(file.content)] for file in files]).encode()
        pieces = [_MAGIC, b"%d\n" % len(header), header, *(file.content for file in files)]
        if sum(map(len, pieces)) > self.bound:
            return f"larger than the cache's bound of {self.bound >> 20} MiB"
        try:
            with self._new("built") as new:
                with open(new, "xb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(file.fileno())  # a name without content would look like a damaged entry after a crash
                os.rename(new, self.directory / "built" / key)
        except OSError as exc:
            return f"{exc.filename or self.directory}: {exc.strerror or exc}"
        self.make_room()
        self._remember(key, files)
        return ""

    # ------------------------------------------------------------ what is prepared once

    def prepared(self, key: str) -> Path | None:
        """A directory that was kept; None: there is none."""
        try:
            self._check(self.directory)
            names = sorted(os.listdir(self.directory / "prepared"))
        except OSError:
            return None
        for name in names:
            if name.startswith(f"{key}."):
                path = self.directory / "prepared" / name
                with contextlib.suppress(OSError):
                    os.utime(path)
                return path
        return None

    def keep_prepared(self, key: str, directory: int) -> Path:
        """Copy a directory, open, and keep the copy.

        Raises:
            OSError: It cannot be written.
            ResultError: As `copy_tree`.
        """
        with self._new("prepared") as new:
            os.mkdir(new, 0o755)
            size = copy_tree(directory, str(new))
            if size > self.bound:
                raise OSError(f"larger than the cache's bound of {self.bound >> 20} MiB")
            path = self.directory / "prepared" / f"{key}.{secrets.token_hex(4)}"
            os.rename(new, path)
        self.make_room()
        return path

    # ------------------------------------------------------------ notes

    def note(self, key: str) -> str | None:
        """A text that was kept."""
        try:
            self._check(self.directory)
            with open(self.directory / "notes" / key, encoding="utf-8") as file:
                return file.read(_LONGEST_NOTE)
        except (OSError, ValueError):
            return None

    def keep_note(self, key: str, text: str) -> None:
        """Keep a text, if it can be."""
        if not self.bound:
            return
        with contextlib.suppress(OSError), self._new("notes") as new:
            with open(new, "x", encoding="utf-8", errors="replace") as file:
                file.write(text[:_LONGEST_NOTE])
            os.rename(new, self.directory / "notes" / key)

    # ------------------------------------------------------------ room

    def make_room(self) -> None:
        """Remove what was used longest ago until the bound holds, and what writers left that died."""
        with contextlib.suppress(OSError):
            fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who else makes room makes it for us, too
                self._make_room()
            finally:
                os.close(fd)

    def _make_room(self) -> None:
        entries = []
        for kind in _KINDS:
            with contextlib.suppress(OSError), os.scandir(self.directory / kind) as found:
                for entry in found:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        entries.append((status.st_mtime, _size(entry.path), entry.path))
        total = sum(size for _, size, _ in entries)
        wanted = self.bound if total <= self.bound else int(self.bound * _ROOM)
        for used, size, path in sorted(entries):
            temporary = os.path.basename(path).startswith(_TEMPORARY)
            if temporary and used > time.time() - _STALE_SECONDS:
                continue  # somebody writes it
            if temporary or total > wanted:
                _remove(path)
                total -= size

    @contextlib.contextmanager
    def _new(self, kind: str) -> Iterator[Path]:
        """A path of nobody else's, for what is renamed when it is complete; gone afterwards if it was not.

        Raises:
            OSError: The directory cannot be made or written, or is not this user's alone.
        """
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self._check(self.directory)
        for name in _KINDS:
            os.makedirs(self.directory / name, 0o700, exist_ok=True)
        path = self.directory / kind / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            if os.path.lexists(path):
                _remove(str(path))

    def _check(self, path: Path) -> None:
        status = os.stat(path)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(1, "must belong to this user, and nobody else may write to it", str(path))


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.stat(path, follow_symlinks=False).st_size
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name), follow_symlinks=False).st_size
    return total


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _unpack(content: bytes) -> list[BuiltFile] | None:
    """The files of an entry, None where it is damaged."""
    if not content.startswith(_MAGIC):
        return None
    end = content.find(b"\n", len(_MAGIC), len(_MAGIC) + 12)
    try:
        start = end + 1 + int(content[len(_MAGIC) : end])
        header = json.loads(content[end + 1 : start])
        files = []
        for path, executable, size in header[: MOST_FILES + 1]:
            view = memoryview(content)[start : start + size]
            if len(view) != size or not _is_safe(path):
                return None
            files.append(BuiltFile(path=path, executable=bool(executable), content=view))
            start += size
    except (ValueError, TypeError, RecursionError):
        return None
    return files if start == len(content) else None


def _is_safe(path: str) -> bool:
    return bool(path) and not path.startswith("/") and not {"", ".", ".."} & set(path.split("/"))
