"""From what `SandboxConfig.rootfs` names to a directory that stays there while a sandbox uses it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from nsbox._errors import ConfigError
from nsbox._rootfs.cache import Hold, check_name, open_cache
from nsbox._rootfs.importing import import_image, layout_name
from nsbox._rootfs.recipe import recipe_names

_unpacking = threading.Lock()
"""Sandboxes of one pool start at the same time: the first one unpacks, and the others find it."""


def needs_opening(rootfs: str | Path) -> bool:
    """Whether it is more than the host or a directory: a name, or an image layout. Does not block."""
    if isinstance(rootfs, str):
        return rootfs != "host"
    return os.path.exists(rootfs / "oci-layout")


def open_root(rootfs: str | Path) -> Hold:
    """The tree of a name, or of an image layout, which is unpacked where it has not been yet.

    Blocks: for some seconds where an image is unpacked.

    Args:
        rootfs: What `needs_opening` says yes to.

    Raises:
        ConfigError: There is no root of this name, or as `import_image`.
        SetupError: As `import_image`.
        UnsupportedHostError: As `import_image`.
    """
    cache = open_cache()
    if isinstance(rootfs, str):
        held = cache.hold(check_name(rootfs))
        if held is None:
            raise ConfigError(f"rootfs={rootfs!r}: there is no root of this name{cache.others()}; {_remedy(rootfs)}")
        return held
    name = layout_name(rootfs)
    with _unpacking:
        held = cache.hold(name)
        if held is None:
            import_image(cache, rootfs, name)
            held = cache.hold(name)
    if held is None:
        raise ConfigError(f"rootfs={str(rootfs)!r}: was removed from the cache as soon as it was there")
    return held


def _remedy(name: str) -> str:
    if name in recipe_names():
        return f"nsbox rootfs build {name}"
    return f"nsbox rootfs import SOURCE {name}, or a directory: './{name}' for --rootfs, an absolute Path for rootfs="
