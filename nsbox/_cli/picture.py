"""A PNG of a sandbox's metrics, by matplotlib, which is the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbox._errors import UnsupportedHostError

if TYPE_CHECKING:
    from nsbox._cli.metrics import Curve

_MIB = 1 << 20


def save_picture(name: str, rows: Sequence[dict[str, Any]], curves: Sequence[Curve], path: Path) -> None:
    """Draw every curve over time.

    Raises:
        UnsupportedHostError: matplotlib is not there.
        OSError: The file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
        from matplotlib.figure import Figure  # noqa: PLC0415  # the same
    except ImportError as exc:
        raise UnsupportedHostError(
            "--png needs matplotlib", missing=("matplotlib",), remedies=("pip install 'nsbox[plot]'",)
        ) from exc
    times = [datetime.fromtimestamp(row["at"], UTC) for row in rows]
    figure = Figure(figsize=(10, 2.2 * len(curves)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(name)
    for axes, curve in zip(figure.subplots(len(curves), 1, sharex=True), curves, strict=True):
        in_mib = curve.column.endswith("_bytes")
        values = [row[curve.column] or 0 for row in rows]
        axes.plot(times, [value / _MIB if in_mib else value for value in values])
        axes.set_ylabel(f"{curve.title}, MiB" if in_mib else curve.title, fontsize="small")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.autofmt_xdate()
    figure.savefig(path, format="png", dpi=100)
