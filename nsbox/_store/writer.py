"""Writing to a store: one thread per file and process, so that nobody else waits for a disk.

Rows wait in a queue; the thread takes all that have come within `BATCH_SECONDS`, and writes them in one transaction. A
process that is killed loses at most the last batch, and never half of one. What cannot be written is kept, up to
`MOST_WAITING` rows, and tried again. The thread begins with the first row and ends when nothing has come for a while,
and SQLite's files are closed with it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence

from nsbox._errors import SandboxError
from nsbox._store.database import UNWRITABLE, open_for_writing, write_one_by_one, write_rows
from nsbox._store.errors import translate
from nsbox._store.rows import Row

log = logging.getLogger("nsbox")

BATCH_SECONDS = 0.05
BATCH_ROWS = 1000
MOST_WAITING = 100_000
RETRY_SECONDS = 1.0
LINGER_SECONDS = 10.0

Failed = Callable[[SandboxError], object]


class Writer:
    """Who writes to one file, in this process. Every method is safe from every thread.

    Args:
        path: The file, absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._condition = threading.Condition()  # guards what follows, up to the connection; never held while writing
        self._waiting: deque[Row] = deque()
        self._put = 0  # rows so far
        self._done = 0  # rows of those that are written, or given up
        self._callbacks: list[tuple[int, Callable[[], object]]] = []
        self._listeners: list[Failed] = []
        self._thread: threading.Thread | None = None
        self._hurry = False
        self._closing = False
        self._failing = False
        self._lost = 0
        self.lock = threading.Lock()  # guards the connection: who writes, or forks, has it
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    # ------------------------------------------------------------ for the sandboxes

    def write_now(self, rows: Sequence[Row]) -> None:
        """Write, and return when it is done. Blocks.

        Raises:
            ConfigError: It can never be a store.
            SetupError: It cannot be written now.
        """
        with self.lock:
            try:
                write_rows(self._open(), [row.ready() for row in rows])
            except (sqlite3.Error, OSError, SandboxError) as exc:
                self._close()
                raise translate(self.path, exc) from exc

    def put(self, *rows: Row) -> None:
        """Have them written soon, in this order. Neither waits nor raises."""
        with self._condition:
            self._waiting.extend(rows)
            self._put += len(rows)
            self._drop_oldest()
            self._start()
            self._condition.notify_all()

    def when_written(self, callback: Callable[[], object]) -> None:
        """Call back when all that was put before is written, or an attempt to write it has failed.

        It is called at once or in the writer's thread, and must neither wait nor raise.
        """
        with self._condition:
            if self._done < self._put:
                self._callbacks.append((self._put, callback))
                self._hurry = True
                self._start()
                self._condition.notify_all()
                return
        callback()

    def listen(self, failed: Failed) -> Callable[[], None]:
        """Call `failed`, in the writer's thread, when the file can no longer be written: once, until it can again.

        Returns:
            What ends it.
        """
        with self._condition:
            self._listeners.append(failed)

        def end() -> None:
            with self._condition:
                if failed in self._listeners:
                    self._listeners.remove(failed)

        return end

    def close(self, seconds: float) -> None:
        """Write what waits, and give the file and the thread up; a later row starts anew. Blocks.

        Args:
            seconds: How long at most; what is not written then is lost with the process.
        """
        with self._condition:
            thread, self._closing = self._thread, True
            self._condition.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        while (batch := self._take()) and self._write([row.ready() for row in batch]) is None:
            self._settle(len(batch))  # only where no thread could be started any more, as when the interpreter ends
        with self.lock:
            self._close()
        with self._condition:
            left = len(self._waiting) + len(batch)
        if left:
            log.error("store %s: %d rows could not be written and are lost", self.path, left)

    # ------------------------------------------------------------ the thread

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="nsbox store", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:  # no more threads, or the interpreter ends
            self._thread = None
            log.error("store %s: nobody writes to it: %s", self.path, exc)  # the line says it all

    def _drop_oldest(self) -> None:
        excess = len(self._waiting) - MOST_WAITING
        for _ in range(excess):
            self._waiting.popleft()
        if excess > 0:
            self._lost += excess
            self._done += excess

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._closing, LINGER_SECONDS)
                if not self._waiting:
                    self._thread = None
                    break
                self._condition.wait_for(self._is_urgent, BATCH_SECONDS)
            batch = [row.ready() for row in self._take()]
            failure = self._write(batch)
            if failure is not None and not self._keep(batch, failure):
                break
            if failure is None:
                self._settle(len(batch))
        with self.lock:
            self._close()

    def _take(self) -> list[Row]:
        with self._condition:
            return [self._waiting.popleft() for _ in range(min(BATCH_ROWS, len(self._waiting)))]

    def _is_urgent(self) -> bool:
        return self._hurry or self._closing or len(self._waiting) >= BATCH_ROWS

    def _write(self, batch: list[Row]) -> SandboxError | None:
        with self.lock:
            try:
                connection = self._open()
                try:
                    write_rows(connection, batch)
                except UNWRITABLE:
                    for refused in write_one_by_one(connection, batch):
                        log.error("store %s: a row was left out: %s", self.path, refused)
            except (sqlite3.Error, OSError, SandboxError) as exc:
                self._close()
                return translate(self.path, exc)
        return None

    def _settle(self, count: int) -> None:
        with self._condition:
            self._done += count
            due = [callback for number, callback in self._callbacks if number <= self._done]
            self._callbacks = [entry for entry in self._callbacks if entry[0] > self._done]
            self._hurry = bool(self._callbacks)
            lost, self._lost = self._lost, 0
            was_failing, self._failing = self._failing, False
        if was_failing:
            log.warning("store %s: is written again; %d rows were lost", self.path, lost)
        for callback in due:
            callback()

    def _keep(self, batch: list[Row], failure: SandboxError) -> bool:
        """The rows wait on; who waits for them does not. False: nobody will try again."""
        with self._condition:
            self._waiting.extendleft(reversed(batch))
            self._drop_oldest()
            due, self._callbacks = [callback for _, callback in self._callbacks], []
            self._hurry = False
            first, self._failing = not self._failing, True
            listeners = tuple(self._listeners) if first else ()
            ends = self._closing
            if ends:
                self._thread = None
        if first:
            log.error("store %s: cannot be written, its rows wait: %s", self.path, failure)
        for listener in listeners:
            listener(failure)
        for callback in due:
            callback()
        if not ends:
            with self._condition:
                self._condition.wait_for(lambda: self._hurry or self._closing, RETRY_SECONDS)
        return not ends

    # ------------------------------------------------------------ the connection, under its lock

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one where the file has been removed or replaced: nobody would find the rows."""
        if self._connection is not None and self._file != _identity(self.path):
            self._close()
        if self._connection is None:
            self._connection = open_for_writing(self.path)
            self._file = _identity(self.path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def prepare_fork(self) -> None:
        """Close the file and hold everything still, so that no child has a part of it in its hands.

        SQLite keeps what it has locked in the process' memory, and a child that inherits that believes to hold locks
        that it does not have (sqlite.org/howtocorrupt.html, 2.6).
        """
        self.lock.acquire()
        self._condition.acquire()
        self._close()

    def finish_fork(self, *, in_child: bool) -> None:
        """Go on. The thread, and what waits for it, are the parent's."""
        if in_child:
            self._thread = None
            self._waiting.clear()
            self._done = self._put
            self._callbacks, self._listeners = [], []
        self._condition.release()
        self.lock.release()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
