"""Many sandboxes with egress, applications that are killed, and a kernel that refuses: nothing is left, in any case."""

import json
import os
import random
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from leaks import parents
from little_internet import WEB, Internet, little_internet
from network_state import network_state
from watching import until

pytestmark = [pytest.mark.needs_egress, pytest.mark.needs_root]

SEED = int(os.environ.get("NSBOX_TEST_SEED", "6"))
PRELUDE = """
import itertools, json, os, subprocess, sys, time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import trio
import nsbox
from leaks import left_behind
from network_state import network_state, say
from nsbox import AsyncSandbox, NetworkAllocation, ResourceAllocation
from watching import parts_of_nsbox

EGRESS = NetworkAllocation(access="egress")
PRIVATE = EGRESS.blocked_networks
POLICIES = (
    EGRESS,
    replace(EGRESS, bandwidth_mbps=100, connections_limit=5),
    replace(EGRESS, allowed_ports=(80, 443), connections_limit=2),
    replace(EGRESS, blocked_networks=tuple(one for one in PRIVATE if one != "host")),
    replace(EGRESS, blocked_domains=("*.example",), blocked_networks=()),
    replace(EGRESS, allowed_domains=("web.example",), bandwidth_mbps=5),
)
GET = "printf 'GET /x HTTP/1.0\\r\\n\\r\\n'"
CONNECT = ("bash", "-c", f"exec 3<>/dev/tcp/8.8.4.10/80 && {GET} >&3 && grep -o 8.8.4.10 <&3")

def sandbox(network=EGRESS):
    return AsyncSandbox(resources=ResourceAllocation(network=network), timeout=60, warm=False)

async def connects(one):
    result = await one.run(CONNECT)
    assert result.ok, (result.stdout, result.stderr)

def say_inside(command):
    "What a command says in the router's namespace, in which the launcher lives."
    return say(f"nsenter --net=/proc/{parts_of_nsbox()[0]}/ns/net {command}")

def states():
    return {"host": network_state(), "router": network_state(say_inside)}

async def changes(before, *, but="nothing"):
    "What there is more or less of after some time, in which the kernel ends the namespaces of what is gone."
    end = trio.current_time() + 10
    while True:
        now = states() if "router" in before else {"host": network_state()}
        more = [f"{where}, more: {line}" for where in now for line in left_behind(before[where], now[where])]
        less = [f"{where}, less: {line}" for where in now for line in left_behind(now[where], before[where])]
        found = [line for line in more + less if but not in line]
        if not found or trio.current_time() > end:
            return found
        await trio.sleep(0.05)
"""


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with little_internet() as internet:
        internet.serve(WEB, "0.0.0.0", "80")  # noqa: S104  # of a namespace of its own
        yield internet


def run(internet: Internet, program: str, *arguments: str) -> list[Any]:
    """What a program prints, line by line, as JSON."""
    text = internet.run(PRELUDE + textwrap.dedent(program), *arguments)
    return [json.loads(line) for line in text.splitlines() if line]


def test_hundreds_of_sandboxes_leave_nothing_on_the_host_or_in_the_router(internet: Internet) -> None:
    """200 in a row, and 200 with eight at a time, of six policies; each 10th connects, each 8th is in a network."""
    program = """
        async def one(number, network):
            async with sandbox(POLICIES[number % len(POLICIES)]) as one:
                if number % 8 == 0:
                    await network.connect(one, f"m{number}")
                if number % 10 == 0 and number % len(POLICIES) < 4:
                    await connects(one)

        async def some(numbers, network):
            for number in numbers:
                await one(number, network)

        async def main():
            async with sandbox() as keeper, nsbox.AsyncNetwork() as network:
                await connects(keeper)
                before = states()
                async with sandbox():
                    print(json.dumps(len(left_behind(before["router"], states()["router"]))))
                await some(range(200), network)
                print(json.dumps(await changes(before)))
                async with trio.open_nursery() as nursery:
                    numbers = iter(range(200))
                    for _ in range(8):
                        nursery.start_soon(some, numbers, network)
                print(json.dumps(await changes(before)))
                print(json.dumps(dict(network.members)))
                await connects(keeper)

        before = {"host": network_state()}
        trio.run(main)
        print(json.dumps(trio.run(changes, before)))
    """
    of_one, in_a_row, at_a_time, members, after = run(internet, program)
    assert isinstance(of_one, int)
    assert of_one > 10
    assert in_a_row == at_a_time == after == []
    assert members == {}


CHURN = """
import random

chance = random.Random(int(sys.argv[1]))

async def one(network):
    while True:
        async with sandbox(chance.choice(POLICIES)) as one:
            if chance.random() < 0.3:
                await network.connect(one)
            await one.run(["true"])

async def main():
    async with sandbox(NetworkAllocation()), nsbox.AsyncNetwork() as network, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one, network)

from nsbox._network import resolver, router
print("ready", flush=True)
trio.run(main)
"""


def state_of_host(internet: Internet) -> Counter[str]:
    """What `network_state` says there."""
    return network_state(lambda command: internet.command("host", *command.split()))


def test_nothing_is_left_of_applications_that_are_killed_at_any_moment(internet: Internet) -> None:
    """Before there is a router, while it is made, with sandboxes on their way: ten times; and the next one works."""
    chance = random.Random(SEED)  # noqa: S311  # moments, no secret
    before = state_of_host(internet)
    seen = 0
    for _ in range(10):
        service = internet.serve(PRELUDE + CHURN, str(chance.randrange(1 << 32)), place="host")
        time.sleep(chance.uniform(0, 0.5))
        below = below_of(service.pid)
        seen += internet.command("host", "nft", "list", "tables").count("nsbox")
        service.stop()
        until(lambda: not any(map(is_alive, below)), "its processes are dead")  # noqa: B023
        until(lambda: state_of_host(internet) == before, "the host is as it was")
    assert seen > 3  # else nothing was tried
    program = """
        async def main():
            async with sandbox() as one:
                await connects(one)
        trio.run(main)
        print(json.dumps("works"))
    """
    assert run(internet, program) == ["works"]


def is_alive(pid: int) -> bool:
    """Whether it runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def below_of(pid: int) -> set[int]:
    """All descendants of a process."""
    tree = parents()
    found: set[int] = set()
    level = {pid}
    while level:
        level = {one for one, parent in tree.items() if parent in level}
        found |= level
    return found


FAULTS = r"""
from contextlib import asynccontextmanager
from tracing import failing

@asynccontextmanager
async def router(*, opened):
    if opened:
        async with sandbox() as other:
            await connects(other)
            yield
    else:
        yield

async def attempt(number, error, opened):
    "What a sandbox is told; False: nothing, it was connected all the same; None: there is no nth time."
    async with router(opened=opened), sandbox(NetworkAllocation()) as one:
        before, told = states() if opened else {}, False
        try:
            # of this thread, the one that speaks netlink
            with failing(os.getpid(), "sendto", f"error={error}:when={number}", output=sys.argv[1]):
                await one.update_network(EGRESS)
        except nsbox.SandboxError as exc:
            told = [type(exc).__name__, exc.stage, str(exc)]
            kept = [one.resources.network.access, one.isolation["network"], (await one.run(["true"])).ok]
            # the sandbox and its namespace are still there
            told += [kept, await changes(before, but="namespaces that a device leads to") if opened else []]
            await one.update_network(EGRESS)
        await connects(one)
        host = Counter(line.partition(": ")[0] for line in network_state() if '"nsbox' in line)
        assert (host["link"], host["table"]) == (1, 1), host
        return told if told or "(INJECTED)" in Path(sys.argv[1]).read_text() else None
"""


@pytest.mark.needs_tool("strace")
@pytest.mark.parametrize(("opened", "least"), [(False, 15), (True, 4)], ids=["first", "another"])
def test_whatever_message_the_kernel_does_not_take_is_told_and_undone(
    internet: Internet, *, opened: bool, least: int
) -> None:
    """Of an attachment, of the router, of its way out: the sandbox lives on, and its next attempt works."""
    program = """
        before = {"host": network_state()}
        for number in itertools.count(1):
            error = ("ENOBUFS", "ENOMEM")[number % 2]
            told = trio.run(attempt, number, error, sys.argv[2] == "True")
            if told is None:
                break
            print(json.dumps([error, told]))
        print(json.dumps(trio.run(changes, before)))
    """
    log = internet.directory / "strace"
    *said, after = run(internet, FAULTS + textwrap.dedent(program), str(log), str(opened))
    assert after == []
    assert len(said) >= least
    assert len(said) - [told for _, told in said].count(False) >= least  # few questions need no answer
    for error, told in said:
        if told:
            kind, stage, text, kept, changed = told
            assert (kind, stage) == ("SetupError", "network"), text
            assert ("No buffer space" if error == "ENOBUFS" else "Cannot allocate memory") in text
            assert kept == ["none", "loopback only", True]
            assert changed == []


def test_a_range_of_addresses_is_nobody_elses(internet: Internet) -> None:
    """It overlaps no route of the host's; where there is none left it is said, and with what to do."""
    most = ("10.192.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.19.0.0/16", "198.18.128.0/17", "198.18.64.0/18",
            "198.18.32.0/19")  # fmt: skip
    for network in most:
        internet.command("host", "ip", "route", "add", "blackhole", network)
    program = """
        look = "import socket\\nwith socket.create_connection(('8.8.4.10', 80)) as one: print(one.getsockname()[0])"
        async def main():
            async with sandbox() as one:
                print(json.dumps((await one.run(["python3", "-c", look])).stdout.strip()))
        try:
            trio.run(main)
        except nsbox.UnsupportedHostError as exc:
            print(json.dumps([*exc.missing, *exc.remedies]))
    """
    (address,) = run(internet, program)
    assert isinstance(address, str)
    assert ip_address(address) in ip_network("198.18.0.0/19")
    internet.command("host", "ip", "route", "add", "blackhole", "198.18.0.0/19")
    assert run(internet, program) == [["network", "narrow the host's routes to private networks: ip -4 route"]]
    internet.command("host", "ip", "route", "del", "blackhole", "10.192.0.0/10")
    (address,) = run(internet, program)
    assert isinstance(address, str)
    assert ip_address(address) in ip_network("10.192.0.0/10")


ENDS = """
import selectors, socket
server = socket.create_server(("0.0.0.0", 9000), backlog=100)
print("ready", flush=True)
ready = selectors.DefaultSelector()
ready.register(server, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        if key.fileobj is server:
            ready.register(server.accept()[0], selectors.EVENT_READ)
        elif not key.fileobj.recv(1):
            print("end", flush=True)
            ready.unregister(key.fileobj)
"""
"""Tells of each connection that the other side ends."""


def test_nobody_remembers_the_connections_of_a_sandbox_that_is_gone(internet: Internet) -> None:
    """The other side is told, unless the sandbox is suspended; the host and the router forget, and no others'."""
    server = internet.serve(ENDS)
    program = """
        import socket
        from nsbox._network.connections import _read
        from nsbox._network.netlink import DUMP, Netlink, message

        OPEN = "import socket, time; kept = [socket.create_connection(('8.8.4.10', 9000)) for _ in range(20)]; " \\
               "print('open', flush=True); time.sleep(60)"
        LIST = message(1 << 8 | 1, DUMP, "list connections", bytes(4))

        def known():
            "How many there are to that server and are not over, as the host has it, and the router."
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
                answers = Netlink(sock).ask(LIST)
            inside = keeper._core.network._router()._filters.ask(LIST)
            return [sum(one.port == 9000 and one.is_open for one in map(_read, found)) for found in (answers, inside)]

        async def opened(one):
            process = await one.spawn(["python3", "-c", OPEN])
            assert (await process.stdout.receive_some()) == b"open\\n"

        async def main():
            global keeper
            async with sandbox() as keeper:
                await opened(keeper)
                for is_suspended in (False, True):
                    async with sandbox() as one:
                        await opened(one)
                        print(json.dumps(known()))
                        if is_suspended:
                            await one.suspend()
                    with trio.move_on_after(10):
                        while known() != [20, 20]:
                            await trio.sleep(0.1)
                    print(json.dumps(known()))

        trio.run(main)
    """
    found = run(internet, program)
    assert found == [[40, 40], [20, 20]] * 2
    assert [server.line() for _ in range(40)] == ["end"] * 40  # of the one, and of the one that ended last
    assert server.stop() == ""
