"""`nsbox rootfs`: root file systems in the cache."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from rich.text import Text

from nsbox._cli import streams
from nsbox._cli.session import tell
from nsbox._cli.tables import moment, printable, show, size, table
from nsbox._rootfs import (
    Limits,
    Tree,
    build_root,
    check_name,
    import_image,
    load_recipe,
    open_cache,
    recipe_names,
)

_SPARE = ("made", "packages", "files", "digest")
"""What may be left out where the terminal is narrow."""


def build(text: str, name: str | None, max_mb: int) -> int:
    """Build a root from a recipe.

    Args:
        text: The recipe's name, or the path of its file.
        name: What it is to be called; None: as the recipe.
        max_mb: MiB that it may have at most.

    Returns:
        The exit status.
    """
    recipe = load_recipe(text)
    wanted = check_name(recipe.name if name is None else name)
    tell(f"building {wanted!r}: {recipe.description or 'no description'}; this takes a minute or some")
    start = time.monotonic()
    tree, is_new = build_root(open_cache(), recipe, wanted, _limits(max_mb))
    return _done(tree, is_new=is_new, seconds=time.monotonic() - start)


def import_(source: Path, name: str, tag: str | None, max_mb: int) -> int:
    """Unpack an image.

    Args:
        source: An OCI image layout, or a tar archive with one or by `docker save`.
        name: What it is to be called.
        tag: Which image, where there are several.
        max_mb: MiB that it may have at most.

    Returns:
        The exit status.
    """
    start = time.monotonic()
    tree, is_new = import_image(open_cache(), source, name, tag, _limits(max_mb))
    return _done(tree, is_new=is_new, seconds=time.monotonic() - start)


def list_(*, as_json: bool) -> int:
    """Show what is there.

    Returns:
        The exit status.
    """
    cache = open_cache()
    trees = [tree for name in cache.names() if (tree := cache.find(name)) is not None]
    if as_json:
        roots = [{**dataclasses.asdict(tree.record), "path": str(tree.root), "used": tree.used} for tree in trees]
        streams.write(streams.STDOUT, json.dumps({"roots": roots, "recipes": list(recipe_names())}) + "\n")
        return 0
    headings = ("name", "from", "size", "files", "packages", "made", "used", "digest")
    rows = [_row(tree) for tree in trees]
    others = [name for name in recipe_names() if name not in {tree.record.name for tree in trees}]
    lines = [Text(f"recipes that are not built: {', '.join(others)}")] if others else []
    if not rows:
        show(Text("no root is there; nsbox rootfs build NAME makes one"), *lines)
    else:
        show(table(headings, rows, right=("size", "files", "packages"), spare=_SPARE), *lines)
    return 0


def remove(names: list[str]) -> int:
    """Remove roots, one after the other.

    Returns:
        The exit status.
    """
    cache = open_cache()
    for name in names:
        cache.remove(name)
        streams.write(streams.STDOUT, f"removed {name}\n")
    return 0


def _limits(max_mb: int) -> Limits:
    return Limits(bytes=max_mb << 20)


def _row(tree: Tree) -> tuple[str, ...]:
    record = tree.record
    return (
        record.name, f"{record.kind} {record.source}", size(record.bytes), str(record.files),
        str(len(record.packages) or "-"), moment(record.made), moment(tree.used), record.digest[7:19],
    )  # fmt: skip


def _done(tree: Tree, *, is_new: bool, seconds: float) -> int:
    record = tree.record
    facts = [
        size(record.bytes),
        f"{record.files} files",
        *([f"{len(record.packages)} packages"] * bool(record.packages)),
    ]
    text = f"{record.name}: {', '.join(facts)}, in {seconds:.1f} s\n{record.digest}\n"
    if not is_new:
        text += "the same, to the last bit, as what was there\n"
    if record.left_out:
        text += f"left out: {', '.join(f'{count} {kind}' for kind, count in sorted(record.left_out.items()))}\n"
    config = record.details.get("config", {})
    if record.kind == "image" and config:
        unused = [f"{key} {config[key]!r}" for key in ("User", "WorkingDir", "Entrypoint", "Cmd") if config.get(key)]
        text += f"variables for programs: {', '.join(sorted(record.environment)) or 'none'}\n"
        text += "".join(f"not used: {printable(one)}\n" for one in unused)
    streams.write(streams.STDOUT, text)
    return 0
