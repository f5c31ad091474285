"""Egress: what a sandbox reaches of the little internet of tests/support/little_internet.py, as root and as a user."""

import json
import os
import textwrap
from collections.abc import Iterator

import pytest
from little_internet import GATEWAY, HOST, METADATA, NAME_SERVER, NEIGHBOUR, WEB, Internet, Service, little_internet

pytestmark = pytest.mark.needs_egress

TABLE = {
    "web.example": {"A": ["8.8.4.10"]},
    "other.example": {"A": ["8.8.4.11"]},
    "alias.example": {"CNAME": ["web.example."]},
    "inner.example": {"A": [METADATA]},
}
DNS = """
import json, sys, dnsserver
sockets = dnsserver._listen(sys.argv[1], 53)
dnsserver._listen = lambda *_: sockets
print("ready", flush=True)
dnsserver.serve(sys.argv[1], 53, json.loads(sys.argv[2]))
"""
SINK = """
import socket, sys, threading
def serve(one):
    with one:
        while data := one.recv(1 << 16):
            if sys.argv[2] == "echo":
                one.sendall(data)
with socket.create_server((sys.argv[1], 9000)) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
PRELUDE = '''
import dataclasses, json, os, sys, time
import nsbox
from nsbox import NetworkAllocation, ResourceAllocation

ASK = """
import errno, json, socket, sys
def ask(address, port):
    try:
        with socket.create_connection((address, int(port)), timeout=5) as one:
            one.sendall(b'GET /x HTTP/1.0\\\\r\\\\n\\\\r\\\\n')
            return json.loads(one.makefile('rb').read().partition(b'\\\\r\\\\n\\\\r\\\\n')[2])['server']
    except socket.gaierror as exc:
        return 'no such name'
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc))
print(json.dumps([ask(*one.rsplit('@')) for one in sys.argv[1:]]))
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], 9000), timeout=5) as one:
    print('connected', flush=True)
    for line in sys.stdin:
        seconds, text = line.split()
        one.settimeout(float(seconds))
        try:
            if text != '-':
                one.sendall(text.encode())
            print(one.recv(100).decode() or 'end', flush=True)
        except TimeoutError:
            print('silent', flush=True)
        except OSError as exc:
            print('broken', flush=True)
"""

def allocation(**fields):
    return NetworkAllocation(access="egress", **fields)

def sandbox(**fields):
    network = fields.pop("network", None) or allocation()
    return nsbox.Sandbox(resources=ResourceAllocation(network=network), timeout=60, **fields)

def ask(one, *where):
    result = one.run(["python3", "-c", ASK, *where])
    assert result.ok, result.stderr
    return json.loads(result.stdout)

class Talk:
    def __init__(self, one, address):
        self.process = one.spawn(["python3", "-c", TALK, address])
        assert self.read() == "connected"
    def read(self):
        text = b""
        while not text.endswith(b"\\n"):
            chunk = self.process.stdout.receive_some()
            assert chunk
            text += chunk
        return text.decode().strip()
    def ask(self, line):
        self.process.stdin.send_all(line.encode() + b"\\n")
        return self.read()
    def close(self):
        self.process.close()
'''


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with little_internet() as internet:
        internet.serve(WEB, "0.0.0.0", "80", "8080", "443")  # noqa: S104  # of a namespace of its own
        internet.serve(DNS, NAME_SERVER, json.dumps(TABLE))
        yield internet


def serve_host(internet: Internet) -> Service:
    """A server of the application's own machine, on every address of it."""
    return internet.serve(WEB, "0.0.0.0", "8099", place="host")  # noqa: S104  # the same


def run(internet: Internet, program: str, *arguments: str) -> list[object]:
    """What a program prints, line by line, as JSON."""
    text = internet.run(PRELUDE + textwrap.dedent(program), *arguments)
    return [json.loads(line) for line in text.splitlines()]


def test_the_outside_is_reached_by_name_and_by_address_and_nothing_private_is(internet: Internet) -> None:
    """Each of what is refused is there, and reached from the host."""
    serve_host(internet)
    private = [f"{METADATA}@80", f"{NEIGHBOUR}@80", f"{GATEWAY}@80", f"{HOST}@8099", "127.0.0.1@8099"]
    public = ["8.8.4.10@80", "9.9.9.9@8080", "web.example@80", "alias.example@443", "WEB.example@80"]
    program = """
        with sandbox() as one:
            print(json.dumps(ask(one, *sys.argv[1:])))
            print(json.dumps(ask(one, "gone.example@80", "inner.example@80", "8.8.4.10@81", "169.254.1.1@80")))
            print(json.dumps(one.isolation["network"]))
            usage = one.get_resource_usage().network
            print(json.dumps([usage.usage > 0, usage.limit == float("inf")]))
    """
    reached, strange, isolation, usage = run(internet, program, *public, *private)
    assert isinstance(reached, list)
    assert reached[:5] == ["8.8.4.10", "9.9.9.9", *["8.8.4.10"] * 3]
    assert reached[5:] == ["ECONNREFUSED"] * 5  # the last one by its own loopback
    assert isinstance(strange, list)
    assert strange[:2] == ["no such name"] * 2
    assert strange[2:] == ["ECONNREFUSED"] * 2
    assert isinstance(isolation, str)
    assert isolation.startswith("egress: ")
    assert usage == [True, True]
    control = [f"{METADATA}@80", f"{NEIGHBOUR}@80", f"{GATEWAY}@80", f"{HOST}@8099"]
    text = internet.run(PRELUDE + "exec(ASK)", *control)
    assert json.loads(text) == [METADATA, NEIGHBOUR, GATEWAY, HOST]


def test_what_is_blocked_can_be_loosened_by_name(internet: Internet) -> None:
    """A private range alone, and the host alone."""
    serve_host(internet)
    program = """
        blocked = NetworkAllocation().blocked_networks
        for left_out in ("192.168.0.0/16", "host"):
            network = allocation(blocked_networks=[one for one in blocked if one != left_out])
            with sandbox(network=network) as one:
                print(json.dumps(ask(one, *sys.argv[1:])))
        both = [one for one in blocked if one not in ("192.168.0.0/16", "host")]
        with sandbox(network=allocation(blocked_networks=both)) as one:
            print(json.dumps(ask(one, *sys.argv[1:])))
    """
    found = run(internet, program, f"{NEIGHBOUR}@80", f"{HOST}@8099", f"{METADATA}@80")
    refused = "ECONNREFUSED"
    assert found == [[NEIGHBOUR, refused, refused], [refused, refused, refused], [NEIGHBOUR, HOST, refused]]


def test_ports_and_connections_are_limited(internet: Internet) -> None:
    """Other ports are refused, UDP included; one connection more is refused, and those that exist live."""
    internet.serve(SINK, "8.8.4.20", "echo")
    program = """
        import threading
        with sandbox(network=allocation(allowed_ports=(80, 443))) as one:
            print(json.dumps(ask(one, "8.8.4.10@80", "web.example@443", "8.8.4.10@8080", "8.8.4.20@9000")))
        told = []
        with sandbox(network=allocation(connections_limit=3), metrics_interval=0.1) as one:
            one.on("resource_exceeded", lambda event: told.append((event.resource, event.usage, event.limit)))
            talks = [Talk(one, "8.8.4.20") for _ in range(3)]
            print(json.dumps(ask(one, "8.8.4.10@80")))
            print(json.dumps([talk.ask("5 x") for talk in talks]))
            time.sleep(0.5)
            for talk in talks:
                talk.close()
        print(json.dumps(told))
    """
    ports, above, living, told = run(internet, program)
    assert ports == ["8.8.4.10", "8.8.4.10", "ECONNREFUSED", "ECONNREFUSED"]
    assert above == ["ECONNREFUSED"]
    assert living == ["x", "x", "x"]
    assert told == [["network", 4.0, 3.0]]


def test_names_are_allowed_and_blocked(internet: Internet) -> None:
    """With `allowed_domains` nothing is reached but what a name has just led to; refused names are told of."""
    program = """
        refused = []
        with sandbox(network=allocation(allowed_domains=("web.example", "alias.example"))) as one:
            one.on("domain_refused", lambda event: refused.append(event.domain))
            where = ("8.8.4.10@80", "web.example@80", "8.8.4.10@80", "other.example@80", "8.8.4.11@80", "8.8.4.53@53")
            print(json.dumps(ask(one, *where)))
            network = dataclasses.replace(one.resources.network, allowed_domains=("other.example",))
            one.update_network(network)
            print(json.dumps(ask(one, "8.8.4.10@80", "web.example@80", "other.example@80")))
        print(json.dumps(refused))
        with sandbox(network=allocation(blocked_domains=("*.example",))) as one:
            print(json.dumps(ask(one, "web.example@80", "8.8.4.10@80")))
        with sandbox(network=allocation(blocked_domains=("web.example",))) as one:
            print(json.dumps(ask(one, "alias.example@80", "other.example@80")))
    """
    first, second, refused, below, station = run(internet, program)
    no_way, no_name = "ECONNREFUSED", "no such name"
    assert first == [no_way, "8.8.4.10", "8.8.4.10", no_name, no_way, no_way]
    assert second == [no_way, no_name, "8.8.4.11"]
    assert refused == ["other.example", "web.example"]
    assert below == [no_name, "8.8.4.10"]
    assert station == [no_name, "8.8.4.11"]


SOURCE = """
import socket
with socket.create_server(("8.8.4.21", 9001)) as server:
    print("ready", flush=True)
    while True:
        one = server.accept()[0]
        try:
            while True:
                one.sendall(bytes(1 << 16))
        except OSError:
            one.close()
"""
UP = """
import socket, time
with socket.create_connection(("8.8.4.20", 9000)) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    for _ in range(8):
        one.sendall(bytes(65536))
    start, sent = time.monotonic(), 0
    while time.monotonic() < start + 3:
        sent += one.send(bytes(8192))
    print(sent * 8e-6 / (time.monotonic() - start))
"""
DOWN = """
import socket, time
with socket.create_connection(("8.8.4.21", 9001)) as one:
    first = time.monotonic()
    while time.monotonic() < first + 1:
        one.recv(65536)
    start, seen = time.monotonic(), 0
    while time.monotonic() < start + 3:
        seen += len(one.recv(65536))
    print(seen * 8e-6 / (time.monotonic() - start))
"""


@pytest.mark.parametrize("text", [UP, DOWN], ids=["up", "down"])
def test_bandwidth_is_within_a_tenth(internet: Internet, text: str) -> None:
    """8 Mbit/s, over three seconds, in each direction; the rate is told, and that the limit was reached."""
    internet.serve(SINK, "8.8.4.20", "sink")
    internet.serve(SOURCE)
    program = """
        told = []
        with sandbox(network=allocation(bandwidth_mbps=8), metrics_interval=0.5) as one:
            one.on("resource_exceeded", lambda event: told.append((event.resource, event.limit)))
            one.get_resource_usage()
            result = one.execute(sys.argv[1])
            usage = one.get_resource_usage().network
            print(json.dumps(float(result.stdout)))
            print(json.dumps([usage.usage, usage.limit]))
        print(json.dumps(told))
    """
    rate, usage, told = run(internet, program, text)
    assert isinstance(rate, float)
    assert isinstance(usage, list)
    assert 7.2 <= rate <= 8.8
    assert 5 < usage[0] < 9
    assert usage[1] == 8
    assert isinstance(told, list)
    assert ["network", 8.0] in told


def test_access_and_limits_change_while_it_runs(internet: Internet) -> None:
    """From nothing to egress and back; a connection to a port that is blocked now ends, another one lives."""
    internet.serve(SINK, "8.8.4.20", "echo")
    program = """
        with sandbox(network=NetworkAllocation()) as one:
            none = one.resources.network
            print(json.dumps(ask(one, "8.8.4.10@80")))
            one.update_network(allocation())
            print(json.dumps(ask(one, "8.8.4.10@80", "web.example@80")))
            talk = Talk(one, "8.8.4.20")
            print(json.dumps(talk.ask("5 a")))
            one.update_network(allocation(connections_limit=1, allowed_ports=(80, 9000), bandwidth_mbps=50))
            print(json.dumps([talk.ask("5 b"), one.get_resource_usage().network.limit]))
            one.update_network(allocation(allowed_ports=(80,)))
            print(json.dumps([talk.ask("5 c"), *ask(one, "8.8.4.10@80")]))
            talk.close()
            one.update_network(none)
            print(json.dumps(ask(one, "8.8.4.10@80")))
            one.update_network(allocation())
            one.restart()
            print(json.dumps(ask(one, "8.8.4.10@80", "web.example@80")))
            one.reset()
            print(json.dumps(ask(one, "8.8.4.10@80", "web.example@80")))
    """
    before, egress, first, second, third, none, again, anew = run(internet, program)
    both = ["8.8.4.10", "8.8.4.10"]
    assert before == ["ENETUNREACH"]
    assert (egress, first, second, third) == (both, "a", ["b", 50.0], ["broken", "8.8.4.10"])
    assert none == ["ECONNREFUSED"]
    assert again == anew == both


@pytest.mark.needs_cgroups
def test_a_connection_outlives_a_suspension(internet: Internet) -> None:
    """What comes meanwhile is not answered, and comes again; access that is given meanwhile is there afterwards."""
    internet.serve(SINK, "8.8.4.20", "echo")
    program = """
        with sandbox() as one:
            talk = Talk(one, "8.8.4.20")
            print(json.dumps(talk.ask("5 a")))
            one.suspend()
            time.sleep(0.3)
            one.resume()
            print(json.dumps(talk.ask("20 b")))
            talk.close()
        with sandbox(network=NetworkAllocation()) as one:
            one.suspend()
            one.update_network(allocation())
            one.resume()
            print(json.dumps(ask(one, "8.8.4.10@80")))
    """
    assert run(internet, program) == ["a", "b", ["8.8.4.10"]]


LOOK = "import socket\nwith socket.create_connection(('8.8.4.10', 80)) as one: print(one.getsockname()[0])"
SERVE = r"""
import socket
with socket.create_server(("", 7000)) as one:
    print("ready", flush=True)
    while True:
        peer = one.accept()[0]
        peer.recv(99)
        peer.sendall(b'\r\n\r\n{"server": "db"}')
        peer.close()
"""


def test_sandboxes_with_egress_do_not_reach_each_other_but_in_a_private_network(internet: Internet) -> None:
    """By an address that they are told; the network takes nothing from what they reach outside."""
    program = """
        LOOK, SERVE = sys.argv[1:]
        with sandbox() as db, sandbox() as web, nsbox.Network("net") as network:
            address = db.execute(LOOK).stdout.strip()
            with db.spawn(["python3", "-c", SERVE]) as server:
                server.stdout.receive_some()
                print(json.dumps(ask(web, f"{address}@7000", "db@7000")))
                network.connect(db, "db")
                network.connect(web, "web")
                inside = (f"{address}@7000", "db@7000", "db.net@7000")
                print(json.dumps(ask(web, *inside, "8.8.4.10@80", "web.example@80")))
                network.remove(db)
                print(json.dumps(ask(web, f"{address}@7000", "db@7000", "8.8.4.10@80")))
    """
    apart, together, after = run(internet, program, LOOK, SERVE)
    assert apart == ["ECONNREFUSED", "no such name"]
    assert together == ["db", "db", "db", "8.8.4.10", "8.8.4.10"]
    assert after == ["ECONNREFUSED", "no such name", "8.8.4.10"]


def test_nothing_is_left_of_many_sandboxes_nor_of_an_application_that_is_killed(internet: Internet) -> None:
    """No device, route, rule, process or namespace of the host's more than before."""

    def look() -> list[str]:
        return [internet.command("host", *words.split()) for words in (
            "ip -o link", "ip route show table all", "nft list ruleset",
        )]  # fmt: skip

    before = look()
    program = """
        import trio
        async def one():
            network = ResourceAllocation(network=allocation(bandwidth_mbps=10, connections_limit=5))
            async with nsbox.AsyncSandbox(resources=network) as sandbox:
                assert (await sandbox.shell("true")).ok
        async def main():
            for _ in range(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(one)
        trio.run(main)
        print(json.dumps("done"))
    """
    assert run(internet, program) == ["done"]
    assert look() == before
    killed = PRELUDE + textwrap.dedent("""
        one = sandbox()
        one.start()
        assert ask(one, "8.8.4.10@80") == ["8.8.4.10"]
        print("ready", flush=True)
        time.sleep(60)
    """)
    service = internet.serve(killed, place="host")
    if os.geteuid() == 0:
        assert look() != before
    service.stop()
    for _ in range(50):
        if look() == before:
            break
        internet.command("host", "sleep", "0.1")
    assert look() == before
    assert run(internet, program) == ["done"]


def test_the_command_line_gives_a_network(internet: Internet) -> None:
    """`nsbox run --network`, with a policy."""
    program = """
        import subprocess
        command = [sys.executable, "-m", "nsbox._cli", "run", "--network", "--allow-port", "80", "-c", ASK]
        done = subprocess.run([*command, "web.example@80", "8.8.4.10@443"], capture_output=True, text=True)
        print(done.stdout, end="")
        print(json.dumps(done.stderr))
    """
    assert run(internet, program) == [["8.8.4.10", "ECONNREFUSED"], ""]


def test_a_pool_keeps_sandboxes_with_a_network_ready(internet: Internet) -> None:
    """Each is connected before it is asked for."""
    program = """
        with nsbox.Pool(size=2, network=True, timeout=60) as pool:
            for _ in range(3):
                with pool.acquire() as one:
                    print(json.dumps(ask(one, "web.example@80")))
    """
    assert run(internet, program) == [["8.8.4.10"]] * 3


def test_a_connection_lives_while_names_are_added_and_ends_with_fewer(internet: Internet) -> None:
    """An allowed name more changes nothing for what is connected; one less ends it, and what it led to is unknown."""
    internet.serve(SINK, "8.8.4.10", "echo")
    program = """
        with sandbox(network=allocation(allowed_domains=("web.example",))) as one:
            talk = Talk(one, "web.example")
            print(json.dumps(talk.ask("5 a")))
            one.update_network(allocation(allowed_domains=("web.example", "other.example")))
            print(json.dumps([talk.ask("5 b"), *ask(one, "8.8.4.10@80", "other.example@80")]))
            one.update_network(allocation(allowed_domains=("other.example",)))
            print(json.dumps([talk.ask("5 c"), *ask(one, "8.8.4.10@80", "8.8.4.11@80", "other.example@80")]))
            talk.close()
    """
    first, more, fewer = run(internet, program)
    assert first == "a"
    assert more == ["b", "8.8.4.10", "8.8.4.11"]
    assert fewer == ["broken", "ECONNREFUSED", "ECONNREFUSED", "8.8.4.11"]


@pytest.mark.needs_root
def test_a_host_that_does_not_forward_is_refused_with_the_remedy(internet: Internet) -> None:
    """The sandbox is in ERROR, nothing is left of it, and once the host forwards it can be had."""
    program = """
        import subprocess
        one = sandbox()
        try:
            one.start()
        except nsbox.UnsupportedHostError as exc:
            print(json.dumps([str(one.status), *exc.missing, *exc.remedies]))
        with sandbox(network=NetworkAllocation()) as other:
            try:
                other.update_network(allocation())
            except nsbox.UnsupportedHostError as exc:
                print(json.dumps([other.shell("true").ok, other.resources.network.access]))
        with nsbox.Sandbox() as a, nsbox.Sandbox() as b, nsbox.Network() as network:
            network.connect(a, "a")
            network.connect(b, "b")
            print(json.dumps(a.execute("import socket; print(socket.gethostbyname('b') > '')").stdout))
        try:
            nsbox.Sandbox(require=["network_egress"]).start()
        except nsbox.UnsupportedHostError as exc:
            print(json.dumps(list(exc.missing)))
        open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
        one.reset()
        print(json.dumps(ask(one, "8.8.4.10@80")))
        one.terminate()
    """
    internet.command("host", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    refused, updated, private, required, after = run(internet, program)
    assert refused == ["error", "network_egress", "sysctl -w net.ipv4.ip_forward=1"]
    assert updated == [True, "none"]
    assert private == "True\n"
    assert required == ["network_egress"]
    assert after == ["8.8.4.10"]


def test_doctor_sees_what_there_is(internet: Internet) -> None:
    """The way out, and what it is made of."""
    program = """
        from nsbox._host import checks
        print(json.dumps({check.id: check.ok for check in checks()}))
    """
    (found,) = run(internet, program)
    assert isinstance(found, dict)
    assert found["network_egress"] is True
    assert {name: found[name] for name in ("veth", "nf_tables", "bandwidth_limit")} == {
        "veth": True, "nf_tables": True, "bandwidth_limit": True,
    }  # fmt: skip
