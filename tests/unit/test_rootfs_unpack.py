"""Layers on top of each other: what of them is in the tree."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from images import directory, file, hardlink, layer, special, symlink

from nsbox import ConfigError
from nsbox._rootfs.record import summarize
from nsbox._rootfs.unpack import Limits, Unpacker


def unpacked(place: Path, *layers: bytes, limits: Limits | None = None) -> dict[str, int]:
    """Apply them; what was left out."""
    place.mkdir()
    with Unpacker(str(place), limits or Limits()) as tree:
        for number, one in enumerate(layers, 1):
            tree.apply(io.BytesIO(one), f"layer {number}")
        tree.finish()
        return {kind: count for kind, count in tree.left_out.items() if count}


def names(place: Path) -> list[str]:
    """All names of a tree."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_files_directories_and_links_are_made_as_they_are_described(tmp_path: Path) -> None:
    """Content, mode, time; directories above them that no entry describes; names of any bytes."""
    root = tmp_path / "root"
    odd = b"\xff\n\x1b[2J".decode("utf-8", "surrogateescape")
    content = layer(
        directory("./", mode=0o711),
        directory("usr/", mode=0o750, mtime=1_500_000_000),
        file("usr/bin/program", b"#!/bin/sh\n", mode=0o755, mtime=1_500_000_001),
        symlink("bin", "usr/bin"),
        hardlink("usr/bin/again", "usr/bin/program"),
        file("deep/er/file", "x"),
        directory("tmp", mode=0o1777),
        file(f"odd/{odd}", "odd"),
    )
    assert unpacked(root, content) == {}
    assert root.stat().st_mode & 0o7777 == 0o711
    assert (root / "usr/bin/program").read_text() == "#!/bin/sh\n"
    status = (root / "usr/bin/program").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o755, 1_500_000_001 * 10**9)
    assert (root / "usr/bin/again").stat().st_ino == status.st_ino
    assert ((root / "usr").stat().st_mode & 0o7777, (root / "usr").stat().st_mtime) == (0o750, 1_500_000_000)
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "deep").stat().st_mtime == 0
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert os.fsencode(odd) in os.listdir(os.fsencode(root / "odd"))


def test_a_later_layer_replaces_what_it_names(tmp_path: Path) -> None:
    """A file by a directory, a directory by a file or a link; a directory by a directory only in its attributes."""
    below = layer(file("a", "1"), directory("b"), file("b/x", "1"), directory("c"), file("c/x", "1"), file("keep", "1"))
    above = layer(directory("a"), file("a/y", "2"), file("b", "2"), directory("c", mode=0o700), file("c/y", "2"))
    unpacked(tmp_path / "root", below, above)
    assert names(tmp_path / "root") == ["a", "a/y", "b", "c", "c/x", "c/y", "keep"]
    assert (tmp_path / "root/c").stat().st_mode & 0o777 == 0o700


def test_a_file_is_never_written_through_another_name_of_it(tmp_path: Path) -> None:
    """A later layer's file takes one name away from what two names are of."""
    unpacked(tmp_path / "root", layer(file("a", "1"), hardlink("b", "a")), layer(file("a", "2")))
    assert ((tmp_path / "root/a").read_text(), (tmp_path / "root/b").read_text()) == ("2", "1")


def test_a_hard_link_may_lead_into_a_lower_layer_and_to_itself(tmp_path: Path) -> None:
    """The second is what some builders write; nothing is lost."""
    unpacked(tmp_path / "root", layer(file("a", "1")), layer(hardlink("b", "a"), hardlink("a", "a")))
    assert ((tmp_path / "root/a").read_text(), (tmp_path / "root/b").read_text()) == ("1", "1")


def test_entries_behind_a_link_go_where_it_leads(tmp_path: Path) -> None:
    """As a root with a merged /usr needs; an absolute one leads into the tree."""
    below = layer(directory("usr/lib"), symlink("lib", "usr/lib"), symlink("lib64", "/usr/lib"))
    unpacked(tmp_path / "root", below, layer(file("lib/a", "1"), file("lib64/b", "2")))
    assert names(tmp_path / "root/usr") == ["lib", "lib/a", "lib/b"]


def test_whiteouts_hide_what_lower_layers_have(tmp_path: Path) -> None:
    """A file, a directory with all in it, something that is not there; and they are not in the tree themselves."""
    below = layer(file("a/one", "1"), file("a/two", "1"), file("b/c/d", "1"), file("b/e", "1"))
    above = layer(file("a/.wh.one"), file("b/.wh.c"), file(".wh.nothing"), file("a/.wh..wh.plnk"))
    unpacked(tmp_path / "root", below, above)
    assert names(tmp_path / "root") == ["a", "a/two", "b", "b/e"]


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_do_not_hide_what_their_own_layer_has(tmp_path: Path, *, first: bool) -> None:
    """Wherever in the layer they stand; the specification's own example."""
    below = layer(directory("a"), directory("a/b"), directory("a/b/c"), file("a/b/c/bar", "1"), file("a/x", "1"))
    made = [directory("a/b"), directory("a/b/c"), file("a/b/c/foo", "2"), file("a/y", "2")]
    marks = [file("a/.wh..wh..opq"), file("a/.wh.y")]
    unpacked(tmp_path / "root", below, layer(*(marks + made if first else made + marks)))
    assert names(tmp_path / "root") == ["a", "a/b", "a/b/c", "a/b/c/foo", "a/y"]


def test_an_opaque_directory_keeps_what_its_own_layer_has_further_down(tmp_path: Path) -> None:
    """Below directories that only the lower layer describes."""
    unpacked(
        tmp_path / "root",
        layer(file("a/b/old", "1"), file("a/c/old", "1")),
        layer(file("a/b/new"), file("a/.wh..wh..opq")),
    )
    assert names(tmp_path / "root") == ["a", "a/b", "a/b/new"]


def test_what_no_sandbox_may_have_is_left_out_and_counted(tmp_path: Path) -> None:
    """Devices, FIFOs, set-uid and set-gid bits, attributes; a device takes the place of what was there."""
    content = layer(
        file("null", "not yet"),
        special("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        special("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
        special("pipe", tarfile.FIFOTYPE),
        file("su", "x", mode=0o6755),
        file("ping", "x", pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2"}),
    )
    left_out = unpacked(tmp_path / "root", content)
    assert left_out == {"devices": 2, "FIFOs": 1, "set-uid bits": 1, "attributes": 1}
    assert names(tmp_path / "root") == ["ping", "su"]
    assert (tmp_path / "root/su").stat().st_mode & 0o7777 == 0o755
    assert os.listxattr(tmp_path / "root/ping") == []


@pytest.mark.needs_root
def test_root_keeps_owners_that_a_sandbox_can_have(tmp_path: Path) -> None:
    """Others become nobody."""
    content = layer(file("a", uid=33, gid=42), file("b", uid=70_000, gid=2**31), directory("c", uid=5, gid=6))
    unpacked(tmp_path / "root", content)
    owners = [((tmp_path / "root" / one).stat().st_uid, (tmp_path / "root" / one).stat().st_gid) for one in "abc"]
    assert owners == [(33, 42), (65_534, 65_534), (5, 6)]


@pytest.mark.needs_rootless
def test_a_user_owns_all_and_can_remove_all(tmp_path: Path) -> None:
    """Modes that would keep him out are widened for him alone."""
    unpacked(tmp_path / "root", layer(directory("a", mode=0o055), file("a/b", "x", uid=0, mode=0o044)))
    assert (tmp_path / "root/a").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "root/a/b").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "root/a/b").stat().st_uid == os.geteuid()


def test_the_same_layers_give_the_same_tree(tmp_path: Path) -> None:
    """To the last bit, times of directories too; and one other bit, time or mode is another digest."""
    layers = [layer(directory("b"), file("b/x", "1"), symlink("a", "b")), layer(file("c/y", "2"), file("b/.wh.x"))]
    unpacked(tmp_path / "one", *layers)
    unpacked(tmp_path / "two", *layers)
    digest = summarize(str(tmp_path / "one")).digest
    assert summarize(str(tmp_path / "two")) == summarize(str(tmp_path / "one"))
    for change in (
        lambda root: (root / "c/y").chmod(0o600),
        lambda root: os.utime(root / "c", (1, 1)),
        lambda root: (root / "z").touch(),
    ):
        change(tmp_path / "two")
        changed = summarize(str(tmp_path / "two")).digest
        assert changed != digest
        digest = changed
    assert stat.S_ISLNK((tmp_path / "two/a").lstat().st_mode)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        pytest.param([layer(file("../x"))], "'..' in it", id="up"),
        pytest.param([layer(file("a/../../x"))], "'..' in it", id="up further down"),
        pytest.param([layer(hardlink("x", "../../etc/passwd"))], "leads to '../../etc/passwd'", id="a hard link up"),
        pytest.param([layer(hardlink("x", "no/such"))], "No such file", id="a hard link to nothing"),
        pytest.param([layer(directory("d"), hardlink("x", "d"))], "leads to a directory", id="to a directory"),
        pytest.param([layer(file("a", "x"), file("a/b"))], "Not a directory", id="below a file"),
        pytest.param([layer(symlink("a", "nowhere"), file("a/b"))], "behind a link that leads nowhere", id="dangling"),
        pytest.param([layer(symlink("a", "b"), symlink("b", "a"), file("a/x"))], "symbolic links", id="a loop"),
        pytest.param([layer(file("n" * 256))], "too long", id="a long name"),
        pytest.param([layer(file("/".join("d" * 250)))], "deep", id="deep"),
        pytest.param([layer(file(".wh.."))], "no whiteout", id="a whiteout of the directory itself"),
        pytest.param([layer(file("a/.wh..."))], "no whiteout", id="a whiteout of the directory above"),
        pytest.param([layer(file("a/.wh."))], "no whiteout", id="a whiteout of nothing"),
        pytest.param([layer(directory(".wh.x"))], "no whiteout", id="a directory called so"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_entry(layers: list[bytes], match: str, tmp_path: Path) -> None:
    """`ConfigError`, which names the layer."""
    with pytest.raises(ConfigError, match=match) as caught:
        unpacked(tmp_path / "root", *layers)
    assert str(caught.value).startswith("layer 1: ")


def test_entries_are_bounded(tmp_path: Path) -> None:
    """Those that are described, those that are made on the way, and those that whiteouts look at."""
    limits = Limits(entries=10)
    with pytest.raises(ConfigError, match="more than 10 entries"):
        unpacked(tmp_path / "a", layer(*(file(f"f{number}") for number in range(11))), limits=limits)
    with pytest.raises(ConfigError, match="more than 10 entries"):
        unpacked(tmp_path / "b", layer(file("/".join("abcdefghijkl"))), limits=limits)
    many = [file(".wh..wh..opq")] * 3
    with pytest.raises(ConfigError, match="hide more than 10 entries"):
        unpacked(tmp_path / "c", layer(*(file(f"f{number}") for number in range(4)), *many), limits=limits)


def test_a_deep_directory_cannot_be_made_through_links(tmp_path: Path) -> None:
    """Each link doubles the depth, by names that are short; nor one with a path that the kernel does not take."""
    members = [directory("/".join("a" * 100)), symlink("l", "/".join("a" * 100)), directory("l/" + "/".join("b" * 120))]
    with pytest.raises(ConfigError, match="deep"):
        unpacked(tmp_path / "root", layer(*members))
    long = "/".join(["n" * 250] * 8)
    members = [directory(long), symlink("l", long), directory(f"l/{long}"), file(f"l/{long}/x")]
    with pytest.raises(ConfigError, match="with paths of more than 3800 bytes"):
        unpacked(tmp_path / "other", layer(*members))
