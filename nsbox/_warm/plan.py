"""Which executions a warm interpreter may run, and how one is started."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nsbox._config import SandboxConfig
from nsbox._errors import ConfigError

_STAGE = ("stage.py",)
_REST = ("leaving.py", "zygote.py")
_READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LANG", "LC_", "OMP_", "OPENBLAS_", "MKL_")
"""Variables that an interpreter, its loader or its libraries read once: who sets one gets an interpreter of his own."""


@dataclass(frozen=True, slots=True)
class InterpreterPlan:
    """How a warm interpreter is started.

    Attributes:
        argv: The program, its two texts, and the modules to import.
        environment: NAME=value.
    """

    argv: tuple[bytes, ...]
    environment: tuple[bytes, ...]


def can_be_warm(config: SandboxConfig) -> bool:
    """Whether sandboxes of a configuration can have a warm interpreter.

    Only on the host's root, and where no program can change anything of that, by a mount either: there the interpreter
    is the application's own. One in an image would run, before it is confined, what the image brings; and one that
    imports from a directory that programs write to, what they have written, with all that the launcher may.
    """
    writable = config.writable_root or any(not mount.read_only for mount in config.mounts)
    return config.warm and config.rootfs == "host" and not writable and bool(sys.executable)


def check_preload(config: SandboxConfig) -> None:
    """Check that what is to be imported ahead has an interpreter to be imported into.

    Raises:
        ConfigError: It has not.
    """
    if config.preload and not (can_be_warm(config) and config.runtime == "python"):
        raise ConfigError(
            f"preload={config.preload!r}: needs warm=True, runtime='python' and rootfs='host', not writable, "
            "and no mount that is writable"
        )


def plan_interpreter(config: SandboxConfig, runtime_environment: Mapping[str, str]) -> InterpreterPlan:
    """Plan the interpreter of a kind of sandbox.

    It starts as the application's own code, with privileges: so nothing of the caller's mounts is imported but what
    `preload` names, found by PYTHONPATH, which it therefore gets only as a word. No home either: `site` would run
    what it finds there.

    Args:
        config: Of it, `preload`, and the variable PYTHONPATH that it may be found by.
        runtime_environment: Variables of the language.
    """
    directory = os.path.dirname(os.path.abspath(sys.executable))
    environment = {
        "PATH": f"{directory}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "LD_BIND_NOW": "1",  # ld.so(8): bound once, and not by each child in pages that it has to copy
        **{name: value for name, value in runtime_environment.items() if "{" not in value and name != "PYTHONPATH"},
        # one thread, or it could not fork
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    path = config.environment.get("PYTHONPATH", "") if config.preload else ""
    argv = (os.path.join(directory, "python3"), "-c", _text(_STAGE), _text(_REST), path, *config.preload)
    return InterpreterPlan(
        argv=tuple(os.fsencode(word) for word in argv),
        environment=tuple(os.fsencode(f"{name}={value}") for name, value in environment.items()),
    )


@functools.cache
def _text(names: tuple[str, ...]) -> str:
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


def may_run_warm(text: bytes, variables: Mapping[str, str]) -> bool:
    """Whether an interpreter that has started already can run a program as a fresh one would.

    Args:
        text: The program.
        variables: Those of its sandbox, its caller and its options.
    """
    if b"\0" in text:
        return False  # the parser of files says it in other words than compile() does
    return not any(name.startswith(_READ_AT_START) and name != "PYTHONPATH" for name in variables)
