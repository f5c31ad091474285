"""N: what a program with a network does to others: to the host, to the router, and to whom it shares them with."""

import json
import sys
from collections.abc import Iterator

import pytest
from egress import ECHO, NO, OTHER, PUBLIC, START, in_sandbox, internet_with_servers, of, on_host
from little_internet import HOST, NEIGHBOUR, WEB, Internet

pytestmark = pytest.mark.needs_egress

LATER, LATER6, RANGE = "8.8.9.9", "2a03:1::1", "8.8.10.0/24"
FLOWS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.setsockopt(socket.SOL_IP, 8, 1)  # IP_PKTINFO
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    server.bind(("0.0.0.0", 9999))
    print("ready", flush=True)
    flows = set()
    while True:
        data, told, _, peer = server.recvmsg(100, 100)
        flows.add((peer, told[0][2][8:12]))
        if data == b"how many":
            print(len(flows), flush=True)
"""
"""Counts who has sent to which of its addresses."""
MANY = f"""
import socket, time
found = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(128)]
for last in range(1, 48):
    for one in found:
        try:
            one.sendto(b"x", ("8.8.4.%d" % last, 9999))
        except OSError:
            pass
    time.sleep(0.02)  # nothing is lost on the way
time.sleep(0.5)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.setblocking(False)
    one.sendto(b"how many", ({OTHER!r}, 9999))
"""
"""6016 connections, as the kernel has it."""
RESOLVER = ("169.254.1.1", 53)
QUERY = b"\xab\xcd\1\0\0\1\0\0\0\0\0\0\x09localhost\0\0\1\0\1"
ASK_WITHOUT_PAUSE = f"""
import socket, time
asked = answered = 0
found = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
for one in found:
    one.connect({RESOLVER!r})
    one.setblocking(False)
end = time.monotonic() + 4
while time.monotonic() < end:
    for one in found:
        try:
            one.send({QUERY!r})
            asked += 1
            answered += len(one.recv(100)) > 0
        except OSError:
            pass
print(asked, answered)
"""
ASK_NOW_AND_THEN = f"""
import socket, time
answered = 0
for _ in range(40):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect({RESOLVER!r})
        one.settimeout(1)
        one.send({QUERY!r})
        try:
            answered += len(one.recv(100)) > 0
        except TimeoutError:
            pass
    time.sleep(0.02)
print(answered)
"""
NEIGHBOURS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    for last in range(1, 20):
        one.sendto(b"x", (f"5.5.5.{last}", 9))
with open("/proc/net/arp") as table:
    print(sum(line.startswith("5.5.5.") for line in table))
"""


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with internet_with_servers() as internet:
        yield internet


GO_ON = START + (
    "import os, time\n"
    "text, go_on = sys.argv[1:]\n"
    "with sandbox() as one:\n"
    "    print('ready', flush=True)\n"
    "    while not os.path.exists(go_on): time.sleep(0.01)\n"
    "    print(inside(one, text), flush=True)\n"
    "    time.sleep(60)\n"
)


def after(internet: Internet, questions: dict[str, str], change: str) -> dict[str, str]:
    """The answers in a sandbox that was there before the host changed; all are reached from the host itself."""
    go_on = internet.directory / "go on"
    service = internet.serve(GO_ON, of(questions), str(go_on), place="host")
    internet.command("host", "sh", "-ec", change)
    on_host = internet.command("host", sys.executable, "-c", of(questions))
    assert set(json.loads(on_host).values()) == {"reached"}, on_host
    go_on.touch()
    return dict(json.loads(service.line()))


def test_addresses_that_the_host_gets_later_are_out_of_reach(internet: Internet) -> None:
    """N27: those it is given, and those that it takes for its own by a route."""
    internet.serve(WEB, "::", "8098", place="host")
    questions = {
        "from the start": f"tcp, {HOST!r}, 8099",
        "later": f"tcp, {LATER!r}, 8099",
        "later, IPv6": f"tcp, {LATER6!r}, 8098",
        "of a range": f"tcp, {RANGE.replace('0/24', '7')!r}, 8099",
    }
    change = f"ip route add local {RANGE} dev lo; ip address add {LATER}/32 dev lo; ip address add {LATER6}/128 dev lo"
    found = after(internet, questions, change)
    assert set(found.values()) <= NO, found


@pytest.mark.needs_root
@pytest.mark.needs_tool("nft")
def test_what_the_host_translates_for_addresses_of_its_own_is_out_of_reach(internet: Internet) -> None:
    """N27: as ports that are published for a container are, also for an address that the host gets later."""
    rule = f"fib daddr type local tcp dport 8443 dnat to {NEIGHBOUR}:80"
    change = "nft add table ip shop\n"
    for hook in ("prerouting", "output"):
        change += f"nft 'add chain ip shop {hook} {{ type nat hook {hook} priority -100; }}'\n"
        change += f"nft add rule ip shop {hook} {rule}\n"
    internet.command("internet", "ip", "route", "add", LATER, "via", HOST)
    questions = {one: f"tcp, {one!r}, 8443" for one in (HOST, LATER)}
    found = after(internet, questions, change + f"ip address add {LATER}/32 dev lo")
    assert set(found.values()) <= NO, found


def test_a_program_fills_no_table_of_neighbours(internet: Internet) -> None:
    """N28: the kernel's has 1024 entries for the whole machine, and without one nobody new is spoken to."""
    assert int(internet.command("host", sys.executable, "-c", NEIGHBOURS, "uplink")) == 19
    program = START + (
        "with sandbox() as one:\n"
        "    result = one.execute(sys.argv[1], arguments=['eth0'])\n"
        "    assert result.ok, result.stderr\n"
        "    print(result.stdout)\n"
    )
    assert int(internet.run(program, NEIGHBOURS)) == 0


@pytest.mark.parametrize(("policy", "fewest", "most"), [("", 3500, 4097), ("connections_limit=10**5", 5000, 6018)])
def test_a_program_fills_no_table_of_connections(internet: Internet, policy: str, fewest: int, most: int) -> None:
    """N29: they are counted for each sandbox, also where nobody has set a limit; who sets a higher one gets it."""
    server = internet.serve(FLOWS)
    program = START + f"with sandbox({policy}) as one, sandbox() as other:\n" + (
        "    inside(one, sys.argv[1])\n"
        "    print(inside(other, sys.argv[2]))\n"
    )  # fmt: skip
    count = f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'how many', ({OTHER!r}, 9999))\n"
    internet.run(program, MANY, count)
    told = int(server.line())
    told = max(told, int(server.line())) if policy else told
    assert fewest <= told <= most


def test_a_flood_of_queries_keeps_nobody_from_the_resolver(internet: Internet) -> None:
    """N30: what one sandbox sends too fast is lost, and what another one asks meanwhile is answered."""
    program = START + (
        "import threading, time\n"
        "flood, look = sys.argv[1:]\n"
        "with sandbox() as one, sandbox() as other:\n"
        "    flooding = threading.Thread(target=lambda: print(inside(one, flood), end=''))\n"
        "    flooding.start()\n"
        "    time.sleep(1.5)\n"
        "    print(inside(other, look), end='', flush=True)\n"
        "    flooding.join()\n"
    )
    lines = internet.run(program, ASK_WITHOUT_PAUSE, ASK_NOW_AND_THEN).splitlines()
    asked, answered = map(int, lines[1].split())
    assert asked > 20_000
    assert 0 < answered < 10_000
    assert int(lines[0]) >= 39


def test_no_route_and_no_option_of_a_program_s_leads_anywhere(internet: Internet) -> None:
    """N20: source routes, packets past the routes, broadcast and multicast, the router's own addresses."""
    options = (
        "(lambda kind, via, to: (lambda one: (one.settimeout(2), one.setsockopt(socket.SOL_IP, socket.IP_OPTIONS,"
        " bytes([kind, 7, 4]) + socket.inet_aton(via) + b'\\0'), one.connect((to, 80)),"
        " one.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'), one.recv(9)) and 'reached')(socket.socket()))"
    )
    past = (
        "(lambda to, port: (lambda one: (one.settimeout(1), one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1),"
        " one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0'),"
        " one.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1), one.connect((to, port)), one.send(b'x'),"
        " one.recv(9)) and 'reached')(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))"
    )
    questions = {
        "record": f"{options}, 7, '0.0.0.0', {PUBLIC!r}",
        "loose by": f"{options}, 131, {NEIGHBOUR!r}, {PUBLIC!r}",
        "loose to": f"{options}, 131, {PUBLIC!r}, {NEIGHBOUR!r}",
        "strict to": f"{options}, 137, {PUBLIC!r}, {NEIGHBOUR!r}",
        **{f"past {to}": f"{past}, {to!r}, 8099" for to in (HOST, PUBLIC, "255.255.255.255", "224.0.0.1")},
        **{f"router {to}": f"udp, {to!r}, 53" for to in ("169.254.1.2", "10.192.0.1", "ff02::1%eth0", "fe80::1%eth0")},
    }
    assert on_host(internet, {"record": questions["record"]}) == {"record": "reached"}
    found = in_sandbox(internet, questions, "blocked_networks=('host', '192.168.0.0/16')")
    assert set(found.values()) <= NO | {"no name"}, found


def test_pieces_of_a_datagram_pass_no_port_that_is_not_allowed(internet: Internet) -> None:
    """N25: they are put together before anything is decided, and nothing but the first has a port."""
    internet.serve(ECHO, PUBLIC)
    internet.serve(ECHO.replace("7", "8"), PUBLIC)
    pieces = (
        "(lambda port: (lambda one: (one.settimeout(1), one.setsockopt(socket.SOL_IP, 10, 0),"  # IP_MTU_DISCOVER
        f" one.connect(({PUBLIC!r}, port)), one.send(b'x' * 5000), one.recv(9)) and 'reached')("
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))"
    )
    questions = {str(port): f"{pieces}, {port}" for port in (7, 8)}
    assert in_sandbox(internet, questions) == {"7": "reached", "8": "reached"}
    found = in_sandbox(internet, questions, "allowed_ports=(7,)")
    assert found.pop("7") == "reached"
    assert found["8"] in NO


def test_sandboxes_do_not_meet_by_ipv6_or_from_another_application(internet: Internet) -> None:
    """N24: nor where one may reach every network that there is."""
    serve = (
        "import socket\nwith socket.create_server(('::', 7000), family=socket.AF_INET6, dualstack_ipv6=True) as one:\n"
    )
    serve += "    print('ready', flush=True)\n    while True: one.accept()[0].sendall(b'reached')"
    own = (
        "import socket\n"
        "with socket.create_connection(('8.8.4.10', 80)) as one: print(one.getsockname()[0])\n"
        "with open('/proc/net/if_inet6') as table: found = [line.split()[0] for line in table if 'eth0' in line]\n"
        "print(':'.join(found[0][at:at + 4] for at in range(0, 32, 4)), end='')"
    )
    program = START + (
        "import time\n"
        "text, serve, own = sys.argv[1:]\n"
        "with sandbox(blocked_networks=()) as one, sandbox(blocked_networks=()) as other, nsbox.Network() as both:\n"
        "    print('ready', flush=True)\n"
        "    four, six = inside(one, own).split()\n"
        "    text = text.replace('FOUR', four).replace('SIX', six)\n"
        "    server = one.spawn(['python3', '-c', serve])\n"
        "    server.stdout.receive_some()\n"
        "    apart = inside(other, text)\n"
        "    both.connect(one), both.connect(other)\n"
        "    print(json.dumps([four, six, json.loads(apart), json.loads(inside(other, text))]), flush=True)\n"
        "    time.sleep(60)\n"
    )
    questions = of({"four": "tcp, 'FOUR', 7000", "six": "tcp, 'SIX', 7000"})
    service = internet.serve(program, questions, serve, own, place="host")
    four, six, apart, together = json.loads(service.line())
    assert together == {"four": "reached", "six": "reached"}
    assert set(apart.values()) <= NO, apart
    elsewhere = {"four": f"tcp, {four!r}, 7000", "six": f"tcp, {six!r}, 7000"}
    found = in_sandbox(internet, elsewhere, "blocked_networks=()")
    assert set(found.values()) <= NO, found


@pytest.mark.needs_root
def test_nobody_but_the_application_and_its_launcher_holds_the_router(internet: Internet) -> None:
    """N31: no program, warm interpreter or PID 1 has a descriptor of its namespace, or lives there."""
    program = START + (
        "import os, time\n"
        "def parent(one):\n"
        "    try: return int(open(f'/proc/{one}/stat').read().rpartition(')')[2].split()[1])\n"
        "    except OSError: return 0\n"  # it has ended
        "def processes():\n"
        "    parents = {int(one): parent(one) for one in os.listdir('/proc') if one.isdigit()}\n"
        "    tree = [os.getpid()]\n"
        "    for one in tree: tree += [child for child, parent in parents.items() if parent == one]\n"
        "    return tree\n"
        "def holds(one):\n"
        "    try: found = [os.readlink(entry) for entry in os.scandir(f'/proc/{one}/fd') if os.path.lexists(entry)]\n"
        "    except OSError: return set()\n"
        "    return {link for link in found if link.startswith('net:')} | {os.readlink(f'/proc/{one}/ns/net')}\n"
        "with sandbox() as one, sandbox() as other:\n"
        "    for each in (one, other): inside(each, 'print(1)')\n"
        "    running = one.spawn(['sleep', '60']), other.spawn(['python3', '-c', 'import time; time.sleep(60)'])\n"
        "    time.sleep(1)\n"  # spares are made
        "    tree = processes()\n"
        "    router = os.readlink(f'/proc/{tree[1]}/ns/net')\n"
        "    print(json.dumps([one in tree[:2] for one in tree if router in holds(one)]), len(tree))\n"
    )
    holders, count = internet.run(program).rsplit(maxsplit=1)
    assert json.loads(holders) == [True, True]
    assert int(count) > 6
