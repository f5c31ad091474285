"""A real server and its real client, Debian's Redis, each in a sandbox of its own, in a private network."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import nsbox

pytestmark = [
    pytest.mark.needs_egress,  # for nftables; nothing is reached outside
    pytest.mark.needs_tool("redis-server"),
    pytest.mark.needs_tool("redis-cli"),
]

SERVER = ("/usr/bin/redis-server", "--bind", "0.0.0.0", "-::", "--protected-mode", "no", "--save", "")  # noqa: S104
CLIENT = ("/usr/bin/redis-cli", "-h", "db")
COMMANDS = 10_000


class Session:
    """A redis-cli that is told one command a line, and answers with one line; all of them by one connection.

    It connects anew where its connection has ended, and the new one has another id.
    """

    def __init__(self, process: nsbox.BlockingProcess) -> None:
        self._process = process
        self._read = b""

    def tell(self, command: str) -> None:
        """Send a command."""
        self._process.stdin.send_all(command.encode() + b"\n")

    def answer(self) -> str:
        """The next answer; it may take as long as it likes."""
        while b"\n" not in self._read:
            chunk = self._process.stdout.receive_some()
            assert chunk, self._process.wait()
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def ask(self, command: str) -> str:
        """What comes of a command."""
        self.tell(command)
        return self.answer()


@contextmanager
def served(sandbox: nsbox.Sandbox) -> Iterator[None]:
    """Redis runs there, and accepts connections."""
    with sandbox.spawn(SERVER) as server:
        said = b""
        while b"Ready to accept connections" not in said:
            chunk = server.stdout.receive_some()
            assert chunk, said.decode()
            said += chunk
        yield


@contextmanager
def session(sandbox: nsbox.Sandbox) -> Iterator[Session]:
    """A client that stays connected."""
    with sandbox.spawn(CLIENT) as process:
        yield Session(process)


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[nsbox.Sandbox, nsbox.Sandbox, nsbox.Network]]:
    """The server's sandbox, the client's, and the network that both are in."""
    with nsbox.Sandbox(timeout=120) as db, nsbox.Sandbox(timeout=120) as web, nsbox.Network() as network:
        network.connect(db, "db")
        network.connect(web, "web")
        yield db, web, network


Pair = tuple[nsbox.Sandbox, nsbox.Sandbox, nsbox.Network]


def ask(sandbox: nsbox.Sandbox, *command: str, stdin: str | None = None) -> str:
    """What a client says that connects for one command."""
    result = sandbox.run([*CLIENT, *command], stdin=stdin)
    assert result.ok, result.stdout + result.stderr
    return result.stdout.strip()


def test_what_is_stored_comes_back(pair: Pair) -> None:
    """Small and large values, and ten thousand commands of one client that waits for none of their answers."""
    db, web, _ = pair
    large = "0123456789abcdef" * (1 << 16)
    with served(db):
        assert ask(web, "SET", "greeting", "hello, world") == "OK"
        assert ask(web, "GET", "greeting") == "hello, world"
        assert ask(web, "-x", "SET", "large", stdin=large) == "OK"
        assert ask(web, "GET", "large") == large
        commands = "".join(f"SET key:{number} value-{number}\r\n" for number in range(COMMANDS))
        said = ask(web, "--pipe", stdin=commands)
        assert said.endswith(f"errors: 0, replies: {COMMANDS}")
        assert ask(web, "DBSIZE") == str(COMMANDS + 2)
        wanted = range(0, COMMANDS, 777)
        values = ask(web, "MGET", *(f"key:{number}" for number in wanted))
        assert values.split() == [f"value-{number}" for number in wanted]


@pytest.mark.needs_cgroups
@pytest.mark.parametrize("which", ["server", "client"])
def test_a_client_that_waits_is_answered_after_a_suspension(pair: Pair, which: str) -> None:
    """Of the server, or of itself, in the middle of a blocking command: by the same connection."""
    db, web, _ = pair
    with served(db), session(web) as client:
        before = client.ask("CLIENT ID")
        client.tell("BRPOPLPUSH jobs done 0")
        waits = "until redis-cli CLIENT LIST | grep -q cmd=brpoplpush; do :; done"
        assert db.shell(waits).ok
        suspended, other = (db, web) if which == "server" else (web, db)
        suspended.suspend()
        host = "db" if which == "server" else "localhost"
        with other.spawn(["redis-cli", "-h", host, "LPUSH", "jobs", "work"]) as push:
            if which == "client":
                assert push.wait().ok  # what is sent to it now is lost, and comes again
            suspended.resume()
            assert push.wait().ok
        assert client.answer() == "work"
        assert client.ask("CLIENT ID") == before
        assert ask(web, "LRANGE", "done", "0", "-1") == "work"


@pytest.mark.parametrize("which", ["server", "client"])
def test_a_connection_goes_on_after_a_partition(pair: Pair, which: str) -> None:
    """What was sent meanwhile is carried out afterwards, once; nobody connects meanwhile."""
    db, web, network = pair
    with served(db), session(web) as client:
        before = client.ask("CLIENT ID")
        assert client.ask("INCR count") == "1"
        network.disconnect(db if which == "server" else web)
        client.tell("INCR count")
        nobody = web.run(["timeout", "1", *CLIENT, "PING"])
        assert (nobody.exit_code, nobody.stdout) == (124, "")
        assert db.shell("redis-cli GET count").stdout == "1\n"
        network.reconnect(db if which == "server" else web)
        assert client.answer() == "2"
        assert client.ask("CLIENT ID") == before
        assert ask(web, "GET", "count") == "2"


def test_a_restarted_server_is_found_by_its_name(pair: Pair) -> None:
    """At another address; a client that was connected before connects anew, and the old address leads nowhere."""
    db, web, _ = pair
    look = ("python3", "-c", "import socket; print(socket.gethostbyname('db'))")
    with served(db), session(web) as client:
        first = web.run(look).stdout.strip()
        assert client.ask("SET key before") == "OK"
        db.restart()
        with served(db):
            second = web.run(look).stdout.strip()
            assert first != second
            assert ask(web, "GET", "key") == ""
            assert ask(web, "SET", "key", "after") == "OK"
            client.tell("GET key")  # which is how it learns that its connection has ended; its stderr says so
            assert client.ask("GET key") == "after"
            gone = web.run(["timeout", "20", "redis-cli", "-h", first, "PING"])
            assert gone.stderr.startswith(f"Could not connect to Redis at {first}:6379: ")
