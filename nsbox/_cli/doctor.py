"""`nsbox doctor`: what this host gives, what each lack costs, what mends it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nsbox._cli import streams
from nsbox._cli.languages import Language, languages
from nsbox._cli.selftest import Row, self_test
from nsbox._errors import SandboxError
from nsbox._host import Check, checks

LAUNCHER = "launcher"
VITAL = frozenset({
    LAUNCHER, "user_namespaces", "pid_namespaces", "mount_namespaces", "network_namespaces", "ipc_namespaces",
    "uts_namespaces", "cgroup_namespaces", "seccomp", "clone3", "openat2", "mount_setattr", "open_tree",
    "close_range", "pidfd",
})  # fmt: skip
"""Ids of the checks without which no sandbox starts; a test holds them equal to those that say so."""

ISOLATING = frozenset({
    "cgroups", "uid_range", "proc_mount", "memory_limit", "swap_limit", "process_limit", "cpu_limit", "cgroup_freeze",
    "cgroup_kill",
})  # fmt: skip
"""Ids of those that isolate a sandbox of the default configuration. The others are for what may be asked for on top."""


class Status(IntEnum):
    """What sandboxes have here; the number is the exit status."""

    FULL = 0  # full isolation
    DEGRADED = 1  # sandboxes run, with less
    NONE = 2  # none can run


def doctor(*, as_json: bool, self_test: bool) -> int:
    """Look at the host, and tell.

    Args:
        as_json: One JSON object instead of tables.
        self_test: Start a sandbox too, and attack it from inside.

    Returns:
        The exit status: a `Status`.
    """
    seen = (launcher_check(), *checks())
    rows, failure = _attack() if self_test else ((), "")
    status = rate(seen, rows, failure)
    spoken = languages()
    if as_json:
        streams.write(streams.STDOUT, _json(status, seen, spoken, rows if self_test else None, failure))
    else:
        streams.write(streams.STDOUT, _render(status, seen, spoken, rows, failure))
    return int(status)


def rate(seen: Iterable[Check], rows: Sequence[Row] = (), failure: str = "") -> Status:
    """Judge a host. Pure.

    Args:
        seen: The checks.
        rows: Of the self-test.
        failure: Why the self-test ended early; "" where it did not.
    """
    lacking = {check.id for check in seen if not check.ok}
    if lacking & VITAL or (failure and not rows):
        return Status.NONE
    if lacking & ISOLATING or failure or not all(row.ok for row in rows):
        return Status.DEGRADED
    return Status.FULL


def launcher_check() -> Check:
    """Whether this installation has its native part."""
    path = Path(__file__).parent.parent / "_bin" / "nsbox-launcher"
    ok = os.access(path, os.X_OK)
    return Check(
        id=LAUNCHER,
        title="the launcher",
        ok=ok,
        found=str(path) if ok else f"{path} is missing",
        costs="" if ok else "no sandbox can start",
        remedy="" if ok else "pip install --force-reinstall nsbox, on a machine with a C compiler, or from a wheel",
    )


def _attack() -> tuple[Sequence[Row], str]:
    """The rows up to the first failure of nsbox's own, and that failure."""
    rows: list[Row] = []
    try:
        rows.extend(self_test())
    except SandboxError as exc:
        return rows, str(exc)
    return rows, ""


def _json(
    status: Status, seen: Iterable[Check], spoken: Iterable[Language], rows: Iterable[Row] | None, failure: str
) -> str:
    value = {
        "status": status.name.lower(),
        "exit_status": int(status),
        "checks": [dataclasses.asdict(check) for check in seen],
        "languages": [dataclasses.asdict(language) for language in spoken],
        "self_test": None if rows is None else [dataclasses.asdict(row) for row in rows],
        "self_test_failure": failure or None,
    }
    return json.dumps(value, indent=2) + "\n"


def _render(
    status: Status, seen: Sequence[Check], spoken: Sequence[Language], rows: Sequence[Row], failure: str
) -> str:
    console = Console()
    with console.capture() as captured:
        console.print(_checks_table(seen))
        console.print(_languages_table(spoken))
        if rows:
            console.print(_attacks_table(rows))
        if failure:
            console.print(Text(f"the self-test ended early: {failure}\n"), soft_wrap=True)
        lacks = [check for check in seen if not check.ok]
        if lacks:
            console.print(Text("What mends it:"))
        for remedy in dict.fromkeys(check.remedy for check in lacks):
            names = ", ".join(check.id for check in lacks if check.remedy == remedy)
            # Not in the table, where a command would be broken into pieces that nobody can copy.
            console.print(Text(f"  {names}:\n    {remedy}"), soft_wrap=True)
        for language in spoken:
            if not language.ok:
                console.print(Text(f"  {language.name}, should it be run:\n    {language.remedy}"), soft_wrap=True)
        console.print(Text(_SUMMARY[status]))
    return captured.get()


_SUMMARY = {
    Status.FULL: "Sandboxes run here with full isolation.",
    Status.DEGRADED: "Sandboxes run here, with less than full isolation: see above.",
    Status.NONE: "No sandbox can run here: see above.",
}


def _checks_table(seen: Sequence[Check]) -> Table:
    rows = [(_mark(ok=check.ok), Text(check.id), Text(check.found), Text(check.costs)) for check in seen]
    return _table(("", "check", "found", "what its lack costs"), rows, all_ok=all(check.ok for check in seen))


def _languages_table(spoken: Sequence[Language]) -> Table:
    """A language that is not there is no lack of the host's, unless somebody wants it."""
    rows = [
        (_mark(ok=True) if one.ok else Text("none", style="yellow"), Text(one.name), Text(one.found)) for one in spoken
    ]
    return _table(("", "language", "toolchain"), rows, all_ok=False)


def _attacks_table(rows: Sequence[Row]) -> Table:
    cells = [(_mark(ok=row.ok), Text(row.title), Text(row.found), Text(row.expected)) for row in rows]
    return _table(("", "self-test", "found", "expected"), cells, all_ok=all(row.ok for row in rows))


def _table(headings: Sequence[str], rows: Iterable[Sequence[Text]], *, all_ok: bool) -> Table:
    """A table whose last column is there only when something lacks."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = len(headings) - all_ok
    for heading in headings[:shown]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row[:shown])
    return table


def _mark(*, ok: bool) -> Text:
    return Text("ok", style="green") if ok else Text("LACK", style="bold red")
