"""The frame around a command: signals, errors, and what is left to do at its end."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from nsbox._blocking import shutdown
from nsbox._cli import exits, streams
from nsbox._errors import SandboxError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the command to end. Like KeyboardInterrupt, whose place it takes, no error.

    Args:
        number: Which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def carry_out(command: Callable[[], int]) -> int:
    """Run a command to its exit status.

    On SIGINT, SIGTERM and SIGHUP it is cancelled, which kills what runs in its sandboxes; every sandbox is gone on
    return, however the command ended.

    Args:
        command: What to do; it returns the status. Its `SandboxError`s are told on stderr.
    """
    try:
        with _signals_raise():
            try:
                return command()
            except SandboxError as exc:
                tell(describe(exc))
                return exits.error_status(exc)
            except OSError as exc:
                tell(str(exc))
                return exits.OWN_FAILURE
            except streams.OutputClosedError:
                return exits.OUTPUT_CLOSED
            except Exception:  # noqa: BLE001  # Python's own status for it is 1, which is the program's to use
                tell("a defect in nsbox itself\n" + traceback.format_exc())
                return exits.OWN_FAILURE
            finally:
                _ignore_signals()
                shutdown()
    except Interrupted as exc:
        return exits.SIGNAL_BASE + exc.number


def describe(error: SandboxError) -> str:
    """Its message with the notes that were added on the way."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def tell(message: str) -> None:
    """Say something to the person at the terminal; where stderr is closed, there is none."""
    with contextlib.suppress(streams.OutputClosedError, OSError):
        streams.write(streams.STDERR, f"nsbox: {message.rstrip()}\n")


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup(1), or in a shell's background job: leave it so
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)  # nothing is left to clean up


def hang_up() -> NoReturn:
    """End the command as SIGHUP does: whoever was at the terminal has gone."""
    _interrupt(signal.SIGHUP, None)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_signals()  # the first one is obeyed; a second must not break into the clean-up
    raise Interrupted(number)


def _ignore_signals() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
