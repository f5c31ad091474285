"""What tests of networks stand on, tests/support/little_internet.py: here without a sandbox in it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from little_internet import GATEWAY, HOST, METADATA, NEIGHBOUR, WEB, Internet, Service, little_internet

ASK = """
import errno, json, os, socket, sys
def ask(address, port):
    try:
        with socket.create_connection((address, int(port)), timeout=5) as one:
            one.sendall(b'GET /x HTTP/1.0\\r\\n\\r\\n')
            return json.loads(one.makefile('rb').read().partition(b'\\r\\n\\r\\n')[2])
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc))
print(json.dumps([ask(*address.rsplit('@')) for address in sys.argv[1:]]))
"""


@pytest.fixture(name="internet")
def _internet() -> Iterator[Internet]:
    with little_internet() as internet:
        yield internet


def test_the_host_reaches_the_internet_and_that_reaches_nothing_behind_the_host(internet: Internet) -> None:
    """Any public address, each port that is served; from the other side neither the host's routes nor this machine."""
    internet.serve(WEB, "0.0.0.0", "80", "8080")  # noqa: S104  # of a namespace of its own
    found = json.loads(
        internet.run(ASK, "8.8.4.10@80", "9.9.9.9@8080", f"{METADATA}@80", f"{NEIGHBOUR}@80", "8.8.4.10@81")
    )
    assert [one["server"] for one in found[:4]] == ["8.8.4.10", "9.9.9.9", METADATA, NEIGHBOUR]
    assert {one["client"] for one in found[:4]} == {HOST}
    assert found[4] == "ECONNREFUSED"
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        asked = ("10.192.0.2@80", f"{HOST}@{port}", f"127.0.0.1@{port}")
        command = [sys.executable, "-c", ASK, *asked]
        assert json.loads(internet.command("internet", *command)) == ["ENETUNREACH", "ECONNREFUSED", "ECONNREFUSED"]
        assert json.loads(internet.run(ASK, *asked))[1:] == ["ECONNREFUSED", "ECONNREFUSED"]


@pytest.mark.needs_ipv6
def test_the_host_reaches_the_internet_by_ipv6(internet: Internet) -> None:
    """The same, with addresses that a host has by IPv6."""
    internet.serve(WEB, "::", "80")
    (found,) = json.loads(internet.run(ASK, "2606:77::10@80"))
    assert (found["client"], found["server"]) == ("2a01:77::2", "2606:77::10")


def test_the_application_is_who_the_tests_are(internet: Internet) -> None:
    """Root with all rights, or an ordinary user without one, who cannot change the host's network; a sandbox runs."""
    program = """
import os, nsbox
capabilities = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff'))
print(os.geteuid() == 0, int(capabilities, 16) == 0, open('/etc/resolv.conf').read().strip())
print(nsbox.execute('print(6 * 7)').stdout.strip())
"""
    as_root = os.geteuid() == 0
    assert internet.run(program).splitlines() == [f"{as_root} {not as_root} nameserver 8.8.4.53", "42"]
    change = ["ip", "link", "set", "uplink", "mtu", "1400"]
    changes = f"import subprocess; print(subprocess.run({change}, stderr=subprocess.DEVNULL).returncode == 0)"
    assert internet.run(changes).strip() == str(as_root)
    assert Path("/etc/resolv.conf").read_text() != "nameserver 8.8.4.53\n"


def test_what_a_program_says_and_how_it_ends_is_known(internet: Internet) -> None:
    """A failure with its words, one that takes too long, one that is stopped, one that is not ready."""
    with pytest.raises(subprocess.CalledProcessError) as raised:
        internet.run("import sys; print('out'); sys.exit('words')")
    assert "words" in "".join(raised.value.__notes__)
    with pytest.raises(subprocess.TimeoutExpired):
        internet.run("import time; time.sleep(100)", seconds=0.5)
    service = internet.serve(
        "import sys, time; print('ready'); print(sys.argv[1], flush=True); time.sleep(100)", "word"
    )
    assert service.line() == "word"
    assert Path(f"/proc/{service.pid}").exists()
    service.stop()
    assert not Path(f"/proc/{service.pid}").exists()
    with pytest.raises(AssertionError, match="it is not ready"):
        internet.serve("print('something else', flush=True)")
    with pytest.raises(AssertionError, match="it has ended with 3"):
        internet.serve("raise SystemExit(3)")


def test_nothing_of_it_outlives_its_end() -> None:
    """Neither what was started, nor the namespaces, nor their files; after a test that failed, too."""
    services: list[Service] = []

    def fail() -> None:
        with little_internet() as internet:
            services.extend(internet.serve(WEB, address, "80") for address in (GATEWAY, "8.8.4.10"))
            services.append(internet.serve("print('ready', flush=True)\nwhile True: pass", place="host"))
            raise RuntimeError(str(internet.directory))

    with pytest.raises(RuntimeError) as raised:
        fail()
    assert not Path(str(raised.value)).exists()
    assert not any(Path(f"/proc/{service.pid}").exists() for service in services)
