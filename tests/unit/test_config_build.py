"""From keyword arguments to configuration objects, and from these to the limits of one execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nsbox._config import (
    SHORT_FORMS,
    EnforcementPolicy,
    ExecutionOptions,
    MemoryAllocation,
    ResourceAllocation,
    SandboxConfig,
    effective_limits,
    make_config,
    make_options,
    split_fields,
)
from nsbox._errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "long_value"),
    [
        ("cpus", 2, 2.0),
        ("memory_mb", 256, 256),
        ("disk_mb", 64, 64),
        ("processes", 32, 32),
        ("timeout", 5, 5.0),
        ("network", True, "egress"),
        ("network", False, "none"),
    ],
)
def test_a_short_form_sets_its_long_form_and_nothing_else(name: str, value: object, long_value: object) -> None:
    """Over the defaults and over a configuration, whose other fields stay."""
    base = SandboxConfig(
        user_id="u",
        resources=ResourceAllocation(memory=MemoryAllocation(limit_mb=100, swap_limit_mb=7)),
        enforcement=EnforcementPolicy(max_output_mb=1),
    )
    for config in (None, base):
        made: Any = make_config(config, **{name: value})
        for part in SHORT_FORMS[name]:
            made = getattr(made, part)
        assert made == long_value
    made = make_config(base, **{name: value})
    assert made.user_id == "u"
    assert made.resources.memory.swap_limit_mb == 7
    assert made.enforcement.max_output_mb == 1


@pytest.mark.parametrize("name", list(SHORT_FORMS))
def test_a_short_form_beside_its_long_form_is_refused(name: str) -> None:
    """Both would say what one field is; beside the long form of something else it is fine."""
    long: dict[str, Any] = {"resources": ResourceAllocation(), "enforcement": EnforcementPolicy()}
    other = {key: value for key, value in long.items() if key != SHORT_FORMS[name][0]}
    value = True if name == "network" else 2
    assert make_config(**{name: value}, **other) == make_config(**{name: value})
    with pytest.raises(ConfigError, match=f"{name}=.*must not stand beside {SHORT_FORMS[name][0]}="):
        make_config(**{name: value}, **long)


def test_a_bad_short_form_is_named_as_it_was_given() -> None:
    """The message has both names, since the caller wrote one and the documents explain the other."""
    with pytest.raises(ConfigError, match=r"memory\.limit_mb=0: .*; given as memory_mb=0"):
        make_config(memory_mb=0)
    with pytest.raises(ConfigError, match="network='yes': must be True or False"):
        make_config(network="yes")
    with pytest.raises(ConfigError, match="given as timeout=None"):
        make_config(timeout=None)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_config(memory_md=1), ["'memory_md'", "did you mean", "memory_mb"]),
        (lambda: make_config(zzzzzz=1), ["'zzzzzz'", "it has", "working_directory"]),
        (lambda: make_config(stdin="x"), ["'stdin'", "it is one of an execution"]),
        (lambda: make_options(timeuot=1), ["'timeuot'", "did you mean", "timeout"]),
        (lambda: make_options(memory_mb=1), ["'memory_mb'", "it is one of a Sandbox"]),
        (lambda: split_fields({"argumets": ()}), ["'argumets'", "did you mean", "arguments"]),
        (lambda: make_config("python"), ["config='python'", "SandboxConfig"]),  # type: ignore[arg-type]
        (lambda: make_options(SandboxConfig()), ["options=SandboxConfig: must be of class ExecutionOptions"]),  # type: ignore[arg-type]
        (lambda: make_options({"timeout": 1}), ["options={'timeout': 1}", "ExecutionOptions"]),  # type: ignore[arg-type]
    ],
)
def test_an_unknown_field_is_refused_with_what_was_meant(call: Callable[[], object], words: list[str]) -> None:
    """A misspelled limit must not be a limit that is silently not there."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


def test_fields_go_over_the_object_where_both_are_given() -> None:
    """For a sandbox and for an execution; what is not given stays, and the object itself is unchanged."""
    config = SandboxConfig(user_id="a", tags={"k": "v"})
    made = make_config(config, user_id="b", memory_mb=64)
    assert (made.user_id, made.tags, made.resources.memory.limit_mb) == ("b", {"k": "v"}, 64)
    assert (config.user_id, config.resources.memory.limit_mb) == ("a", 512)
    assert make_config(config) is config
    options = ExecutionOptions(timeout=3, arguments=["x"])
    assert make_options(options, timeout=2) == ExecutionOptions(timeout=2, arguments=("x",))
    assert make_options(options) is options


def test_the_fields_of_a_one_line_execute_find_their_objects() -> None:
    """What both have goes to the sandbox, where there is no limit yet that it could exceed."""
    sandbox, options = split_fields(
        {"memory_mb": 256, "timeout": 60, "environment": {}, "working_directory": "/w", "stdin": "x", "cpu_timeout": 1}
    )
    assert sandbox == {"memory_mb": 256, "timeout": 60, "environment": {}, "working_directory": "/w"}
    assert options == {"stdin": "x", "cpu_timeout": 1}
    limits = effective_limits(make_config(**sandbox), make_options(**options))
    assert (limits.wall_seconds, limits.cpu_seconds) == (60, 1)


def test_without_options_the_limits_are_the_sandboxs() -> None:
    """None stands for "not limited further", never for "not limited"."""
    config = make_config(timeout=7, environment={"A": "1"}, working_directory="/w")
    limits = effective_limits(config, ExecutionOptions())
    assert (limits.wall_seconds, limits.cpu_seconds, limits.memory_bytes) == (7.0, None, None)
    assert (limits.working_directory, limits.environment) == ("/w", {"A": "1"})


def test_an_option_tightens_a_limit_and_never_loosens_it() -> None:
    """Below the limit it holds, at the limit nothing changes, above it is refused; so for all three."""
    config = make_config(enforcement=EnforcementPolicy(max_execution_seconds=10, max_cpu_seconds=5), memory_mb=100)
    below = effective_limits(config, ExecutionOptions(timeout=9, cpu_timeout=4, memory_limit_mb=99))
    assert (below.wall_seconds, below.cpu_seconds, below.memory_bytes) == (9.0, 4.0, 99 << 20)
    equal = effective_limits(config, ExecutionOptions(timeout=10, cpu_timeout=5, memory_limit_mb=100))
    assert (equal.wall_seconds, equal.cpu_seconds, equal.memory_bytes) == (10.0, 5.0, None)
    for above in ({"timeout": 10.001}, {"cpu_timeout": 5.001}, {"memory_limit_mb": 101}):
        with pytest.raises(ConfigError, match=next(iter(above)) + "=.*never loosen"):
            effective_limits(config, make_options(**above))


def test_a_cpu_timeout_is_allowed_where_the_sandbox_has_none() -> None:
    """No limit is looser than any."""
    assert effective_limits(SandboxConfig(), ExecutionOptions(cpu_timeout=1e6)).cpu_seconds == 1e6


@pytest.mark.parametrize(
    ("path", "expected"),
    [(None, "/w/x"), (".", "/w/x"), ("a//b/", "/w/x/a/b"), ("/", "/"), ("//etc//y/", "/etc/y"), ("./c", "/w/x/c")],
)
def test_a_relative_working_directory_is_below_the_sandboxs(path: str | None, expected: str) -> None:
    """The result is always absolute and normalised."""
    config = SandboxConfig(working_directory="/w/x")
    assert effective_limits(config, ExecutionOptions(working_directory=path)).working_directory == expected


def test_the_variables_of_an_execution_go_over_the_sandboxs() -> None:
    """Both are there; the same name has the execution's value."""
    config = SandboxConfig(environment={"A": "1", "B": "2"})
    limits = effective_limits(config, ExecutionOptions(environment={"B": "3", "C": "4"}))
    assert limits.environment == {"A": "1", "B": "3", "C": "4"}
    assert hash(limits)
