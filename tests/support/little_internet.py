"""A little internet on this machine, for tests of what sandboxes reach: two network namespaces that nothing leaves.

    with little_internet() as internet:
        internet.serve(WEB, "0.0.0.0", "80", "8080")
        print(internet.run("import nsbox; print(nsbox.execute(...).stdout)"))

There are two places. `host` is where the application under test runs; it forwards IPv4 and IPv6, and has one uplink:

    host  192.168.77.2/24  2a01:77::2/64  --uplink-----wan--  192.168.77.1, .3  2a01:77::1, ::3  internet
          default route by way of 192.168.77.1 and 2a01:77::1           8.8.4.0/24, 9.9.9.0/24, 169.254.169.254
                                                                        2606:77::/64

All addresses of `internet` are one machine's: the gateway and a neighbour in the host's own private network, every
public one, which so stands for as many machines as a test likes, and the metadata service of clouds. It has no route to
what is behind the host, so that nobody gets an answer there whose source address was not translated. Nothing listens at
first; a test starts what it needs, such as `WEB`, or a DNS server: the host's /etc/resolv.conf names `NAME_SERVER`,
which is in `internet`. A UDP server has to be bound to the address that it is asked at, or it answers from another.

As root the application is root. Without root all this is in a user namespace whose root the tests are, and the
application in another below it, where it is an ordinary user: neither network is its own, so that it is nsbox's
rootless mode that is tried. Both need `ip` and `nsenter` (packages iproute2 and util-linux), and no right over this
machine's network.

What is started is killed at the end, or, should the test be killed, by the kernel: PR_SET_PDEATHSIG. The namespaces go
with the last process in them.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

Place = Literal["host", "internet"]

SECONDS = 60.0
"""How long a program may take that is waited for."""
HOST, HOST6 = "192.168.77.2", "2a01:77::2"
GATEWAY, GATEWAY6 = "192.168.77.1", "2a01:77::1"
NEIGHBOUR, NEIGHBOUR6 = "192.168.77.3", "2a01:77::3"
METADATA = "169.254.169.254"
PUBLIC, PUBLIC6 = ("8.8.4.0/24", "9.9.9.0/24"), "2606:77::/64"
"""Every address in them is one of `internet`."""
NAME_SERVER = "8.8.4.53"

_USER = 64998
"""As whom the application runs without root: a number that has no name, and so no range in subuid(5)."""
_SUPPORT = Path(__file__).parent

WEB = """
import http.server, json, socket, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({
            "client": self.client_address[0], "server": self.connection.getsockname()[0], "path": self.path,
            "port": self.connection.getsockname()[1], "host": self.headers.get("Host"),
        }).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        print(self.connection.getsockname()[0], self.client_address[0], self.path, flush=True)

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET

    def server_bind(self):  # its own asks for the name of its address
        socket.socket.bind(self.socket, self.server_address)
        self.server_name, self.server_port = self.server_address[:2]

servers = [Server((sys.argv[1], int(port)), Handler) for port in sys.argv[2:]]
for server in servers:
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""
"""Arguments: an address, or "0.0.0.0" or "::" for all of them, and ports. It answers a GET with whom it sees, as JSON,
and tells of each: its own address, the client's, the path."""


class Service:
    """A program that runs on beside the test.

    Args:
        process: It; its stdout is a pipe.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._read = b""

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    def line(self, seconds: float = SECONDS) -> str:
        """The next line that it writes, without its end; one that writes none in time, or has ended, fails the test."""
        end = time.monotonic() + seconds
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            remaining = end - time.monotonic()
            if remaining <= 0 or not select.select([self._process.stdout], [], [], remaining)[0]:
                raise AssertionError(f"no line within {seconds:g} s, but {self._read!r}")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise AssertionError(f"it has ended with {self._process.wait()}: {self._read!r}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace")

    def stop(self) -> str:
        """Kill it; what it had written and was not read yet. Idempotent."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        if not self._process.stdout.closed:
            with self._process.stdout as rest:
                self._read += rest.read()
        said, self._read = self._read, b""
        return said.decode(errors="replace")


class Internet:
    """What `little_internet` gives; see above."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """For files of the test's; everybody can read there."""
        self._as_root = os.geteuid() == 0
        self._started: list[Service] = []
        self._keepers: dict[Place, subprocess.Popen[bytes]] = {}

    def command(self, place: Place, *command: str, seconds: float = SECONDS) -> str:
        """What a command says that has every right over a place's network: routes, addresses, rules, counters.

        Raises:
            CalledProcessError: It failed; its stderr is a note.
            TimeoutExpired: It took longer, and was killed.
        """
        return self._finish([*self._enter(place), *command], seconds)

    def run(self, program: str | Path, *arguments: str, seconds: float = SECONDS) -> str:
        """Run the application under test in `host`, a Python program that may import nsbox and what tests/support has.

        Args:
            program: Its text, or its file.
            arguments: Of it.
            seconds: How long it may take.

        Returns:
            Its stdout.

        Raises:
            CalledProcessError: Its exit status is not 0; its stderr is a note.
            TimeoutExpired: It took longer, and was killed.
        """
        return self._finish([*self._enter("host"), *self._python("host", program, arguments)], seconds)

    def serve(self, program: str | Path, *arguments: str, place: Place = "internet") -> Service:
        """Start a Python program that runs on, until the end or until it is stopped.

        Args:
            program: Its text, or its file. Its first line of output is "ready"; until then the test waits.
            arguments: Of it.
            place: "host": as the application under test.
        """
        command = [*self._enter(place), *self._python(place, program, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=_environment())
        service = Service(process)
        self._started.append(service)
        said = service.line()
        if said != "ready":
            raise AssertionError(f"it is not ready: {said + service.stop()}")
        return service

    def _python(self, place: Place, program: str | Path, arguments: Sequence[str]) -> list[str]:
        """The command line; without root the application is nobody there, and a server that of the namespaces."""
        below = [] if self._as_root or place == "internet" else [f"--map-user={_USER}", f"--map-group={_USER}"]
        nobody = ["unshare", "--user", *below, "--"] if below else []
        text = [str(program)] if isinstance(program, Path) else ["-c", program]
        return [*nobody, "setpriv", "--pdeathsig", "KILL", "--", sys.executable, *text, *arguments]

    def _enter(self, place: Place) -> list[str]:
        process = Path("/proc", str(self._keepers[place].pid), "ns")
        entered = [f"--net={process}/net", f"--mount={process}/mnt"]
        return ["nsenter", *self._enter_user(), *entered, "--"]

    def _enter_user(self) -> list[str]:
        """The user namespace that both places belong to: of this user, who has every right there."""
        if self._as_root:
            return []
        return [f"--user=/proc/{self._keepers['host'].pid}/ns/user", "--preserve-credentials"]

    def _finish(self, command: Sequence[str], seconds: float) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=_environment(), stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        try:
            done.check_returncode()
        except subprocess.CalledProcessError as exc:
            exc.add_note(done.stdout + done.stderr)
            raise
        return done.stdout

    def _keep(self, place: Place, command: Sequence[str]) -> None:
        """Start what a place belongs to until it ends: it does when its stdin does, at the latest with the test."""
        ready = ["sh", "-c", "echo; exec cat"]
        process = subprocess.Popen([*command, "--", *ready], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._keepers[place] = process
        assert process.stdout is not None
        if process.stdout.read(1) != b"\n":
            raise AssertionError(f"{' '.join(command)} ended with {process.wait()}")

    def build(self) -> None:
        """Make both places."""
        mounts = ["--mount", "--propagation", "slave"]
        user = [] if self._as_root else ["--user", "--map-root-user"]
        self._keep("host", ["unshare", *user, "--net", *mounts])
        self._keep("internet", [*(["nsenter", *self._enter_user(), "--"] if user else []), "unshare", "--net", *mounts])
        names = self.directory / "resolv.conf"
        names.write_text(f"nameserver {NAME_SERVER}\n")
        self.command("host", "mount", "--bind", str(names), str(Path("/etc/resolv.conf").resolve()))
        six = Path("/proc/sys/net/ipv6").exists()
        for place in ("host", "internet"):
            self._set(place, {f"net.ipv6.conf.{which}.accept_dad": "0" for which in ("all", "default") if six})
        self._set("host", {"net.ipv4.ip_forward": "1"} | ({"net.ipv6.conf.all.forwarding": "1"} if six else {}))
        peer = f"netns {self._keepers['internet'].pid}"
        self._ip("host", ["link set lo up", f"link add uplink type veth peer name wan {peer}", "link set uplink up"])
        self._ip("internet", ["link set lo up", "link set wan up", *_addresses("wan", GATEWAY, NEIGHBOUR, plus="/24")])
        self._ip("internet", [f"route add local {network} dev lo" for network in (*PUBLIC, f"{METADATA}/32")])
        self._ip("host", [*_addresses("uplink", HOST, plus="/24"), f"route add default via {GATEWAY}"])
        if six:
            self._ip("internet", _addresses("wan", GATEWAY6, NEIGHBOUR6, plus="/64 nodad"))
            self._ip("internet", [f"-6 route add local {PUBLIC6} dev lo"])
            self._ip("host", [*_addresses("uplink", HOST6, plus="/64 nodad"), f"-6 route add default via {GATEWAY6}"])

    def _set(self, place: Place, settings: dict[str, str]) -> None:
        text = "".join(f"echo {value} > /proc/sys/{name.replace('.', '/')}\n" for name, value in settings.items())
        self.command(place, "sh", "-ec", text)

    def _ip(self, place: Place, lines: Sequence[str]) -> None:
        self.command(place, "sh", "-ec", "".join(f"ip {line}\n" for line in lines))

    def end(self) -> None:
        """Kill what runs, and let go of the namespaces."""
        for service in self._started:
            service.stop()
        for process in self._keepers.values():
            process.kill()
            process.communicate()


def _addresses(device: str, *addresses: str, plus: str) -> list[str]:
    return [f"address add {address}{plus} dev {device}" for address in addresses]


def _environment() -> dict[str, str]:
    """What programs see of this one's; nothing that names its user, whom the application's is not."""
    names = ("PATH", "LANG", "HOME", "TMPDIR", "CI")
    kept = {key: value for key, value in os.environ.items() if key in names or key.startswith("NSBOX_")}
    kept["PATH"] = kept.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    return kept | {"PYTHONPATH": str(_SUPPORT), "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def little_internet() -> Iterator[Internet]:
    """One of its own, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="internet-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        internet = Internet(directory)
        try:
            internet.build()
            yield internet
        finally:
            internet.end()
