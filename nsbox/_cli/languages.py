"""Which languages this host can run: the part of `nsbox doctor` about toolchains."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nsbox._compile import Program, find_program
from nsbox._config import Runtime, SandboxConfig
from nsbox._plan import search_path
from nsbox._runtimes import RUNTIMES

_SECONDS = 20.0
_LONGEST = 200  # characters of a version


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language as a sandbox on the host's root has it.

    Attributes:
        name: As in `nsbox.RUNTIMES`.
        ok: Whether all its programs are there.
        found: The first line that its version command prints, or what is missing.
        remedy: What brings it; "" where it is there.
    """

    name: str
    ok: bool
    found: str
    remedy: str


def languages() -> tuple[Language, ...]:
    """All of them; runs the version command of each on the host, all at a time. Blocks for about a second."""
    config = SandboxConfig()
    with ThreadPoolExecutor(max_workers=4) as pool:
        return tuple(pool.map(lambda runtime: _look(config, runtime), RUNTIMES.values()))


def _look(config: SandboxConfig, runtime: Runtime) -> Language:
    search = search_path(config)
    missing = [name for name in _programs(runtime) if find_program(config, name, search) is None]
    if missing:
        packages = " ".join(runtime.packages)
        return Language(
            name=runtime.name, ok=False, found=f"no {', '.join(missing)} in {search}",
            remedy=f"apt-get install {packages}",
        )  # fmt: skip
    found = find_program(config, runtime.version[0], search)
    assert isinstance(found, Program)
    return Language(name=runtime.name, ok=True, found=_version(found, runtime), remedy="")


def _programs(runtime: Runtime) -> Iterable[str]:
    commands = [argv[0] for argv in (runtime.compile, runtime.run, runtime.version) if argv]
    return dict.fromkeys(name for name in commands if "{" not in name)


def _version(program: Program, runtime: Runtime) -> str:
    """Of a toolchain that the host's administrator installed, as that is where it is run."""
    environment = {
        "PATH": os.path.dirname(program.inside) + ":/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
    }
    try:
        done = subprocess.run(
            [program.inside, *runtime.version[1:]], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as exc:
        return f"{program.inside}: {exc}"
    text = (done.stdout or done.stderr).decode("utf-8", "replace")
    return (text.splitlines() or [program.inside])[0][:_LONGEST]
