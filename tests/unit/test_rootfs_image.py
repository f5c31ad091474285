"""Image layouts and archives of docker save: which layers they have, and what is wrong with those that are damaged."""

import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from images import ARCHITECTURE, INDEX, LAYER, Layout, digest, directory, docker_archive, file, layer, symlink

from nsbox import ConfigError, UnsupportedHostError
from nsbox._rootfs import Cache, Limits, Tree, import_image

BELOW = layer(directory("usr"), file("usr/one", "1"), file("usr/two", "1"))
ABOVE = layer(file("usr/.wh.one"), file("usr/three", "2"))
ENV = ["PATH=/opt/bin:/bin", "A=b=c", "HOME=/root"]


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache/rootfs")


def names(tree: Tree) -> list[str]:
    """All names of a tree."""
    return sorted(str(path.relative_to(tree.root)) for path in tree.root.rglob("*"))


def nothing_is_left(cache: Cache) -> bool:
    """Whether no tree, name or half-made directory is there."""
    left = [*cache.directory.glob("new-*"), *cache.directory.glob("trees/*"), *cache.directory.glob("names/*")]
    return left == []


@pytest.mark.parametrize("form", ["directory", "archive", "docker", "docker with links"])
def test_each_form_of_an_image_gives_the_same_tree(form: str, cache: Cache, tmp_path: Path) -> None:
    """Layers in order; what the image says about itself is kept, and its variables but for those of a sandbox."""
    config = {"Env": ENV, "User": "app", "WorkingDir": "/srv", "Cmd": ["sh"]}
    if form.startswith("docker"):
        source = docker_archive(tmp_path / "saved.tar", [("tool:1", [BELOW, ABOVE])], **config)
    else:
        layout = Layout(tmp_path / "layout")
        layout.add(layout.image(BELOW, ABOVE, config=config), "tool:1")
        source = layout.place if form == "directory" else layout.archived(tmp_path / "layout.tar")
    if form == "docker with links":  # as a layer was written that was there already
        name = f"{digest(ABOVE)[7:]}/layer.tar"
        with tarfile.open(source) as old:
            manifest = old.extractfile("manifest.json")
            assert manifest is not None
            document = manifest.read()
            members = {one.name: old.extractfile(one) for one in old.getmembers()}
            rest = [file(key, value.read()) for key, value in members.items() if value is not None and key != name]
        rest = [one for one in rest if one[0] != "manifest.json"]
        source.write_bytes(
            layer(
                *rest,
                file("store/first.tar", ABOVE),
                symlink(name, "../store/first.tar"),
                file("manifest.json", document),
            )
        )
    tree, is_new = import_image(cache, source, "tool")
    assert is_new
    assert names(tree) == ["usr", "usr/three", "usr/two"]
    assert (tree.record.kind, tree.record.source, tree.record.name) == ("image", "tool:1", "tool")
    assert tree.record.environment == {"PATH": "/opt/bin:/bin", "A": "b=c"}
    assert tree.record.details["config"] == config
    assert (tree.record.bytes, tree.record.files) == (2, 4)
    again, is_new = import_image(cache, source, "tool")
    assert (again.place, is_new, again.record.digest) == (tree.place, False, tree.record.digest)


def test_layers_may_be_plain_or_several_gzip_members(cache: Cache, tmp_path: Path) -> None:
    """Whatever their media type says: the bytes tell, and their digests."""
    for number, compress in enumerate((bytes, lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]))):
        layout = Layout(tmp_path / f"layout{number}")
        layout.add(layout.image(BELOW, compress=compress))
        assert names(import_image(cache, layout.place, "tool")[0]) == ["usr", "usr/one", "usr/two"]


def test_zstd_is_read_where_python_can_and_else_named_with_its_remedy(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is damaged or cut off is refused."""
    layout = Layout(tmp_path / "layout")
    compress: Callable[[bytes], bytes] = zstandard.ZstdCompressor().compress
    layout.add(layout.image(BELOW, ABOVE, compress=compress, media_type=LAYER.replace("gzip", "zstd")))
    assert names(import_image(cache, layout.place, "tool")[0]) == ["usr", "usr/three", "usr/two"]
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    monkeypatch.setitem(__import__("sys").modules, "compression.zstd", None)
    with pytest.raises(UnsupportedHostError, match="compressed with zstd") as caught:
        import_image(cache, layout.place, "other")
    assert caught.value.missing == ("zstandard",)
    assert caught.value.remedies[0] == "pip install 'nsbox[zstd]'"
    monkeypatch.undo()
    for number, damage in enumerate(
        (lambda data: compress(data)[:-20], lambda data: compress(data)[:40] + b"\xff" * 99)
    ):
        bad = Layout(tmp_path / f"bad{number}")
        bad.add(bad.image(BELOW, compress=damage))
        with pytest.raises(ConfigError, match=r"layer 1 of 1 .* (damaged|cut off|digest)"):
            import_image(cache, bad.place, "other")
    assert cache.names() == ("tool",)


def test_the_image_for_this_machine_is_chosen_among_several(cache: Cache, tmp_path: Path) -> None:
    """Through an index in the index; what is attached to images is none of them."""
    layout = Layout(tmp_path / "layout")
    own = layout.image(BELOW, platform={"os": "linux", "architecture": ARCHITECTURE})
    other = layout.image(
        layer(file("usr/other")), architecture="s390x", platform={"os": "linux", "architecture": "s390x"}
    )
    signature = layout.image(
        layer(file("sig")), platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )  # fmt: skip
    index = json.dumps({"schemaVersion": 2, "manifests": [other, own, signature]}).encode()
    layout.add(layout.blob(index, INDEX), "many")
    assert names(import_image(cache, layout.place, "tool")[0]) == ["usr", "usr/one", "usr/two"]
    layout.path(other["digest"]).unlink()  # what is not for this machine need not be there
    assert import_image(cache, layout.place, "tool")[1] is False
    alone = Layout(tmp_path / "alone")
    alone.add(alone.image(BELOW, architecture="s390x"))
    with pytest.raises(ConfigError, match=f"is for linux/s390x, and this machine is linux/{ARCHITECTURE}"):
        import_image(cache, alone.place, "x")


@pytest.mark.parametrize("docker", [True, False])
def test_one_of_several_images_is_named_by_its_tag(cache: Cache, tmp_path: Path, *, docker: bool) -> None:
    """The whole name, or what stands behind the colon; else the error says which there are."""
    if docker:
        source = docker_archive(tmp_path / "a.tar", [("t:1", [BELOW]), ("t:2", [BELOW, ABOVE])])
    else:
        layout = Layout(tmp_path / "layout")
        layout.add(layout.image(BELOW), "t:1").add(layout.image(BELOW, ABOVE), "t:2")
        source = layout.place
    with pytest.raises(ConfigError, match="holds 2 images, and one must be named by --tag; there are 't:1', 't:2'"):
        import_image(cache, source, "tool")
    with pytest.raises(ConfigError, match=r"holds no image called '3' for linux/.*; there are 't:1', 't:2'"):
        import_image(cache, source, "tool", "3")
    assert names(import_image(cache, source, "tool", "2")[0]) == ["usr", "usr/three", "usr/two"]
    assert names(import_image(cache, source, "tool", "t:1")[0]) == ["usr", "usr/one", "usr/two"]


def spoil(layout: Layout, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a layout's only image, and describe it as it is then."""
    manifest = json.loads(layout.path(layout.manifests[0]["digest"]).read_bytes())
    change(manifest)
    layout.manifests = [layout.blob(json.dumps(manifest).encode(), layout.manifests[0]["mediaType"])]
    layout.write_index()


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    """Take the last ten bytes away."""
    os.truncate(path, path.stat().st_size - 10)


def layer_path(layout: Layout) -> Path:
    """Where the first layer is."""
    manifest = json.loads(layout.path(layout.manifests[0]["digest"]).read_bytes())
    return layout.path(manifest["layers"][0]["digest"])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(lambda one: (one.place / "oci-layout").unlink(), "neither an OCI image layout nor", id="no mark"),
        pytest.param(lambda one: (one.place / "oci-layout").write_text("{"), "oci-layout is damaged", id="mark"),
        pytest.param(lambda one: (one.place / "oci-layout").write_text("[]"), "is no JSON object", id="a list"),
        pytest.param(lambda one: (one.place / "oci-layout").write_text('{"imageLayoutVersion": "9"}'), "version '9'",
                     id="version"),
        pytest.param(lambda one: (one.place / "index.json").unlink(), "index.json cannot be opened", id="no index"),
        pytest.param(lambda one: (one.place / "index.json").write_text("[" * 99_999), "is damaged", id="nested"),
        pytest.param(lambda one: (one.place / "index.json").write_text(" " * (5 << 20)), "more than 4194304",
                     id="large"),
        pytest.param(lambda one: (one.place / "index.json").write_text('{"manifests": []}'), "holds no image",
                     id="empty"),
        pytest.param(lambda one: flip(one.path(one.manifests[0]["digest"])), "is damaged: it has", id="manifest"),
        pytest.param(lambda one: one.path(one.manifests[0]["digest"]).unlink(), "cannot be opened", id="no manifest"),
        pytest.param(lambda one: one.manifests[0].update(digest="sha256:../../x") or one.write_index(), "is no sha256",
                     id="a digest with a path"),
        pytest.param(lambda one: one.manifests[0].update(digest="md5:" + "0" * 32) or one.write_index(), "is no sha256",
                     id="a weak digest"),
        pytest.param(lambda one: one.manifests[0].update(size="9") or one.write_index(), "has no size", id="size"),
        pytest.param(lambda one: cut(layer_path(one)), "layer 1 of 1 .* cut off", id="a layer that is cut off"),
        pytest.param(lambda one: flip(layer_path(one)), "layer 1 of 1 .*", id="a layer with another bit"),
        pytest.param(lambda one: layer_path(one).write_bytes(gzip.compress(ABOVE)), "and its descriptor says",
                     id="another layer"),
        pytest.param(lambda one: layer_path(one).write_bytes(layer_path(one).read_bytes() + b"\0" * 99),
                     "its descriptor", id="bytes behind the layer"),
        pytest.param(lambda one: layer_path(one).unlink(), "cannot be opened", id="no layer"),
        pytest.param(lambda one: spoil(one, lambda it: it["layers"][0].update(mediaType="text/plain")), "of the type",
                     id="a layer of another type"),
        pytest.param(lambda one: spoil(one, lambda it: it["layers"].clear()), "0 layers, and its configuration 1",
                     id="fewer layers"),
        pytest.param(lambda one: spoil(one, lambda it: it.update(layers=7)), "neither a manifest nor", id="no list"),
        pytest.param(lambda one: spoil(one, lambda it: it.update(config=7)), "no descriptor", id="no configuration"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_refused_by_name_and_leaves_nothing(
    damage: Callable[[Layout], object], match: str, cache: Cache, tmp_path: Path
) -> None:
    """A `ConfigError` that says what; the control is the same image without the damage."""
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(BELOW))
    import_image(cache, layout.place, "whole")
    cache.remove("whole")
    damage(layout)
    with pytest.raises(ConfigError, match=match) as caught:
        import_image(cache, layout.place, "tool")
    assert str(layout.place) in str(caught.value)
    assert nothing_is_left(cache)


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(cache: Cache, tmp_path: Path) -> None:
    """In an archive of docker save nothing else tells."""
    source = docker_archive(tmp_path / "a.tar", [("t:1", [BELOW])])
    source.write_bytes(
        source.read_bytes().replace(BELOW, layer(directory("usr"), file("usr/one", "9"), file("usr/two", "1")))
    )
    with pytest.raises(ConfigError, match="unpacked, its digest is"):
        import_image(cache, source, "tool")
    assert nothing_is_left(cache)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(b"", "neither an OCI", id="empty"),
        pytest.param(b"x" * 5000, "no tar archive", id="something else"),
        pytest.param(gzip.compress(b"x"), "decompress it first", id="compressed"),
        pytest.param(layer(file("manifest.json", "[7]")), "no list of images", id="manifest"),
        pytest.param(layer(file("manifest.json", '[{"Config": "a", "Layers": ["b"]}]')), "a is not there", id="names"),
        pytest.param(layer(symlink("manifest.json", "/etc/hostname")), "neither an OCI", id="a link"),
        pytest.param(layer(symlink("manifest.json", "manifest.json")), "neither an OCI", id="a link to itself"),
        pytest.param(layer(file("manifest.json", " " * 600))[:900], "cut off", id="cut off"),
    ],
)
def test_an_archive_that_is_no_image_is_refused(content: bytes, match: str, cache: Cache, tmp_path: Path) -> None:
    """Whatever it is instead."""
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        import_image(cache, tmp_path / "a.tar", "tool")
    assert nothing_is_left(cache)


def test_what_is_no_file_keeps_nobody_waiting(cache: Cache, tmp_path: Path) -> None:
    """A FIFO as the archive, and as a file of a layout; a source that is not there."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="a directory or a tar archive"):
        import_image(cache, tmp_path / "fifo", "tool")
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(BELOW))
    (layout.place / "index.json").unlink()
    os.mkfifo(layout.place / "index.json")
    with pytest.raises(ConfigError, match=r"index\.json cannot be opened"):
        import_image(cache, layout.place, "tool")
    with pytest.raises(ConfigError, match="cannot be read"):
        import_image(cache, tmp_path / "nothing", "tool")


def test_an_image_without_programs_is_refused(cache: Cache, tmp_path: Path) -> None:
    """Neither usr nor bin."""
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(layer(file("etc/motd", "x"))))
    with pytest.raises(ConfigError, match="neither usr nor bin"):
        import_image(cache, layout.place, "tool")
    assert nothing_is_left(cache)


@pytest.mark.parametrize("env", ["no list", ["novalue"], ["=x"], ["A=\0"], [7], ["A=\ud800"]])
def test_variables_that_are_none_are_refused(env: object, cache: Cache, tmp_path: Path) -> None:
    """They would be found out by the first program only."""
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(BELOW, config={"Env": env}))
    with pytest.raises(ConfigError, match="Env"):
        import_image(cache, layout.place, "tool")


def test_layers_are_bounded_together(cache: Cache, tmp_path: Path) -> None:
    """64 MiB of zeros in a layer of 64 KiB, against 8 MiB."""
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(BELOW, layer(file("usr/zeros", bytes(64 << 20)))))
    with pytest.raises(ConfigError, match=r"layer 2 of 2 .* more than 8 MiB, which is the limit"):
        import_image(cache, layout.place, "tool", limits=Limits(bytes=8 << 20))
    assert nothing_is_left(cache)
