"""Messages and expressions of nf_tables, in the terms of nft(8); pyroute2 encodes them.

A rule is a list of expressions. Some load a value into a register, some compare a register and leave the rule where it
does not fit, the others act. Registers are the sixteen of 4 bytes; a key of several parts lies in neighbouring ones.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft

from nsbox._network.netlink import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    REQUEST,
    attribute,
    attributes,
    message,
    number_of_step,
)

INET = 1  # NFPROTO_INET: rules for IPv4 and IPv6
IPV4, IPV6 = 2, 10  # NFPROTO_IPV4, NFPROTO_IPV6
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWOBJ, _GETOBJ, _DELOBJ = 18, 19, 20  # NFT_MSG_*OBJ
_COUNTER = 1  # NFT_OBJECT_COUNTER
_GENERIC = struct.pack(">BBH", INET, 0, 0)  # struct nfgenmsg
REGISTER = 8  # NFT_REG32_00, the first

Expression = dict[str, Any]


class Verdict(IntEnum):
    """What becomes of a packet; NF_* and NFT_*."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4


class Meta(IntEnum):
    """What is known of a packet besides its bytes; NFT_META_*."""

    IIFNAME = 6
    OIFNAME = 7
    NFPROTO = 15
    L4PROTO = 16


class Type(IntEnum):
    """What a key is, for nft(8) to show it; the kernel knows its length only."""

    IPV4 = 7
    IPV6 = 8
    PROTOCOL = 12
    PORT = 13
    MARK = 19
    NAME = 41


LENGTHS = {Type.IPV4: 4, Type.IPV6: 16, Type.PROTOCOL: 1, Type.PORT: 2, Type.MARK: 4, Type.NAME: 16}
ESTABLISHED, ESTABLISHED_OR_RELATED = 0b10, 0b110  # bits of the state of a connection, NF_CT_STATE_BIT
NO_CONNECTION = 0b1  # NF_CT_STATE_INVALID_BIT


class _Object(nfgen_msg):  # type: ignore[misc]  # pyroute2 is not typed
    """A counter with a name."""

    nla_map = (
        ("NFTA_OBJ_UNSPEC", "none"),
        ("NFTA_OBJ_TABLE", "asciiz"),
        ("NFTA_OBJ_NAME", "asciiz"),
        ("NFTA_OBJ_TYPE", "be32"),
        ("NFTA_OBJ_DATA", "counter"),
    )

    class counter(nft.nft_chain_msg.counters):  # type: ignore[misc]  # noqa: N801  # pyroute2 finds it by this name
        """Bytes and packets."""


class Table:
    """Messages about one table of rules for both protocols of the internet.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, *, owned: bool) -> bytes:
        """Make it; one that is owned ends with the socket that made it (NFT_TABLE_F_OWNER, Linux 5.12)."""
        attrs = [("NFTA_TABLE_NAME", self.name), ("NFTA_TABLE_FLAGS", 2 if owned else 0)]
        return _encode(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, CREATE | EXCLUSIVE, f"make table {self.name}", attrs)

    def make_anew(self) -> list[bytes]:
        """Make it, without anything that one of its name had."""
        attrs = [("NFTA_TABLE_NAME", self.name)]
        there = _encode(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, CREATE, f"make table {self.name}", attrs)
        gone = _encode(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, 0, f"remove table {self.name}", attrs)
        return [there, gone, self.make(owned=False)]

    def base_chain(self, name: str, hook: int, priority: int, *, kind: str = "filter", drop: bool = False) -> bytes:
        """A chain that packets come to by themselves, at a hook (NF_INET_*)."""
        place = {"attrs": [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", priority)]}
        policy = Verdict.DROP if drop else Verdict.ACCEPT
        return self._chain(name, ("NFTA_CHAIN_HOOK", place), ("NFTA_CHAIN_POLICY", policy), ("NFTA_CHAIN_TYPE", kind))

    def chain(self, name: str) -> bytes:
        """A chain that a verdict leads to."""
        return self._chain(name)

    def _chain(self, name: str, *more: tuple[str, Any]) -> bytes:
        attrs = [("NFTA_CHAIN_TABLE", self.name), ("NFTA_CHAIN_NAME", name), *more]
        return _encode(nft.nft_chain_msg, nft.NFT_MSG_NEWCHAIN, CREATE | EXCLUSIVE, "make a chain", attrs)

    def remove_chain(self, name: str) -> bytes:
        """With its rules."""
        attrs = [("NFTA_CHAIN_TABLE", self.name), ("NFTA_CHAIN_NAME", name)]
        return _encode(nft.nft_chain_msg, nft.NFT_MSG_DELCHAIN, 0, "remove a chain", attrs)

    def rule(self, chain: str, *expressions: Expression) -> bytes:
        """A rule at the end of a chain."""
        attrs = [
            ("NFTA_RULE_TABLE", self.name),
            ("NFTA_RULE_CHAIN", chain),
            ("NFTA_RULE_EXPRESSIONS", list(expressions)),
        ]
        return _encode(nft.nft_rule_msg, nft.NFT_MSG_NEWRULE, CREATE | APPEND, "make a rule", attrs)

    def empty_chain(self, name: str) -> bytes:
        """Take all rules out of a chain."""
        attrs = [("NFTA_RULE_TABLE", self.name), ("NFTA_RULE_CHAIN", name)]
        return _encode(nft.nft_rule_msg, nft.NFT_MSG_DELRULE, 0, "remove rules", attrs)

    def set(
        self, name: str, *types: Type, verdicts: bool = False, intervals: bool = False, timeouts: bool = False
    ) -> bytes:
        """A set of keys.

        Args:
            name: Its name.
            types: The parts of a key.
            verdicts: A map: each key has a verdict.
            intervals: Elements are the starts and ends of ranges.
            timeouts: Elements end by themselves.
        """
        kind = length = 0
        for part in types:
            kind = kind << 6 | part  # TYPE_BITS of nft(8)
            length += -(-LENGTHS[part] // 4) * 4 if len(types) > 1 else LENGTHS[part]
        order = 1 if types[0] in (Type.NAME, Type.MARK) else 2  # of this machine, or of the network: for nft(8) only
        flags = [
            *(["NFT_SET_INTERVAL"] if intervals else []),
            *(["NFT_SET_MAP"] if verdicts else []),
            *(["NFT_SET_TIMEOUT"] if timeouts else []),
        ]
        attrs = [
            ("NFTA_SET_TABLE", self.name),
            ("NFTA_SET_NAME", name),
            ("NFTA_SET_FLAGS", flags),
            ("NFTA_SET_KEY_TYPE", kind),
            ("NFTA_SET_KEY_LEN", length),
            *([("NFTA_SET_DATA_TYPE", 0xFFFFFF00), ("NFTA_SET_DATA_LEN", 16)] if verdicts else []),  # NFT_DATA_VERDICT
            ("NFTA_SET_ID", 1),
            ("NFTA_SET_USERDATA", [("NFTNL_UDATA_SET_KEYBYTEORDER", struct.pack("=I", order))]),
        ]
        return _encode(nft.nft_set_msg, nft.NFT_MSG_NEWSET, CREATE | EXCLUSIVE, "make a set", attrs)

    def remove_set(self, name: str) -> bytes:
        """With its elements."""
        attrs = [("NFTA_SET_TABLE", self.name), ("NFTA_SET_NAME", name)]
        return _encode(nft.nft_set_msg, nft.NFT_MSG_DELSET, 0, "remove a set", attrs)

    def counter(self, name: str) -> bytes:
        """A counter that rules share, and that outlives them."""
        attrs = [("NFTA_OBJ_TABLE", self.name), ("NFTA_OBJ_NAME", name), ("NFTA_OBJ_TYPE", _COUNTER),
                 ("NFTA_OBJ_DATA", {"attrs": []})]  # fmt: skip
        return _encode(_Object, _NEWOBJ, CREATE | EXCLUSIVE, "make a counter", attrs)

    def remove_counter(self, name: str) -> bytes:
        """No rule may use it any more."""
        return message(_SUBSYSTEM | _DELOBJ, 0, "remove a counter", _GENERIC, self._object(name))

    def ask_counter(self, name: str) -> bytes:
        """The answer is for `counted`."""
        return message(_SUBSYSTEM | _GETOBJ, 0, "read a counter", _GENERIC, self._object(name))

    def _object(self, name: str) -> bytes:
        return (attribute(1, self.name.encode(), b"\0") + attribute(2, name.encode(), b"\0")
                + attribute(3, struct.pack(">I", _COUNTER)))  # fmt: skip

    # Elements come and go all the time, and have one shape: they are put together by hand.

    def add(self, name: str, elements: Sequence[bytes]) -> bytes:
        """Put elements into a set, as `element` and `interval` make them; what is there already stays as it is."""
        return self._elements(nft.NFT_MSG_NEWSETELEM, CREATE, "add to a set", name, elements)

    def remove(self, name: str, elements: Sequence[bytes]) -> bytes:
        """Take elements out of a set; each must be there."""
        return self._elements(nft.NFT_MSG_DELSETELEM, 0, "remove from a set", name, elements)

    def empty_set(self, name: str) -> bytes:
        """Take all elements out of a set."""
        where = attribute(1, self.name.encode(), b"\0") + attribute(2, name.encode(), b"\0")
        return message(_SUBSYSTEM | nft.NFT_MSG_DELSETELEM, 0, "empty a set", _GENERIC, where)

    def _elements(self, kind: int, flags: int, step: str, name: str, elements: Sequence[bytes]) -> bytes:
        where = attribute(1, self.name.encode(), b"\0") + attribute(2, name.encode(), b"\0")
        return b"".join(
            message(
                _SUBSYSTEM | kind,
                flags,
                step,
                _GENERIC,
                where,
                attribute(_NESTED | 3, *elements[start : start + _MOST]),
            )
            for start in range(0, len(elements), _MOST)
        )


_NESTED = 0x8000  # NLA_F_NESTED
_MOST = 512
"""Elements in a message: the length of an attribute has 16 bits."""


def element(key: bytes, *, verdict: tuple[Verdict, str] | None = None, seconds: float | None = None) -> bytes:
    """An element of a set.

    Args:
        key: Its parts, each padded to 4 bytes where there are several.
        verdict: In a map: what to do, and in which chain.
        seconds: After which it ends by itself.
    """
    parts = [attribute(_NESTED | 1, attribute(1, key))]
    if verdict is not None:
        code = attribute(1, struct.pack(">i", verdict[0])) + attribute(2, verdict[1].encode(), b"\0")
        parts.append(attribute(_NESTED | 2, attribute(_NESTED | 2, code)))
    if seconds is not None:
        parts.append(attribute(4, struct.pack(">Q", max(1, round(seconds * 1000)))))
    return attribute(_NESTED | 1, *parts)


def interval(first: int, last: int, length: int) -> bytes:
    """The two elements of a range of keys with `length` bytes; one that reaches the last key has no end."""
    found = element(first.to_bytes(length, "big"))
    if last + 1 < 1 << length * 8:
        end = attribute(_NESTED | 1, attribute(1, (last + 1).to_bytes(length, "big")))
        found += attribute(_NESTED | 1, end, attribute(3, struct.pack(">I", 1)))  # NFT_SET_ELEM_INTERVAL_END
    return found


def counted(answer: bytes) -> tuple[int, int]:
    """The bytes and packets of a counter."""
    values = attributes(attributes(answer[4:])[4])
    return struct.unpack(">Q", values[1])[0], struct.unpack(">Q", values[2])[0]


# Expressions.


def _expression(name: str, *attrs: tuple[str, Any]) -> Expression:
    data = [(f"NFTA_{name.upper()}_{key}", value) for key, value in attrs]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": data})]}


def meta(key: Meta, register: int = 0) -> Expression:
    """Load what is known of the packet."""
    return _expression("meta", ("DREG", REGISTER + register), ("KEY", key))


def network(offset: int, length: int, register: int = 0) -> Expression:
    """Load bytes of the IP header."""
    return _payload(1, offset, length, register)


def transport(offset: int, length: int, register: int = 0) -> Expression:
    """Load bytes of the header of TCP or UDP."""
    return _payload(2, offset, length, register)


def _payload(base: int, offset: int, length: int, register: int) -> Expression:
    where = (("BASE", base), ("OFFSET", offset), ("LEN", length))
    return _expression("payload", ("DREG", REGISTER + register), *where)


def write_transport(offset: int, length: int) -> Expression:
    """Write the first register into the header of TCP, and correct its checksum."""
    checksum = (("CSUM_TYPE", 1), ("CSUM_OFFSET", 16))  # NFT_PAYLOAD_CSUM_INET
    where = (("BASE", 2), ("OFFSET", offset), ("LEN", length))
    return _expression("payload", ("SREG", REGISTER), *where, *checksum)


def masked(mask: bytes, flipped: bytes | None = None) -> Expression:
    """Keep these bits of the first register, then flip those."""
    return _expression(
        "bitwise",
        ("SREG", REGISTER),
        ("DREG", REGISTER),
        ("LEN", len(mask)),
        ("MASK", _value(mask)),
        ("XOR", _value(bytes(len(mask)) if flipped is None else flipped)),
    )


def equal(value: bytes) -> Expression:
    """Go on where the first register begins so."""
    return _expression("cmp", ("SREG", REGISTER), ("OP", 0), ("DATA", _value(value)))


def different(value: bytes) -> Expression:
    """Go on where the first register does not begin so."""
    return _expression("cmp", ("SREG", REGISTER), ("OP", 1), ("DATA", _value(value)))


def less(value: bytes) -> Expression:
    """Go on where the first register is less than this, as bytes are compared."""
    return _expression("cmp", ("SREG", REGISTER), ("OP", 2), ("DATA", _value(value)))


def _value(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def within(name: str, *, inverted: bool = False) -> Expression:
    """Go on where the key, from the first register on, is in a set, or is not."""
    flags = [("FLAGS", ["NFT_LOOKUP_F_INV"])] if inverted else []
    return _expression("lookup", ("SET", name), ("SREG", REGISTER), *flags)


def by_map(name: str) -> Expression:
    """Do what a map says of the key; go on where it has none."""
    return _expression("lookup", ("SET", name), ("SREG", REGISTER), ("DREG", 0))


def state(bits: int) -> list[Expression]:
    """Go on where the connection is in one of these states."""
    return [
        _expression("ct", ("DREG", REGISTER), ("KEY", 0)),
        masked(struct.pack("=I", bits)),
        different(bytes(4)),
    ]


def ending() -> list[Expression]:
    """Go on where the kernel forgets the connection within 16 s, unless more belongs to it."""
    # NFT_CT_EXPIRATION, in ms of this machine's order of bytes: nothing above the lowest 14 bits
    load = _expression("ct", ("DREG", REGISTER), ("KEY", 5))
    return [load, masked(struct.pack("=I", 0xFFFFFFFF << 14 & 0xFFFFFFFF)), equal(bytes(4))]


def connection_mark(register: int = 0) -> Expression:
    """Load the mark of the connection."""
    return _expression("ct", ("DREG", REGISTER + register), ("KEY", 3))


def mark_connection(mark: bytes) -> list[Expression]:
    """Give the connection a mark of 4 bytes."""
    load = _expression("immediate", ("DREG", REGISTER), ("DATA", _value(mark)))
    return [load, _expression("ct", ("KEY", 3), ("SREG", REGISTER))]


def more_connections_than(count: int) -> Expression:
    """Count the connections that come here; go on where there are more."""
    return _expression("connlimit", ("COUNT", count), ("FLAGS", ["NFT_LIMIT_F_INV"]))


def count(name: str) -> Expression:
    """Let a counter of the table count the packet."""
    return _expression("objref", ("IMM_TYPE", _COUNTER), ("IMM_NAME", name))


def verdict(code: Verdict, chain: str | None = None) -> Expression:
    """The end of the rule."""
    where = [] if chain is None else [("NFTA_VERDICT_CHAIN", chain)]
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", int(code)), *where]})]}
    return _expression("immediate", ("DREG", 0), ("DATA", data))


def reset() -> Expression:
    """Answer with a TCP reset."""
    return _expression("reject", ("TYPE", 1), ("ICMP_CODE", 0))


def unreachable(code: int) -> Expression:
    """Answer with ICMP or ICMPv6: 1 is "port unreachable", 3 is "administratively prohibited" (NFT_REJECT_ICMPX_*)."""
    return _expression("reject", ("TYPE", 2), ("ICMP_CODE", code))


def untracked() -> Expression:
    """Make no connection of the packet."""
    return {"attrs": [("NFTA_EXPR_NAME", "notrack")]}  # it has no attributes, and pyroute2 no class for it


def masquerade(ports: tuple[int, int] | None = None) -> list[Expression]:
    """Give the connection the address of the interface that it leaves by.

    Args:
        ports: The first and last of those from which it gets one by chance; None: it keeps its own, if that is free.
    """
    if ports is None:
        return [_expression("masq")]
    chosen = [_expression("immediate", ("DREG", REGISTER + number), ("DATA", _value(struct.pack(">H", port))))
              for number, port in enumerate(ports)]  # fmt: skip
    flags = ["NF_NAT_RANGE_PROTO_SPECIFIED", "NF_NAT_RANGE_PROTO_RANDOM_FULLY"]
    where = [("REG_PROTO_MIN", REGISTER), ("REG_PROTO_MAX", REGISTER + 1)]
    return [*chosen, _expression("masq", ("FLAGS", flags), *where)]


def _encode(kind: type[Any], number: int, flags: int, step: str, attrs: list[tuple[str, Any]]) -> bytes:
    one = kind()
    one["attrs"] = attrs
    one["nfgen_family"] = INET
    one["header"]["type"] = _SUBSYSTEM | number
    one["header"]["flags"] = REQUEST | flags
    one["header"]["sequence_number"] = number_of_step(step)
    one.encode()
    return bytes(one.data)
