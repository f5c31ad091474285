"""Private networks of sandboxes, and what can be said of a network without a world outside."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

import nsbox
from nsbox import NetworkAllocation

pytestmark = pytest.mark.needs_egress  # for nftables; nothing is reached outside

SERVER = """
import socket, threading
def serve(one):
    with one:
        while data := one.recv(100):
            one.sendall(data.upper())
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7000), timeout=3) as one:
        one.sendall(b"hello")
        print(one.recv(100).decode(), one.getpeername()[0] == socket.gethostbyname(sys.argv[1]))
except TimeoutError:
    print("silent")
except socket.gaierror:
    print("no such name")
except OSError as exc:
    print("refused", exc.errno)
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=5) as one:
    print("connected", flush=True)
    for line in sys.stdin:
        seconds, text = line.split()
        one.settimeout(float(seconds))
        try:
            if text != "-":
                one.sendall(text.encode())
            print(one.recv(100).decode(), flush=True)
        except TimeoutError:
            print("silent", flush=True)
"""


@contextmanager
def sandboxes(count: int, **fields: Any) -> Iterator[list[nsbox.Sandbox]]:
    """So many of them, in which programs of Python may talk for a minute."""
    made: list[nsbox.Sandbox] = []
    try:
        made.extend(nsbox.Sandbox.create(timeout=60, **fields) for _ in range(count))
        yield made
    finally:
        for one in made:
            one.terminate()


class Lines:
    """A program that is told lines and answers with lines."""

    def __init__(self, process: nsbox.BlockingProcess) -> None:
        self.process = process
        self._text = b""

    def read(self) -> str:
        """The next line."""
        while b"\n" not in self._text:
            chunk = self.process.stdout.receive_some()
            assert chunk, self.process.wait()
            self._text += chunk
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def ask(self, line: str) -> str:
        """What comes of a line."""
        self.process.stdin.send_all(line.encode() + b"\n")
        return self.read()


@contextmanager
def running(sandbox: nsbox.Sandbox, program: str, *words: str) -> Iterator[Lines]:
    """A program of Python that has said its first line."""
    with sandbox.spawn(["python3", "-c", program, *words]) as process:
        lines = Lines(process)
        assert lines.read() in ("ready", "connected")
        yield lines


def ask(sandbox: nsbox.Sandbox, name: str) -> str:
    """What comes of a connection to a server."""
    result = sandbox.run(["python3", "-c", ASK, name])
    assert result.ok, result.stderr
    return result.stdout.strip()


def test_members_of_a_private_network_find_and_reach_each_other_by_name() -> None:
    """By the name alone, by the full name, and in any case; who is not a member finds nobody."""
    with sandboxes(3) as (db, web, stranger), nsbox.Network("backend") as network:
        network.connect(db, "db")
        network.connect(web)
        assert dict(network.members) == {"db": db.id, web.id: web.id}
        with running(db, SERVER):
            for name in ("db", "db.backend", "DB", "Db.Backend"):
                assert ask(web, name) == "HELLO True"
            assert ask(db, "db") == "HELLO True"
            for name in ("db", "db.backend"):
                assert ask(stranger, name) == "no such name"
            for name in ("db.frontend", "cache", "example.com"):
                assert ask(web, name) == "no such name"
            found = web.execute("import socket; print(socket.gethostbyname('db'))").stdout.strip()
            assert ask(stranger, found).startswith("refused")  # there is no route
            assert ask(web, found) == "HELLO True"
        assert ask(web, "db").startswith("refused")  # by its kernel: nobody listens
        assert web.isolation["network"].startswith("private networks only")
        assert stranger.isolation["network"] == "loopback only"


def test_members_of_different_networks_do_not_reach_each_other() -> None:
    """Not by name, and not by an address that they were told of; who is in both reaches both."""
    with sandboxes(3) as (one, both, other), nsbox.Network("left") as left, nsbox.Network("right") as right:
        left.connect(one, "server")
        right.connect(other, "server")
        left.connect(both, "middle")
        right.connect(both, "middle")
        with running(one, SERVER), running(other, SERVER):
            assert ask(both, "server.left") == ask(both, "server.right") == ask(both, "server") == "HELLO True"
            assert ask(one, "server.right") == ask(other, "server.left") == "no such name"
            look = "import socket, sys; print(*map(socket.gethostbyname, ('server', 'server.left', 'server.right')))"
            short, of_left, of_right = both.execute(look).stdout.split()
            assert short == of_left != of_right
            assert ask(one, of_right).startswith("refused")
            assert ask(other, of_left).startswith("refused")


def test_a_partition_is_silent_and_connections_outlive_it() -> None:
    """Of a connection that exists nothing arrives, a new one finds nobody; afterwards what was sent arrives."""
    with sandboxes(3) as (db, web, third), nsbox.Network() as network:
        for name, one in (("db", db), ("web", web), ("third", third)):
            network.connect(one, name)
        with running(db, SERVER), running(web, TALK, "db") as talk:
            assert talk.ask("5 one") == "ONE"
            network.disconnect(web)
            network.disconnect(web)
            assert talk.ask("1 two") == "silent"
            assert ask(web, "db") == "silent"
            assert ask(third, "db") == "HELLO True"
            network.reconnect(web)
            assert talk.ask("30 -") == "TWO"
            assert talk.ask("5 three") == "THREE"
            network.disconnect(db)
            assert talk.ask("1 four") == "silent"
            network.reconnect(db)
            assert talk.ask("30 -") == "FOUR"


@pytest.mark.parametrize("change", ["restart", "reset"])
def test_a_member_stays_one_with_new_processes(change: str) -> None:
    """By the same name, and parted, if it was."""
    with sandboxes(2) as (db, web), nsbox.Network() as network:
        network.connect(db, "db")
        network.connect(web, "web")
        getattr(db, change)()
        with running(db, SERVER):
            assert ask(web, "db") == "HELLO True"
        network.disconnect(db)
        getattr(db, change)()
        getattr(web, change)()
        with running(db, SERVER):
            assert ask(web, "db") == "silent"
            network.reconnect(db)
            assert ask(web, "db") == "HELLO True"
        assert set(network.members) == {"db", "web"}


@pytest.mark.parametrize("dies", ["PID 1", "the launcher"])
def test_members_are_there_again_after_a_recovery(dies: str) -> None:
    """Of one whose PID 1 was killed, and of all, when the launcher was."""

    async def main() -> None:
        async with (
            nsbox.AsyncSandbox(timeout=60) as db,
            nsbox.AsyncSandbox(timeout=60) as web,
            nsbox.AsyncNetwork() as network,
        ):
            await network.connect(db, "db")
            await network.connect(web, "web")
            supervisor, cell = db._core.living()
            gone = trio.Event()
            for one in (db, web):
                one.on("recovery_succeeded", lambda event: gone.set() if event.sandbox_id == db.id else None)
            signal.pidfd_send_signal(cell.pidfd if dies == "PID 1" else supervisor.launcher_pidfd, signal.SIGKILL)
            with trio.fail_after(20):
                await gone.wait()
                await web.reconnect()
                async with await db.spawn(["python3", "-c", SERVER]) as server:
                    assert await server.stdout.receive_some() == b"ready\n"
                    result = await web.run(["python3", "-c", ASK, "db"])
                    assert result.stdout == "HELLO True\n", result.stderr

    trio.run(main)


def test_who_ends_leaves_and_who_leaves_is_out_of_reach() -> None:
    """The names are free again; a connection that existed is dead."""
    with sandboxes(3) as (db, web, other), nsbox.Network() as network:
        network.connect(db, "db")
        network.connect(web, "web")
        with running(db, SERVER), running(web, TALK, "db") as talk:
            assert talk.ask("5 one") == "ONE"
            network.remove(web)
            network.remove(web)
            with web.spawn(["true"]) as process:
                process.wait()
            assert dict(network.members) == {"db": db.id}
            assert ask(web, "db") == "no such name"
            network.connect(other, "web")
            assert ask(other, "db") == "HELLO True"
        db.terminate()
        assert dict(network.members) == {"web": other.id}
        network.connect(web, "db")
        assert ask(other, "db").startswith("refused")
    assert dict(network.members) == {}
    with pytest.raises(nsbox.InvalidStateError, match="closed"), sandboxes(1) as (late,):
        network.connect(late)


@pytest.mark.needs_cgroups
def test_while_a_member_is_suspended_its_network_answers_nothing() -> None:
    """Not even with a reset; afterwards the connection goes on. One can come in suspended, too."""
    with sandboxes(2) as (db, web), nsbox.Network() as network:
        network.connect(db, "db")
        db.suspend()
        db.resume()
        web.suspend()
        network.connect(web, "web")
        web.resume()
        with running(db, SERVER), running(web, TALK, "db") as talk:
            assert talk.ask("5 one") == "ONE"
            db.suspend()
            assert talk.ask("1 two") == "silent"
            assert ask(web, "db") == "silent"
            db.resume()
            assert talk.ask("30 -") == "TWO"


def test_what_cannot_be_connected_is_refused_and_changes_nothing() -> None:
    """Names that are none or taken, sandboxes of another state or kind."""
    with sandboxes(2) as (one, other), nsbox.Network("net") as network, nsbox.Network("net") as twin:
        network.connect(one, "a")
        network.connect(one, "A")
        with pytest.raises(nsbox.InvalidStateError, match="already, as 'a'"):
            network.connect(one, "b")
        with pytest.raises(nsbox.ConfigError, match="another network of the name 'net'"):
            twin.connect(one, "a")
        for name in ("a", "A"):
            with pytest.raises(nsbox.ConfigError, match=one.id):
                network.connect(other, name)
        wrong: tuple[Any, ...] = ("", "a.b", "-a", "a_b", "é", "a" * 64, " a", 3)
        for no_name in wrong:
            with pytest.raises(nsbox.ConfigError, match="name="):
                network.connect(other, no_name)
        with pytest.raises(nsbox.ConfigError, match="sandbox="):
            network.connect("db")  # type: ignore[arg-type]
        for action in (network.disconnect, network.reconnect):
            with pytest.raises(nsbox.InvalidStateError, match="connect it first"):
                action(other)
        with pytest.raises(nsbox.InvalidStateError, match="creating"):
            network.connect(nsbox.Sandbox())
        assert dict(network.members) == {"a": one.id}
        assert other.isolation["network"] == "loopback only"
        other.terminate()
        with pytest.raises(nsbox.InvalidStateError, match="terminated"):
            network.connect(other)
    unusable: tuple[Any, ...] = ("", "a b", "*.a", "ä", 3)
    for no_network in unusable:
        with pytest.raises(nsbox.ConfigError, match="name="):
            nsbox.Network(no_network)


def test_a_network_is_of_one_event_loop() -> None:
    """That of asyncio and of blocking callers is one; that of a trio run is another."""
    with sandboxes(1) as (blocking,):

        async def of_trio() -> None:
            async with nsbox.AsyncSandbox() as here, nsbox.AsyncNetwork() as network:
                await network.connect(here, "here")
                with pytest.raises(nsbox.InvalidStateError, match="another event loop"):
                    await network.connect(blocking)
                with nsbox.Network() as elsewhere, pytest.raises(nsbox.InvalidStateError, match="another event loop"):
                    elsewhere.connect(here)

        trio.run(of_trio)

        async def of_asyncio() -> None:
            async with nsbox.AsyncSandbox(timeout=60) as here, nsbox.AsyncNetwork("both") as network:
                await network.connect(blocking, "blocking")
                await network.connect(here, "here")
                assert set(network.members) == {"blocking", "here"}
                result = await here.execute("import socket; print(socket.gethostbyname('blocking') > '')")
                assert result.stdout == "True\n"

        asyncio.run(of_asyncio())


def test_an_update_without_a_network_opens_none() -> None:
    """It is kept for when there is access; what is no allocation, and what has no processes, is refused."""
    allocation = NetworkAllocation(bandwidth_mbps=3.0)
    with sandboxes(1) as (one,):
        one.update_network(allocation)
        assert one.resources.network == allocation
        assert one.config.resources.network == NetworkAllocation()
        assert one.isolation["network"] == "loopback only"
        one.restart()
        one.reset()
        assert one.resources.network == allocation
        for wrong in (None, True, {"access": "none"}, one.resources):
            with pytest.raises(nsbox.ConfigError, match="allocation"):
                one.update_network(wrong)  # type: ignore[arg-type]
    with pytest.raises(nsbox.InvalidStateError, match="terminated"):
        one.update_network(allocation)
    with pytest.raises(nsbox.InvalidStateError, match="creating"):
        nsbox.Sandbox().update_network(allocation)


def test_traffic_is_counted_and_told() -> None:
    """In Mbit/s of the busier direction, and in bytes; a sandbox without a network has none."""
    send = "import socket\nwith socket.create_connection(('db', 7000)) as one:\n"
    send += "    for _ in range(200): one.sendall(b'x' * 100); one.recv(100)\n"
    with sandboxes(2, metrics_interval=0.1) as (db, web), nsbox.Network() as network:
        assert web.get_resource_usage().network == nsbox.Usage(usage=0.0, limit=float("inf"))
        told: list[nsbox.ResourceMetrics] = []
        web.on("metrics_updated", lambda event: told.append(event.metrics))
        network.connect(db, "db")
        network.connect(web, "web")
        with running(db, SERVER):
            result = web.execute(send + "import time; time.sleep(0.5)")
            assert result.ok, result.stderr
        assert web.get_resource_usage().network.usage > 0
        last = told[-1]
        assert last.sent_bytes is not None
        assert last.received_bytes is not None
        assert last.sent_bytes > 20_000
        assert last.received_bytes > 10_000


def test_refused_names_are_told_of() -> None:
    """Once each, however often they are asked for."""
    with sandboxes(2) as (one, other), nsbox.Network() as network:
        refused: list[str] = []
        one.on("domain_refused", lambda event: refused.append(event.domain))
        network.connect(one, "one")
        network.connect(other, "other")
        for _ in range(3):
            assert ask(one, "Example.COM") == "no such name"
        assert ask(one, "other").startswith("refused")
    assert refused == ["example.com"]


class Gathering:
    """Where so many tasks wait for each other."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all_here = trio.Event()

    async def wait(self) -> None:
        """Until the last one has come."""
        self._missing -= 1
        if not self._missing:
            self._all_here.set()
        await self._all_here.wait()


def test_many_members_come_and_go_at_once() -> None:
    """Eight at a time, in one network; each finds its neighbour."""

    async def member(network: nsbox.AsyncNetwork, number: int, come: Gathering, asked: Gathering) -> None:
        async with nsbox.AsyncSandbox(timeout=60) as one:
            await network.connect(one, f"m{number}")
            await come.wait()
            result = await one.execute(f"import socket; print(socket.gethostbyname('m{(number + 1) % 8}'))")
            assert result.ok, result.stderr
            await asked.wait()

    async def main() -> None:
        for _ in range(2):
            async with nsbox.AsyncNetwork() as network:
                come, asked = Gathering(8), Gathering(8)
                async with trio.open_nursery() as nursery:
                    for number in range(8):
                        nursery.start_soon(member, network, number, come, asked)
                assert dict(network.members) == {}

    trio.run(main)


def test_without_a_network_nothing_is_opened() -> None:
    """No router, no resolver, no library for them: the default takes no time for what it does not have."""
    program = (
        "import sys, nsbox\nwith nsbox.Sandbox() as one:\n    assert one.execute('print(1)').ok\n"
        "    assert one._core.living()[0].networking.router is None\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('pyroute2', 'dns')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
