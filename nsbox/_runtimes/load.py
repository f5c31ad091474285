"""Runtimes from TOML files: those that come with nsbox, and the user's own."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from nsbox._config import Runtime
from nsbox._errors import ConfigError

_FIELDS = frozenset(field.name for field in dataclasses.fields(Runtime))
_LARGEST = 1 << 20


def load_runtime(path: str | Path) -> Runtime:
    """A language from a TOML file, whose keys are the fields of `Runtime`.

    Args:
        path: The file; at most 1 MiB.

    Raises:
        ConfigError: It cannot be read, is no TOML, or a field is missing, unknown, or not what it may be.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"runtime {str(path)!r}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc
    if len(content) > _LARGEST:
        raise ConfigError(f"runtime {str(path)!r}: must be at most {_LARGEST} bytes")
    return _parse(str(path), content)


def _parse(name: str, content: bytes) -> Runtime:
    try:
        document: dict[str, Any] = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"runtime {name!r}: {exc}") from exc
    unknown = sorted(document.keys() - _FIELDS)
    if unknown:
        raise ConfigError(
            f"runtime {name!r}: {unknown[0]!r} is no field of a Runtime; it has {', '.join(sorted(_FIELDS))}"
        )
    try:
        return Runtime(**document)
    except ConfigError as exc:
        raise ConfigError(f"runtime {name!r}: {exc}") from exc
    except TypeError as exc:  # name, file_name or run is missing
        raise ConfigError(f"runtime {name!r}: {str(exc).partition(') ')[2] or exc}") from exc


class BuiltIn(Mapping[str, Runtime]):
    """The languages that come with nsbox; each file is read when its language is first asked for.

    Args:
        names: The languages, in order.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._loaded: dict[str, Runtime] = {}

    def __getitem__(self, name: str) -> Runtime:
        found = self._loaded.get(name)
        if found is None:
            if name not in self._names:
                raise KeyError(name)
            content = files("nsbox._runtimes").joinpath(f"languages/{name}.toml").read_bytes()
            found = self._loaded.setdefault(name, _parse(f"{name}.toml", content))
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<runtimes: {', '.join(self._names)}>"
