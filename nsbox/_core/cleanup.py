"""What `cleanup` does: nothing that outlived its execution, nothing left in /tmp and /dev/shm."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
from collections.abc import Iterator
from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING

from nsbox._config import ExecutionOptions
from nsbox._core.output import OutputSink
from nsbox._core.sweep import empty
from nsbox._errors import SetupError
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_execution
from nsbox._supervisor.start import pid_of

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

log = logging.getLogger("nsbox")

_SWEPT = (("tmp", "/tmp"), ("shm", "/dev/shm"))  # noqa: S108  # in the quota, and in the sandbox
_SCRIPT = """
find /tmp /dev/shm "$@" -type d ! -perm -700 -exec chmod u+rwx {} \';\' 2>/dev/null  # each before it is entered
find /tmp /dev/shm -mindepth 1 -maxdepth 1 "$@" -exec rm -rf -- {} + && chmod 1777 /tmp /dev/shm
"""


async def clean_up(core: SandboxCore) -> None:
    """See `AsyncSandbox.cleanup`; for who holds `changing`."""
    supervisor, cell = core.living()
    if not core.executions.running:
        _kill_leftovers(core.id, cell)
    if supervisor.ids.count > 1 and not supervisor.ids.ranges:
        await empty_from_inside(core)  # the files belong to subordinate ids, which are not the caller's
        return
    for name, path in _SWEPT:
        await empty(cell.quota, name, path, kept_below(cell, path))


def kept_below(cell: Cell, path: str) -> frozenset[str]:
    """What of a directory that is emptied belongs to the sandbox: the first names on the way to mounts, the
    interpreter's too, and to the working directory. To remove where something is mounted would be to unmount it.
    """
    operations = (*cell.plan.root_operations, *cell.plan.cell_operations)
    below = f"{path}/"
    return frozenset(one.path.removeprefix(below).split("/")[0] for one in operations if one.path.startswith(below))


async def empty_from_inside(core: SandboxCore) -> None:
    """Have a program in the sandbox do it, whose user the files belong to. No execution of the caller's: no events.

    Raises:
        SandboxError: It could not be run, or has not done it.
    """
    _, cell = core.living()
    argv = ("/bin/sh", "-c", _SCRIPT, "sh", *_find_words(cell))
    running = core.executions.new_command(argv, ExecutionOptions(working_directory="/", capture_output=False))
    sink = OutputSink(core.emitter, running.execution.id, None)
    outcome = await run_execution(cell, core.executions.order(running, argv), sink)
    status = outcome.observation.wait_status
    if status:
        raise SetupError("cleanup", EIO, f"the command that empties them ended with {status:#x}", _SWEPT[0][1])


def _find_words(cell: Cell) -> Iterator[str]:
    """For find(1): what is left out, by patterns that mean just these names, glob(7)."""
    for _, path in _SWEPT:
        for name in sorted(kept_below(cell, path)):
            literal = re.sub(r"([*?\[\\])", r"\\\1", f"{path}/{name}")
            yield from ("-path", literal, "-prune", "-o")


def _kill_leftovers(sandbox_id: str, cell: Cell) -> None:
    """What would have outlived its execution would be PID 1's child. There is none: an execution is over when its whole
    tree is dead. Looked at all the same, for what this is called is a promise.
    """
    with contextlib.suppress(OSError, StopIteration):
        init = pid_of(cell.pidfd)
        for pid in map(int, Path(f"/proc/{init}/task/{init}/children").read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[1]) == init and fields[0] != "Z":  # still the one that was found
                        log.error("%s: process %d has outlived its execution, and is killed", sandbox_id, pid)
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)
