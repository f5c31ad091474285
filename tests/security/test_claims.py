"""The list of claims in docs/security.md and the tests are the same."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
IDS = re.compile(r"^((?:[SKFHNIRLGXP]\d\d(?:,\s)?)+): ")


def every_test() -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every test of this folder."""
    return [
        (path, node)
        for path in sorted(HERE.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def ids_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The ids that a test's docstring begins with."""
    match = IDS.match(ast.get_docstring(node) or "")
    return re.split(r",\s", match[1]) if match else []


def ids_in_tests() -> dict[str, set[str]]:
    """Each id that a test's docstring begins with, and the files that have one."""
    found: dict[str, set[str]] = {}
    for path, node in every_test():
        for one in ids_of(node):
            found.setdefault(one, set()).add(path.name)
    return found


def test_every_claim_has_a_test_and_every_test_its_claim() -> None:
    """The ids of the table and of the docstrings are equal, and the table names the files that the tests are in."""
    text = (HERE.parent.parent / "docs/security.md").read_text()
    rows = re.findall(r"^\| ([A-Z]\d\d) \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    claimed = {one: set(re.findall(r"test_\w+\.py", files)) for one, files in rows}
    assert len(rows) == len(claimed) > 40
    assert claimed == ids_in_tests()


def test_every_test_here_states_a_claim() -> None:
    """No test of this folder is without an id, but for those of this file."""
    nameless = [node.name for path, node in every_test() if path.name != "test_claims.py" and not ids_of(node)]
    assert nameless == []
