"""`nsbox ps`: the living sandboxes of all processes of this user."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nsbox._cli import streams
from nsbox._cli.tables import printable, show, size, table, word
from nsbox._supervisor.census import Answer, Supervisor, ask_all

_SILENT = {
    Answer.BUSY: "does not answer: its application is stopped, or does not let its threads run",
    Answer.OTHER: "is of another version of nsbox",
}

_SPARE = ("runtime", "runs", "procs", "user", "age", "running", "cpu time")
"""What may be left out where the terminal is narrow."""


def ps(*, as_json: bool) -> int:
    """Show them.

    Returns:
        The exit status.
    """
    found = ask_all()
    if as_json:
        told = [
            {"pid": one.pid, "answer": one.answer.value, "program": one.program, "sandboxes": list(one.sandboxes)}
            for one in found
        ]
        streams.write(streams.STDOUT, json.dumps({"supervisors": told}) + "\n")
    else:
        show(render(found))
    return 0


def render(found: Sequence[Supervisor], percents: dict[str, float] | None = None) -> RenderableType:
    """The table of all sandboxes, and a line for each supervisor that did not tell its own.

    Args:
        found: What was told.
        percents: CPU time since the look before, in percent of one CPU, by the ids of sandboxes; None: no such column.
    """
    now = time.time()
    rows = [_row(one, sandbox, now, percents) for one in found for sandbox in one.sandboxes]
    usage = ("cpu time", *(() if percents is None else ("cpu",)), "memory", "procs")
    headings = ("sandbox", "status", "runtime", "user", "running", "runs", "age", *usage, "pid", "program")
    lines = [Text(printable(f"pid {one.pid} {_SILENT[one.answer]}")) for one in found if one.answer in _SILENT]
    if not rows:
        return Group(Text("no sandbox lives"), *lines)
    numbers = ("running", "runs", "age", "cpu time", "cpu", "memory", "procs", "pid")
    return Group(table(headings, rows, right=numbers, spare=_SPARE), *lines)


def _row(supervisor: Supervisor, sandbox: Any, now: float, percents: dict[str, float] | None) -> tuple[str, ...]:
    cpu, memory, created = sandbox.get("cpu_seconds"), sandbox.get("memory_bytes"), sandbox.get("created_at")
    percent = (
        () if percents is None else (f"{percents[sandbox['id']]:.1f} %" if sandbox.get("id") in percents else "-",)
    )
    return (
        word(sandbox.get("id")), word(sandbox.get("status")), word(sandbox.get("runtime")),
        word(sandbox.get("user_id")), word(sandbox.get("running")), word(sandbox.get("executions")),
        _age(now - created) if isinstance(created, (int, float)) else "-",
        f"{cpu:.2f} s" if isinstance(cpu, (int, float)) else "-", *percent,
        size(memory) if isinstance(memory, (int, float)) else "-", word(sandbox.get("processes")),
        str(supervisor.pid), supervisor.program,
    )  # fmt: skip


def _age(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
