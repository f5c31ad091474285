"""A rate for each sandbox by itself, of what all of them send to the resolver: a set whose elements are token buckets.

The kernel makes an element when a sandbox sends its first packet, and forgets it when it has sent none for a while.
"""

from __future__ import annotations

import struct

from nsbox._network.netlink import CREATE, EXCLUSIVE, attribute, message
from nsbox._network.nftables import INET, REGISTER, Expression, Meta, Table, Type, meta

_NEWSET = 10 << 8 | 9  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWSET
_TIMEOUT, _EVAL = 0x10, 0x20  # NFT_SET_*
_IFNAMSIZ = 16
_RATE, _BURST = 1000, 128
"""Packets a second, and at once after a pause. A socket of the resolver's has room for some 270 of all sandboxes."""
_FORGOTTEN_MS = 60_000
_MOST = 65_535  # more interfaces than a router has addresses for


def buckets(table: Table, name: str) -> bytes:
    """The set, which is empty.

    Args:
        table: Where it is.
        name: Its name.
    """
    attributes = [
        (1, table.name.encode() + b"\0"),
        (2, name.encode() + b"\0"),
        (3, struct.pack(">I", _TIMEOUT | _EVAL)),
        (4, struct.pack(">I", Type.NAME)),
        (5, struct.pack(">I", _IFNAMSIZ)),
        (0x8000 | 9, attribute(1, struct.pack(">I", _MOST))),
        (10, struct.pack(">I", 1)),
        (11, struct.pack(">Q", _FORGOTTEN_MS)),
    ]  # NFTA_SET_*
    header = struct.pack(">BBH", INET, 0, 0)  # struct nfgenmsg
    return message(_NEWSET, CREATE | EXCLUSIVE, "make a set", header, *(attribute(*one) for one in attributes))


def too_fast(name: str) -> list[Expression]:
    """Go on with packets that the interface they come from sends too fast.

    Args:
        name: Of the set.
    """
    limit = [("RATE", _RATE), ("UNIT", 1), ("BURST", _BURST), ("TYPE", 0), ("FLAGS", 1)]  # NFT_LIMIT_F_INV
    data = {"attrs": [(f"NFTA_LIMIT_{key}", value) for key, value in limit]}
    bucket = {"attrs": [("NFTA_EXPR_NAME", "limit"), ("NFTA_EXPR_DATA", data)]}
    update = [("SET_NAME", name), ("OP", 1), ("SREG_KEY", REGISTER), ("EXPR", bucket)]
    dynset = {"attrs": [(f"NFTA_DYNSET_{key}", value) for key, value in update]}
    return [meta(Meta.IIFNAME), {"attrs": [("NFTA_EXPR_NAME", "dynset"), ("NFTA_EXPR_DATA", dynset)]}]
