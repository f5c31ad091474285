"""`AsyncSandbox`: a sandbox for trio and for asyncio.

In a trio run the sandbox lives in that run, and ends with it at the latest. In asyncio it lives in the supervisor's own
thread, as those of `Sandbox` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nsbox._code_context import CodeContext
from nsbox._config import (
    ExecutionOptions,
    NetworkAllocation,
    ResourceAllocation,
    SandboxConfig,
    make_config,
    make_options,
)
from nsbox._config.validation import texts
from nsbox._core import SandboxCore
from nsbox._core.handlers import AsyncioHandlers, Handlers, TrioHandlers
from nsbox._core.interactive import spawn
from nsbox._core.streaming import Streaming
from nsbox._errors import ConfigError
from nsbox._events import Event
from nsbox._handles import EventStream, ExecutionStream, FileWatch, Process
from nsbox._records import ExposedPort, FileInfo, ResourceUsage
from nsbox._results import Execution, ExecutionResult, SandboxMetadata
from nsbox._route import Route
from nsbox._states import ACTIVE, SandboxStatus


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
        return self._core.given

    @property
    def resources(self) -> ResourceAllocation:
        """What the kernel enforces: that of `config`, with the network as it was last updated."""
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
        return self._core.running

    @property
    def last_error(self) -> BaseException | None:
        """What last went wrong with the sandbox itself, not with a program. None: nothing has, or it was mended."""
        return self._core.last_error

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


def check_command(command: str) -> str:
    """A line of /bin/sh as `shell` takes it.

    Raises:
        ConfigError: It is no str.
    """
    if not isinstance(command, str):
        raise ConfigError(f"command: must be a str, not {type(command).__name__}; a list of words is for run()")
    return command


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
        self._route = Route()
        self._handlers: Handlers | None = None

    @classmethod
    def _around(cls, core: SandboxCore, route: Route) -> Self:
        """One that is there already, of a pool's.

        Args:
            core: It.
            route: To the run that it lives in.
        """
        sandbox = cls.__new__(cls)
        sandbox._core, sandbox._route, sandbox._handlers = core, route, None  # as __init__ does
        return sandbox

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
        await self._route.call(self._core.start)

    async def suspend(self, *, stop_executions: bool = False, reclaim_memory: bool = False) -> None:
        """Stop every process by the cgroup freezer (cgroup-v2.rst, cgroup.freeze); returns when the kernel says so.

        A suspended sandbox uses no CPU, and the clocks of its executions stand still.

        Args:
            stop_executions: True: cancel the running executions first. False: they go on after `resume`.
            reclaim_memory: True: once it stands still, have the kernel take back what memory it can (memory.reclaim,
                cgroup-v2.rst): the cache of files, and where there is swap what programs have allocated. How many bytes
                that were is logged (logger "nsbox", INFO).

        Raises:
            InvalidStateError: It is not active.
            UnsupportedHostError: There is no freezer here, or no memory.reclaim that was asked for; nothing is changed.
            SetupError: The kernel refused.
        """
        await self._route.call(self._core.suspend, stop_executions=stop_executions, reclaim_memory=reclaim_memory)

    async def resume(self) -> None:
        """Let every process go on; the state is the one of before `suspend`.

        Raises:
            InvalidStateError: It is not suspended.
            SetupError: The kernel refused.
        """
        await self._route.call(self._core.resume)

    async def restart(self) -> None:
        """End every process and make new ones; id and files are kept. Running executions are CANCELLED.

        Raises:
            InvalidStateError: It is neither active nor suspended.
            SetupError: The kernel refused; executions have ended, else it is as it was.
        """
        await self._route.call(self._core.restart)

    async def reset(self) -> None:
        """Make it as new: no process, no file of before; the id is kept. Running executions are CANCELLED.

        Raises:
            InvalidStateError: It is not started, or has ended.
            SetupError: The kernel refused; it is in ERROR.
        """
        await self._route.call(self._core.reset)

    async def terminate(self) -> None:
        """End it: every process is dead and everything removed on return. From any state; a second time, nothing.

        Running executions are CANCELLED. Not cancelled itself: it takes some milliseconds. The kernel empties network
        and mount namespaces, and lets go of the loop device of a disk image, a moment later.
        """
        await self._route.call(self._core.terminate)

    async def cleanup(self) -> None:
        """Kill what would have outlived its execution, and empty /tmp and /dev/shm. The working directory is kept.

        Running executions go on, and lose what they have there. Nothing outlives its execution, but that is checked.
        Where the working directory or a mount is below /tmp or /dev/shm, what it is in there stays.

        Raises:
            InvalidStateError: It is neither active nor suspended.
            FileOperationError: Running programs make files faster than they are removed, or the kernel refused.
        """
        await self._route.call(self._core.recovery.cleanup)

    async def reconnect(self) -> None:
        """Make sure that PID 1 answers on the control channel; open a new one if it does not on this.

        A sandbox in ERROR gets new processes: with its files where only its PID 1 had died, as new where the launcher
        had. While it is suspended, PID 1 takes the new channel when it goes on. Where a recovery is under way, that is
        waited for first.

        Raises:
            InvalidStateError: It is not started, or has ended.
            NetworkError: PID 1 does not answer, or has died.
            SetupError: The kernel refused; it is as it was.
        """
        await self._route.call(self._core.recovery.reconnect)

    async def recover_from_error(self, error: Exception) -> bool:
        """Do what can be done about an error, up to `recovery.max_retries` times, with growing delays.

        ==========================  ======================  ========  =========================================
        error                       strategy                attempts  what is done
        ==========================  ======================  ========  =========================================
        `NetworkError`              reconnect               3         `reconnect`
        `ResourceExceededError`     cleanup_and_restart     2         `cleanup`, then `restart`
        other `ExecutionError`      restart_execution       1         that execution again; it has to end as OK
        `SecurityViolationError`    none                    0         the sandbox is TERMINATED already
        all else                    none                    0         nothing
        ==========================  ======================  ========  =========================================

        Args:
            error: What was raised, by a call or by `raise_for_verdict`.

        Returns:
            Whether an attempt succeeded. Each is told as an event, and so is the result of an execution that was run
            again. False at once where `recovery.auto_recover` is off.

        Cancellation ends it at the next delay, or after the step that is being taken.
        """
        return await self._route.call(self._core.recovery.recover, error)

    async def execute(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """Run a program: compiled first, where its language is; see `ExecutionOptions.language` and docs/languages.md.

        Args:
            code: Its text.
            options: How; None: the defaults.
            fields: Fields of `ExecutionOptions`, over `options`.

        Returns:
            What it did, whatever that was: `verdict`, output, metrics. See `ExecutionResult.raise_for_verdict`.

        Raises:
            ConfigError: An option that cannot be, or loosens a limit of the sandbox.
            UnsupportedHostError: The language's toolchain is not in the sandbox's root.
            ProgramStartError: The working directory is not there, or no such user.
            ResourceLimitError: `max_concurrent_executions` are running.
            InvalidStateError: The sandbox is not active.
            SetupError: The kernel refused a step before the program ran; the sandbox stays usable.
            NetworkError: The launcher or the sandbox's PID 1 died.

        A SECURITY_VIOLATION terminates the sandbox before this returns; the result is returned all the same.

        Cancellation kills the execution and everything it started, and waits for that.
        """
        return await self._route.call(self._core.executions.execute, check_code(code), make_options(options, **fields))

    def execute_stream(self, code: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionStream:
        """Run a program and iterate over what it writes, as it is written. As `execute` else, and the same path.

        Returns:
            An async iterator of events, which starts the program; its `result` is there at the end.
        """
        return ExecutionStream(self._route, Streaming(self._core, check_code(code), make_options(options, **fields)))

    async def run(
        self, argv: Sequence[str], options: ExecutionOptions | None = None, /, **fields: Any
    ) -> ExecutionResult:
        """Run a command. As `execute`, but for what is run.

        Args:
            argv: The program, found by PATH where it has no slash, and its arguments.
            options: How; None: the defaults. `language` means nothing here.
            fields: Fields of `ExecutionOptions`, over `options`.
        """
        return await self._route.call(self._core.executions.run, check_argv(argv), make_options(options, **fields))

    async def shell(self, command: str, options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionResult:
        """Run a line of /bin/sh. As `run` of `/bin/sh -c command`."""
        return await self.run(("/bin/sh", "-c", check_command(command)), options, **fields)

    async def spawn(
        self,
        argv: Sequence[str],
        options: ExecutionOptions | None = None,
        /,
        *,
        pty: tuple[int, int] | None = None,
        **fields: Any,
    ) -> Process:
        """Start a program and talk to it while it runs. It is an execution: it takes a slot, and all limits hold but
        that of output, which is yours to read.

        Args:
            argv: As for `run`.
            options: How; `stdin` is not for here.
            pty: Rows and columns of a pseudo-terminal, which becomes its controlling one; None: three pipes.
            fields: Fields of `ExecutionOptions`, over `options`.

        Returns:
            The program, running. End it by `async with`, `aclose`, or its own will.

        Raises:
            SandboxError: As `run`.

        Cancellation ends the program and waits for that.
        """
        process = await self._route.call(spawn, self._core, check_argv(argv), make_options(options, **fields), pty)
        return Process(self._route, process)

    async def create_context(self, language: str = "python") -> CodeContext:
        """Start a program that runs cells of code one after the other, each in the state that the last one left.

        It has a cgroup, a filter and limits as every execution, but takes a slot only while a cell runs.

        Args:
            language: "python" (by IPython, where the sandbox has it), "javascript" (Node) or "bash".

        Raises:
            ConfigError: There are no contexts of that language.
            UnsupportedHostError: Its interpreter is not there; the remedy names the package.
            InvalidStateError: The sandbox is not active.
            ResourceLimitError: 32 contexts are alive in it.
            ExecutionError: Its interpreter has died before it was ready: of the memory limit, for example.
            SandboxError: As `run`.

        Cancellation ends the program, and waits for that.
        """
        return CodeContext(self._route, await self._route.call(self._core.contexts.create, language))

    async def terminate_execution(self, execution_id: str) -> None:
        """Kill an execution and everything it started; its result says CANCELLED.

        Raises:
            InvalidStateError: No such execution is running.
        """
        await self._route.call(self._core.executions.terminate, execution_id)

    async def get_resource_usage(self) -> ResourceUsage:
        """What the sandbox uses now, against its limits; read now, also while it is suspended.

        CPU and network are rates since the last call, or since the start; a call within 50 ms of the last one takes the
        time since the one before. See docs/metrics.md for what each number counts.

        Raises:
            InvalidStateError: It is not started, or has ended.
            NetworkError: Its PID 1 or the launcher has died.
            SetupError: This process may have no more files open.
        """
        return await self._route.call(self._core.meter.usage)

    async def update_network(self, allocation: NetworkAllocation) -> None:
        """Have another allocation hold from now on: of access, bandwidth, connections, ports, domains and networks.

        All of it changes at once, or none of it. Connections that exist go on as long as what holds now allows where
        they lead to; a lower `connections_limit` refuses new ones only. It holds over `restart` and `reset`, and is in
        `resources`; `config` stays what the sandbox was made from.

        Args:
            allocation: The whole of it; `dataclasses.replace(sandbox.resources.network, ...)` makes a variant.

        Raises:
            ConfigError: It is no NetworkAllocation.
            InvalidStateError: The sandbox is neither active nor suspended.
            UnsupportedHostError: The host lacks what access needs; the remedy is in it. What held before holds.
            SetupError: The kernel refused; what held before holds.

        Not cancelled: it takes some milliseconds.
        """
        await self._route.call(self._core.network.update, allocation)

    def on(self, event: str | type[Event], handler: Callable[..., object]) -> Callable[[], None]:
        """Have a handler called with every event of a kind, from now on, in the order in which things happen.

        Handlers run one after the other, apart from what the sandbox does, and may call it. What one raises is logged
        (logger "nsbox") and reported as `RuntimeErrorEvent`.

        Args:
            event: A class of events (`Event` for all), its name in snake_case ("execution_started") or in camelCase.
            handler: Plain, or async: then it is awaited before the next one is called.

        Returns:
            What unsubscribes it.

        Raises:
            ConfigError: There is no such event.
        """
        return self._core.emitter.subscribe(event, lambda one: self._find_handlers().deliver(handler, one))

    def events(self) -> EventStream:
        """All events from now on, up to `Terminated`.

        Up to 1,024 wait for a slow reader, who then loses the oldest and is told how many by an `EventsLost`.
        """
        return EventStream(self._route, self._core.emitter.read())

    async def upload_file(
        self, local_path: str | Path, remote_path: str, *, overwrite: bool = False, max_size_mb: int = 100
    ) -> FileInfo:
        """Copy a file of this machine's into the sandbox: all of it, or nothing. It belongs to the sandbox's user.

        Args:
            local_path: A regular file. Where its owner may execute it, the sandbox's may as well.
            remote_path: Its name in the sandbox; a relative one is below `working_directory`. Missing directories are
                made. A link as the last part is refused.
            overwrite: Whether a regular file of that name is replaced.
            max_size_mb: The most that is read, in MiB.

        Returns:
            The file.

        Raises:
            FileOperationError: It cannot be read or written, exists (then also FileExistsError), is larger than
                `max_size_mb` (EFBIG), or does not fit the quota (ENOSPC). Nothing was changed.
            ConfigError: A path with NUL bytes.
            InvalidStateError: The sandbox is neither active nor suspended, or ended meanwhile.

        Cancellation: nothing was changed, or the file is there.
        """
        return await self._route.call(
            self._core.files.upload, local_path, remote_path, overwrite=overwrite, max_size_mb=max_size_mb
        )

    async def download_file(self, remote_path: str, *, max_size_mb: int = 100) -> bytes:
        """The content of a regular file. A link is followed, within the sandbox's root.

        Args:
            remote_path: As for `upload_file`.
            max_size_mb: The most that is read, in MiB, whatever size the file says it has.

        Raises:
            FileOperationError: It is not there, no regular file (ENXIO, or IsADirectoryError), or larger (EFBIG).
            ConfigError: As `upload_file`.
            InvalidStateError: As `upload_file`.
        """
        return await self._route.call(self._core.files.download, remote_path, max_size_mb=max_size_mb)

    async def write_file(self, remote_path: str, content: str | bytes, *, overwrite: bool = True) -> FileInfo:
        """Make a file with this content, all at once. As `upload_file`, with the quota as its only limit.

        Args:
            remote_path: As for `upload_file`.
            content: Text becomes UTF-8.
            overwrite: As for `upload_file`.
        """
        return await self._route.call(self._core.files.write, remote_path, content, overwrite=overwrite)

    async def list_files(self, directory: str = "/") -> list[FileInfo]:
        """What is in a directory, sorted by name; a link is told as a link.

        Bytes of a name that are no UTF-8 are escaped (PEP 383); as a path the same str finds the file again.

        Raises:
            FileOperationError: It is not there, or no directory (then also NotADirectoryError).
            ConfigError: As `upload_file`.
            InvalidStateError: As `upload_file`.
        """
        return await self._route.call(self._core.files.list, directory)

    async def delete_file(self, remote_path: str) -> None:
        """Remove a file, a link itself, or a directory with everything in it; never what something is mounted on.

        Raises:
            FileOperationError: It is not there, or cannot be removed; of a directory a part may be gone, and the error
                says so.
            ConfigError: As `upload_file`.
            InvalidStateError: As `upload_file`.

        Cancellation: of a directory a part may be gone.
        """
        await self._route.call(self._core.files.delete, remote_path)

    def watch_files(self, directory: str, *, recursive: bool = False) -> FileWatch:
        """What changes in a directory: created, modified (its content), deleted, moved within it.

        Args:
            directory: As `remote_path` of `upload_file`.
            recursive: Whether what is in directories below is told as well, those that are made later included.

        Returns:
            The watch, which is not closed before it ends unless by `async with` or `aclose`.
        """
        return FileWatch(self._route, self._core.files.watch(directory, recursive=recursive))

    async def set_environment_variable(self, key: str, value: str) -> None:
        """Set a variable for the next executions.

        Raises:
            ConfigError: No such variable can be.
            InvalidStateError: The sandbox has ended.
        """
        await self._route.call(self._core.environment.set, key, value)

    async def set_environment_variables(self, variables: Mapping[str, str]) -> None:
        """Set several at once, or none of them. As `set_environment_variable`."""
        await self._route.call(self._core.environment.set_all, variables)

    async def get_environment_variable(self, key: str) -> str | None:
        """Its value for the next executions; None: it is not set here. HOME, PATH and their like have defaults."""
        return await self._route.call(self._core.environment.get, key)

    async def delete_environment_variable(self, key: str) -> None:
        """Remove a variable; one that is not there is no error. As `set_environment_variable`."""
        await self._route.call(self._core.environment.delete, key)

    async def expose_port(
        self, port: int, *, protocol: str = "http", public: bool = False, custom_domain: str | None = None
    ) -> ExposedPort:
        """Make a port of the sandbox reachable from the host; the server in there may start later, and restart.

        Servers that listen on 127.0.0.1, or else on ::1, are reached; clients come from 127.0.0.1. While none listens
        an HTTP client gets a 502, and others are reset. While the sandbox is suspended new connections wait, for up to
        30 s. The port stays exposed, by the same URL, over `suspend` and `restart`; `reset` and `terminate` close it.
        Exposing it again in the same way changes nothing. See docs/ports.md.

        Args:
            port: In the sandbox, 1 to 65535.
            protocol: "http", "https" (TLS is the server's own; passed through) or "tcp".
            public: True: on all interfaces of the host, so that other machines can connect; logged as a warning.
            custom_domain: For "http": one gateway for all sandboxes finds this port by the Host header. That the name
                leads to this host is the caller's to see to.

        Returns:
            Where it is.

        Raises:
            ConfigError: No such port, protocol or domain can be; or the domain is taken.
            InvalidStateError: The sandbox is neither active nor suspended, or the port is exposed in another way.
            SetupError: The host has no port for it, or that of `NSBOX_GATEWAY_PORT` is taken.
        """
        return await self._route.call(
            self._core.ports.expose, port, protocol=protocol, public=public, custom_domain=custom_domain
        )

    async def close_port(self, port: int) -> None:
        """Expose a port no more; its connections are closed on return. One that is not exposed is no error.

        Raises:
            ConfigError: There is no such port.
        """
        await self._route.call(self._core.ports.close, port)

    async def list_exposed_ports(self) -> list[ExposedPort]:
        """Those of this sandbox, by number."""
        return await self._route.call(self._core.ports.list)

    def _find_handlers(self) -> Handlers:
        """Called when an event is delivered, when it is known where this sandbox lives."""
        if self._handlers is None:
            asynchronous = self._route.loop is not None
            self._handlers = AsyncioHandlers(self._report, self._route) if asynchronous else TrioHandlers(self._report)
        return self._handlers

    def _report(self, kind: type[Event], **fields: Any) -> None:
        self._route.run_soon(lambda: self._core.emitter.emit(kind, **fields))
