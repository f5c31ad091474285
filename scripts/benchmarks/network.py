"""Sandboxes with a way out, in network namespaces that stand for a host and an internet. As root only.

What is timed runs in the namespace of the host, in a process of its own.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import little_internet
import trio

from nsbox import AsyncSandbox
from scripts.benchmarks.measure import BLOCK, Goal, Report, Series
from scripts.benchmarks.peers import TRUE

_MOST_MS = 3.0
_LEAST_RATIO = 0.7
_SETTLE = 0.05
_ROUNDS = 9
_SECONDS = 1.0
_PORT = 9000
_SERVER = "8.8.4.4"
_SINK = f"""
import socket, threading
def read(one):
    buffer = bytearray(1 << 20)
    while one.recv_into(buffer):
        pass
with socket.create_server(({_SERVER!r}, {_PORT})) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=read, args=(server.accept()[0],), daemon=True).start()
"""
_SEND = f"""
import socket, time
data, sent = bytes(1 << 20), 0
with socket.create_connection(({_SERVER!r}, {_PORT})) as one:
    begun = time.monotonic()
    while (took := time.monotonic() - begun) < {_SECONDS}:
        sent += one.send(data)
print(sent * 8 / took / 1e9)
"""
_PEER, _PEER_GATEWAY = "192.168.99.2", "192.168.99.1"


async def _start_ms(*, network: bool) -> float:
    sandbox = AsyncSandbox(network=network, memory_mb=256)
    begun = time.perf_counter_ns()
    await sandbox.start()
    took = (time.perf_counter_ns() - begun) / 1e6
    (await sandbox.run((TRUE,))).raise_for_verdict()
    await sandbox.terminate()
    return took


async def _start(runs: int) -> dict[str, Series]:
    """In alternating blocks, as `in_turn`; that would time the end as well."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for network in found:
        await _start_ms(network=network)
    for _ in range(-(-runs // BLOCK)):
        for network, samples in found.items():
            await trio.sleep(_SETTLE)
            samples += [await _start_ms(network=network) for _ in range(BLOCK)]
    return {"none": Series(samples=found[False], unit="ms"), "egress": Series(samples=found[True], unit="ms")}


@contextlib.contextmanager
def _bare_peer() -> Iterator[list[str]]:
    """A namespace behind a pair of veth and the same translation of addresses, and the command that enters it."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        inside = ["nsenter", "--target", str(keeper.pid), "--net"]
        for command in (
            ["ip", "link", "add", "bare", "type", "veth", "peer", "name", "eth0", "netns", str(keeper.pid)],
            ["ip", "address", "add", f"{_PEER_GATEWAY}/24", "dev", "bare"],
            ["ip", "link", "set", "bare", "up"],
            [*inside, "ip", "address", "add", f"{_PEER}/24", "dev", "eth0"],
            [*inside, "ip", "link", "set", "eth0", "up"],
            [*inside, "ip", "route", "add", "default", "via", _PEER_GATEWAY],
            ["nft", "add table ip bare; add chain ip bare out { type nat hook postrouting priority srcnat; }"],
            ["nft", f"add rule ip bare out ip saddr {_PEER} masquerade"],
        ):
            subprocess.run(command, check=True)
        yield inside
    finally:
        keeper.kill()
        keeper.communicate()


async def _send_inside(sandbox: AsyncSandbox) -> float:
    return float((await sandbox.run((sys.executable, "-c", _SEND))).raise_for_verdict().stdout)


async def _send_bare(inside: list[str]) -> float:
    done = await trio.run_process([*inside, sys.executable, "-c", _SEND], capture_stdout=True)
    return float(done.stdout)


async def _throughput(_: int) -> dict[str, Series]:
    rates: dict[str, list[float]] = {"nsbox": [], "bare veth": []}
    with _bare_peer() as inside:
        async with AsyncSandbox(network=True, cpus=os.cpu_count() or 1) as sandbox:
            for _ in range(_ROUNDS):
                rates["nsbox"].append(await _send_inside(sandbox))
                rates["bare veth"].append(await _send_bare(inside))
    return {name: Series(samples=found, unit="Gbit/s") for name, found in rates.items()}


_KINDS = {"start": _start, "throughput": _throughput}
_AGAIN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from scripts.benchmarks.network import measure_here
measure_here(sys.argv[1], int(sys.argv[2]))
"""


def measure_here(kind: str, runs: int) -> None:
    """In the namespace of the host; the last line of output is what was found."""
    found = trio.run(_KINDS[kind], runs)
    print(json.dumps({name: (one.unit, one.samples) for name, one in found.items()}))


async def _measure(kind: str, runs: int) -> dict[str, Series]:
    def in_namespaces() -> str:
        with little_internet.little_internet() as net:
            net.serve(_SINK)
            return net.run(_AGAIN, kind, str(runs), seconds=600)

    said = await trio.to_thread.run_sync(in_namespaces)
    found = json.loads(said.splitlines()[-1])
    return {name: Series(samples=samples, unit=unit) for name, (unit, samples) in found.items()}


async def egress(runs: int) -> Report:
    """What a way out adds to the start of a sandbox."""
    title = "egress: the start of a sandbox that has a network, and of one that has none"
    if os.geteuid():
        return Report(title=title, series={}, goals=[], notes=["left out: not root"])
    series = await _measure("start", runs)
    added = series["egress"].median - series["none"].median
    return Report(title=title, series=series, goals=[Goal(what="added", value=added, bound=_MOST_MS, unit="ms")])


async def egress_throughput(runs: int) -> Report:
    """One TCP connection from inside to the internet."""
    title = "egress-throughput: sent by one connection, with translation of addresses"
    if os.geteuid():
        return Report(title=title, series={}, goals=[], notes=["left out: not root"])
    series = await _measure("throughput", runs)
    ratio = series["nsbox"].median / series["bare veth"].median
    goal = Goal(what="nsbox / bare veth", value=ratio, bound=_LEAST_RATIO, side="at least")
    return Report(title=title, series=series, goals=[goal])
