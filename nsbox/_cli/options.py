"""The options of `nsbox run` as typer reads them: types, names and help, one a line of the function that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nsbox._config import SandboxConfig

_BASE = SandboxConfig()
_KERNEL = _BASE.resources
_POLICY = _BASE.enforcement


def _default(text: str, value: object) -> str:
    """A help text with the default, which is the configuration's and stands nowhere else."""
    return f"{text} (default {value:g})." if isinstance(value, float) else f"{text} (default {value})."


Words = Annotated[list[str] | None, typer.Argument(hidden=True)]  # the usage line says it all
Code = Annotated[str | None, typer.Option("-c", metavar="CODE", help="The program itself.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help=_default("Wall clock", _POLICY.max_execution_seconds))
]
CpuTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="CPU time of all its processes (default: not limited).")
]
MemoryMb = Annotated[
    int | None, typer.Option(metavar="MiB", help=_default("Memory of all its processes", _KERNEL.memory.limit_mb))
]
DiskMb = Annotated[
    int | None, typer.Option(metavar="MiB", help=_default("All that it can write", _KERNEL.disk.quota_mb))
]
Processes = Annotated[
    int | None, typer.Option(metavar="N", help=_default("Processes and threads", _KERNEL.processes.max_processes))
]
Cpus = Annotated[float | None, typer.Option(metavar="N", help=_default("CPU bandwidth", _KERNEL.cpu.cores))]
OutputMb = Annotated[
    float | None, typer.Option(metavar="MiB", help=_default("stdout and stderr together", _POLICY.max_output_mb))
]
Env = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An environment variable; repeat for more.")]
Mounts = Annotated[
    list[str] | None,
    typer.Option(
        "--mount", metavar="SOURCE:TARGET[:rw]", help="Show it a path of the host, read-only without :rw; repeat."
    ),
]
Rootfs = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Its root: a name from nsbox rootfs list; a path, with a / in it, of a directory or an OCI image layout "
        "(default: host, which is this machine's /usr).",
    ),
]
Security = Annotated[
    str | None, typer.Option(metavar="default|strict|PATH", help=_default("The syscall policy", _BASE.security))
]
Workdir = Annotated[str | None, typer.Option(metavar="PATH", help=_default("Where it starts", _BASE.working_directory))]
User = Annotated[
    str | None, typer.Option(metavar="NAME|UID", help="Who it is, inside (default: a user without privileges).")
]
WritableRoot = Annotated[
    bool,
    typer.Option("--writable-root", help="Let root inside (--user root) change /usr, /etc, /var and /opt, for itself."),
]
Network = Annotated[
    bool, typer.Option("--network", help="Let it connect to the outside, but not to private ranges, nor to the host.")
]
AllowDomain = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="With --network: the only names that it may reach (*.NAME: all below); repeat."),
]
BlockDomain = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="With --network: a name that is not resolved; repeat.")
]
AllowPort = Annotated[
    list[int] | None, typer.Option(metavar="N", help="With --network: the only ports that it may connect to; repeat.")
]
Bandwidth = Annotated[
    float | None, typer.Option(metavar="Mbit/s", help="With --network: each direction (default: not limited).")
]
Connections = Annotated[
    int | None, typer.Option(metavar="N", help="With --network: connections at a time (default: 4096).")
]
Require = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Fail unless the host has this capability (nsbox doctor has them); repeat."),
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|TOML",
        help="What FILE or CODE is written in (default: as FILE is named, else as it looks, else python).",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(metavar="FILE", envvar="NSBOX_STORE", help="Keep what happened in this SQLite file (nsbox history)."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the whole result as one JSON object, instead of the program's output.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No verdict on stderr.")]
