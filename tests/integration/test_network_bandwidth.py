"""`bandwidth_mbps`, as the other end of one connection sees it, and while that connection goes on."""

import json
import textwrap
from collections.abc import Iterator

import pytest
from little_internet import Internet, little_internet

pytestmark = pytest.mark.needs_egress

SERVER = """
import socket, threading, time

total = 0

def serve(one):
    "By its first byte: count what comes, send without end, or tell the count and the time of each question."
    global total
    with one:
        kind = one.recv(1)
        try:
            while True:
                if kind == b"d":
                    one.sendall(bytes(1 << 16))
                    continue
                got = one.recv(1 << 16)
                if not got:
                    return
                if kind == b"u":
                    total += len(got)
                else:
                    one.sendall(f"{total} {time.monotonic()}\\n".encode())
        except OSError:
            return

with socket.create_server(("8.8.4.20", 9000)) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = r"""
import socket, sys, threading, time

total = 0

def upload(one):
    while True:
        one.sendall(bytes(1 << 14))

def download(one):
    global total
    while True:
        total += len(one.recv(1 << 16))

def connect(kind):
    one = socket.create_connection(("8.8.4.20", 9000))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.sendall(kind)
    return one

up = sys.argv[1] == "up"
data = connect(b"u" if up else b"d")
questions = connect(b"?")
answers = questions.makefile()
threading.Thread(target=upload if up else download, args=(data,), daemon=True).start()

def look():
    if not up:
        return total, time.monotonic()
    questions.sendall(b"?")
    count, at = answers.readline().split()
    return int(count), float(at)

for line in sys.stdin:  # each of them asks for a rate, in Mbit/s
    time.sleep(1)
    before, begun = look()
    time.sleep(2)
    after, ended = look()
    print((after - before) * 8e-6 / (ended - begun), flush=True)
"""
PROGRAM = """
import dataclasses, json, sys
import nsbox
from nsbox import NetworkAllocation, ResourceAllocation

network = NetworkAllocation(access="egress", bandwidth_mbps=20)
with nsbox.Sandbox(resources=ResourceAllocation(network=network), timeout=60) as one:
    with one.spawn(["python3", "-c", sys.argv[1], sys.argv[2]]) as client:
        for mbps in (20, 40, 20):
            if one.resources.network.bandwidth_mbps != mbps:
                one.update_network(dataclasses.replace(network, bandwidth_mbps=mbps))
            rates = []
            while not rates or (rates[-1] < 0.9 * mbps and len(rates) < 4):  # pasta sends what is lost again after 2 s
                client.stdin.send_all(b"rate\\n")
                line = b""
                while not line.endswith(b"\\n"):
                    chunk = client.stdout.receive_some()
                    assert chunk, client.wait()
                    line += chunk
                rates.append(float(line))
            print(json.dumps([mbps, rates, one.get_resource_usage().network.limit]))
"""


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with little_internet() as internet:
        internet.serve(SERVER)
        yield internet


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_connection_has_the_rate_that_it_is_given_and_another_one_at_once(internet: Internet, direction: str) -> None:
    """Within a tenth, of what arrives at the other end, without headers: 20 Mbit/s, then 40, then 20 again.

    Never more; less for a while, where a busy host loses packets.
    """
    said = internet.run(textwrap.dedent(PROGRAM), CLIENT, direction)
    found = [json.loads(line) for line in said.splitlines()]
    assert [mbps for mbps, _, _ in found] == [limit for _, _, limit in found] == [20, 40, 20]
    for mbps, rates, _ in found:
        assert rates[-1] >= 0.9 * mbps, found
        assert max(rates) <= 1.1 * mbps, found
