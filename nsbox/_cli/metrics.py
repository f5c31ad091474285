"""`nsbox metrics`: a sandbox's resources over time, as numbers, in the terminal, or as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from nsbox._cli import streams
from nsbox._cli.chart import draw, resample
from nsbox._cli.history import open_store
from nsbox._cli.tables import make_console, moment, show, size, table

_ROWS = 8
_LABEL = 11
_WIDEST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One of the things that were measured.

    Attributes:
        column: Its name in the store.
        title: Its name for people.
        text: A value for people.
    """

    column: str
    title: str
    text: Callable[[float], str]


CURVES = (
    Curve(column="cpu_percent", title="CPU, percent of one", text=lambda value: f"{value:.1f} %"),
    Curve(column="memory_bytes", title="memory", text=size),
    Curve(column="disk_bytes", title="disk", text=size),
    Curve(column="processes", title="processes", text=lambda value: f"{value:.0f}"),
    Curve(column="sent_bytes", title="sent", text=size),
    Curve(column="received_bytes", title="received", text=size),
)


def metrics(store: Path | None, sandbox: str, *, plot: bool, png: Path | None, as_json: bool) -> int:
    """Show them.

    Returns:
        The exit status.

    Raises:
        ConfigError: No such store or sandbox.
        UnsupportedHostError: A picture was asked for, and matplotlib is not there.
    """
    with open_store(store) as reader:
        name = reader.find_sandbox(sandbox)
        rows = reader.metrics(name)
    if png is not None:
        from nsbox._cli.picture import save_picture  # noqa: PLC0415  # matplotlib is an extra

        save_picture(name, rows, measured(rows), png)
    if as_json:
        streams.write(streams.STDOUT, json.dumps({"sandbox": name, "metrics": rows}) + "\n")
    elif not rows:
        show(Text(f"{name}: nothing was measured"))
    elif png is None or plot:
        show(Text(f"{name}: {len(rows)} samples from {moment(rows[0]['at'])} to {moment(rows[-1]['at'])}"))
        if plot:
            _plot(rows)
        else:
            show(_summary(rows))
    return 0


def measured(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """Without those of a network, where there was none; NULL is before it was there."""
    return [curve for curve in CURVES if any(row[curve.column] is not None for row in rows)]


def _summary(rows: Sequence[dict[str, Any]]) -> Any:
    cells = []
    for curve in measured(rows):
        values = [float(row[curve.column] or 0) for row in rows]
        mean = sum(values) / len(values)
        cells.append((curve.title, *(curve.text(value) for value in (min(values), mean, max(values), values[-1]))))
    headings = ("resource", "least", "mean", "most", "last")
    return table(headings, cells, right=headings[1:])


def _plot(rows: Sequence[dict[str, Any]]) -> None:
    width = max(10, min(_WIDEST, make_console().width - _LABEL - 3))
    times = [float(row["at"]) for row in rows]
    if len(times) < width:
        width -= width % len(times)  # as many columns for each sample
    for curve in measured(rows):
        values = [float(row[curve.column] or 0) for row in rows]
        top = max(values)
        lines = draw(resample(times, values, width), rows=_ROWS, top=top)
        labels = [curve.text(top), *[""] * (_ROWS - 2), curve.text(0)]
        body = "\n".join(f"{label:>{_LABEL}} ┤{line}" for label, line in zip(labels, lines, strict=True))
        show(Text(f"\n{'':{_LABEL}}  {curve.title}\n{body}\n{'':{_LABEL}} └{'─' * width}", no_wrap=True))
    begin, end = moment(times[0])[11:], moment(times[-1])[11:]
    show(Text(f"{'':{_LABEL + 2}}{begin}{end:>{width - len(begin)}}", no_wrap=True))
