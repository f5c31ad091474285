"""Whether a text is Python: by the only judge of that, its parser, and by what no other language would parse as."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import warnings

_LONGEST = 1 << 16
"""Characters: beyond, parsing takes longer (60 ms) than a guess is worth."""
_DEEPEST = 100
"""Brackets, and operators in a row: the parser refuses deep nesting by itself, and this before it has begun to work."""
_RUN = re.compile(r"(?:[-+~] ?|not |await |lambda: ?|\*\* ?-? ?){100}|(?:\.\w+|\(\)|\[\w*\]){400}")

_BEGINNING = re.compile(
    r"(?:[ \t]*(?:#[^\n]*)?\n)*(?:from[ \t]+[\w.]+[ \t]+import[ \t(]|(?:async[ \t]+)?def[ \t]+\w+\()"
)
"""The first line that is no comment, of no other language than Python."""

_STATEMENTS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.For, ast.AsyncFor, ast.While,
    ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Global, ast.Nonlocal, ast.Assert, ast.Raise, ast.Delete, ast.Match,
)  # fmt: skip
_EXPRESSIONS = (
    ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.JoinedStr, ast.IfExp, ast.BoolOp,
    ast.NamedExpr, ast.Starred, ast.Slice, ast.FloorDiv,
)  # fmt: skip
_NAMES = frozenset(name for name in dir(builtins) if name.isascii() and not keyword.iskeyword(name)) - {"eval", "exit"}
_MOST_NODES = 3000


def parse_python(code: str) -> ast.Module | None:
    """The syntax tree, or None: it is no Python, or too long or too deep to try."""
    if len(code) > _LONGEST or _runs_on(code) or _too_deep(code):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None


def begins_as_python(code: str) -> bool:
    """Whether its beginning says enough, which takes a hundredth of the time of parsing it."""
    return _BEGINNING.match(code) is not None


def _runs_on(code: str) -> bool:
    """Whether _RUN is in it. To count what that is made of rules it out in most texts, and is eight times as fast."""
    operators = sum(map(code.count, ("-", "+", "~", "not ", "await ", "lambda:", "**")))
    return (operators >= 100 or sum(map(code.count, ".([")) >= 400) and _RUN.search(code) is not None


def _too_deep(code: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[(\[{]|[)\]}]", code):
        depth += 1 if bracket in "([{" else -1
        if depth > _DEEPEST:
            return True
    return False


def has_python_in_it(tree: ast.Module) -> bool:
    """Whether it does something that no program of another language parses as: `x = 1` and `f(1)` are everybody's."""
    for count, node in enumerate(ast.walk(tree)):
        if isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NAMES:
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | None):
            return True
        if count > _MOST_NODES:
            break
    return False
