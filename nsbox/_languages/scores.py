"""Which language a text has the most signs of; the signs are data, in signs.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_MOST = 1 << 14
"""Characters that are looked at, of the beginning."""
_LEAST = 3.0
_RATIO = 1.25
_DIFFERENCE = 1.0
_TIMES = 4
"""How often a sign counts: the twentieth `const` says nothing that the fourth did not."""
_LONGEST_STRING = 60

_COMMENT_OR_STRING = re.compile(
    r"//[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/)?|\"(?:[^\"\\\n]|\\.){0,1000}+\"|'(?:[^'\\\n]|\\.){0,200}'"
)
# Both bounds are for quotes that are never closed: a text of nothing else took 1.8 s, now 0.1 (measured).
_HASH_COMMENT = re.compile(r"(?:^|(?<=[ \t;]))#[^\n]*", re.MULTILINE)


class Sign(NamedTuple):
    """Something that a language is known by."""

    pattern: re.Pattern[str]
    points: float


Signs = Mapping[str, Mapping[str, Sequence[Sign]]]


@cache
def _load() -> Signs:
    """All signs by section and language; compiling them takes some 30 ms, so it is done when they are first needed."""
    document = tomllib.loads(files("nsbox._languages").joinpath("signs.toml").read_text("utf-8"))
    return {
        section: {
            language: tuple(Sign(re.compile(pattern, re.MULTILINE), points) for points, pattern in signs)
            for language, signs in languages.items()
        }
        for section, languages in document.items()
    }


def most_likely(code: str) -> str | None:
    """The language with the most points, None where it has few, or another one has about as many."""
    ranked = sorted(scores(code).items(), key=lambda item: -item[1])
    (best, most), (_, second) = ranked[0], ranked[1]
    return best if most >= max(_LEAST, second * _RATIO, second + _DIFFERENCE) else None


def scores(code: str) -> dict[str, float]:
    """The points of every language."""
    signs = _load()
    text = code[:_MOST]
    braced = _COMMENT_OR_STRING.sub(_blank, text)
    hashed = _HASH_COMMENT.sub("", text)
    points = {language: _sum(found, braced) for language, found in signs["braced"].items()}
    points |= {language: _sum(found, hashed) for language, found in signs["hashed"].items()}
    _extend(points, "c", "cpp", _sum(signs["objects"]["cpp"], braced))
    _extend(points, "javascript", "typescript", _sum(signs["types"]["typescript"], braced))
    return points


def _extend(points: dict[str, float], small: str, large: str, own: float) -> None:
    """A language that has all of another one: it is this one only if there is something of its own."""
    points[large] = 0.0
    if own >= _LEAST:
        points[large] = points[small] + own
        points[small] = 0.0


def _sum(signs: Sequence[Sign], text: str) -> float:
    total = 0.0
    for sign in signs:
        for count, _ in enumerate(sign.pattern.finditer(text), 1):
            total += sign.points
            if count == _TIMES:
                break
    return total


def _blank(found: re.Match[str]) -> str:
    """Comments go, for what is in them is no code; of strings, only short ones stay, such as that of an import."""
    text = found[0]
    if text[0] in "\"'":
        return text if len(text) < _LONGEST_STRING and "\n" not in text else text[0] * 2
    return "\n" * text.count("\n") or " "
