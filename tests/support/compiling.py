"""One compile cache for all tests that compile: precompiled headers and standard libraries take seconds to make."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = {
    "python": "python3", "javascript": "node", "typescript": "tsc", "go": "go", "rust": "/usr/bin/rustc", "c": "gcc",
    "cpp": "g++", "java": "javac", "bash": "bash",
}  # fmt: skip
"""The program without which a language's tests are skipped."""


def languages(*names: str) -> list[pytest.param]:  # type: ignore[valid-type]
    """Parameters, each with the marker of its toolchain."""
    return [pytest.param(name, marks=pytest.mark.needs_tool(TOOLS[name])) for name in names or TOOLS]


@pytest.fixture(scope="session", name="_compile_cache")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory, which NSBOX_CACHE_DIR names meanwhile."""
    directory = tmp_path_factory.mktemp("cache", numbered=True)
    before = os.environ.get("NSBOX_CACHE_DIR")
    os.environ["NSBOX_CACHE_DIR"] = str(directory)
    yield directory
    if before is None:
        del os.environ["NSBOX_CACHE_DIR"]
    else:
        os.environ["NSBOX_CACHE_DIR"] = before
