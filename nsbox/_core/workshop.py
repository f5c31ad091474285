"""Sandboxes of compilers, and what is run in them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from nsbox._compile import ResultError
from nsbox._config import (
    DiskAllocation,
    EnforcementPolicy,
    ExecutionOptions,
    FrozenMap,
    MemoryAllocation,
    Mount,
    ProcessAllocation,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
    effective_limits,
)
from nsbox._core.orders import make_order
from nsbox._core.toolchain import missing_toolchain, values_for
from nsbox._errors import ProgramNotFoundError
from nsbox._plan import search_path
from nsbox._runtimes import fill_in
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.execution import run_execution
from nsbox._supervisor.order import Outcome

if TYPE_CHECKING:
    from nsbox._core.core import SandboxCore

PREPARE_SECONDS = 300.0
_MIB = 1 << 20
_PREPARED = "/run/nsbox-prepared"
_NOT_PREPARED = "/tmp/nsbox-prepared"  # noqa: S108  # not there, and may be made: an empty cache is one, too
_QUOTA_MB, _PREPARE_QUOTA_MB = 256, 1024
_PREPARE_MEMORY_MB = 2560
_OUTPUT_MB = 1.0
_OPEN_FILES = 256


class _Silent:
    """The output of a compiler goes nowhere while it is written."""

    wanted = False

    def put(self, stream: str, data: memoryview) -> None:
        pass

    async def wait_room(self) -> None:
        pass


class Workshop:
    """Where one runtime's commands are run for one caller's sandbox.

    Args:
        core: The caller's sandbox.
        runtime: The language.
    """

    def __init__(self, core: SandboxCore, runtime: Runtime) -> None:
        self._core = core
        self._runtime = runtime
        self._variables = core.environment.variables
        self._supervisor = core.living()[0]

    def search(self) -> str:
        """The PATH that its commands get."""
        for variables in (self._variables, self._runtime.environment):
            if "PATH" in variables:
                return variables["PATH"]
        return search_path(self._core.config)

    @contextlib.asynccontextmanager
    async def cell(self, config: SandboxConfig) -> AsyncIterator[Cell]:
        """A new sandbox, gone afterwards."""
        cell = await self._supervisor.create(config)
        try:
            yield cell
        finally:
            with trio.CancelScope(shield=True):
                await self._supervisor.destroy(cell)

    async def perform(
        self,
        cell: Cell,
        config: SandboxConfig,
        argv: Sequence[str],
        seconds: float,
        values: Mapping[str, str] = FrozenMap(),  # immutable
        *,
        directory: str = "",
    ) -> Outcome:
        """Run one of the runtime's commands.

        Args:
            cell: Where.
            config: What `cell` was made from.
            argv: The command, with placeholders.
            seconds: Wall clock limit.
            values: For placeholders, beside and over those that every command has.
            directory: Where it starts; empty: in its output directory.

        Raises:
            UnsupportedHostError: There is no such program.
            SandboxError: As `run_execution`.
        """
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

    def config(self, prepared: Path | None, *, preparing: bool = False) -> SandboxConfig:
        """A compiler's sandbox: the caller's root and policy, the runtime's limits, nothing writable of the host."""
        config, runtime = self._core.config, self._runtime
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
                max_execution_seconds=PREPARE_SECONDS,
                max_output_mb=_OUTPUT_MB,
                enforce_memory_limits=config.enforcement.enforce_memory_limits,
            ),
            rootfs=config.rootfs,
            mounts=mounts,
            working_directory=config.working_directory,
            security=config.security,
        )


@contextlib.contextmanager
def output_directory(cell: Cell, config: SandboxConfig) -> Iterator[int]:
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
