"""From inotify's events to changes: paths, moves, looks at new directories, without a kernel."""

from collections.abc import Iterator

import pytest

from nsbox._files.changes import (
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    ChangesLost,
    Found,
    Path,
    RawEvent,
    Translator,
    awaits_pair,
    parse_events,
)

BASE = 1


class Directories:
    """What a look finds: directories with their entries, each watched under the next number."""

    def __init__(self, **content: tuple[str, ...]) -> None:
        self.content = {name.replace("__", "/"): entries for name, entries in content.items()}
        self.watches: dict[str, int] = {}
        self.forgotten: list[int] = []

    def look(self, path: Path) -> Iterator[Found]:
        """As `Translator` wants it."""
        top = b"/".join(path).decode()
        for name in sorted(self.content):
            if name == top or name.startswith(f"{top}/"):
                watch = self.watches.setdefault(name, BASE + 1 + len(self.watches))
                yield Found(tuple(name.encode().split(b"/")), watch, [one.encode() for one in self.content[name]])


def translator(directories: Directories | None = None, *, recursive: bool = True) -> Translator:
    """One that watches /w, whose first watch is BASE."""
    there = directories or Directories()
    return Translator(
        "/w", BASE, recursive=recursive, look=there.look, forget=there.forgotten.append,
        quiet=lambda name: name.startswith(b".q"),
    )  # fmt: skip


def event(mask: int, name: str, *, watch: int = BASE, cookie: int = 0) -> RawEvent:
    """An event in the directory of a watch."""
    return RawEvent(watch, mask, cookie, name.encode())


def told(one: Translator, *events: RawEvent) -> list[str]:
    """What a translator makes of events, one line each."""
    return [
        f"{change.kind} {change.path}" + (f" {change.moved_to}" if change.moved_to else "")
        for change in one.translate(events)
    ]


def test_what_the_kernel_writes_is_parsed() -> None:
    """Several events in one buffer, names padded with NUL bytes, events without a name; little endian here."""
    first = (3).to_bytes(4, "little") + IN_CREATE.to_bytes(4, "little") + bytes(4) + (16).to_bytes(4, "little")
    second = (-1).to_bytes(4, "little", signed=True) + IN_Q_OVERFLOW.to_bytes(4, "little") + bytes(8)
    assert list(parse_events(first + b"na\nme".ljust(16, b"\0") + second)) == [
        RawEvent(3, IN_CREATE, 0, b"na\nme"),
        RawEvent(-1, IN_Q_OVERFLOW, 0, b""),
    ]


def test_each_kind_is_told_with_its_path() -> None:
    """Names that are no UTF-8 come escaped, and names with a newline as they are."""
    one = translator()
    assert told(one, event(IN_CREATE, "a"), event(IN_MODIFY, "a"), event(IN_DELETE, "a")) == [
        "created /w/a", "modified /w/a", "deleted /w/a",
    ]  # fmt: skip
    (change,) = one.translate([RawEvent(BASE, IN_CREATE, 0, b"\xff\n")])
    assert change.path == "/w/\udcff\n"
    assert told(one, event(IN_CREATE, "a", watch=99)) == []


def test_the_halves_of_a_move_are_paired_by_their_cookie() -> None:
    """Also when other events lie between them; one half alone is a deletion or a creation."""
    events = [event(IN_MOVED_FROM, "a", cookie=7), event(IN_CREATE, "x"), event(IN_MOVED_TO, "b", cookie=7)]
    assert told(translator(), *events) == ["moved /w/a /w/b", "created /w/x"]
    assert told(translator(), event(IN_MOVED_FROM, "a", cookie=7)) == ["deleted /w/a"]
    assert told(translator(), event(IN_MOVED_TO, "b", cookie=7)) == ["created /w/b"]
    assert awaits_pair(events[:2])
    assert not awaits_pair(events)


def test_a_new_directory_is_looked_into_and_nothing_is_told_twice() -> None:
    """What the look and an event tell of is told once; when it is removed and made again, it is told again."""
    there = Directories(d=("e", "f"), d__e=("g",))
    one = translator(there)
    assert told(one, event(IN_CREATE | IN_ISDIR, "d")) == [
        "created /w/d", "created /w/d/e", "created /w/d/f", "created /w/d/e/g",
    ]  # fmt: skip
    d, e = there.watches["d"], there.watches["d/e"]
    assert told(one, event(IN_CREATE | IN_ISDIR, "e", watch=d), event(IN_CREATE, "g", watch=e)) == []
    again = [event(IN_DELETE, "f", watch=d), event(IN_CREATE, "f", watch=d)]
    assert told(one, *again) == ["deleted /w/d/f", "created /w/d/f"]
    assert told(one, event(IN_CREATE, "new", watch=e)) == ["created /w/d/e/new"]


def test_without_recursion_no_directory_is_looked_into() -> None:
    """It is told of, and that is all."""
    there = Directories(d=("e",))
    assert told(translator(there, recursive=False), event(IN_CREATE | IN_ISDIR, "d")) == ["created /w/d"]
    assert there.watches == {}


def test_a_directory_that_is_moved_takes_what_is_in_it_along() -> None:
    """Within the tree its paths change; out of it, it is forgotten with all below."""
    there = Directories(d=("e",), d__e=())
    one = translator(there)
    told(one, event(IN_CREATE | IN_ISDIR, "d"))
    e = there.watches["d/e"]
    moved = [event(IN_MOVED_FROM | IN_ISDIR, "d", cookie=1), event(IN_MOVED_TO | IN_ISDIR, "n", cookie=1)]
    assert told(one, *moved, event(IN_CREATE, "x", watch=e)) == ["moved /w/d /w/n", "created /w/n/e/x"]
    assert told(one, event(IN_MOVED_FROM | IN_ISDIR, "n", cookie=2)) == ["deleted /w/n"]
    assert sorted(there.forgotten) == sorted(there.watches.values())
    assert told(one, event(IN_CREATE, "y", watch=e)) == []
    assert len(one) == 1
    late = [event(IN_MOVED_FROM, "f", watch=e, cookie=9), event(IN_MOVED_TO, "f", cookie=9)]
    assert told(one, *late) == ["created /w/f"]  # the kernel told of its departure before the watch was ended


def test_a_directory_that_is_moved_in_is_looked_into() -> None:
    """It is new, and so is what is in it."""
    there = Directories(d=("e",))
    assert told(translator(there), event(IN_MOVED_TO | IN_ISDIR, "d", cookie=3)) == ["created /w/d", "created /w/d/e"]


def test_names_for_a_moment_are_not_told() -> None:
    """A file that replaces another by a temporary name has modified it."""
    events = [
        event(IN_CREATE, ".q1"), event(IN_MOVED_FROM, ".q1", cookie=4), event(IN_MOVED_TO, "a", cookie=4),
        event(IN_DELETE, ".q2"),
    ]  # fmt: skip
    assert told(translator(), *events) == ["modified /w/a"]


def test_the_end_of_the_directory_is_the_end() -> None:
    """Nothing is told behind it; the end of a directory below ends only that."""
    there = Directories(d=())
    one = translator(there)
    told(one, event(IN_CREATE | IN_ISDIR, "d"))
    d = there.watches["d"]
    assert told(one, event(IN_DELETE_SELF, "", watch=d), event(IN_IGNORED, "", watch=d)) == []
    assert not one.over
    assert len(one) == 1
    assert told(one, event(IN_CREATE, "a"), event(IN_DELETE_SELF, ""), event(IN_CREATE, "b")) == ["created /w/a"]
    assert one.over


def test_lost_events_are_an_error() -> None:
    """After what came before them."""
    changes = translator().translate(
        [event(IN_CREATE, "a"), RawEvent(-1, IN_Q_OVERFLOW, 0, b""), event(IN_CREATE, "b")]
    )
    assert next(changes).path == "/w/a"
    with pytest.raises(ChangesLost):
        next(changes)
