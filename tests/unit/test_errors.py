"""The tree of errors: what is caught by what, what each carries, and that it survives pickling and copying."""

from __future__ import annotations

import copy
import math
import pickle
from errno import EACCES, EEXIST, EINVAL, EIO, EISDIR, ENOENT, ENOEXEC, ENOTDIR, EPERM

import pytest

from nsbox import _errors
from nsbox._errors import (
    ConfigError,
    ExecutionError,
    ExecutionTimeoutError,
    FileOperationError,
    InvalidStateError,
    InvalidStateTransitionError,
    NetworkError,
    ProgramStartError,
    ResourceExceededError,
    ResourceLimitError,
    SandboxError,
    SecurityViolationError,
    SetupError,
    UnsupportedHostError,
    file_operation_error,
    program_start_error,
)
from nsbox._results import ExecutionResult, Verdict

RESULT = ExecutionResult(
    execution_id="e1", verdict=Verdict.WALL_TIME_LIMIT, exit_code=None, signal=9, evidence={"limit": 5.0, "a": [1, {}]}
)
EXAMPLES: list[SandboxError] = [
    SandboxError("m"),
    ConfigError("m"),
    UnsupportedHostError("no cgroups", ["cgroup.memory"], ["mount them"]),
    SetupError("mount-proc", EPERM, "", "/proc"),
    InvalidStateError("m"),
    InvalidStateTransitionError("m", "busy", "busy"),
    ResourceLimitError("m"),
    program_start_error("/bin/none", ENOENT, "missing interpreter"),
    program_start_error("/etc/passwd", EACCES),
    program_start_error("/bin/odd", ENOEXEC),
    NetworkError("m"),
    *(file_operation_error("/x", errno) for errno in (ENOENT, EEXIST, EACCES, EISDIR, ENOTDIR, EIO)),
    ExecutionError("m", RESULT),
    ExecutionTimeoutError("m", RESULT, 5.0),
    ResourceExceededError("m", RESULT, "memory", 512.5, 512.0),
    SecurityViolationError("m", RESULT, "ptrace", "critical"),
]


def test_the_examples_cover_every_class_of_the_module() -> None:
    """A class added later cannot escape the tests below."""
    classes = {item for item in vars(_errors).values() if isinstance(item, type) and issubclass(item, SandboxError)}
    assert {type(example) for example in EXAMPLES} == {
        item for item in classes if not item.__name__.startswith("_") and item is not FileOperationError
    } | {FileOperationError}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_pickling_and_copying(error: SandboxError) -> None:
    """Type, message, arguments, attributes, notes and the operating system's fields all come back."""
    error.add_note("a note")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)
        if isinstance(error, OSError):
            assert isinstance(twin, OSError)
            assert (twin.errno, twin.strerror, twin.filename) == (error.errno, error.strerror, error.filename)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_is_drawn_in_the_tree_with_its_parent_above_it(error: SandboxError) -> None:
    """The drawing in the module's docstring is true: the indentation says the base class."""
    drawn: dict[str, int] = {}
    parents: dict[str, str] = {}
    for line in (_errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if name.endswith("Error") and line.startswith("    "):
            depth = line.index(name)
            above = [other for other, other_depth in drawn.items() if other_depth < depth]
            parents[name] = max(above, key=lambda other: (drawn[other], list(drawn).index(other))) if above else ""
            drawn[name] = depth
    expected = next(base for base in type(error).__mro__[1:] if not base.__name__.startswith("_"))
    assert parents[type(error).__name__] == (expected.__name__ if type(error) is not SandboxError else "")


@pytest.mark.parametrize(
    ("errno", "kind"),
    [
        (ENOENT, FileNotFoundError),
        (ENOTDIR, FileNotFoundError),
        (EACCES, PermissionError),
        (EPERM, PermissionError),
        (ENOEXEC, OSError),
        (EINVAL, OSError),
    ],
)
def test_a_program_that_cannot_start_is_caught_as_pythons_own_error(errno: int, kind: type[OSError]) -> None:
    """`except FileNotFoundError` works as with subprocess; an errno without a class of its own is neither."""
    error = program_start_error("/opt/tool", errno, "because")
    assert isinstance(error, kind)
    assert isinstance(error, ProgramStartError)
    assert (error.path, error.errno, error.detail) == ("/opt/tool", errno, "because")
    assert isinstance(error, FileNotFoundError) == (kind is FileNotFoundError)
    assert isinstance(error, PermissionError) == (kind is PermissionError)


@pytest.mark.parametrize(
    ("errno", "kind"),
    [
        (ENOENT, FileNotFoundError),
        (EEXIST, FileExistsError),
        (EACCES, PermissionError),
        (EISDIR, IsADirectoryError),
        (ENOTDIR, NotADirectoryError),
    ],
)
def test_a_failed_file_operation_is_caught_as_pythons_own_error(errno: int, kind: type[OSError]) -> None:
    """The subclass fits the errno, and the path is there; another errno gives the plain class."""
    error = file_operation_error("/workspace/x", errno)
    assert isinstance(error, kind)
    assert error.path == "/workspace/x"
    assert type(file_operation_error("/workspace/x", EIO)) is FileOperationError


def test_the_message_of_a_setup_error_names_stage_errno_and_path() -> None:
    """A kernel "no" says where it was said; without a path, none is made up."""
    error = SetupError("mount-proc", EPERM, "", "/proc")
    assert (error.stage, error.errno, error.filename) == ("mount-proc", EPERM, "/proc")
    assert str(error) == "set-up failed at mount-proc: [Errno 1] Operation not permitted: '/proc'"
    assert str(SetupError("clone", EPERM)) == "set-up failed at clone: [Errno 1] Operation not permitted"


def test_the_message_of_an_unsupported_host_has_what_is_missing_and_the_remedies() -> None:
    """Whoever sees only the traceback can mend it; without details the message is the sentence alone."""
    error = UnsupportedHostError("no memory limits", ["cgroup.memory"], ["do this", "or that"])
    assert (error.missing, error.remedies) == (("cgroup.memory",), ("do this", "or that"))
    assert str(error) == "no memory limits; missing: cgroup.memory\n  remedy: do this\n  remedy: or that"
    assert str(UnsupportedHostError("no memory limits")) == "no memory limits"


def test_an_execution_error_knows_its_execution() -> None:
    """The id is the result's, so that the two cannot differ."""
    error = ResourceExceededError("m", RESULT, "memory", math.nan, 512.0)
    assert error.execution_id == RESULT.execution_id
    assert error.result is RESULT
