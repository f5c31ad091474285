"""Which layers an image has, and what it says about itself.

Two forms: image layouts (image-layout.md, image-index.md, manifest.md and config.md of the OCI image specification
1.1), and what `docker save` writes, whose `manifest.json` names a configuration and layers (Docker image specification
1.2, "Combined Image JSON + Filesystem Changeset Format"). An archive that is both is read as a layout, where all that
is named has a digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsbox._errors import ConfigError
from nsbox._rootfs.blobs import Blobs, read_document
from nsbox._rootfs.streams import Bounded, Budget, Hashed, check_digest, inflated
from nsbox._rootfs.unpack import Unpacker

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""uname(2) to the names of Go, which are the specification's ("platform" in image-index.md)."""

_LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?)"
)
_TAG = "org.opencontainers.image.ref.name"
_FULL_TAG = "io.containerd.image.name"
_ATTACHED = "vnd.docker.reference.type"  # signatures and the like, beside images in an index
_MOST_LAYERS = 512
_DEEPEST_INDEX = 4
_LONGEST_VARIABLE = 32_768
_OURS = frozenset({"HOME", "USER", "LOGNAME", "PWD", "OLDPWD", "SHLVL", "HOSTNAME"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        blob: The name of its file in the image.
        digest: Of that file; "": the image does not say.
        size: Of that file, in bytes; -1: the image does not say.
        diff_id: The digest of what is in it, decompressed.
    """

    blob: str
    digest: str
    size: int
    diff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image.

    Attributes:
        digest: Of its manifest, or of its configuration where it has no manifest of its own.
        tags: What it is called.
        layers: The lowest first.
        config: What it says about how programs are to be run in it; not used but for `environment`.
        environment: The variables among that, but those that a sandbox has of its own.
    """

    digest: str
    tags: tuple[str, ...]
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    environment: Mapping[str, str]


def find_image(blobs: Blobs, tag: str | None = None) -> Image:
    """The image for this machine.

    Args:
        blobs: Where it is.
        tag: Which, where there are several: as it is called, or the end of that behind the colon. None: the only one.

    Raises:
        ConfigError: There is none, there are several, or something is damaged.
    """
    if blobs.has("oci-layout"):
        return _from_layout(blobs, tag)
    if blobs.has("manifest.json"):
        return _from_docker(blobs, tag)
    raise ConfigError(
        f"image {blobs.name!r}: neither an OCI image layout nor written by docker save: "
        "there is neither oci-layout nor manifest.json in it"
    )


def unpack_image(blobs: Blobs, image: Image, tree: Unpacker, budget: Budget) -> None:
    """Apply all layers. Blocks for as long as that takes.

    Raises:
        ConfigError: A layer is damaged, or not what its digest says, or too much.
        SetupError: The disk is full.
        UnsupportedHostError: A layer is compressed with what this Python cannot read.
    """
    for number, layer in enumerate(image.layers, 1):
        name = f"image {blobs.name!r}: layer {number} of {len(image.layers)} ({layer.blob})"
        blob = blobs.open(layer.blob)
        try:
            stored = Hashed(blob, layer.digest.partition(":")[0] or "sha256")
            content = Hashed(Bounded(inflated(stored, name), budget, name), layer.diff_id.partition(":")[0])
            tree.apply(content, name)
            content.drain()  # what stands behind the archive's end counts for both digests
            stored.drain()
        finally:
            blob.close()
        if layer.size not in (-1, stored.count):
            raise ConfigError(f"{name}: has {stored.count} bytes, and its descriptor says {layer.size}")
        if layer.digest not in ("", stored.digest):
            raise ConfigError(f"{name}: its digest is {stored.digest}, and its descriptor says {layer.digest}")
        if content.digest != layer.diff_id:
            raise ConfigError(
                f"{name}: unpacked, its digest is {content.digest}, and the image's configuration says {layer.diff_id}"
            )


# ---------------------------------------------------------------- image layouts


def _from_layout(blobs: Blobs, tag: str | None) -> Image:
    version = _document(blobs, "oci-layout", read_document(blobs, "oci-layout")).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ConfigError(f"image {blobs.name!r}: its layout has the version {version!r}, and 1.0.0 is known")
    index = _document(blobs, "index.json", read_document(blobs, "index.json"))
    wanted = [one for one in _descriptors(blobs, index, "manifests") if tag is None or tag in _spellings(one)]
    found = {one["digest"]: (one, content) for one, content in _manifests(blobs, wanted, 0)}
    if len(found) != 1:
        raise _which(blobs, tag, len(found), [name for one in _descriptors(blobs, index, "manifests")
                                              for name in _names(one)[:1]])  # fmt: skip
    ((descriptor, manifest),) = found.values()
    config_place = _descriptor(blobs, manifest.get("config"), "config")
    config = _document(blobs, "the configuration", _verified(blobs, config_place))
    diff_ids = _diff_ids(blobs, config)
    places = _descriptors(blobs, manifest, "layers")
    if len(places) != len(diff_ids):
        raise ConfigError(
            f"image {blobs.name!r}: its manifest has {len(places)} layers, and its configuration {len(diff_ids)}"
        )
    for place in places:
        if not _LAYER.fullmatch(str(place.get("mediaType"))):
            raise ConfigError(f"image {blobs.name!r}: a layer of the type {place.get('mediaType')!r} is not supported")
    layers = [
        Layer(blob=_path(place["digest"]), digest=place["digest"], size=place["size"], diff_id=diff_id)
        for place, diff_id in zip(places, diff_ids, strict=True)
    ]
    tags = [name for one in wanted for name in _names(one)]
    return _image(blobs, descriptor["digest"], tags, layers, config)


def _manifests(blobs: Blobs, descriptors: Sequence[Any], depth: int) -> Iterator[tuple[Any, Any]]:
    """Those of images that can run here, through indexes of indexes."""
    if depth > _DEEPEST_INDEX:
        raise ConfigError(f"image {blobs.name!r}: indexes more than {_DEEPEST_INDEX} deep")
    for one in descriptors:
        platform = one.get("platform")
        annotations = one.get("annotations")
        if isinstance(annotations, dict) and _ATTACHED in annotations:
            continue
        if isinstance(platform, dict) and not _fits(platform):
            continue
        document = _document(blobs, one["digest"], _verified(blobs, one))
        if isinstance(document.get("manifests"), list):
            yield from _manifests(blobs, _descriptors(blobs, document, "manifests"), depth + 1)
        elif isinstance(document.get("layers"), list):
            yield one, document
        else:
            raise ConfigError(f"image {blobs.name!r}: {one['digest']} is neither a manifest nor an index of images")


def _fits(platform: Mapping[str, Any]) -> bool:
    return platform.get("os") in ("linux", "", None) and platform.get("architecture") in (_architecture(), "", None)


def _architecture() -> str:
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def _names(descriptor: Mapping[str, Any]) -> list[str]:
    annotations = descriptor.get("annotations")
    found = [annotations.get(key) for key in (_FULL_TAG, _TAG)] if isinstance(annotations, dict) else []
    return [name for name in found if isinstance(name, str)]


def _spellings(descriptor: Mapping[str, Any]) -> set[str]:
    return {spelling for name in _names(descriptor) for spelling in (name, name.rpartition(":")[2])}


def _which(blobs: Blobs, tag: str | None, count: int, names: Sequence[str]) -> ConfigError:
    asked = "" if tag is None else f" called {tag!r}"
    called = f"; there are {', '.join(map(repr, dict.fromkeys(names)))}" if names else ""
    if count:
        return ConfigError(f"image {blobs.name!r}: holds {count} images{asked}, and one must be named by --tag{called}")
    return ConfigError(f"image {blobs.name!r}: holds no image{asked} for linux/{_architecture()}{called}")


# ---------------------------------------------------------------- docker save


def _from_docker(blobs: Blobs, tag: str | None) -> Image:
    try:
        images = json.loads(read_document(blobs, "manifest.json"))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"image {blobs.name!r}: manifest.json is damaged ({exc})") from exc
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise ConfigError(f"image {blobs.name!r}: manifest.json is no list of images")
    found = [one for one in images if tag is None or tag in _docker_spellings(one)]
    if len(found) != 1:
        raise _which(blobs, tag, len(found), [name for one in images for name in _docker_tags(one)])
    (image,) = found
    name, layers = image.get("Config"), image.get("Layers")
    if not isinstance(name, str) or not isinstance(layers, list) or not all(isinstance(one, str) for one in layers):
        raise ConfigError(f"image {blobs.name!r}: manifest.json names no configuration or no layers")
    content = read_document(blobs, name)
    digest = hashlib.sha256(content).hexdigest()
    said = re.search(r"(?:^|/)([0-9a-f]{64})(?:\.json)?$", name)
    if said is not None and said[1] != digest:
        raise ConfigError(f"image {blobs.name!r}: {name} is damaged: its digest is {digest}")
    config = _document(blobs, name, content)
    diff_ids = _diff_ids(blobs, config)
    if len(diff_ids) != len(layers):
        raise ConfigError(
            f"image {blobs.name!r}: manifest.json has {len(layers)} layers, and the configuration {len(diff_ids)}"
        )
    places = [
        Layer(blob=blob, digest="", size=-1, diff_id=diff_id) for blob, diff_id in zip(layers, diff_ids, strict=True)
    ]
    return _image(blobs, f"sha256:{digest}", _docker_tags(image), places, config)


def _docker_tags(image: Mapping[str, Any]) -> list[str]:
    tags = image.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _docker_spellings(image: Mapping[str, Any]) -> set[str]:
    return {spelling for name in _docker_tags(image) for spelling in (name, name.rpartition(":")[2])}


# ---------------------------------------------------------------- both


def _image(blobs: Blobs, digest: str, tags: Sequence[str], layers: Sequence[Layer], config: Mapping[str, Any]) -> Image:
    if not layers or len(layers) > _MOST_LAYERS:
        raise ConfigError(f"image {blobs.name!r}: has {len(layers)} layers, and 1 to {_MOST_LAYERS} are possible")
    if not _fits(config):
        raise ConfigError(
            f"image {blobs.name!r}: is for {config.get('os')}/{config.get('architecture')}, "
            f"and this machine is linux/{_architecture()}"
        )
    inner = config.get("config")
    details = inner if isinstance(inner, dict) else {}
    return Image(
        digest=digest,
        tags=tuple(dict.fromkeys(tags)),
        layers=tuple(layers),
        config={key: details[key] for key in ("Env", "WorkingDir", "User", "Entrypoint", "Cmd") if key in details},
        environment=_environment(blobs, details.get("Env")),
    )


def _environment(blobs: Blobs, variables: object) -> Mapping[str, str]:
    if variables is None:
        return {}
    if not isinstance(variables, list):
        raise ConfigError(f"image {blobs.name!r}: its configuration's Env is no list")
    found = {}
    for one in variables:
        name, equals, value = one.partition("=") if isinstance(one, str) else ("", "", "")
        if not name or not equals or "\0" in one or len(one) > _LONGEST_VARIABLE or not _is_text(one):
            raise ConfigError(f"image {blobs.name!r}: {one!r} in its configuration's Env is no variable")
        if name not in _OURS:
            found[name] = value
    return found


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _diff_ids(blobs: Blobs, config: Mapping[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list):
        raise ConfigError(f"image {blobs.name!r}: its configuration names no layers (rootfs.diff_ids)")
    return [check_digest(one, f"image {blobs.name!r}: rootfs.diff_ids") for one in found]


def _document(blobs: Blobs, name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"image {blobs.name!r}: {name} is damaged ({exc})") from exc
    if not isinstance(found, dict):
        raise ConfigError(f"image {blobs.name!r}: {name} is no JSON object")
    return found


def _descriptors(blobs: Blobs, document: Mapping[str, Any], field: str) -> list[Any]:
    found = document.get(field)
    if not isinstance(found, list):
        raise ConfigError(f"image {blobs.name!r}: {field} is no list")
    return [_descriptor(blobs, one, field) for one in found]


def _descriptor(blobs: Blobs, value: object, field: str) -> Any:
    """A digest, a size, and what else it may have (descriptor.md)."""
    if not isinstance(value, dict):
        raise ConfigError(f"image {blobs.name!r}: {field} has something that is no descriptor")
    check_digest(value.get("digest"), f"image {blobs.name!r}: {field}")
    size = value.get("size")
    if type(size) is not int or size < 0:
        raise ConfigError(f"image {blobs.name!r}: {field}: {value['digest']} has no size")
    return value


def _verified(blobs: Blobs, descriptor: Any) -> bytes:
    digest = descriptor["digest"]
    content = read_document(blobs, _path(digest))
    algorithm, _, said = digest.partition(":")
    found = hashlib.new(algorithm, content).hexdigest()
    if len(content) != descriptor["size"] or found != said:
        raise ConfigError(
            f"image {blobs.name!r}: {_path(digest)} is damaged: it has {len(content)} bytes with the digest {found}, "
            f"and its descriptor says {descriptor['size']}"
        )
    return content


def _path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"
