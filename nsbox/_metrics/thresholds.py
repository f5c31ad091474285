"""When a number has crossed a threshold: pure, and total over every number.

A value that hovers around its threshold must not flood: upwards it has crossed at the threshold, downwards only some
points below it. What is no number (NaN) crosses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MARGIN = 5.0
"""Points of percent below a threshold that count as being below it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """One threshold crossed.

    Attributes:
        resource: Which.
        usage: Percent.
        limit: The threshold, in percent.
        upwards: At or above it now, and not before; else the other way round.
    """

    resource: str
    usage: float
    limit: float
    upwards: bool


def is_above(before: bool, percent: float, threshold: float) -> bool:
    """Whether a number counts as being at its threshold.

    Args:
        before: Whether it did at the last look.
        percent: The number.
        threshold: In the same unit. One below twice MARGIN is left at half of itself, so that it can be left at all.
    """
    if percent >= threshold:
        return True
    return before and not percent < threshold - min(MARGIN, threshold / 2)


def find_crossings(
    above: frozenset[str], percents: Mapping[str, float], thresholds: Mapping[str, float]
) -> tuple[frozenset[str], tuple[Crossing, ...]]:
    """The new state, and what has changed.

    Args:
        above: The resources that were at their thresholds at the last look.
        percents: The numbers now; what has none keeps its state.
        thresholds: By resource; what has none crosses nothing.
    """
    found = []
    now = set(above)
    for resource, percent in percents.items():
        threshold = thresholds.get(resource)
        if threshold is None:
            continue
        upwards = is_above(resource in above, percent, threshold)
        if upwards != (resource in above):
            (now.add if upwards else now.discard)(resource)
            found.append(Crossing(resource=resource, usage=percent, limit=threshold, upwards=upwards))
    return frozenset(now), tuple(found)
