"""The commands beside `run` and `doctor`: what typer is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nsbox._cli import options
from nsbox._cli.request import Request
from nsbox._cli.session import carry_out

_Store = Annotated[Path | None, typer.Option("--store", metavar="FILE", envvar="NSBOX_STORE", help="Of which store.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
_DAY = 86_400.0
_MaxMb = Annotated[int, typer.Option("--max-mb", metavar="MiB", min=1, help="What it may have at most, unpacked.")]
_MAX_MB = 16_384


def add_to(app: typer.Typer) -> None:
    """Add all of them."""
    app.command("history")(history_command)
    app.command("metrics")(metrics_command)
    app.command("ps")(ps_command)
    app.command("top")(top_command)
    app.command("gc")(gc_command)
    app.command("shell", context_settings={"allow_interspersed_args": False})(shell_command)
    rootfs = typer.Typer(no_args_is_help=True, help="Build, import, list and remove root file systems (--rootfs NAME).")
    rootfs.command("build")(rootfs_build_command)
    rootfs.command("import")(rootfs_import_command)
    rootfs.command("list")(rootfs_list_command)
    rootfs.command("remove")(rootfs_remove_command)
    app.add_typer(rootfs, name="rootfs")


def history_command(
    *,
    store: _Store = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The latest N.")] = 50,
    verdict: Annotated[str | None, typer.Option(metavar="VERDICT", help="Only those; or running, or lost.")] = None,
    sandbox: Annotated[
        str | None, typer.Option(metavar="ID", help="Only of this sandbox; its beginning will do.")
    ] = None,
    sandboxes: Annotated[bool, typer.Option("--sandboxes", help="Sandboxes instead of executions.")] = False,
    as_json: _Json = False,
) -> None:
    """Show the executions that a store has kept, oldest first."""

    def command() -> int:
        from nsbox._cli.history import history  # noqa: PLC0415  # it brings rich along

        return history(store, limit=limit, verdict=verdict, sandbox=sandbox, sandboxes=sandboxes, as_json=as_json)

    raise typer.Exit(carry_out(command))


def metrics_command(
    sandbox: Annotated[str, typer.Argument(metavar="SANDBOX", help="Its id; the beginning of it will do.")],
    *,
    store: _Store = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw them in the terminal.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw them into a PNG file (needs nsbox\\[plot]).")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show what a store has kept of a sandbox's resources over time."""

    def command() -> int:
        from nsbox._cli.metrics import metrics  # noqa: PLC0415  # it brings rich along

        return metrics(store, sandbox, plot=plot, png=png, as_json=as_json)

    raise typer.Exit(carry_out(command))


def ps_command(*, as_json: _Json = False) -> None:
    """Show the living sandboxes of all processes of this user."""

    def command() -> int:
        from nsbox._cli.ps import ps  # noqa: PLC0415  # the same

        return ps(as_json=as_json)

    raise typer.Exit(carry_out(command))


def top_command(
    *,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after N looks.")] = None,
    once: Annotated[bool, typer.Option("--once", help="The same as --count 1.")] = False,
) -> None:
    """Show the living sandboxes and what they use, again and again, until q or Ctrl-C."""

    def command() -> int:
        from nsbox._cli.top import top  # noqa: PLC0415  # the same

        return top(interval, 1 if once else count)

    raise typer.Exit(carry_out(command))


def gc_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: _Json = False,
) -> None:
    """Remove what applications have left that died: cgroups, sockets, temporary files. Never those of a living one."""

    def command() -> int:
        from nsbox._cli.gc import gc  # noqa: PLC0415  # the same

        return gc(dry_run=dry_run, as_json=as_json)

    raise typer.Exit(carry_out(command))


def shell_command(
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="Instead of bash, or sh.")] = None,
    *,
    pty: Annotated[
        bool | None, typer.Option("--pty/--no-pty", help="On a terminal (default: where stdin and stdout are one).")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Of the whole session.")] = _DAY,
    memory_mb: options.MemoryMb = None,
    disk_mb: options.DiskMb = None,
    processes: options.Processes = None,
    cpus: options.Cpus = None,
    env: options.Env = None,
    mounts: options.Mounts = None,
    rootfs: options.Rootfs = None,
    security: options.Security = None,
    workdir: options.Workdir = None,
    user: options.User = None,
    writable_root: options.WritableRoot = False,
    network: options.Network = False,
    allow_domain: options.AllowDomain = None,
    block_domain: options.BlockDomain = None,
    allow_port: options.AllowPort = None,
    bandwidth: options.Bandwidth = None,
    connections: options.Connections = None,
    require: options.Require = None,
    store: options.Store = None,
) -> None:
    """Open a shell in a fresh sandbox, which is gone afterwards. Its exit status is the shell's."""
    request = Request(
        timeout=timeout, memory_mb=memory_mb, disk_mb=disk_mb, processes=processes, cpus=cpus, env=env or (),
        mounts=mounts or (), rootfs=rootfs, security=security, workdir=workdir, user=user, writable_root=writable_root,
        network=network, allow_domain=allow_domain, block_domain=block_domain, allow_port=allow_port,
        bandwidth=bandwidth, connections=connections, require=require or (), store=store,
    )  # fmt: skip

    def command() -> int:
        from nsbox._cli.shell import shell  # noqa: PLC0415  # the same

        return shell(words or (), request, pty=pty)

    raise typer.Exit(carry_out(command))


def rootfs_build_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name such as python or all; or a TOML file, a path with a /.")
    ],
    *,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Another name for it.")] = None,
    max_mb: _MaxMb = _MAX_MB,
) -> None:
    """Build a root from Debian's packages, by mmdebstrap; what had its name is replaced."""

    def command() -> int:
        from nsbox._cli.rootfs import build  # noqa: PLC0415  # it brings rich along

        return build(recipe, name, max_mb)

    raise typer.Exit(carry_out(command))


def rootfs_import_command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="What docker save has written, or an OCI image layout.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    *,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Which image, where there are several.")] = None,
    max_mb: _MaxMb = _MAX_MB,
) -> None:
    """Unpack an image; what had its name is replaced."""

    def command() -> int:
        from nsbox._cli.rootfs import import_  # noqa: PLC0415  # the same

        return import_(source, name, tag, max_mb)

    raise typer.Exit(carry_out(command))


def rootfs_list_command(*, as_json: _Json = False) -> None:
    """Show the roots that are there, and the recipes that are not built."""

    def command() -> int:
        from nsbox._cli.rootfs import list_  # noqa: PLC0415  # the same

        return list_(as_json=as_json)

    raise typer.Exit(carry_out(command))


def rootfs_remove_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Which; one that is in use is refused.")],
) -> None:
    """Remove roots."""

    def command() -> int:
        from nsbox._cli.rootfs import remove  # noqa: PLC0415  # the same

        return remove(names)

    raise typer.Exit(carry_out(command))
