"""The first line of a script, execve(2): `#!/usr/bin/env python3` and its like."""

from __future__ import annotations

import re

_LONGEST = 256  # BINPRM_BUF_SIZE
_PROGRAMS = {
    "python": "python", "pypy": "python", "node": "javascript", "nodejs": "javascript", "bun": "javascript",
    "deno": "typescript", "ts-node": "typescript", "tsx": "typescript", "bash": "bash", "sh": "bash", "dash": "bash",
    "ksh": "bash", "zsh": "bash", "ash": "bash",
}  # fmt: skip
_VERSION = re.compile(r"[0-9.]+$")


def from_shebang(code: str) -> tuple[bool, str | None]:
    """Whether the line names an interpreter, and the language that this is of; None for one that is not nsbox's."""
    words = code[2:_LONGEST].split("\n", 1)[0].split()
    names = [word.rsplit("/", 1)[-1] for word in words]
    if names[:1] == ["env"]:
        names = [name for name in names[1:] if not name.startswith("-") and "=" not in name]
    if not names or not names[0]:
        return False, None
    return True, _PROGRAMS.get(_VERSION.sub("", names[0]))
