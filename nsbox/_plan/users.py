"""Names of users to ids, by the /etc/passwd of the sandbox's own root."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nsbox._errors import program_start_error
from nsbox._plan.identity import PROGRAM_ID, IdMap

ENOENT = 2
EPERM = 1
MOST_BYTES = 1 << 20
"""Of an /etc/passwd; what follows is not looked at."""


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
    init_is_apart = ids.init_id != PROGRAM_ID
    for kind, one in (("uid", found.uid), ("gid", found.gid)):
        if (init_is_apart and one == ids.init_id) or not ids.has(one):
            raise program_start_error(str(user), EPERM, f"{kind} {one} is not to be had: {ids.description}")
    return found


def _parse(user: str | int, passwd: str) -> User | None:
    """The first entry that is whole, as getpwnam(3) and getpwuid(3) find it.

    By one pattern, in linear time: in a sandbox with a writable root the text is the program's.
    """
    name, uid = ("[^:\\n\\0]+", str(user)) if isinstance(user, int) else (re.escape(user), "[0-9]{1,10}")
    pattern = rf"^({name}):[^:\n]*:0*({uid}):([0-9]{{1,10}}):[^:\n]*:([^:\n\0]{{0,4095}}):[^:\n]*$"
    found = re.search(pattern, passwd, re.MULTILINE)
    if found is not None:
        return User(int(found[2]), int(found[3]), found[1], found[4] or "/")
    return User(user, user, str(user), DEFAULT_USER.home) if isinstance(user, int) else None
