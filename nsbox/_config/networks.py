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
    # IPv6; the forms that carry an IPv4 address are all here, or each would be a way around the ranges above
    "::/96",  # unspecified, loopback, IPv4-compatible
    "::ffff:0:0/96",  # IPv4-mapped
    "64:ff9b::/96",  # NAT64, RFC 6052
    "64:ff9b:1::/48",  # local NAT64, RFC 8215
    "100::/64",  # discard only
    "2001::/23",  # protocol assignments, with Teredo
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "fc00::/7",  # unique local; metadata services are in it
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
