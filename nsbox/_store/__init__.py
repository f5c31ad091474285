"""What is kept of sandboxes beyond their life: an SQLite file with executions, metrics and states.

owner    whether the process that a row belongs to still lives
schema   the tables, and how a file gets from one version to the next
errors   what SQLite refuses, as an error that says what to do
rows     events as rows
database opening a file for writing, and carrying rows out
writer   one thread per file and process, which writes them
process  the writers of this process
reader   what the command line asks for
"""

from nsbox._store.process import close_writers, find_writer
from nsbox._store.reader import Reader
from nsbox._store.rows import (
    FIELDS_OF_EXECUTION,
    Row,
    execution_ended,
    execution_started,
    metrics_row,
    sandbox_row,
    state_rows,
)
from nsbox._store.writer import Writer

__all__ = [
    "FIELDS_OF_EXECUTION",
    "Reader",
    "Row",
    "Writer",
    "close_writers",
    "execution_ended",
    "execution_started",
    "find_writer",
    "metrics_row",
    "sandbox_row",
    "state_rows",
]
