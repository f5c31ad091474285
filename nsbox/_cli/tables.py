"""Tables and numbers, for people."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nsbox._cli import streams

_GAP = 3  # between two columns of a table
_WIDE = 240  # where nobody looks: lines for grep(1), not cut off


def make_console() -> Console:
    """As wide as the terminal; where stdout is none, wide enough for all."""
    return Console() if os.isatty(streams.STDOUT) else Console(width=_WIDE)


def show(*things: RenderableType) -> None:
    """Print."""
    console = make_console()
    with console.capture() as captured:
        for thing in things:
            console.print(thing)
    text = captured.get()
    streams.write(streams.STDOUT, text if os.isatty(streams.STDOUT) else _without_padding(text))


def _without_padding(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
    width: int | None = None,
) -> Table:
    """A table; what the cells say is never taken for markup, and control characters do nothing to the terminal.

    Where it is wider than the terminal, columns are left out, and a line below says which: a word in pieces of four
    letters can be read by nobody.

    Args:
        headings: Of the columns.
        rows: A text for each.
        right: The headings of those that are numbers.
        spare: The headings of those that may be left out, the first one first.
        width: In columns of characters; None: that of the terminal.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    shown, left_out = _fitting(headings, cells, spare, make_console().width if width is None else width)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    if left_out:
        made.caption = Text(f"left out: {', '.join(left_out)}; a wider terminal has room for them")
        made.caption_justify = "left"
    for index in shown:
        made.add_column(headings[index], justify="right" if headings[index] in right else "left", overflow="fold")
    for row in cells:
        made.add_row(*(Text(row[index]) for index in shown))
    return made


def _fitting(
    headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int
) -> tuple[list[int], list[str]]:
    """The indices of the columns that there is room for, and the headings of the others."""
    widths = [max(cell_len(text) for text in column) for column in zip(headings, *rows, strict=True)]
    shown, left_out = list(range(len(headings))), []
    for heading in spare:
        if sum(widths[index] + _GAP for index in shown) - 1 <= width:
            break
        if heading in headings:
            shown.remove(headings.index(heading))
            left_out.append(heading)
    return shown, left_out


def printable(text: str) -> str:
    """The same with escapes for what is no character to be seen."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def size(count: float | None) -> str:
    """Bytes in the unit that fits: "12.5 MiB"."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit returns")


def seconds(value: float | None) -> str:
    """A duration: "0.012 s"."""
    return "-" if value is None else f"{value:.3f} s"


def moment(value: float | None) -> str:
    """A time in this host's zone: "2024-05-06 07:08:09"."""
    return "-" if value is None else datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def word(value: object) -> str:
    """Anything; "-" for None."""
    return "-" if value is None else str(value)
