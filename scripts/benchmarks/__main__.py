"""Run benchmarks and print medians, ratios and goals; the exit status is 1 when a goal is not met."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Mapping

import trio

from nsbox import AsyncSandbox
from scripts.benchmarks.accuracy import accuracy
from scripts.benchmarks.context import context
from scripts.benchmarks.deadline import deadline
from scripts.benchmarks.humaneval import humaneval
from scripts.benchmarks.languages import header, known, standby
from scripts.benchmarks.latency import fresh, living, paused
from scripts.benchmarks.measure import BLOCK, Report
from scripts.benchmarks.metrics import metrics
from scripts.benchmarks.network import egress, egress_throughput
from scripts.benchmarks.peers import missing_peer
from scripts.benchmarks.scale import scale
from scripts.benchmarks.stream import stream
from scripts.benchmarks.throughput import throughput
from scripts.benchmarks.warm import warm_fresh, warm_living, warm_memory, warm_numpy

BENCHMARKS: Mapping[str, Callable[[int], Awaitable[Report]]] = {
    "fresh": fresh,
    "paused": paused,
    "living": living,
    "throughput": throughput,
    "deadline": deadline,
    "accuracy": accuracy,
    "stream": stream,
    "scale": scale,
    "metrics": metrics,
    "known": known,
    "header": header,
    "standby": standby,
    "context": context,
    "warm-living": warm_living,
    "warm-fresh": warm_fresh,
    "warm-numpy": warm_numpy,
    "warm-memory": warm_memory,
    "humaneval": humaneval,
    "egress": egress,
    "egress-throughput": egress_throughput,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--runs", type=int, default=100, help=f"of each contender, in blocks of {BLOCK} (100)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")
    found = parser.parse_args()
    unknown = [name for name in found.names if name not in BENCHMARKS]
    if unknown or found.runs < 1:
        parser.error(f"no such benchmark: {', '.join(unknown)}" if unknown else "--runs must be at least 1")
    return found


async def _isolation() -> dict[str, str]:
    async with AsyncSandbox() as sandbox:
        return dict(sandbox.isolation)


def _print(name: str, report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"name": name, **report.to_dict()}), flush=True)
    else:
        print("\n".join(["", *report.lines()]), flush=True)


def main() -> int:
    """Measure what was asked for."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(BENCHMARKS))
        return 0
    if (reason := missing_peer()) is not None:
        print(f"bench: {reason}", file=sys.stderr)
        return 2
    if not arguments.json:
        where = f"Linux {platform.release()}, Python {platform.python_version()}, {len(os.sched_getaffinity(0))} CPUs"
        print(f"{where}, load {os.getloadavg()[0]:.1f}")
        isolation = trio.run(_isolation)
        print(f"cgroups {isolation['cgroups']}; filter {isolation['filter']}; {isolation['ids']}")
    met = True
    for name in arguments.names or BENCHMARKS:
        report = trio.run(BENCHMARKS[name], arguments.runs)
        _print(name, report, as_json=arguments.json)
        met = met and all(goal.met for goal in report.goals)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
