"""The names that a Java source decides: the class to start, and the file that it must be in (JLS 7.6, 12.1.4).

The text is the program's, and nothing it says can do more than name a class: both names are identifiers. One pass over
a bounded part of it.
"""

from __future__ import annotations

import re

_MOST = 1 << 20
"""Characters that are looked at: a token each is far more than a class declaration is away from the beginning."""
_DEFAULT = "Main"
_IDENTIFIER = r"[A-Za-z_$][A-Za-z0-9_$]*"

_TOKEN = re.compile(
    r"//[^\n]*"
    r"|/\*(?:[^*]|\*(?!/))*+(?:\*/)?"
    r'|"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?'
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?"
    rf"|(?P<word>{_IDENTIFIER})"
    r"|(?P<mark>[{}.;(@])",
    re.DOTALL,
)
_KINDS = frozenset({"class", "interface", "enum", "record"})
_MOST_WORDS = 64  # of modifiers, or of a type with its arguments
_LONGEST = 200  # a name of a file has at most 255 bytes


def class_names(code: str) -> tuple[str, str]:
    """Find what is to be started.

    Args:
        code: The source.

    Returns:
        The class with the main method, with its package in front, and the name that the file must have: that of the
        public class, else of the class with the main method. "Main" where nothing was found.
    """
    seen = _Seen()
    for found in _TOKEN.finditer(code[:_MOST]):
        if found["word"]:
            seen.word(found["word"])
        elif found["mark"]:
            seen.mark(found["mark"])
    chosen = seen.main or seen.public or (seen.classes[0] if seen.classes else _DEFAULT)
    return (f"{seen.package}.{chosen}" if seen.package else chosen), seen.public or chosen


class _Seen:
    """What has been read of a source so far."""

    def __init__(self) -> None:
        self.package = self.public = self.main = ""
        self.classes: list[str] = []
        self._depth = 0
        self._words: list[str] = []  # since the last mark

    def word(self, word: str) -> None:
        words = self._words
        if self._depth == 0 and words and words[-1] in _KINDS and _starts_type(words) and len(word) <= _LONGEST:
            self.classes.append(word)
            if "public" in words and not self.public:
                self.public = word
        words.append(word)
        if len(words) > _MOST_WORDS:
            del words[: _MOST_WORDS // 2]

    def mark(self, mark: str) -> None:
        words = self._words
        if mark == "(" and self._depth == 1 and words[-1:] == ["main"] and "void" in words and self.classes:
            self.main = self.main or self.classes[-1]
        elif mark == ";" and self._depth == 0 and words[:1] == ["package"]:
            self.package = self.package or ".".join(words[1:])[:_LONGEST]
        elif mark == "{":
            self._depth += 1
        elif mark == "}":
            self._depth = max(0, self._depth - 1)
        if mark not in "@.":
            self._words = []


def _starts_type(words: list[str]) -> bool:
    """Whether what stands before a name are modifiers only; "record" may also be the name of a variable."""
    return words[-1] != "record" or all(word in _MODIFIERS for word in words[:-1])


_MODIFIERS = frozenset({"public", "final", "abstract", "static", "strictfp", "sealed", "private", "protected", "non"})
