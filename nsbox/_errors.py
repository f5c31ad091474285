"""Everything that nsbox raises, and what each error means.

What the *program* in the sandbox does is data (`ExecutionResult`); what nsbox or the host fails at is an exception.
`ExecutionError` and its subclasses are raised by `ExecutionResult.raise_for_verdict` only, never by `execute` itself.

::

    SandboxError
    ├── ConfigError (ValueError)                      can never work, on any host
    ├── UnsupportedHostError                          works, but not on this host as it is set up
    ├── SetupError (OSError)                          the kernel refused a step before the program ran
    ├── InvalidStateError                             not in this state of the sandbox
    │   └── InvalidStateTransitionError               the table of transitions does not have it
    ├── ResourceLimitError                            too many concurrent executions
    ├── ProgramStartError (OSError)                   the program itself could not be started
    │   ├── ProgramNotFoundError (FileNotFoundError)
    │   └── ProgramNotExecutableError (PermissionError)
    ├── NetworkError                                  the control channel broke
    ├── FileOperationError (OSError)                  the file API
    │   ├── SandboxFileNotFoundError (FileNotFoundError)
    │   ├── SandboxFileExistsError (FileExistsError)
    │   ├── SandboxPermissionError (PermissionError)
    │   ├── SandboxIsADirectoryError (IsADirectoryError)
    │   └── SandboxNotADirectoryError (NotADirectoryError)
    └── ExecutionError                                the verdict was not OK, and the caller asked for an exception
        ├── ExecutionTimeoutError                     WALL_TIME_LIMIT, CPU_TIME_LIMIT
        ├── ResourceExceededError                     MEMORY_LIMIT, OUTPUT_LIMIT, PROCESS_LIMIT, DISK_LIMIT
        └── SecurityViolationError                    SECURITY_VIOLATION

All of them survive pickling and copying with every attribute, so that they pass through process pools.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from errno import EACCES, EEXIST, EISDIR, ENOENT, ENOTDIR, EPERM
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from nsbox._results import ExecutionResult


def _restore(cls: type[SandboxError], args: tuple[object, ...], state: dict[str, object]) -> SandboxError:
    """Rebuild an error without calling `__init__`: its message is composed already, its attributes are in `state`."""
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class SandboxError(Exception):
    """The root of all errors of nsbox; catch it to catch everything that is not a bug in the caller's own code."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own calls cls(*args), which fails for every class whose __init__ wants more than a message.
        return _restore, (type(self), self.args, dict(self.__dict__))


class ConfigError(SandboxError, ValueError):
    """A configuration that can never work, on any host.

    Raised when a configuration object is made, or by `execute` when an option asks for more than its sandbox has.
    Nothing was started. The message names the field, its value and what is allowed. Not `UnsupportedHostError`, which
    another host would not raise.
    """


class UnsupportedHostError(SandboxError):
    """This host, as it is set up, lacks what the configuration needs.

    Raised by `start`; nothing of the sandbox is left. `nsbox doctor` shows the whole picture. Not `ConfigError` (no
    host could do it) and not `SetupError` (the host seemed able to, and the kernel refused).

    Args:
        message: What was wanted.
        missing: The names of the missing capabilities, as `nsbox doctor` and `SandboxConfig.require` spell them.
        remedies: What mends it, one command or sentence each.
    """

    missing: tuple[str, ...]
    remedies: tuple[str, ...]

    def __init__(self, message: str, missing: Sequence[str] = (), remedies: Sequence[str] = ()) -> None:
        self.missing, self.remedies = tuple(missing), tuple(remedies)
        if self.missing:
            message += f"; missing: {', '.join(self.missing)}"
        super().__init__("\n  remedy: ".join((message, *self.remedies)))


class SetupError(SandboxError, OSError):
    """The kernel refused a step of the set-up, before any of the program ran.

    Raised by `start`, `execute` and their like. Whatever had been made up to there is removed; a sandbox that was
    already alive stays usable. Not `ProgramStartError`, which is about the user's own program.

    Args:
        stage: The step, as the launcher names it.
        errno: Why, as the kernel said.
        strerror: The text for `errno`; empty means the C library's.
        filename: The path the step was about, where there is one.
    """

    stage: str

    def __init__(self, stage: str, errno: int, strerror: str = "", filename: str | None = None) -> None:
        super().__init__(errno, strerror or os.strerror(errno), filename)
        self.stage = stage

    def __str__(self) -> str:
        where = "" if self.filename is None else f": {self.filename!r}"
        return f"set-up failed at {self.stage}: [Errno {self.errno}] {self.strerror}{where}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.errno, self.strerror, self.filename), dict(self.__dict__)


class InvalidStateError(SandboxError):
    """The sandbox is not in a state in which this can be done; it is as it was before the call."""


class InvalidStateTransitionError(InvalidStateError):
    """A change of state that `ALLOWED_TRANSITIONS` does not have; the state is unchanged.

    Args:
        message: Both states, and what would have been allowed.
        old_state: The state that the sandbox is in.
        new_state: The state that was asked for.
    """

    old_state: str
    new_state: str

    def __init__(self, message: str, old_state: str, new_state: str) -> None:
        super().__init__(message)
        self.old_state, self.new_state = old_state, new_state


class ResourceLimitError(SandboxError):
    """One execution more than `max_concurrent_executions`; it was not started, the others go on.

    Wait for one to end, or raise the limit. Not `ResourceExceededError`, which is about what a program used.
    """


class _PathError(SandboxError, OSError):
    """What an operating system error about one path needs; `ProgramStartError` and `FileOperationError` share it."""

    path: str
    detail: str
    _what: ClassVar[str] = "failed"

    def __init__(self, path: str, errno: int, detail: str = "") -> None:
        super().__init__(errno, os.strerror(errno), path)
        self.path, self.detail = path, detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self._what} {self.path!r}: [Errno {self.errno}] {self.strerror}{detail}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.errno, self.detail), dict(self.__dict__)


class ProgramStartError(_PathError):
    """The program of `run`, `shell` or `spawn` could not be started: not found, not executable, no such user.

    The sandbox stays usable. Known from the failed execve itself and never from an exit code, so a program that exits
    127 is not mistaken for it. Made by `program_start_error`, which picks the subclass.

    Args:
        path: The program, as it was asked for.
        errno: Why, as execve said.
        detail: What else is known, e.g. the interpreter of a script that is missing.
    """

    _what = "cannot start"


class ProgramNotFoundError(ProgramStartError, FileNotFoundError):
    """There is no such program in the sandbox, or its interpreter is missing (execve(2): ENOENT, ENOTDIR)."""


class ProgramNotExecutableError(ProgramStartError, PermissionError):
    """The program is there and may not be executed (execve(2): EACCES, EPERM)."""


class NetworkError(SandboxError):
    """The control channel broke: the launcher or the sandbox's PID 1 died.

    Its executions are gone with it. Never blamed on the program: it says nothing about a connection *in* the sandbox.
    """


class FileOperationError(_PathError):
    """An operation of the file API failed in the sandbox; nothing was changed but what `detail` says.

    Made by `file_operation_error`, which picks the subclass.

    Args:
        path: The path in the sandbox.
        errno: Why.
        detail: What else is known.
    """

    _what = "cannot use"


class SandboxFileNotFoundError(FileOperationError, FileNotFoundError):
    """There is no such file in the sandbox."""


class SandboxFileExistsError(FileOperationError, FileExistsError):
    """The file is there already, and `overwrite` was not asked for."""


class SandboxPermissionError(FileOperationError, PermissionError):
    """The sandbox's user may not do this, or the path leads out of the sandbox."""


class SandboxIsADirectoryError(FileOperationError, IsADirectoryError):
    """A file was wanted, and the path is a directory."""


class SandboxNotADirectoryError(FileOperationError, NotADirectoryError):
    """A directory was wanted, and the path is none."""


class ExecutionError(SandboxError):
    """The verdict was not OK; raised by `ExecutionResult.raise_for_verdict` only. The sandbox stays usable.

    Args:
        message: One sentence.
        result: The whole result, with the output up to the end.
    """

    result: ExecutionResult

    def __init__(self, message: str, result: ExecutionResult) -> None:
        super().__init__(message)
        self.result = result

    @property
    def execution_id(self) -> str:
        """The id of the execution."""
        return self.result.execution_id


class ExecutionTimeoutError(ExecutionError):
    """The wall-clock or CPU time limit ended the execution; `result.verdict` says which.

    Args:
        message: One sentence.
        result: The whole result.
        timeout: The limit, in seconds; NaN where the result does not carry it.
    """

    timeout: float

    def __init__(self, message: str, result: ExecutionResult, timeout: float) -> None:
        super().__init__(message, result)
        self.timeout = timeout


class ResourceExceededError(ExecutionError):
    """A limit of memory, output, processes or disk ended the execution. Not `ResourceLimitError`.

    Args:
        message: One sentence.
        result: The whole result.
        resource: "memory", "output", "processes" or "disk".
        usage: What was used, in the unit of the limit's configuration field: MiB, or a number of processes; NaN where
            the result does not carry it.
        limit: The limit, in the same unit.
    """

    resource: str
    usage: float
    limit: float

    def __init__(self, message: str, result: ExecutionResult, resource: str, usage: float, limit: float) -> None:
        super().__init__(message, result)
        self.resource, self.usage, self.limit = resource, usage, limit


class SecurityViolationError(ExecutionError):
    """The syscall filter killed the program.

    Args:
        message: One sentence.
        result: The whole result; its `evidence` has the number, the architecture and the arguments of the call.
        violation: The name of the system call.
        severity: "critical": the filter kills only for what nothing but an attack does.
    """

    violation: str
    severity: str

    def __init__(self, message: str, result: ExecutionResult, violation: str, severity: str) -> None:
        super().__init__(message, result)
        self.violation, self.severity = violation, severity


_START_ERRORS: Mapping[int, type[ProgramStartError]] = MappingProxyType(
    {
        ENOENT: ProgramNotFoundError,
        ENOTDIR: ProgramNotFoundError,
        EACCES: ProgramNotExecutableError,
        EPERM: ProgramNotExecutableError,
    }
)
_FILE_ERRORS: Mapping[int, type[FileOperationError]] = MappingProxyType(
    {
        ENOENT: SandboxFileNotFoundError,
        EEXIST: SandboxFileExistsError,
        EACCES: SandboxPermissionError,
        EPERM: SandboxPermissionError,
        EISDIR: SandboxIsADirectoryError,
        ENOTDIR: SandboxNotADirectoryError,
    }
)


def program_start_error(path: str, errno: int, detail: str = "") -> ProgramStartError:
    """Make the `ProgramStartError` whose class fits `errno`.

    Args:
        path: The program, as it was asked for.
        errno: Why, as execve said.
        detail: What else is known.
    """
    return _START_ERRORS.get(errno, ProgramStartError)(path, errno, detail)


def file_operation_error(path: str, errno: int, detail: str = "") -> FileOperationError:
    """Make the `FileOperationError` whose class fits `errno`.

    Args:
        path: The path in the sandbox.
        errno: Why.
        detail: What else is known.
    """
    return _FILE_ERRORS.get(errno, FileOperationError)(path, errno, detail)
