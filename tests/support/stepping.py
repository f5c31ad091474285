"""Cancel something at each of its checkpoints, one after the other.

Which of them a run comes to depends on time: what has been made ahead, or has ended already, is waited for by nobody.
So they go by what is waited for and not by their number.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

import nsbox
from nsbox._supervisor import wire

PACKAGE = str(Path(nsbox.__file__).parent)
CALLERS = ("AsyncSandbox.", "AsyncPool.")

Checkpoint = tuple[tuple[str, str], int, bool]
"""Where it is, which one there in a run, and whether the task is about to go on."""


class CancelAtNew(trio.abc.Instrument):
    """Cancels a scope at the first checkpoint of a task that is not known yet, and remembers it.

    Each counts twice: when the task begins to wait there, and when it is about to go on.

    Args:
        task: One that waits.
        scope: Of what it does.
        known: Checkpoints.

    Attributes:
        found: Whether there was a new one.
    """

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, known: set[Checkpoint]) -> None:
        self._task, self._scope, self._known = task, scope, known
        self._passed: Counter[tuple[tuple[str, str], bool]] = Counter()
        self.found = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._pass(task, goes_on=False)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._pass(task, goes_on=True)

    def _pass(self, task: trio.lowlevel.Task, *, goes_on: bool) -> None:
        if task is not self._task or self.found:
            return
        where = checkpoint_of(task)
        if where is None:
            return
        self._passed[where, goes_on] += 1
        checkpoint = (where, self._passed[where, goes_on], goes_on)
        if checkpoint not in self._known:
            self._known.add(checkpoint)
            self.found = True
            self._scope.cancel()


def checkpoint_of(task: trio.lowlevel.Task) -> tuple[str, str] | None:
    """Where a task waits; None: in no public method of a sandbox or a pool.

    Returns:
        The method, with the question to the launcher whose answer it waits for, if it does: "start" or "start: CREATE".
        The functions of nsbox on the way there.
    """
    frames = [frame for frame, _ in task.iter_await_frames() if frame.f_code.co_filename.startswith(PACKAGE)]
    functions = [frame.f_code.co_qualname for frame in frames]
    called = next((name.partition(".")[2] for name in reversed(functions) if name.startswith(CALLERS)), None)
    if called is None:
        return None
    asked = [value.name for value in frames[-1].f_locals.values() if isinstance(value, wire.Down)]
    return ": ".join([called, *asked]), " ".join(functions)


async def cancel_at_each_checkpoint(
    function: Callable[[], Awaitable[object]], check: Callable[[], object], most: int
) -> set[str]:
    """Run `function` until it has been cancelled once at each checkpoint that any run came to.

    Args:
        function: Its checkpoints must be finite, whenever it is cancelled.
        check: Called after each run.
        most: More runs than that fail.

    Returns:
        What was waited for: the first parts of `checkpoint_of`.
    """
    known: set[Checkpoint] = set()
    for _ in range(most):
        with trio.CancelScope() as scope:
            instrument = CancelAtNew(trio.lowlevel.current_task(), scope, known)
            trio.lowlevel.add_instrument(instrument)
            try:
                await function()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        check()
        if not instrument.found:
            assert not scope.cancelled_caught
            return {name for (name, _), _, _ in known}
    raise AssertionError(f"not done after {most} runs: {sorted(known)}")
