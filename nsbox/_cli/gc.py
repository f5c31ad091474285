"""`nsbox gc`: removing by hand what the next start of nsbox would remove anyway."""

from __future__ import annotations

import json

from nsbox._cli import streams
from nsbox._supervisor.garbage import collect


def gc(*, dry_run: bool, as_json: bool) -> int:
    """Remove it, and show what it was.

    Returns:
        The exit status.
    """
    found = collect(remove=not dry_run)
    if as_json:
        rows = [{"kind": one.kind, "path": str(one.path)} for one in found]
        streams.write(streams.STDOUT, json.dumps({"removed": not dry_run, "garbage": rows}) + "\n")
        return 0
    word = "would remove" if dry_run else "removed"
    lines = [f"{word} {one.kind} {one.path}\n" for one in found]
    streams.write(streams.STDOUT, "".join(lines) or "nothing was left behind\n")
    return 0
