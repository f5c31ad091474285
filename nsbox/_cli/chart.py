"""Curves from block characters. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = " ▁▂▃▄▅▆▇█"


def resample(times: Sequence[float], values: Sequence[float], count: int) -> list[float | None]:
    """The greatest value of each of `count` equal parts of the time; None for parts in which nothing was measured."""
    found: list[float | None] = [None] * count
    if not times:
        return found
    if len(times) < count and count % len(times) == 0 and _is_even(times):
        return [value for value in values for _ in range(count // len(times))]
    first, last = times[0], times[-1]
    width = (last - first) / count or 1.0
    for time, value in zip(times, values, strict=True):
        index = min(count - 1, int((time - first) / width))
        before = found[index]
        found[index] = value if before is None else max(before, value)
    return found


def draw(values: Sequence[float | None], *, rows: int, top: float) -> list[str]:
    """A chart, as lines from top to bottom; each value is a column that is up to `rows` characters high.

    Args:
        values: From left to right; None leaves the column empty.
        rows: Its height.
        top: The value that fills a column; what is greater does too.
    """
    steps = len(_BLOCKS) - 1
    heights = [0 if value is None else _height(value, rows * steps, top) for value in values]
    return [
        "".join(_BLOCKS[max(0, min(steps, height - row * steps))] for height in heights)
        for row in reversed(range(rows))
    ]


def _height(value: float, most: int, top: float) -> int:
    """In eighths of a row; what is above 0 is seen."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(most, round(value / top * most)))


def _is_even(times: Sequence[float]) -> bool:
    """Whether they are about equally far apart, as those of a meter are: then each stands for its whole interval."""
    steps = [after - before for before, after in pairwise(times)]
    return len(steps) < 1 or max(steps) <= 2 * sum(steps) / len(steps)
