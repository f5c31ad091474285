"""Headers of tar archives: read as every tar reads them, and refused where they are damaged."""

import contextlib
import io
import random
import tarfile
from pathlib import Path

import images
import pytest

from nsbox import ConfigError
from nsbox._rootfs.tar import Archive, Entry, Kind


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    """All entries with their contents."""
    archive = Archive(io.BytesIO(data), "it")
    return [(entry, b"".join(archive.content())) for entry in archive]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_format_is_read_as_tarfile_reads_it(kind: int, tmp_path: Path) -> None:
    """Names short and long, links, sizes around a block, owners, modes and times."""
    long = "/".join(["a" * 50] * 4) if kind == tarfile.USTAR_FORMAT else "/".join(["d" * 90, "ü" * 60, "f" * 200])
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        for name, size in (("empty", 0), ("one", 1), ("block", 512), ("more", 513), (long, 70_000)):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = size, 0o4751, 65_534, 5, 1_600_000_001
            archive.addfile(info, io.BytesIO(bytes(index % 251 for index in range(size))))
        for name, link, target in (("s", tarfile.SYMTYPE, "../one"), ("h", tarfile.LNKTYPE, "one")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = link, target
            archive.addfile(info)
        info = tarfile.TarInfo("d")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    found = read(path.read_bytes())
    with tarfile.open(path) as archive:
        expected = archive.getmembers()
        assert [entry.name.decode().rstrip("/") for entry, _ in found] == [member.name for member in expected]
        for (entry, content), member in zip(found, expected, strict=True):
            assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
            assert entry.modified == int(member.mtime) * 10**9
            assert entry.target.decode() == member.linkname
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                assert content == file.read()
    assert [entry.kind for entry, _ in found[5:]] == [Kind.SYMLINK, Kind.HARDLINK, Kind.DIRECTORY]


def test_fields_of_pax_go_before_those_of_the_header() -> None:
    """Owners above two million, fractions of a second, attributes that are counted."""
    headers = {"mtime": "1600000000.25", "uid": "3000000", "SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.c": "d"}
    ((entry, content),) = read(images.layer(images.file("x", "content", pax_headers=headers)))
    assert (entry.modified, entry.uid, entry.attributes, content) == (
        1_600_000_000_250_000_000,
        3_000_000,
        2,
        b"content",
    )


def test_content_that_nobody_reads_is_passed_over() -> None:
    """And without the two empty blocks at the end, which some programs do not write."""
    data = images.layer(images.file("a", b"x" * 5000), images.file("b", "y"))
    assert [entry.name for entry in Archive(io.BytesIO(data), "it")] == [b"a", b"b"]
    assert [entry.name for entry, _ in read(data[: 512 + 5120 + 1024])] == [b"a", b"b"]


WHOLE = images.layer(images.file("a", b"x" * 600), images.file("b" * 150, "y"), images.directory("c"))


def sealed(block: bytes) -> bytes:
    """A header with the right sum."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:512]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(WHOLE[:700], "cut off", id="in the content"),
        pytest.param(WHOLE[:200], "cut off", id="in a header"),
        pytest.param(WHOLE[: 512 + 1024 + 1024], "behind an extended header", id="behind an extended header"),
        pytest.param(WHOLE[:1536] + b"z" + WHOLE[1537:], "sum is wrong", id="in the middle, not the end"),
        pytest.param(b"no tar archive" * 100, "sum|number", id="something else"),
        pytest.param(sealed(WHOLE[:124] + b"zzzzzzzzzzz\0" + WHOLE[136:512]), "a number that is none", id="a size"),
        pytest.param(sealed(WHOLE[:124] + b"\xff" * 12 + WHOLE[136:512]), "a number that no file has", id="negative"),
        pytest.param(sealed(WHOLE[:124] + b"\x80" + b"\x7f" * 11 + WHOLE[136:512]), "no file has", id="huge"),
        pytest.param(sealed(WHOLE[:156] + b"S" + WHOLE[157:512]), "not supported", id="sparse"),
        pytest.param(sealed(WHOLE[:156] + b"x" + WHOLE[157:512]) + b"no record".ljust(1024, b"\0"),
                     "header that is none", id="a pax header"),
        pytest.param(sealed(b"\0" * 100 + WHOLE[100:345] + b"\0" * 167), "without a name", id="no name"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_an_error_and_never_the_end(data: bytes, match: str) -> None:
    """The control is the same archive without the damage."""
    assert len(read(WHOLE)) == 3
    with pytest.raises(ConfigError, match=match) as caught:
        read(data)
    assert str(caught.value).startswith("it is no tar archive that can be used, at byte ")


def test_an_extended_header_takes_bounded_memory() -> None:
    """One that says that it has 8 GiB is refused before it is read."""
    block = sealed(WHOLE[:124] + b"77777777777\0" + WHOLE[136:156] + b"x" + WHOLE[157:512])
    with pytest.raises(ConfigError, match="an extended header of more than"):
        read(block + bytes(1 << 16))


def test_records_of_pax_are_read_in_linear_time() -> None:
    """A header full of records whose lengths lie."""
    records = b"5 a=\n" * 200_000
    block = sealed(WHOLE[:124] + b"%011o\0" % len(records) + WHOLE[136:156] + b"x" + WHOLE[157:512])
    entries = read(block + records + bytes(-len(records) % 512) + WHOLE[:512] + WHOLE[512:1536])
    assert [entry.name for entry, _ in entries] == [b"a"]
    lying = b"5 aaaa" * 100_000
    block = sealed(WHOLE[:124] + b"%011o\0" % len(lying) + WHOLE[136:156] + b"x" + WHOLE[157:512])
    with pytest.raises(ConfigError, match="header that is none"):
        read(block + lying + bytes(-len(lying) % 512))


def test_random_damage_is_an_error_or_another_archive_and_nothing_else() -> None:
    """Bytes changed at random: no other exception, no hang."""
    random_ = random.Random(1)  # noqa: S311  # the same bytes in every run
    for _ in range(3000):
        data = bytearray(WHOLE)
        for _ in range(random_.randrange(1, 4)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        with contextlib.suppress(ConfigError):
            read(bytes(data))
