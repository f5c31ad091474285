"""Root file systems of nsbox' own: built from recipes, or unpacked from images, and kept in a cache.

The way of the data is one: a tar archive, from mmdebstrap or a layer of an image, through `streams` (bounded, hashed,
decompressed) and `tar` (headers) into a tree (`unpack`), all in a directory of its own until it is complete and gets
its name (`cache`).

Modules, lower ones first: tar · streams · unpack · recipe · record · cache · sources, build · blobs, image, importing ·
opening, which is what a sandbox asks.
"""

from nsbox._rootfs.build import build_root
from nsbox._rootfs.cache import Cache, Hold, Tree, check_name, open_cache
from nsbox._rootfs.importing import import_image
from nsbox._rootfs.opening import needs_opening, open_root
from nsbox._rootfs.recipe import Recipe, load_recipe, recipe_names
from nsbox._rootfs.record import Record
from nsbox._rootfs.unpack import Limits

__all__ = [
    "Cache", "Hold", "Limits", "Recipe", "Record", "Tree", "build_root", "check_name", "import_image", "load_recipe",
    "needs_opening", "open_cache", "open_root", "recipe_names",
]  # fmt: skip
