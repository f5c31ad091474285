"""The exit statuses of `nsbox run`. Pure.

They follow what shells, timeout(1) and env(1) do, and for the limits that these do not know, the number of the signal
that a limit of the kernel's own would have ended the program with. A program may exit with any of them itself: what
decides is the verdict, in the line on stderr or in --json.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nsbox._errors import ConfigError, ProgramNotFoundError, ProgramStartError, SandboxError
from nsbox._results import ExecutionResult, Verdict

USAGE = 2  # what every command line says to a word that it does not understand
COMPILE_ERROR = 123
TIME = 124  # timeout(1)
OWN_FAILURE = 125  # timeout(1), env(1)
NOT_EXECUTABLE = 126  # POSIX shells, env(1)
NOT_FOUND = 127  # the same
SIGNAL_BASE = 128  # POSIX shells
INTERRUPTED = 130  # SIGINT is 2
MEMORY = 137  # SIGKILL is 9, the signal of the kernel's OOM killer
OUTPUT_CLOSED = 141  # SIGPIPE is 13
OUTPUT = 153  # SIGXFSZ is 25
DISK = 154  # no signal means this; the next number
PROCESSES = 155  # the same
SECURITY = 159  # SIGSYS is 31

_VERDICTS: Mapping[Verdict, int] = MappingProxyType(
    {
        Verdict.OK: 0,
        Verdict.WALL_TIME_LIMIT: TIME,
        Verdict.CPU_TIME_LIMIT: TIME,
        Verdict.MEMORY_LIMIT: MEMORY,
        Verdict.OUTPUT_LIMIT: OUTPUT,
        Verdict.DISK_LIMIT: DISK,
        Verdict.PROCESS_LIMIT: PROCESSES,
        Verdict.SECURITY_VIOLATION: SECURITY,
        Verdict.COMPILE_ERROR: COMPILE_ERROR,
        Verdict.CANCELLED: INTERRUPTED,
    }
)

TABLE: tuple[tuple[str, str], ...] = (
    ("0", "the program ended with 0, within all limits"),
    ("N", "the program ended with N, whatever N is"),
    (str(USAGE), "a wrong option, or a value that can never work"),
    (str(COMPILE_ERROR), "the program did not compile"),
    (str(TIME), "wall clock or CPU time limit"),
    (str(OWN_FAILURE), "nsbox failed, or the host cannot do it (see nsbox doctor)"),
    (str(NOT_EXECUTABLE), "the program may not be executed, or not by that user"),
    (str(NOT_FOUND), "the program, its user or its working directory is not there"),
    ("128+N", "signal N ended the program"),
    ("129 130 143", "SIGHUP, Ctrl-C or SIGTERM ended nsbox, and the program"),
    (str(MEMORY), "memory limit"),
    (str(OUTPUT_CLOSED), "what read nsbox's output has gone"),
    (str(OUTPUT), "output limit"),
    (str(DISK), "disk limit"),
    (str(PROCESSES), "process limit"),
    (str(SECURITY), "the syscall filter killed the program"),
)
"""Every status and what it means, for --help; docs/cli.md has the same, and a test holds them equal."""

DOCTOR_TABLE: tuple[tuple[str, str], ...] = (
    ("0", "full isolation"),
    ("1", "sandboxes run, with less"),
    ("2", "none can run"),
    (str(OWN_FAILURE), "nsbox failed to look"),
)
"""The same for `nsbox doctor`."""


def result_status(result: ExecutionResult) -> int:
    """The exit status that says what a program did."""
    if result.verdict is Verdict.NONZERO_EXIT:
        assert result.exit_code is not None
        return result.exit_code
    if result.verdict is Verdict.SIGNALED:
        assert result.signal is not None
        return SIGNAL_BASE + result.signal
    return _VERDICTS[result.verdict]


def error_status(error: SandboxError) -> int:
    """The exit status that says why a program was not run to its end."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, ProgramNotFoundError):
        return NOT_FOUND
    if isinstance(error, ProgramStartError):
        return NOT_EXECUTABLE
    return OWN_FAILURE
