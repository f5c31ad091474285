"""The cache of compiled programs: bounded, shared by processes, and never trusted where it is damaged or another's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox import ConfigError
from nsbox._compile import BuiltFile, ResultError, Store, open_store, read_tree

FILES = [
    BuiltFile(path="program", executable=True, content=b"\x7fELF" + bytes(range(256)) * 100),
    BuiltFile(path="a/b/Some.class", executable=False, content=b""),
]
KEY = "0" * 64


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 1 << 20)


def plain(files: list[BuiltFile] | None) -> list[tuple[str, bool, bytes]] | None:
    """For comparing."""
    return None if files is None else [(file.path, file.executable, bytes(file.content)) for file in files]


def test_what_was_put_is_got(store: Store) -> None:
    """All files with their names and modes; another key has nothing."""
    assert store.get(KEY) is None
    assert store.put(KEY, FILES) == ""
    assert plain(store.get(KEY)) == plain(FILES)
    assert store.get("1" * 64) is None
    assert store.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="cut"),
        pytest.param(lambda data: data + b"x", id="longer"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: data.replace(b'"program"', b'"../ogram"'), id="a path out of it"),
        pytest.param(lambda data: data.replace(b'"program"', b'"/rogram"x'), id="no JSON"),
        pytest.param(lambda data: data.replace(b"nsbox built 1", b"nsbox built 2"), id="another format"),
        pytest.param(lambda data: data[:14] + b"9" * 40 + data[14:], id="a length that is none"),
        pytest.param(lambda _: b"nsbox built 1\n6\n[[1,2]", id="a header of another shape"),
        pytest.param(lambda _: b"nsbox built 1\n12\n" + b"[" * 12, id="nested"),
    ],
)
def test_a_damaged_entry_is_not_there(store: Store, damage: object) -> None:
    """It is removed, and what is put then is got."""
    store.put(KEY, FILES)
    path = store.directory / "built" / KEY
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert store.get(KEY) is None
    assert not path.exists()
    store.put(KEY, FILES)
    assert store.get(KEY) is not None


def test_what_was_used_longest_ago_makes_room(store: Store) -> None:
    """The bound holds after every put, and what was just used stays."""
    for number in range(40):
        store.put(f"{number:064}", [BuiltFile(path="p", executable=True, content=b"x" * 100_000)])
        os.utime(store.directory / "built" / f"{number:064}", (number, number))
        if number:
            assert store.get(f"{0:064}") is not None  # which makes it the one used last
        assert sum(path.stat().st_size for path in (store.directory / "built").iterdir()) <= store.bound
    assert store.get(f"{1:064}") is None
    assert store.get(f"{39:064}") is not None


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    """And says why; a bound of 0 keeps nothing, and makes no directory."""
    store = Store(tmp_path / "cache", 0)
    assert "bound" in store.put(KEY, FILES)
    assert not store.directory.exists()


def test_what_a_dead_writer_left_goes(store: Store) -> None:
    """An hour after its last change; what is being written stays."""
    store.put(KEY, FILES)
    old, new = (store.directory / "built" / name for name in ("new-old", "new-new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.make_room()
    assert not old.exists()
    assert new.exists()
    assert store.get(KEY) is not None


def test_a_directory_that_others_can_write_is_not_used(store: Store) -> None:
    """Neither to read, for another user could have put it there, nor to write; and putting says so."""
    store.put(KEY, FILES)
    store.directory.chmod(0o777)
    assert store.get(KEY) is None
    assert "nobody else may write" in store.put(KEY, FILES)
    assert store.prepared(KEY) is None
    store.directory.chmod(0o700)
    assert store.get(KEY) is not None


def test_an_entry_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    """Whatever it leads to."""
    store.put(KEY, FILES)
    os.symlink(store.directory / "built" / KEY, store.directory / "built" / ("1" * 64))
    assert store.get("1" * 64) is None
    assert store.get(KEY) is not None
    assert tmp_path.exists()


def test_a_full_disk_loses_nothing_but_the_entry(tmp_path: Path) -> None:
    """A directory that cannot be written is told, and nothing is left in it."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    store = Store(blocker / "cache", 1 << 20)
    assert store.put(KEY, FILES) != ""
    assert store.get(KEY) is None
    store.keep_note(KEY, "text")
    assert store.note(KEY) is None


def test_many_processes_share_one(store: Store) -> None:
    """Put and get the same and other keys at a time, with room made all the time: no half entry is seen."""
    program = """
import os, sys
from pathlib import Path
from nsbox._compile import BuiltFile, Store
store = Store(Path(sys.argv[1]), 200_000)
for turn in range(150):
    key = f"{turn % 7:064}"
    content = bytes([turn % 7]) * 30_000
    found = store.get(key)
    assert found is None or bytes(found[0].content) == content, key
    assert store.put(key, [BuiltFile(path="p", executable=True, content=content)]) == ""
"""
    started = [subprocess.Popen([sys.executable, "-c", program, str(store.directory)]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0] * 4
    assert not [path for path in (store.directory / "built").iterdir() if path.name.startswith("new-")]


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    directory = tmp_path / "output"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    yield directory, fd
    os.close(fd)


def test_a_tree_is_read_with_its_directories(tree: tuple[Path, int]) -> None:
    """Regular files, their paths, and whether they are executable."""
    directory, fd = tree
    (directory / "a").mkdir()
    (directory / "a" / "x").write_bytes(b"1")
    (directory / "p").write_bytes(b"2")
    (directory / "p").chmod(0o755)
    assert plain(read_tree(fd)) == [("a/x", False, b"1"), ("p", True, b"2")]


@pytest.mark.parametrize("kind", ["link", "fifo", "many", "deep", "large", "name"])
def test_a_tree_that_is_no_program_is_refused(tree: tuple[Path, int], kind: str) -> None:
    """Links and pipes, too many files, too deep ones, too large ones."""
    directory, fd = tree
    if kind == "link":
        os.symlink("/etc/passwd", directory / "x")
    elif kind == "fifo":
        os.mkfifo(directory / "x")
    elif kind == "many":
        for number in range(600):
            (directory / str(number)).write_bytes(b"")
    elif kind == "deep":
        (directory / "/".join("d" * 30)).mkdir(parents=True)
    elif kind == "large":
        os.truncate(os.open(directory / "x", os.O_CREAT | os.O_RDWR), 1 << 40)
    else:
        (directory / "new\nline").write_bytes(b"")
    with pytest.raises(ResultError):
        read_tree(fd)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the environment says, and what it says wrongly is refused by name."""
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NSBOX_CACHE_MB", "7")
    assert (open_store().directory, open_store().bound) == (tmp_path, 7 << 20)
    for name, value in (("NSBOX_CACHE_MB", "many"), ("NSBOX_CACHE_MB", "-1"), ("NSBOX_CACHE_DIR", "relative")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(ConfigError, match=name):
                open_store()
