"""The layout is the architecture: imports point one way, and the public package is names only."""

import ast
import graphlib
import importlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = (
    ("_errors", "_documented"),
    ("_states",),
    ("_config",),
    ("_outputs",),
    ("_results", "_records", "_tracebacks"),
    ("_events",),
    ("_verdict", "_seccomp", "_cgroups", "_host", "_runtimes", "_languages", "_store"),
    ("_plan", "_warm", "_files", "_contexts", "_network"),
    ("_supervisor", "_compile"),
    ("_metrics", "_ports", "_rootfs"),
    ("_core",),
    ("_handles", "_route"),
    ("_code_context",),
    ("_sandbox",),
    ("_pool", "_private_network"),
    ("_blocking_handles",),
    ("_blocking",),
    ("_blocking_pool",),
    ("__init__",),
    ("_cli",),
)
"""The modules and packages directly below nsbox, lowest first. What is in one line may import what is before it, and
its neighbours, as long as there is no circle."""

RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def package_directory() -> Path:
    """Where the nsbox under test is installed."""
    spec = importlib.util.find_spec("nsbox")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def is_for_types_only(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose imports never happen."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, in functions too, that can run."""
    for child in ast.iter_child_nodes(node):
        if not is_for_types_only(child):
            yield child
            yield from statements(child)


def imported_units(path: Path, package: Path) -> set[str]:
    """The names directly below nsbox that a file imports; `__init__` stands for the package itself."""
    folder = ("nsbox", *path.relative_to(package).parent.parts)
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else ()
            base = ".".join((*start, *([node.module] if node.module else [])))
            modules = [f"{base}.{alias.name}" for alias in node.names] if base == "nsbox" else [base]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "nsbox":
                unit = parts[1] if len(parts) > 1 else "__init__"
                found.add(unit if unit.startswith("_") else "__init__")
    return found


def unit_of(path: Path, package: Path) -> str:
    """The module or package directly below nsbox that a file belongs to."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def wrong_imports(package: Path) -> list[str]:
    """Every file that imports from a higher layer, every unit without a layer, and every circle."""
    complaints = []
    graph: dict[str, set[str]] = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        unit = unit_of(path, package)
        if unit not in RANKS:
            complaints.append(f"{path.relative_to(package)}: give it a layer in LAYERS")
            continue
        others = imported_units(path, package) - {unit}
        graph[unit] |= others
        complaints += [
            f"{path.relative_to(package)} imports {other}, which is above it"
            for other in sorted(others)
            if RANKS.get(other, len(LAYERS)) > RANKS[unit]
        ]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        complaints.append(f"a circle: {' -> '.join(error.args[1])}")
    return complaints


def statements_that_are_not_names(source: str) -> list[str]:
    """What a names-only package may not have: all but its docstring, imports, and dunder assignments."""
    return [
        ast.unparse(node).splitlines()[0]
        for node in ast.parse(source).body
        if not (
            isinstance(node, ast.ImportFrom)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.Assign) and all(ast.unparse(target).startswith("__") for target in node.targets))
        )
    ]


def test_imports_point_one_way() -> None:
    """No module of nsbox imports from a layer above its own."""
    assert wrong_imports(package_directory()) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("_errors.py", "from nsbox._config import SandboxConfig", "_errors.py imports _config, which is above it"),
        ("_errors.py", "from ._config import SandboxConfig", "_errors.py imports _config, which is above it"),
        ("_plan/mounts.py", "def late():\n    import nsbox._cli", "_plan/mounts.py imports _cli, which is above it"),
        ("_plan/mounts.py", "from .. import _blocking", "_plan/mounts.py imports _blocking, which is above it"),
        ("_plan/mounts.py", "from nsbox import Sandbox", "_plan/mounts.py imports __init__, which is above it"),
        ("_new.py", "", "_new.py: give it a layer in LAYERS"),
    ],
)
def test_an_import_that_points_up_is_seen(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    """Each way to write one is found; pointing down, and for types only, is allowed."""
    for name, text in (
        (
            "_errors.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nsbox._config import SandboxConfig",
        ),
        ("_plan/mounts.py", "from nsbox._errors import ConfigError\nfrom ..  import _config\nfrom .steps import Step"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert wrong_imports(tmp_path) == []
    (tmp_path / file).write_text(source)
    assert wrong_imports(tmp_path) == [complaint]


def test_a_circle_of_neighbours_is_seen(tmp_path: Path) -> None:
    """One neighbour may import another, but not both each other."""
    (tmp_path / "_host.py").write_text("from nsbox._cgroups import tree")
    assert wrong_imports(tmp_path) == []
    (tmp_path / "_cgroups.py").write_text("from nsbox._host import probe")
    (complaint,) = wrong_imports(tmp_path)
    assert complaint.startswith("a circle: ")


def test_the_public_package_is_names_only() -> None:
    """nsbox/__init__.py defines nothing, and its __all__ is what it imports."""
    source = (package_directory() / "__init__.py").read_text()
    assert statements_that_are_not_names(source) == []
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    public = importlib.import_module("nsbox").__all__
    assert sorted(public) == sorted(name for name in names if not name.startswith("_"))
    assert statements_that_are_not_names("import os\ndef execute(): ...") == ["import os", "def execute():"]
