"""Values that cannot change: an immutable mapping, and how they are shown.

`types.MappingProxyType` would do for reading, yet on Python 3.11 it can be neither hashed nor pickled, and
configurations and results have to be both: they are keys of caches, and travel inside exceptions through process pools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, TypeVar

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)

_TEXT_SHOWN = 80  # characters or bytes
_ITEMS_SHOWN = 8
_ATOMS = frozenset({str, bytes, int, float, bool, type(None)})
_LONGEST_INT_BITS = 256  # repr() of an int of more than 4300 digits raises ValueError (sys.set_int_max_str_digits)


class FrozenMap(Mapping[K, V_co]):
    """An immutable copy of a mapping: hashable where its values are, picklable, equal to any mapping with its items.

    Args:
        items: The mapping to copy.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V_co] | None = None) -> None:
        # A copy of what cannot change is the thing itself.
        self._items: dict[K, V_co] = items._items if isinstance(items, FrozenMap) else dict(items or {})

    def __getitem__(self, key: K) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return shown(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMap, (dict(self._items),)


def freeze(value: object) -> object:
    """A copy of nested lists, sets and mappings that cannot change: tuples, frozensets and `FrozenMap`."""
    if type(value) in _ATOMS:  # most are: an `isinstance` of an abstract class costs as much as all else here
        return value
    if isinstance(value, Mapping):
        return FrozenMap({key: freeze(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(freeze(item) for item in value)
    return value


def shown(value: object) -> str:
    """The `repr` of a value, never longer than a few lines: megabytes of stdin or argv belong in no message."""
    if isinstance(value, (str, bytes)) and len(value) > _TEXT_SHOWN:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{value[:_TEXT_SHOWN]!r}... ({len(value)} {unit})"
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT_BITS:
        return f"<an int of {value.bit_length()} bits>"
    if isinstance(value, Mapping):
        items = [f"{shown(key)}: {shown(item)}" for key, item in islice(value.items(), _ITEMS_SHOWN)]
        return "{" + ", ".join(items + _rest(len(value))) + "}"
    if isinstance(value, (list, tuple)):
        items = [shown(item) for item in islice(value, _ITEMS_SHOWN)] + _rest(len(value))
        inner = ", ".join(items)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(items) == 1 else ''})"
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes, range)) and len(value) > _ITEMS_SHOWN:
        return f"<{type(value).__name__} of {len(value)} items>"
    return repr(value)


def _rest(count: int) -> list[str]:
    """What stands for the items beyond those shown."""
    return [f"... {count - _ITEMS_SHOWN} more"] if count > _ITEMS_SHOWN else []
