"""The heads of HTTP messages on their way through the gateway: RFC 9110, 7.6, and RFC 9112."""

from __future__ import annotations

import h11

from nsbox._ports.names import host_of
from nsbox._ports.replies import RefusedError

LARGEST_HEAD = 65_536
"""Bytes of a request's or a response's line and headers."""

Fields = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"upgrade")
)  # fmt: skip
_FRAMING = frozenset((b"transfer-encoding",))
_FORWARDED = (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")


def _all(message: h11.Request | h11.Response | h11.InformationalResponse, name: bytes) -> list[bytes]:
    return [value for one, value in message.headers if one == name]


def _tokens(message: h11.Request | h11.Response | h11.InformationalResponse, name: bytes) -> frozenset[bytes]:
    return frozenset(
        token for value in _all(message, name) for part in value.split(b",") if (token := part.strip().lower())
    )


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> Fields:
    """What is for the other end: without what is for this connection only, and what Connection says is."""
    # Who names Host or Content-Length there would have them taken away: known from attacks, and never meant.
    dropped = _HOP_BY_HOP | (_tokens(message, b"connection") - {b"host", b"content-length", b"transfer-encoding"})
    return [(name, value) for name, value in message.headers.raw_items() if name.lower() not in dropped]


def upgrade_of(message: h11.Request | h11.InformationalResponse) -> bytes | None:
    """The protocol that a request asks to change to, or that a 101 changes to."""
    wanted = _all(message, b"upgrade")
    return wanted[0] if len(wanted) == 1 and b"upgrade" in _tokens(message, b"connection") else None


def check_request(request: h11.Request) -> None:
    """Refuse what two programs could take for two different things (RFC 9112, 11.2).

    Raises:
        RefusedError: With the status.
    """
    size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size > LARGEST_HEAD:
        raise RefusedError(431, "the head of the request is too large")
    chunked = bool(_all(request, b"transfer-encoding"))
    if chunked and (_all(request, b"content-length") or request.http_version < b"1.1"):
        raise RefusedError(400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0")
    if request.method == b"CONNECT":
        raise RefusedError(405, "this is no proxy")


def find_host(request: h11.Request) -> tuple[bytes, bytes]:
    """Whom a request is for, and what is asked of it: Host and target, the latter without scheme and authority.

    Raises:
        RefusedError: It is malformed.
    """
    target = request.target
    hosts = _all(request, b"host")
    if target[:1] == b"/" or target == b"*":
        if not hosts:
            raise RefusedError(400, "there is no Host header")
        return hosts[0], target
    if target[:7].lower() != b"http://":
        raise RefusedError(400, "the target of the request is malformed")
    # An absolute target goes before the Host header, RFC 9112, 3.2.2.
    authority, slash, rest = target[7:].partition(b"/")
    if host_of(authority) is None:
        raise RefusedError(400, "the target of the request is malformed")
    return authority, slash + rest or b"/"


def request_inward(request: h11.Request, host: bytes, target: bytes, client: str) -> h11.Request:
    """A request as it is sent into the sandbox, on a connection of its own.

    X-Forwarded-For, -Host and -Proto say who asked for what. A client on this machine may be a proxy itself, that ends
    TLS: what it says is kept. From another machine they are what anybody could have written, and are replaced.
    """
    trusted = client.startswith("127.") or client == "::1"
    given = {name: value for name, value in request.headers if name in _FORWARDED} if trusted else {}
    kept = [
        (name, value)
        for name, value in _end_to_end(request)
        if name.lower() not in _FORWARDED and name.lower() != b"host"
    ]
    upgrade = upgrade_of(request)
    connection = [(b"Connection", b"close")]
    if upgrade is not None:
        connection = [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    before = given.get(b"x-forwarded-for")
    forwarded = [
        (b"X-Forwarded-For", (before + b", " if before else b"") + client.encode("ascii")),
        (b"X-Forwarded-Host", given.get(b"x-forwarded-host", host)),
        (b"X-Forwarded-Proto", given.get(b"x-forwarded-proto", b"http")),
    ]
    return h11.Request(method=request.method, target=target, headers=[(b"Host", host), *kept, *connection, *forwarded])


def response_outward(response: h11.Response) -> h11.Response:
    """A response as the client gets it; how its body is framed is decided anew."""
    kept = [(name, value) for name, value in _end_to_end(response) if name.lower() not in _FRAMING]
    if _all(response, b"transfer-encoding"):
        kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
    return h11.Response(status_code=response.status_code, reason=response.reason, headers=kept)


def notice_outward(response: h11.InformationalResponse) -> h11.InformationalResponse:
    """The same for one that precedes the response, or is the change to another protocol."""
    kept = _end_to_end(response)
    upgrade = upgrade_of(response)
    if response.status_code == 101 and upgrade is not None:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    return h11.InformationalResponse(status_code=response.status_code, reason=response.reason, headers=kept)
