"""From a sandbox's events to its store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from nsbox._config import SandboxConfig
from nsbox._core.emitter import Emitter
from nsbox._errors import ConfigError, SandboxError
from nsbox._events import (
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionStarted,
    MetricsUpdated,
    RuntimeErrorEvent,
    StateChanged,
)
from nsbox._store import (
    Writer,
    execution_ended,
    execution_started,
    find_writer,
    metrics_row,
    sandbox_row,
    state_rows,
)

_FLUSH_SECONDS = 10.0


class Recorder:
    """What a sandbox with `store=` keeps of itself.

    Args:
        config: With a store.
        emitter: The sandbox's.
        sandbox_id: Its id.
        runtime: The name of its runtime.
    """

    def __init__(self, config: SandboxConfig, emitter: Emitter, sandbox_id: str, runtime: str) -> None:
        self._config = config
        self._emitter = emitter
        self._sandbox_id = sandbox_id
        self._runtime = runtime
        self._writer: Writer | None = None
        self._cleanup = contextlib.ExitStack()

    async def open(self) -> None:
        """Write the first row; from now on, events are written as they come. A second call does nothing.

        Raises:
            ConfigError: The file can never be a store.
            SetupError: It cannot be written.
        """
        assert self._config.store is not None
        if self._writer is not None:
            return
        _refuse_shared(self._config)
        writer = find_writer(self._config.store)
        rows = sandbox_row(self._sandbox_id, self._config, self._runtime, datetime.now(UTC))
        with trio.CancelScope(shield=True):  # a row that is there is a sandbox whose end will be told
            await trio.to_thread.run_sync(writer.write_now, rows)
        self._writer = writer
        self._cleanup.callback(writer.listen(partial(self._failed, trio.lowlevel.current_trio_token())))
        name, put = self._sandbox_id, writer.put
        for kind, deliver in (
            (StateChanged, lambda event: put(*state_rows(name, event.at, event.old_state, event.new_state))),
            (ExecutionStarted, lambda event: put(execution_started(event.execution))),
            (ExecutionCompleted, lambda event: put(execution_ended(event.execution, None))),
            (ExecutionFailed, lambda event: put(execution_ended(event.execution, event.error))),
            (MetricsUpdated, lambda event: put(metrics_row(name, event.at, event.metrics))),
        ):
            self._cleanup.callback(self._emitter.subscribe(kind, deliver))

    async def end(self) -> None:
        """Wait until all of it is written, or cannot be; nothing more will come. Not cancelled."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        written = trio.Event()
        token = trio.lowlevel.current_trio_token()
        with trio.move_on_after(_FLUSH_SECONDS, shield=True):
            writer.when_written(partial(_run_soon, token, written.set))
            await written.wait()
        self._cleanup.close()

    def _failed(self, token: trio.lowlevel.TrioToken, error: SandboxError) -> None:
        _run_soon(token, partial(self._emitter.emit, RuntimeErrorEvent, error=error))


def _refuse_shared(config: SandboxConfig) -> None:
    """Check that no program in the sandbox can write to its own record, or put another file in its place.

    Raises:
        ConfigError: It can.
    """
    assert config.store is not None
    store = Path(os.path.realpath(config.store))
    for mount in config.mounts:
        if not mount.read_only and store.is_relative_to(os.path.realpath(mount.source)):
            raise ConfigError(
                f"store={str(config.store)!r}: must not lie below {str(mount.source)!r}, which the sandbox can write to"
            )


def _run_soon(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(function)
