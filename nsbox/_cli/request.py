"""From the words of a command line to configuration. Pure, but for the current directory that a relative path means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, cast

from nsbox._config import (
    EnforcementPolicy,
    ExecutionOptions,
    Mount,
    NetworkAllocation,
    ResourceAllocation,
    Runtime,
    SandboxConfig,
    make_config,
)
from nsbox._errors import ConfigError
from nsbox._runtimes import language_of_file, load_runtime


class Kind(Enum):
    """The three things that `nsbox run` runs."""

    FILE = "FILE"
    CODE = "-c CODE"
    COMMAND = "-- COMMAND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Attributes:
        kind: Which of the three.
        text: The path of the file ("-" is stdin), or the code; "" for a command.
        words: The arguments of the program; of a command, the whole of it.
    """

    kind: Kind
    text: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `nsbox run` as they were given; None and () where they were not. Units as in `SandboxConfig`."""

    timeout: float | None = None
    cpu_timeout: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    processes: int | None = None
    cpus: float | None = None
    output_mb: float | None = None
    env: Sequence[str] = ()
    mounts: Sequence[str] = ()
    rootfs: str | None = None
    security: str | None = None
    workdir: str | None = None
    user: str | None = None
    writable_root: bool = False
    network: bool = False
    allow_domain: Sequence[str] | None = ()
    block_domain: Sequence[str] | None = ()
    allow_port: Sequence[int] | None = ()
    bandwidth: float | None = None
    connections: int | None = None
    require: Sequence[str] = ()
    language: str | None = None
    store: Path | None = None


def choose_program(words: Sequence[str], code: str | None, *, after_dashes: bool) -> Program:
    """Tell the three forms apart.

    Args:
        words: What stands behind the options.
        code: The value of -c.
        after_dashes: Whether "--" stands between the options and `words`.

    Raises:
        ConfigError: It is none of the three, or two.
    """
    forms = "exactly one of FILE, -c CODE and -- COMMAND"
    if code is not None and after_dashes:
        raise ConfigError(f"-c and --: give {forms}")
    if code is not None:
        return Program(kind=Kind.CODE, text=code, words=tuple(words))
    if not words:
        raise ConfigError(f"nothing to run: give {forms}")
    if after_dashes:
        return Program(kind=Kind.COMMAND, text="", words=tuple(words))
    return Program(kind=Kind.FILE, text=words[0], words=tuple(words[1:]))


def sandbox_config(request: Request) -> SandboxConfig:
    """What the sandbox is made from: the defaults, but for what was given.

    Raises:
        ConfigError: A value that can never work.
    """
    output_mb = request.output_mb
    base = SandboxConfig(
        enforcement=EnforcementPolicy() if output_mb is None else EnforcementPolicy(max_output_mb=output_mb),
        resources=ResourceAllocation(network=_network(request)),
        environment=dict(_variable(text) for text in request.env),
        mounts=tuple(_mount(text) for text in request.mounts),
        rootfs=_rootfs(request.rootfs),
        security=_security(request.security),
        working_directory="/workspace" if request.workdir is None else request.workdir,
        writable_root=request.writable_root,
        require=tuple(request.require),
        store=request.store,
    )
    short = {name: getattr(request, name) for name in ("timeout", "memory_mb", "disk_mb", "processes", "cpus")}
    return make_config(base, **{name: value for name, value in short.items() if value is not None})


def execution_options(request: Request, program: Program, stdin: bytes | None) -> ExecutionOptions:
    """What its one execution is given.

    Raises:
        ConfigError: A value that can never work, or --language with a command, which has none.
    """
    if request.language is not None and program.kind is Kind.COMMAND:
        raise ConfigError(f"--language={request.language!r}: must not stand beside a COMMAND")
    user = request.user
    return ExecutionOptions(
        language=_language(request.language, program),
        cpu_timeout=request.cpu_timeout,
        arguments=() if program.kind is Kind.COMMAND else program.words,
        stdin=stdin,
        user=int(user) if user is not None and user.isascii() and user.isdecimal() else user,
    )


def _language(name: str | None, program: Program) -> str | Runtime | None:
    """What was asked for, else what the file's suffix says; None: it is told by the text."""
    if name is not None:
        return load_runtime(name) if "/" in name or name.endswith(".toml") else name
    return language_of_file(program.text) if program.kind is Kind.FILE else None


def decode_program(name: str, content: bytes) -> str:
    """The text of a program.

    Raises:
        ConfigError: It is not UTF-8, and would arrive as something else than it is.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{name}: must be UTF-8, which byte {exc.start} is not") from exc


def _network(request: Request) -> NetworkAllocation:
    """What it may reach; a limit of what it has not is a mistake, and no way to give it."""
    fields = {
        "allow-domain": ("allowed_domains", request.allow_domain or None),
        "block-domain": ("blocked_domains", request.block_domain or None),
        "allow-port": ("allowed_ports", request.allow_port or None),
        "bandwidth": ("bandwidth_mbps", request.bandwidth),
        "connections": ("connections_limit", request.connections),
    }
    given = {option: field for option, field in fields.items() if field[1] is not None}
    if not request.network:
        if given:
            raise ConfigError(f"--{next(iter(given))}: only together with --network")
        return NetworkAllocation()
    values: dict[str, Any] = dict(given.values())
    return NetworkAllocation(access="egress", **values)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--env={text!r}: must be NAME=VALUE")
    return name, value


def _mount(text: str) -> Mount:
    source, *rest = text.split(":")
    if not source or len(rest) not in (1, 2) or rest[1:] not in ([], ["ro"], ["rw"]):
        raise ConfigError(f"--mount={text!r}: must be SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw")
    return Mount(source=Path(source).absolute(), target=rest[0], read_only=rest[1:] != ["rw"])


def _rootfs(text: str | None) -> str | Path:
    """A path is what has a slash; a word is a name, whatever lies in the current directory."""
    if text is None:
        return "host"
    return Path(text).absolute() if "/" in text else text


def _security(text: str | None) -> Literal["strict", "default"] | Path:
    """A path is what has a slash or ends in .toml; else a misspelled name would be looked for as a file."""
    if text is None:
        return "default"
    if "/" in text or text.endswith(".toml"):
        return Path(text)
    return cast("Literal['strict', 'default']", text)  # SandboxConfig says which names there are
