"""From inotify's events to what has changed: pure, but for the looks at directories that it is given.

inotify(7) tells of one directory, by names. Here its events become paths below one base. Directories that are moved
take the paths of what is in them along; new ones are watched, and what was in them before that is found by a look.
What both the look and an event tell of is told once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nsbox._files.resolve import join, to_text
from nsbox._records import FileChange

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x0100_0000
IN_EXCL_UNLINK = 0x0400_0000
IN_ISDIR = 0x4000_0000

_EVENT = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len

Path = tuple[bytes, ...]
"""Below the base: its parts."""


@dataclass(frozen=True, slots=True)
class RawEvent:
    """As the kernel tells it."""

    watch: int
    mask: int
    cookie: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A look at a directory.

    Attributes:
        path: Which.
        watch: Its watch's number; None: it is not watched: not there any more, or not to be watched.
        names: What is in it.
    """

    path: Path
    watch: int | None
    names: Sequence[bytes]


class ChangesLost(Exception):  # noqa: N818 - it never leaves the package
    """The kernel's queue was full: from here on nobody knows what has changed."""


def parse_events(data: bytes) -> Iterator[RawEvent]:
    """What one read(2) of an inotify descriptor gave."""
    offset = 0
    while offset < len(data):
        watch, mask, cookie, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        yield RawEvent(watch, mask, cookie, data[offset : offset + length].rstrip(b"\0"))
        offset += length


def awaits_pair(events: Sequence[RawEvent]) -> bool:
    """Whether the other half of a move may still come: the kernel writes both, but not at once."""
    arrived = {event.cookie for event in events if event.mask & IN_MOVED_TO}
    return any(event.mask & IN_MOVED_FROM and event.cookie not in arrived for event in events)


class _Directory:
    """A watched directory: its place in the tree gives its path, so that a move costs the same whatever is in it."""

    __slots__ = ("below", "name", "seen", "up", "watch")

    def __init__(self, name: bytes, up: _Directory | None) -> None:
        self.name = name
        self.up = up
        self.watch = -1
        self.below: dict[bytes, _Directory] = {}
        self.seen: set[bytes] = set()  # told because of a look, and perhaps to be told of again by an event

    def path(self) -> Path:
        """From the base."""
        parts = []
        here = self
        while here.up is not None:
            parts.append(here.name)
            here = here.up
        return tuple(reversed(parts))

    def detach(self) -> None:
        """Take it out of the tree."""
        if self.up is not None and self.up.below.get(self.name) is self:
            del self.up.below[self.name]
        self.up = None

    def attach(self, up: _Directory, name: bytes) -> None:
        """Put it elsewhere; what had that place has none any more."""
        self.detach()
        if name in up.below:
            up.below[name].detach()
        self.up, self.name = up, name
        up.below[name] = self


class Translator:
    """Knows which watch is of which directory.

    Args:
        base: The path of the directory in the sandbox, for what is told.
        watch: The number of its watch.
        recursive: Whether directories in it are watched.
        look: Watches a directory and looks into it, and into those in it, outer ones first; called for new ones.
        forget: Ends a watch.
        quiet: Whether a name is one that nobody is told of.
        parent: The number of the watch of the directory that the base is in: IN_DELETE_SELF comes only when nobody has
            the directory open any more. Its events are for `gone` alone. None: the base cannot be removed.
        gone: Whether the removal of such a name was that of the base.
    """

    def __init__(
        self,
        base: str,
        watch: int,
        *,
        recursive: bool,
        look: Callable[[Path], Iterator[Found]],
        forget: Callable[[int], object],
        quiet: Callable[[bytes], bool],
        parent: int | None = None,
        gone: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._base = base
        self._top = _Directory(b"", None)
        self._top.watch = watch
        self._watched = {watch: self._top}
        self._recursive = recursive
        self._look = look
        self._forget = forget
        self._quiet = quiet
        self._parent = parent
        self._gone = gone
        self.over = False

    def __len__(self) -> int:
        return len(self._watched)

    def learn(self, found: Found) -> _Directory | None:
        """A directory is watched now; nothing is told of what is in it.

        Returns:
            The directory; None where its place is not known any more.
        """
        if found.watch is None:
            return None
        here = self._top
        for part in found.path[:-1]:
            if part not in here.below:
                self._forget(found.watch)
                return None
            here = here.below[part]
        known = self._watched.get(found.watch)  # the same directory, under another name before
        directory = known if known is not None and known is not self._top else _Directory(b"", None)
        directory.attach(here, found.path[-1])
        directory.watch = found.watch
        self._watched[found.watch] = directory
        return directory

    def translate(self, events: Sequence[RawEvent]) -> Iterator[FileChange]:
        """What they mean, in their order. Nothing more comes once `over` is true: the directory itself is gone.

        Raises:
            ChangesLost: The kernel had more to tell than it could keep.
        """
        targets = {event.cookie: event for event in events if event.mask & IN_MOVED_TO}
        paired: set[int] = set()
        for event in events:
            if event.mask & IN_Q_OVERFLOW:
                raise ChangesLost
            directory = self._watched.get(event.watch)
            if directory is None:
                self.over = event.watch == self._parent and bool(event.mask & IN_DELETE) and self._gone(event.name)
            elif event.mask & (IN_IGNORED | IN_UNMOUNT | IN_DELETE_SELF | IN_MOVE_SELF):
                self._of_itself(directory, event.mask)
            elif event.mask & IN_MOVED_FROM:
                paired.add(event.cookie)
                yield from self._moved(directory, event, targets.get(event.cookie))
            elif not (event.mask & IN_MOVED_TO and event.cookie in paired):
                yield from self._entry(directory, event)
            if self.over:
                return

    def _entry(self, directory: _Directory, event: RawEvent) -> Iterator[FileChange]:
        if event.mask & (IN_CREATE | IN_MOVED_TO):
            yield from self._created(directory, event)
        elif event.mask & IN_DELETE:
            directory.seen.discard(event.name)
            yield from self._tell("deleted", directory, event.name)
        elif event.mask & IN_MODIFY and event.name:
            yield from self._tell("modified", directory, event.name)

    def _of_itself(self, directory: _Directory, mask: int) -> None:
        if directory is self._top:
            self.over = True
        elif mask & (IN_IGNORED | IN_UNMOUNT):
            directory.detach()
            del self._watched[directory.watch]

    def _tell(
        self, kind: Literal["created", "modified", "deleted"], directory: _Directory, name: bytes
    ) -> Iterator[FileChange]:
        if not self._quiet(name):
            yield FileChange(path=self._text((*directory.path(), name)), kind=kind)

    def _text(self, path: Path) -> str:
        return join(self._base, to_text(b"/".join(path)))

    def _created(self, directory: _Directory, event: RawEvent) -> Iterator[FileChange]:
        if event.name in directory.seen:
            directory.seen.discard(event.name)
            return
        yield from self._tell("created", directory, event.name)
        if event.mask & IN_ISDIR and self._recursive:
            yield from self._enter((*directory.path(), event.name))

    def _enter(self, path: Path) -> Iterator[FileChange]:
        """A new directory: what is in it is new as well."""
        for found in self._look(path):
            directory = self.learn(found)
            if directory is not None:
                directory.seen = set(found.names)
                for name in found.names:
                    yield from self._tell("created", directory, name)

    def _moved(self, directory: _Directory, event: RawEvent, target: RawEvent | None) -> Iterator[FileChange]:
        directory.seen.discard(event.name)
        moved = directory.below.get(event.name) if event.mask & IN_ISDIR else None
        there = None if target is None else self._watched.get(target.watch)
        if target is None or there is None:
            yield from self._tell("deleted", directory, event.name)
            if moved is not None:
                self._leave(moved)
            return
        there.seen.discard(target.name)
        if self._quiet(event.name):  # a file of `write_file` gets its name by replacing what had it
            yield from self._tell("modified", there, target.name)
            return
        old, new = (*directory.path(), event.name), (*there.path(), target.name)
        yield FileChange(path=self._text(old), kind="moved", moved_to=self._text(new))
        if moved is not None and not _is_within(there, moved):
            moved.attach(there, target.name)
        elif event.mask & IN_ISDIR and self._recursive:
            yield from self._enter(new)

    def _leave(self, directory: _Directory) -> None:
        """It is elsewhere now: what happens there is no more of ours."""
        directory.detach()
        waiting = [directory]
        while waiting:
            here = waiting.pop()
            waiting += here.below.values()
            self._watched.pop(here.watch, None)
            self._forget(here.watch)


def _is_within(directory: _Directory, other: _Directory) -> bool:
    """Whether it is the other, or below it; the kernel has no such moves, but what is known here may be behind."""
    here: _Directory | None = directory
    while here is not None:
        if here is other:
            return True
        here = here.up
    return False
