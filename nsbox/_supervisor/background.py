"""What goes on beside the callers: tasks of the trio run, which end with it at the latest."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger("nsbox")


def start_soon(function: Callable[..., Awaitable[object]], *args: object) -> trio.CancelScope:
    """Start a task that nobody waits for.

    What it raises is logged: it must not take the run with it, and who wants to know is to be told by the task itself.

    Args:
        function: What to run.
        args: Its arguments.

    Returns:
        What cancels it.
    """
    scope = trio.CancelScope()

    async def task() -> None:
        try:
            with (
                scope
            ):  # inside: what is raised beside Cancelled comes out in a group, and is an Exception only out here
                await function(*args)
        except Exception:
            log.exception("a task in the background failed: %r", function)

    trio.lowlevel.spawn_system_task(task, name=f"nsbox {getattr(function, '__qualname__', function)}")
    return scope
