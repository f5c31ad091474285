"""An operation as data, and the one way to carry it out: in a worker thread, or in an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nsbox._files.deletion import delete
from nsbox._files.listing import list_directory
from nsbox._files.read import read_file
from nsbox._files.resolve import Root, named, owner_of_programs
from nsbox._files.write import Read, TemporaryNames, Writing, write_file
from nsbox._records import FileInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done.

    Attributes:
        do: Which operation.
        path: Absolute.
        home: The home directory of the sandbox's programs.
        quota: As for `Root.duplicate`.
        overwrite: Of `Writing`.
        mode: Of `Writing`.
        limit_mb: Of `Writing`, or as for `read_file`.
    """

    do: Literal["write", "read", "list", "delete"]
    path: str
    home: str
    quota: str
    overwrite: bool = False
    mode: int = 0
    limit_mb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of it.

    Attributes:
        content: What was read.
        infos: What was listed, or the one file that was written.
    """

    content: bytes = b""
    infos: tuple[FileInfo, ...] = ()


def carry_out(order: Order, root: Root, read: Read, check: Callable[[], object], names: TemporaryNames) -> Answer:
    """Do it here and now.

    Args:
        order: What.
        root: The sandbox's.
        read: Gives the content that is to be written.
        check: Called now and then; what it raises ends the work.
        names: Where names for a moment come from.

    Raises:
        FileOperationError: As `write_file`, `read_file`, `list_directory`, `delete`.
    """
    if order.do == "read":
        return Answer(content=read_file(root, order.path, order.limit_mb or 0, check))
    if order.do == "list":
        return Answer(infos=tuple(list_directory(root, order.path, check)))
    if order.do == "delete":
        delete(root, order.path, check)
        return Answer()
    with named(order.path):
        owner = owner_of_programs(root, order.home)
    writing = Writing(
        read=read, overwrite=order.overwrite, mode=order.mode, owner=owner, limit_mb=order.limit_mb, check=check,
        names=names,
    )  # fmt: skip
    return Answer(infos=(write_file(root, order.path, writing),))
