"""Images of containers, made by hand: layers as tar archives, OCI image layouts, and what `docker save` writes."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"

Member = tuple[str, str, Mapping[str, Any]]


def file(name: str, content: bytes | str = b"", **fields: Any) -> Member:
    """A regular file; `fields` are those of a `TarInfo`."""
    return name, "file", {"content": content.encode() if isinstance(content, str) else content, **fields}


def directory(name: str, **fields: Any) -> Member:
    """A directory."""
    return name, "directory", fields


def symlink(name: str, target: str) -> Member:
    """A symbolic link."""
    return name, "other", {"type": tarfile.SYMTYPE, "linkname": target}


def hardlink(name: str, target: str) -> Member:
    """A hard link."""
    return name, "other", {"type": tarfile.LNKTYPE, "linkname": target}


def special(name: str, kind: bytes, **fields: Any) -> Member:
    """A device (`tarfile.CHRTYPE`, `BLKTYPE`) or a FIFO (`FIFOTYPE`)."""
    return name, "other", {"type": kind, **fields}


def layer(*members: Member) -> bytes:
    """A tar archive of them, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, fields in members:
            rest = dict(fields)
            content = rest.pop("content", b"")
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if kind == "directory" else 0o644
            info.mtime = 1_600_000_000
            info.type = tarfile.DIRTYPE if kind == "directory" else tarfile.REGTYPE
            info.size = len(content)
            for field, value in rest.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """As descriptors have it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Layout:
    """An OCI image layout.

    Args:
        place: Its directory; made.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "blobs/sha256").mkdir(parents=True)
        (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []
        self.write_index()

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Store it; its descriptor."""
        self.path(digest(content)).write_bytes(content)
        return {"mediaType": media_type, "digest": digest(content), "size": len(content), **more}

    def path(self, of: str) -> Path:
        """Where the blob of a digest is."""
        return self.place / "blobs" / of.replace(":", "/")

    def image(
        self,
        *layers: bytes,
        compress: Callable[[bytes], bytes] = gzip.compress,
        media_type: str = LAYER,
        architecture: str = ARCHITECTURE,
        config: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Store an image of these layers; its descriptor, which is in no index yet."""
        content = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": dict(config or {}),
                "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in layers]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(content, CONFIG),
            "layers": [self.blob(compress(one), media_type) for one in layers],
        }
        return self.blob(json.dumps(manifest).encode(), MANIFEST, **more)

    def add(self, descriptor: dict[str, Any], tag: str | None = None) -> "Layout":
        """Put a descriptor into the index."""
        if tag is not None:
            descriptor = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
        self.manifests.append(descriptor)
        self.write_index()
        return self

    def write_index(self) -> None:
        """Write index.json."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests}
        (self.place / "index.json").write_text(json.dumps(index))

    def archived(self, place: Path) -> Path:
        """The same in a tar archive."""
        with tarfile.open(place, "w") as archive:
            for path in sorted(self.place.rglob("*")):
                archive.add(path, path.relative_to(self.place), recursive=False)
        return place


def docker_archive(place: Path, images: Sequence[tuple[str, Sequence[bytes]]], **config: Any) -> Path:
    """What `docker save` writes for images, each a tag and its layers."""
    members: list[Member] = []
    manifest = []
    for tag, layers in images:
        content = json.dumps(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in layers]},
            }
        ).encode()
        names = [f"{digest(one)[7:]}/layer.tar" for one in layers]
        members += [file(name, one) for name, one in zip(names, layers, strict=True)]
        members.append(file(f"{digest(content)[7:]}.json", content))
        manifest.append({"Config": f"{digest(content)[7:]}.json", "RepoTags": [tag], "Layers": names})
    place.write_bytes(layer(*members, file("manifest.json", json.dumps(manifest))))
    return place


def tree(place: Path) -> list[Member]:
    """All that is below a directory, as root's."""
    members: list[Member] = []
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_symlink():
            members.append(symlink(name, str(path.readlink())))
        elif path.is_dir():
            members.append(directory(name))
        else:
            members.append(file(name, path.read_bytes(), mode=path.stat().st_mode & 0o777))
    return members
