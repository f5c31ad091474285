"""What `create_context` hands out: for trio and for asyncio, and for blocking code."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from nsbox._config import ExecutionOptions, make_options
from nsbox._core.contexts import Context
from nsbox._documented import documented_by
from nsbox._errors import ConfigError
from nsbox._handles import Caller
from nsbox._results import ExecutionResult
from nsbox._supervisor.portal import Portal


def _check_code(code: str) -> str:
    if not isinstance(code, str):
        raise ConfigError(f"code: must be a str, not {type(code).__name__}")
    return code


class CodeContext:
    """A program that lives on, and runs cells of code in the state that the last one left.

    As `async with`, it is closed on the way out; with its sandbox it ends at the latest.

    In a context it is the program itself that says whether a cell has failed, for there is no exit status: whoever
    grades code uses `AsyncSandbox.execute`. Time, memory, output and system calls are limited as ever, from outside.
    """

    def __init__(self, caller: Caller, context: Context) -> None:
        self._caller = caller
        self._context = context

    @property
    def id(self) -> str:
        """Unique among all contexts."""
        return self._context.id

    @property
    def language(self) -> str:
        """As it was made for."""
        return self._context.language

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.language}>"

    async def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """Run a cell. One at a time: a second call waits for its turn (`queued_seconds`).

        At its limit of time or output a cell is interrupted (SIGINT: KeyboardInterrupt), and the context lives on. If
        it has not ended two seconds later, all of the context is killed; also if it runs out of memory, makes a call
        that the filter kills for, or ends the program. `evidence["context_alive"]` tells.

        Args:
            code: Its text.
            options: How; `environment` and `working_directory` hold for this cell; what is the whole context's
                (`memory_limit_mb`, `user`, `arguments`) cannot be given.
            fields: Fields of `ExecutionOptions`, over `options`.

        Returns:
            What it did. `outputs` has what it displayed, and the value of its last expression; `error` what it raised,
            which is NONZERO_EXIT with exit code 1. Of the metrics, peaks are the context's own, since its start.

        Raises:
            ConfigError: An option that cannot be.
            InvalidStateError: The context has ended, or the sandbox is not active.
            ResourceLimitError: `max_concurrent_executions` are running.
            NetworkError: The launcher or the sandbox's PID 1 died.

        Cancellation interrupts the cell, kills the context if that does not help within two seconds, and waits for it.
        """
        checked, made = _check_code(code), make_options(options, **fields)
        result: ExecutionResult = await self._caller.call(self._context.execute, checked, made)
        return result

    async def interrupt(self) -> None:
        """SIGINT for the processes of the running cell, as Ctrl-C; variables live on. Without a cell, nothing happens.

        A cell that fails of it is CANCELLED; one that goes on is not killed for it.
        """
        await self._caller.call(self._context.interrupt)

    async def fork(self) -> CodeContext:
        """A second context with the same state; it has to be idle, and waits for its turn if it is not.

        Both are processes of one execution: they share its limits, take turns in running cells, and what kills one
        kills the other. Descriptors that are open are shared, as after fork(2).

        Raises:
            ConfigError: Contexts of this language cannot be forked.
            InvalidStateError: Its program has threads, or the context has ended.
            ResourceLimitError: There are as many contexts as may be.
        """
        return type(self)(self._caller, await self._caller.call(self._context.fork))

    async def restart(self) -> None:
        """End its program, if that still runs, and start it anew: without any state. Also after it was killed.

        Raises:
            InvalidStateError: It was closed, or the sandbox is not active.
            SandboxError: As `AsyncSandbox.create_context`; the context has then ended.
        """
        await self._caller.call(self._context.restart)

    async def close(self) -> None:
        """End it and all that it has started; a running cell is CANCELLED. A second time, nothing. Not cancelled."""
        await self._caller.call(self._context.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


@documented_by(CodeContext)
class BlockingCodeContext:
    """See `CodeContext`; safe to use from several threads."""

    def __init__(self, portal: Portal, context: Context) -> None:
        self._portal = portal
        self._context = context

    @property
    def id(self) -> str:
        """See `CodeContext.id`."""
        return self._context.id

    @property
    def language(self) -> str:
        """See `CodeContext.language`."""
        return self._context.language

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.language}>"

    def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `CodeContext.execute`."""
        return self._portal.call(self._context.execute, _check_code(code), make_options(options, **fields))

    def interrupt(self) -> None:
        """See `CodeContext.interrupt`."""
        self._portal.call(self._context.interrupt)

    def fork(self) -> BlockingCodeContext:
        """See `CodeContext.fork`."""
        return type(self)(self._portal, self._portal.call(self._context.fork))

    def restart(self) -> None:
        """See `CodeContext.restart`."""
        self._portal.call(self._context.restart)

    def close(self) -> None:
        """See `CodeContext.close`."""
        if self._portal.usable:
            self._portal.call(self._context.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
