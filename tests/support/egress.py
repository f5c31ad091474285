"""What tests of whom a program can reach have in common: servers of the little internet, and programs that ask them."""

import contextlib
import json
from collections.abc import Iterator

from little_internet import METADATA, NAME_SERVER, NEIGHBOUR, WEB, Internet, little_internet

PUBLIC, OTHER = "8.8.4.10", "9.9.9.9"
TABLE = {
    "good.example": {"A": [PUBLIC]},
    "inner.example": {"A": [METADATA]},
    "both.example": {"A": [METADATA, PUBLIC]},
    "turning.example": {"ttl": 0, "turns": [{"A": [PUBLIC]}, {"A": [METADATA]}, {"A": [NEIGHBOUR]}]},
    "bad.example": {"A": [OTHER]},
    "alias.example": {"CNAME": ["bad.example."]},
}
DNS = """
import json, sys, dnsserver
sockets = dnsserver._listen(sys.argv[1], 53)
dnsserver._listen = lambda *_: sockets
print("ready", flush=True)
dnsserver.serve(sys.argv[1], 53, json.loads(sys.argv[2]))
"""
ECHO = """
import select, socket, sys
sockets = []
for address in sys.argv[1:]:
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[-1].bind((address, 7))
print("ready", flush=True)
while True:
    for one in select.select(sockets, [], [])[0]:
        data, peer = one.recvfrom(1000)
        print(peer[0], data.decode(errors="replace"), flush=True)
        one.sendto(data, peer)
"""
ASK = """
import errno, json, socket, sys

def tcp(address, port, data=b'GET / HTTP/1.0\\r\\n\\r\\n'):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family) as one:
        one.settimeout(3)
        one.connect((address, port))
        one.sendall(data)
        return 'reached' if one.recv(10) else 'closed'

def udp(address, port, data=b'x'):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(1)
        one.connect((address, port))
        one.send(data)
        return 'reached' if one.recv(1000) else 'closed'

def ask(function, *arguments):
    try:
        return function(*arguments)
    except TimeoutError:
        return 'silent'
    except socket.gaierror:
        return 'no name'
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc))
"""
NO = frozenset({
    "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM", "EINVAL", "EADDRNOTAVAIL", "ENOPROTOOPT",
    "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "silent",
})  # fmt: skip
"""How something can be refused, in words of `ask`."""
START = """
import json, sys
import nsbox
from nsbox import NetworkAllocation, ResourceAllocation

def sandbox(**fields):
    network = NetworkAllocation(access="egress", **fields)
    return nsbox.Sandbox(resources=ResourceAllocation(network=network), timeout=60)

def inside(one, text):
    result = one.execute(text)
    assert result.ok, result.stderr
    return result.stdout
"""


@contextlib.contextmanager
def internet_with_servers() -> Iterator[Internet]:
    """With web servers in both places, and a name server that has `TABLE`."""
    with little_internet() as internet:
        internet.serve(WEB, "0.0.0.0", "80", "443", "5353")  # noqa: S104  # of a namespace of its own
        internet.serve(DNS, NAME_SERVER, json.dumps(TABLE))
        internet.serve(WEB, "0.0.0.0", "8099", place="host")  # noqa: S104  # the same
        yield internet


def of(questions: dict[str, str]) -> str:
    """A program that asks each and prints the answers as JSON."""
    lines = "".join(f"    {name!r}: ask({question}),\n" for name, question in questions.items())
    return ASK + "print(json.dumps({\n" + lines + "}))\n"


def in_sandbox(internet: Internet, questions: dict[str, str], policy: str = "") -> dict[str, str]:
    """The answers in a sandbox with egress."""
    program = START + f"with sandbox({policy}) as one:\n    print(inside(one, sys.argv[1]), end='')\n"
    return dict(json.loads(internet.run(program, of(questions))))


def on_host(internet: Internet, questions: dict[str, str]) -> dict[str, str]:
    """The same on the application's own machine."""
    return dict(json.loads(internet.run(of(questions))))
