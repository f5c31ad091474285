"""`nsbox shell`: a person at a terminal, and a script on pipes."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from terminals import Screen, screen
from watching import parts_of_nsbox, until

NSBOX = [sys.executable, "-m", "nsbox._cli"]
SHELL = [*NSBOX, "shell"]
PROMPT = r"nsbox (sbx-[0-9a-f]{12})\S*:\S*/workspace\S*\$ "
SECONDS = 60


def on_pipes(*arguments: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command, run to its end."""
    return subprocess.run(
        [*SHELL, *arguments], input=stdin, capture_output=True, check=False, timeout=SECONDS, **options
    )


def run(person: Screen, command: str) -> str:
    """What a command writes."""
    person.type(f"{command}; echo e''nd\r")
    text = person.read_until(r"[\r\n]end\r\n").removesuffix("end\r\n")
    person.read_until(PROMPT)
    return re.sub(r"\x1b\[\?2004[hl]\r?", "", text).rpartition("e''nd")[2].removeprefix("\r\n")


@pytest.mark.lane_unified
@pytest.mark.needs_tool("bash")
def test_a_person_gets_a_shell_on_a_terminal_of_the_sandbox() -> None:
    """Its name in the prompt, the outer window's size and TERM, editing of lines; the exit status is the shell's."""
    with screen(SHELL, size=(31, 97)) as person:
        person.read_until(PROMPT)
        assert person.is_raw
        assert run(person, "tty") == "/dev/pts/0\r\n"
        assert run(person, "stty size; echo $TERM") == "31 97\r\nxterm\r\n"
        assert run(person, "ightx\x7f\x01echo r\x05") == "right\r\n"
        assert "\x1b[01;34m" in run(person, "ls -d /usr")
        assert run(person, "set -o | command grep monitor").split() == ["monitor", "on"]
        person.type("exit 7\r")
        assert person.wait() == 7
        assert person.is_as_before


def test_ctrl_c_goes_to_the_program_inside_and_ctrl_d_ends_the_shell() -> None:
    """A sleep dies of it, the shell lives on; the status of the last command is the shell's."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.type("sh -c 'echo begun; exec sleep 60'\r")
        person.read_until(r"[\r\n]begun\r\n")
        person.type("\x03")
        person.read_until(PROMPT)
        assert run(person, "echo $?") == "130\r\n"
        person.type("(exit 5)\r")
        person.read_until(f"5.*{PROMPT}")
        person.type("\x04")
        assert person.wait() == 5
        assert person.is_as_before


def test_jobs_can_be_stopped_and_go_on() -> None:
    """Ctrl-Z stops the job and not the session; fg continues it."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.type("echo begun; cat\r")
        person.read_until(r"[\r\n]begun\r\n")
        person.type("first\r")
        person.read_until("first\r\n.*first\r\n")
        person.type("\x1a")
        person.read_until(f"Stopped.*{PROMPT}")
        person.type("fg\r")
        person.read_until("fg\r\n.*cat\r\n")
        person.type("second\r")
        person.read_until("second\r\n.*second\r\n")
        person.type("\x04")
        person.read_until(PROMPT)
        person.type("exit\r")
        assert person.wait() == 0


@pytest.mark.parametrize(
    ("program", "name"),
    [
        pytest.param(program, name, marks=pytest.mark.needs_tool(name), id=name)
        for program, name in (("seq 1000 | less", "less"), ("top", "top"), ("vi", "vi"))
    ],
)
def test_full_screen_programs_work(program: str, name: str) -> None:
    """They take the whole screen, obey a key, and give the screen back."""
    with screen(SHELL, size=(12, 60)) as person:
        person.read_until(PROMPT)
        person.type(f"{program}\r")
        person.read_until({"less": r"\x1b\[\?1049h.*\n11\r\n", "top": r"PID.*USER", "vi": r"\x1b\[\?1049h.*~"}[name])
        person.type({"less": "q", "top": "q", "vi": "\x1b:q\r"}[name])
        person.read_until(PROMPT)
        assert run(person, "echo $?") == "0\r\n"
        person.type("exit\r")
        assert person.wait() == 0
        assert person.is_as_before


@pytest.mark.lane_unified
def test_a_program_inside_learns_of_a_new_size_of_the_window() -> None:
    """It gets SIGWINCH, and asks for the size that the outer window then has."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.type("sh -c 'trap \"stty size; exit\" WINCH; printf %s%s\\\\n rea dy; while :; do sleep 0.05; done'\r")
        person.read_until("ready\r\n")
        person.resize(44, 132)
        person.read_until("44 132\r\n")
        person.read_until(PROMPT)
        person.type("exit\r")
        assert person.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_session_and_gives_the_terminal_back(number: signal.Signals) -> None:
    """While a program runs that ignores all of them."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.type("trap '' INT TERM HUP; echo begun; sleep 60\r")
        person.read_until(r"[\r\n]begun\r\n")
        person.process.send_signal(number)
        assert person.wait() == 128 + number
        assert person.is_as_before


def test_a_stopped_session_gives_the_terminal_back_until_it_goes_on() -> None:
    """By SIGTSTP from outside, as another shell's `kill`; then everything works again."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, person.process.pid, os.WSTOPPED)
        assert person.is_as_before
        person.process.send_signal(signal.SIGCONT)
        until(lambda: person.is_raw, "the terminal is taken again")
        assert run(person, "echo again") == "again\r\n"
        assert person.is_raw
        person.type("exit\r")
        assert person.wait() == 0


def test_a_window_that_is_closed_ends_the_session() -> None:
    """The kernel sends SIGHUP; nothing is left."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        person.type("echo begun; sleep 60\r")
        person.read_until(r"[\r\n]begun\r\n")
        person.hang_up()
        assert person.process.wait(SECONDS) == 129


def test_the_death_of_the_launcher_is_told_and_gives_the_terminal_back() -> None:
    """No traceback, status 125."""
    with screen(SHELL) as person:
        person.read_until(PROMPT)
        os.kill(parts_of_nsbox()[0], signal.SIGKILL)
        assert person.wait() == 125
        assert person.is_as_before
        assert "Traceback" not in person.read_until("nsbox: the launcher")


def test_a_limit_of_the_session_is_told_and_is_the_status() -> None:
    """--timeout, of all of it; the full screen that the program was in is left."""
    with screen([*SHELL, "--timeout", "1.5"]) as person:
        person.read_until(PROMPT)
        person.type("printf '\\033[?1049h'; sleep 60\r")
        assert person.wait() == 124
        person.read_until(r"\x1b\[\?1049l.*nsbox: wall_time_limit: the limit is 1.5 seconds")
        assert person.is_as_before


def test_options_and_another_command_on_a_terminal(tmp_path: Path) -> None:
    """What `nsbox run` takes, and a program instead of the shell."""
    (tmp_path / "seen").write_text("of the host")
    tmp_path.chmod(0o755)
    code = "import os; print(os.isatty(0), os.environ['TERM'], os.getcwd(), open('/here/seen').read(), os.getuid())"
    options = ["--env", "TERM=dumb", "--workdir", "/tmp", "--mount", f"{tmp_path}:/here", "--user", "1000"]
    with screen([*SHELL, *options, "--memory-mb", "64", "python3", "-c", code]) as person:
        person.read_until("True dumb /tmp of the host 1000\r\n")
        assert person.wait() == 0


@pytest.mark.lane_unified
def test_on_pipes_a_script_is_passed_on_byte_by_byte_and_as_it_is_written() -> None:
    """Stdout and stderr apart; an answer comes while stdin is still open."""
    done = on_pipes(stdin=b"echo out; echo err >&2; cat; exit 3\n" + bytes(range(256)) * 2000)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n" + bytes(range(256)) * 2000, b"err\n")
    with subprocess.Popen(SHELL, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"echo first\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], SECONDS)[0]
        assert os.read(process.stdout.fileno(), 100) == b"first\n"
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def test_on_pipes_whatever_stdin_and_stdout_are(tmp_path: Path) -> None:
    """A file, /dev/null, a reader that has gone, a command that does not read."""
    script = tmp_path / "script"
    script.write_text("echo from a file\n")
    with script.open("rb") as file:
        done = subprocess.run(SHELL, stdin=file, capture_output=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, b"from a file\n")
    assert on_pipes("true", stdin=os.urandom(1 << 20)).returncode == 0
    assert on_pipes("no-such-program").returncode == 127
    done = subprocess.run([*SHELL, "echo", "x"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"x\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*SHELL, "yes"], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=SECONDS
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_that_is_not_there_is_refused() -> None:
    """--pty on pipes is 2, and says why; --no-pty on a terminal gives pipes."""
    done = on_pipes("--pty")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"must both be terminals" in done.stderr
    with screen([*SHELL, "--no-pty", "tty"]) as person:
        person.read_until("not a tty")
        assert person.wait() == 1


@pytest.mark.needs_tool("gcc")
def test_a_root_without_bash_gets_its_sh(tmp_path: Path) -> None:
    """The one shell that every system has."""
    (tmp_path / "bin").mkdir()
    source = '#include <stdio.h>\nint main(int c, char **v) { return printf("%s of %d", v[0], c) < 0; }'
    command = ["gcc", "-static", "-x", "c", "-", "-o", str(tmp_path / "bin" / "sh")]
    subprocess.run(command, input=source, text=True, check=True, timeout=SECONDS)
    done = on_pipes("--rootfs", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, b"sh of 1"), done.stderr
    with screen([*SHELL, "--rootfs", str(tmp_path)]) as person:
        person.read_until("sh of 2")
        assert person.wait() == 0


def test_a_session_is_kept_in_a_store(tmp_path: Path) -> None:
    """As one execution."""
    store = tmp_path / "store.sqlite"
    assert on_pipes("--store", str(store), stdin=b"exit 4\n").returncode == 4
    done = subprocess.run([*NSBOX, "history", "--store", str(store), "--json"], capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["executions"]
    assert (row["language"], row["verdict"], row["exit_code"]) == ("command", "nonzero_exit", 4)
