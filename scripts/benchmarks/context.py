"""A cell of a context that lives on: what it costs beside the cell itself."""

from nsbox import AsyncSandbox
from scripts.benchmarks.measure import Goal, Report, in_turn

_MOST_MS = 2.0


async def context(runs: int) -> Report:
    """`x += 1` in a context of Python, in IPython where that is installed."""
    async with AsyncSandbox(memory_mb=256) as sandbox, await sandbox.create_context() as made:
        (await made.execute("x = 0")).raise_for_verdict()

        async def add() -> None:
            (await made.execute("x += 1")).raise_for_verdict()

        async def start() -> None:
            (await sandbox.execute("x = 0; x += 1")).raise_for_verdict()

        series = await in_turn({"cell": add, "execution": start}, runs)
        by_ipython = (await made.execute("'get_ipython' in globals()")).outputs[0].text
    goal = Goal(what="a cell", value=series["cell"].median, bound=_MOST_MS, unit="ms")
    return Report(
        title="context: x += 1 in a Python context",
        series=series,
        goals=[goal],
        notes=[f"by IPython: {by_ipython}"],
    )
