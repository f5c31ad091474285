"""`AsyncSandbox`: a sandbox for trio and for asyncio.

In a trio run the sandbox lives in that run, and ends with it at the latest. In asyncio it lives in the supervisor's own
thread, as those of `Sandbox` do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import trio

from nsbox._config import ExecutionOptions, ResourceAllocation, SandboxConfig, make_config, make_options
from nsbox._config.validation import texts
from nsbox._core import SandboxCore
from nsbox._errors import ConfigError, InvalidStateError
from nsbox._results import Execution, ExecutionResult, SandboxMetadata
from nsbox._states import ACTIVE, SandboxStatus
from nsbox._supervisor.portal import Portal, get_portal

P = ParamSpec("P")
T = TypeVar("T")


class SandboxProperties:
    """What `AsyncSandbox` and `Sandbox` tell about themselves."""

    _core: SandboxCore

    @property
    def id(self) -> str:
        """Unique among all sandboxes."""
        return self._core.id

    @property
    def user_id(self) -> str:
        """As configured."""
        return self._core.config.user_id

    @property
    def runtime(self) -> str:
        """The name of the language that `execute` runs unless told otherwise."""
        return self._core.runtime.name

    @property
    def status(self) -> SandboxStatus:
        """Where it is in its life."""
        return self._core.status

    @property
    def is_active(self) -> bool:
        """Whether it takes executions: RUNNING, IDLE or BUSY."""
        return self.status in ACTIVE

    @property
    def config(self) -> SandboxConfig:
        """What it is made from."""
        return self._core.config

    @property
    def resources(self) -> ResourceAllocation:
        """What of `config` the kernel enforces."""
        return self._core.config.resources

    @property
    def metadata(self) -> SandboxMetadata:
        """A snapshot: times, totals and peaks."""
        return self._core.metadata

    @property
    def isolation(self) -> Mapping[str, str]:
        """What is in force here: namespaces, uid mapping, cgroup mode and controllers, filter, and each lack.

        Raises:
            InvalidStateError: It is not started, or has ended.
        """
        return self._core.isolation

    @property
    def executions(self) -> Mapping[str, Execution]:
        """The running ones, by id; a snapshot."""
        return self._core.executions

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.status.value}, {len(self.executions)} executions>"


def check_argv(argv: Sequence[str]) -> Sequence[str]:
    """A command as `run` takes it.

    Raises:
        ConfigError: It is empty, no sequence of str, or has NUL bytes in it, which no argument can have.
    """
    if isinstance(argv, str) or not argv:
        raise ConfigError("argv: must be a sequence of a program and its arguments; a line is for shell()")
    checked = texts("argv", argv)
    if not checked[0]:
        raise ConfigError("argv[0]: must name a program")
    return checked


def check_code(code: str) -> str:
    """Program text as `execute` takes it.

    Raises:
        ConfigError: It is no str.
    """
    if not isinstance(code, str):
        raise ConfigError(f"code: must be a str, not {type(code).__name__}")
    return code


class AsyncSandbox(SandboxProperties):
    """A place to run code that is not trusted: namespaces, cgroup limits and a system call filter of its own.

    Use it as `async with AsyncSandbox() as sandbox`, which starts and terminates it, or call `start` and `terminate`.
    One object belongs to one event loop. `nsbox.Sandbox` is the same for blocking code.

    Args:
        config: What to start from; None: the defaults.
        fields: Fields of `SandboxConfig`, over `config`, and the short forms cpus, memory_mb, disk_mb, processes,
            timeout (seconds) and network (bool).

    Raises:
        ConfigError: Can never work; names field, value and what is allowed.
    """

    def __init__(self, config: SandboxConfig | None = None, /, **fields: Any) -> None:
        self._core = SandboxCore(make_config(config, **fields))
        self._portal: Portal | None = None
        self._run: object = None

    @classmethod
    async def create(cls, config: SandboxConfig | None = None, /, **fields: Any) -> Self:
        """Make a sandbox and start it. See `start`."""
        sandbox = cls(config, **fields)
        await sandbox.start()
        return sandbox

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.terminate()

    async def start(self) -> None:
        """Make its processes, namespaces and limits. CREATING becomes RUNNING.

        Cancellation: it is TERMINATED, and nothing of it is left.

        Raises:
            ConfigError: The configuration cannot work on this host: a mount without source, for example.
            UnsupportedHostError: The host lacks something that it asks for; the remedy is in it.
            SetupError: The kernel refused a step. It is in ERROR, and nothing of it is left.
            InvalidStateError: It was started before.
        """
        await self._call(self._core.start)

    async def suspend(self, *, stop_executions: bool = False) -> None:
        """Stop every process by the cgroup freezer (cgroup-v2.rst, cgroup.freeze); returns when the kernel says so.

        A suspended sandbox uses no CPU, and the clocks of its executions stand still.

        Args:
            stop_executions: True: cancel the running executions first. False: they go on after `resume`.

        Raises:
            InvalidStateError: It is not active.
            UnsupportedHostError: There is no freezer here.
            SetupError: The kernel refused.
        """
        await self._call(self._core.suspend, stop_executions=stop_executions)

    async def resume(self) -> None:
        """Let every process go on; the state is the one of before `suspend`.

        Raises:
            InvalidStateError: It is not suspended.
            SetupError: The kernel refused.
        """
        await self._call(self._core.resume)

    async def restart(self) -> None:
        """End every process and make new ones; id and files are kept. Running executions are CANCELLED.

        Raises:
            InvalidStateError: It is neither active nor suspended.
            SetupError: The kernel refused; executions have ended, else it is as it was.
        """
        await self._call(self._core.restart)

    async def reset(self) -> None:
        """Make it as new: no process, no file of before; the id is kept. Running executions are CANCELLED.

        Raises:
            InvalidStateError: It is not started, or has ended.
            SetupError: The kernel refused; it is in ERROR.
        """
        await self._call(self._core.reset)

    async def terminate(self) -> None:
        """End it: every process is dead and everything removed on return. From any state; a second time, nothing.

        Running executions are CANCELLED. Not cancelled itself: it takes some milliseconds. The kernel empties a network
        namespace, and lets go of the loop device of a disk image, a moment later.
        """
        await self._call(self._core.terminate)

    async def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """Run a program in the language of `options`, else of the sandbox's runtime.

        Args:
            code: Its text.
            options: How; None: the defaults.
            fields: Fields of `ExecutionOptions`, over `options`.

        Returns:
            What it did, whatever that was: `verdict`, output, metrics. See `ExecutionResult.raise_for_verdict`.

        Raises:
            ConfigError: An option that cannot be, or loosens a limit of the sandbox.
            ProgramStartError: The interpreter or the working directory is not there, or no such user.
            ResourceLimitError: `max_concurrent_executions` are running.
            InvalidStateError: The sandbox is not active.
            SetupError: The kernel refused a step before the program ran; the sandbox stays usable.
            NetworkError: The launcher or the sandbox's PID 1 died.

        Cancellation kills the execution and everything it started, and waits for that.
        """
        return await self._call(self._core.execute, check_code(code), make_options(options, **fields))

    async def run(
        self, argv: Sequence[str], options: ExecutionOptions | None = None, /, **fields: Any
    ) -> ExecutionResult:
        """Run a command. As `execute`, but for what is run.

        Args:
            argv: The program, found by PATH where it has no slash, and its arguments.
            options: How; None: the defaults. `language` means nothing here.
            fields: Fields of `ExecutionOptions`, over `options`.
        """
        return await self._call(self._core.run, check_argv(argv), make_options(options, **fields))

    async def shell(self, command: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """Run a line of /bin/sh. As `run` of `/bin/sh -c command`."""
        return await self.run(("/bin/sh", "-c", command), options, **fields)

    async def terminate_execution(self, execution_id: str) -> None:
        """Kill an execution and everything it started; its result says CANCELLED.

        Raises:
            InvalidStateError: No such execution is running.
        """
        await self._call(self._core.terminate_execution, execution_id)

    async def _call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the caller's trio run, or else in the supervisor's thread; the first call decides for all."""
        if trio.lowlevel.in_trio_run():
            here: object = trio.lowlevel.current_trio_token()
        else:
            here = self._portal = self._portal or get_portal()
        if self._run is None:
            self._run = here
        if self._run is not here:
            raise InvalidStateError("this sandbox belongs to another event loop, the one that first used it")
        if self._portal is None:
            return await function(*args, **kwargs)
        return await self._portal.call_from_asyncio(function, *args, **kwargs)
