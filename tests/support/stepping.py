"""Cancel something at each of its checkpoints, one after the other."""

from collections.abc import Awaitable, Callable

import trio


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before a task's nth step."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.task, self.scope, self.left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def cancel_at_each_step(function: Callable[[], Awaitable[object]], check: Callable[[], object], most: int) -> int:
    """Run `function` again and again, cancelled one step later each time, until it ends by itself; how many steps."""
    for step in range(1, most):
        with trio.CancelScope() as scope:
            instrument = CancelAt(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await function()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        check()
        if not scope.cancelled_caught:
            return step
    raise AssertionError(f"not done after {most} steps")
