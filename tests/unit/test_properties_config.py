"""Any value at all makes a configuration, or a ConfigError; and no option loosens a limit."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from anything import ANYTHING, NUMBERS, TEXTS, Odd, examples
from hypothesis import given
from hypothesis import strategies as st

from nsbox import ConfigError
from nsbox._config import (
    CpuAllocation,
    DiskAllocation,
    EnforcementPolicy,
    ExecutionOptions,
    MemoryAllocation,
    MonitoringThresholds,
    Mount,
    NetworkAllocation,
    ProcessAllocation,
    RecoveryPolicy,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
    effective_limits,
    make_config,
    make_options,
    split_fields,
)
from nsbox._config.build import SHORT_FORMS

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

CLASSES: tuple[type[Any], ...] = (
    CpuAllocation, MemoryAllocation, DiskAllocation, NetworkAllocation, ProcessAllocation, ResourceAllocation,
    MonitoringThresholds, EnforcementPolicy, RecoveryPolicy, Mount, Runtime, SandboxConfig, ExecutionOptions,
)  # fmt: skip
PARTS: Mapping[str, Any] = {
    "resources": ResourceAllocation(),
    "cpu": CpuAllocation(cores=2),
    "memory": MemoryAllocation(limit_mb=64),
    "disk": DiskAllocation(),
    "network": NetworkAllocation(),
    "processes": ProcessAllocation(),
    "thresholds": MonitoringThresholds(),
    "enforcement": EnforcementPolicy(),
    "recovery": RecoveryPolicy(),
    "runtime": Runtime(name="x", file_name="x", run=("x",)),
    "language": Runtime(name="x", file_name="x", run=("x",)),
    "mounts": (Mount(source=Path("/srv"), target="/srv"),),
    "source": "/srv",
    "target": "/srv",
    "file_name": "main.x",
    "run": ("x",),
    "name": "x",
}
"""A value that is right, for fields that hardly anything else is right for."""


def value(draw: st.DrawFn, name: str) -> Any:
    """Of a field: what is right, what is likely to be, or anything."""
    kind = draw(st.integers(0, 3))
    if kind < 2 and name in PARTS:
        return PARTS[name]
    if kind < 2:
        return draw(st.one_of(NUMBERS, TEXTS, st.lists(TEXTS, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=3)))
    return draw(ANYTHING)


@st.composite
def fields_of(draw: st.DrawFn, kind: type[Any]) -> dict[str, Any]:
    """Arguments for a class: those that it demands, mostly right, and one or two of all."""
    known = dataclasses.fields(kind)
    demanded = [one.name for one in known if one.default is one.default_factory is dataclasses.MISSING]
    given_fields = {name: PARTS[name] for name in demanded}
    for name in draw(st.lists(st.sampled_from([one.name for one in known]), min_size=1, max_size=2)):
        given_fields[name] = value(draw, name)
    return given_fields


def check(made: Any) -> None:
    """A configuration is a value: frozen, hashable, equal to what is made of its own fields, and travels by pickle."""
    assert hash(made) == hash(dataclasses.replace(made))
    assert dataclasses.replace(made) == made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301  # our own
    assert len(repr(made)) < 20_000
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_any_fields_make_a_configuration_or_a_config_error(kind: type[Any]) -> None:
    """Of each class; both happen, and nothing else is raised."""
    seen = {"made": 0, "refused": 0, "longest": 0}

    @examples(100)
    @given(fields_of(kind))
    def make(fields: dict[str, Any]) -> None:
        try:
            made = kind(**fields)
        except ConfigError as exc:
            seen["refused"] += 1
            seen["longest"] = max(seen["longest"], len(str(exc)))
        else:
            check(made)
            seen["made"] += 1

    make()
    assert min(seen.values()) > 0, seen
    assert seen["longest"] < 4000


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        (DiskAllocation, "throughput_mbps", 2**63 - 1), (NetworkAllocation, "bandwidth_mbps", 2**63 - 200),
        (SandboxConfig, "security", Odd()),
    ],
)  # fmt: skip
def test_what_would_make_a_configuration_that_cannot_be_made_again_is_refused(
    kind: type[Any], field: str, wrong: object
) -> None:
    """An int that is rounded up beyond the maximum, and what is equal to a word without being one; found so."""
    with pytest.raises(ConfigError, match=field):
        kind(**{field: wrong})


NAMES = sorted({*SHORT_FORMS, *(item.name for item in dataclasses.fields(SandboxConfig))})
OPTIONS = sorted(item.name for item in dataclasses.fields(ExecutionOptions))


@examples(150)
@given(st.dictionaries(st.one_of(st.sampled_from([*NAMES, *OPTIONS]), st.text(max_size=8)), ANYTHING, max_size=3))
def test_any_arguments_make_what_they_describe_or_a_config_error(fields: dict[str, Any]) -> None:
    """Of a sandbox, of an execution, and of both at once; and twice the same, though some are remembered."""
    for make in (make_config, make_options):
        try:
            made: Any = make(**fields)
        except ConfigError:
            with pytest.raises(ConfigError):
                make(**fields)
        else:
            assert make(**fields) == made
            check(made)
    try:
        sandbox, execution = split_fields(fields)
    except ConfigError:
        return
    assert {**sandbox, **execution} == fields
    assert not sandbox.keys() & execution.keys()


SECONDS = st.floats(0.001, 1e9)
MEGABYTES = st.integers(1, 2**43 - 1)
VARIABLES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="=\0"), min_size=1, max_size=4),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
    max_size=3,
)
STEPS = st.lists(st.sampled_from(["a", "b", ".", "", "x y", "..."]), max_size=4)


@examples(150)
@given(
    wall=SECONDS, cpu=st.none() | SECONDS, memory=MEGABYTES, base=STEPS, variables=VARIABLES,
    own_wall=st.none() | SECONDS, own_cpu=st.none() | SECONDS, own_memory=st.none() | MEGABYTES, path=st.none() | STEPS,
    absolute=st.booleans(), own_variables=VARIABLES,
)  # fmt: skip
def test_an_execution_tightens_its_sandbox_or_is_refused(
    *, wall: float, cpu: float | None, memory: int, base: list[str], variables: dict[str, str], own_wall: float | None,
    own_cpu: float | None, own_memory: int | None, path: list[str] | None, absolute: bool,
    own_variables: dict[str, str],
) -> None:  # fmt: skip
    """Refused exactly where something asked for is more; else what holds is the lesser, and below the directory."""
    config = SandboxConfig(
        resources=ResourceAllocation(memory=MemoryAllocation(limit_mb=memory)),
        enforcement=EnforcementPolicy(max_execution_seconds=wall, max_cpu_seconds=cpu),
        working_directory="/" + "/".join(base),
        environment=variables,
    )
    directory = None if path is None else ("/" if absolute else "./") + "/".join(path)
    options = ExecutionOptions(
        timeout=own_wall, cpu_timeout=own_cpu, memory_limit_mb=own_memory, working_directory=directory,
        environment=own_variables,
    )  # fmt: skip
    asked = ((own_wall, wall), (own_cpu, cpu), (own_memory, memory))
    if any(own is not None and limit is not None and own > limit for own, limit in asked):
        with pytest.raises(ConfigError, match="loosen"):
            effective_limits(config, options)
        return
    limits = effective_limits(config, options)
    assert limits.wall_seconds == (wall if own_wall is None else own_wall) <= wall
    assert limits.cpu_seconds == (cpu if own_cpu is None else own_cpu)
    assert limits.memory_bytes is None or limits.memory_bytes < memory << 20
    assert (limits.memory_bytes is None) == (own_memory in (None, memory))
    assert limits.environment == {**variables, **own_variables}
    parts = limits.working_directory.split("/")
    assert parts[0] == ""
    assert not {".", ".."} & set(parts)
    if not absolute:
        assert f"{limits.working_directory}/".startswith(f"{config.working_directory.rstrip('/')}/")
