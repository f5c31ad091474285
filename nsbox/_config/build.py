"""From keyword arguments to configuration objects: `Sandbox(config, memory_mb=256)`, `execute(code, timeout=5)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from nsbox._config.frozen import shown
from nsbox._config.options import ExecutionOptions
from nsbox._config.sandbox import SandboxConfig
from nsbox._config.validation import flag
from nsbox._errors import ConfigError

T = TypeVar("T")

SHORT_FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpus": ("resources", "cpu", "cores"),
        "memory_mb": ("resources", "memory", "limit_mb"),
        "disk_mb": ("resources", "disk", "quota_mb"),
        "processes": ("resources", "processes", "max_processes"),
        "network": ("resources", "network", "access"),
        "timeout": ("enforcement", "max_execution_seconds"),
    }
)
"""The short forms of what most people set, each with the path of its long form in `SandboxConfig`."""

_SANDBOX_FIELDS = frozenset(item.name for item in dataclasses.fields(SandboxConfig))
_SANDBOX_NAMES = _SANDBOX_FIELDS | SHORT_FORMS.keys()
_OPTION_NAMES = frozenset(item.name for item in dataclasses.fields(ExecutionOptions))
_NO_CONFIG, _NO_OPTIONS = SandboxConfig(), ExecutionOptions()


def make_config(config: SandboxConfig | None = None, /, **fields: Any) -> SandboxConfig:
    """As `_make_config`; for arguments that were given before, the same object: configurations do not change."""
    try:
        return _known_config(config, tuple((name, type(value), value) for name, value in fields.items()))
    except TypeError:  # a value that cannot be hashed, a dict or a list
        return _make_config(config, **fields)


@lru_cache(maxsize=64)
def _known_config(config: SandboxConfig | None, fields: tuple[tuple[str, type, Any], ...]) -> SandboxConfig:
    # With the types, for True == 1 == 1.0, and not each of them is allowed wherever another is.
    return _make_config(config, **{name: value for name, _, value in fields})


def _make_config(config: SandboxConfig | None = None, /, **fields: Any) -> SandboxConfig:
    """The configuration that a sandbox's arguments describe.

    Args:
        config: What to start from; None: the defaults.
        fields: Fields of `SandboxConfig` and short forms (`SHORT_FORMS`), over `config`. `network` is a bool.

    Raises:
        ConfigError: An unknown field, a value that is not allowed, or a short form beside its long form.
    """
    result = _start("config", config, SandboxConfig, _NO_CONFIG)
    _refuse_unknown(fields, _SANDBOX_NAMES, "a Sandbox", {"an execution": _OPTION_NAMES})
    short = {name: value for name, value in fields.items() if name in SHORT_FORMS}
    for name, value in short.items():
        long = SHORT_FORMS[name][0]
        if long in fields:
            raise ConfigError(f"{name}={shown(value)}: must not stand beside {long}=, which has the same field")
    if len(short) < len(fields):
        result = dataclasses.replace(result, **{name: fields[name] for name in fields if name not in short})
    for name, value in short.items():
        try:
            long_value = ("egress" if flag(name, value) else "none") if name == "network" else value
            result = _with(result, SHORT_FORMS[name], long_value)
        except ConfigError as exc:
            raise ConfigError(f"{exc}; given as {name}={shown(value)}") from exc
    return result


def make_options(options: ExecutionOptions | None = None, /, **fields: Any) -> ExecutionOptions:
    """The options that an execution's arguments describe.

    Args:
        options: What to start from; None: the defaults.
        fields: Fields of `ExecutionOptions`, over `options`.

    Raises:
        ConfigError: An unknown field or a value that is not allowed.
    """
    result = _start("options", options, ExecutionOptions, _NO_OPTIONS)
    _refuse_unknown(fields, _OPTION_NAMES, "an execution", {"a Sandbox": _SANDBOX_NAMES})
    return dataclasses.replace(result, **fields) if fields else result


def split_fields(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `nsbox.execute`, told apart: those of the sandbox, and those of its one execution.

    `timeout`, `environment` and `working_directory` belong to both and go to the sandbox, where there is no limit yet
    that they could exceed.

    Raises:
        ConfigError: A field that neither has.
    """
    _refuse_unknown(fields, _SANDBOX_NAMES | _OPTION_NAMES, "nsbox.execute", {})
    sandbox = {name: value for name, value in fields.items() if name in _SANDBOX_NAMES}
    return sandbox, {name: value for name, value in fields.items() if name not in _SANDBOX_NAMES}


def _start(name: str, given: T | None, kind: type[T], defaults: T) -> T:
    """What was given, checked, or the defaults, which are the same for all: configurations do not change."""
    if given is None:
        return defaults
    if not isinstance(given, kind):
        what = (
            type(given).__name__ if dataclasses.is_dataclass(given) else shown(given)
        )  # a whole configuration is long
        raise ConfigError(f"{name}={what}: must be of class {kind.__name__}, or None; all else is given by name")
    return given


def _with(node: Any, path: tuple[str, ...], value: object) -> Any:
    """A copy of nested dataclasses in which one field has another value."""
    name, rest = path[0], path[1:]
    return dataclasses.replace(node, **{name: _with(getattr(node, name), rest, value) if rest else value})


def _refuse_unknown(
    given: Iterable[str], known: frozenset[str], owner: str, elsewhere: Mapping[str, frozenset[str]]
) -> None:
    """Raise for the first unknown name, with where it belongs or what it is close to."""
    for name in given:
        if name in known:
            continue
        for other, names in elsewhere.items():
            if name in names:
                raise ConfigError(f"{name!r} is not a field of {owner}; it is one of {other}")
        close = get_close_matches(name, sorted(known))
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}"
        raise ConfigError(f"{name!r} is not a field of {owner}; {hint}")
