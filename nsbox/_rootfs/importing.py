"""Unpacking an image into the cache."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from nsbox._errors import ConfigError
from nsbox._rootfs.blobs import Blobs, open_blobs
from nsbox._rootfs.cache import Cache, Tree, check_name
from nsbox._rootfs.image import Image, find_image, unpack_image
from nsbox._rootfs.record import Record, summarize
from nsbox._rootfs.streams import Budget
from nsbox._rootfs.unpack import Limits, Unpacker


def import_image(
    cache: Cache, source: Path, name: str, tag: str | None = None, limits: Limits | None = None
) -> tuple[Tree, bool]:
    """Unpack an image and keep it. Blocks for some seconds; what it has begun is gone if it fails.

    Args:
        cache: Where to keep it.
        source: An OCI image layout, or a tar archive with one or by `docker save`.
        name: What it is to be called; what was called so before is replaced.
        tag: Which image, where there are several.
        limits: What it may have at most.

    Returns:
        The tree, and whether it differs from the one that was there.

    Raises:
        ConfigError: The image is damaged, hostile, not for this machine, or larger than is allowed.
        SetupError: The disk is full.
        UnsupportedHostError: It is compressed with what this Python cannot read.
    """
    check_name(name)
    with contextlib.closing(open_blobs(source)) as blobs:
        return _unpack(cache, blobs, find_image(blobs, tag), name, limits or Limits())


def layout_name(source: Path) -> str:
    """What the one image of a layout is called in the cache when a sandbox unpacks it: by its digest.

    Raises:
        ConfigError: As `import_image`.
    """
    with contextlib.closing(open_blobs(source)) as blobs:
        return find_image(blobs).digest.replace(":", "-")


def _unpack(cache: Cache, blobs: Blobs, image: Image, name: str, limits: Limits) -> tuple[Tree, bool]:
    with cache.new() as new:
        directory = new.root
        with Unpacker(directory, limits) as tree:
            unpack_image(blobs, image, tree, Budget(limits.bytes))
            tree.finish()
            left_out = {kind: count for kind, count in tree.left_out.items() if count}
        if not any(os.path.isdir(os.path.join(directory, one)) for one in ("usr", "bin")):
            raise ConfigError(f"image {blobs.name!r}: must hold a root file system, yet there is neither usr nor bin")
        summary = summarize(directory)
        record = Record(
            name=name,
            kind="image",
            source=" ".join(image.tags) or blobs.name,
            made=time.time(),
            digest=summary.digest,
            bytes=summary.bytes,
            files=summary.files,
            left_out=left_out,
            packages={},
            environment=image.environment,
            details={"image": image.digest, "config": image.config},
        )
        return cache.keep(new, record)
