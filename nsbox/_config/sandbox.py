"""The configuration of one sandbox."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nsbox._config.frozen import FrozenMap
from nsbox._config.policies import EnforcementPolicy, MonitoringThresholds, RecoveryPolicy
from nsbox._config.resources import ResourceAllocation
from nsbox._config.runtime import Runtime, language_name
from nsbox._config.validation import (
    assign,
    distinct,
    environment,
    flag,
    host_path,
    inside_path,
    instance_of,
    items,
    refuse,
    seconds,
    text,
    text_map,
    texts,
)

_LONGEST_USER_ID = 256
_ROOT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,159}")
_SHORTEST_INTERVAL = 0.01  # seconds; sampling more often would measure itself
_OWN_TREES = ("/proc", "/dev")  # made anew for each sandbox; a mount over them would defeat what protects them


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or directory of the host that the sandbox sees.

    Attributes:
        source: The path on the host, absolute. Whether it exists is checked by `start`.
        target: The path in the sandbox: absolute, without "..", neither "/" nor in /proc or /dev.
        read_only: False lets the program write to the host.
    """

    source: Path
    target: str
    read_only: bool = True

    def __post_init__(self) -> None:
        target = inside_path("mount.target", self.target)
        if target == "/" or any(target == tree or target.startswith(tree + "/") for tree in _OWN_TREES):
            refuse("mount.target", self.target, "a path below the root that is not in " + " or ".join(_OWN_TREES))
        flag("mount.read_only", self.read_only)
        assign(self, source=host_path("mount.source", self.source, absolute=True), target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """All that a sandbox is made from; frozen, checked when made, hashable, and strict by default.

    Attributes:
        runtime: A name from `nsbox.RUNTIMES`, or a `Runtime`. Whether a name is known is checked by `start`.
        user_id: Whose sandbox it is, for the caller's own use; 1 to 256 characters.
        tags: Names and values for the caller's own use.
        environment: Variables of every execution.
        resources: Layer 1, what the kernel enforces.
        thresholds: Layer 2, when to warn.
        enforcement: Layer 3, what ends an execution.
        recovery: How to try again.
        rootfs: "host": this machine's /usr and so on, read-only; or the name of a root in the cache (`nsbox rootfs
            list`); or an absolute path to a directory with a root file system, or to an OCI image layout, which is
            unpacked into the cache by the first `start`. A str without "/" is a name, and never a path.
        mounts: What else of the host the sandbox sees; each target once.
        working_directory: Where executions start: absolute, without "..".
        writable_root: True: /usr, /etc, /var and /opt are writable by root inside, within the disk quota, for this
            sandbox only; see docs/root-inside.md. Needs root on the host.
        security: The syscall policy: "strict", "default", or the `Path` of a policy file. A str is never a path, so
            that a misspelled name is refused.
        require: Capabilities of the host that must be there, else `UnsupportedHostError`; see `nsbox doctor`.
        warm: Keep a warm interpreter for the runtime, and fork executions from it.
        preload: Modules that the warm interpreter imports before any untrusted code.
        heartbeat_interval: Seconds between two pings of the sandbox's PID 1, at least 0.01.
        metrics_interval: Seconds between two looks at its counters, at least 0.01; see docs/metrics.md.
        store: The SQLite file for executions, metrics and state; None: nothing is kept.

    Raises:
        ConfigError: Names the field, the value and what is allowed.
    """

    runtime: str | Runtime = "python"
    user_id: str = "default"
    tags: Mapping[str, str] = field(default_factory=FrozenMap)
    environment: Mapping[str, str] = field(default_factory=FrozenMap)
    resources: ResourceAllocation = field(default_factory=ResourceAllocation)
    thresholds: MonitoringThresholds = field(default_factory=MonitoringThresholds)
    enforcement: EnforcementPolicy = field(default_factory=EnforcementPolicy)
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)
    rootfs: str | Path = "host"
    mounts: Sequence[Mount] = ()
    working_directory: str = "/workspace"
    writable_root: bool = False
    security: Literal["strict", "default"] | Path = "default"
    require: Sequence[str] = ()
    warm: bool = True
    preload: Sequence[str] = ()
    heartbeat_interval: float = 30.0
    metrics_interval: float = 1.0
    store: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.runtime, Runtime):
            language_name("runtime", self.runtime)
        if len(text("user_id", self.user_id, empty=False)) > _LONGEST_USER_ID:
            refuse("user_id", self.user_id, f"at most {_LONGEST_USER_ID} characters")
        instance_of("resources", self.resources, ResourceAllocation)
        instance_of("thresholds", self.thresholds, MonitoringThresholds)
        instance_of("enforcement", self.enforcement, EnforcementPolicy)
        instance_of("recovery", self.recovery, RecoveryPolicy)
        if self.resources.memory.oom_kill_disable and not self.enforcement.enforce_memory_limits:
            refuse("resources.memory.oom_kill_disable", True, "False with enforcement.enforce_memory_limits=False")
        flag("writable_root", self.writable_root)
        flag("warm", self.warm)
        named = isinstance(self.security, str) and self.security in ("strict", "default")
        if not named and not isinstance(self.security, Path):
            refuse("security", self.security, "'strict', 'default' or the Path of a policy file")
        assign(
            self,
            tags=text_map("tags", self.tags),
            environment=environment("environment", self.environment),
            rootfs=_rootfs(self.rootfs),
            mounts=_mounts(self.mounts),
            working_directory=inside_path("working_directory", self.working_directory),
            require=texts("require", self.require, empty=False),
            preload=_modules(self.preload),
            heartbeat_interval=seconds("heartbeat_interval", self.heartbeat_interval, minimum=_SHORTEST_INTERVAL),
            metrics_interval=seconds("metrics_interval", self.metrics_interval, minimum=_SHORTEST_INTERVAL),
            store=None if self.store is None else host_path("store", self.store, absolute=False),
        )


def _rootfs(value: object) -> str | Path:
    """Take "host", a name, or an absolute path, never "/": that would show the program everything of the host."""
    if isinstance(value, str) and _ROOT_NAME.fullmatch(value):
        return value
    path = host_path("rootfs", value, absolute=True)
    if posixpath.normpath(path).strip("/") == "":
        refuse("rootfs", value, "'host', a name such as 'python', or a directory below the root of the host")
    return path


def _mounts(value: object) -> tuple[Mount, ...]:
    mounts = tuple(instance_of(f"mounts[{index}]", item, Mount) for index, item in enumerate(items("mounts", value)))
    distinct("the targets of mounts", tuple(mount.target for mount in mounts))
    return mounts


def _modules(value: object) -> tuple[str, ...]:
    names = texts("preload", value)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            refuse("preload", name, 'the name of a module such as "numpy" or "os.path"')
    return names
