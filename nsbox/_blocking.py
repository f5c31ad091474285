"""`Sandbox`: the sandbox for blocking code, and `nsbox.execute`, a sandbox for one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nsbox._blocking_handles import BlockingEventStream, BlockingExecutionStream, BlockingFileWatch, BlockingProcess
from nsbox._code_context import BlockingCodeContext
from nsbox._config import ExecutionOptions, NetworkAllocation, SandboxConfig, make_config, make_options, split_fields
from nsbox._core import SandboxCore
from nsbox._core.handlers import ThreadHandlers
from nsbox._core.interactive import spawn
from nsbox._core.streaming import Streaming
from nsbox._documented import documented_by
from nsbox._events import Event
from nsbox._records import ExposedPort, FileInfo, ResourceUsage
from nsbox._results import ExecutionResult
from nsbox._sandbox import AsyncSandbox, SandboxProperties, check_argv, check_code, check_command
from nsbox._supervisor.background import start_soon
from nsbox._supervisor.portal import Portal, get_portal, shutdown

__all__ = ["Sandbox", "execute", "shutdown"]

_HANDLERS_SECONDS = 10.0


@documented_by(AsyncSandbox)
class Sandbox(SandboxProperties):
    """A place to run code that is not trusted. The same as `AsyncSandbox`, for blocking code.

    Use it as `with Sandbox() as sandbox`, or call `start` and `terminate`. Safe to use from several threads. A
    KeyboardInterrupt kills what the call had started, waits for that, and is raised again.

    Args:
        config: What to start from; None: the defaults.
        fields: Fields of `SandboxConfig`, over `config`, and the short forms cpus, memory_mb, disk_mb, processes,
            timeout (seconds) and network (bool).

    Raises:
        ConfigError: Can never work; names field, value and what is allowed.
    """

    def __init__(self, config: SandboxConfig | None = None, /, **fields: Any) -> None:
        self._core = SandboxCore(make_config(config, **fields))
        self._portal = get_portal()
        self._handlers = ThreadHandlers(self._report)

    @classmethod
    def _around(cls, core: SandboxCore, portal: Portal) -> Self:
        """See `AsyncSandbox._around`."""
        sandbox = cls.__new__(cls)
        sandbox._core, sandbox._portal = core, portal
        sandbox._handlers = ThreadHandlers(sandbox._report)
        return sandbox

    @classmethod
    def create(cls, config: SandboxConfig | None = None, /, **fields: Any) -> Self:
        """Make a sandbox and start it. See `start`."""
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
        self._portal.call(self._core.start)

    def suspend(self, *, stop_executions: bool = False, reclaim_memory: bool = False) -> None:
        """See `AsyncSandbox.suspend`."""
        self._portal.call(self._core.suspend, stop_executions=stop_executions, reclaim_memory=reclaim_memory)

    def resume(self) -> None:
        """See `AsyncSandbox.resume`."""
        self._portal.call(self._core.resume)

    def restart(self) -> None:
        """See `AsyncSandbox.restart`."""
        self._portal.call(self._core.restart)

    def reset(self) -> None:
        """See `AsyncSandbox.reset`."""
        self._portal.call(self._core.reset)

    def terminate(self) -> None:
        """See `AsyncSandbox.terminate`."""
        if self._portal.usable:
            self._portal.call(self._core.terminate)
            self._handlers.wait(_HANDLERS_SECONDS)

    def cleanup(self) -> None:
        """See `AsyncSandbox.cleanup`."""
        self._portal.call(self._core.recovery.cleanup)

    def reconnect(self) -> None:
        """See `AsyncSandbox.reconnect`."""
        self._portal.call(self._core.recovery.reconnect)

    def recover_from_error(self, error: Exception) -> bool:
        """See `AsyncSandbox.recover_from_error`."""
        return self._portal.call(self._core.recovery.recover, error)

    def _end_soon(self) -> None:
        """As `terminate`, without waiting; for the pool, which waits by itself."""
        self._portal.run_soon(lambda: start_soon(self._core.terminate))

    def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.execute`."""
        return self._portal.call(self._core.executions.execute, check_code(code), make_options(options, **fields))

    def execute_stream(
        self, code: str, options: ExecutionOptions | None = None, /, **fields: Any
    ) -> BlockingExecutionStream:
        """See `AsyncSandbox.execute_stream`."""
        return BlockingExecutionStream(
            self._portal, Streaming(self._core, check_code(code), make_options(options, **fields))
        )

    def run(self, argv: Sequence[str], options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.run`."""
        return self._portal.call(self._core.executions.run, check_argv(argv), make_options(options, **fields))

    def shell(self, command: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """See `AsyncSandbox.shell`."""
        return self.run(("/bin/sh", "-c", check_command(command)), options, **fields)

    def spawn(
        self,
        argv: Sequence[str],
        options: ExecutionOptions | None = None,
        /,
        *,
        pty: tuple[int, int] | None = None,
        **fields: Any,
    ) -> BlockingProcess:
        """See `AsyncSandbox.spawn`."""
        return BlockingProcess(
            self._portal, self._portal.call(spawn, self._core, check_argv(argv), make_options(options, **fields), pty)
        )

    def create_context(self, language: str = "python") -> BlockingCodeContext:
        """See `AsyncSandbox.create_context`."""
        return BlockingCodeContext(self._portal, self._portal.call(self._core.contexts.create, language))

    def terminate_execution(self, execution_id: str) -> None:
        """See `AsyncSandbox.terminate_execution`."""
        self._portal.call(self._core.executions.terminate, execution_id)

    def get_resource_usage(self) -> ResourceUsage:
        """See `AsyncSandbox.get_resource_usage`."""
        return self._portal.call(self._core.meter.usage)

    def update_network(self, allocation: NetworkAllocation) -> None:
        """See `AsyncSandbox.update_network`."""
        self._portal.call(self._core.network.update, allocation)

    def on(self, event: str | type[Event], handler: Callable[..., object]) -> Callable[[], None]:
        """See `AsyncSandbox.on`.

        Handlers run in a thread of their own, and may call the sandbox. `terminate` waits up to ten seconds for them.
        """
        return self._core.emitter.subscribe(event, lambda one: self._handlers.deliver(handler, one))

    def events(self) -> BlockingEventStream:
        """See `AsyncSandbox.events`."""
        return BlockingEventStream(self._portal, self._core.emitter.read())

    def upload_file(
        self, local_path: str | Path, remote_path: str, *, overwrite: bool = False, max_size_mb: int = 100
    ) -> FileInfo:
        """See `AsyncSandbox.upload_file`."""
        return self._portal.call(
            self._core.files.upload, local_path, remote_path, overwrite=overwrite, max_size_mb=max_size_mb
        )

    def download_file(self, remote_path: str, *, max_size_mb: int = 100) -> bytes:
        """See `AsyncSandbox.download_file`."""
        return self._portal.call(self._core.files.download, remote_path, max_size_mb=max_size_mb)

    def write_file(self, remote_path: str, content: str | bytes, *, overwrite: bool = True) -> FileInfo:
        """See `AsyncSandbox.write_file`."""
        return self._portal.call(self._core.files.write, remote_path, content, overwrite=overwrite)

    def list_files(self, directory: str = "/") -> list[FileInfo]:
        """See `AsyncSandbox.list_files`."""
        return self._portal.call(self._core.files.list, directory)

    def delete_file(self, remote_path: str) -> None:
        """See `AsyncSandbox.delete_file`."""
        self._portal.call(self._core.files.delete, remote_path)

    def watch_files(self, directory: str, *, recursive: bool = False) -> BlockingFileWatch:
        """See `AsyncSandbox.watch_files`."""
        return BlockingFileWatch(self._portal, self._core.files.watch(directory, recursive=recursive))

    def set_environment_variable(self, key: str, value: str) -> None:
        """See `AsyncSandbox.set_environment_variable`."""
        self._portal.call(self._core.environment.set, key, value)

    def set_environment_variables(self, variables: Mapping[str, str]) -> None:
        """See `AsyncSandbox.set_environment_variables`."""
        self._portal.call(self._core.environment.set_all, variables)

    def get_environment_variable(self, key: str) -> str | None:
        """See `AsyncSandbox.get_environment_variable`."""
        return self._portal.call(self._core.environment.get, key)

    def delete_environment_variable(self, key: str) -> None:
        """See `AsyncSandbox.delete_environment_variable`."""
        self._portal.call(self._core.environment.delete, key)

    def expose_port(
        self, port: int, *, protocol: str = "http", public: bool = False, custom_domain: str | None = None
    ) -> ExposedPort:
        """See `AsyncSandbox.expose_port`."""
        return self._portal.call(
            self._core.ports.expose, port, protocol=protocol, public=public, custom_domain=custom_domain
        )

    def close_port(self, port: int) -> None:
        """See `AsyncSandbox.close_port`."""
        self._portal.call(self._core.ports.close, port)

    def list_exposed_ports(self) -> list[ExposedPort]:
        """See `AsyncSandbox.list_exposed_ports`."""
        return self._portal.call(self._core.ports.list)

    def _report(self, kind: type[Event], **fields: Any) -> None:
        self._portal.run_soon(lambda: self._core.emitter.emit(kind, **fields))


def execute(code: str, /, **fields: Any) -> ExecutionResult:
    """Run one program in a fresh sandbox, which is gone afterwards.

    Args:
        code: Its text.
        fields: Fields of `Sandbox` and of `ExecutionOptions`: `execute(code, memory_mb=256, timeout=5)`.

    Returns:
        What it did; see `Sandbox.execute`, also for what is raised.
    """
    sandbox_fields, option_fields = split_fields(fields)
    with Sandbox(**sandbox_fields) as sandbox:
        return sandbox.execute(code, **option_fields)
