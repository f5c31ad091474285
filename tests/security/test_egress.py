"""N: whom a program can talk to when it has a network: only whom its policy names, whatever it tries."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from egress import ECHO, NO, OTHER, PUBLIC, START, in_sandbox, internet_with_servers, of, on_host
from little_internet import GATEWAY, HOST, METADATA, NAME_SERVER, NEIGHBOUR, Internet

pytestmark = pytest.mark.needs_egress


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with internet_with_servers() as internet:
        yield internet


def test_the_host_and_private_addresses_are_out_of_reach_in_every_spelling(internet: Internet) -> None:
    """N20: metadata, neighbours, the gateway and the host, by TCP and UDP, also as IPv6 forms of their addresses."""
    internet.serve(ECHO, METADATA, NEIGHBOUR, GATEWAY, PUBLIC)
    private = {METADATA: 80, NEIGHBOUR: 80, GATEWAY: 80, HOST: 8099}
    questions = {f"tcp {one}": f"tcp, {one!r}, {port}" for one, port in private.items()}
    questions |= {f"udp {one}": f"udp, {one!r}, 7" for one in (METADATA, NEIGHBOUR, GATEWAY)}
    assert set(on_host(internet, questions).values()) == {"reached"}
    spellings = {
        **{f"mapped {one}": f"tcp, '::ffff:{one}', {port}" for one, port in private.items()},
        **{f"compatible {one}": f"tcp, '::{one}', {port}" for one, port in private.items()},
        **{f"nat64 {one}": f"tcp, '64:ff9b::{one}', {port}" for one, port in private.items()},
        "6to4": "tcp, '2002:a9fe:a9fe::1', 80",
        "short": "tcp, '169.16689662', 80",
        "number": "tcp, '2852039166', 80",
        "host 6": "tcp, '2a01:77::2', 8099",
        "link-local": "tcp, 'fe80::1', 80",
        "router": "tcp, '169.254.1.1', 80",
        "router, other port": "tcp, '169.254.1.1', 22",
        "broadcast": "udp, '255.255.255.255', 7",
        "multicast": "udp, '224.0.0.1', 7",
    }
    found = in_sandbox(internet, questions | spellings)
    assert set(found.values()) <= NO, found
    reached = in_sandbox(internet, {"tcp": f"tcp, {PUBLIC!r}, 80", "udp": f"udp, {PUBLIC!r}, 7"})
    assert reached == {"tcp": "reached", "udp": "reached"}


def test_a_name_that_leads_inside_is_not_told(internet: Internet) -> None:
    """N21: an inner address is not told, beside a public one or alone; one that turns inner meanwhile is refused."""
    questions = {name: f"tcp, {name + '.example'!r}, 80" for name in ("inner", "both", "turning")}
    questions |= {f"turning {again}": "tcp, 'turning.example', 80" for again in range(5)}
    look = "(lambda name: ' '.join(sorted({one[4][0] for one in socket.getaddrinfo(name, 80)})))"
    questions |= {f"look {name}": f"{look}, {name + '.example'!r}" for name in ("inner", "both")}
    control = on_host(internet, questions)
    assert control["look both"] == f"{METADATA} {PUBLIC}"
    assert control["inner"] == "reached"
    found = in_sandbox(internet, questions)
    assert found["look both"] == PUBLIC
    assert {found["inner"], found["look inner"]} == {"no name"}
    assert found["both"] == "reached"
    assert {found[f"turning {again}"] for again in range(5)} <= {"reached", "no name", *NO}
    direct = {"metadata": f"tcp, {METADATA!r}, 80", "neighbour": f"tcp, {NEIGHBOUR!r}, 80"}
    assert set(in_sandbox(internet, direct).values()) == {"ECONNREFUSED"}


def test_only_what_an_allowed_name_has_led_to_is_reached(internet: Internet) -> None:
    """N22: no literal address, other resolver, port of one, or name that was not allowed gets around it."""
    query = "bytes.fromhex('abcd01000001000000000000') + b'\\x03bad\\x07example\\0\\0\\1\\0\\1'"
    questions = {
        "literal": f"tcp, {OTHER!r}, 80",
        "https": f"tcp, {OTHER!r}, 443",
        "literal of the allowed": f"tcp, {PUBLIC!r}, 80",
        "resolver udp": f"udp, {NAME_SERVER!r}, 53, {query}",
        "resolver tcp": f"tcp, {NAME_SERVER!r}, 53, bytes((0, 29)) + {query}",
        "resolver elsewhere": f"tcp, {NAME_SERVER!r}, 5353",
        "bad": "tcp, 'bad.example', 80",
        "upper case": "tcp, 'BAD.EXAMPLE.', 80",
        "good": "tcp, 'good.example', 80",
        "then by its address": f"tcp, {PUBLIC!r}, 80",
        "another port of it": f"tcp, {PUBLIC!r}, 443",
        "still not": f"tcp, {OTHER!r}, 80",
    }
    control = on_host(internet, questions)
    assert set(control.values()) == {"reached"}, control
    found = in_sandbox(internet, questions, "allowed_domains=('good.example',)")
    allowed = {"good", "then by its address", "another port of it"}
    assert {name for name, answer in found.items() if answer == "reached"} == allowed, found
    assert {found["bad"], found["upper case"]} == {"no name"}
    blocked = in_sandbox(
        internet,
        {name: f"tcp, {name!r}, 80" for name in ("alias.example", "good.example")},
        "blocked_domains=('bad.example',)",
    )
    assert blocked == {"alias.example": "no name", "good.example": "reached"}


def test_its_interface_is_not_its_own_to_change(internet: Internet) -> None:
    """N23: no address, route, queue or name is changed; no packet leaves with an address that is not its own."""
    echo = internet.serve(ECHO, PUBLIC)
    change = f"""
import fcntl, struct
def interface(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, request, struct.pack('16s16x8x', b'eth0'))
        return 'changed'
def netlink(kind, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        one.send(struct.pack('=IHHII', 16 + len(body), kind, 0x405, 1, 0) + body)
        code = -struct.unpack_from('=i', one.recv(1000), 16)[0]
        return errno.errorcode.get(code, 'changed')
def forge(option):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_IP, option, 1)
        one.bind(('10.9.9.9', 0))
        one.sendto(b'forged', ({PUBLIC!r}, 7))
        return 'sent'
"""
    questions = {
        "SIOCSIFADDR": "interface, 0x8916",
        "SIOCSIFFLAGS": "interface, 0x8914",
        "SIOCSIFHWADDR": "interface, 0x8924",
        "RTM_NEWADDR": "netlink, 20, struct.pack('=BBBBI', 2, 32, 0, 0, 1000)",
        "RTM_NEWROUTE": "netlink, 24, bytes(12)",
        "RTM_DELQDISC": "netlink, 37, bytes(20)",
        "RTM_SETLINK": "netlink, 19, bytes(16)",
        "raw": "socket.socket, socket.AF_INET, socket.SOCK_RAW, 255",
        "packet": "socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 3",
        "IP_FREEBIND": "forge, 15",
        "IP_TRANSPARENT": "forge, 19",
        "own": f"udp, {PUBLIC!r}, 7, b'own'",
    }
    text = of(questions).replace("print(json", change + "print(json", 1)
    program = START + "with sandbox(bandwidth_mbps=100) as one:\n    print(inside(one, sys.argv[1]), end='')\n"
    found = json.loads(internet.run(program, text))
    assert found.pop("own") == "reached"
    found.pop("IP_FREEBIND")  # it may say that it was sent: it does not arrive
    assert set(found.values()) <= NO | {"EOPNOTSUPP"}, found
    said = echo.stop().splitlines()
    assert [line.split()[1] for line in said] == ["own"], said


def test_sandboxes_meet_in_private_networks_only(internet: Internet) -> None:
    """N24: not by their addresses, before, beside, and after they were in one; a partition lets nothing through."""
    serve = "import socket\nwith socket.create_server(('', 7000)) as one:\n    print('ready', flush=True)\n"
    serve += "    while True: one.accept()[0].sendall(b'reached')"
    own = "import socket\nwith socket.create_connection(('8.8.4.10', 80)) as one: print(one.getsockname()[0], end='')"
    program = START + (
        "text, serve, own = sys.argv[1:]\n"
        "with sandbox() as a, sandbox() as b, sandbox() as c, nsbox.Network() as left, nsbox.Network() as right:\n"
        "    address = inside(a, own)\n"
        "    def look(one): print(json.dumps(json.loads(inside(one, text.replace('ADDRESS', address)))['q']))\n"
        "    with a.spawn(['python3', '-c', serve]) as server:\n"
        "        server.stdout.receive_some()\n"
        "        look(a), look(b)\n"
        "        left.connect(a, 'a'), left.connect(b, 'b'), right.connect(c, 'c')\n"
        "        look(b), look(c)\n"
        "        right.connect(b, 'b'), left.disconnect(b)\n"
        "        look(b), look(c)\n"
        "        left.reconnect(b), left.remove(a)\n"
        "        look(b)\n"
    )
    text = of({"q": "tcp, 'ADDRESS', 7000"})
    found = [json.loads(line) for line in internet.run(program, text, serve, own).splitlines()]
    refused = "ECONNREFUSED"
    assert found == ["reached", refused, "reached", refused, "silent", refused, refused]


def test_ports_and_protocols_that_are_not_allowed_do_not_pass(internet: Internet) -> None:
    """N25: TCP, UDP, and what has no ports; a connection from before a change that blocks it is dead."""
    internet.serve(ECHO, PUBLIC)
    questions = {
        "allowed": f"tcp, {PUBLIC!r}, 80",
        "tcp": f"tcp, {PUBLIC!r}, 443",
        "udp": f"udp, {PUBLIC!r}, 7",
        "ping": f"(lambda: (lambda one: (one.settimeout(1), one.sendto(b'\\x08\\0\\0\\0\\0\\0\\0\\1', ({PUBLIC!r}, 0)),"
        " one.recv(100)) and 'reached')(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)))",
        "sctp": "socket.socket, socket.AF_INET, socket.SOCK_STREAM, 132",
        "udplite": f"(lambda: (lambda one: (one.settimeout(1), one.sendto(b'x', ({PUBLIC!r}, 7)), one.recv(9))"
        " and 'reached')(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)))",
    }
    found = in_sandbox(internet, questions, "allowed_ports=(80,)")
    assert found.pop("allowed") == "reached"
    assert set(found.values()) <= NO, found


def test_nothing_outside_connects_to_a_sandbox(internet: Internet) -> None:
    """N26: neither the host nor the internet, by the address that it has inside."""
    serve = "import socket\nwith socket.create_server(('', 7000)) as one:\n    print('ready', flush=True)\n"
    serve += "    while True: one.accept()[0].sendall(b'reached')"
    own = "import socket\nwith socket.create_connection(('8.8.4.10', 80)) as one: print(one.getsockname()[0], end='')"
    program = START + (
        "serve, own = sys.argv[1:]\n"
        "one = sandbox()\n"
        "one.start()\n"
        "server = one.spawn(['python3', '-c', serve])\n"
        "server.stdout.receive_some()\n"
        "print('ready')\n"
        "print(inside(one, own), flush=True)\n"
        "import time\n"
        "time.sleep(60)\n"
    )
    service = internet.serve(program, serve, own, place="host")
    address = service.line()
    questions = of({"q": f"tcp, {address!r}, 7000"})
    assert json.loads(internet.command("host", sys.executable, "-c", questions))["q"] in NO
    internet.command("internet", "ip", "route", "replace", f"{address}/32", "via", HOST)
    assert json.loads(internet.command("internet", sys.executable, "-c", questions))["q"] in NO
    assert Path("/proc", str(service.pid)).exists()
