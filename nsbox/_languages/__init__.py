"""What language a program's text is written in: pure, total, and in bounded time on anything.

`detect_language` looks, in this order, at the shebang, at whether the text parses as Python and does something that
only Python does, and at what the other languages are known by. It answers only where that is sure.
"""

from __future__ import annotations

import re
from functools import lru_cache

from nsbox._languages.python import begins_as_python, has_python_in_it, parse_python
from nsbox._languages.scores import most_likely
from nsbox._languages.shebang import from_shebang

__all__ = ["choose_language", "detect_language"]

_REMEMBERED = 256  # texts; one program is often run on many inputs
_LONGEST_REMEMBERED = 1 << 16

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]", re.MULTILINE)  # to Python, a comment
_COVERED = {"cpp": frozenset({"c"}), "typescript": frozenset({"javascript"})}
"""What of another language is also, as good as always, a program of this one."""


def detect_language(code: str) -> str | None:
    """Tell in which of nsbox's languages a program is written.

    Args:
        code: Its text, or anything.

    Returns:
        A name from `nsbox.RUNTIMES`, or None where none of them is likely enough, or two are about as likely: what is
        a program in several languages, such as `x = 1`, is not told apart.
    """
    if len(code) <= _LONGEST_REMEMBERED:
        return _detect(code)
    return _detect.__wrapped__(code)


@lru_cache(maxsize=_REMEMBERED)
def _detect(code: str) -> str | None:
    code = code.removeprefix("\ufeff")
    if code.startswith("#!"):
        known, language = from_shebang(code)
        if known:
            return language
    tree = None if _INCLUDE.search(code) else parse_python(code)
    if tree is not None and has_python_in_it(tree):
        return "python"
    return None if "\0" in code[:_LONGEST_REMEMBERED] else most_likely(code)  # bytes of something, no text


def choose_language(code: str, own: str) -> str:
    """The language to run a text in, where the caller has named none.

    Args:
        code: The text.
        own: That of the sandbox. It stays where the text is a program of it, though it looks like another's, too.
    """
    if own == "python" and not code.startswith("#!") and (begins_as_python(code) or parse_python(code) is not None):
        return own
    found = detect_language(code)
    return own if found is None or found in _COVERED.get(own, ()) else found
