"""What one execution is given, and the limits that come out of it together with its sandbox's."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace

from nsbox._config.frozen import FrozenMap, shown
from nsbox._config.runtime import Runtime, language_name
from nsbox._config.sandbox import SandboxConfig
from nsbox._config.validation import (
    assign,
    environment,
    flag,
    inside_path,
    integer,
    megabytes,
    refuse,
    seconds,
    text,
    texts,
)
from nsbox._errors import ConfigError

_MOST_UID = 65_535  # a sandbox maps 65536 ids at most


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExecutionOptions:
    """How one execution differs from what its sandbox gives; it may tighten a limit, never loosen it.

    Attributes:
        language: A name from `nsbox.RUNTIMES`, or a `Runtime`; None: what `nsbox.detect_language` says, and where that
            is not sure, or the sandbox's runtime is a `Runtime` of its own, the sandbox's runtime.
        timeout: Wall clock in seconds, at least 0.001; None: the sandbox's.
        cpu_timeout: CPU time of the whole process tree in seconds, at least 0.001; None: the sandbox's.
        memory_limit_mb: MiB, at least 1; None: the sandbox's.
        working_directory: A path in the sandbox without "..", a relative one below the sandbox's; None: the sandbox's.
        environment: Variables, over the sandbox's.
        arguments: What the program finds behind its own name in argv.
        stdin: What the program can read, a str as UTF-8; None: nothing.
        capture_output: False: stdout and stderr are not kept.
        capture_metrics: False: the result has no metrics.
        user: None: the sandbox's unprivileged user; "root", a name, or a uid from 0 to 65535.

    Raises:
        ConfigError: Names the field, the value and what is allowed.
    """

    language: str | Runtime | None = None
    timeout: float | None = None
    cpu_timeout: float | None = None
    memory_limit_mb: int | None = None
    working_directory: str | None = None
    environment: Mapping[str, str] = field(default_factory=FrozenMap)
    arguments: Sequence[str] = ()
    stdin: str | bytes | None = None
    capture_output: bool = True
    capture_metrics: bool = True
    user: str | int | None = None

    def __post_init__(self) -> None:
        if self.language is not None and not isinstance(self.language, Runtime):
            language_name("language", self.language)
        if self.timeout is not None:
            assign(self, timeout=seconds("timeout", self.timeout))
        if self.cpu_timeout is not None:
            assign(self, cpu_timeout=seconds("cpu_timeout", self.cpu_timeout))
        if self.memory_limit_mb is not None:
            megabytes("memory_limit_mb", self.memory_limit_mb)
        if self.working_directory is not None:
            path = inside_path("working_directory", self.working_directory, relative=True)
            assign(self, working_directory=path)
        flag("capture_output", self.capture_output)
        flag("capture_metrics", self.capture_metrics)
        _check_stdin(self.stdin)
        _check_user(self.user)
        assign(
            self,
            environment=environment("environment", self.environment),
            arguments=texts("arguments", self.arguments),
        )

    def __repr__(self) -> str:
        """What differs from the defaults, shortened: stdin may be many megabytes, and variables may be secrets."""
        parts = []
        for item in fields(self):
            value = self.without_secrets.environment if item.name == "environment" else getattr(self, item.name)
            default = item.default if item.default is not MISSING else FrozenMap()
            if value != default:
                parts.append(f"{item.name}={shown(value)}")
        return f"ExecutionOptions({', '.join(parts)})"

    def with_environment(self, **variables: str) -> ExecutionOptions:
        """The same with more variables."""
        return replace(self, environment=FrozenMap({**self.environment, **variables}))

    @property
    def without_secrets(self) -> ExecutionOptions:
        """The same with the values of `environment` hidden: what events, logs and stores get."""
        if not self.environment:
            return self
        return replace(self, environment=FrozenMap(dict.fromkeys(self.environment, HIDDEN)))


HIDDEN = "<hidden>"
"""What stands for the value of a variable of one execution, wherever it is only shown."""


def _check_stdin(value: object) -> None:
    if value is None or isinstance(value, bytes):
        return
    if isinstance(value, str):
        try:
            if not value.isascii():
                value.encode("utf-8", "surrogateescape")
            return  # NUL is an ordinary byte here, unlike in an argument
        except UnicodeEncodeError:
            pass
    refuse("stdin", value, "a str without lone surrogates, bytes, or None")


def _check_user(value: object) -> None:
    if isinstance(value, str):
        name = text("user", value, empty=False)
        if any(character in name for character in ":/\n"):
            refuse("user", value, "the name of a user")
    elif value is not None:
        integer("user", value, minimum=0, maximum=_MOST_UID, unit="a uid in the sandbox, or a name, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for one execution: its options within its sandbox's configuration.

    Attributes:
        wall_seconds: Wall clock.
        cpu_seconds: CPU time of the whole tree; None: not limited.
        memory_bytes: The execution's own limit where its options tighten the sandbox's; None: the sandbox's holds.
        working_directory: Absolute and normalised.
        environment: The sandbox's variables with the execution's over them.
    """

    wall_seconds: float
    cpu_seconds: float | None
    memory_bytes: int | None
    working_directory: str
    environment: Mapping[str, str]


def effective_limits(
    config: SandboxConfig, options: ExecutionOptions, variables: Mapping[str, str] | None = None
) -> Limits:
    """Join the options of one execution to the configuration of its sandbox.

    Args:
        config: The sandbox's configuration.
        options: The execution's options.
        variables: The sandbox's environment now; None: as configured.

    Raises:
        ConfigError: An option asks for more than the sandbox has.
    """
    wall, cpu = config.enforcement.max_execution_seconds, config.enforcement.max_cpu_seconds
    memory_mb = config.resources.memory.limit_mb
    _refuse_looser("timeout", options.timeout, "enforcement.max_execution_seconds", wall)
    _refuse_looser("cpu_timeout", options.cpu_timeout, "enforcement.max_cpu_seconds", cpu)
    _refuse_looser("memory_limit_mb", options.memory_limit_mb, "resources.memory.limit_mb", memory_mb)
    own_mb = memory_mb if options.memory_limit_mb is None else options.memory_limit_mb
    return Limits(
        wall_seconds=wall if options.timeout is None else options.timeout,
        cpu_seconds=cpu if options.cpu_timeout is None else options.cpu_timeout,
        memory_bytes=own_mb << 20 if own_mb < memory_mb else None,
        working_directory=_below(config.working_directory, options.working_directory),
        environment=FrozenMap({**(config.environment if variables is None else variables), **options.environment}),
    )


def _below(base: str, path: str | None) -> str:
    """An absolute path as it is, a relative one below `base`; both are normalised and free of ".." already."""
    return base if path is None else posixpath.normpath(posixpath.join(base, path))


def _refuse_looser(name: str, value: float | None, limit_name: str, limit: float | None) -> None:
    """Raise where an option exceeds the sandbox's limit; equal is no excess."""
    if value is not None and limit is not None and value > limit:
        raise ConfigError(
            f"{name}={value!r}: must be at most the sandbox's own {limit_name}={limit!r}; "
            "an execution can tighten a limit, never loosen it"
        )
