"""The commands and their options: what typer is told."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nsbox._cli import commands, exits, options, streams, version_text
from nsbox._cli.request import Request, choose_program
from nsbox._cli.session import carry_out

_AFTER_DASHES = "nsbox.after_dashes"
_EPILOG = "Exit status:\n\n" + "\n".join(f"{status:<12} {meaning}" for status, meaning in exits.TABLE)
_DOCTOR_EPILOG = "Exit status:\n\n" + "\n".join(f"{status:<4} {meaning}" for status, meaning in exits.DOCTOR_TABLE)
_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    add_completion=False,  # it would write into the user's shell start-up files
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT,
)


class RunCommand(TyperCommand):
    """Notes whether "--" ended the options, which typer does not tell: it makes a COMMAND of what follows.

    A "--" that is the value of an option is taken for it too; no option has that among the values it allows.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002  # overridden
        """The usage line: no notation of typer's knows the three forms."""
        return ["[OPTIONS]", "FILE|-c CODE|-- COMMAND", "[ARGUMENT]..."]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As `TyperCommand.parse_args`."""
        end_of_code = self._end_of_code(args)
        if end_of_code and args[end_of_code : end_of_code + 1] != ["--"]:
            args = [*args[:end_of_code], "--", *args[end_of_code:]]  # what stands behind CODE is the program's
            ctx.meta[_AFTER_DASHES] = False
        else:
            words = self.make_parser(ctx).parse_args(list(args))[0].get("words") or ()
            end = len(args) - len(words)
            ctx.meta[_AFTER_DASHES] = end > 0 and args[end - 1] == "--"
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _end_of_code(self, args: list[str]) -> int:
        """The index behind the value of -c; 0 where there is none among the options."""
        flags = {name for parameter in self.params if getattr(parameter, "is_flag", False) for name in parameter.opts}
        index = 0
        while index < len(args) and args[index].startswith("-") and args[index] not in ("-", "--"):
            name, with_value, _ = args[index].partition("=")
            attached = name.startswith("-c") and name != "-c"
            index += 1 if with_value or attached or name in flags | {"-h", "--help"} else 2
            if name == "-c" or attached or name == "--code":
                return index if index <= len(args) else 0  # 0: CODE is missing, which the parser tells
        return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        streams.write(streams.STDOUT, version_text() + "\n")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Run code that is not trusted, on this Linux host, in a sandbox of its own."""


@app.command("run", cls=RunCommand, epilog=_EPILOG, context_settings={"allow_interspersed_args": False, **_CONTEXT})
def run_command(
    context: typer.Context,
    words: options.Words = None,
    *,
    code: options.Code = None,
    timeout: options.Timeout = None,
    cpu_timeout: options.CpuTimeout = None,
    memory_mb: options.MemoryMb = None,
    disk_mb: options.DiskMb = None,
    processes: options.Processes = None,
    cpus: options.Cpus = None,
    output_mb: options.OutputMb = None,
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
    language: options.Language = None,
    store: options.Store = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a program in a fresh sandbox, which is gone afterwards.

    FILE is a program on the host ("-": on stdin), COMMAND one in the sandbox; what stands behind is the program's.

    stdin is passed on unless it is a terminal; stdout and stderr are passed on when the program has ended.
    """
    request = Request(
        timeout=timeout, cpu_timeout=cpu_timeout, memory_mb=memory_mb, disk_mb=disk_mb, processes=processes, cpus=cpus,
        output_mb=output_mb, env=env or (), mounts=mounts or (), rootfs=rootfs, security=security, workdir=workdir,
        user=user, writable_root=writable_root, network=network, allow_domain=allow_domain, block_domain=block_domain,
        allow_port=allow_port, bandwidth=bandwidth, connections=connections, require=require or (), language=language,
        store=store,
    )  # fmt: skip

    def command() -> int:
        from nsbox._cli.run import run  # noqa: PLC0415  # loaded by the command that needs it

        program = choose_program(words or (), code, after_dashes=context.meta[_AFTER_DASHES])
        return run(program, request, as_json=as_json, quiet=quiet)

    raise typer.Exit(carry_out(command))


@app.command("doctor", epilog=_DOCTOR_EPILOG)
def doctor_command(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Start a sandbox and attack it from inside, in a few seconds.")
    ] = False,
) -> None:
    """Show what this host gives, what each lack costs, and the command that mends it."""

    def command() -> int:
        from nsbox._cli.doctor import doctor  # noqa: PLC0415  # the same; it brings rich along

        return doctor(as_json=as_json, self_test=self_test)

    raise typer.Exit(carry_out(command))


commands.add_to(app)
