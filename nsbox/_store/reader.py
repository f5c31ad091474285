"""What the command line asks a store. It only reads, and works beside writers."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from nsbox._errors import ConfigError
from nsbox._store.database import LOST
from nsbox._store.errors import BUSY_SECONDS, check_place, translate
from nsbox._store.owner import is_alive
from nsbox._store.schema import MIGRATIONS, check_version

_UNFINISHED = "CASE WHEN {ended} IS NULL AND is_dead(s.owner) THEN 'lost' ELSE {state} END"


class Reader:
    """A store, opened for reading. Use it as `with`.

    What the application that wrote it did not live to write down is shown as it is: a sandbox, or an execution, that
    has not ended and whose application is dead is "lost".

    Args:
        path: The file.

    Raises:
        ConfigError: It is not there, or no store.
        SetupError: It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        check_place(self.path)
        if not os.path.exists(self.path):
            raise ConfigError(f"store={self.path!r}: is not there")
        with self._translated():
            self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        last: sqlite3.Error | None = None
        for mode in self._modes():
            connection = sqlite3.connect(
                f"file:{quote(os.path.abspath(self.path))}?{mode}", uri=True, timeout=BUSY_SECONDS,
                isolation_level=None,
            )  # fmt: skip
            try:
                version = check_version(connection, self.path)
            except sqlite3.OperationalError as exc:
                connection.close()
                last = exc
                continue
            except BaseException:
                connection.close()
                raise
            if version < len(MIGRATIONS):
                connection.close()
                raise ConfigError(f"store={self.path!r}: is empty, or of an older nsbox; the next run writes to it")
            connection.row_factory = sqlite3.Row
            known: dict[str, bool] = {}

            def is_dead(owner: str | None, known: dict[str, bool] = known) -> bool:
                if owner is None:  # a row whose sandbox is in another file
                    return False
                if owner not in known:
                    known[owner] = is_alive(owner) is False
                return known[owner]

            connection.create_function("is_dead", 1, is_dead)
            connection.execute("PRAGMA query_only = ON")
            return connection
        assert last is not None
        raise last

    def _modes(self) -> list[str]:
        """How to open it, in turn.

        Who only reads leaves the files of the log behind, and as a stranger would own them; so who may write opens it
        for that. Where nobody has made a log, nobody writes: it can be read without one.
        """
        if os.access(self.path, os.W_OK):
            return ["mode=rw", "mode=ro"]
        return ["mode=ro"] if os.path.exists(f"{self.path}-wal") else ["mode=ro&immutable=1"]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def executions(self, *, limit: int, verdict: str | None = None, sandbox: str | None = None) -> list[dict[str, Any]]:
        """The latest executions, oldest first.

        Args:
            limit: How many.
            verdict: Only those with this verdict; "lost" and "running" are those without one.
            sandbox: Only those of this sandbox.
        """
        state = _UNFINISHED.format(ended="e.completed_at", state="e.status")
        wanted = "(?1 IS NULL OR e.verdict = ?1 OR (e.verdict IS NULL AND status_now = ?1))"
        found = self._query(
            f"SELECT e.*, s.user_id, {state} AS status_now "  # noqa: S608  # our own words
            "FROM executions e LEFT JOIN sandboxes s ON s.id = e.sandbox_id "
            f"WHERE {wanted} AND (?2 IS NULL OR e.sandbox_id = ?2) ORDER BY e.created_at DESC, e.rowid DESC LIMIT ?3",
            (verdict, sandbox, limit),
        )
        for row in found:
            row["status"] = row.pop("status_now")
            row["options"] = _object(row["options"])
        return found[::-1]

    def sandboxes(self, *, limit: int, sandbox: str | None = None) -> list[dict[str, Any]]:
        """The latest sandboxes, oldest first."""
        state = _UNFINISHED.format(ended="s.ended_at", state="s.state")
        found = self._query(
            f"SELECT s.*, {state} AS now, (SELECT count(*) FROM executions e WHERE e.sandbox_id = s.id) AS executions "  # noqa: S608
            "FROM sandboxes s WHERE ?1 IS NULL OR s.id = ?1 ORDER BY s.created_at DESC, s.rowid DESC LIMIT ?2",
            (sandbox, limit),
        )
        for row in found:
            row["state"] = row.pop("now")
            row["tags"] = _object(row["tags"])
            if row["state"] == LOST and row["ended_at"] is None:
                row["ended_at"] = row["updated_at"]
            del row["owner"]
        return found[::-1]

    def states(self, sandbox: str) -> list[dict[str, Any]]:
        """What a sandbox went through."""
        return self._query("SELECT at, old, new FROM states WHERE sandbox_id = ? ORDER BY at, rowid", (sandbox,))

    def metrics(self, sandbox: str) -> list[dict[str, Any]]:
        """What was measured of a sandbox, in order."""
        columns = "at, cpu_percent, memory_bytes, disk_bytes, processes, sent_bytes, received_bytes"
        return self._query(
            f"SELECT {columns} FROM metrics WHERE sandbox_id = ? ORDER BY at, rowid",  # noqa: S608  # our own names
            (sandbox,),
        )

    def find_sandbox(self, start: str) -> str:
        """The id of the one sandbox whose id is, or begins with, this.

        Raises:
            ConfigError: There is none, or more than one.
        """
        found = [
            row["id"]
            for row in self._query("SELECT id FROM sandboxes WHERE substr(id, 1, length(?1)) = ?1 LIMIT 20", (start,))
        ]
        if start in found or len(found) == 1:
            return start if start in found else str(found[0])
        if not found:
            raise ConfigError(f"sandbox={start!r}: the store has none of that id; `nsbox history --sandboxes` has them")
        raise ConfigError(f"sandbox={start!r}: may be any of {', '.join(found)}")

    def _query(self, statement: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
        with self._translated():
            return [dict(row) for row in self._connection.execute(statement, values)]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise translate(self.path, exc) from exc


def _object(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
