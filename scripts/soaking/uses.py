"""The things that are done, each with the outcome that it must have; anything else is a failure of the soak."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping

import trio

import nsbox
from nsbox import AsyncSandbox, Verdict
from nsbox._network import resolver, router  # what they load is there before memory is measured

__all__ = ["OWN", "SHARED", "Use", "WrongOutcomeError", "expect", "resolver", "router"]

Use = Callable[[AsyncSandbox, random.Random], Awaitable[None]]


class WrongOutcomeError(Exception):
    """A result that is not the one it must be."""


def expect(result: nsbox.ExecutionResult, verdict: Verdict, stdout: str | None = None) -> None:
    """Check a result.

    Raises:
        WrongOutcomeError: It is another.
    """
    if result.verdict is not verdict or (stdout is not None and result.stdout != stdout):
        raise WrongOutcomeError(f"expected {verdict.value} {stdout!r}, got {result!r}")


async def calculates(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """The output is a function of the input."""
    number = chance.randrange(10**6)
    expect(await sandbox.execute(f"print({number} * 7)"), Verdict.OK, f"{number * 7}\n")


async def runs_a_command(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """Without an interpreter."""
    word = str(chance.random())
    expect(await sandbox.run(["cat"], stdin=word), Verdict.OK, word)


async def fails(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """By its exit code."""
    code = chance.randrange(1, 256)
    result = await sandbox.shell(f"exit {code}")
    expect(result, Verdict.NONZERO_EXIT)
    if result.exit_code != code:
        raise WrongOutcomeError(f"exit {code} became {result!r}")


async def takes_too_long(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """Wall clock."""
    expect(await sandbox.shell("sleep 60", timeout=chance.uniform(0.05, 0.3)), Verdict.WALL_TIME_LIMIT)


async def takes_too_much_memory(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """More than the sandbox has, bounded."""
    megabytes = chance.randrange(80, 120)
    expect(await sandbox.execute(f"x = bytearray({megabytes} << 20)"), Verdict.MEMORY_LIMIT)


async def floods(sandbox: AsyncSandbox, _: random.Random) -> None:
    """More output than is allowed."""
    expect(await sandbox.shell("head -c 3M /dev/zero"), Verdict.OUTPUT_LIMIT)


async def daemonises(sandbox: AsyncSandbox, _: random.Random) -> None:
    """What it leaves is dead when it has ended."""
    expect(await sandbox.shell("setsid sleep 300 & (sleep 300 &) ; echo left"), Verdict.OK, "left\n")


async def streams(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """To the end, or left early."""
    early = chance.random() < 0.5
    program = "for i in range(200): print(i)" + ("\nimport time; time.sleep(60)" if early else "")
    async with sandbox.execute_stream(program) as stream:
        async for event in stream:
            if early and isinstance(event, nsbox.ExecutionOutput):
                return
        expect(stream.result, Verdict.OK, "".join(f"{i}\n" for i in range(200)))


async def is_cancelled(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """By its caller, at any moment."""
    with trio.move_on_after(chance.uniform(0, 0.05)):
        await sandbox.shell("sleep 60")


async def is_not_there(sandbox: AsyncSandbox, _: random.Random) -> None:
    """A program that cannot be started."""
    try:
        await sandbox.run(["/no/such/program"])
    except nsbox.ProgramStartError:
        return
    raise WrongOutcomeError("a program that is not there was started")


async def uses_files(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """Written outside, changed inside, read outside."""
    name, content = f"file-{chance.randrange(10**9)}", chance.randbytes(chance.randrange(100_000))
    await sandbox.write_file(name, content)
    expect(await sandbox.shell(f"cat {name} {name} > {name}.twice"), Verdict.OK)
    if await sandbox.download_file(f"{name}.twice") != content * 2:
        raise WrongOutcomeError("a file came back changed")
    await sandbox.delete_file(name)
    await sandbox.delete_file(f"{name}.twice")


async def changes_the_environment(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """For the next execution."""
    name, value = f"V{chance.randrange(10**9)}", str(chance.random())
    await sandbox.set_environment_variable(name, value)
    expect(await sandbox.shell(f"echo ${name}"), Verdict.OK, f"{value}\n")
    await sandbox.delete_environment_variable(name)


async def talks(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """On pipes or on a terminal; ended by itself or from outside."""
    pty = (24, 80) if chance.random() < 0.5 else None
    async with await sandbox.spawn(["cat"], pty=pty) as process:
        await process.stdin.send_all(b"hello\n")
        said = b""
        while b"hello" not in said:  # a terminal may hand out what it echoes in pieces
            part = await process.stdout.receive_some()
            if not part:
                raise WrongOutcomeError(f"cat does not answer, but {said!r} (pty={pty})")
            said += part
        if chance.random() < 0.5:
            if pty is None:
                await process.stdin.aclose()
            else:
                await process.stdin.send_all(b"\x04")
            expect(await process.wait(), Verdict.OK)


async def looks_at_usage(sandbox: AsyncSandbox, _: random.Random) -> None:
    """The numbers are within the limits."""
    usage = await sandbox.get_resource_usage()
    if not 0 <= usage.memory.usage <= usage.memory.limit * 1.1:
        raise WrongOutcomeError(f"{usage!r}")


async def serves(sandbox: AsyncSandbox, _: random.Random) -> None:
    """A port is exposed and asked."""
    program = (
        "printf 'HTTP/1.0 200 OK\\r\\n\\r\\nserved' | busybox nc -l -p 8000 2>/dev/null || python3 -m http.server 8000"
    )
    async with await sandbox.spawn(["/bin/sh", "-c", program]):
        exposed = await sandbox.expose_port(8000, protocol="tcp")
        host, _colon, port = exposed.url.rpartition("//")[2].rpartition(":")
        for _attempt in range(100):
            stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
            async with stream:
                try:
                    await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
                    if await stream.receive_some():
                        break
                except trio.BrokenResourceError:
                    pass
            await trio.sleep(0.05)
        else:
            raise WrongOutcomeError("the server was never reached")
        await sandbox.close_port(8000)


SHARED: Mapping[str, Use] = {
    use.__name__: use
    for use in (
        calculates, runs_a_command, fails, takes_too_long, takes_too_much_memory, floods, daemonises, streams,
        is_cancelled, is_not_there, uses_files, changes_the_environment, talks, looks_at_usage,
    )
}  # fmt: skip
"""What may be done in a sandbox that others use, too."""


async def is_suspended(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """With a program in it that goes on afterwards."""
    async with trio.open_nursery() as nursery:

        async def program() -> None:
            expect(await sandbox.shell("sleep 0.2; echo done"), Verdict.OK, "done\n")

        started = trio.Event()
        sandbox.on("execution_started", lambda _: started.set())
        nursery.start_soon(program)
        await started.wait()
        await sandbox.suspend()
        await trio.sleep(chance.uniform(0, 0.1))
        await sandbox.resume()


async def is_restarted(sandbox: AsyncSandbox, _: random.Random) -> None:
    """Its files are kept."""
    expect(await sandbox.shell("echo kept > kept"), Verdict.OK)
    await sandbox.restart()
    expect(await sandbox.shell("cat kept"), Verdict.OK, "kept\n")


async def is_reset(sandbox: AsyncSandbox, _: random.Random) -> None:
    """Its files are not."""
    expect(await sandbox.shell("echo kept > kept"), Verdict.OK)
    await sandbox.reset()
    expect(await sandbox.shell("cat kept"), Verdict.NONZERO_EXIT)


async def attacks(sandbox: AsyncSandbox, _: random.Random) -> None:
    """A call that the filter kills for: the sandbox may end with it."""
    program = "import ctypes; ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)"
    expect(await sandbox.execute(program), Verdict.SECURITY_VIOLATION)


_SERVER = """\
import socket
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as one:
            one.sendall(one.recv(100).upper())
"""
_CLIENT = """\
import socket, sys
with socket.create_connection(("server", 7000)) as one:
    one.sendall(sys.argv[1].encode())
    print(one.recv(100).decode())
"""


async def meets_another(sandbox: AsyncSandbox, chance: random.Random) -> None:
    """In a private network, by name; a partition, or the end of one of them, is in between."""
    async with nsbox.AsyncNetwork() as network, AsyncSandbox(memory_mb=64) as other:
        await network.connect(sandbox, "server")
        await network.connect(other)
        async with await sandbox.spawn(["python3", "-c", _SERVER]) as server:
            await server.stdout.receive_some()
            for _ in range(2):
                word = f"word{chance.randrange(10**9)}"
                expect(await other.execute(_CLIENT, arguments=[word]), Verdict.OK, f"{word.upper()}\n")
                if chance.random() < 0.5:
                    await network.disconnect(other)
                    await network.reconnect(other)
                else:
                    await other.restart()


_ALONE = (is_suspended, is_restarted, is_reset, attacks, serves, meets_another)
OWN: Mapping[str, Use] = {**SHARED, **{use.__name__: use for use in _ALONE}}
"""What may be done in a sandbox of one's own."""
