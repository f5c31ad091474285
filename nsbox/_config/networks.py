"""Ranges and names of networks: what a sandbox may not reach unless told otherwise, and how patterns are spelled."""

from __future__ import annotations

import ipaddress
import re

from nsbox._config.validation import refuse

PRIVATE_NETWORKS: tuple[str, ...] = (
    # IPv4: the special-purpose registry of RFC 6890, less what is globally reachable
    "0.0.0.0/8",  # "this network"; Linux connects 0.0.0.0 to the loopback
    "10.0.0.0/8",  # private, RFC 1918
    "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; one cloud's metadata service is in it
    "127.0.0.0/8",  # loopback
    "168.63.129.16/32",  # a public address that one cloud uses for its host agent
    "169.254.0.0/16",  # link-local, RFC 3927; the metadata service of most clouds
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments, RFC 6890; one cloud's metadata service is in it
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays, deprecated by RFC 7526
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks, RFC 2544
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and the broadcast address
    # IPv6: what is not globally routable unicast (2000::/3), and in it what is no machine's, RFC 6890. All forms that
    # carry an IPv4 address are in these, or each would be a way around the ranges above: mapped, compatible and
    # translated (::/96, ::ffff:0:0/96, ::ffff:0:0:0/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), Teredo and 6to4
    "::/3",  # those, unspecified, loopback, and discard only (100::/64, 100:0:0:1::/64)
    "2001::/23",  # protocol assignments, with Teredo
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "3fff::/20",  # documentation, RFC 9637
    "4000::/2",  # not assigned, and segment routing (5f00::/16, RFC 9602)
    "8000::/2",  # not assigned
    "c000::/3",  # not assigned
    "e000::/4",  # not assigned
    "f000::/5",  # not assigned
    "f800::/6",  # not assigned
    "fc00::/7",  # unique local; metadata services are in it
    "fe00::/9",  # not assigned
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local, deprecated
    "ff00::/8",  # multicast
)
"""The private, link-local, loopback, metadata, multicast and reserved ranges. The host's own public addresses are known
at run time only: `HOST` stands for them."""

HOST = "host"
BLOCKED_NETWORKS = (HOST, *PRIVATE_NETWORKS)

NAME_SERVER = "169.254.1.1"
"""What every sandbox asks for names, and its way out: link-local, so that it is no address of anybody else's."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def domain_pattern(field: str, value: object) -> str:
    """A domain name or "*.name", in its one normal form: lower case, without the final dot.

    Names outside ASCII are refused, since there are two ways to encode them (IDNA 2003 and 2008), and a filter that
    takes the other one than the resolver is by-passed. An address is no domain: `blocked_networks` is for those.
    """
    allowed = 'a domain name in ASCII such as "example.com" or "*.example.com"; addresses belong in blocked_networks'
    if not isinstance(value, str):
        refuse(field, value, allowed)
    name = value.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        refuse(field, value, allowed)
    return name


def network(field: str, value: object) -> str:
    """An IPv4 or IPv6 range in its normal form, or `HOST`; a single address is a range of one."""
    if value == HOST:
        return HOST
    allowed = 'a network such as "10.0.0.0/8" or "fc00::/7", without bits set behind the prefix, or "host"'
    if not isinstance(value, str):  # ip_network() also takes an int, as an address
        refuse(field, value, allowed)
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        refuse(field, value, allowed)
