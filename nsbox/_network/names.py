"""Which names a sandbox may ask for, and which addresses it may be told. All is pure, and needs no library."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052; the prefixes of a provider's own cannot be known
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1
_OCTET = re.compile(r"0|[1-9][0-9]{0,2}")
_NIBBLE = re.compile(r"[0-9a-f]")


class Patterns:
    """Names, and "*.name" for all that is below a name at any depth, but not that name itself.

    To look one up takes the same time however many there are.

    Args:
        patterns: In ASCII, as `nsbox._config.networks.domain_pattern` leaves them.
    """

    __slots__ = ("_above", "_exact")

    def __init__(self, patterns: Iterable[str]) -> None:
        plain = [one.lower().removesuffix(".") for one in patterns]
        self._exact = frozenset(one for one in plain if not one.startswith("*."))
        self._above = frozenset(one[2:] for one in plain if one.startswith("*."))

    def match(self, name: str) -> bool:
        """Whether a name, in lower case and without a final dot, is one of them."""
        if name in self._exact:
            return True
        _, dot, above = name.partition(".")
        while dot:
            if above in self._above:
                return True
            _, dot, above = above.partition(".")
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the resolver asks about a sandbox.

    Attributes:
        blocked: Patterns that are refused, also as a station of a chain of aliases.
        allowed: Patterns of the only names that are asked for; None: of all but the blocked ones. What aliases an
            allowed name has is its owner's business: the addresses at their end are admitted.
        hosts: The addresses of a peer in a private segment; None: nobody's name. Peers go before everything else.
        admit: Is given addresses, each with the seconds that it is good for, and awaited before the program is told
            of them. It is called where `allowed` is not None. What it raises is logged, and the program is told of
            a failure instead.
        refused: Is given the name of each query that policy refused.
        is_blocked_address: Whether the sandbox cannot connect to an address; the program is not told such ones.
    """

    blocked: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    hosts: Callable[[str], Sequence[str] | None]
    admit: Callable[[Sequence[tuple[str, float]]], Awaitable[None]]
    refused: Callable[[str], None]
    is_blocked_address: Callable[[str], bool]
    _blocked: Patterns = field(init=False, repr=False, compare=False)
    _allowed: Patterns | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_blocked", Patterns(self.blocked))
        object.__setattr__(self, "_allowed", None if self.allowed is None else Patterns(self.allowed))

    def blocks(self, name: str) -> bool:
        """Whether a name may not even be an alias on the way."""
        return self._blocked.match(name)

    def permits(self, name: str) -> bool:
        """Whether a name may be asked for."""
        return not self.blocks(name) and (self._allowed is None or self._allowed.match(name))

    def hides(self, address: str) -> bool:
        """Whether the program is not told of an address: it is blocked, or another form of a blocked one.

        An IPv4-mapped one always is hidden: it is an IPv4 address in a record for IPv6, which nobody needs to write.
        """
        parsed = ipaddress.ip_address(address)
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            return True
        inner = embedded_address(parsed)
        return self.is_blocked_address(address) or (inner is not None and self.is_blocked_address(str(inner)))


def embedded_address(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address come to in the end; None: it is of no such kind."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def is_loopback_name(name: str) -> bool:
    """Whether a name is localhost, or below it: never asked for outside, RFC 6761, 6.3."""
    return name == "localhost" or name.endswith(".localhost")


def is_nowhere(name: str) -> bool:
    """Whether a name exists nowhere in the DNS, and is told to nobody: RFC 6761, 6.4, and RFC 7686."""
    return name.rpartition(".")[2] in {"invalid", "onion"}


def reverse_network(name: str) -> Network | None:
    """The range that a name for the way from addresses to names is about; None: it is no such name.

    What is below in-addr.arpa and ip6.arpa is read from the right as far as it is a number: a name below that of a
    range (RFC 2317, services) is about that range.
    """
    labels = name.split(".")
    below, top = labels[-3::-1], labels[-2:]
    if top == ["in-addr", "arpa"]:
        octets = _leading(below[:4], lambda one: _OCTET.fullmatch(one) is not None and int(one) < 256)
        number = int.from_bytes(bytes(map(int, octets)).ljust(4, b"\0"), "big")
        return ipaddress.IPv4Network((number, 8 * len(octets))) if octets else None
    if top == ["ip6", "arpa"]:
        nibbles = _leading(below[:32], lambda one: _NIBBLE.fullmatch(one) is not None)
        return ipaddress.IPv6Network((int("".join(nibbles).ljust(32, "0"), 16), 4 * len(nibbles))) if nibbles else None
    return None


def _leading(labels: Sequence[str], is_good: Callable[[str], bool]) -> list[str]:
    found = []
    for one in labels:
        if not is_good(one):
            break
        found.append(one)
    return found
