"""What goes in and comes out: complete, bounded, whatever the program does with it."""

import os
import socket
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from watching import until

import nsbox
from nsbox import Verdict
from nsbox._supervisor.pump import _Nowhere

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]
MIB = 1 << 20


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(timeout=20) as sandbox:
        yield sandbox


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 5 * MIB])
def test_output_is_complete(sandbox: nsbox.Sandbox, size: int) -> None:
    """Of both streams, whatever fits into a pipe or does not, also what was written right before the end."""
    code = f"""
import os, threading
def write(fd, byte): open(fd, 'wb', buffering=0, closefd=False).write(byte * {size})
thread = threading.Thread(target=write, args=(1, b'o'))
thread.start()
write(2, b'e')
thread.join()
os._exit(0)
"""
    result = sandbox.execute(code)
    assert (result.verdict, result.truncated) == (Verdict.OK, False)
    assert result.stdout_bytes == b"o" * size
    assert result.stderr_bytes == b"e" * size


@pytest.mark.lane_unified
def test_the_output_limit_is_exact() -> None:
    """Exactly as much is OK; one byte more ends the program, and what was within the limit is kept."""
    config = nsbox.SandboxConfig(enforcement=nsbox.EnforcementPolicy(max_output_mb=1, max_execution_seconds=20))
    with nsbox.Sandbox(config) as sandbox:
        exact = sandbox.shell(f"head -c {MIB // 2} /dev/zero; head -c {MIB // 2} /dev/zero >&2")
        assert (exact.verdict, exact.truncated) == (Verdict.OK, False)
        assert len(exact.stdout_bytes) + len(exact.stderr_bytes) == MIB
        more = sandbox.shell(f"head -c {MIB // 2} /dev/zero; head -c {MIB // 2 + 1} /dev/zero >&2; exit 0")
        assert (more.verdict, more.truncated, more.evidence["bytes_dropped"]) == (Verdict.OUTPUT_LIMIT, True, 1)
        assert len(more.stdout_bytes) + len(more.stderr_bytes) == MIB
        assert more.evidence["limit"] == 1
        flood = sandbox.run(["cat", "/dev/zero"])
        assert (flood.verdict, flood.signal, len(flood.stdout_bytes)) == (Verdict.OUTPUT_LIMIT, 9, MIB)
        ignoring = sandbox.shell("trap '' PIPE; while :; do head -c 100000 /dev/zero; done; exit 0")
        assert ignoring.verdict is Verdict.OUTPUT_LIMIT


@pytest.mark.lane_unified
def test_output_that_nobody_wants_counts_like_any_other() -> None:
    """It is thrown away unread, to the limit and a byte beyond; who begins to listen hears what comes then."""
    policy = nsbox.EnforcementPolicy(max_output_mb=4, max_execution_seconds=20)
    with nsbox.Sandbox(enforcement=policy) as sandbox:
        exact = sandbox.shell(f"head -c {2 * MIB} /dev/zero; head -c {2 * MIB} /dev/zero >&2", capture_output=False)
        assert (exact.verdict, exact.truncated, exact.stdout_bytes) == (Verdict.OK, False, b"")
        more = sandbox.shell(f"head -c {4 * MIB} /dev/zero; printf x >&2", capture_output=False)
        assert (more.verdict, more.evidence["bytes_dropped"]) == (Verdict.OUTPUT_LIMIT, 1)
        assert sandbox.run(["cat", "/dev/zero"], capture_output=False).verdict is Verdict.OUTPUT_LIMIT
        heard: list[str] = []
        last = threading.Event()

        def hear(event: nsbox.ExecutionOutput) -> None:
            heard.append(event.content)
            if "said" in event.content:
                last.set()

        script = f"head -c {MIB} /dev/zero; while [ ! -e go ]; do sleep 0.01; done; echo said"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(sandbox.shell, script, capture_output=False)
            until(lambda: sandbox.status is nsbox.SandboxStatus.BUSY, "the program is on its way")
            sandbox.on(nsbox.ExecutionOutput, hear)
            sandbox.write_file("go", b"")
            assert running.result().verdict is Verdict.OK
        assert last.wait(10)
        assert "".join(heard).endswith("said\n")


def test_what_cannot_be_moved_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """splice(2) moves what is in a pipe, and nothing else."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    nowhere = _Nowhere()
    try:
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            nowhere.take(reader)
        os.write(writer, b"x" * 5000)
        assert nowhere.take(reader) == 5000
        os.close(writer)
        assert nowhere.take(reader) == 0
        theirs.send(b"x")
        assert nowhere.take(ours.fileno()) is None
        assert nowhere.take(reader) is None
        monkeypatch.setattr(os, "devnull", "/nonexistent/null")
        assert _Nowhere().take(reader) is None
    finally:
        nowhere.close()
        os.close(reader)
        ours.close()
        theirs.close()


def test_bytes_that_are_no_text_come_out_as_they_are(sandbox: nsbox.Sandbox) -> None:
    """NUL, invalid UTF-8, escape sequences: exact in bytes, replaced in text."""
    result = sandbox.run(["printf", r"a\000\377\033[31m\303("])
    assert result.stdout_bytes == b"a\0\xff\x1b[31m\xc3("
    assert result.stdout == "a\0\ufffd\x1b[31m\ufffd("
    assert result.to_dict()["stdout_base64"]


def test_fifty_mib_of_stdin_are_read_to_the_end(sandbox: nsbox.Sandbox) -> None:
    """By a program that answers meanwhile, without a deadlock (L04)."""
    data = bytes(range(256)) * (50 * MIB // 256)
    code = """
import sys, zlib
n = c = 0
while b := sys.stdin.buffer.read(1 << 16):
    n += len(b)
    c = zlib.crc32(b, c)
print(n, c)
"""
    assert sandbox.execute(code, stdin=data).stdout == f"{len(data)} {zlib.crc32(data)}\n"


@pytest.mark.parametrize(
    "command", ["tee /dev/stderr", "cat /dev/stdin | tee /proc/self/fd/2", "cat > /dev/stdout; cat /dev/stdin"]
)
def test_the_streams_have_names(sandbox: nsbox.Sandbox, command: str) -> None:
    """Programs open /dev/stdin, /dev/stdout and /dev/stderr as they open files."""
    result = sandbox.shell(command, stdin=b"data" * 1000)
    assert (result.verdict, result.stdout_bytes) == (Verdict.OK, b"data" * 1000), result.stderr
    assert result.stderr_bytes in (b"data" * 1000, b"")


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("exit 0", Verdict.OK),
        ("exec <&-; sleep 0.05", Verdict.OK),
        ("head -c 10 >/dev/null; sleep 0.05", Verdict.OK),
        ("kill -SEGV $$", Verdict.SIGNALED),
        ("exec sleep 30", Verdict.WALL_TIME_LIMIT),
    ],
)
def test_stdin_that_nobody_reads_stops_nothing(sandbox: nsbox.Sandbox, command: str, verdict: Verdict) -> None:
    """50 MiB, of which nothing or little is read."""
    timeout = 0.2 if verdict is Verdict.WALL_TIME_LIMIT else None
    assert sandbox.shell(command, stdin=bytes(50 * MIB), timeout=timeout).verdict is verdict


def test_one_mib_of_arguments_arrives(sandbox: nsbox.Sandbox) -> None:
    """In many of them, up to the kernel's own limit of 128 KiB each (execve(2), MAX_ARG_STRLEN)."""
    arguments = [chr(97 + index) * 100_000 for index in range(10)]
    result = sandbox.execute("import sys; print([len(a) for a in sys.argv[1:]], sys.argv[10][:3])", arguments=arguments)
    assert result.stdout == f"{[100_000] * 10} jjj\n"
    assert sandbox.run(["printf", "%s", *arguments]).stdout == "".join(arguments)
    small = [str(index) for index in range(100_000)]
    assert sandbox.run(["printf", "%s\n"], arguments=small).stdout.split() == small


@pytest.mark.parametrize("arguments", [["x" * 131_072], ["x" * 100_000] * 200])
def test_too_many_arguments_are_a_failed_start(sandbox: nsbox.Sandbox, arguments: list[str]) -> None:
    """E2BIG, as execve says; the sandbox stays usable."""
    with pytest.raises(nsbox.ProgramStartError) as raised:
        sandbox.run(["true", *arguments])
    assert raised.value.errno == 7
    assert sandbox.shell("true").ok


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda sandbox: sandbox.run(["echo", "a\0b"]), r"argv\[1\]"),
        (lambda sandbox: sandbox.run(["\0"]), r"argv\[0\]"),
        (lambda sandbox: sandbox.run([]), "argv"),
        (lambda sandbox: sandbox.run([""]), r"argv\[0\]"),
        (lambda sandbox: sandbox.run("echo"), "argv"),
        (lambda sandbox: sandbox.run([b"echo"]), r"argv\[0\]"),
        (lambda sandbox: sandbox.shell("echo\0"), "argv"),
        (lambda sandbox: sandbox.execute(b"print(1)"), "code"),
        (lambda sandbox: sandbox.run(["true"], arguments=["\0"]), "arguments"),
        (lambda sandbox: sandbox.run(["true"], arguments="abc"), "arguments"),
        (lambda sandbox: sandbox.run(["true"], environment={"A": "\0"}), "environment"),
        (lambda sandbox: sandbox.run(["true"], environment={"A=B": "x"}), "environment"),
        (lambda sandbox: sandbox.run(["true"], working_directory="../x"), "working_directory"),
        (lambda sandbox: sandbox.run(["true"], working_directory="a\0b"), "working_directory"),
        (lambda sandbox: sandbox.run(["true"], stdin=5), "stdin"),
        (lambda sandbox: sandbox.run(["true"], timeout=0), "timeout"),
        (lambda sandbox: sandbox.run(["true"], timeout=float("nan")), "timeout"),
        (lambda sandbox: sandbox.run(["true"], memory_limit_mb=-1), "memory_limit_mb"),
        (lambda sandbox: sandbox.run(["true"], user=""), "user"),
        (lambda sandbox: sandbox.run(["true"], time_out=1), "time_out.*timeout"),
        (lambda sandbox: sandbox.run(["true"], memory_mb=1), "memory_mb"),
    ],
)
def test_what_can_never_work_is_refused_by_name(sandbox: nsbox.Sandbox, call: Any, field: str) -> None:
    """`ConfigError`, before anything was started."""
    with pytest.raises(nsbox.ConfigError, match=field):
        call(sandbox)
    assert sandbox.metadata.total_executions == 0
    assert sandbox.shell("true").ok


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = (", "SyntaxError"),
        ("x = '\ud800'", "SyntaxError"),
        ("x = 1\0", "SyntaxError"),
        ("  x = 1", "IndentationError"),
        ("raise SystemError('ü')", "SystemError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("raise ExceptionGroup('several', [ValueError(1)])", "ExceptionGroup"),
    ],
)
def test_a_program_that_cannot_be_run_has_an_error(sandbox: nsbox.Sandbox, code: str, error: str) -> None:
    """Its class is in the result, and the traceback is the whole report."""
    result = sandbox.execute(code)
    assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 1)
    assert result.error is not None, result.stderr
    assert result.error.name == error
    assert result.error.traceback in result.stderr


@pytest.mark.parametrize("code", ["", "\n", "# nothing", "\ufeffx = 1", "pass\r\n"])
def test_an_empty_program_is_a_program(sandbox: nsbox.Sandbox, code: str) -> None:
    """It ends well, and has no error."""
    result = sandbox.execute(code)
    assert (result.verdict, result.stdout, result.stderr, result.error) == (Verdict.OK, "", "", None)


def test_ten_mb_of_source_run(sandbox: nsbox.Sandbox) -> None:
    """Several at once too; what is too long for the place of sources is refused, and the sandbox stays usable."""
    code = "x = 0\n" + "#" + "y" * 10_000_000 + "\nprint(len(open(__file__).read()))"
    assert sandbox.execute(code).stdout == f"{len(code)}\n"
    with pytest.raises(nsbox.ConfigError, match=r"code: .* bytes do not fit"):
        sandbox.execute("#" + "y" * (65 * MIB))
    assert sandbox.execute("print(1)").stdout == "1\n"


def test_a_source_is_gone_with_its_execution_and_nobody_can_write_it(sandbox: nsbox.Sandbox) -> None:
    """Another program cannot find the text of one that has ended."""
    code = "import os\nprint(__file__)\ntry: open(__file__, 'a')\nexcept OSError as exc: print(exc.errno)"
    path, error = sandbox.execute(code).stdout.split()
    assert error in ("13", "30")
    assert sandbox.run(["test", "-e", path]).exit_code == 1
    assert sandbox.shell("ls -A /run/nsbox").stdout == ""
