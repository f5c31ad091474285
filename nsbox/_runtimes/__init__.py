"""The languages that nsbox knows, as data.

In `run` and in the values of `environment`, "{source}" stands for the path of the source file and "{directory}" for the
working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nsbox._config import Runtime
from nsbox._errors import ConfigError
from nsbox._runtimes.python import PYTHON

RUNTIMES: Mapping[str, Runtime] = MappingProxyType({runtime.name: runtime for runtime in (PYTHON,)})
"""By name."""


def find_runtime(language: str | Runtime) -> Runtime:
    """The runtime of a name, or the one given.

    Raises:
        ConfigError: There is none of that name.
    """
    if isinstance(language, Runtime):
        return language
    try:
        return RUNTIMES[language]
    except KeyError:
        raise ConfigError(f"language={language!r}: must be one of {', '.join(RUNTIMES)}, or a Runtime") from None


def fill_in(text: str, *, source: str, directory: str) -> str:
    """Replace the placeholders of a runtime's texts."""
    return text.replace("{source}", source).replace("{directory}", directory)
