"""What the launcher opens in the router's network and in those of sandboxes: it is there, and nobody inside has it."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from leaks import open_files
from netlink import add_veth, devices, is_there, set_up
from tracing import failing
from watching import parts_of_nsbox, until

import nsbox
from nsbox import AsyncSandbox
from nsbox._network.doors import CellDoor, RouterDoor
from nsbox._plan.template import SPARES
from nsbox._supervisor.cell import Cell
from nsbox._supervisor.supervisor import current_supervisor

pytestmark = pytest.mark.lane_unified

SECONDS = 20.0
ATTACK = """
import errno, fcntl, socket, struct
def try_to(name, attack):
    try:
        attack()
        print(name, 'done')
    except OSError as exc:
        print(name, errno.errorcode[exc.errno])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

def ask(kind, flags, body):
    routes.send(struct.pack('=IHHII', 16 + len(body), kind, flags, 1, 0) + body)
    code = -struct.unpack_from('=i', routes.recv(65536), 16)[0]
    if code:
        raise OSError(code, 'refused')

number = socket.if_nametoindex('eth0')
try_to('down', lambda: fcntl.ioctl(udp, 0x8914, struct.pack('16sH14x', b'eth0', 0)))
try_to('address', lambda: fcntl.ioctl(udp, 0x8916, struct.pack('16sHH4s8x', b'eth0', 2, 0, bytes([192, 0, 2, 9]))))
try_to('link', lambda: ask(16, 5, struct.pack('=BxHiII', 0, 0, number, 0, 1)))
try_to('delete', lambda: ask(17, 5, struct.pack('=BxHiII', 0, 0, number, 0, 0)))
try_to('qdisc', lambda: ask(37, 5, struct.pack('=BxHiIII', 0, 0, number, 0, 0xFFFFFFFF, 0)))
try_to('route', lambda: ask(24, 0x405, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 254, 4, 253, 1, 0)
                            + struct.pack('=HHI', 8, 4, number)))
"""
NAMES = ("down", "address", "link", "delete", "qdisc", "route")


def cell_of(sandbox: AsyncSandbox) -> Cell:
    """As the supervisor holds it."""
    return sandbox._core.living()[1]


def namespace_of(door: CellDoor | RouterDoor) -> str:
    """Which one it is: "net:[4026531840]", namespaces(7)."""
    return os.readlink(f"/proc/self/fd/{door.namespace}")


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Until something has come true, while the run goes on."""
    await trio.to_thread.run_sync(until, condition, what, SECONDS)


async def namespace_in(sandbox: AsyncSandbox) -> str:
    """As a program there sees it."""
    return (await sandbox.run(["readlink", "/proc/self/ns/net"])).stdout.strip()


async def devices_in(sandbox: AsyncSandbox) -> list[str]:
    """As a program there sees them."""
    lines = (await sandbox.run(["cat", "/proc/net/dev"])).stdout.splitlines()[2:]
    return sorted(line.partition(":")[0].strip() for line in lines)


@contextmanager
def opened(*doors: CellDoor | RouterDoor) -> Iterator[None]:
    """Closes them."""
    try:
        yield
    finally:
        for door in doors:
            door.close()


def as_its_owner(door: RouterDoor, *namespaces: str) -> list[str]:
    """The command that runs one with every capability over the router: without root, in its user namespace."""
    entered = ["nsenter", *namespaces]
    if os.geteuid():  # who has made it has them there, user_namespaces(7)
        entered += [f"--user=/proc/self/fd/{door.user_namespace}", "--preserve-credentials"]
    return entered if len(entered) > 1 else []


def command_in(door: RouterDoor, *command: str) -> str:
    """What a command says that runs in the router's network."""
    entered = as_its_owner(door, f"--net=/proc/self/fd/{door.namespace}")
    fds = (door.namespace, door.user_namespace)
    return subprocess.run(
        [*entered, *command], pass_fds=fds, check=True, capture_output=True, text=True, timeout=SECONDS
    ).stdout


def expected_settings() -> dict[str, str]:
    """Of the router: files below /proc/sys/net, those that this kernel has."""
    settings = {"ipv4/ip_forward": "1", "ipv4/ipfrag_time": "2"}
    if Path("/proc/sys/net/ipv6").exists():
        settings |= {"ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0"}
    if Path("/proc/sys/net/netfilter/nf_conntrack_frag6_timeout").exists():
        settings["netfilter/nf_conntrack_frag6_timeout"] = "2"
    return settings


def test_the_router_is_one_namespace_that_forwards() -> None:
    """Not the host's; the same each time; each socket of it is in it; lo is up and packets are passed on."""

    async def main() -> None:
        supervisor = await current_supervisor()
        first, second = await supervisor.open_router(), await supervisor.open_router()
        with opened(first, second):
            assert namespace_of(first) == namespace_of(second) != os.readlink("/proc/self/ns/net")
            assert first.routes.fileno() != second.routes.fileno()
            assert devices(first.routes) == {"lo": True}
            second.dns_udp.bind(("127.0.0.1", 53))
            second.dns_tcp.bind(("127.0.0.1", 53))
            for bound in (first.dns_udp, first.dns_tcp):
                with pytest.raises(
                    OSError, match="in use"
                ):  # by the other's, which the host's network knows nothing of
                    bound.bind(("127.0.0.1", 53))
            settings = expected_settings()
            said = command_in(first, "cat", *[f"/proc/sys/net/{name}" for name in settings])
            assert said.split() == [*settings.values()]
            assert command_in(first, "readlink", "/proc/self/ns/net").strip() == namespace_of(first)

    trio.run(main)


def test_what_the_router_makes_in_a_sandbox_is_there_and_not_the_sandbox_s_to_change() -> None:
    """A device of the router's has its end inside; root there gets EPERM for what the door may do."""

    async def main() -> None:
        supervisor = await current_supervisor()
        async with AsyncSandbox(timeout=SECONDS) as sandbox:
            router, door = await supervisor.open_router(), await cell_of(sandbox).open_door()
            with opened(router, door):
                assert namespace_of(door) == await namespace_in(sandbox) != namespace_of(router)
                add_veth(router.routes, "v1", "eth0", door.namespace)
                assert await devices_in(sandbox) == ["eth0", "lo"]
                assert devices(router.routes) == {"lo": True, "v1": False}
                for up in (True, False, True):
                    set_up(door.routes, "eth0", up=up)
                    assert devices(door.routes) == {"lo": True, "eth0": up}
                for user in (None, "root") if os.geteuid() == 0 else (None,):  # there is one uid for all
                    said = await sandbox.execute(ATTACK, user=user)
                    assert said.stdout.splitlines() == [f"{name} EPERM" for name in NAMES], said.stderr
                assert devices(door.routes) == {"lo": True, "eth0": True}

    trio.run(main)


@pytest.mark.needs_cgroups
def test_a_suspended_sandbox_is_opened_like_any_other() -> None:
    """Its PID 1 is frozen, and nothing is asked of it."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            before = await namespace_in(sandbox)
            await sandbox.suspend()
            door = await cell_of(sandbox).open_door()
            with opened(door):
                assert namespace_of(door) == before
                assert devices(door.routes) == {"lo": True}
            await sandbox.resume()

    trio.run(main)


def test_each_door_of_a_sandbox_leads_to_the_network_that_it_has_then() -> None:
    """Several at the same time, and another namespace after a restart."""

    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            doors: list[CellDoor] = []

            async def open_one() -> None:
                doors.append(await cell_of(sandbox).open_door())

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(open_one)
            with opened(*doors):
                assert {namespace_of(door) for door in doors} == {await namespace_in(sandbox)}
                assert len({door.namespace for door in doors}) == 10
                await sandbox.restart()
                after = await cell_of(sandbox).open_door()
                with opened(after):
                    assert namespace_of(after) == await namespace_in(sandbox) != namespace_of(doors[0])

    trio.run(main)


def test_the_device_goes_with_the_sandbox() -> None:
    """Nobody deletes it: the kernel does, with the namespace of its other end."""

    async def main() -> None:
        supervisor = await current_supervisor()
        router = await supervisor.open_router()
        with opened(router):
            async with AsyncSandbox() as sandbox:
                door = await cell_of(sandbox).open_door()
                with opened(door):
                    add_veth(router.routes, "v1", "eth0", door.namespace)
                assert is_there(router.routes, "v1")
            await eventually(lambda: not is_there(router.routes, "v1"), "v1 is gone")

    trio.run(main)


@contextmanager
def another_network(door: RouterDoor) -> Iterator[int]:
    """The pid of a process in a network namespace of its own, which lives on without the launcher."""
    command = [*as_its_owner(door), "unshare", "--net", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(door.user_namespace,)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.read(1) == b"\n"
            yield process.pid
        finally:
            process.kill()


def has_device(pid: int, name: str) -> bool:
    """Whether there is one where a process is, proc_pid_net(5)."""
    return f"{name}:" in Path(f"/proc/{pid}/net/dev").read_text()


def test_the_router_is_gone_with_the_launcher_and_the_last_descriptor() -> None:
    """Told by a device whose other end is elsewhere, which vanishes with the router; not before, and with it."""

    async def main() -> None:
        supervisor = await current_supervisor()
        router = await supervisor.open_router()
        with another_network(router) as pid:
            with opened(router):
                elsewhere = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    add_veth(router.routes, "v1", "other", elsewhere)
                finally:
                    os.close(elsewhere)
                os.kill(parts_of_nsbox()[0], signal.SIGKILL)
                await eventually(lambda: supervisor.channel.broken, "the launcher's end is known")
                assert has_device(pid, "other")
            await eventually(lambda: not has_device(pid, "other"), "the router is gone")
        with pytest.raises(nsbox.NetworkError):
            await supervisor.open_router()

    trio.run(main)


async def cancel_while_it_is_asked(open_one: Callable[[], Awaitable[object]]) -> None:
    """Cancelled when the question is on its way, and the launcher has not read it."""
    before = open_files()
    launcher = parts_of_nsbox()[0]
    async with trio.open_nursery() as nursery:
        os.kill(launcher, signal.SIGSTOP)
        nursery.start_soon(open_one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        os.kill(launcher, signal.SIGCONT)
    assert nursery.cancel_scope.cancelled_caught
    assert open_files() == before


def test_a_door_that_is_not_waited_for_is_closed() -> None:
    """Cancelled while it is asked for, of the router and of a sandbox, which both give another one afterwards."""

    async def main() -> None:
        supervisor = await current_supervisor()
        async with AsyncSandbox() as sandbox:
            for open_one in (supervisor.open_router, cell_of(sandbox).open_door):
                await cancel_while_it_is_asked(open_one)
                (await open_one()).close()

    trio.run(main)


def test_the_door_of_a_dead_sandbox_is_a_network_error() -> None:
    """Of one that is dead already, and of one that dies meanwhile; nobody waits for ever."""

    async def main() -> None:
        async with AsyncSandbox(recovery=nsbox.RecoveryPolicy(auto_recover=False)) as sandbox:
            cell = cell_of(sandbox)
            reason = nsbox.NetworkError("given up by the test")
            cell.give_up(reason)
            with trio.fail_after(SECONDS):
                while cell.lost is None:
                    with contextlib.suppress(
                        nsbox.NetworkError, nsbox.SetupError
                    ):  # the kernel knows, the launcher not yet
                        (await cell.open_door()).close()
                with pytest.raises(nsbox.NetworkError, match="given up by the test"):
                    await cell.open_door()

    trio.run(main)


def test_the_sockets_are_closed_at_exec() -> None:
    """What the application starts gets none of them."""

    async def main() -> None:
        supervisor = await current_supervisor()
        router = await supervisor.open_router()
        with opened(router):
            held = [router.namespace, router.user_namespace]
            held += [one.fileno() for one in (router.routes, router.filters, router.dns_udp, router.dns_tcp)]
            assert not any(os.get_inheritable(fd) for fd in held)
            assert router.filters.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 12  # NETLINK_NETFILTER

    trio.run(main)


def held_by(launcher: int) -> int:
    """How many descriptors it has once it sleeps."""
    until(lambda: Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()[0] == "S", "it waits")
    return len(os.listdir(f"/proc/{launcher}/fd"))


@pytest.mark.needs_root
@pytest.mark.needs_tool("strace")
@pytest.mark.parametrize(
    ("call", "fault", "kind", "match"),
    [
        ("unshare", "error=ENOSPC:when=1", nsbox.SetupError, "No space left.*entering it"),
        ("ioctl", "error=EPERM:when=1", nsbox.SetupError, "not permitted.*bringing up lo"),
        ("write", "error=EROFS:when=1", nsbox.SetupError, r"Read-only.*net\.ipv4\.ip_forward"),
        pytest.param(
            *("write", "error=EROFS:when=2", nsbox.SetupError, r"Read-only.*net\.ipv6\.conf\.all\.forwarding"),
            marks=pytest.mark.needs_ipv6,
        ),
        ("socket", "error=EMFILE:when=2", nsbox.SetupError, "Too many open files.*a rtnetlink socket"),
        ("socket", "error=EPROTONOSUPPORT:when=3", nsbox.UnsupportedHostError, "nfnetlink"),
        ("socket", "error=ENOBUFS:when=5", nsbox.SetupError, "No buffer space.*a TCP socket"),
    ],
)
def test_a_router_that_cannot_be_made_is_an_error_and_the_next_one_is_made(
    call: str, fault: str, kind: type[nsbox.SandboxError], match: str
) -> None:
    """The step is named, the launcher lives on, and holds nothing open but the router that is there."""

    async def main() -> None:
        supervisor = await current_supervisor()
        launcher = parts_of_nsbox()[0]
        held = held_by(launcher)
        with failing(launcher, call, fault), pytest.raises(kind, match=match):
            await supervisor.open_router()
        assert held_by(launcher) - held in (0, 1)
        router = await supervisor.open_router()
        with opened(router):
            assert devices(router.routes) == {"lo": True}
        assert held_by(launcher) == held + 1

    trio.run(main)


@pytest.mark.needs_root
@pytest.mark.needs_tool("strace")
def test_a_sandbox_that_cannot_be_entered_is_an_error_and_a_launcher_that_cannot_leave_it_ends() -> None:
    """It never goes on in a network that is not the router's: the next sandbox has another launcher."""

    async def main() -> None:
        async with AsyncSandbox(warm=False, recovery=nsbox.RecoveryPolicy(auto_recover=False)) as sandbox:
            launcher = parts_of_nsbox()[0]
            (await cell_of(sandbox).open_door()).close()
            ahead = 2 * (1 + SPARES)  # PID 1 and a parked process of each: making them calls setns(2), too
            until(lambda: len(parts_of_nsbox()) == 1 + ahead, "all that is made ahead is there")
            held = held_by(launcher)
            for call, match in (("setns", "Operation not permitted"), ("socket", "Operation not permitted")):
                with failing(launcher, call, "error=EPERM:when=1"), pytest.raises(nsbox.SetupError, match=match):
                    await cell_of(sandbox).open_door()
                assert held_by(launcher) == held
            router = await (await current_supervisor()).open_router()
            with opened(router):
                assert os.readlink(f"/proc/{launcher}/ns/net") == namespace_of(router)
            with failing(launcher, "setns", "error=EPERM:when=2"), pytest.raises(nsbox.NetworkError):
                await cell_of(sandbox).open_door()
        async with AsyncSandbox(warm=False) as sandbox:
            assert (await sandbox.run(["echo", "on"])).stdout == "on\n"

    trio.run(main)
