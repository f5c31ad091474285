"""What one execution can ask for, field by field, and that it can tighten its sandbox's limits only."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

import nsbox
from nsbox import ExecutionOptions, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    config = nsbox.SandboxConfig(
        environment={"COLOUR": "red", "SHAPE": "round"},
        resources=nsbox.ResourceAllocation(memory=nsbox.MemoryAllocation(limit_mb=96)),
        enforcement=nsbox.EnforcementPolicy(max_execution_seconds=10, max_cpu_seconds=5),
    )
    with nsbox.Sandbox(config) as sandbox:
        yield sandbox


def test_language_names_a_runtime(sandbox: nsbox.Sandbox) -> None:
    """Such as python; an unknown name is refused and named."""
    assert sandbox.execute("print(1)", language="python").stdout == "1\n"
    with pytest.raises(nsbox.ConfigError, match=r"language='cobol'.*python"):
        sandbox.execute("print(1)", language="cobol")
    assert sandbox.status is nsbox.SandboxStatus.IDLE


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("timeout", 10.5, "max_execution_seconds=10"),
        ("cpu_timeout", 6, "max_cpu_seconds=5"),
        ("memory_limit_mb", 97, "limit_mb=96"),
    ],
)
def test_an_option_never_loosens_a_limit(sandbox: nsbox.Sandbox, field: str, value: float, limit: str) -> None:
    """More than the sandbox has is refused, naming both; the sandbox's own value is allowed, and nothing was run."""
    with pytest.raises(nsbox.ConfigError, match=f"{field}=.*{limit}"):
        sandbox.shell("echo ran > /tmp/ran", **{field: value})
    assert sandbox.metadata.total_executions == 0
    own = {"timeout": 10, "cpu_timeout": 5, "memory_limit_mb": 96}
    assert sandbox.shell("test ! -e /tmp/ran", **own).ok


@pytest.mark.parametrize(
    ("code", "options", "verdict"),
    [
        ("import time; time.sleep(30)", {"timeout": 0.1}, Verdict.WALL_TIME_LIMIT),
        ("while True: pass", {"cpu_timeout": 0.1}, Verdict.CPU_TIME_LIMIT),
        ("x = bytearray(60 << 20)", {"memory_limit_mb": 40}, Verdict.MEMORY_LIMIT),
    ],
)
def test_an_option_tightens_a_limit_for_its_execution_only(
    sandbox: nsbox.Sandbox, code: str, options: dict[str, Any], verdict: Verdict
) -> None:
    """The evidence has the tighter limit; the next execution has the sandbox's own again."""
    result = sandbox.execute(code, **options)
    assert (result.verdict, result.evidence["limit"]) == (verdict, next(iter(options.values())))
    free = sandbox.execute("import time; x = bytearray(60 << 20); time.sleep(0.15)\nfor _ in range(6000000): pass")
    assert (free.verdict, free.metrics and free.metrics.cpu_seconds > 0.1) == (Verdict.OK, True)


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (None, "/workspace"),
        ("a/b", "/workspace/a/b"),
        ("./a", "/workspace/a"),
        ("/tmp", "/tmp"),
        ("/", "/"),
        ("/usr", "/usr"),
    ],
)
def test_working_directory_is_relative_to_the_sandbox_s(
    sandbox: nsbox.Sandbox, directory: str | None, expected: str
) -> None:
    """Also for Python programs, which can import modules from there."""
    sandbox.shell("mkdir -p a/b && for d in . a a/b /tmp; do echo 'name = 5' > $d/mine.py; done")
    assert sandbox.shell("pwd", working_directory=directory).stdout == f"{expected}\n"
    if expected not in ("/", "/usr"):
        result = sandbox.execute("import os, mine; print(os.getcwd(), mine.name)", working_directory=directory)
        assert result.stdout == f"{expected} 5\n"


@pytest.mark.parametrize("directory", ["nowhere", "/nowhere", "file"])
def test_a_missing_working_directory_is_a_failed_start(sandbox: nsbox.Sandbox, directory: str) -> None:
    """`ProgramStartError`, which is FileNotFoundError too; the sandbox stays usable."""
    sandbox.shell("touch file")
    with pytest.raises(nsbox.ProgramStartError, match="working directory") as raised:
        sandbox.shell("true", working_directory=directory)
    assert isinstance(raised.value, FileNotFoundError)
    assert raised.value.path.endswith(directory)
    assert sandbox.shell("true").ok


def test_environment_is_the_sandbox_s_with_the_execution_s_over_it(sandbox: nsbox.Sandbox) -> None:
    """And nothing of the application's own comes in."""
    result = sandbox.run(["env", "-0"], environment={"COLOUR": "blue", "EMPTY": "", "LINES": "a\nb=ü", "LANG": "C"})
    found = dict(line.split("=", 1) for line in result.stdout.rstrip("\0").split("\0"))
    assert found.pop("PATH").endswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert found == {
        "COLOUR": "blue", "SHAPE": "round", "EMPTY": "", "LINES": "a\nb=ü", "LANG": "C",
        "HOME": "/home/user", "USER": "user", "LOGNAME": "user",
    }  # fmt: skip


def test_home_is_writable_and_everybody_s_own(sandbox: nsbox.Sandbox) -> None:
    """HOME, /tmp, /dev/shm and /workspace can be written; /, /usr, /etc and the like cannot."""
    writable = sandbox.shell('for d in "$HOME" /tmp /dev/shm /workspace; do echo x > $d/f && cat $d/f; done')
    assert writable.stdout == "x\n" * 4
    refused = sandbox.shell("for d in / /usr /etc /run /run/nsbox /home /proc /mnt /dev; do touch $d/f; done 2>&1")
    assert len(refused.stdout.splitlines()) == 9, refused.stdout
    assert sandbox.run(["ls", "/mnt"]).stdout == ""


@pytest.mark.parametrize("arguments", [(), ("a b", "", "-c", "ü", "'\"$x\n"), ("\udcff",)])
def test_arguments_come_behind_the_program(sandbox: nsbox.Sandbox, arguments: tuple[str, ...]) -> None:
    """As they are, for `execute`, `run` and `shell`."""
    result = sandbox.execute("import sys; print(sys.argv[1:])", arguments=arguments)
    assert result.stdout == f"{list(arguments)}\n"
    assert sandbox.run(["printf", "<%s>", "x"], arguments=arguments).stdout_bytes == b"".join(
        b"<%s>" % word.encode("utf-8", "surrogateescape") for word in ("x", *arguments)
    )


@pytest.mark.parametrize(
    ("stdin", "expected"), [(None, b""), ("", b""), ("ü\0\n", "ü\0\n".encode()), (b"\xff\0", b"\xff\0")]
)
def test_stdin_is_what_the_program_reads(sandbox: nsbox.Sandbox, stdin: str | bytes | None, expected: bytes) -> None:
    """Text as UTF-8, bytes as they are, and then end of file."""
    assert sandbox.run(["cat"], stdin=stdin).stdout_bytes == expected


def test_stdin_is_a_pipe_of_its_own(sandbox: nsbox.Sandbox) -> None:
    """Never a file of the host's, nor a terminal (F07)."""
    code = "import os, stat; print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (0, 1, 2)], os.isatty(0))"
    assert sandbox.execute(code).stdout == "[True, True, True] False\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_not_kept_without_capture_output(sandbox: nsbox.Sandbox, stream: str) -> None:
    """Yet drained, and counted against the limit."""
    code = f"import sys\nfor _ in range(64): sys.{stream}.write('x' * 65536)"
    kept, dropped = sandbox.execute(code), sandbox.execute(code, capture_output=False)
    assert (kept.verdict, len(getattr(kept, stream))) == (Verdict.OK, 4 << 20)
    assert (dropped.verdict, dropped.stdout, dropped.stderr, dropped.truncated) == (Verdict.OK, "", "", False)
    flood = sandbox.execute(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", capture_output=False)
    assert (flood.verdict, flood.stdout, flood.stderr) == (Verdict.OUTPUT_LIMIT, "", "")


def test_metrics_are_left_out_on_request(sandbox: nsbox.Sandbox) -> None:
    """With capture_metrics=False."""
    assert sandbox.shell("true").metrics is not None
    assert sandbox.shell("true", capture_metrics=False).metrics is None


IDS = "import os, pathlib; print(os.getuid(), os.getgid(), os.getgroups(), os.environ['USER'], os.environ['HOME'])"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, "1000 1000 [1000] user /home/user"),
        ("user", "1000 1000 [1000] user /home/user"),
        (1000, "1000 1000 [1000] user /home/user"),
        ("root", "0 0 [0] root /home/user"),
        (0, "0 0 [0] root /home/user"),
        ("nobody", "65534 65534 [65534] nobody /nonexistent"),
        (4321, "4321 4321 [4321] 4321 /home/user"),
    ],
)
def test_user_is_who_the_program_runs_as(sandbox: nsbox.Sandbox, user: str | int | None, expected: str) -> None:
    """Inside; it has no capabilities, and none to gain."""
    # getgroups(2) may or may not list the group of the process itself: the kernel's empty list is what is set
    result = sandbox.execute(IDS, user=user)
    assert result.stdout.replace("[]", expected.split(" ")[2]) == f"{expected}\n"
    status = sandbox.run(["grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"], user=user).stdout
    values = dict(line.split(":\t") for line in status.splitlines())
    assert values == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
        "NoNewPrivs": "1", "Seccomp": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("user", "kind", "why"),
    [("nosuch", FileNotFoundError, "no user 'nosuch'"), (65_533, PermissionError, "65533 is not to be had")],
)
def test_a_user_who_is_not_there_is_a_failed_start(
    sandbox: nsbox.Sandbox, user: str | int, kind: type[Exception], why: str
) -> None:
    """PID 1's own uid is nobody else's; the sandbox stays usable."""
    with pytest.raises(nsbox.ProgramStartError, match=why) as raised:
        sandbox.shell("true", user=user)
    assert isinstance(raised.value, kind)
    assert sandbox.status in (nsbox.SandboxStatus.RUNNING, nsbox.SandboxStatus.IDLE)
    assert sandbox.shell("true").ok


def test_an_options_object_is_the_same_as_fields(sandbox: nsbox.Sandbox) -> None:
    """Fields go over the object; it is what the running execution's record has."""
    options = ExecutionOptions(environment={"A": "1"}, arguments=("x",), timeout=3)
    assert sandbox.run(["sh", "-c", 'echo $A "$@"', "sh"], options).stdout == "1 x\n"
    assert sandbox.run(["sh", "-c", 'echo $A "$@"', "sh"], options, environment={"A": "2"}).stdout == "2 x\n"


def test_the_interpreter_is_the_application_s(sandbox: nsbox.Sandbox) -> None:
    """Version and packages are those of the process that uses nsbox."""
    result = sandbox.execute("import sys, pytest; print(sys.version, pytest.__version__, sys.prefix)")
    assert result.stdout == f"{sys.version} {pytest.__version__} {sys.prefix}\n"


def test_short_forms_reach_the_kernel() -> None:
    """`nsbox.execute` takes fields of the sandbox and of its one execution."""
    code = "import sys; print(sys.stdin.read(), sys.argv[1:]); x = bytearray(100 << 20)"
    result = nsbox.execute(code, memory_mb=64, timeout=5, cpus=0.5, processes=5, disk_mb=8, stdin="1", arguments=["2"])
    assert (result.verdict, result.stdout) == (Verdict.MEMORY_LIMIT, "1 ['2']\n")
    assert result.evidence["limit"] == 64
