"""What hostile cells do to their context's channel harms that context, and nothing else."""

import os
import resource
import threading
from collections.abc import Iterator

import psutil
import pytest
from watching import programs, until

import nsbox
from nsbox import Verdict

CHANNEL = """
import fcntl, os, socket, stat, struct
def channel():
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return socket.socket(fileno=os.dup(fd))
        except OSError:
            pass
c = channel()
def frame(body):
    return struct.pack("<I", len(body)) + body
"""


@pytest.fixture
def sandbox() -> Iterator[nsbox.Sandbox]:
    """One for a test."""
    with nsbox.Sandbox(timeout=20) as made:
        yield made


@pytest.mark.lane_unified
@pytest.mark.parametrize(
    "attack",
    [
        "c.sendall(b'\\xff' * 8)",
        "c.sendall(frame(b'\\xc1'))",
        "c.sendall(frame(b'\\x91' * 100_000))",
        "c.sendall(frame(b'\\xdc\\x01\\x00' + b'\\x90' * 1_000_000))",
        "c.sendall(struct.pack('<I', 1 << 31))",
        "c.sendall(frame(b'\\x93\\xa4done\\x05\\x00'))",  # of another cell
        "c.sendall(frame(b'\\x91\\xa5ready'))",
        "c.sendall(frame(b'\\x91\\xa6forked'))",
        "c.shutdown(socket.SHUT_RDWR)",
    ],
)
def test_a_forged_frame_ends_its_context_only(sandbox: nsbox.Sandbox, attack: str) -> None:
    """G20: The cell has failed with BrokenContext; the program is dead, another context and the sandbox live."""
    with sandbox.create_context() as other, sandbox.create_context() as context:
        assert other.execute("x = 1").ok
        assert context.execute(f"{CHANNEL}\nassert c is not None").ok  # the control: it can be found
        result = context.execute(f"{attack}\nimport time\ntime.sleep(60)")
        assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 1)
        assert result.error is not None
        assert result.error.name == "BrokenContext"
        assert result.evidence["context_alive"] is False
        with pytest.raises(nsbox.InvalidStateError):
            context.execute("1")
        assert other.execute("x").ok
        assert sandbox.execute("print(1)").ok
        context.restart()
        assert context.execute("1").ok


IN_BASH = r"""
for file in /proc/self/fd/*; do
    [[ -S $file ]] && printf '{}' >&"${{file##*/}}"
done
sleep 60
"""
IN_JAVASCRIPT = r"""
const fs = require("fs");
for (const name of fs.readdirSync("/proc/self/fd")) {{
    let link = "";
    try {{ link = fs.readlinkSync("/proc/self/fd/" + name); }} catch {{ }}
    if (link.startsWith("socket:")) fs.writeSync(Number(name), Buffer.from("{}", "latin1"));
}}
while (true) {{ }}
"""


@pytest.mark.parametrize("language", ["bash", pytest.param("javascript", marks=pytest.mark.needs_tool("node"))])
@pytest.mark.parametrize(
    "frame", [r"\xff\xff\xff\xff\xff", r"\x01\x00\x00\x00\xc1", r"\x08\x00\x00\x00\x93\xa4\x64\x6f\x6e\x65\x05\x00"]
)
def test_a_forged_frame_ends_its_context_only_in_other_languages_too(
    sandbox: nsbox.Sandbox, language: str, frame: str
) -> None:
    """G20: bash and Node hold the same channel: too long a frame, none, and one of another cell are the end of it."""
    attack = {"bash": IN_BASH, "javascript": IN_JAVASCRIPT}[language].format(frame)
    with sandbox.create_context(language) as other, sandbox.create_context(language) as context:
        result = context.execute(attack)
        assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 1)
        assert result.error is not None
        assert result.error.name == "BrokenContext"
        assert other.execute("echo alive" if language == "bash" else "1").ok


def test_a_forged_end_does_not_outlive_its_cell(sandbox: nsbox.Sandbox) -> None:
    """G20: It says so about its own cell, as it may; the rest of the cell is never taken for the next one's."""
    forge = """
import gc, time
agent = next(one for one in gc.get_objects() if type(one).__name__ == "Agent")
agent.channel.sendall(frame(b"\\x93\\xa4done\\xce" + struct.pack(">I", agent.cell) + b"\\x00"))
time.sleep(0.3)
"""
    with sandbox.create_context() as context:
        assert context.execute(CHANNEL).ok
        assert context.execute(forge).ok  # by its own word
        after = context.execute("5")
        assert not after.ok  # what the agent itself says then is of no cell that anybody waits for
        assert after.evidence["context_alive"] is False


def test_a_flood_of_frames_costs_bounded_memory(sandbox: nsbox.Sandbox) -> None:
    """G21: A gibibyte of outputs: what is kept is the output limit, and what is in flight one frame."""
    flood = """
import gc
agent = next(one for one in gc.get_objects() if type(one).__name__ == "Agent")
body = b"\\xdc\\x00\\x05\\xa6output\\xce" + struct.pack(">I", agent.cell) + b"\\xc2\\xaatext/plain\\xdb"
body += struct.pack(">I", 4 << 20) + b"x" * (4 << 20)
import threading
def swallow():
    while c.recv(1 << 16): pass
threading.Thread(target=swallow, daemon=True).start()
for _ in range(256):
    c.sendall(frame(body))
"""
    with sandbox.create_context() as context:
        assert context.execute(CHANNEL).ok
        assert context.execute("1").ok
        before = psutil.Process().memory_info().rss
        result = context.execute(flood)
        assert result.verdict is Verdict.OUTPUT_LIMIT
        assert sum(len(output.text or "") for output in result.outputs) <= 16 << 20
        assert psutil.Process().memory_info().rss - before < 128 << 20


def test_limits_hold_whatever_is_said(sandbox: nsbox.Sandbox) -> None:
    """R20: A program that neither answers nor heeds anything is dead soon after its limit, with its children."""
    deaf = """
import os, signal, subprocess, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
for _ in range(3):
    subprocess.Popen(["sleep", "61"], start_new_session=True)
while True: pass
"""
    with sandbox.create_context() as context:
        result = context.execute(deaf, timeout=0.5)
        assert result.verdict is Verdict.WALL_TIME_LIMIT
        assert result.evidence["context_alive"] is False
        assert "sleep 61" not in programs().values()


@pytest.mark.needs_cgroups
def test_what_a_cell_leaves_running_is_held_to_the_contexts_limits() -> None:
    """R20: It lives on with the context and ends with it; memory and processes are limited all the while."""
    with nsbox.Sandbox(processes=16) as small, small.create_context() as context:
        assert context.execute("import subprocess\np = subprocess.Popen(['sleep', '62'])").ok
        assert context.execute("p.poll() is None").outputs[0].text == "True"
        bomb = (
            "import os\nfor _ in range(100):\n    if not os.fork():\n        import time; time.sleep(60); os._exit(0)"
        )
        refused = context.execute(bomb)
        assert refused.verdict is Verdict.PROCESS_LIMIT
        context.close()
        until(lambda: not programs(), "everything has ended")


def test_a_violation_in_a_cell_kills_its_context(sandbox: nsbox.Sandbox) -> None:
    """K30: SECURITY_VIOLATION with the call; the caller never got an answer."""
    with sandbox.create_context() as context:
        assert context.execute("import ctypes; libc = ctypes.CDLL(None)").ok
        result = context.execute("libc.syscall(321, 0, 0, 0)\nprint('alive')")  # bpf
        assert (result.verdict, result.stdout) == (Verdict.SECURITY_VIOLATION, "")
        assert result.evidence["syscall"] == "bpf"
        assert result.evidence["context_alive"] is False


def test_a_context_holds_nothing_of_the_applications(sandbox: nsbox.Sandbox) -> None:
    """G22: Its three descriptors, and its channel, which is the only socket."""
    look = """
import os
for number in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
"""
    sandbox.write_file("/workspace/IPython.py", "raise ImportError('hidden')")  # it has descriptors of its own
    with sandbox.create_context("bash"), sandbox.create_context() as context:
        listed = context.execute(look)
        assert listed.ok
        kinds = sorted(line.partition(":")[0] for line in listed.stdout.split())
        assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


def test_nothing_is_left_when_contexts_come_and_go(sandbox: nsbox.Sandbox) -> None:
    """L20: Neither descriptors, processes nor threads, whatever way they end."""
    context = sandbox.create_context("bash")
    context.close()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for how in ("close", "exit", "kill", "restart"):
        for _ in range(3):
            context = sandbox.create_context("bash")
            if how == "exit":
                context.execute("exit 3")
            elif how == "kill":
                context.execute("kill -KILL $$")
            elif how == "restart":
                context.restart()
            context.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    assert not programs()


def test_no_descriptors_left_is_a_clear_error(sandbox: nsbox.Sandbox) -> None:
    """L20: SetupError, nothing half made; it works again when there are some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = sandbox.create_context("bash")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(nsbox.SetupError):
            sandbox.create_context("bash")
        with pytest.raises(nsbox.SetupError):
            context.execute("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert context.execute("true").ok
    sandbox.create_context("bash").close()
