"""Exposed ports: what is forwarded, by which address, and how long."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from serving import (
    HTTP,
    TCP,
    ask,
    connect,
    ends,
    exchange_frame,
    get,
    port_of,
    raw_http,
    read_all,
    server,
    sha,
    status_of,
    websocket,
)
from watching import Bell, until

import nsbox
from nsbox._blocking import shutdown
from nsbox._ports import inside
from nsbox._supervisor.start import pid_of

BIG = 100 << 20


@pytest.fixture(name="bell")
def _bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


@pytest.fixture(name="sandbox")
def _sandbox(bell: Bell) -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(mounts=[bell.mount], timeout=120) as sandbox:
        yield sandbox


@pytest.fixture(name="pool")
def _pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


needs_suspension = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


def is_closed(url: str) -> bool:
    """Whether nothing listens there any more."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


# ------------------------------------------------------------ one port


@pytest.mark.lane_unified
def test_a_server_may_start_later_restart_or_never_listen(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """The URL is there before the server; while none listens, the answer is a 502 that says so."""
    url = sandbox.expose_port(8000).url
    assert url.startswith("http://127.0.0.1:")
    for name in ("first", "second"):
        assert get(url) == (502, "nsbox: nothing listens on port 8000 of the sandbox\n")
        with server(sandbox, bell, HTTP, 8000, name):
            assert get(url) == (200, name)
    assert get(url)[0] == 502


def test_clients_come_from_loopback(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """In the sandbox's own network, where there is nothing else."""
    exposed = sandbox.expose_port(9000, protocol="tcp")
    assert exposed.url.startswith("tcp://127.0.0.1:")
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(exposed.url) as sock:
        assert ask(sock, "peer") == b"127.0.0.1"


def test_a_server_on_the_loopback_of_ipv6_only_is_found(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """::1 is tried where 127.0.0.1 refuses."""
    url = sandbox.expose_port(9000, protocol="tcp").url
    with server(sandbox, bell, TCP, 9000, "::1"), connect(url) as sock:
        assert ask(sock, "peer") == b"::1"


@pytest.mark.needs_ipv6
def test_a_port_is_reached_by_the_hosts_loopback_of_ipv6_too(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """By the same port number."""
    url = sandbox.expose_port(9000, protocol="tcp").url
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), socket.create_connection(("::1", port_of(url)), 20) as sock:
        assert ask(sock, "peer") == b"127.0.0.1"


def test_a_connection_that_nobody_takes_is_reset(sandbox: nsbox.Sandbox) -> None:
    """For tcp there is no other way to say so."""
    with connect(sandbox.expose_port(9000, protocol="tcp").url) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with connect(sandbox.expose_port(9001, protocol="https").url) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)


@pytest.mark.lane_unified
def test_each_direction_is_closed_by_itself(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """An end of file is passed on either way, and the other direction goes on."""
    url = sandbox.expose_port(9000, protocol="tcp").url
    data = os.urandom(3 << 20)
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"):
        with connect(url) as sock:
            assert ask(sock, "count", data) == f"{len(data)} {sha(data)}".encode()
        with connect(url) as sock:
            sock.sendall(b"bye first\n")
            assert read_all(sock) == b"bye"
            sock.sendall(b"still here")
            sock.shutdown(socket.SHUT_WR)
            assert bell.wait() == "still here"


def test_a_reset_is_passed_on(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """What was cut off does not look as if it were complete."""
    url = sandbox.expose_port(9000, protocol="tcp").url
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(url) as sock:
        sock.sendall(b"reset\n")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_much_data_passes_unharmed(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """100 MiB down on a port of its own and through the gateway, and 20 up."""
    direct = sandbox.expose_port(8000).url
    by_name = sandbox.expose_port(8001, custom_domain="big.example").url
    block = bytes(range(256)) * 256
    with server(sandbox, bell, HTTP, 8000, "direct"), server(sandbox, bell, HTTP, 8001, "by name"):
        for url in (direct, by_name):
            connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=20)
            with contextlib.closing(connection):
                connection.request("GET", f"/big/{BIG}", headers={"Host": "big.example"})
                response = connection.getresponse()
                size = 0
                while data := response.read(len(block)):
                    assert data == block[: len(data)]
                    size += len(data)
                assert size == BIG
                body = os.urandom(20 << 20)
                connection.request("POST", "/", body, headers={"Host": "big.example"})
                assert connection.getresponse().read().decode() == hashlib.sha256(body).hexdigest()


def test_two_hundred_connections_at_a_time(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """Each gets its own bytes back, and no descriptor stays."""
    url = sandbox.expose_port(9000, protocol="tcp").url
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"):
        before = len(os.listdir("/proc/self/fd"))
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(url)) for _ in range(200)]
            for index, sock in enumerate(socks):
                sock.sendall(f"echo\nnumber {index}\n".encode())
            for index, sock in enumerate(socks):
                line = f"number {index}\n".encode()
                assert sock.recv(len(line), socket.MSG_WAITALL) == line
            assert len(os.listdir("/proc/self/fd")) == before + 600
        until(lambda: len(os.listdir("/proc/self/fd")) == before, "the descriptors of the connections are closed")


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process may open so many more: the limit is on their numbers, getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        filler = -1
        while filler < highest:
            filler = os.open("/dev/null", os.O_RDONLY)
            stack.callback(os.close, filler)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (filler + 1 + count, hard))
        yield


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_nothing_is_harmed(
    sandbox: nsbox.Sandbox, bell: Bell, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """None for the client's connection: it waits. None for the one into the sandbox: it is told. Then all goes on."""
    url = sandbox.expose_port(8000).url
    with server(sandbox, bell, HTTP, 8000, "name"):
        before = len(os.listdir("/proc/self/fd"))
        assert get(url) == (200, "name")
        until(lambda: len(os.listdir("/proc/self/fd")) == before, "the descriptors of that connection are closed")
        with socket.socket() as sock:
            sock.settimeout(20)
            with descriptors_left(left):
                sock.connect(("127.0.0.1", port_of(url)))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if left:
                    assert status_of(read_all(sock)) == 503
                else:
                    until(lambda: "a connection was not accepted" in caplog.text, "the application is told")
            if not left:
                assert status_of(read_all(sock)) == 200
        assert get(url) == (200, "name")
    assert sandbox.shell("echo fine").stdout == "fine\n"


def test_what_is_exposed_is_listed_and_can_be_closed(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """The same again is the same; another way needs a close; what is closed is closed, with its connections."""
    first = sandbox.expose_port(9000, protocol="tcp")
    assert sandbox.expose_port(9000, protocol="tcp") == first
    with pytest.raises(nsbox.InvalidStateError, match=r"9000 is exposed already, as tcp://127\.0\.0\.1:\d+; close it"):
        sandbox.expose_port(9000)
    second = sandbox.expose_port(80)
    assert sandbox.list_exposed_ports() == [second, first]
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(first.url) as sock:
        sock.sendall(b"echo\nhello\n")
        assert sock.recv(6, socket.MSG_WAITALL) == b"hello\n"
        sandbox.close_port(9000)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert is_closed(first.url)
        sandbox.close_port(9000)
        assert sandbox.list_exposed_ports() == [second]
        again = sandbox.expose_port(9000)
        assert again.protocol == "http"
    assert not is_closed(second.url)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"port": 0}, "port=0"),
        ({"port": 65_536}, "port=65536"),
        ({"port": True}, "port=True"),
        ({"port": "80"}, "port='80'"),
        ({"port": 80, "protocol": "udp"}, "protocol='udp'"),
        ({"port": 80, "public": 1}, "public=1"),
        ({"port": 80, "custom_domain": ""}, "custom_domain=''"),
        ({"port": 80, "custom_domain": "a..example"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "-a.example"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "a.example:80"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "10.0.0.1"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "::1"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "*.example"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "a" * 64 + ".example"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "a." * 130 + "example"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "☃☃.example\n"}, "must be a domain name"),
        ({"port": 80, "custom_domain": "80-sbx-0123456789ab.localhost"}, "is what nsbox calls each port"),
        ({"port": 80, "custom_domain": "a.example", "protocol": "https"}, "inside the encryption"),
        ({"port": 80, "custom_domain": "a.example", "protocol": "tcp"}, "it names no host"),
    ],
)
def test_what_cannot_be_exposed_is_refused(arguments: dict[str, object], complaint: str) -> None:
    """By name and value, before the state of the sandbox matters; nothing is opened."""
    with pytest.raises(nsbox.ConfigError) as caught:
        nsbox.Sandbox().expose_port(**arguments)  # type: ignore[arg-type]
    assert complaint in str(caught.value)


def test_only_a_living_sandbox_has_ports() -> None:
    """Before its start and after its end nothing is exposed; closing and listing are harmless."""
    sandbox = nsbox.Sandbox()
    with pytest.raises(nsbox.InvalidStateError, match="creating"):
        sandbox.expose_port(80)
    with sandbox:
        sandbox.expose_port(80)
    with pytest.raises(nsbox.InvalidStateError, match="terminated"):
        sandbox.expose_port(80)
    sandbox.close_port(80)
    assert sandbox.list_exposed_ports() == []


# ------------------------------------------------------------ over the sandbox's life


def test_terminate_closes_what_listens_and_every_connection(bell: Bell) -> None:
    """Those of a server, one that waits for one, and the gateway; the events say so before the last one."""
    sandbox = nsbox.Sandbox.create(mounts=[bell.mount], timeout=120)
    told: list[nsbox.Event] = []
    sandbox.on(nsbox.PortExposed, told.append)
    sandbox.on(nsbox.PortClosed, told.append)
    sandbox.on(nsbox.Terminated, told.append)
    direct = sandbox.expose_port(8000)
    by_name = sandbox.expose_port(8001, custom_domain="app.example")
    with contextlib.ExitStack() as stack:
        for port in (8000, 8001):
            stack.enter_context(server(sandbox, bell, HTTP, port, "name"))
        socks = [stack.enter_context(connect(exposed.url)) for exposed in (direct, by_name)]
        for sock in socks:
            sock.sendall(b"GET /hang HTTP/1.1\r\nHost: app.example\r\n\r\n")
            assert bell.wait() == "hangs"
        sandbox.terminate()
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    assert is_closed(direct.url)
    assert is_closed(by_name.url)
    kinds = [(event.name, getattr(event, "port", None) or getattr(event, "exposed_port", None)) for event in told]
    assert kinds[:2] == [("port_exposed", direct), ("port_exposed", by_name)]
    assert sorted(kinds[2:4], key=str) == [("port_closed", 8000), ("port_closed", 8001)]
    assert kinds[4:] == [("terminated", None)]


def test_a_port_survives_a_restart_but_no_reset(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """By the same URL; connections of before are cut."""
    exposed = sandbox.expose_port(9000, protocol="tcp")
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(exposed.url) as sock:
        sock.sendall(b"echo\nhello\n")
        assert sock.recv(6, socket.MSG_WAITALL) == b"hello\n"
        sandbox.restart()
        assert ends(sock)
    with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(exposed.url) as sock:
        assert ask(sock, "peer") == b"127.0.0.1"
    assert sandbox.list_exposed_ports() == [exposed]
    sandbox.reset()
    assert sandbox.list_exposed_ports() == []
    assert is_closed(exposed.url)


def test_what_was_never_terminated_is_closed_with_the_supervisor(
    bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Listeners, the gateway and a connection that is open."""
    sandbox = nsbox.Sandbox.create(mounts=[bell.mount], timeout=120)
    urls = [sandbox.expose_port(9000, protocol="tcp").url, sandbox.expose_port(80, custom_domain="app.example").url]
    running = pool.submit(sandbox.run, ["python3", "-c", TCP, "9000", "127.0.0.1"])
    assert bell.wait() == "up"
    with connect(urls[0]) as sock:
        sock.sendall(b"echo\nhello\n")
        assert sock.recv(6, socket.MSG_WAITALL) == b"hello\n"
        shutdown()
        assert ends(sock)
    assert running.exception(20) is not None
    assert all(is_closed(url) for url in urls)


def test_a_port_survives_the_death_of_pid_1(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """Who connects meanwhile waits for the recovery, and is answered by what runs then."""
    recovered = threading.Event()
    sandbox.on(nsbox.RecoverySucceeded, lambda _: recovered.set())
    exposed = sandbox.expose_port(8000)
    assert get(exposed.url)[0] == 502
    _, cell = sandbox._core.living()
    os.kill(pid_of(cell.pidfd), signal.SIGKILL)
    assert get(exposed.url)[0] == 502
    assert recovered.wait(20)
    with server(sandbox, bell, HTTP, 8000, "name"):
        assert get(exposed.url) == (200, "name")
    assert sandbox.list_exposed_ports() == [exposed]


class TestSuspended:
    """While nothing in the sandbox runs."""

    pytestmark = needs_suspension

    @pytest.mark.lane_unified
    def test_connections_wait_for_resume(
        self, sandbox: nsbox.Sandbox, bell: Bell, pool: concurrent.futures.ThreadPoolExecutor
    ) -> None:
        """New ones, and those that were there; a port can be exposed meanwhile."""
        url = sandbox.expose_port(9000, protocol="tcp").url
        with server(sandbox, bell, TCP, 9000, "127.0.0.1"), connect(url) as old:
            old.sendall(b"echo\nbefore\n")
            assert old.recv(7, socket.MSG_WAITALL) == b"before\n"
            sandbox.suspend()
            old.sendall(b"meanwhile\n")
            other = sandbox.expose_port(9001).url
            with connect(url) as new, connect(other) as third:
                new.sendall(b"echo\nnew\n")
                third.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answers = [pool.submit(old.recv, 10, socket.MSG_WAITALL), pool.submit(new.recv, 4, socket.MSG_WAITALL)]
                answers.append(pool.submit(read_all, third))
                done, _ = concurrent.futures.wait(answers, timeout=0.3)  # none of them has any way to be
                assert not done
                sandbox.resume()
                assert answers[0].result(20) == b"meanwhile\n"
                assert answers[1].result(20) == b"new\n"
                assert status_of(answers[2].result(20)) == 502

    def test_who_waits_too_long_is_told(self, sandbox: nsbox.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """HTTP: 503 with Retry-After; else the connection is reset. Resumed, all is as before."""
        web = sandbox.expose_port(8000).url
        tcp = sandbox.expose_port(9000, protocol="tcp").url
        named = sandbox.expose_port(8001, custom_domain="app.example").url
        sandbox.suspend()
        monkeypatch.setattr(inside, "PATIENCE_SECONDS", 0.2)
        answer = raw_http(web, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(answer) == 503
        assert b"\r\nRetry-After: 5\r\n" in answer
        assert answer.endswith(b"nsbox: the sandbox is suspended\n")
        assert get(named) == (503, "nsbox: the sandbox is suspended\n")
        with connect(tcp) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        sandbox.resume()
        assert get(web)[0] == 502

    def test_connections_wait_over_a_restart(
        self, sandbox: nsbox.Sandbox, pool: concurrent.futures.ThreadPoolExecutor
    ) -> None:
        """They get into the new network, and are told that nothing listens there yet."""
        url = sandbox.expose_port(8000).url
        sandbox.suspend()
        answer = pool.submit(get, url)
        assert not concurrent.futures.wait([answer], timeout=0.3).done
        sandbox.restart()
        assert answer.result(20)[0] == 502

    def test_terminate_does_not_wait_for_those_that_wait(self, sandbox: nsbox.Sandbox) -> None:
        """They are reset at once."""
        url = sandbox.expose_port(9000, protocol="tcp").url
        sandbox.suspend()
        with connect(url) as sock:
            sock.sendall(b"hello")
            sandbox.terminate()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


# ------------------------------------------------------------ the gateway


@pytest.mark.lane_unified
def test_one_gateway_routes_by_host_request_by_request(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """Two sandboxes, one address; a connection that is kept alive can name another host in each request."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=120) as other:
        plain = sandbox.expose_port(8000)
        one = sandbox.expose_port(8001, custom_domain="One.example.")
        two = other.expose_port(8000, custom_domain="bücher.example")
        gateway = port_of(one.url)
        assert one.url == f"http://one.example:{gateway}/"
        assert two.url == f"http://xn--bcher-kva.example:{gateway}/"
        with pytest.raises(nsbox.ConfigError, match="another port of this application has it"):
            other.expose_port(8001, custom_domain="ONE.example")
        names = {
            "one.example": "named",
            f"one.example:{gateway}": "named",
            f"8000-{sandbox.id}.localhost": "plain",
            "xn--bcher-kva.example.": "other",
            f"8001-{sandbox.id}.localhost:{gateway}": "named",
            f"8000-{other.id}.LOCALHOST": "other",
        }
        with contextlib.ExitStack() as stack:
            stack.enter_context(server(sandbox, bell, HTTP, 8000, "plain"))
            stack.enter_context(server(sandbox, bell, HTTP, 8001, "named"))
            stack.enter_context(server(other, bell, HTTP, 8000, "other"))
            connection = stack.enter_context(
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway, timeout=20))
            )
            connection.connect()
            first = connection.sock
            for name, expected in names.items():
                connection.request("GET", "/", headers={"Host": name})
                assert connection.getresponse().read().decode() == expected
                assert connection.sock is first
            assert get(plain.url) == (200, "plain")
            for unknown in ("example", "localhost", f"9-{sandbox.id}.localhost", "[::1]", "one.example.example", "_"):
                assert get(one.url, host=unknown) == (404, "nsbox: no such host\n")
        other.close_port(8000)
        assert get(one.url, host="xn--bcher-kva.example")[0] == 404
        sandbox.close_port(8001)
        assert get(one.url, host=f"8000-{sandbox.id}.localhost")[0] == 502
        sandbox.close_port(8000)
        assert is_closed(one.url)  # the last one has gone


def test_a_gateway_passes_on_what_http_has(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """Chunks both ways, HEAD, HTTP/1.0, 100-continue, absolute targets, and who asked for what."""
    url = sandbox.expose_port(8000, custom_domain="app.example").url
    with server(sandbox, bell, HTTP, 8000, "name"):
        assert get(url, "/chunks") == (200, "one two three")
        assert get(url, method="HEAD") == (200, "")
        head = raw_http(url, b"HEAD / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
        assert b"\r\ncontent-length: 4\r\n" in head.lower()
        old = raw_http(url, b"GET /chunks HTTP/1.0\r\nHost: app.example\r\n\r\n")
        assert old.endswith(b"\r\n\r\none two three")
        assert b"chunked" not in old.lower()
        body = b"4\r\nabcd\r\n1;extension=1\r\ne\r\n0\r\nTrailer: x\r\n\r\n"
        head = b"POST / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert raw_http(url, head + body).endswith(sha(b"abcde").encode())
        with connect(url) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert status_of(sock.recv(4096)) == 100
            sock.sendall(b"hi")
            assert status_of(sock.recv(4096)) == 200
        seen = json.loads(get(url, "/seen", Cookie="a=b", **{"Connection": "X-Mine", "X-Mine": "1", "X-Other": "2"})[1])
        headers = {name.lower(): value for name, value in seen["headers"]}
        assert seen["client"] == "127.0.0.1"
        assert headers["host"] == f"app.example:{port_of(url)}"
        assert headers["cookie"] == "a=b"
        assert headers["connection"] == "close"
        assert headers["x-other"] == "2"
        assert "x-mine" not in headers  # for this connection only, as Connection says
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-forwarded-host"] == headers["host"]
        answer = raw_http(
            url, b"GET http://app.example/seen HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n"
            b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"
        )  # fmt: skip
        seen = json.loads(answer.partition(b"\r\n\r\n")[2])
        headers = {name.lower(): value for name, value in seen["headers"]}
        assert (seen["target"], headers["host"]) == ("/seen", "app.example")
        assert headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1"
        assert headers["x-forwarded-proto"] == "https"


@pytest.mark.lane_unified
def test_websockets_pass(sandbox: nsbox.Sandbox, bell: Bell) -> None:
    """On a port of its own, and through the gateway; several frames, and the close."""
    urls = (sandbox.expose_port(8000).url, sandbox.expose_port(8001, custom_domain="ws.example").url)
    with server(sandbox, bell, HTTP, 8000, "a"), server(sandbox, bell, HTTP, 8001, "b"):
        for url in urls:
            with websocket(url, "ws.example") as sock:
                for word in (b"hello", b"", b"again" * 20):
                    assert exchange_frame(sock, word) == word.upper()
                sock.sendall(b"\x88\x80\x01\x02\x03\x04")
                assert read_all(sock) == b"\x88\x00"


def test_the_gateways_port_can_be_chosen(sandbox: nsbox.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """By NSBOX_GATEWAY_PORT; one that is taken, or none, is an error, and nothing is exposed then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("NSBOX_GATEWAY_PORT", str(port))
        with pytest.raises(nsbox.SetupError, match=rf"listen: .*in use: 'port {port} \(NSBOX_GATEWAY_PORT\)'"):
            sandbox.expose_port(80, custom_domain="app.example")
    for wrong in ("x", "65536", "-1", ""):
        monkeypatch.setenv("NSBOX_GATEWAY_PORT", wrong)
        with pytest.raises(nsbox.ConfigError, match="NSBOX_GATEWAY_PORT"):
            sandbox.expose_port(80, custom_domain="app.example")
    assert sandbox.list_exposed_ports() == []
    monkeypatch.setenv("NSBOX_GATEWAY_PORT", str(port))
    assert sandbox.expose_port(80, custom_domain="app.example").url == f"http://app.example:{port}/"


# ------------------------------------------------------------ public


def test_public_ports_are_open_to_all_interfaces_and_loud(
    sandbox: nsbox.Sandbox, bell: Bell, caplog: pytest.LogCaptureFixture
) -> None:
    """Others listen on loopback only; one port has a listener of its own, and one a gateway of its own."""
    quiet = sandbox.expose_port(8002)
    assert (quiet.is_public, quiet.public_url) == (False, None)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "nsbox"):
        exposed = sandbox.expose_port(8000, public=True)
        named = sandbox.expose_port(8001, public=True, custom_domain="app.example")
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    for one, line in zip((exposed, named), warned, strict=True):
        assert one.is_public
        assert one.public_url is not None
        assert line.endswith(f"can be reached from other machines: {one.public_url}")
    assert exposed.public_url is not None
    assert named.public_url is not None
    assert port_of(exposed.public_url) == port_of(exposed.url)
    assert port_of(named.public_url) != port_of(named.url)
    bound = {port: addresses_of(port) for port in (port_of(quiet.url), port_of(named.url))}
    assert all(addresses <= {"127.0.0.1", "::1"} for addresses in bound.values())
    for url in (exposed.public_url, named.public_url):
        assert "0.0.0.0" in addresses_of(port_of(url))  # noqa: S104  # what public=True is for
    with server(sandbox, bell, HTTP, 8000, "all"), server(sandbox, bell, HTTP, 8001, "named"):
        assert get(exposed.public_url) == (200, "all")
        assert get(named.public_url, host="app.example") == (200, "named")
        assert get(named.url, host=f"8000-{sandbox.id}.localhost") == (200, "all")
        # What is not public is not there for other machines, whatever they say that they want.
        assert get(named.public_url, host=f"8000-{sandbox.id}.localhost")[0] == 404
    sandbox.close_port(8001)
    assert is_closed(named.public_url)


def addresses_of(port: int) -> set[str]:
    """The addresses that something listens on with a port, proc_net(5)."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, number = local.partition(":")
                if state == "0A" and int(number, 16) == port:
                    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                    found.add(socket.inet_ntop(family, b"".join(words)))
    return found


# ------------------------------------------------------------ the other callers


async def test_ports_in_a_trio_run() -> None:
    """Forwarded by the caller's own run; a run that ends without `terminate` leaves nothing."""
    async with nsbox.AsyncSandbox() as sandbox:
        exposed = await sandbox.expose_port(8000, custom_domain="app.example")
        assert await sandbox.list_exposed_ports() == [exposed]
        assert (await trio.to_thread.run_sync(get, exposed.url))[0] == 502
        await sandbox.close_port(8000)
        assert await sandbox.list_exposed_ports() == []
    forgotten = await nsbox.AsyncSandbox.create()
    await forgotten.expose_port(8000, custom_domain="app.example")
    await forgotten.expose_port(9000, protocol="tcp")


def test_ports_in_asyncio() -> None:
    """Forwarded by the supervisor's thread."""

    async def main() -> None:
        async with nsbox.AsyncSandbox() as sandbox:
            exposed = await sandbox.expose_port(8000)
            assert (await asyncio.to_thread(get, exposed.url))[0] == 502

    asyncio.run(main())
