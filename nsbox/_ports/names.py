"""Domains: as a caller gives them, and as a client asks for them."""

from __future__ import annotations

import re

import idna

from nsbox._config.validation import refuse, text

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, 2.1
_LONGEST = 253  # RFC 1035, 2.3.4, without the last dot
_LOCAL = re.compile(r"\d+-sbx-[0-9a-f]+\.localhost")
_HOST = re.compile(rb"([A-Za-z0-9.-]{1,255})(?::[0-9]{0,5})?")
_ALLOWED = "a domain name such as 'app.example.com' or 'app.localhost'"


def local_name(port: int, sandbox_id: str) -> str:
    """The name that every HTTP port has at a gateway: RFC 6761, 6.3, keeps it on this machine."""
    return f"{port}-{sandbox_id}.localhost"


def check_domain(field: str, value: object) -> str:
    """A domain in the form in which it is compared: lower case, ASCII (IDNA 2008, UTS 46), without a last dot.

    Raises:
        ConfigError: It is none, or looks like an address, or is one of those that nsbox gives itself.
    """
    domain = text(field, value, empty=False, allowed=_ALLOWED).removesuffix(".")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            refuse(field, value, _ALLOWED)
    domain = domain.lower()
    labels = domain.split(".")
    if len(domain) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        refuse(field, value, _ALLOWED)
    if _LOCAL.fullmatch(domain):
        refuse(field, value, "another name: <port>-<id>.localhost is what nsbox calls each port")
    return domain


def host_of(value: bytes) -> str | None:
    """The name in a Host header or an authority, without the port; None: it is none that a gateway could have."""
    match = _HOST.fullmatch(value)
    return None if match is None else match[1].decode("ascii").lower().removesuffix(".")
