"""Compiling a program before it runs: in a sandbox of its own, or not at all, where its result is kept from before.

Never in the caller's sandbox: a program that ran there may have left files that a compiler would read. The sandbox of a
compiler has the caller's root, mounts (read-only) and policy, the limits of the runtime, and nothing in it but the
source; it is gone when the compiler is. The result is written to the cache by the supervisor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

import trio

from nsbox._compile import (
    UNKNOWN,
    BuiltFile,
    Program,
    ResultError,
    Store,
    find_program,
    open_store,
    read_tree,
)
from nsbox._config import (
    DiskAllocation,
    EnforcementPolicy,
    ExecutionOptions,
    MemoryAllocation,
    Mount,
    ProcessAllocation,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
    effective_limits,
)
from nsbox._core.orders import make_order
from nsbox._core.sources import Place, program_source
from nsbox._core.toolchain import missing_toolchain, values_for
from nsbox._errors import ProgramNotFoundError
from nsbox._plan import search_path
from nsbox._runtimes import fill_in
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import Outcome, run_execution
from nsbox._supervisor.supervisor import Supervisor
from nsbox._verdict import judge

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_MIB = 1 << 20
_FORMAT = 1  # what is kept from a version of nsbox with another one is not found
_NAME = "program"
_PREPARED = "/run/nsbox-prepared"
_NOT_PREPARED = "/tmp/nsbox-prepared"  # noqa: S108  # not there, and may be made: an empty cache is one, too
_QUOTA_MB, _PREPARE_QUOTA_MB = 256, 1024
_PREPARE_MEMORY_MB, _PREPARE_SECONDS = 2560, 300.0
_OUTPUT_MB = 1.0
_OPEN_FILES = 256
_VERSION_SECONDS = 20.0
_FRESH_SECONDS = 1.0
_MOST_TOOLCHAINS = 64
_LONGEST_NOTE = 1000  # characters

_locks: trio.lowlevel.RunVar[WeakValueDictionary[str, trio.Lock]] = trio.lowlevel.RunVar("nsbox compilations")
_toolchains: dict[Hashable, _Toolchain] = {}
"""What was looked for on the host in the last second: where in PATH a program is does not change that often."""
_versions: dict[str, str] = {}
_unprepared: dict[str, str] = {}
"""What could not be prepared in this process, and why; it is not tried for every program again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Toolchain:
    toolchain: str
    program: Program
    until: float


class _Silent:
    """The output of a compiler goes nowhere while it is written."""

    wanted = False

    def put(self, stream: str, data: memoryview) -> None:
        pass

    async def wait_room(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be compiled.

    Attributes:
        runtime: The language; it has a compiler.
        text: The source.
        names: Values that come from the text.
        place: Where the result is to go.
    """

    runtime: Runtime
    text: bytes
    names: Mapping[str, str]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What came of it.

    Attributes:
        failure: None: the program is in its place. Else how the compiler ended; the verdict is COMPILE_ERROR.
        notes: For the evidence: `compile_cache`, "hit", "kept" or why it is not kept; `not_prepared`, if so, why.
    """

    failure: Outcome | None
    notes: Mapping[str, object]


async def compile_program(core: SandboxCore, job: Job) -> Compiled:
    """Put the compiled program into its place.

    Cancellation kills the compiler, and waits for that.

    Args:
        core: The caller's sandbox.
        job: What.

    Raises:
        UnsupportedHostError: There is no such compiler in the root.
        SandboxError: The compiler's sandbox could not be made.
    """
    return await _Compilation(core, job).run()


class _Compilation:
    """One program on its way through the compiler."""

    def __init__(self, core: SandboxCore, job: Job) -> None:
        self._core = core
        self._job = job
        self._runtime = job.runtime
        self._variables = core.environment.variables
        self._supervisor: Supervisor = core.living()[0]
        self._store: Store = open_store()
        self._notes: dict[str, object] = {}

    async def run(self) -> Compiled:
        failure = await self._run()
        return Compiled(failure=failure, notes=self._notes)

    async def _run(self) -> Outcome | None:
        toolchain = await self._toolchain()
        key = self._key(toolchain)
        recent = self._store.recent(key)
        if recent is not None:
            self._take(recent)
            return None
        async with _alone(f"{self._store.directory}/{key}"):  # who waits for the same finds it in the store then
            if await trio.to_thread.run_sync(self._take_kept, key):
                return None
            prepared = await self._prepared(toolchain)
            config = _config(self._core.config, self._runtime, prepared)
            async with self._cell(config) as cell:
                outcome = await self._compile(cell, config)
                if judge(outcome.observation).ok:
                    problem = await trio.to_thread.run_sync(self._take_new, cell, config, key)
                    if not problem:
                        return None
                    outcome = dataclasses.replace(outcome, stderr=outcome.stderr + f"nsbox: {problem}\n".encode())
        observation = dataclasses.replace(outcome.observation, compiler=True)
        return dataclasses.replace(outcome, observation=observation, stdout=b"", stderr=outcome.stdout + outcome.stderr)

    # ------------------------------------------------------------ results

    def _take_kept(self, key: str) -> bool:
        files = self._store.get(key)
        if files is None:
            return False
        self._take(files)
        return True

    def _take(self, files: Sequence[BuiltFile]) -> None:
        self._job.place.add_built(files)
        self._notes["compile_cache"] = "hit"

    def _take_new(self, cell: Cell, config: SandboxConfig, key: str) -> str:
        """Why what the compiler left is not a program; "" if it is one."""
        try:
            with _output_directory(cell, config) as directory:
                files = read_tree(directory)
        except ResultError as exc:
            return f"the compiler's result cannot be used: {exc}"
        program = self._runtime.run[0]
        if program.startswith("{output}/") and not _holds(files, program.removeprefix("{output}/")):
            return "the compiler made no program that can be executed"
        self._job.place.add_built(files)
        not_kept = self._store.put(key, files)
        self._notes["compile_cache"] = f"not kept: {not_kept}" if not_kept else "kept"
        return ""

    def _key(self, toolchain: str) -> str:
        runtime = self._runtime
        parts = [
            _FORMAT, toolchain, hashlib.sha256(self._job.text).hexdigest(), runtime.file_name, runtime.compile,
            sorted(runtime.environment.items()), sorted(self._variables.items()), sorted(runtime.compile_files.items()),
            runtime.prepare, runtime.prepare_when, sorted(self._job.names.items()), runtime.run[0],
        ]  # fmt: skip
        return _hash(parts)

    # ------------------------------------------------------------ the toolchain

    async def _toolchain(self) -> str:
        """What tells this toolchain, in this root, from another."""
        runtime, config = self._runtime, self._core.config
        asked = (config.rootfs, config.mounts, config.working_directory, runtime, self._search())
        seen = _toolchains.get(asked)
        if seen is not None and seen.until > time.monotonic() and seen.program.is_as_it_was():
            return seen.toolchain
        argv = runtime.version or (runtime.compile or runtime.run)[:1]
        program = find_program(config, argv[0], self._search())
        if program is None:
            raise missing_toolchain(runtime, argv[0])
        toolchain = await self._describe(argv, program)
        if isinstance(program, Program):
            while len(_toolchains) >= _MOST_TOOLCHAINS:
                _toolchains.pop(next(iter(_toolchains)))
            until = time.monotonic() + _FRESH_SECONDS
            _toolchains[asked] = _Toolchain(toolchain=toolchain, program=program, until=until)
        return toolchain

    async def _describe(self, argv: Sequence[str], program: Program | Literal["unknown"]) -> str:
        runtime, config = self._runtime, self._core.config
        root = [config.rootfs if config.rootfs == "host" else _identity(str(config.rootfs)), os.uname().machine]
        mounts = [(mount.target, _identity(str(mount.source))) for mount in config.mounts]
        identity = program.identity if isinstance(program, Program) else UNKNOWN
        place = _hash([root, mounts, identity, list(argv), sorted(runtime.environment.items())])
        version = await self._version(place, argv) if runtime.version else ""
        return _hash([place, version])

    async def _version(self, place: str, argv: Sequence[str]) -> str:
        known = _versions.get(place)
        if known is None:
            known = await trio.to_thread.run_sync(self._store.note, place)
        if known is None:
            config = _config(self._core.config, self._runtime, None)
            async with self._cell(config) as cell:
                outcome = await self._perform(cell, config, argv, _VERSION_SECONDS, {})
            known = (outcome.stdout + outcome.stderr).decode("utf-8", "replace")[:_LONGEST_NOTE]
            if judge(outcome.observation).ok:
                await trio.to_thread.run_sync(self._store.keep_note, place, known)
        _versions[place] = known
        return known

    async def _prepared(self, toolchain: str) -> Path | None:
        """The directory with what is prepared for this toolchain, made if need be."""
        runtime = self._runtime
        if runtime.prepare is None or not self._store.bound:
            return None
        if runtime.prepare_when and runtime.prepare_when.encode() not in self._job.text:
            return None
        key = _hash([_FORMAT, toolchain, runtime.prepare, sorted(self._variables.items())])
        async with _alone(f"{self._store.directory}/prepared/{key}"):
            found = await trio.to_thread.run_sync(self._store.prepared, key)
            if found is None and key not in _unprepared:
                found = await self._prepare(key, runtime.prepare)
        if found is None:
            self._notes["not_prepared"] = _unprepared[key]
        return found

    async def _prepare(self, key: str, argv: Sequence[str]) -> Path | None:
        config = _config(self._core.config, self._runtime, None, preparing=True)
        async with self._cell(config) as cell:
            outcome = await self._perform(cell, config, argv, _PREPARE_SECONDS, {})
            judgement = judge(outcome.observation)
            if judgement.ok:
                return await trio.to_thread.run_sync(self._keep_prepared, key, cell, config)
        output = outcome.stderr.decode("utf-8", "replace")[:_LONGEST_NOTE]
        _unprepared[key] = f"{judgement.verdict.value}: {output}"
        return None

    def _keep_prepared(self, key: str, cell: Cell, config: SandboxConfig) -> Path | None:
        try:
            with _output_directory(cell, config) as directory:
                return self._store.keep_prepared(key, directory)
        except (OSError, ResultError) as exc:
            _unprepared[key] = str(exc)
            return None

    # ------------------------------------------------------------ its sandbox

    @contextlib.asynccontextmanager
    async def _cell(self, config: SandboxConfig) -> AsyncIterator[Cell]:
        cell = await self._supervisor.create(config)
        try:
            yield cell
        finally:
            with trio.CancelScope(shield=True):
                await self._supervisor.destroy(cell)

    async def _compile(self, cell: Cell, config: SandboxConfig) -> Outcome:
        runtime, names = self._runtime, self._job.names
        file_name = fill_in(runtime.file_name, names)
        with program_source(cell.source, _NAME, file_name, self._job.text, runtime.compile_files) as place:
            values = {**names, "source": file_name, "directory": config.working_directory}
            assert runtime.compile is not None
            return await self._perform(
                cell, config, runtime.compile, runtime.compile_seconds, values, directory=place.directory
            )

    async def _perform(
        self,
        cell: Cell,
        config: SandboxConfig,
        argv: Sequence[str],
        seconds: float,
        values: Mapping[str, str],
        *,
        directory: str = "",
    ) -> Outcome:
        """Run one of the runtime's commands in its sandbox."""
        supervisor, runtime = self._supervisor, self._runtime
        output = config.working_directory
        prepared = _PREPARED if any(mount.target == _PREPARED for mount in config.mounts) else _NOT_PREPARED
        values = {
            **values_for(config, config.resources.memory.limit_mb * _MIB, supervisor.allowed_cpus),
            "directory": output, "output": output, "prepared": prepared, **values,
        }  # fmt: skip
        limits = dataclasses.replace(
            effective_limits(config, ExecutionOptions(), self._variables),
            wall_seconds=seconds,
            working_directory=directory or output,
        )
        order = make_order(
            supervisor, config, limits, ExecutionOptions(), [fill_in(part, values) for part in argv],
            passwd=self._core.find_passwd(),
            runtime_environment={name: fill_in(text, values) for name, text in runtime.environment.items()},
        )  # fmt: skip
        try:
            return await run_execution(cell, order, _Silent())
        except ProgramNotFoundError as exc:
            raise missing_toolchain(runtime, exc.path) from exc

    def _search(self) -> str:
        """The PATH that its commands get."""
        for variables in (self._variables, self._runtime.environment):
            if "PATH" in variables:
                return variables["PATH"]
        return search_path(self._core.config)


@contextlib.contextmanager
def _output_directory(cell: Cell, config: SandboxConfig) -> Iterator[int]:
    """The directory that the compiler wrote to, open. Nothing in its path is a link that a program made."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(config.working_directory.lstrip("/"), flags, dir_fd=cell.root)
    except OSError as exc:
        raise ResultError(f"its directory cannot be read ({exc.strerror})") from exc
    try:
        yield fd
    except OSError as exc:
        raise ResultError(f"it cannot be read ({exc.strerror})") from exc
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _alone(name: str) -> AsyncIterator[None]:
    """One at a time in this trio run; another process does the same work beside, and the last result is kept."""
    try:
        locks = _locks.get()
    except LookupError:
        locks = WeakValueDictionary()
        _locks.set(locks)
    lock = locks.get(name)
    if lock is None:
        lock = locks[name] = trio.Lock()
    async with lock:
        yield


def _config(
    config: SandboxConfig, runtime: Runtime, prepared: Path | None, *, preparing: bool = False
) -> SandboxConfig:
    """The sandbox of a compiler: the caller's root and policy, the runtime's limits, nothing writable of the host."""
    cpu, processes = config.resources.cpu, config.resources.processes
    quota_mb = _PREPARE_QUOTA_MB if preparing else _QUOTA_MB
    mounts = [dataclasses.replace(mount, read_only=True) for mount in config.mounts]
    if prepared is not None:
        mounts.append(Mount(source=prepared, target=_PREPARED))
    return SandboxConfig(
        resources=ResourceAllocation(
            cpu=dataclasses.replace(cpu, cores=max(1.0, cpu.cores), limit_percent=100.0),
            memory=MemoryAllocation(limit_mb=_PREPARE_MEMORY_MB if preparing else runtime.compile_memory_mb),
            disk=DiskAllocation(quota_mb=quota_mb),
            processes=ProcessAllocation(
                max_processes=runtime.compile_processes,
                max_open_files=max(_OPEN_FILES, processes.max_open_files),
                max_file_size_mb=quota_mb,
                stack_mb=processes.stack_mb,
            ),
        ),
        enforcement=EnforcementPolicy(
            max_execution_seconds=_PREPARE_SECONDS,
            max_output_mb=_OUTPUT_MB,
            enforce_memory_limits=config.enforcement.enforce_memory_limits,
        ),
        rootfs=config.rootfs,
        mounts=mounts,
        working_directory=config.working_directory,
        security=config.security,
    )


def _holds(files: Sequence[BuiltFile], program: str) -> bool:
    return any(file.path == program and file.executable for file in files)


def _identity(path: str) -> list[object]:
    """Of a directory or file that the caller shows: which one it is. What is in it is his to keep as it is."""
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_dev, status.st_ino, status.st_mtime_ns]


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogatepass")).hexdigest()
