"""The warm interpreters of a supervisor: one a kind of sandbox that Python programs are run in."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import trio

from nsbox._errors import ConfigError, NetworkError, SetupError
from nsbox._supervisor import wire
from nsbox._supervisor.background import log, start_soon
from nsbox._supervisor.channel import Channel
from nsbox._supervisor.start import setup_error
from nsbox._warm.plan import InterpreterPlan

LIBRARY = Path(__file__).parent.parent / "_bin" / "nsbox-interpreter.so"
_START_SECONDS = 30.0
"""What imports for longer is taken for one that hangs."""
_ASKED_FIRST = 2
"""With so many programs a kind gets an interpreter: the first one, which may be the only one, does not pay for it."""
_MOST_SAID = 4096


class Interpreters:
    """See the module.

    Args:
        channel: To the launcher.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._programs: dict[int, int] = {}
        self._states: dict[int, str] = {}
        self._locks: dict[int, trio.Lock] = {}

    def state(self, kind: int) -> str:
        """Of the interpreter of a kind, in a word: "cold", "warming" or "warm"."""
        return self._states.get(kind, "cold")

    def wanted(self, kind: int, plan: InterpreterPlan) -> None:
        """A program is about to run that a warm interpreter could run."""
        self._programs[kind] = self._programs.get(kind, 0) + 1
        if self._programs[kind] == _ASKED_FIRST:
            self.expect(kind, plan)

    def expect(self, kind: int, plan: InterpreterPlan) -> None:
        """Programs will be run that a warm interpreter could run."""
        if self.state(kind) == "cold":
            start_soon(self._start_quietly, kind, plan)

    async def _start_quietly(self, kind: int, plan: InterpreterPlan) -> None:
        try:
            await self.start(kind, plan)
        except (ConfigError, SetupError) as exc:
            log.warning("no warm interpreter, programs are started cold: %s", exc)
        except NetworkError:
            return

    async def start(self, kind: int, plan: InterpreterPlan) -> None:
        """Start one and wait until it has imported everything; at once, if there is one.

        Raises:
            ConfigError: A module cannot be imported, starts threads, or takes longer than 30 s.
            SetupError: It could not be started.
            NetworkError: The launcher died.
        """
        async with self._locks.setdefault(kind, trio.Lock()):
            if self.state(kind) == "cold":
                self._states[kind] = "warming"
                try:
                    await self._start(kind, plan)
                except BaseException:
                    self.forget(kind)
                    raise
                self._states[kind] = "warm"

    async def _start(self, kind: int, plan: InterpreterPlan) -> None:
        payload = wire.Payload()
        payload.texts(plan.argv)
        payload.texts(plan.environment)
        with contextlib.ExitStack() as stack:
            try:
                library = os.open(LIBRARY, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, library)
                said, saying = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as exc:
                raise SetupError("warm", exc.errno or errno.EMFILE, exc.strerror or "", "its descriptors") from exc
            stack.callback(os.close, said)
            stack.callback(os.close, saying)
            os.set_blocking(saying, True)
            await self._ask(kind, payload.join(), library, said, saying)

    async def _ask(self, kind: int, payload: bytes, library: int, said: int, saying: int) -> None:
        try:
            answer = self._channel.expect(wire.Down.WARM, kind)
            await self._channel.send(wire.Down.WARM, kind, payload=payload, fds=[library, saying])
            with trio.move_on_after(_START_SECONDS) as scope:
                await answer.settled_event.wait()
            if scope.cancelled_caught:
                raise ConfigError(f"preload: importing takes longer than {_START_SECONDS:g} s")
            record, _ = answer.take()
            if record.type is wire.Up.FAILED:
                raise self._failure(record, said)
        except BaseException:
            self._channel.break_off(wire.Down.WARM, kind, NetworkError("it was given up"))
            with trio.CancelScope(shield=True):
                await self._cool(kind)
            raise

    async def _cool(self, kind: int) -> None:
        if not self._channel.broken:
            await self._channel.send(wire.Down.COOL, kind)

    def _failure(self, record: wire.Record, said: int) -> ConfigError | SetupError:
        try:
            text = os.read(said, _MOST_SAID).decode("utf-8", "replace").strip()
        except BlockingIOError:
            text = ""
        return ConfigError(text) if text.startswith("preload=") else setup_error(record, text or "a warm interpreter")

    def forget(self, kind: int) -> None:
        """It is gone: the next program that wants one starts another."""
        self._states.pop(kind, None)
        self._programs.pop(kind, None)
        self._locks.pop(kind, None)
