"""Names of users to ids, by the /etc/passwd of the sandbox's own root."""

from __future__ import annotations

from dataclasses import dataclass

from nsbox._errors import program_start_error
from nsbox._plan.identity import PROGRAM_ID, IdMap

ENOENT = 2
EPERM = 1


@dataclass(frozen=True, slots=True)
class User:
    """Who a program runs as, inside."""

    uid: int
    gid: int
    name: str
    home: str


DEFAULT_USER = User(PROGRAM_ID, PROGRAM_ID, "user", "/home/user")

HOST_PASSWD = (
    "root:x:0:0:root:/home/user:/bin/sh\n"
    f"user:x:{PROGRAM_ID}:{PROGRAM_ID}:user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
HOST_GROUP = f"root:x:0:\ntty:x:5:\nuser:x:{PROGRAM_ID}:\nnogroup:x:65534:\n"


def find_user(user: str | int | None, passwd: str, ids: IdMap) -> User:
    """Who `ExecutionOptions.user` names.

    Args:
        user: A name, a uid, or None for the sandbox's unprivileged user.
        passwd: The text of the sandbox's /etc/passwd.
        ids: Which ids there are.

    Raises:
        ProgramStartError: There is no such user, or the host gives the sandbox no such id.
    """
    if user is None:
        return DEFAULT_USER
    found = _parse(user, passwd)
    if found is None:
        raise program_start_error(str(user), ENOENT, f"the sandbox's /etc/passwd has no user {user!r}")
    if found.uid == ids.init_id != PROGRAM_ID or not ids.has(found.uid) or not ids.has(found.gid):
        raise program_start_error(str(user), EPERM, f"uid {found.uid} is not to be had: {ids.description}")
    return found


def _parse(user: str | int, passwd: str) -> User | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 7 or not fields[2].isdecimal() or not fields[3].isdecimal():
            continue
        entry = User(int(fields[2]), int(fields[3]), fields[0], fields[5] or "/")
        if user == (entry.uid if isinstance(user, int) else entry.name):
            return entry
    return User(user, user, str(user), DEFAULT_USER.home) if isinstance(user, int) else None
