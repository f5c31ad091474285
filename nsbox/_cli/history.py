"""`nsbox history`: what a store has kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nsbox._cli import streams
from nsbox._cli.tables import moment, seconds, show, size, table, word
from nsbox._errors import ConfigError
from nsbox._results import Verdict, signal_name
from nsbox._store import Reader

_STATES = ("running", "lost")


def open_store(store: Path | None) -> Reader:
    """The store that was named.

    Raises:
        ConfigError: None was, or there is none.
    """
    if store is None:
        raise ConfigError("no store: name its file by --store, or by the environment variable NSBOX_STORE")
    return Reader(store)


def history(
    store: Path | None,
    *,
    limit: int,
    verdict: str | None = None,
    sandbox: str | None = None,
    sandboxes: bool = False,
    as_json: bool = False,
) -> int:
    """Show executions, or sandboxes.

    Returns:
        The exit status.

    Raises:
        ConfigError: No such store, verdict or sandbox.
    """
    allowed = [*(one.value for one in Verdict), *_STATES]
    if verdict is not None and verdict not in allowed:
        raise ConfigError(f"--verdict={verdict!r}: must be one of {', '.join(allowed)}")
    if verdict is not None and sandboxes:
        raise ConfigError("--verdict and --sandboxes: a sandbox has no verdict")
    with open_store(store) as reader:
        found = None if sandbox is None else reader.find_sandbox(sandbox)
        if sandboxes:
            rows = reader.sandboxes(limit=limit, sandbox=found)
            if as_json:
                rows = [row | {"states": reader.states(row["id"])} for row in rows]
        else:
            rows = reader.executions(limit=limit, verdict=verdict, sandbox=found)
    if as_json:
        streams.write(streams.STDOUT, json.dumps({"sandboxes" if sandboxes else "executions": rows}) + "\n")
    elif sandboxes:
        show(_sandboxes(rows))
    else:
        show(_executions(rows))
    return 0


def _executions(rows: list[dict[str, Any]]) -> Any:
    return table(
        ("started", "sandbox", "execution", "language", "verdict", "exit", "wall", "cpu", "memory"),
        (
            (
                moment(row["started_at"] or row["created_at"]), row["sandbox_id"], row["id"], row["language"],
                _verdict(row), _exit(row), seconds(row["wall_seconds"]), seconds(row["cpu_seconds"]),
                size(row["peak_memory_bytes"]),
            )
            for row in rows
        ),
        right=("exit", "wall", "cpu", "memory"),
        spare=("language", "cpu", "execution", "memory"),
    )  # fmt: skip


def _verdict(row: dict[str, Any]) -> str:
    """The verdict; where there is none, the state, and why it was not carried out."""
    if row["verdict"] is not None:
        return str(row["verdict"])
    return f"{row['status']}: {row['error']}" if row["error"] else str(row["status"])


def _exit(row: dict[str, Any]) -> str:
    return word(row["exit_code"]) if row["signal"] is None else signal_name(row["signal"])


def _sandboxes(rows: list[dict[str, Any]]) -> Any:
    return table(
        ("created", "sandbox", "state", "runtime", "user", "pid", "executions", "ended"),
        (
            (
                moment(row["created_at"]), row["id"], row["state"], row["runtime"], row["user_id"], word(row["pid"]),
                word(row["executions"]), moment(row["ended_at"]),
            )
            for row in rows
        ),
        right=("pid", "executions"),
        spare=("runtime", "pid", "ended", "user"),
    )  # fmt: skip
