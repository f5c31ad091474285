"""A program or a sandbox that cannot be started: told apart from everything that a program can do itself."""

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbox
from nsbox import DiskAllocation, Mount, ResourceAllocation, SandboxStatus, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@pytest.fixture(name="sandbox")
def _sandbox() -> Iterator[nsbox.Sandbox]:
    with nsbox.Sandbox(timeout=20) as sandbox:
        prepare = """
printf '#!/nowhere/interpreter\\n' > script; chmod +x script
printf 'echo no interpreter line\\n' > bare; chmod +x bare
printf '\\177ELF garbage' > broken; chmod +x broken
printf '' > empty; chmod +x empty
printf '#!/bin/sh\\nexit 127\\n' > exits-127; chmod +x exits-127
echo 'echo x' > not-executable
mkdir directory
ln -s loop loop
ln -s /bin/true link
cp /bin/true /dev/shm/true
"""
        assert sandbox.shell(prepare).ok
        yield sandbox


@pytest.mark.parametrize(
    ("program", "number", "kind"),
    [
        ("nosuchprogram", errno.ENOENT, FileNotFoundError),
        ("/usr/bin/nosuchprogram", errno.ENOENT, FileNotFoundError),
        ("./nosuchprogram", errno.ENOENT, FileNotFoundError),
        ("./script", errno.ENOENT, FileNotFoundError),
        ("./link/x", errno.ENOTDIR, FileNotFoundError),
        ("./not-executable", errno.EACCES, PermissionError),
        ("./directory", errno.EACCES, PermissionError),
        ("/", errno.EACCES, PermissionError),
        ("/etc/passwd", errno.EACCES, PermissionError),
        ("/dev/null", errno.EACCES, PermissionError),
        ("/dev/shm/true", errno.EACCES, PermissionError),
        ("./bare", errno.ENOEXEC, OSError),
        ("./broken", errno.ENOEXEC, OSError),
        ("./empty", errno.ENOEXEC, OSError),
        ("./loop", errno.ELOOP, OSError),
        ("./" + "x" * 300, errno.ENAMETOOLONG, OSError),
        ("/" + "x/" * 3000, errno.ENAMETOOLONG, OSError),
    ],
)
def test_a_program_that_cannot_be_executed_is_no_verdict(
    sandbox: nsbox.Sandbox, program: str, number: int, kind: type[OSError]
) -> None:
    """`ProgramStartError` with the errno of execve and the path; the sandbox stays usable, the error is data."""
    with pytest.raises(nsbox.ProgramStartError) as raised:
        sandbox.run([program, "argument"])
    assert isinstance(raised.value, kind)
    assert (raised.value.errno, raised.value.path, raised.value.filename) == (number, program, program)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301  # just made
    assert sandbox.status is SandboxStatus.IDLE
    assert sandbox.executions == {}
    assert sandbox.run(["./link"]).ok


def test_exit_127_is_a_verdict(sandbox: nsbox.Sandbox) -> None:
    """By the program itself, and by a shell that does not find what it is to run."""
    for result in (sandbox.run(["./exits-127"]), sandbox.shell("nosuchprogram"), sandbox.run(["sh", "-c", "exit 127"])):
        assert (result.verdict, result.exit_code) == (Verdict.NONZERO_EXIT, 127)


def test_a_program_is_found_by_the_path_of_its_own_environment(sandbox: nsbox.Sandbox) -> None:
    """Names without a slash only; the current directory is not searched."""
    sandbox.shell("mkdir bin; printf '#!/bin/sh\\necho mine\\n' > bin/mine; chmod +x bin/mine; cp bin/mine mine")
    with pytest.raises(nsbox.ProgramStartError):
        sandbox.run(["mine"])
    assert sandbox.run(["mine"], environment={"PATH": "/nowhere:/workspace/bin:/bin"}).stdout == "mine\n"
    assert sandbox.run(["bin/mine"]).stdout == "mine\n"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mounts": [Mount(source=Path("/nowhere"), target="/data")]}, r"mount.source='/nowhere'"),
        ({"mounts": [Mount(source=Path("/etc"), target="/usr/nowhere")]}, r"mount.target='/usr/nowhere'"),
        ({"mounts": [Mount(source=Path("/etc"), target="/workspace")]}, r"mount.target='/workspace'"),
        ({"mounts": [Mount(source=Path("/etc"), target="/tmp")]}, r"mount.target='/tmp'"),
        ({"rootfs": Path("/nowhere")}, r"rootfs='/nowhere'"),
        ({"rootfs": Path("/etc/passwd")}, r"rootfs='/etc/passwd'"),
        ({"rootfs": Path("/proc/self/fd")}, r"rootfs="),
        ({"rootfs": "no-such-root"}, r"rootfs='no-such-root': there is no root of this name"),
        ({"working_directory": "/usr/x"}, r"working_directory='/usr/x'"),
        ({"working_directory": "/"}, r"working_directory='/'"),
        ({"security": Path("/nowhere.toml")}, r"nowhere.toml"),
    ],
)
def test_a_configuration_that_cannot_work_fails_the_start(fields: dict[str, Any], match: str) -> None:
    """`ConfigError`, the sandbox is in ERROR, nothing of it is left, and terminate is still legal."""
    sandbox = nsbox.Sandbox(**fields)
    with pytest.raises(nsbox.ConfigError, match=match):
        sandbox.start()
    assert sandbox.status is SandboxStatus.ERROR
    with pytest.raises(nsbox.InvalidStateError):
        sandbox.shell("true")
    sandbox.terminate()
    assert sandbox.status is SandboxStatus.TERMINATED


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"memory_mb": 0}, "memory"),
        ({"memory_mb": "64"}, "memory"),
        ({"timeout": -1}, "timeout=-1"),
        ({"cpus": 0}, "cores"),
        ({"rootfs": Path("/")}, "rootfs"),
        ({"rootfs": Path("relative")}, "rootfs"),
        ({"rootfs": "Debian"}, "rootfs"),
        ({"runtime": "cobol"}, "cobol"),
        ({"memory": 5}, "memory"),
        ({"memory_mb": 5, "resources": ResourceAllocation()}, "memory_mb"),
        ({"working_directory": "workspace"}, "working_directory"),
        ({"working_directory": "/a/../b"}, "working_directory"),
        ({"security": "none"}, "security"),
    ],
)
def test_what_is_refused_is_refused_before_anything_starts(fields: dict[str, Any], match: str) -> None:
    """`ConfigError` from the constructor, and from the one-line form."""
    with pytest.raises(nsbox.ConfigError, match=match):
        nsbox.Sandbox(**fields)
    with pytest.raises(nsbox.ConfigError, match=match):
        nsbox.execute("print(1)", **fields)


def test_a_requirement_that_the_host_does_not_meet_is_refused() -> None:
    """`UnsupportedHostError` names it; one that is met is not in the way; one that does not exist is a ConfigError."""
    with nsbox.Sandbox(require=["user_namespaces"]) as sandbox:
        assert sandbox.shell("true").ok
    with pytest.raises(nsbox.SandboxError, match="nosuchcapability"), nsbox.Sandbox(require=["nosuchcapability"]):
        pass


def test_a_limit_that_no_program_fits_into_kills_or_fails_cleanly() -> None:
    """1 MiB of memory: the interpreter dies of it, with the right verdict, and the sandbox can be terminated."""
    with nsbox.Sandbox(memory_mb=1, timeout=20) as sandbox:
        try:
            result = sandbox.execute("print(1)")
        except nsbox.SetupError:
            pass
        else:
            assert result.verdict is Verdict.MEMORY_LIMIT
    with nsbox.Sandbox(processes=1, disk_mb=1) as sandbox:
        assert sandbox.execute("print(1)").stdout == "1\n"
    tiny = ResourceAllocation(disk=DiskAllocation(quota_mb=1, quota_inodes=16))
    with nsbox.Sandbox(resources=tiny) as sandbox:
        assert sandbox.shell("touch 1 2 3").ok


def test_more_open_files_than_the_application_may_have_are_refused() -> None:
    """`UnsupportedHostError`, with the command that mends it."""
    processes = nsbox.ProcessAllocation(max_open_files=2**30)
    with nsbox.Sandbox(resources=ResourceAllocation(processes=processes)) as sandbox:
        with pytest.raises(nsbox.UnsupportedHostError, match=r"max_open_files.*ulimit -Hn"):
            sandbox.shell("true")
        assert sandbox.status is SandboxStatus.RUNNING
