"""What the gateway decides without a connection: names, and the heads of messages."""

import h11
import pytest
import trio
import trio.testing

from nsbox import ConfigError
from nsbox._ports import check_domain, local_name
from nsbox._ports.heads import find_host, notice_outward, request_inward, response_outward
from nsbox._ports.names import host_of
from nsbox._supervisor.background import start_soon


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("app.example", "app.example"),
        ("APP.Example.", "app.example"),
        ("localhost", "localhost"),
        ("a-b.xn--bcher-kva.example", "a-b.xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER。example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_a_domain_is_compared_in_one_form(given: str, kept: str) -> None:
    """Lower case, ASCII by IDNA 2008, no last dot; and a client that asks for that form finds it."""
    assert check_domain("custom_domain", given) == kept
    assert host_of(kept.upper().encode() + b":8080") == kept


def test_no_domain_can_be_that_of_another_port() -> None:
    """The names that nsbox gives are its own."""
    with pytest.raises(ConfigError, match="another name"):
        check_domain("custom_domain", local_name(80, "sbx-0123456789ab"))


@pytest.mark.parametrize(
    "value", [b"", b":80", b"a:b", b"a:80:80", b"[::1]:80", b"a/b", b"a b", b"a@b", b"a\x00", b"\xe4"]
)
def test_what_is_no_host_is_none(value: bytes) -> None:
    """Whoever asks for it gets the answer for what is not known."""
    assert host_of(value) is None


def request(target: bytes = b"/", **headers: str) -> h11.Request:
    """A request for a.example with these headers."""
    fields = [("Host", "a.example"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return h11.Request(method=b"GET", target=target, headers=fields)


def sent(message: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[bytes, bytes]]:
    """Names, in lower case, and values."""
    return [(bytes(name), bytes(value)) for name, value in message.headers]


def test_what_a_strangers_request_says_about_itself_is_replaced() -> None:
    """From another machine X-Forwarded-* are made anew; what a proxy on this machine says is kept, and added to."""
    claimed = request(X_Forwarded_For="10.0.0.1", X_Forwarded_Proto="https", X_Forwarded_Host="bank.example")
    for client, expected in (
        ("192.0.2.9", {b"for": b"192.0.2.9", b"proto": b"http", b"host": b"a.example"}),
        ("2001:db8::9", {b"for": b"2001:db8::9", b"proto": b"http", b"host": b"a.example"}),
        ("127.0.0.1", {b"for": b"10.0.0.1, 127.0.0.1", b"proto": b"https", b"host": b"bank.example"}),
    ):
        found = sent(request_inward(claimed, b"a.example", b"/", client))
        forwarded = [(name.removeprefix(b"x-forwarded-"), value) for name, value in found if b"forwarded" in name]
        assert sorted(forwarded) == sorted(expected.items())


def test_what_is_for_one_connection_stays_there() -> None:
    """Hop-by-hop headers, and those that Connection names; but not those that the message would be another without."""
    made = request(
        Connection="keep-alive, X-Mine, Host, Content-Length", Keep_Alive="9", X_Mine="1", X_Other="2",
        Proxy_Authorization="secret", TE="trailers", Content_Length="0", Upgrade="h2c",
    )  # fmt: skip
    names = [name for name, _ in sent(request_inward(made, b"a.example", b"/", "127.0.0.1"))]
    assert names[:4] == [b"host", b"x-other", b"content-length", b"connection"]
    assert set(names[4:]) == {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
    answer = h11.Response(
        status_code=200,
        headers=[("Connection", "close"), ("Keep-Alive", "9"), ("Transfer-Encoding", "chunked"),
                 ("Content-Length", "3"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
    )  # fmt: skip
    assert sent(response_outward(answer)) == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


def test_an_upgrade_is_passed_on_only_where_it_is_asked_for_properly() -> None:
    """Both headers are needed, RFC 9110, 7.8."""
    asked = sent(request_inward(request(Connection="Upgrade", Upgrade="websocket"), b"a.example", b"/", "127.0.0.1"))
    assert (b"connection", b"Upgrade") in asked
    assert (b"upgrade", b"websocket") in asked
    not_asked = sent(request_inward(request(Upgrade="websocket"), b"a.example", b"/", "127.0.0.1"))
    assert (b"connection", b"close") in not_asked
    assert b"upgrade" not in dict(not_asked)
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    assert sent(notice_outward(h11.InformationalResponse(status_code=101, headers=fields))) == [
        (b"connection", b"Upgrade"), (b"upgrade", b"websocket")
    ]  # fmt: skip
    assert sent(notice_outward(h11.InformationalResponse(status_code=103, headers=fields))) == []


def test_an_absolute_target_goes_before_the_host_header() -> None:
    """RFC 9112, 3.2.2; scheme in any case, and a target without a path is the root."""
    assert find_host(request(b"HTTP://B.example:80/x?y")) == (b"B.example:80", b"/x?y")
    assert find_host(request(b"http://b.example")) == (b"b.example", b"/")
    assert find_host(request(b"//b.example/x")) == (b"a.example", b"//b.example/x")
    assert find_host(request(b"*")) == (b"a.example", b"*")


async def test_a_task_that_fails_while_it_is_cancelled_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, as any other that nobody waits for."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("at the end")

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    scope = start_soon(work)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert "a task in the background failed" in caplog.text
