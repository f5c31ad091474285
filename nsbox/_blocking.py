"""`Sandbox`: the sandbox for blocking code, and `nsbox.execute`, a sandbox for one program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from nsbox._config import ExecutionOptions, SandboxConfig, make_config, make_options, split_fields
from nsbox._core import SandboxCore
from nsbox._results import ExecutionResult
from nsbox._sandbox import SandboxProperties, check_argv, check_code
from nsbox._supervisor.portal import get_portal, shutdown

__all__ = ["Sandbox", "execute", "shutdown"]

P = ParamSpec("P")
T = TypeVar("T")


class Sandbox(SandboxProperties):
    """A place to run code that is not trusted. The same as `AsyncSandbox`, where everything is told, for blocking code.

    Use it as `with Sandbox() as sandbox`, or call `start` and `terminate`. Safe to use from several threads. A
    KeyboardInterrupt kills what the call had started, waits for that, and is raised again.

    Args:
        config: What to start from; None: the defaults.
        fields: As those of `AsyncSandbox`.

    Raises:
        ConfigError: Can never work; names field, value and what is allowed.
    """

    def __init__(self, config: SandboxConfig | None = None, /, **fields: Any) -> None:
        self._core = SandboxCore(make_config(config, **fields))
        self._portal = get_portal()

    @classmethod
    def create(cls, config: SandboxConfig | None = None, /, **fields: Any) -> Self:
        """Make a sandbox and start it. See `AsyncSandbox.start`."""
        sandbox = cls(config, **fields)
        sandbox.start()
        return sandbox

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.terminate()

    def start(self) -> None:
        """See `AsyncSandbox.start`."""
        self._call(self._core.start)

    def suspend(self, *, stop_executions: bool = False) -> None:
        """See `AsyncSandbox.suspend`."""
        self._call(self._core.suspend, stop_executions=stop_executions)

    def resume(self) -> None:
        """See `AsyncSandbox.resume`."""
        self._call(self._core.resume)

    def restart(self) -> None:
        """See `AsyncSandbox.restart`."""
        self._call(self._core.restart)

    def reset(self) -> None:
        """See `AsyncSandbox.reset`."""
        self._call(self._core.reset)

    def terminate(self) -> None:
        """See `AsyncSandbox.terminate`."""
        if self._portal.usable:
            self._call(self._core.terminate)

    def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.execute`."""
        return self._call(self._core.execute, check_code(code), make_options(options, **fields))

    def run(self, argv: Sequence[str], options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.run`."""
        return self._call(self._core.run, check_argv(argv), make_options(options, **fields))

    def shell(self, command: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.shell`."""
        return self.run(("/bin/sh", "-c", command), options, **fields)

    def terminate_execution(self, execution_id: str) -> None:
        """See `AsyncSandbox.terminate_execution`."""
        self._call(self._core.terminate_execution, execution_id)

    def _call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(function, *args, **kwargs)


def execute(code: str, /, **fields: Any) -> ExecutionResult:
    """Run one program in a fresh sandbox, which is gone afterwards.

    Args:
        code: Its text.
        fields: Fields of `Sandbox` and of `ExecutionOptions`: `execute(code, memory_mb=256, timeout=5)`.

    Returns:
        What it did; see `AsyncSandbox.execute`, also for what is raised.
    """
    sandbox_fields, option_fields = split_fields(fields)
    with Sandbox(**sandbox_fields) as sandbox:
        return sandbox.execute(code, **option_fields)
