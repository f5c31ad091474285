"""The cache of roots: complete or not there, safe under several processes, never trusted where it is another's."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsbox import ConfigError, InvalidStateError, SetupError
from nsbox._rootfs import Cache, Record, Tree, open_cache
from nsbox._rootfs.record import from_json


def record(name: str, digest: str = "0") -> Record:
    """Of a tree that nobody has looked into."""
    return Record(
        name=name, kind="recipe", source=name, made=1.5, digest="sha256:" + digest * 64, bytes=1, files=1, left_out={},
        packages={"a": "1"}, environment={}, details={},
    )  # fmt: skip


def make(cache: Cache, name: str, digest: str = "0") -> Tree:
    """Put a tree there."""
    with cache.new() as new:
        (Path(new.root) / "file").write_text(name + digest)
        return cache.keep(new, record(name, digest))[0]


def inventory(cache: Cache) -> tuple[int, int, int]:
    """How many names, trees, and half-made ones there are."""
    return tuple(len([*cache.directory.glob(one)]) for one in ("names/*", "trees/*", "new-*"))  # type: ignore[return-value]


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache/rootfs")


def test_what_was_kept_is_found_by_its_name(cache: Cache) -> None:
    """With its record; others are not there."""
    assert cache.names() == ()
    assert cache.find("a") is None
    made = make(cache, "a")
    found = cache.find("a")
    assert found is not None
    assert (found.record, found.place) == (record("a"), made.place)
    assert (found.root / "file").read_text() == "a0"
    assert cache.names() == ("a",)
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert from_json(record("a").to_json()) == record("a")


def test_another_tree_of_the_name_takes_its_place_and_the_same_does_not(cache: Cache) -> None:
    """The old one is gone; where nothing differs it stays, and who uses it goes on."""
    first = make(cache, "a", "1")
    second = make(cache, "a", "2")
    assert (first.place.exists(), inventory(cache)) == (False, (1, 1, 0))
    with cache.new() as new:
        (Path(new.root) / "file").write_text("a2")
        third, is_new = cache.keep(new, record("a", "2"))
    assert (third.place, is_new, inventory(cache)) == (second.place, False, (1, 1, 0))


def test_what_is_in_use_is_neither_removed_nor_swept(cache: Cache) -> None:
    """Not by this process, nor by another; a tree that was replaced stays until nobody uses it."""
    place = make(cache, "a", "1").place
    held, again = cache.hold("a"), cache.hold("a")
    assert held is not None
    assert again is not None
    with pytest.raises(InvalidStateError, match="a sandbox uses it"):
        cache.remove("a")
    script = (
        "import sys; from pathlib import Path; from nsbox._rootfs import Cache; Cache(Path(sys.argv[1])).remove('a')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(cache.directory)], capture_output=True, text=True, check=False
    )
    assert "InvalidStateError" in done.stderr
    make(cache, "a", "2")
    assert (place.exists(), inventory(cache)) == (True, (1, 2, 0))
    held.close()
    cache.sweep()
    assert place.exists()
    again.close()
    again.close()
    cache.sweep()
    assert (place.exists(), inventory(cache)) == (False, (1, 1, 0))
    cache.remove("a")
    assert inventory(cache) == (0, 0, 0)


def test_what_a_killed_maker_left_is_removed_by_the_next(cache: Cache) -> None:
    """And what a living one makes is not."""
    script = """
import sys
from pathlib import Path
from nsbox._rootfs import Cache
with Cache(Path(sys.argv[1])).new() as new:
    (Path(new.root) / "half").write_text("x")
    print("made", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(cache.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"made\n"
        make(cache, "a")
        assert inventory(cache) == (1, 1, 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        make(cache, "b")
        assert inventory(cache) == (2, 2, 0)


def test_what_fails_half_way_leaves_nothing(cache: Cache) -> None:
    """An error, and a signal's exception."""

    def fail(error: BaseException) -> None:
        with cache.new() as new:
            (Path(new.root) / "half").write_text("x")
            raise error

    for error in (OSError(5, "x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
    assert inventory(cache) == (0, 0, 0)


def test_many_processes_make_and_use_the_same_name(cache: Cache) -> None:
    """Each finds a whole tree whenever it looks, and in the end there is one."""
    script = """
import sys
from pathlib import Path
from nsbox._rootfs import Cache, Record
cache, digit = Cache(Path(sys.argv[1])), sys.argv[2]
for _ in range(12):
    with cache.new() as new:
        (Path(new.root) / "file").write_text(digit * 1000)
        cache.keep(new, Record(name="a", kind="recipe", source="a", made=1.0, digest="sha256:" + digit * 64, bytes=1,
                               files=1, left_out={}, packages={}, environment={}, details={}))
    held = cache.hold("a")
    text = (held.tree.root / "file").read_text()
    assert len(text) == 1000 and len(set(text)) == 1 and held.tree.record.digest[7] == text[0], text
    held.close()
print("done")
"""
    command = [sys.executable, "-c", script, str(cache.directory)]
    processes = [
        subprocess.Popen([*command, str(digit)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for digit in range(4)
    ]
    assert [process.communicate()[0] for process in processes] == ["done\n"] * 4
    cache.sweep()
    assert inventory(cache) == (1, 1, 0)


def test_a_name_that_is_not_there_is_told_with_those_that_are(cache: Cache) -> None:
    """For removing."""
    with pytest.raises(ConfigError, match="there is none of this name; there are none yet"):
        cache.remove("b")
    make(cache, "a")
    with pytest.raises(ConfigError, match="there is none of this name; there are a"):
        cache.remove("b")


@pytest.mark.parametrize("name", ["", "A", "host", "../x", "a/b", "-a", ".a", "a b", "x" * 161])
def test_names_are_words(name: str, cache: Cache) -> None:
    """Nothing that leads anywhere."""
    with pytest.raises(ConfigError, match="a name begins with"):
        cache.remove(name)


def test_a_damaged_record_is_no_root(cache: Cache) -> None:
    """It is not used, and can be removed."""
    place = make(cache, "a").place
    for damage in ("", "{", '{"format": 2}', '{"format": 1, "name": "a"}', "[" * 50_000):
        (place / "record.json").write_text(damage)
        assert cache.find("a") is None
        assert cache.hold("a") is None
    cache.remove("a")
    assert inventory(cache) == (0, 0, 0)


def test_a_directory_that_others_can_write_is_not_used(cache: Cache) -> None:
    """What is in it decides what runs."""
    make(cache, "a")
    for path in (cache.directory, cache.directory.parent):
        path.chmod(0o722)
        for operation in (cache.names, lambda: cache.find("a"), lambda: make(cache, "b")):
            with pytest.raises(SetupError, match="nobody else may write to it"):
                operation()
        path.chmod(0o700)
    assert cache.find("a") is not None


def test_the_cache_lies_beside_that_of_compiled_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NSBOX_CACHE_DIR names both."""
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(tmp_path))
    assert open_cache().directory == tmp_path / "rootfs"
    monkeypatch.setenv("NSBOX_CACHE_DIR", "relative")
    with pytest.raises(ConfigError, match="absolute"):
        open_cache()
