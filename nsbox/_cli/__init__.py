"""The command `nsbox`.

Modules, lower ones first: exits (exit statuses) · streams (descriptors 0, 1, 2) · session (signals, errors, the end of
a command) · request (from words to configuration) · report (what is said about a result) · run · attacks, selftest,
doctor · tables, chart, picture, history, metrics (of a store) · ps, top, gc (of this host) · terminal, shell · options,
commands, app (the options). This one is what starts first, and imports the others only when they are needed.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def version_text() -> str:
    """Name and version, as `nsbox --version` prints them."""
    from importlib import metadata  # noqa: PLC0415  # 40 ms that no other command needs

    try:
        return f"nsbox {metadata.version('nsbox')}"
    except metadata.PackageNotFoundError:  # a checkout that was never installed has a name, but no version
        return "nsbox, not installed"


def main() -> NoReturn:
    """Run the command, and exit with its status."""
    from nsbox._cli import streams  # noqa: PLC0415  # see below

    streams.occupy_standard_descriptors()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while nothing has started, Ctrl-C ends us without a traceback
    if sys.argv[1:] == ["--version"]:  # typer and rich take 100 ms to load, for one line
        streams.write(streams.STDOUT, version_text() + "\n")
        sys.exit(0)
    from nsbox._cli.app import app  # noqa: PLC0415  # what only --version does without

    app(prog_name="nsbox")
    raise AssertionError("typer ends every command by SystemExit")
