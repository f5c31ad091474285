"""/etc/resolv.conf in a root that is a directory: whom programs ask for names, resolv.conf(5).

The directory is somebody else's and stays as it is. Where it has a regular file, that is covered. Where it has a link,
or nothing, its /etc is shown piece by piece, with a file of ours among them.
"""

from __future__ import annotations

import os

from nsbox._config.networks import NAME_SERVER
from nsbox._plan import hostfiles
from nsbox._plan.operations import OperationFlag, OperationKind
from nsbox._plan.tree import Tree

TEXT = f"nameserver {NAME_SERVER}\noptions edns0\n"
NAMES = ("resolv.conf",)
"""Of /etc, what is not shown where it is shown piece by piece."""

_PATH = "/etc/resolv.conf"
_LINKS = 8


def needs_pieces(root: str) -> bool:
    """Whether `root` has no regular file to cover; False, too, where its /etc is no directory of its own."""
    etc = os.path.join(root, "etc")
    path = os.path.join(root, _PATH[1:])
    return _is_own_directory(etc) and (os.path.islink(path) or not os.path.isfile(path))


def add(tree: Tree, root: str, hidden: str) -> None:
    """Have programs find it in a root that is read-only.

    Args:
        tree: Has what is shown of the root.
        root: The directory that this is from.
        hidden: A directory of the tree that each sandbox covers.
    """
    etc = os.path.join(root, "etc")
    if not os.path.lexists(etc) or needs_pieces(root):
        tree.directory("/etc")
        tree.add(OperationKind.FILE, _PATH, TEXT, a=0o644)
    elif _is_own_directory(etc):
        tree.add(OperationKind.FILE, f"{hidden}/resolv.conf", TEXT, a=0o644)
        tree.add(OperationKind.MASK, _PATH, f"{hidden}/resolv.conf")


def add_writable(cell: Tree, root: str) -> None:
    """The same where /etc can be written in each sandbox: the file itself, or what a link at its place leads to.

    Args:
        cell: Has the overlays.
        root: The directory that their lower layers are from.
    """
    path = _PATH
    for _ in range(_LINKS):
        outside = os.path.join(root, path[1:])
        if not os.path.islink(outside):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(outside)))
    else:
        return  # a circle
    etc = os.path.join(root, "etc")
    if hostfiles.is_below(path, "/etc") and (_is_own_directory(etc) or not os.path.lexists(etc)):
        if os.path.dirname(path) == "/etc":
            cell.add(OperationKind.FILE, path, TEXT, OperationFlag.WRITABLE, 0o644)
    elif hostfiles.is_below(path, "/run"):  # where nothing of the root's is
        cell.directory(os.path.dirname(path))
        cell.add(OperationKind.FILE, path, TEXT, OperationFlag.WRITABLE, 0o644)


def _is_own_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
