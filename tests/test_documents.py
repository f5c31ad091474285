"""The documents tell the truth: examples run, links lead somewhere, tables are the code's."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import needs
import pytest

import nsbox
from nsbox import _verdict
from nsbox._cgroups.lacks import CAPABILITIES, Lack
from nsbox._cgroups.parents import MOVE_VARIABLE, PARENT_VARIABLE
from nsbox._host import KNOWN_CAPABILITIES, HostFacts, capability_checks, probe_host
from nsbox._host.network import TRIED, NetworkFacts
from nsbox._ports import exchange, forward, gateway, heads, inside, links
from nsbox._ports.gateway import GATEWAY_VARIABLE, PUBLIC_GATEWAY_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
IN_DOCS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
SECONDS = 60
"""How long one example may take; the longest takes a few."""

LIMITED: Mapping[str, type] = {
    "resources.cpu": nsbox.CpuAllocation,
    "resources.memory": nsbox.MemoryAllocation,
    "resources.disk": nsbox.DiskAllocation,
    "resources.network": nsbox.NetworkAllocation,
    "resources.processes": nsbox.ProcessAllocation,
    "enforcement": nsbox.EnforcementPolicy,
}
OPTIONS = ("timeout", "cpu_timeout", "memory_limit_mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: Its file.
        line: Of its first line of content.
        language: The word behind the fence.
        text: Its content.
        output: The content of the `text` block right behind it; None where there is none.
    """

    document: Path
    line: int
    language: str
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    fenced = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    found = []
    for index, match in enumerate(fenced):
        follows = fenced[index + 1] if index + 1 < len(fenced) else None
        is_output = follows is not None and follows[1] == "text" and not text[match.end() : follows.start()].strip()
        found.append(
            Block(
                document=document,
                line=text.count("\n", 0, match.start(2)) + 1,
                language=match[1],
                text=match[2],
                output=follows[2] if follows is not None and is_output else None,
            )
        )
    return found


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def matches(expected: str, printed: str) -> bool:
    """Whether this was printed; "…" stands for anything, also for several lines. Trailing white space is no matter."""
    parts = [re.escape(part) for part in "\n".join(line.rstrip() for line in expected.splitlines()).split("…")]
    return re.fullmatch(".*".join(parts), "\n".join(map(str.rstrip, printed.splitlines())), re.DOTALL) is not None


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table whose first column has this heading."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    return [cells(line) for line in takewhile(lambda line: line.startswith("|"), lines[start + 2 :])]


def cells(row: str) -> list[str]:
    """The cells of a row."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def anchors(document: Path) -> set[str]:
    """What links into a document can name: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """The relative links of a document that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


PYTHON = [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]
CONSOLE = [block for block in blocks(ROOT / "README.md") if block.language == "console"]


def run_in(directory: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would: in an empty directory, with the tools of this interpreter in PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return subprocess.run(
        command, cwd=directory, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_example_runs_and_prints_what_the_document_says(block: Block, tmp_path: Path) -> None:
    """In a process of its own, as it stands."""
    (tmp_path / "example.py").write_text(block.text, encoding="utf-8")
    ended = run_in(tmp_path, [sys.executable, "example.py"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert block.output is None or matches(block.output, ended.stdout), ended.stdout


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_every_command_of_the_readme_prints_what_it_says(block: Block, tmp_path: Path) -> None:
    """Each line that begins with "$ " is run by a shell; what follows is its stdout and stderr."""
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert steps
    for command, expected in steps:
        ended = run_in(tmp_path, ["sh", "-c", f"{{ {command}; }} 2>&1"])
        assert matches(expected, ended.stdout), (command, ended.stdout)


def test_the_example_checks_can_fail(tmp_path: Path) -> None:
    """Other output is seen, elision stands for anything but not for everything, and blocks are found."""
    assert matches("a …\nc\n", "a b\nc\n")
    assert matches("a\n…\nd\n", "a\nb\nc\nd\n")
    assert not matches("a …\nc\n", "a b\nd\n")
    assert not matches("a\n", "a\nb\n")
    document = tmp_path / "one.md"
    document.write_text("```python\nx\n```\n\n```text\ny\n```\n\nwords\n\n```text\nz\n```\n[a](gone.md) [b](#c)\n# B\n")
    first, second, third = blocks(document)
    assert (first.text, first.output, first.line) == ("x\n", "y\n", 2)
    assert second.output is None
    assert third.language == "text"
    assert broken_links(document) == ["gone.md", "#c"]
    assert anchors(document) == {"b"}
    assert {str(block.document.name) for block in PYTHON} >= {"README.md", "limits.md", "hosts.md"}


def test_the_documents_are_all_there() -> None:
    """README.md names each of them in its table."""
    named = {row[0] for row in table_rows(prose(ROOT / "README.md"), "document")}
    assert named >= {f"[docs/{name}](docs/{name})" for name in IN_DOCS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    """Links to other hosts are not followed."""
    assert broken_links(document) == []


def default_of(owner: type, name: str) -> object:
    """The default of a field of a dataclass."""
    (field,) = (field for field in dataclasses.fields(owner) if field.name == name)
    assert field.default is not dataclasses.MISSING, f"{owner.__name__}.{name} has no plain default"
    return field.default


def documented_defaults() -> dict[str, object]:
    """Field to the default that docs/limits.md gives; of a sequence too long for a table, its length."""
    found: dict[str, object] = {}
    for name, _, default, *_ in table_rows(prose(ROOT / "docs" / "limits.md"), "field"):
        value = re.match(r"`([^`]+)`", default)
        assert value is not None, name
        found[name.strip("`")] = ast.literal_eval(value[1])
    return found


def test_every_limit_is_documented_with_the_default_that_the_code_has() -> None:
    """Every field of the allocations and of the enforcement policy, and no other."""
    expected = {f"{path}.{field.name}": default_of(owner, field.name) for path, owner in LIMITED.items()
                for field in dataclasses.fields(owner)}  # fmt: skip
    expected |= {f"options.{name}": default_of(nsbox.ExecutionOptions, name) for name in OPTIONS}
    networks = nsbox.NetworkAllocation().blocked_networks
    assert len(networks) > 8
    expected["resources.network.blocked_networks"] = len(networks)
    documented = documented_defaults()
    assert documented == expected
    assert {name: type(value) for name, value in documented.items()} == {
        name: type(value) for name, value in expected.items()
    }


def test_every_limit_that_is_in_force_is_documented_with_what_enforces_it() -> None:
    """The second table of docs/limits.md has the fields of the first, but for those that change nothing or say how."""
    text = prose(ROOT / "docs" / "limits.md")
    enforced: set[str] = set()
    for fields, *mechanisms in table_rows(text.partition("## What enforces it")[2], "field"):
        assert len(mechanisms) == 4, fields
        assert all(mechanisms), fields
        first, *others = re.findall(r"`([^`]+)`", fields)
        group = first.rpartition(".")[0]
        enforced |= {first, *(name if "." in name else f"{group}.{name}" for name in others)}
    idle = {name.strip("`") for name, _, _, sees, _ in table_rows(text, "field") if "this version" in sees}
    assert enforced == documented_defaults().keys() - idle - {"enforcement.enforce_memory_limits"}


def a_host_that_lacks_everything() -> HostFacts:
    """This host's facts, with whatever a capability rests on taken away."""
    facts = probe_host()
    return dataclasses.replace(
        facts,
        capabilities=0,
        namespaces=frozenset(),
        sysctls={"user.max_user_namespaces": "0"},
        subuids=0,
        subgids=0,
        syscalls=dict.fromkeys(facts.syscalls, False),
        seccomp_actions=frozenset(),
        libseccomp=None,
        proc_masks=("/proc/keys",),
        filesystems=frozenset(),
        tools=dict.fromkeys(facts.tools),
        loop_error="missing",
        network=NetworkFacts(
            forwarding=False,
            forwarding6=False,
            route6=False,
            tun_error="missing",
            tried=dict.fromkeys(TRIED, "missing"),
        ),
        cgroup_lacks={name: Lack(why="missing", remedy="none") for name in CAPABILITIES},
    )


def test_every_capability_is_documented_with_what_its_lack_costs() -> None:
    """The table of docs/hosts.md has each id once, and says what `nsbox doctor` says."""
    rows = table_rows(prose(ROOT / "docs" / "hosts.md"), "id")
    documented = {name.strip("`"): costs for name, costs, _ in rows}
    assert len(documented) == len(rows)
    assert documented.keys() == KNOWN_CAPABILITIES
    lacking = {check.id: check.costs for check in capability_checks(a_host_that_lacks_everything())}
    assert all(lacking.values()), lacking
    assert documented == lacking
    assert all(remedy for _, _, remedy in rows)


def test_the_environment_variables_and_the_lanes_are_documented() -> None:
    """Those that the code reads, and those that the tests know."""
    text = prose(ROOT / "docs" / "hosts.md")
    assert {row[0] for row in table_rows(text, "variable")} == {f"`{PARENT_VARIABLE}`", f"`{MOVE_VARIABLE}`"}
    of_ports = table_rows(prose(ROOT / "docs" / "ports.md"), "variable")
    assert {row[0] for row in of_ports} == {f"`{GATEWAY_VARIABLE}`", f"`{PUBLIC_GATEWAY_VARIABLE}`"}
    assert {row[0].strip("`") for row in table_rows(text, "lane")} == set(needs.LANES)


def test_the_figures_of_exposed_ports_are_those_of_the_code() -> None:
    """Sizes, numbers and patience, where docs/ports.md gives them."""
    text = prose(ROOT / "docs" / "ports.md")
    for sentence in (
        f"At most {forward.CHUNK >> 10} KiB of each direction",
        f"at most {links.MOST_CONNECTIONS} connections at a time",
        f"new ones for up to {inside.PATIENCE_SECONDS:g} s",
        f"does not accept for {inside.CONNECT_SECONDS:g} s",
        f"a head of more than {heads.LARGEST_HEAD >> 10} KiB",
        f"A client has {exchange.IDLE_SECONDS:g} s for each head; a gateway has at most {gateway.MOST_CLIENTS} conn",
    ):
        assert sentence in text


def causes_in_order() -> list[str]:
    """The causes that the verdict function can give, in the order of its rules."""
    tree = ast.parse(inspect.getsource(_verdict._decide))
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    pairs = [value for value in returns if isinstance(value, ast.Tuple)]
    assert len(pairs) == len(returns)
    ordered = sorted(pairs, key=lambda value: value.lineno)
    return [ast.literal_eval(value.elts[1]) for value in ordered]


def test_the_precedence_of_verdicts_is_documented_in_the_order_of_the_code() -> None:
    """The numbered list below "Facts, then verdict" in docs/architecture.md."""
    section = prose(ROOT / "docs" / "architecture.md").partition("## Facts, then verdict")[2].partition("\n## ")[0]
    assert re.findall(r"^\d+\. `(\w+)`", section, re.MULTILINE) == causes_in_order()


def mentioned_files() -> list[str]:
    """The files and packages that docs/architecture.md names; those of the launcher where its sources are.

    The copy that `scripts/rootless` makes has nsbox from a wheel, and no sources of the launcher.
    """
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = "nsbox|native" if (ROOT / "native").is_dir() else "nsbox"
    return sorted(set(re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", text)))


@pytest.mark.parametrize("name", mentioned_files())
def test_every_file_that_the_architecture_names_is_there(name: str) -> None:
    """What belongs to the package, in the package under test; the launcher's source, in the checkout."""
    folder, _, rest = name.partition("/")
    if folder == "native":
        assert (ROOT / name).is_file()
    else:
        package = importlib.import_module("nsbox").__file__
        assert package is not None
        assert (Path(package).parent / rest).exists()


def test_every_dependency_is_justified() -> None:
    """The table of docs/architecture.md has what pyproject.toml installs."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = {re.split(r"[^\w-]", requirement)[0] for requirement in declared}
    assert {row[0] for row in table_rows(prose(ROOT / "docs" / "architecture.md"), "package")} == wanted
