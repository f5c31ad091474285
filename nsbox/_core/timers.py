"""Many timers in one task: a sandbox that lives for a moment costs an entry in a dict, one that idles costs no task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import trio

from nsbox._supervisor.background import start_soon

log = logging.getLogger("nsbox")

_current: trio.lowlevel.RunVar[Timers | None] = trio.lowlevel.RunVar("nsbox timers", None)


def current_timers() -> Timers:
    """Those of this trio run."""
    timers = _current.get()
    if timers is None:
        timers = Timers()
        _current.set(timers)
    return timers


class Timers:
    """At most one timer a key. Not thread-safe: all is for the one trio run that it was first used in.

    Timers of one length are due in the order in which they were set, so that each length has a queue, setting and
    cancelling take constant time, and nothing is left of one that was cancelled.
    """

    def __init__(self) -> None:
        self._queues: dict[float, dict[Hashable, tuple[float, Callable[[], object]]]] = {}
        self._lengths: dict[Hashable, float] = {}
        self._earlier = trio.Event()
        self._wakes_at = float("inf")
        self._running = False

    def set(self, key: Hashable, seconds: float, callback: Callable[[], object]) -> None:
        """Have a plain function called later, in place of what the key has.

        Args:
            key: Whose.
            seconds: From now.
            callback: Must neither wait nor raise.
        """
        self.cancel(key)
        due = trio.current_time() + seconds
        self._queues.setdefault(seconds, {})[key] = (due, callback)
        self._lengths[key] = seconds
        if not self._running:
            self._running = True
            start_soon(self._run)
        if due < self._wakes_at:
            self._earlier.set()

    def cancel(self, key: Hashable) -> None:
        """Forget what the key has; nothing is no error."""
        seconds = self._lengths.pop(key, None)
        if seconds is not None:
            queue = self._queues[seconds]
            del queue[key]
            if not queue:
                del self._queues[seconds]

    async def _run(self) -> None:
        while True:
            self._earlier = trio.Event()
            self._wakes_at = min(
                (next(iter(queue.values()))[0] for queue in self._queues.values()), default=float("inf")
            )
            with trio.move_on_at(self._wakes_at):
                await self._earlier.wait()
            self._call_due(trio.current_time())

    def _call_due(self, now: float) -> None:
        due = []
        for queue in self._queues.values():
            for key, (at, callback) in queue.items():
                if at > now:
                    break
                due.append((key, callback))
        for key, callback in due:
            if key in self._lengths:  # not cancelled by one of the others
                self.cancel(key)
                try:
                    callback()
                except Exception:
                    log.exception("a timer failed: %r", callback)  # a bug of one sandbox's must not stop all others
