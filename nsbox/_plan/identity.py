"""Who a program is inside, and who it is to the host.

As root, every sandbox has host uids of its own: a range of 65,536 from 0x70000000 on, where neither accounts nor
/etc/subuid ranges lie (login.defs(5): SUB_UID_MAX is 600,100,000 by default), nor containers of systemd-nspawn. Below
2^31, for the option gid= of devpts is a signed number on older kernels (seen on Linux 6.1). Root inside is therefore
nobody outside, and two sandboxes share no uid.

Without root there is the range of subuid(5) where newuidmap is installed, or else just the user's own uid, which is
mapped to the program's.
"""

from __future__ import annotations

from dataclasses import dataclass

PROGRAM_ID = 1000
"""uid and gid of a program inside, unless `user=` says otherwise."""

INIT_ID = 65_533
"""uid and gid of PID 1 inside: nobody else's, so that a program can neither signal nor trace it."""

RANGE_SIZE = 65_536
RANGE_COUNT = 4_000
RANGE_FIRST = 0x7000_0000


@dataclass(frozen=True, slots=True)
class IdMap:
    """`count` ids from `inside` on are, to the launcher, `outside` on; in the i-th of `ranges`, i * count higher.

    Attributes:
        inside: First id in the sandbox.
        outside: First id in the launcher's user namespace.
        count: How many.
        ranges: How many disjoint ranges there are for sandboxes to have one each; 0: all have the same.
    """

    inside: int
    outside: int
    count: int
    ranges: int = 0

    def has(self, inside: int) -> bool:
        """Whether an id inside can be somebody."""
        return self.inside <= inside < self.inside + self.count

    @property
    def init_id(self) -> int:
        """Who PID 1 is: nobody else where there is more than one id, else the program's."""
        return INIT_ID if self.has(INIT_ID) else self.inside

    @property
    def description(self) -> str:
        """For `Sandbox.isolation`."""
        if self.ranges:
            return f"own range of {self.count} host uids per sandbox"
        if self.count > 1:
            return f"range of {self.count} subordinate uids, shared by this user's sandboxes"
        return "one uid, the user's own; PID 1 has the same"


ROOT_MAP = IdMap(0, RANGE_FIRST, RANGE_SIZE, RANGE_COUNT)
SUBUID_MAP = IdMap(0, 1, RANGE_SIZE)
SINGLE_MAP = IdMap(PROGRAM_ID, 0, 1)
