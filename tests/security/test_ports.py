"""N: what a hostile server behind an exposed port, and a hostile client, can do: harm their own connection."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from probing import inside, outside
from serving import HOSTILE, HTTP, TCP, connect, ends, get, port_of, raw_http, read_all, server, status_of
from watching import Bell

import nsbox
from nsbox._ports import exchange, exposure
from nsbox._ports import inside as inside_module

KERNELS_BUFFERS = 64 << 20
"""More than two hops of sockets hold with the default maxima of tcp_wmem (4 MiB) and tcp_rmem (6 or 32 MiB), tcp(7)."""


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


@pytest.fixture(name="sandbox")
def _sandbox(bell: Bell) -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(mounts=[bell.mount], timeout=120) as sandbox:
        yield sandbox


CONNECT = """
def connect(port):
    with socket.socket() as one:
        one.settimeout(2)
        one.connect(('127.0.0.1', port))
    return 'connected'
ask('port', lambda: connect({0}))
ask('gateway', lambda: connect({1}))
ask('names', lambda: [name for _, name in socket.if_nameindex()])
ask('route', lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9)))
"""


def test_an_exposed_port_is_a_way_in_and_none_out(sandbox: nsbox.Sandbox) -> None:
    """N10: neither the listener nor the gateway can be reached from inside, where loopback is all there is still."""
    port = port_of(sandbox.expose_port(8000, public=True).url)
    gateway = port_of(sandbox.expose_port(8001, custom_domain="app.example").url)
    questions = CONNECT.format(port, gateway)
    control = outside(questions)
    assert (control["port"], control["gateway"]) == ("connected", "connected")
    found = inside(sandbox, questions)
    assert found == {"port": "ECONNREFUSED", "gateway": "ECONNREFUSED", "names": ["lo"], "route": "ENETUNREACH"}


def test_each_port_leads_into_its_own_sandbox(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """N10: a server of another sandbox on the same port is not found; its own is."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=120) as other, server(other, bell, HTTP, 8000, "other"):
        mine = sandbox.expose_port(8000).url
        assert get(mine)[0] == 502
        assert get(other.expose_port(8000).url) == (200, "other")
        with server(sandbox, bell, HTTP, 8000, "mine"):
            assert get(mine) == (200, "mine")


NO_ANSWER = ("garbage", "silent", "lengths", "switch", "headers", "line", "reset")
CUT_OFF = ("short", "chunk", "trailers")


@pytest.mark.lane_unified
def test_what_a_server_writes_harms_its_own_connection_only(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """N11: no HTTP, endless heads, a false end: a 502 or a reset, within bounded memory; others are served."""
    bad = sandbox.expose_port(8000, custom_domain="bad.example").url
    with (
        nsbox.Sandbox(mounts=[bell.mount], timeout=120) as other,
        server(sandbox, bell, HOSTILE, 8000),
        server(other, bell, HTTP, 8000, "other"),
    ):
        other.expose_port(8000, custom_domain="good.example")
        before = psutil.Process().memory_info().rss
        for path in NO_ANSWER:
            status, body = get(bad, f"/{path}")
            assert (path, status) == (path, 502)
            assert body.startswith("nsbox: the server in the sandbox ")
            assert get(bad, "/good") == (200, "good")
            assert get(bad, host="good.example") == (200, "other")
        for path in CUT_OFF:
            with connect(bad) as sock:
                sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: bad.example\r\n\r\n".encode())
                with pytest.raises(ConnectionResetError):
                    raise AssertionError(read_all(sock))
            assert get(bad, "/good") == (200, "good")
        notices = raw_http(bad, b"GET /notices HTTP/1.1\r\nHost: bad.example\r\n\r\n")
        assert notices.count(b"HTTP/1.1 103") == 64
        assert b"HTTP/1.1 502" in notices
        assert get(bad, "/both") == (200, "good")
        assert psutil.Process().memory_info().rss - before < 32 << 20


def send_until_blocked(sock: socket.socket) -> int:
    """How many bytes can be sent before the other side has to read."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 200 << 20:
            sent += sock.send(bytes(65_536))
    return sent


def test_who_does_not_read_is_waited_for_within_bounded_memory(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """N12: a server that writes 200 MiB to a client that reads nothing is held up, and so is the other way round."""
    urls = (sandbox.expose_port(8000).url, sandbox.expose_port(8001, custom_domain="app.example").url)
    with server(sandbox, bell, HOSTILE, 8000), server(sandbox, bell, HOSTILE, 8001):
        for url in urls:
            before = psutil.Process().memory_info().rss
            with connect(url) as sock:
                sock.sendall(b"GET /flood HTTP/1.1\r\nHost: app.example\r\n\r\n")
                assert 0 < int(bell.wait()) < KERNELS_BUFFERS
                assert get(url, "/good", host="app.example") == (200, "good")
            with connect(url, seconds=1) as sock:
                sock.sendall(b"POST /deaf HTTP/1.1\r\nHost: app.example\r\nContent-Length: 1000000000\r\n\r\n")
                assert bell.wait() == "deaf"
                assert 0 < send_until_blocked(sock) < KERNELS_BUFFERS
                assert get(url, "/good", host="app.example") == (200, "good")
            assert psutil.Process().memory_info().rss - before < 32 << 20
        with connect(urls[0]) as sock:  # the control: a client that reads gets it all
            sock.sendall(b"GET /flood HTTP/1.1\r\nHost: app.example\r\n\r\n")
            while sock.recv(1 << 20):
                pass
        assert int(bell.wait()) >= 200 << 20


def test_a_server_that_does_not_accept_is_told_of(
    sandbox: nsbox.Sandbox, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N12: its backlog is full: a 504, and another port of the same sandbox is served."""
    monkeypatch.setattr(inside_module, "CONNECT_SECONDS", 0.5)
    stuck = sandbox.expose_port(8001).url
    good = sandbox.expose_port(8000).url
    program = (
        "import socket, time\none = socket.create_server(('127.0.0.1', 8001), backlog=0)\n"
        "both = [socket.socket() for _ in range(2)]\n"
        "for other in both:\n    other.setblocking(False)\n    other.connect_ex(('127.0.0.1', 8001))\n"
        "open('/bell/ring', 'w').write('up\\n')\ntime.sleep(60)\n"
    )
    with server(sandbox, bell, program), server(sandbox, bell, HTTP, 8000, "good"):
        assert get(stuck) == (504, "nsbox: the server on port 8001 of the sandbox does not accept connections\n")
        assert get(good) == (200, "good")


AMBIGUOUS = {
    b"Transfer-Encoding: chunked\r\nContent-Length: 4": 400,
    b"Content-Length: 4\r\nTransfer-Encoding: chunked": 400,
    b"Content-Length: 4\r\nContent-Length: 5": 400,
    b"Content-Length: 4, 5": 400,
    b"Content-Length: +4": 400,
    b"Content-Length: -4": 400,
    b"Content-Length : 4": 400,
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity": 501,
    b"Transfer-Encoding: xchunked": 501,
    b"Transfer-Encoding: chunked, identity": 501,
    b"Transfer-Encoding:\x0bchunked": 400,
    b"Content-Length: 4\r\nHost: other.example": 400,
    b"Content-Length: 4\r\nX: a\rb": 400,
    b"Content-Length: 4\r\nX: a\0b": 400,
}


def test_requests_that_can_be_taken_for_two_things_are_refused(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """N13: and what stands behind them is not served as another request. The same with one length is served."""
    url = sandbox.expose_port(8000, custom_domain="app.example").url
    body = b"0\r\n\r\nGET /seen HTTP/1.1\r\nHost: app.example\r\n\r\n"
    with server(sandbox, bell, HTTP, 8000, "name"):
        head = b"POST / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n"
        control = raw_http(url, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (status_of(control), control.count(b"HTTP/1.1 ")) == (200, 1)
        for fields, status in AMBIGUOUS.items():
            answer = raw_http(url, head + fields + b"\r\n\r\n" + body)
            assert (fields, status_of(answer), answer.count(b"HTTP/1.1 ")) == (fields, status, 1)
        for request, status in {
            b"GET / HTTP/1.1\r\n\r\n": 400,
            b"GET / HTTP/1.0\r\n\r\n": 400,
            b"GET\r\n\r\n": 400,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n": 400,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
            b"GET ftp://app.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n": 400,
            b"GET http://a@app.example/ HTTP/1.1\r\nHost: app.example\r\n\r\n": 400,
            b"POST / HTTP/1.0\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
            b"POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": 400,
            b"CONNECT app.example:80 HTTP/1.1\r\nHost: app.example\r\n\r\n": 405,
            b"GET / HTTP/1.1\r\nHost: app.example\r\nX: " + b"a" * 70_000 + b"\r\n\r\n": 431,
            b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000 + b"Host: app.example\r\n\r\n": 431,
            b"a" * 200_000: 431,
        }.items():
            answer = raw_http(url, request)
            assert (request[:40], status_of(answer), answer.count(b"HTTP/1.1 ")) == (request[:40], status, 1)
        assert get(url) == (200, "name")


def test_an_answer_goes_to_the_request_that_it_is_for(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """N14: a server that answers twice to one request gives nothing to the next one on the client's connection."""
    url = sandbox.expose_port(8000, custom_domain="app.example").url
    with server(sandbox, bell, HOSTILE, 8000):
        direct = sandbox.expose_port(8001).url
        with server(sandbox, bell, HOSTILE, 8001):
            control = raw_http(direct, b"GET /twice HTTP/1.1\r\nHost: x\r\n\r\n")
            assert control.endswith(b"second")
        connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=20)
        with contextlib.closing(connection):
            for path, expected in (("/twice", b"first"), ("/good", b"good"), ("/twice", b"first")):
                connection.request("GET", path, headers={"Host": "app.example"})
                assert connection.getresponse().read() == expected


def test_a_gateway_tells_no_stranger_what_is_behind_it(sandbox: nsbox.Sandbox) -> None:
    """N15: for a host that it does not know the answer is the same as without any sandbox; for one it knows another."""
    url = sandbox.expose_port(8000, custom_domain="secret.example").url
    answers = {
        raw_http(url, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        for host in (b"x.example", b"127.0.0.1", b"secret.example.x", b"secret", sandbox.id.encode(), b"\xff", b"a b")
    }
    assert len(answers) == 1
    answer = answers.pop()
    assert status_of(answer) == 404
    assert b"secret" not in answer
    assert sandbox.id.encode() not in answer
    assert get(url)[0] == 502


def test_a_client_that_dawdles_is_let_go(sandbox: nsbox.Sandbox, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """N16: half of a head gets a 408, an idle connection an end of file; one that goes on is served."""
    monkeypatch.setattr(exchange, "IDLE_SECONDS", 0.5)
    url = sandbox.expose_port(8000, custom_domain="app.example").url
    with server(sandbox, bell, HTTP, 8000, "name"):
        assert status_of(raw_http(url, b"GET / HTTP/1.1\r\nHost: app.exa")) == 408
        with connect(url) as sock:
            assert ends(sock)
        connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=20)
        with contextlib.closing(connection):
            for _ in range(2):
                connection.request("GET", "/", headers={"Host": "app.example"})
                assert connection.getresponse().read() == b"name"
            assert connection.sock is not None
            assert ends(connection.sock)


def test_one_port_has_a_bounded_number_of_connections(
    sandbox: nsbox.Sandbox, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N16: what is above it waits in the kernel until another ends; meanwhile another port is served."""
    monkeypatch.setattr(exposure, "MOST_CONNECTIONS", 4)
    url = sandbox.expose_port(9000, protocol="tcp").url
    other = sandbox.expose_port(8000).url
    with (
        server(sandbox, bell, TCP, 9000, "127.0.0.1"),
        server(sandbox, bell, HTTP, 8000, "other"),
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(connect(url)) for _ in range(5)]
        for sock in socks:
            sock.sendall(b"echo\nhello\n")
        for sock in socks[:4]:
            assert sock.recv(6, socket.MSG_WAITALL) == b"hello\n"
        socks[4].settimeout(0.3)
        with pytest.raises(TimeoutError):
            socks[4].recv(1)
        assert get(other) == (200, "other")
        socks[0].close()
        socks[4].settimeout(20)
        assert socks[4].recv(6, socket.MSG_WAITALL) == b"hello\n"
