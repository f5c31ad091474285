"""The two classes are one, and docs/api.md names all of it."""

import inspect
import re
from pathlib import Path

import pytest

import nsbox

ROOT = Path(__file__).parents[1]
DOCUMENTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAIRS = (
    (nsbox.AsyncSandbox, nsbox.Sandbox),
    (nsbox.AsyncNetwork, nsbox.Network),
    (nsbox.ExecutionStream, nsbox.BlockingExecutionStream),
    (nsbox.EventStream, nsbox.BlockingEventStream),
    (nsbox.Process, nsbox.BlockingProcess),
    (nsbox.FileWatch, nsbox.BlockingFileWatch),
)


def members(kind: type) -> dict[str, object]:
    """The public ones; `aclose` is called `close` where nothing is awaited."""
    return {name.replace("aclose", "close"): getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def parameters(member: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults; none for what is no function."""
    if not callable(member):
        return []
    return [(one.name, one.kind, one.default) for one in inspect.signature(member).parameters.values()]


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_classes_have_the_same_members_with_the_same_parameters(asynchronous: type, blocking: type) -> None:
    """No method, parameter or default is there once only."""
    one, other = members(asynchronous), members(blocking)
    assert one.keys() == other.keys()
    assert {name: parameters(member) for name, member in one.items()} == {
        name: parameters(member) for name, member in other.items()
    }


def sections(text: str) -> set[str]:
    """Those of a docstring, in Google's style."""
    return set(re.findall(r"^(?:Args|Returns|Raises):$", text, re.MULTILINE))


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS, ids=lambda kind: kind.__name__)
def test_help_of_the_blocking_class_tells_as_much_as_that_of_the_other(asynchronous: type, blocking: type) -> None:
    """Every member has its text, with the same sections; no word of it is about awaiting, or says to look elsewhere."""
    one, other = members(asynchronous), members(blocking)
    for name, member in other.items():
        text, source = inspect.getdoc(member) or "", inspect.getdoc(one[name]) or ""
        assert text, name
        assert sections(source) <= sections(text), name
        assert not text.startswith("See `"), name
        assert not re.search(r"\basync (?:with|for|iterator)|`aclose`|\bCancellation\b", text), name
    assert "KeyboardInterrupt" in (inspect.getdoc(nsbox.Sandbox.execute) or "")


def first_sentence(name: str) -> str:
    """Of a docstring, as one line."""
    text = inspect.getdoc(getattr(nsbox, name)) or ""
    return " ".join(text.split("\n\n")[0].split())


def listed_names() -> list[str]:
    """What the list of all names has: everything public but events, which have a table of their own."""
    return [
        name
        for name in nsbox.__all__
        if not (isinstance(kind := getattr(nsbox, name), type) and issubclass(kind, nsbox.Event))
    ]


def test_every_public_name_is_in_the_list() -> None:
    """With the first sentence of its docstring, in the order of `nsbox.__all__`."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", API[API.index("## All names") :], re.MULTILINE)
    constants = {"ALLOWED_TRANSITIONS", "RUNTIMES"}
    assert [name for name, _ in rows] == listed_names()
    assert [row for row in rows if row[0] not in constants] == [
        (name, first_sentence(name)) for name in listed_names() if name not in constants
    ]


def test_every_method_is_in_the_documents() -> None:
    """By its name, as code."""
    code = " ".join(re.findall(r"`[^`\n]+`|^```.*?^```", DOCUMENTS, re.MULTILINE | re.DOTALL))
    assert {name for name in members(nsbox.AsyncSandbox) if not re.search(rf"\b{name}\b", code)} == set()


def test_the_tests_that_the_table_names_are_there() -> None:
    """Each row of the comparison names a file of tests that has some."""
    files = re.findall(r"\| `(tests/[\w/]+\.py)` \|$", API, re.MULTILINE)
    assert len(files) > 25
    assert [file for file in files if "def test_" not in (ROOT / file).read_text(encoding="utf-8")] == []
