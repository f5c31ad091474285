"""Docstrings of the classes for blocking code, from the asynchronous ones, where everything is told.

`help(Sandbox.execute)` has to tell as much as `help(AsyncSandbox.execute)`, and no text may stand twice. In the source
a docstring of the blocking class says "See `AsyncSandbox.execute`."; at import that sentence becomes the text it names.
Indentation is left to `help`, since both stand at the same depth: the import is to cost next to nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=type)

_REFERENCE = re.compile(r"See `\w+(?:\.\w+)?`[.;]?\s*")
_INDENTATION = "" if sys.version_info >= (3, 13) else " " * 8  # the compiler takes it away since 3.13
_BLOCKING_WORDS = (
    ("`async with`", "`with`"),
    ("`async with ", "`with "),
    ("`async for ", "`for "),
    ("`aclose`", "`close`"),
    ("An async iterator", "An iterator"),
    ("an async iterator", "an iterator"),
    ("Call an async function", "Call a function"),
    ("Cancellation", "KeyboardInterrupt"),
)


def documented_by(source: type) -> Callable[[T], T]:
    """A decorator of classes that completes the docstrings of methods and properties by those of `source`.

    Args:
        source: The asynchronous class. A method `close` is described by its `aclose`.

    A docstring that does not begin with "See `…`" stays as it is; what follows that sentence stays behind the text that
    it becomes. The class' own docstring keeps its first paragraph and gets the other ones of `source`, where it begins
    in this way. Under `python -OO` there are no docstrings, and nothing is done.
    """

    def decorate(kind: T) -> T:
        for name, member in vars(kind).items():
            if not name.startswith("_") and (isinstance(member, property) or callable(member)):
                own = member.__doc__ or ""
                reference = _REFERENCE.match(own)
                if reference and (text := _text(source, name)):
                    member.__doc__ = _merged(text, own[reference.end() :].strip())
        own = (kind.__doc__ or "").rstrip()
        if _REFERENCE.match(own):
            kind.__doc__ = f"{own}{_blocking((source.__doc__ or '')[_first_paragraph(source) :])}"
        return kind

    return decorate


def _first_paragraph(source: type) -> int:
    """How long it is."""
    text = source.__doc__ or ""
    end = text.find("\n\n")
    return len(text) if end < 0 else end


def _text(source: type, name: str) -> str:
    member = getattr(source, name, None) or getattr(source, f"a{name}", None)
    return _blocking(member.__doc__ or "").rstrip() if member is not None else ""


def _blocking(text: str) -> str:
    for asynchronous, blocking in _BLOCKING_WORDS:
        text = text.replace(asynchronous, blocking)
    return text


def _merged(text: str, more: str) -> str:
    """A text and what the blocking class adds to it; such a section, "Args:", takes the other's place."""
    if not more:
        return text
    added = f"{_INDENTATION}{more[:1].upper()}{more[1:]}".split("\n\n")
    replaced = {_heading(one) for one in added}
    return "\n\n".join([*(one for one in text.split("\n\n") if _heading(one) not in replaced), *added])


def _heading(paragraph: str) -> str:
    """Its first line."""
    return paragraph.strip().partition("\n")[0]
