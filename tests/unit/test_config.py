"""Configuration objects: what they accept, how they refuse, and what they are after that."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsbox._config import (
    BLOCKED_NETWORKS,
    CpuAllocation,
    DiskAllocation,
    EnforcementPolicy,
    ExecutionOptions,
    FrozenMap,
    MemoryAllocation,
    MonitoringThresholds,
    Mount,
    NetworkAllocation,
    ProcessAllocation,
    RecoveryPolicy,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
)
from nsbox._errors import ConfigError

MAX_MB = (2**63 - 1) >> 20
RUNTIME = Runtime(name="tool", file_name="main.t", run=["tool", "main.t"], environment={"A": "b"})

# Of each field: values that are accepted (the edges of the range among them), and values that are refused.
Case = tuple[Callable[..., Any], str, list[Any], list[Any]]
NOT_NUMBERS = [True, "1", None, math.nan, math.inf, -math.inf, 10**400, -(10**5000)]
NOT_INTS = [True, "1", None, 1.0, math.nan, 10**400]
CASES: list[Case] = [
    (CpuAllocation, "cores", [0.001, 1, 0.5, 8192], [*NOT_NUMBERS, 0, -1, 0.0009, 8193]),
    (CpuAllocation, "limit_percent", [100, 0.1, 50.0], [*NOT_NUMBERS, 0, -1, 100.001, 0.01]),
    (CpuAllocation, "priority", ["low", "normal", "high"], ["urgent", "", 1, None, "HIGH", ["low"]]),
    (CpuAllocation, "cpuset", [None, [0], (3, 1), range(2)], [[], [-1], [True], ["0"], "01", 0, {0}, [1, 1], [8192]]),
    (MemoryAllocation, "limit_mb", [1, 512, MAX_MB], [*NOT_INTS, 0, -1, MAX_MB + 1]),
    (MemoryAllocation, "swap_limit_mb", [0, 1, MAX_MB], [*NOT_INTS, -1, MAX_MB + 1]),
    (MemoryAllocation, "oom_kill_disable", [True, False], [0, 1, None, "yes"]),
    (DiskAllocation, "quota_mb", [1, MAX_MB], [*NOT_INTS, 0, MAX_MB + 1]),
    (DiskAllocation, "quota_inodes", [16, 10**9], [*NOT_INTS, 15, 2**63]),
    (DiskAllocation, "iops_limit", [None, 1], [True, 0, 1.5, "1"]),
    (DiskAllocation, "throughput_mbps", [None, 0.001, 10], [True, 0, math.nan, math.inf, "1"]),
    (NetworkAllocation, "access", ["none", "egress"], ["all", None, True]),
    (NetworkAllocation, "bandwidth_mbps", [None, 0.001, 10], [True, 0, math.nan, math.inf]),
    (NetworkAllocation, "connections_limit", [None, 1], [True, 0, 1.5]),
    (NetworkAllocation, "allowed_ports", [None, (), [1, 65535]], [[0], [65536], [True], "80", 80, [80, 80], {80}]),
    (
        NetworkAllocation,
        "blocked_domains",
        [(), ["example.com", "*.example.com", "xn--bcher-kva.example", "_dmarc.example.com", "a" * 63 + ".b"]],
        ["example.com", [""], ["a..b"], ["*"], ["a.*.b"], ["bücher.example"], ["10.0.0.1"], ["a" * 64], [1], ["a b"]],
    ),
    (NetworkAllocation, "allowed_domains", [None, (), ["example.com"]], ["example.com", [None], ["-a.example"]]),
    (
        NetworkAllocation,
        "blocked_networks",
        [(), ["10.0.0.0/8", "fc00::/7", "192.0.2.1", "host"]],
        ["10.0.0.0/8", ["10.0.0.1/8"], ["example.com"], ["Host"], ["host/32"], [1], [b"\x0a\0\0\0"], None],
    ),
    (ProcessAllocation, "max_processes", [1, 2**22], [*NOT_INTS, 0, 2**22 + 1]),
    (ProcessAllocation, "max_open_files", [8, 2**30], [*NOT_INTS, 7, 2**30 + 1]),
    (ProcessAllocation, "max_file_size_mb", [1, MAX_MB], [*NOT_INTS, 0]),
    (ProcessAllocation, "stack_mb", [1, MAX_MB], [*NOT_INTS, 0]),
    (ResourceAllocation, "cpu", [CpuAllocation()], [None, {}, MemoryAllocation()]),
    (ResourceAllocation, "memory", [MemoryAllocation()], [None, 512]),
    (ResourceAllocation, "disk", [DiskAllocation()], [None]),
    (ResourceAllocation, "network", [NetworkAllocation()], [None, True]),
    (ResourceAllocation, "processes", [ProcessAllocation()], [None, 64]),
    (MonitoringThresholds, "cpu_percent", [100, 0.5], [*NOT_NUMBERS, 0, 101]),
    (MonitoringThresholds, "memory_percent", [100, 0.5], [*NOT_NUMBERS, 0, 101]),
    (MonitoringThresholds, "disk_percent", [100, 0.5], [*NOT_NUMBERS, 0, 101]),
    (MonitoringThresholds, "execution_seconds", [None, 0.001, 5], [True, 0, math.nan, math.inf]),
    (EnforcementPolicy, "max_execution_seconds", [0.001, 5, 1e9], [*NOT_NUMBERS, 0, -1, 1e9 + 1]),
    (EnforcementPolicy, "max_cpu_seconds", [None, 0.001, 5], [True, 0, math.nan, math.inf]),
    (EnforcementPolicy, "max_output_mb", [0.5, 16], [*NOT_NUMBERS, 0, -1, MAX_MB * 2]),
    (EnforcementPolicy, "max_concurrent_executions", [1, 65536], [*NOT_INTS, 0, 65537]),
    (EnforcementPolicy, "enforce_memory_limits", [True, False], [0, None]),
    (RecoveryPolicy, "max_retries", [0, 3], [*NOT_INTS, -1]),
    (RecoveryPolicy, "retry_delay", [0, 0.5], [*NOT_NUMBERS, -1]),
    (RecoveryPolicy, "backoff_factor", [1, 2.5, 1000], [*NOT_NUMBERS, 0.9, 1001]),
    (RecoveryPolicy, "auto_recover", [True, False], [1, None]),
    (SandboxConfig, "runtime", ["python", "c", "cpp", "c++", RUNTIME], ["", "Python", "a b", None, 1, "x" * 65]),
    (SandboxConfig, "user_id", ["u", "x" * 256, "ümlaut"], ["", "x" * 257, "a\0b", None, 1, b"u", "\ud800"]),
    (SandboxConfig, "tags", [{}, {"a": ""}], [None, {"": "x"}, {"a": 1}, {1: "a"}, [("a", "b")], {"a": "\0"}]),
    (
        SandboxConfig,
        "environment",
        [{}, {"A": "b=c"}, {"lower.case-x": "", "B": "ü\udc80"}],
        [None, {"A=B": "c"}, {"": "c"}, {"A\0": "c"}, {"A": "c\0"}, {"A": None}, {"A": 1}, {b"A": ""}, {"A": "\ud800"}],
    ),
    (SandboxConfig, "resources", [ResourceAllocation()], [None, {}]),
    (SandboxConfig, "thresholds", [MonitoringThresholds()], [None]),
    (SandboxConfig, "enforcement", [EnforcementPolicy()], [None]),
    (SandboxConfig, "recovery", [RecoveryPolicy()], [None]),
    (
        SandboxConfig,
        "rootfs",
        ["host", "root-1", "/srv/root", Path("/srv/root")],
        ["Host", "ro t", "-x", ".", "/", "//", "/a/..", Path("root"), None, ""],
    ),
    (SandboxConfig, "mounts", [(), [Mount(source=Path("/a"), target="/b")]], [None, ["/a"], "ab", {"/a": "/b"}]),
    (SandboxConfig, "working_directory", ["/", "/workspace/x"], ["", "x", "/a/../b", "/..", "/a\0", None, Path("/a")]),
    (SandboxConfig, "writable_root", [True, False], [1, None]),
    (SandboxConfig, "security", ["strict", "default", Path("policy.toml")], ["strickt", None, "/policy.toml", 1]),
    (SandboxConfig, "require", [(), ["cgroup.memory"]], ["cgroup.memory", [""], [1], None]),
    (SandboxConfig, "warm", [True, False], [1, None]),
    (SandboxConfig, "preload", [(), ["numpy", "os.path"]], ["numpy", ["a-b"], [""], ["a."], ["import os"], [1]]),
    (SandboxConfig, "heartbeat_interval", [0.01, 30], [*NOT_NUMBERS, 0, 0.009]),
    (SandboxConfig, "metrics_interval", [0.01, 30], [*NOT_NUMBERS, 0, 0.009]),
    (SandboxConfig, "store", [None, Path("a.sqlite"), "/b.sqlite"], ["", 1, "a\0", True]),
    (ExecutionOptions, "language", [None, "python"], ["", "Python", 1]),
    (ExecutionOptions, "timeout", [None, 0.001, 5, 1e9], [True, 0, -1, math.nan, math.inf, "5", 1e10]),
    (ExecutionOptions, "cpu_timeout", [None, 0.001, 5], [True, 0, -1, math.nan, math.inf, "5"]),
    (ExecutionOptions, "memory_limit_mb", [None, 1, MAX_MB], [True, 0, 1.5, "1", MAX_MB + 1]),
    (ExecutionOptions, "working_directory", [None, "x/y", "/x"], ["", "..", "a/../b", "/..", "a\0", 1]),
    (ExecutionOptions, "environment", [{}, {"A": "b"}], [None, {"A=": "b"}, {"A": 1}]),
    (ExecutionOptions, "arguments", [(), ["a", "", "-x", "ü\udc80"]], ["abc", ["a\0b"], [1], [b"a"], None, ["\ud800"]]),
    (ExecutionOptions, "stdin", [None, "", "a\0b", b"\xff\0", "ü\udc80"], [1, ["a"], bytearray(b"a"), "\ud800"]),
    (ExecutionOptions, "capture_output", [True, False], [1, None]),
    (ExecutionOptions, "capture_metrics", [True, False], [1, None]),
    (ExecutionOptions, "user", [None, "root", "nobody", 0, 65535], ["", "a:b", "a/b", "a\0", -1, 65536, True, 1.0]),
]
CONFIG_CLASSES = [case[0] for case in CASES]


def test_every_field_of_every_class_has_its_cases() -> None:
    """A field added later cannot go unchecked."""
    fields = {(kind, item.name) for kind in set(CONFIG_CLASSES) for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    assert {(kind, name) for kind, name, _, _ in CASES} == fields


@pytest.mark.parametrize(("kind", "name", "good", "bad"), CASES, ids=[f"{c[0].__name__}.{c[1]}" for c in CASES])
def test_a_field_takes_what_is_allowed_and_refuses_the_rest_by_name(
    kind: Callable[..., Any], name: str, good: list[Any], bad: list[Any]
) -> None:
    """The edges of the range are in, everything beyond is a ConfigError that names the field and stays short."""
    for value in good:
        made = kind(**{name: value})
        assert hash(made) == hash(kind(**{name: value}))
        assert made == kind(**{name: value})
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own bytes
    for value in bad:
        with pytest.raises(ConfigError, match=name) as caught:
            kind(**{name: value})
        assert len(str(caught.value)) < 500
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryAllocation(limit_mb=0), "memory.limit_mb=0: must be an int of at least 1 (MiB)"),
        (
            lambda: MemoryAllocation(limit_mb=2**62),
            f"memory.limit_mb={2**62}: must be an int of at least 1 and at most {MAX_MB} (MiB)",
        ),
        (
            lambda: EnforcementPolicy(max_execution_seconds=math.nan),
            (
                "enforcement.max_execution_seconds=nan: "
                "must be a finite number of at least 0.001 and at most 1000000000 (seconds)"
            ),
        ),
        (
            lambda: MonitoringThresholds(cpu_percent=0),
            "thresholds.cpu_percent=0: must be a finite number above 0 and at most 100 (percent)",
        ),
        (lambda: SandboxConfig(environment={"A=B": "c"}), "a key of environment='A=B': must be a name without \"=\""),
        (
            lambda: CpuAllocation(cores=0.001, limit_percent=50),
            "cpu.limit_percent=50.0: must be at least 0.001 CPUs when applied to cores=0.001",
        ),
    ],
)
def test_the_message_names_field_value_and_range(make: Callable[[], object], message: str) -> None:
    """Word for word, for one field of each kind."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


def test_the_defaults_are_those_of_the_contract() -> None:
    """The default is always the strict value."""
    config = SandboxConfig()
    assert (config.runtime, config.user_id, config.rootfs, config.security) == ("python", "default", "host", "default")
    assert (config.working_directory, config.writable_root, config.warm) == ("/workspace", False, True)
    assert (config.mounts, config.require, config.preload, config.store) == ((), (), (), None)
    assert (config.heartbeat_interval, config.metrics_interval) == (30.0, 1.0)
    assert dataclasses.astuple(config.resources.cpu) == (1.0, 100.0, "normal", None)
    assert dataclasses.astuple(config.resources.memory) == (512, 0, False)
    assert dataclasses.astuple(config.resources.disk) == (256, 65_536, None, None)
    assert dataclasses.astuple(config.resources.network) == ("none", None, None, None, (), None, BLOCKED_NETWORKS)
    assert dataclasses.astuple(config.resources.processes) == (64, 256, 64, 64)
    assert dataclasses.astuple(config.enforcement) == (30.0, None, 16, 4, True)
    assert dataclasses.astuple(config.recovery) == (3, 1.0, 2.0, True)
    assert dataclasses.astuple(config.thresholds) == (80, 80, 80, None)


def test_what_was_given_is_normalised_and_copied() -> None:
    """Lists become tuples, mappings immutable copies, numbers floats, paths and names their one form."""
    tags = {"a": "b"}
    config = SandboxConfig(tags=tags, working_directory="//w//x/./y/", preload=["os"], rootfs="/srv/root")
    tags["a"] = "changed"
    assert config.tags == {"a": "b"}
    assert config.working_directory == "/w/x/y"
    assert config.preload == ("os",)
    assert config.rootfs == Path("/srv/root")
    cores = CpuAllocation(cores=2).cores
    assert isinstance(cores, float)
    network = NetworkAllocation(blocked_domains=["*.Example.COM."], blocked_networks=["FC00::/7"])
    assert network.blocked_domains == ("*.example.com",)
    assert network.blocked_networks == ("fc00::/7",)
    with pytest.raises(TypeError):
        config.tags["a"] = "b"  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.warm = False  # type: ignore[misc]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),  # noqa: S104 - nothing is bound
        *("192.0.0.192", "168.63.129.16", "224.0.0.251", "255.255.255.255", "198.18.0.1"),
        *("::", "::1", "::ffff:127.0.0.1", "::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:1::1"),
        *("fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1"),
    ],
)
def test_private_metadata_and_embedded_addresses_are_blocked_by_default(address: str) -> None:
    """Each spelling of an inner address is in a blocked range; public addresses, the control, are in none."""
    ranges = [ipaddress.ip_network(item) for item in NetworkAllocation().blocked_networks if item != "host"]
    assert any(ipaddress.ip_address(address) in item for item in ranges)
    for public in ("1.1.1.1", "8.8.8.8", "151.101.1.69", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"):
        assert not any(ipaddress.ip_address(public) in item for item in ranges)


def test_the_default_ranges_are_in_their_normal_form() -> None:
    """The default skips the check that other values go through, so the check is here."""
    assert NetworkAllocation(blocked_networks=list(BLOCKED_NETWORKS)).blocked_networks == BLOCKED_NETWORKS


@pytest.mark.parametrize("target", ["/", "//", "/./", "/proc", "/proc/", "/proc/1", "//dev", "/dev/shm", "/a/../proc"])
def test_a_mount_cannot_cover_the_root_or_the_sandboxs_own_trees(target: str) -> None:
    """Refused in every spelling; a neighbour whose name only begins the same is allowed."""
    with pytest.raises(ConfigError, match=r"mount\.target"):
        Mount(source=Path("/data"), target=target)
    assert Mount(source=Path("/data"), target="/process//x/").target == "/process/x"


@pytest.mark.parametrize("source", ["data", "", "a/b", 1, None, "/a\0b"])
def test_the_source_of_a_mount_is_absolute(source: Any) -> None:
    """A relative source would depend on where the application stands; a str is taken as a path."""
    with pytest.raises(ConfigError, match=r"mount\.source"):
        Mount(source=source, target="/data")
    assert Mount(source="/data", target="/data").source == Path("/data")  # type: ignore[arg-type]


def test_a_mount_is_read_only_unless_it_says_otherwise_and_two_cannot_share_a_target() -> None:
    """What weakens isolation is visible at the call site."""
    mount = Mount(source=Path("/a"), target="/x")
    assert mount.read_only
    with pytest.raises(ConfigError, match="targets of mounts"):
        SandboxConfig(mounts=[mount, Mount(source=Path("/b"), target="/x/")])
    with pytest.raises(ConfigError, match="read_only"):
        Mount(source=Path("/a"), target="/x", read_only=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("name", "A b"), ("file_name", "a/b"), ("file_name", ""), ("file_name", ".."), ("run", [])),
        *(
            ("run", "tool x"),
            ("run", [""]),
            ("compile", []),
            ("compile", "cc x"),
            ("version", "v"),
            ("environment", {"=": "x"}),
        ),
    ],
)
def test_a_runtime_is_checked_too(name: str, value: Any) -> None:
    """The same runtime without the one bad field is accepted."""
    good: dict[str, Any] = {"name": "tool", "file_name": "main.t", "run": ["tool", "main.t"]}
    assert Runtime(**good).compile is None
    with pytest.raises(ConfigError, match=f"runtime.{name}"):
        Runtime(**{**good, name: value})


def test_the_repr_of_options_is_short_whatever_they_carry() -> None:
    """50 MiB of stdin are a number in it, and defaults are left out."""
    options = ExecutionOptions(stdin=b"x" * (50 << 20), arguments=["y" * 10_000] * 1000, timeout=5)
    assert len(repr(options)) < 2000
    assert "52428800 bytes" in repr(options)
    assert repr(ExecutionOptions(timeout=5)) == "ExecutionOptions(timeout=5.0)"
    assert repr(ExecutionOptions()) == "ExecutionOptions()"


def test_a_frozen_map_is_a_mapping_that_can_be_hashed_and_pickled() -> None:
    """Equal to any mapping with the same items in any order, and so is its hash among its kind."""
    first, second = FrozenMap({"a": 1, "b": 2}), FrozenMap({"b": 2, "a": 1})
    assert first == second == {"a": 1, "b": 2}
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301 - our own bytes
    assert repr(first) == "{'a': 1, 'b': 2}"
    with pytest.raises(TypeError):
        hash(FrozenMap({"a": []}))
