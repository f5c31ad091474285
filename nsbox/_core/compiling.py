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
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
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
from nsbox._config import Runtime, SandboxConfig
from nsbox._core.sources import Place, program_source
from nsbox._core.toolchain import missing_toolchain
from nsbox._core.workshop import PREPARE_SECONDS, Workshop, output_directory
from nsbox._runtimes import fill_in
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.order import Outcome
from nsbox._verdict import judge

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

_FORMAT = 1  # what is kept from a version of nsbox with another one is not found
_NAME = "program"
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
        self._workshop = Workshop(core, job.runtime)
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
            config = self._workshop.config(prepared)
            async with self._workshop.cell(config) as cell:
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
            with output_directory(cell, config) as directory:
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
        asked = (config.rootfs, config.mounts, config.working_directory, runtime, self._workshop.search())
        seen = _toolchains.get(asked)
        if seen is not None and seen.until > time.monotonic() and seen.program.is_as_it_was():
            return seen.toolchain
        argv = runtime.version or (runtime.compile or runtime.run)[:1]
        program = find_program(config, argv[0], self._workshop.search())
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
            config = self._workshop.config(None)
            async with self._workshop.cell(config) as cell:
                outcome = await self._workshop.perform(cell, config, argv, _VERSION_SECONDS)
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
        config = self._workshop.config(None, preparing=True)
        async with self._workshop.cell(config) as cell:
            outcome = await self._workshop.perform(cell, config, argv, PREPARE_SECONDS)
            judgement = judge(outcome.observation)
            if judgement.ok:
                return await trio.to_thread.run_sync(self._keep_prepared, key, cell, config)
        output = outcome.stderr.decode("utf-8", "replace")[:_LONGEST_NOTE]
        _unprepared[key] = f"{judgement.verdict.value}: {output}"
        return None

    def _keep_prepared(self, key: str, cell: Cell, config: SandboxConfig) -> Path | None:
        try:
            with output_directory(cell, config) as directory:
                return self._store.keep_prepared(key, directory)
        except (OSError, ResultError) as exc:
            _unprepared[key] = str(exc)
            return None

    # ------------------------------------------------------------ its sandbox

    async def _compile(self, cell: Cell, config: SandboxConfig) -> Outcome:
        runtime, names = self._runtime, self._job.names
        file_name = fill_in(runtime.file_name, names)
        with program_source(cell.source, _NAME, file_name, self._job.text, runtime.compile_files) as place:
            values = {**names, "source": file_name, "directory": config.working_directory}
            assert runtime.compile is not None
            return await self._workshop.perform(
                cell, config, runtime.compile, runtime.compile_seconds, values, directory=place.directory
            )


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
