"""The checks that all configuration objects share; each returns the value in its normal form or raises `ConfigError`.

Each takes the field's name and its value, and each message names the field, the value and what is allowed. Types are
checked as strictly as ranges: `True` is no number, a string is no sequence of strings, NaN and infinity are no limits.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from nsbox._config.frozen import FrozenMap, shown
from nsbox._errors import ConfigError

T = TypeVar("T")

LARGEST_INT = 2**63 - 1  # what the kernel's own counters hold
LARGEST_MB = LARGEST_INT >> 20  # so that the number of bytes fits as well
LONGEST_SECONDS = 1e9  # 31 years; in nanoseconds this still fits the kernel's 64-bit timers


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Raise the `ConfigError` for one field."""
    raise ConfigError(f"{field}={shown(value)}: must be {allowed}")


def assign(instance: object, **values: object) -> None:
    """Store normalised values in a frozen dataclass, from its `__post_init__` only."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def integer(field: str, value: object, *, minimum: int, maximum: int = LARGEST_INT, unit: str = "") -> int:
    """An int within a range; a bool is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        if minimum <= value <= maximum:
            return int(value)
        above = value > maximum
    else:
        above = False
    # The largest number that can be represented is no news, unless it is what was exceeded.
    upper = f" and at most {maximum}" if above or maximum not in (LARGEST_INT, LARGEST_MB) else ""
    refuse(field, value, f"an int of at least {minimum}{upper}" + (f" ({unit})" if unit else ""))


def megabytes(field: str, value: object, *, minimum: int = 1) -> int:
    """An int of MiB whose number of bytes fits 64 bits."""
    return integer(field, value, minimum=minimum, maximum=LARGEST_MB, unit="MiB")


def number(
    field: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float = LARGEST_INT,
    above: bool = False,
    unit: str = "",
) -> float:
    """A finite int or float within a range, as a float; a bool is none.

    Args:
        field: The field's name.
        value: Its value.
        minimum: The least value allowed.
        maximum: The greatest value allowed.
        above: Whether `minimum` itself is excluded.
        unit: The unit, for the message.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # The comparison comes first: float() of an int beyond 1e308 raises OverflowError. NaN fails every comparison.
        within = (minimum < value if above else minimum <= value) and value <= maximum
        if within and math.isfinite(value) and float(value) <= maximum:  # an int near the maximum may be rounded up
            return float(value)
    lower = f"above {minimum:g}" if above else f"of at least {minimum:g}"
    upper = "" if maximum == LARGEST_INT else f" and at most {maximum:.16g}"
    refuse(field, value, f"a finite number {lower}{upper}" + (f" ({unit})" if unit else ""))


def seconds(field: str, value: object, *, minimum: float = 0.001) -> float:
    """A duration in seconds; a millisecond is the least that a timer here is worth."""
    return number(field, value, minimum=minimum, maximum=LONGEST_SECONDS, unit="seconds")


def percent(field: str, value: object) -> float:
    """A number above 0 and at most 100."""
    return number(field, value, above=True, maximum=100, unit="percent")


def flag(field: str, value: object) -> bool:
    """True or False itself; what is merely truthy was meant as something else."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False")
    return value


def choice(field: str, value: object, allowed: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        refuse(field, value, "one of " + ", ".join(repr(word) for word in allowed))
    return value


def instance_of(field: str, value: object, kind: type[T]) -> T:
    """An instance of a class."""
    if not isinstance(value, kind):
        refuse(field, value, f"a {kind.__name__}, not a {type(value).__name__}")
    return value


def text(field: str, value: object, *, empty: bool = True, allowed: str = "a str") -> str:
    """A str that can be handed to the kernel: without NUL, and UTF-8 but for bytes escaped as `os.fsdecode` does."""
    wanted = f"{allowed} without NUL bytes and lone surrogates" + ("" if empty else ", not empty")
    if not isinstance(value, str) or "\0" in value or not (empty or value):
        refuse(field, value, wanted)
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            refuse(field, value, wanted)
    return value


def items(field: str, value: object) -> tuple[object, ...]:
    """A sequence as a tuple. A single string is a sequence too, of characters, and never what was meant."""
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        refuse(field, value, f"a sequence such as a list or a tuple, not a {type(value).__name__}")
    return tuple(value)


def distinct(field: str, values: tuple[T, ...]) -> tuple[T, ...]:
    """A tuple in which nothing stands twice."""
    if len(set(values)) != len(values):
        refuse(field, values, "without repetitions")
    return values


def texts(field: str, value: object, *, empty: bool = True) -> tuple[str, ...]:
    """A tuple of strings fit for the kernel."""
    return tuple(text(f"{field}[{index}]", item, empty=empty) for index, item in enumerate(items(field, value)))


def text_map(field: str, value: object) -> FrozenMap[str, str]:
    """An immutable copy of a mapping of non-empty names to strings."""
    if not isinstance(value, Mapping):
        refuse(field, value, f"a mapping of str to str, not a {type(value).__name__}")
    return FrozenMap(
        {
            text(f"a key of {field}", key, empty=False): text(f"{field}[{shown(key)}]", item)
            for key, item in value.items()
        }
    )


def environment(field: str, value: object) -> FrozenMap[str, str]:
    """Environment variables: as `text_map`, and a name has no "=" (environ(7))."""
    variables = text_map(field, value)
    for name in variables:
        if "=" in name:
            refuse(f"a key of {field}", name, 'a name without "="')
    return variables


def inside_path(field: str, value: object, *, relative: bool = False) -> str:
    """A path in the sandbox, normalised; absolute, unless `relative` allows the other kind.

    ".." is refused rather than resolved: what it means depends on symbolic links that only the kernel can follow.
    """
    kind = "a path" if relative else "an absolute path"
    path = text(field, value, empty=False, allowed=kind)
    if ".." in path.split("/") or not (relative or path.startswith("/")):
        refuse(field, value, f'{kind} in the sandbox without ".."')
    normal = posixpath.normpath(path)
    return "/" + normal.lstrip("/") if normal.startswith("/") else normal  # normpath keeps a leading "//" (POSIX 4.13)


def host_path(field: str, value: object, *, absolute: bool) -> Path:
    """A path of the host, from a str or a Path. Whether it exists is for `start` to find out."""
    if not isinstance(value, (str, Path)):
        refuse(field, value, f"a path, not a {type(value).__name__}")
    path = Path(text(field, str(value), empty=False, allowed="a path"))
    if absolute and not path.is_absolute():
        refuse(field, value, "an absolute path")
    return path
