"""`nsbox run`, as the command that people and scripts start."""

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nsbox._cli import exits
from nsbox._results import Verdict

NSBOX = (sys.executable, "-m", "nsbox._cli")
SECONDS = 60  # after which a command that hangs fails its test


def nsbox(*arguments: str | bytes, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command, run to its end."""
    return subprocess.run(
        [*NSBOX, *arguments], input=stdin, capture_output=True, check=False, timeout=SECONDS, **options
    )


def python(code: str, *limits: str) -> dict[str, Any]:
    """What --json says about a program; its exit_status is known to be the command's."""
    done = nsbox("run", "--json", *limits, "-c", code)
    assert len(done.stdout.splitlines()) == 1, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_status"] == done.returncode
    return found


@pytest.mark.lane_unified
@pytest.mark.parametrize("code", [0, 1, 3, 124, 255])
def test_the_exit_code_is_the_programs(code: int) -> None:
    """Any of them; one that is not 0 has a verdict on stderr, unless -q."""
    program = f"import sys; print('out'); print('err', file=sys.stderr, end=''); sys.exit({code})"
    done = nsbox("run", "-c", program)
    assert (done.returncode, done.stdout) == (code, b"out\n")
    assert done.stderr == (f"err\nnsbox: nonzero_exit: exit code {code}\n".encode() if code else b"err")
    quiet = nsbox("run", "-q", "-c", program)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (code, b"out\n", b"err")


WITHIN = "pass"
LIMITED = [
    (("--timeout", "0.3"), "while True: pass", Verdict.WALL_TIME_LIMIT, 124),
    (("--cpu-timeout", "0.3"), "while True: pass", Verdict.CPU_TIME_LIMIT, 124),
    (("--output-mb", "0.5"), "print('x' * (1 << 20))", Verdict.OUTPUT_LIMIT, 153),
    (("--disk-mb", "2"), "open('f', 'wb').write(bytes(4 << 20))", Verdict.DISK_LIMIT, 154),
    ((), "import ctypes; ctypes.CDLL(None).mount(b'a', b'/', b'b', 0, None)", Verdict.SECURITY_VIOLATION, 159),
    ((), "import os; os.kill(os.getpid(), 11)", Verdict.SIGNALED, 139),
    ((), "import os; os.kill(os.getpid(), 9)", Verdict.SIGNALED, 137),
    ((), "import os; os.kill(os.getpid(), 34)", Verdict.SIGNALED, 162),
]


@pytest.mark.parametrize(("limits", "program", "verdict", "status"), LIMITED)
def test_what_ends_a_program_is_the_exit_status(
    limits: tuple[str, ...], program: str, verdict: Verdict, status: int
) -> None:
    """Each limit has its own; under the same limit a program that stays within ends with 0."""
    found = python(program, *limits)
    assert (found["verdict"], found["exit_status"], found["ok"]) == (verdict.value, status, False)
    assert python(WITHIN, *limits)["exit_status"] == 0


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
@pytest.mark.parametrize(
    ("limits", "program", "verdict", "status"),
    [
        (("--memory-mb", "32"), "b = b'x' * (256 << 20)", Verdict.MEMORY_LIMIT, 137),
        (("--processes", "4"), "import os\nwhile True: os.fork()", Verdict.PROCESS_LIMIT, 155),
    ],
)
def test_limits_of_memory_and_processes_are_exit_statuses(
    limits: tuple[str, ...], program: str, verdict: Verdict, status: int
) -> None:
    """As above, where the kernel counts."""
    test_what_ends_a_program_is_the_exit_status(limits, program, verdict, status)


def test_a_program_that_cannot_start_is_told_apart_from_one_that_exits_so() -> None:
    """127 and 126 of nsbox have a failure and no verdict, those of a program a verdict and no failure."""
    for command, kind, status in (
        ("no-such", "ProgramNotFoundError", 127),
        ("/etc/passwd", "ProgramNotExecutableError", 126),
    ):
        done = nsbox("run", "--json", "--", command)
        found = json.loads(done.stdout)
        assert (done.returncode, found["verdict"], found["failure"]["type"]) == (status, None, kind)
        assert command in found["failure"]["message"]
        done = nsbox("run", "--json", "--", "sh", "-c", f"exit {status}")
        found = json.loads(done.stdout)
        assert (done.returncode, found["verdict"], "failure" in found) == (status, "nonzero_exit", False)
    assert nsbox("run", "--user", "nobody-has-this-name", "--", "true").returncode == 127


def test_a_host_that_cannot_do_it_is_125_with_the_remedy() -> None:
    """A cgroup that was asked for and is not there; without asking it works."""
    done = nsbox("run", "--json", "-c", "print(1)", env={**os.environ, "NSBOX_CGROUP": "/no/such/cgroup"})
    found = json.loads(done.stdout)
    assert (done.returncode, found["failure"]["type"]) == (125, "UnsupportedHostError")
    assert found["failure"]["remedies"]
    assert found["failure"]["remedies"][0].encode() in done.stderr
    assert python("print(1)")["exit_status"] == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-c", "pass", "--", "true"], "-c and --"),
        ([], "nothing to run"),
        (["--"], "nothing to run"),
        (["-q"], "nothing to run"),
        (["--no-such-option", "-c", "pass"], "--no-such-option"),
        (["--timeout", "soon", "-c", "pass"], "--timeout"),
        (["--timeout", "nan", "-c", "pass"], "timeout=nan"),
        (["--timeout", "-1", "-c", "pass"], "timeout=-1"),
        (["--cpu-timeout", "0", "-c", "pass"], "cpu_timeout=0"),
        (["--memory-mb", "0", "-c", "pass"], "memory_mb=0"),
        (["--disk-mb", "0", "-c", "pass"], "disk_mb=0"),
        (["--processes", "0", "-c", "pass"], "processes=0"),
        (["--cpus", "inf", "-c", "pass"], "cpus=inf"),
        (["--output-mb", "0", "-c", "pass"], "max_output_mb=0"),
        (["--env", "NAME", "-c", "pass"], "--env='NAME'"),
        (["--env", "=x", "-c", "pass"], "--env='=x'"),
        (["--env", "--", "true"], "--env='--'"),
        (["--mount", "/usr", "-c", "pass"], "--mount='/usr'"),
        (["--mount", "/usr:/mnt:rx", "-c", "pass"], "--mount='/usr:/mnt:rx'"),
        (["--mount", "/usr:/proc/x", "-c", "pass"], "'/proc/x'"),
        (["--mount", "/no/such/source:/mnt", "-c", "pass"], "/no/such/source"),
        (["--rootfs", "/no/such/root", "-c", "pass"], "/no/such/root"),
        (["--rootfs", "/", "-c", "pass"], "rootfs="),
        (["--security", "stricct", "-c", "pass"], "security='stricct'"),
        (["--security", "./no-such.toml", "-c", "pass"], "no-such.toml"),
        (["--workdir", "../up", "-c", "pass"], "working_directory='../up'"),
        (["--require", "no_such_thing", "-c", "pass"], "no_such_thing"),
        (["--language", "cobol", "-c", "pass"], "cobol"),
        (["--language", "python", "--", "true"], "--language='python'"),
        (["no-such-file.py"], "no-such-file.py"),
        (["ls", "-l"], "a command of the sandbox stands behind --"),
        (["."], "directory"),
        (["latin1.py"], "latin1.py"),
        (["--", ""], "argv[0]"),
        ([b"-c", b"print('\xff')"], "-c: must be UTF-8"),
    ],
)
def test_what_can_never_work_is_2_and_named(arguments: list[str | bytes], names: str, tmp_path: Path) -> None:
    """No traceback, nothing on stdout, and the line says what was wrong."""
    (tmp_path / "latin1.py").write_bytes(b"print('\xe9')")
    done = nsbox("run", *arguments, cwd=tmp_path)
    message = re.sub(r"[│\s]+", " ", done.stderr.decode())  # typer draws a frame around its own
    assert (done.returncode, done.stdout) == (2, b""), message
    assert names in message
    assert "Traceback" not in message


def test_what_stands_behind_the_program_is_the_programs(tmp_path: Path) -> None:
    """Options and "--" too, in each of the three forms, and behind a program from stdin."""
    program = "import sys; print(sys.argv[1:], repr(sys.stdin.read()))"
    (tmp_path / "-q.py").write_text(program)
    words = ["a b", "-q", "--json", "--", "--timeout", ""]
    for done in (
        nsbox("run", "./-q.py", *words, cwd=tmp_path, stdin=b"in"),
        nsbox("run", "-c", program, *words, stdin=b"in"),
        nsbox("run", "--", "python3", "-c", program, *words, stdin=b"in"),
    ):
        assert (done.returncode, done.stdout.decode()) == (0, f"{words} 'in'\n"), done.stderr
    done = nsbox("run", "-", *words, stdin=program.encode())
    assert (done.returncode, done.stdout.decode()) == (0, f"{words} ''\n")


def test_options_right_behind_the_code_are_the_programs_too() -> None:
    """No word that starts with a dash is taken from it, and a value that looks like -c does not begin it."""
    program = "import os, sys; print(os.environ['A'], sys.argv[1:])"
    done = nsbox("run", "--env", "A=-c", "-c", program, "--timeout", "0.001", "-c", "--bogus")
    assert (done.returncode, done.stdout.decode()) == (0, "-c ['--timeout', '0.001', '-c', '--bogus']\n"), done.stderr
    assert nsbox("run", "-c").returncode == 2


@pytest.mark.lane_unified
def test_bytes_are_passed_on_exactly() -> None:
    """Every byte value, more than pipes hold, through stdin to stdout and stderr."""
    data = bytes(range(256)) * 8192
    program = (
        "import sys; d = sys.stdin.buffer.read(); [f.buffer.write(d) for f in (sys.stdout, sys.stderr)]; sys.exit(3)"
    )
    done = nsbox("run", "-q", "--", "python3", "-c", program, stdin=data)
    assert (done.returncode, done.stdout == data, done.stderr == data) == (3, True, True)


def test_50_mib_of_stdin_arrive_and_may_be_left_unread() -> None:
    """A program that reads gets them all, one that does not ends as it would."""
    data = os.urandom(1 << 20) * 50
    done = nsbox("run", "--", "sha256sum", stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    done = nsbox("run", "--", "true", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_terminal_is_not_read() -> None:
    """The program's stdin is empty when ours is a terminal, in which something is typed; from a pipe it is not."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"typed\n")
        done = subprocess.run(
            [*NSBOX, "run", "--", "cat"], stdin=theirs, capture_output=True, check=False, timeout=SECONDS
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (0, b"")
    assert nsbox("run", "--", "cat", stdin=b"typed\n").stdout == b"typed\n"


def test_the_options_reach_the_program(tmp_path: Path) -> None:
    """Environment, directory, user and mounts; a mount is read-only unless :rw."""
    tmp_path.chmod(0o777)  # the program's uid is nobody's here
    (tmp_path / "seen").write_text("of the host")
    found = python(
        "import os\nprint(os.environ['A'], os.environ['B'], os.getcwd(), os.getuid(), open('/ro/seen').read())\n"
        "open('/rw/made', 'w').write('by the program')\n"
        "try: open('/ro/refused', 'w')\nexcept OSError as e: print(e.errno)",
        "--env", "A=1=2", "--env", "B=", "--workdir", "/tmp", "--user", "1000",
        "--mount", f"{tmp_path}:/ro", "--mount", f"{tmp_path}:/rw:rw",
    )  # fmt: skip
    assert found["stdout"] == "1=2  /tmp 1000 of the host\n30\n", found["stderr"]
    assert (tmp_path / "made").read_text() == "by the program"
    assert python("import os; print(sorted(os.environ))")["stdout"].count("'A'") == 0


@pytest.mark.needs_tool("gcc")
def test_a_root_of_its_own_is_all_that_the_program_sees(tmp_path: Path) -> None:
    """--rootfs, relative to where we are, shows that directory and not the host."""
    (tmp_path / "root" / "bin").mkdir(parents=True)
    source = (
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { return printf("%d", access("/usr/bin", 0)) < 0; }'
    )
    command = ["gcc", "-static", "-x", "c", "-", "-o", str(tmp_path / "root" / "bin" / "program")]
    subprocess.run(command, input=source, text=True, check=True, timeout=SECONDS)
    done = nsbox("run", "--rootfs", "./root", "--", "/bin/program", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"-1"), done.stderr
    assert nsbox("run", "--", "test", "-e", "/usr/bin").returncode == 0
    assert nsbox("run", "--", "/bin/program").returncode == 127


def test_a_policy_is_a_name_or_a_file(tmp_path: Path) -> None:
    """--security with a file refuses what the file says; the two names are nsbox's own."""
    (tmp_path / "own.toml").write_text(
        '[policy]\ndescription = "no directories"\ndefault = "ENOSYS"\nextends = "default"\n'
        '[[rule]]\nanswer = "kill"\nreason = "for this test"\ncalls = ["mkdir", "mkdirat"]\n'
    )
    program = ("-c", "import os; os.mkdir('made')")
    done = nsbox("run", "--security", "own.toml", *program, cwd=tmp_path)
    assert (done.returncode, b"mkdir" in done.stderr) == (159, True), done.stderr
    for name in ("default", "strict"):
        found = json.loads(nsbox("run", "--json", "--security", name, *program).stdout)
        assert (found["verdict"], found["isolation"]["filter"].split(",")[0]) == ("ok", name)


def test_json_is_the_whole_result() -> None:
    """Output that is not UTF-8 is exact too; metrics, evidence and what was in force are there."""
    found = python("import os; os.write(1, b'\\xff\\0'); os.write(2, 'é'.encode()); raise ValueError('why')")
    assert (found["stdout"], found["stdout_base64"]) == ("\ufffd\0", "/wA=")
    assert found["stderr"].startswith("é")
    assert (found["error"]["name"], found["error"]["value"]) == ("ValueError", "why")
    assert found["metrics"]["wall_seconds"] > 0
    assert "network" in found["isolation"]["namespaces"]
    assert found["evidence"]["cause"] == "exit"


def test_json_has_one_object_for_a_name_that_is_no_text() -> None:
    """A command whose bytes are not UTF-8 is refused with valid JSON, and told on stderr."""
    done = nsbox("run", "--json", "--", b"no-\xff")
    assert (done.returncode, json.loads(done.stdout)["exit_status"]) == (127, 127)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_everything_in_the_sandbox(number: signal.Signals, tmp_path: Path) -> None:
    """To the whole process group, as a terminal does it, while a program runs that ignores it; nothing is left."""
    tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "ready")
    (tmp_path / "ready").chmod(0o666)
    program = (
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]\n"
        "open('/here/ready', 'w').write('x')\nwhile True: signal.pause()"
    )
    ready = os.open(tmp_path / "ready", os.O_RDONLY | os.O_NONBLOCK)
    command = [*NSBOX, "run", "--mount", f"{tmp_path}:/here:rw", "-c", program]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert select.select([ready], [], [], SECONDS)[0]
            os.killpg(process.pid, number)
            stdout, stderr = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            os.close(ready)
    assert (process.returncode, stdout, stderr) == (128 + number, b"", b"")


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    """The status is that of SIGPIPE; and of a disk that is full, 125 with the reason."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*NSBOX, "run", "-c", "print('x' * 1000)"]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=SECONDS)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=SECONDS)
    assert done.returncode == 125
    assert b"No space left" in done.stderr
    assert nsbox(*command[len(NSBOX) :]).returncode == 0


def test_closed_standard_descriptors_are_no_trouble(tmp_path: Path) -> None:
    """No file or socket of nsbox's gets their numbers; the program runs, and its exit code arrives."""
    shell = 'exec "$@" <&- >&- 2>&-'
    program = "import sys; print('x', sys.stdin.read()); open('/here/ran', 'w'); sys.exit(7)"
    tmp_path.chmod(0o777)  # as above
    command = ["sh", "-c", shell, "sh", *NSBOX, "run", "--mount", f"{tmp_path}:/here:rw", "-c", program]
    assert subprocess.run(command, check=False, timeout=SECONDS).returncode == 7
    assert (tmp_path / "ran").exists()


def test_the_version_is_told_without_loading_the_options() -> None:
    """By the quick way and by typer's; typer and rich are loaded for the second only."""
    command = [sys.executable, "-X", "importtime", *NSBOX[1:]]
    quick = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert quick.stdout.startswith("nsbox")
    assert not re.search(r"\| +(typer|rich)$", quick.stderr, re.MULTILINE)
    usual = subprocess.run([*command, "--version", "run"], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert usual.stdout == quick.stdout
    assert re.search(r"\| +typer$", usual.stderr, re.MULTILINE)


def test_help_and_documentation_have_every_status_and_option() -> None:
    """docs/cli.md, --help and the code say the same."""
    document = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    wide = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    shown = nsbox("run", "--help", env=wide).stdout.decode()
    for status, meaning in exits.TABLE:
        assert f"| {status} | {meaning} |" in document
        assert re.search(rf"^ *{re.escape(status)} +{re.escape(meaning)} *$", shown, re.MULTILINE)
    options = {name for name in re.findall(r"--[a-z][a-z-]*", shown) if name != "--help"}
    documented = set(re.findall(r"^\| `(--[a-z-]+)`", document, re.MULTILINE))
    assert options == documented
    assert "nsbox[plot]" in nsbox("metrics", "--help", env=wide).stdout.decode()
    for status, meaning in exits.DOCTOR_TABLE:
        assert f"| {status} | {meaning} |" in document
        assert meaning in nsbox("doctor", "--help", env=wide).stdout.decode()
