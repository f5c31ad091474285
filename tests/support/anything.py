"""Properties by Hypothesis: the same examples in every run, no deadline, nothing kept; and values of any kind.

NSBOX_EXAMPLES=20 tries twenty times as many, and others each time.
"""

from __future__ import annotations

import enum
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("NSBOX_EXAMPLES", "1"))


def examples(count: int, **more: Any) -> settings:
    """A decorator: so many examples, found by the test's own text alone."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        **more,
    )


class Word(str):
    """A str that is none to `type`."""

    __slots__ = ()


class Number(enum.IntEnum):
    """An int that is none to `type`."""

    ONE = 1


class Odd:
    """Nothing that anybody expects; equal to everything, and without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, 1, 2, -1, 15, 16, 255, 65_535, 65_536, 2**22, 2**31, 2**43, 2**63 - 1, 2**63, 2**64, 10**400]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 0.001, 0.5, 1.0, 100.0, 1e9, 1e308, math.nan, math.inf, -math.inf]),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "\0", "a\0b", "\ud800", "\udc80", "none", "egress", "high", "host", "python", "cpp", "default", "strict",
         "/", "//", "/..", "a/../b", "/workspace", "/tmp/x", ".", "..", "a=b", "10.0.0.0/8", "*.example.com", "x" * 300]
    ),
)  # fmt: skip
ATOMS = st.one_of(
    st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=8), st.builds(Odd), st.builds(Word, TEXTS),
    st.just(Number.ONE), st.just(1j), st.builds(Path, st.sampled_from(["/", "/srv", "x", ""])),
    st.just(PurePosixPath("/srv")), st.just(str), st.just(object()),
)  # fmt: skip
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.frozensets(st.integers(), max_size=3),
        st.just(range(3)),
    ),
    max_leaves=4,
)
