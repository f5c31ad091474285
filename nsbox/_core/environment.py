"""The variables that executions get, and that can be changed while the sandbox lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nsbox._config import FrozenMap
from nsbox._config.validation import environment, text
from nsbox._core.emitter import Emitter
from nsbox._events import EnvironmentBatchUpdated, EnvironmentDeleted, EnvironmentUpdated


class Environment:
    """The variables of one sandbox; a change holds from the next execution on.

    Args:
        configured: Those it begins with, and goes back to with `reset`.
        emitter: Tells of changes.
        require_living: Raises where the sandbox has ended.
    """

    def __init__(self, configured: Mapping[str, str], emitter: Emitter, require_living: Callable[[], None]) -> None:
        self._configured = FrozenMap(configured)
        self._emitter = emitter
        self._require_living = require_living
        self.variables: FrozenMap[str, str] = self._configured

    def set_defaults(self, variables: Mapping[str, str]) -> None:
        """What its root file system has for programs: below all others, and no event."""
        self._configured = FrozenMap({**variables, **self._configured})
        self.variables = FrozenMap({**variables, **self.variables})

    def reset(self) -> None:
        """As configured."""
        self.variables = self._configured

    async def set(self, key: str, value: str) -> None:
        """One variable."""
        self._require_living()
        checked = environment("variables", {key: value})
        self.variables = FrozenMap({**self.variables, **checked})
        self._emitter.emit(EnvironmentUpdated, key=key, value=value)

    async def set_all(self, variables: Mapping[str, str]) -> None:
        """Several, or none of them."""
        self._require_living()
        checked = environment("variables", variables)
        self.variables = FrozenMap({**self.variables, **checked})
        self._emitter.emit(EnvironmentBatchUpdated, variables=checked)

    async def get(self, key: str) -> str | None:
        """None: there is no such variable."""
        return self.variables.get(text("key", key, empty=False))

    async def delete(self, key: str) -> None:
        """A variable that is not there is no error: it is not there afterwards."""
        self._require_living()
        text("key", key, empty=False)
        if key in self.variables:
            self.variables = FrozenMap({name: value for name, value in self.variables.items() if name != key})
            self._emitter.emit(EnvironmentDeleted, key=key)
