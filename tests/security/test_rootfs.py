"""Archives of images that are made by an attacker: they reach nothing but their own tree."""

import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import Layout, Member, directory, file, hardlink, layer, special, symlink, tree
from roots import copy_with_libraries

import nsbox
from nsbox._rootfs import Cache, import_image

pytestmark = pytest.mark.needs_user_namespace


@pytest.fixture(name="canary")
def _canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with a file, which is as it was afterwards."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "file").write_text("of the host")
    before = (place / "file").stat()
    yield place
    assert sorted(os.listdir(place)) == ["file"]
    after = (place / "file").stat()
    assert (place / "file").read_text() == "of the host"
    assert (after.st_ino, after.st_mode, after.st_mtime_ns, after.st_nlink) == (
        before.st_ino, before.st_mode, before.st_mtime_ns, before.st_nlink,
    )  # fmt: skip


def attacks(canary: Path) -> dict[str, list[Member]]:
    """Ways out of the directory that an archive is unpacked in, all to the canary."""
    up = "../" * 40 + str(canary).lstrip("/")
    return {
        "absolute": [file(f"{canary}/file", "overwritten")],
        "up": [file(f"{up}/file", "overwritten")],
        "behind an absolute link": [symlink("out", str(canary)), file("out/file", "overwritten")],
        "behind a relative link": [symlink("out", up), file("out/file", "overwritten")],
        "behind two links": [symlink("a", "/"), symlink("b", f"a{canary}"), file("b/file", "overwritten")],
        "through the file's own link": [symlink("out", f"{canary}/file"), file("out", "overwritten")],
        "a new file": [symlink("out", str(canary)), file("out/new", "made")],
        "a directory's mode": [symlink("out", str(canary)), directory("out", mode=0o777)],
        "a hard link, then written": [hardlink("out", f"{canary}/file"), file("out", "overwritten")],
        "a hard link behind a link": [symlink("way", str(canary)), hardlink("out", "way/file")],
        "a whiteout behind a link": [symlink("out", str(canary)), file("out/.wh.file")],
        "an opaque whiteout behind a link": [symlink("out", str(canary)), file("out/.wh..wh..opq")],
        "a magic link": [symlink("out", f"/proc/self/root{canary}"), file("out/file", "overwritten")],
    }


NAMES = tuple(attacks(Path("/x")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [1, 2])
def test_no_entry_leads_out_of_the_tree(name: str, layers: int, canary: Path, tmp_path: Path) -> None:
    """F40: in one layer, and with each entry in a layer of its own. Refused, or done in the tree."""
    members = attacks(canary)[name]
    image = Layout(tmp_path / "layout")
    base = [
        directory("usr"),
        directory(str(canary).lstrip("/")),
        file(f"{str(canary).lstrip('/')}/file", "of the image"),
    ]
    parts = [layer(*members)] if layers == 1 else [layer(one) for one in members]
    image.add(image.image(layer(*base), *parts))
    cache = Cache(tmp_path / "cache/rootfs")
    try:
        import_image(cache, image.place, "hostile")
    except nsbox.ConfigError as exc:
        assert "layer" in str(exc)  # noqa: PT017  # some are refused, and some done inside
        assert [*cache.directory.glob("trees/*"), *cache.directory.glob("new-*")] == []


def test_the_same_archives_do_lead_out_where_links_are_followed(tmp_path: Path) -> None:
    """F40: the control: an extractor that trusts them overwrites the host's file by most of these."""
    reached = set()
    for name in NAMES:
        place = tmp_path / name.replace(" ", "-")
        canary = place / "canary"
        canary.mkdir(parents=True)
        (canary / "file").write_text("of the host")
        before = os.stat(canary / "file")
        (place / "tree").mkdir()
        with tarfile.open(fileobj=io.BytesIO(layer(*attacks(canary)[name]))) as archive:
            archive.extraction_filter = lambda member, _: member  # as before there were filters
            try:
                archive.extractall(place / "tree")  # noqa: S202  # the attack
            except (OSError, tarfile.TarError):
                continue
        changed = (canary / "file").read_text() != "of the host" or os.stat(canary / "file").st_nlink > before.st_nlink
        if changed or sorted(os.listdir(canary)) != ["file"]:
            reached.add(name)
    assert reached >= {
        "behind an absolute link",
        "behind a relative link",
        "behind two links",
        "a new file",
        "absolute",
    }


def test_a_file_of_the_host_does_not_get_into_a_tree(canary: Path, tmp_path: Path) -> None:
    """F41: by a hard link behind a link, nor by the files of a layout, which are opened below it and without links."""
    image = Layout(tmp_path / "layout")
    image.add(image.image(layer(directory("usr"), symlink("way", str(canary)), hardlink("usr/out", "way/file"))))
    cache = Cache(tmp_path / "cache/rootfs")
    with pytest.raises(nsbox.ConfigError, match="No such file"):
        import_image(cache, image.place, "hostile")
    other = Layout(tmp_path / "other")
    other.add(other.image(layer(directory("usr"))))
    blob = other.path(other.manifests[0]["digest"])
    stolen = tmp_path / "stolen"
    stolen.write_bytes(blob.read_bytes())
    assert import_image(cache, other.place, "control")[1]
    for target in (str(stolen), f"../../../{stolen.name}"):
        blob.unlink()
        blob.symlink_to(target)
        assert blob.read_bytes() == stolen.read_bytes()  # whoever follows links gets there
        with pytest.raises(nsbox.ConfigError, match="symbolic link"):
            import_image(cache, other.place, "hostile")
    assert cache.names() == ("control",)


def test_an_image_that_is_not_what_its_digests_say_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F42: a layer that somebody has put in another's place, with the same size; nothing of it is left."""
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(tmp_path / "cache"))
    good = layer(directory("usr"), file("usr/program", "good"))
    image = Layout(tmp_path / "layout")
    image.add(image.image(good, compress=bytes))
    path = next(one for one in image.place.glob("blobs/sha256/*") if one.read_bytes() == good)
    path.write_bytes(good.replace(b"good", b"evil"))
    with pytest.raises(nsbox.ConfigError, match="its digest is"):
        nsbox.Sandbox(rootfs=image.place).start()
    cache = Cache(tmp_path / "cache/rootfs")
    with pytest.raises(nsbox.ConfigError, match="its digest is"):
        import_image(cache, image.place, "hostile")
    assert [*cache.directory.glob("trees/*"), *cache.directory.glob("new-*"), *cache.directory.glob("names/*")] == []
    path.write_bytes(good)
    assert import_image(cache, image.place, "control")[1]


BOMB = """
import resource, sys
from pathlib import Path
from nsbox import ConfigError
from nsbox._rootfs import Cache, Limits, import_image
resource.setrlimit(resource.RLIMIT_AS, (320 << 20, 320 << 20))
try:
    limits = Limits(bytes=64 << 20, entries=5000)
    import_image(Cache(Path(sys.argv[1]) / "rootfs"), Path(sys.argv[2]), "bomb", limits=limits)
except ConfigError as exc:
    print("refused:", str(exc).rpartition(": ")[2])
"""


def bombs() -> dict[str, bytes]:
    """Layers that are small, and much when they are unpacked."""
    plain = layer(file("a"))
    header = bytearray(plain[:512])
    header[124:136] = b"77777777777\0"
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    zeros = bytes(64 << 20)
    return {
        "zeros": layer(directory("usr"), *(file(f"usr/{number}", zeros) for number in range(2))),
        "an extended header of 8 GiB": bytes(header) + zeros,
        "names": layer(*(directory(f"usr/{number}") for number in range(6000))),
        "zeros behind the end": layer(directory("usr")) + zeros + zeros,
    }


@pytest.mark.parametrize("name", ["zeros", "an extended header of 8 GiB", "names", "zeros behind the end"])
def test_a_bomb_takes_bounded_memory_and_disk(name: str, tmp_path: Path) -> None:
    """F43: in a process with 320 MiB of address space; bytes and names are counted as they come."""
    image = Layout(tmp_path / "layout")
    image.add(image.image(layer(directory("usr")), bombs()[name]))
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "cache"), str(image.place)], capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("refused: "), done.stderr
    assert [*(tmp_path / "cache/rootfs").glob("new-*"), *(tmp_path / "cache/rootfs").glob("trees/*")] == []


def programs(place: Path) -> Path:
    """A root with a shell."""
    for program in ("sh", "cat", "timeout"):
        copy_with_libraries(program, place)
    if not (place / "bin").exists():
        (place / "bin").symlink_to("usr/bin")
    return place


def exchange(root: Path | str) -> str:
    """What one sandbox reads from a FIFO of a root while another one writes to it; "" where there is none."""
    found = []
    with nsbox.Sandbox(rootfs=root, timeout=60) as writer, nsbox.Sandbox(rootfs=root, timeout=60) as reader:

        def write() -> None:
            writer.shell("test -p /usr/pipe && timeout 30 sh -c 'echo secret > /usr/pipe'")

        thread = threading.Thread(target=write)
        thread.start()
        found.append(reader.shell("test -p /usr/pipe && timeout 30 cat /usr/pipe").stdout)
        thread.join()
    return found[0]


def test_two_sandboxes_of_one_image_cannot_talk_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X40: a FIFO can be written to on a read-only mount. The control is a directory that has one."""
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(tmp_path / "cache"))
    place = programs(tmp_path / "root")
    image = Layout(tmp_path / "layout")
    image.add(image.image(layer(*tree(place), special("usr/pipe", tarfile.FIFOTYPE, mode=0o666))))
    assert exchange(image.place) == ""
    os.mkfifo(place / "usr/pipe")
    (place / "usr/pipe").chmod(0o666)
    assert exchange(place) == "secret\n"


def test_no_tree_has_devices_set_uid_bits_or_attributes(tmp_path: Path) -> None:
    """F44: whatever an archive has; without root there are none of the devices anyway."""
    image = Layout(tmp_path / "layout")
    image.add(
        image.image(
            layer(
                directory("usr", mode=0o7777),
                special("usr/disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666),
                file("usr/su", "x", mode=0o6755, pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2"}),
                file("usr/overlay", "x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}),
            )
        )
    )
    found, _ = import_image(Cache(tmp_path / "cache/rootfs"), image.place, "hostile")
    assert sorted(os.listdir(found.root / "usr")) == ["overlay", "su"]
    for path in (found.root / "usr", found.root / "usr/su", found.root / "usr/overlay"):
        assert not path.stat().st_mode & 0o6000
        assert os.listxattr(path) == []
    assert found.record.left_out == {"devices": 1, "set-uid bits": 2, "attributes": 2}
