"""Where a program of a sandbox lies on the host, and what tells it from another version of it. Reads only."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nsbox._config import Mount, SandboxConfig
from nsbox._plan import host_trees, hostfiles

UNKNOWN: Literal["unknown"] = "unknown"
"""It cannot be said from outside: on the way is what only the sandbox itself has."""

_MOST_LINKS = 40  # ELOOP, path_resolution(7)
_OWN = ("/workspace", "/tmp", "/home", "/dev", "/proc", "/run")  # noqa: S108


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A file that a sandbox could execute.

    Attributes:
        inside: Its path in the sandbox, as it was found.
        outside: The file on the host.
        identity: What changes when it is replaced or edited.
    """

    inside: str
    outside: str
    identity: str

    def is_as_it_was(self) -> bool:
        """Whether the file has neither been replaced nor edited since."""
        status = _status(self.outside)
        return status is not None and _identity(status) == self.identity


def find_program(config: SandboxConfig, name: str, search: str) -> Program | Literal["unknown"] | None:
    """Look for a program as execvp(3) in a sandbox would.

    Args:
        config: Of the sandbox.
        name: Looked for in `search` if it has no slash.
        search: The PATH.

    Returns:
        It, None where no sandbox of this kind has it, UNKNOWN where only a sandbox could tell.
    """
    view = _view(config.rootfs, tuple(config.mounts), config.working_directory)
    unsure = False
    for candidate in [name] if "/" in name else [f"{part}/{name}" for part in search.split(":")]:
        if not view.knows(candidate):
            unsure = True
            continue
        outside = view.resolve(candidate)
        status = _status(outside) if outside is not None else None
        if outside is not None and status is not None and stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
            return Program(inside=candidate, outside=outside, identity=_identity(status))
    return UNKNOWN if unsure else None


def _identity(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}:{status.st_dev}"


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _view(rootfs: str | Path, mounts: tuple[Mount, ...], working_directory: str) -> _View:
    return _View(rootfs, mounts, working_directory)


class _View:
    """What a sandbox sees of the host: path inside to path outside."""

    def __init__(self, rootfs: str | Path, mounts: tuple[Mount, ...], working_directory: str) -> None:
        mounted = {mount.target: os.path.realpath(mount.source) for mount in mounts}
        self._own = (*_OWN, working_directory)
        if rootfs == "host":
            prefixes = {path: entry.path for path, entry in hostfiles.interpreter_prefixes()}
            self._trees = {**{path: path for path in host_trees()}, **prefixes, **mounted}
        else:
            self._trees = {"/": os.path.realpath(rootfs), **mounted}

    def knows(self, path: str) -> bool:
        """Whether what is at `path` is of the host, if anything is; else only the sandbox itself knows."""
        own = max((len(own) for own in self._own if hostfiles.is_below(path, own)), default=0)
        shown = max((len(tree) for tree in self._trees if hostfiles.is_below(path, tree)), default=0)
        return path.startswith("/") and (own == 0 or shown > own)

    def resolve(self, path: str) -> str | None:
        """Follow links as they are followed inside; None: there is no such file."""
        todo, done = path.strip("/").split("/")[::-1], ""
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = os.path.dirname(done)
                continue
            outside = self._outside(f"{done}/{part}")
            if outside is None:  # nothing of the host, but a directory on the way to something of it
                if not any(hostfiles.is_below(tree, f"{done}/{part}") for tree in self._trees):
                    return None
                done = f"{done}/{part}"
                continue
            try:
                target = os.readlink(outside)
            except OSError:
                done = f"{done}/{part}"
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            todo += target.strip("/").split("/")[::-1]
            if target.startswith("/"):
                done = ""
        return self._outside(done)

    def _outside(self, path: str) -> str | None:
        """By the tree that is mounted nearest above it."""
        tree = max((one for one in self._trees if hostfiles.is_below(path, one)), key=len, default=None)
        if tree is None:
            return None
        rest = path[len(tree.rstrip("/")) :]
        return self._trees[tree].rstrip("/") + rest
