"""Samples in alternating blocks, and what is reported of them."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import trio

BLOCK = 20
"""Runs of one contender before it is the next one's turn: what changes on the machine meanwhile meets them all."""

_SETTLE = 0.05  # seconds between blocks, in which what the one before put off is done at its own expense

Run = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The samples of one contender.

    Attributes:
        samples: In the order they were taken.
        unit: Of the samples.
    """

    samples: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def p90(self) -> float:
        """What nine of ten samples are not above."""
        return sorted(self.samples)[int(len(self.samples) * 0.9)] if len(self.samples) > 1 else self.samples[0]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "unit": self.unit, "runs": len(self.samples), "median": self.median, "p90": self.p90,
            "min": min(self.samples), "max": max(self.samples),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One number that has to be on the right side of another.

    Attributes:
        what: What the number is.
        value: As measured.
        bound: What it is held against.
        side: Whether the bound is the most or the least.
        unit: Of both; empty for a ratio.
    """

    what: str
    value: float
    bound: float
    side: Literal["at most", "at least"] = "at most"
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is; the bound itself is."""
        return self.value <= self.bound if self.side == "at most" else self.value >= self.bound

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            self.side.replace(" ", "_"): self.bound,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: What was measured.
        series: By contender.
        goals: What has to hold.
        notes: What else is worth knowing.
    """

    title: str
    series: Mapping[str, Series]
    goals: Sequence[Goal]
    notes: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "title": self.title,
            "series": {name: series.to_dict() for name, series in self.series.items()},
            "goals": [goal.to_dict() for goal in self.goals],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people."""
        found = [self.title]
        for name, one in self.series.items():
            found.append(
                f"  {name:<22}{one.median:>10.2f} {one.unit:<9} p90 {one.p90:.2f}, "
                f"{min(one.samples):.2f} to {max(one.samples):.2f}, {len(one.samples)} samples"
            )
        found += [f"  {note}" for note in self.notes]
        for goal in self.goals:
            mark = "met" if goal.met else "NOT MET"
            unit = f" {goal.unit}" if goal.unit else ""
            found.append(f"  {goal.what} = {goal.value:.2f}{unit}, {goal.side} {goal.bound:g}{unit}: {mark}")
        return found


async def in_turn(contenders: Mapping[str, Run], runs: int, *, pause: float = 0.0) -> dict[str, Series]:
    """Time each contender `runs` times, in alternating blocks.

    Args:
        contenders: What to run, by name; each is run twice before, untimed.
        runs: How often, rounded up to whole blocks.
        pause: Seconds of quiet before every run, not counted.

    Returns:
        Milliseconds.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        await run()
        await run()
    for _ in range(-(-runs // BLOCK)):
        for name, run in contenders.items():
            await trio.sleep(_SETTLE)
            for _ in range(BLOCK):
                if pause:
                    await trio.sleep(pause)
                begun = time.perf_counter_ns()
                await run()
                samples[name].append((time.perf_counter_ns() - begun) / 1e6)
    return {name: Series(samples=found, unit="ms") for name, found in samples.items()}
