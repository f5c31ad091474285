"""The options of the command line, as typer reads them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nsbox._cli import exits, streams, version_text
from nsbox._cli.request import Request, choose_program
from nsbox._cli.session import carry_out
from nsbox._config import SandboxConfig

_AFTER_DASHES = "nsbox.after_dashes"
_EPILOG = "Exit status:\n\n" + "\n".join(f"{status:<12} {meaning}" for status, meaning in exits.TABLE)
_DOCTOR_EPILOG = "Exit status:\n\n0 full isolation\n1 sandboxes run, with less\n2 none can run"
_DEFAULTS = SandboxConfig()
_RESOURCES = _DEFAULTS.resources
_HELP_NAMES = ["-h", "--help"]

app = typer.Typer(
    add_completion=False,  # it would write into the user's shell start-up files
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": _HELP_NAMES},
)


class RunCommand(TyperCommand):
    """Notes whether "--" ended the options, which typer does not tell: it makes a COMMAND of what follows.

    A "--" that is the value of an option is taken for it too; no option has that value among those it allows.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line: no notation of typer's knows the three forms."""
        return ["[OPTIONS]", "FILE|-c CODE|-- COMMAND", "[ARGUMENT]..."]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As `TyperCommand.parse_args`."""
        given = self.make_parser(ctx).parse_args(list(args))[0].get("words") or ()
        end = len(args) - len(given)
        ctx.meta[_AFTER_DASHES] = end > 0 and args[end - 1] == "--"
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # typer's calling convention
    if wanted:
        streams.write(streams.STDOUT, version_text() + "\n")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[  # noqa: ARG001  # its callback does it all
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Run code that is not trusted, on this Linux host, in a sandbox of its own."""


@app.command(
    "run",
    cls=RunCommand,
    epilog=_EPILOG,
    context_settings={"allow_interspersed_args": False, "help_option_names": _HELP_NAMES},
)
def run_command(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(hidden=True)  # the usage line says it
    ] = None,
    *,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="The program itself.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help=f"Wall clock (default {_DEFAULTS.enforcement.max_execution_seconds:g}).")] = None,
    cpu_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="CPU time of all its processes (default: not limited).")
    ] = None,
    memory_mb: Annotated[
        int | None, typer.Option(metavar="MIB", help=f"Memory of all its processes (default {_RESOURCES.memory.limit_mb}).")
    ] = None,
    disk_mb: Annotated[int | None, typer.Option(metavar="MIB", help=f"All that it can write (default {_RESOURCES.disk.quota_mb}).")] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help=f"Processes and threads (default {_RESOURCES.processes.max_processes}).")] = None,
    cpus: Annotated[float | None, typer.Option(metavar="N", help=f"CPU bandwidth (default {_RESOURCES.cpu.cores:g}).")] = None,
    output_mb: Annotated[
        float | None, typer.Option(metavar="MIB", help=f"stdout and stderr together (default {_DEFAULTS.enforcement.max_output_mb:g}).")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An environment variable; repeat for more.")
    ] = None,
    mount: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE:TARGET[:rw]", help="Show it a path of the host, read-only without :rw; repeat."),
    ] = None,
    rootfs: Annotated[
        str | None, typer.Option(metavar="DIRECTORY", help="Its root (default: host, which is this machine's /usr).")
    ] = None,
    security: Annotated[
        str | None, typer.Option(metavar="default|strict|PATH", help=f"The syscall policy (default: {_DEFAULTS.security}).")
    ] = None,
    workdir: Annotated[str | None, typer.Option(metavar="PATH", help=f"Where it starts (default {_DEFAULTS.working_directory}).")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME|UID", help="Who it is, inside (default: an unprivileged user).")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Fail unless the host has this capability (nsbox doctor); repeat."),
    ] = None,
    language: Annotated[str | None, typer.Option(metavar="NAME", help=f"What FILE or CODE is in (default {_DEFAULTS.runtime}).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole result as one JSON object, instead of the program's output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No verdict on stderr.")] = False,
) -> None:
    """Run a program in a fresh sandbox, which is gone afterwards.

    FILE is a program on the host ("-": on stdin), COMMAND one in the sandbox; what stands behind is the program's.

    stdin is passed on unless it is a terminal; stdout and stderr are passed on when the program has ended.
    """
    request = Request(
        timeout=timeout, cpu_timeout=cpu_timeout, memory_mb=memory_mb, disk_mb=disk_mb, processes=processes, cpus=cpus,
        output_mb=output_mb, env=env or (), mount=mount or (), rootfs=rootfs, security=security, workdir=workdir,
        user=user, require=require or (), language=language,
    )  # fmt: skip

    def command() -> int:
        from nsbox._cli.run import run  # noqa: PLC0415  # what starts sandboxes is loaded by the commands that do

        program = choose_program(words or (), code, after_dashes=context.meta[_AFTER_DASHES])
        return run(program, request, as_json=as_json, quiet=quiet)

    raise typer.Exit(carry_out(command))


@app.command("doctor", epilog=_DOCTOR_EPILOG)
def doctor_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Start a sandbox and attack it from inside, in a few seconds.")
    ] = False,
) -> None:
    """Show what this host gives, what each lack costs, and the command that mends it."""

    def command() -> int:
        from nsbox._cli.doctor import doctor  # noqa: PLC0415  # see above; and rich

        return doctor(as_json=as_json, self_test=self_test)

    raise typer.Exit(carry_out(command))
