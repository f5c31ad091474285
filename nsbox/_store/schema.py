"""The tables of a store, and how a file gets there: a new one, one of an older nsbox, one that is no store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from nsbox._errors import ConfigError

APPLICATION_ID: Final = 0x6E736278
"""In the header of the file, so that the database of another program is never written to: "nsbx"."""

_FIRST = """
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,           -- of the application
    owner TEXT NOT NULL,            -- the same, for ever: boot, pid namespace, pid, start time
    user_id TEXT NOT NULL,
    runtime TEXT NOT NULL,
    tags TEXT NOT NULL,             -- a JSON object
    state TEXT NOT NULL,            -- nsbox.SandboxStatus, or 'lost': its application died without terminating it
    created_at REAL NOT NULL,       -- all times: seconds since 1970, UTC
    updated_at REAL NOT NULL,
    ended_at REAL
);
CREATE TABLE executions (
    id TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL,
    code_sha256 TEXT NOT NULL,      -- of the code in UTF-8; the code itself is not kept
    language TEXT NOT NULL,
    options TEXT NOT NULL,          -- a JSON object: what differs from the defaults, values of variables hidden
    status TEXT NOT NULL,           -- nsbox.ExecutionStatus, or 'lost'
    verdict TEXT,                   -- nsbox.Verdict; NULL: it has not ended, or could not be carried out
    exit_code INTEGER,
    signal INTEGER,
    error TEXT,                     -- the name of the program's exception, or of what kept it from being carried out
    truncated INTEGER,
    wall_seconds REAL,
    cpu_seconds REAL,
    user_seconds REAL,
    system_seconds REAL,
    peak_memory_bytes INTEGER,
    process_count_peak INTEGER,
    read_bytes INTEGER,
    written_bytes INTEGER,
    queued_seconds REAL,
    suspended_seconds REAL,
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL
);
CREATE INDEX executions_by_time ON executions (created_at);
CREATE INDEX executions_by_sandbox ON executions (sandbox_id, created_at);
CREATE TABLE metrics (
    sandbox_id TEXT NOT NULL,
    at REAL NOT NULL,
    cpu_percent REAL NOT NULL,      -- of one CPU
    memory_bytes INTEGER NOT NULL,
    disk_bytes INTEGER NOT NULL,
    processes INTEGER NOT NULL
);
CREATE INDEX metrics_by_sandbox ON metrics (sandbox_id, at);
CREATE TABLE states (
    sandbox_id TEXT NOT NULL,
    at REAL NOT NULL,
    old TEXT,                       -- NULL: it was made
    new TEXT NOT NULL
);
CREATE INDEX states_by_sandbox ON states (sandbox_id, at);
"""

_NETWORK = """
ALTER TABLE metrics ADD COLUMN sent_bytes INTEGER;      -- since it was connected; NULL: it has nothing but a loopback
ALTER TABLE metrics ADD COLUMN received_bytes INTEGER;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _NETWORK)
"""What makes version N + 1 of version N. Never changed once released: a new version is a new entry."""


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring a database to the newest version, in one transaction: it is of one version or the other, never between.

    Args:
        connection: In autocommit mode.
        path: For the messages.
        migrations: As `MIGRATIONS`.

    Raises:
        ConfigError: It is another program's, or a newer nsbox's.
        sqlite3.Error: It cannot be written.
    """
    if check_version(connection, path, len(migrations)) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check_version(connection, path, len(migrations))  # another process may have done it meanwhile
        for script in migrations[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_version(connection: sqlite3.Connection, path: str, newest: int = len(MIGRATIONS)) -> int:
    """The version that a database is of; 0: there is nothing in it yet.

    Raises:
        ConfigError: It is another program's, or a newer nsbox's.
        sqlite3.Error: It cannot be read.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise ConfigError(f"store={path!r}: is the database of another program; name a file that is not there yet")
    if version > newest:
        raise ConfigError(
            f"store={path!r}: was written by a newer nsbox (version {version}, this one knows up to {newest}); "
            "upgrade nsbox, or name another file"
        )
    return int(version)


def _statements(script: str) -> list[str]:
    """The statements of a script: `executescript` would commit what we are in the middle of."""
    found, rest = [], ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            found.append(rest.strip())
            rest = ""
    return found
