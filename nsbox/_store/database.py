"""Opening a store for writing, and carrying rows out."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence

from nsbox._store.errors import BUSY_SECONDS, check_place
from nsbox._store.owner import is_alive
from nsbox._store.rows import Row
from nsbox._store.schema import migrate

LOST = "lost"
"""The state of a sandbox, and the status of an execution, whose application died without ending it."""

_PAUSE_SECONDS = 0.005


def open_for_writing(path: str) -> sqlite3.Connection:
    """Open a store; make it where it is not there. Blocks, for at most some `BUSY_SECONDS`.

    Raises:
        ConfigError: It can never be a store.
        sqlite3.Error: It cannot be written now.
        OSError: The same.
    """
    check_place(path)
    with contextlib.suppress(FileExistsError):  # what is in it is nobody else's business; SQLite's files get its mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        migrate(connection, path)
        _use_wal(connection)
        # NORMAL: a commit is not lost when processes die, and may be when the power fails; the file is sound in both
        # cases (sqlite.org/pragma.html#pragma_synchronous).
        connection.execute("PRAGMA synchronous = NORMAL")
        _mark_lost(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. While others do the same, SQLite may say BUSY without having waited: try again."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _mark_lost(connection: sqlite3.Connection) -> None:
    """Write down what became of the sandboxes of applications that have died."""
    owners = connection.execute("SELECT DISTINCT owner FROM sandboxes WHERE ended_at IS NULL").fetchall()
    dead = [owner for (owner,) in owners if is_alive(owner) is False]
    if not dead:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for owner in dead:
            mark_lost(connection, owner)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def mark_lost(connection: sqlite3.Connection, owner: str) -> None:
    """End all that a dead owner has left open: at the time of what was last heard of it."""
    open_ones = "SELECT id FROM sandboxes WHERE owner = ? AND ended_at IS NULL"
    connection.execute(
        f"UPDATE executions SET status = ? WHERE completed_at IS NULL AND sandbox_id IN ({open_ones})",  # noqa: S608
        (LOST, owner),
    )
    connection.execute(
        "INSERT INTO states SELECT id, updated_at, state, ? FROM sandboxes WHERE owner = ? AND ended_at IS NULL",
        (LOST, owner),
    )
    connection.execute(
        "UPDATE sandboxes SET state = ?, ended_at = updated_at WHERE owner = ? AND ended_at IS NULL", (LOST, owner)
    )


def write_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """All of them, or none.

    Raises:
        sqlite3.Error: None was written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for row in rows:
            connection.execute(row.statement, row.values)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def write_one_by_one(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Exception]:
    """Each by itself: what cannot be written at all is left out.

    Returns:
        Why, for each that was left out.

    Raises:
        sqlite3.OperationalError: The database itself cannot be written.
    """
    refused: list[Exception] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for row in rows:
            try:
                connection.execute(row.statement, row.values)
            except UNWRITABLE as exc:
                refused.append(exc)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return refused


UNWRITABLE = (
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError,
    UnicodeError,
)  # fmt: skip
"""What is the fault of a row and not of the file."""
