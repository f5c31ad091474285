"""S: from the launcher's start to the program's first instruction, and what a hostile program finds of it."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from forked import in_child
from probing import inside, outside
from watching import Bell, parts_of_nsbox, programs, until

import nsbox
from nsbox._blocking import shutdown
from nsbox._host import landlock_abi
from nsbox._plan.identity import RANGE_FIRST
from nsbox._supervisor import start

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

CLONE_NEWNS = 0x0002_0000
MS_REC = 0x4000
MS_SHARED = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
SETUP_CALLS = (
    "clone3", "close_range", "openat2", "open_tree", "move_mount", "mount_setattr", "fsopen", "fsmount", "pivot_root",
    "setns", "unshare", "sethostname", "setgroups", "setresuid", "setresgid", "capset", "seccomp",
    "umount2", "signalfd4",
)  # fmt: skip

STARTS = 250  # 1,000 were tried once
RACED = ("tmp", "work", "mnt", "dev", "run")
SWAP = """
import ctypes, os, random, sys, time
root, canary, *names = sys.argv[1:]
renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
paths = [(os.fsencode(f"{root}/{name}"), os.fsencode(f"{root}/.{name}")) for name in names]
for _, link in paths:
    os.symlink(canary, link)
print("swapping", flush=True)
while True:
    name, link = random.choice(paths)
    for _ in range(2):  # there for a moment, and away again
        if renameat2(-100, name, -100, link, 2):  # AT_FDCWD, RENAME_EXCHANGE
            sys.exit(os.strerror(ctypes.get_errno()))
        time.sleep(random.random() / 2000)
"""


def own_mounts() -> None:
    """A mount namespace of this process' own, in which mounts are shared as systemd has them."""
    assert LIBC.unshare(CLONE_NEWNS) == 0
    assert LIBC.mount(None, b"/", None, MS_REC | MS_SHARED, None) == 0


def mount(kind: bytes, target: Path) -> None:
    """Mount an empty file system."""
    assert LIBC.mount(b"none", os.fsencode(target), kind, 0, None) == 0


def digest() -> str:
    """Of the launcher's file."""
    return hashlib.sha256(start._BINARY.read_bytes()).hexdigest()


def test_a_script_that_runs_its_own_executable_gets_a_launcher_that_refuses() -> None:
    """S01: `#!/proc/self/exe` starts the launcher as the program, which ends at once, and its file stays as it is."""
    before = digest()
    script = "printf '#!%s\\n' $1 >/workspace/$2 && chmod +x /workspace/$2"
    with nsbox.Sandbox() as sandbox:
        assert sandbox.run(["/bin/sh", "-c", script, "-", "/proc/self/exe", "again"]).ok
        assert sandbox.run(["/bin/sh", "-c", script, "-", "/bin/cat", "shown"]).ok
        assert sandbox.run(["/workspace/shown"]).stdout == "#!/bin/cat\n"
        results = [sandbox.run(["/workspace/again"]) for _ in range(10)]
    assert [one.exit_code for one in results] == [64] * 10  # EX_USAGE is the launcher's
    assert digest() == before


def test_the_program_inherits_three_descriptors_and_a_directory_of_its_own_root(tmp_path: Path) -> None:
    """S02: at exec only 0, 1 and 2 are open, all of them pipes, and the working directory is the sandbox's."""
    secret = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(secret, True)
    try:
        listing = ["/bin/sh", "-c", "for file in /proc/$$/fd/* /proc/$$/cwd; do readlink $file; done"]
        leaked = subprocess.run(listing, capture_output=True, text=True, check=True, close_fds=False).stdout
        assert str(tmp_path) in leaked
        with nsbox.Sandbox() as sandbox:
            found = sandbox.run(listing).stdout.split()
    finally:
        os.close(secret)
    assert len(found) == 4
    assert all(one.startswith("pipe:[") for one in found[:3])
    assert found[3] == "/workspace"


WATCH = """
import os, subprocess
own = subprocess.Popen(['/bin/sleep', '60'])
programs = set()
open('/bell/ring', 'w').write('watching\\n')
go = os.open('/bell/go', os.O_RDONLY | os.O_NONBLOCK)
hits = []
while True:
    try:
        if os.read(go, 1):
            break
    except BlockingIOError:
        pass
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            link = os.readlink(f'/proc/{pid}/exe')
        except OSError:
            continue
        if 'nsbox-launcher' not in link:
            programs.add(int(pid) == own.pid)
            continue
        for name in ('mem', 'environ', 'maps', 'auxv', 'fd', 'root/', 'cwd/'):
            try:
                os.close(os.open(f'/proc/{pid}/{name}', os.O_RDONLY))
            except OSError:
                continue
            hits.append(name)
own.kill()
print(len(hits), sorted(programs))
"""


@pytest.mark.parametrize("user", [None, "root"])
def test_a_program_cannot_look_into_a_process_on_its_way_into_the_sandbox(tmp_path: Path, user: str | None) -> None:
    """S03: while others are started, /proc never gives a watcher a process of nsbox's; it gives his own programs, and
    those of other executions where no Landlock keeps them apart. Nor to root inside, while processes become him.
    """
    bell = Bell(tmp_path)
    results: list[nsbox.ExecutionResult] = []
    try:
        with nsbox.Sandbox(mounts=[bell.mount], writable_root=user == "root") as sandbox:
            watcher = threading.Thread(target=lambda: results.append(sandbox.execute(WATCH, user=user)))
            watcher.start()
            bell.wait()
            for _ in range(30):
                assert sandbox.run(["/bin/sleep", "0.01"], user=user).ok
            bell.go()
            watcher.join()
    finally:
        bell.close()
    seen = [True] if landlock_abi() >= 6 else [False, True]
    assert results[0].stdout == f"0 {seen}\n", results[0].stderr


def test_hostile_links_in_a_root_lead_nowhere(tmp_path: Path) -> None:
    """S04: a root whose proc, dev, tmp and workspace are links out of it changes nothing outside, and stays usable."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy(start._BINARY, root / "usr/bin/program")  # static, and known to end with 64
    canary = tmp_path / "canary"
    canary.mkdir()
    for name, target in (("proc", "/"), ("dev", "/etc"), ("tmp", "../../.."), ("workspace", canary), ("home", canary),
                         ("run", canary), ("mnt", canary), ("trap", canary)):  # fmt: skip
        (root / name).symlink_to(target)
    before = Path("/proc/self/mountinfo").read_text()
    with nsbox.Sandbox(rootfs=root) as sandbox:
        assert sandbox.run(["/usr/bin/program"]).exit_code == 64
    with (
        pytest.raises(nsbox.SandboxError),
        nsbox.Sandbox(rootfs=root, mounts=[nsbox.Mount(source=tmp_path, target="/trap/in")]),
    ):
        pass
    assert list(canary.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before


def test_links_that_come_and_go_while_a_root_is_built_lead_nowhere(tmp_path: Path) -> None:
    """S04: hundreds of roots are built, of a tree whose directories are exchanged for links out of it and back.
    Each is built as it should be, or refused; nothing is mounted, made or written outside.
    """
    root, canary, source = tmp_path / "root", tmp_path / "canary", tmp_path / "source"
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy(start._BINARY, root / "usr/bin/program")
    for directory in (canary, source, *(root / name for name in RACED)):
        directory.mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, root, canary, *RACED], stdout=subprocess.PIPE, text=True)
    assert swapper.stdout is not None
    assert swapper.stdout.readline() == "swapping\n"
    made = refused = 0
    try:
        for number in range(STARTS):
            mount = nsbox.Mount(source=source, target=f"/mnt/{number}/in")  # another root each time
            try:
                with nsbox.Sandbox(rootfs=root, mounts=[mount], working_directory="/workspace/work") as sandbox:
                    assert sandbox.run(["/usr/bin/program"]).exit_code == 64
                made += 1
            except nsbox.SandboxError:
                refused += 1
            assert list(canary.iterdir()) == [], number
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.communicate()
    assert made > 10 < refused, (made, refused)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert list(source.iterdir()) == []


def test_a_false_procfs_stops_the_start() -> None:
    """S05: where a tmpfs lies over /proc there is no sandbox; without it there is one."""

    def start_one(*, false: bool) -> str:
        own_mounts()
        if false:
            mount(b"tmpfs", Path("/proc"))
        try:
            return nsbox.execute("print('ran')").stdout
        except OSError:  # SetupError is one
            return "refused"
        finally:
            shutdown()

    assert in_child(lambda: start_one(false=False)) == "ran\n"
    assert in_child(lambda: start_one(false=True)) == "refused"


def test_nothing_of_nsbox_loads_a_library_once_it_has_started() -> None:
    """S06: launcher, PID 1 and parked processes have no code but the launcher's own file mapped: there is no loader in
    it that could be made to take a library, a locale or a name service of the sandbox's. This process has many.
    """

    def code_of(pid: int | str) -> set[str]:
        lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        return {line[5] for line in lines if len(line) == 6 and "x" in line[1] and line[5].startswith("/")}

    assert any("libc" in path for path in code_of("self"))
    with nsbox.Sandbox(warm=False) as sandbox:
        assert sandbox.shell("getent passwd user && locale -a").stdout
        found = [code_of(pid) for pid in parts_of_nsbox()]
    assert len(found) >= 3
    assert {frozenset(one) for one in found} == {frozenset({str(start._BINARY.resolve())})}


def test_the_environment_of_an_execution_reaches_only_the_program(tmp_path: Path) -> None:
    """S07: LD_PRELOAD and its like are the program's; launcher, PID 1 and parked processes have no environment."""
    bell = Bell(tmp_path)
    variables = {"LD_PRELOAD": "/workspace/evil.so", "GCONV_PATH": "/workspace"}
    wait = "cat /bell/go >/dev/null & echo >/bell/ring; wait"
    found: list[bytes] = []
    results: list[nsbox.ExecutionResult] = []
    try:
        with nsbox.Sandbox(mounts=[bell.mount], environment={"PYTHONPATH": "/evil"}) as sandbox:
            running = threading.Thread(target=lambda: results.append(sandbox.shell(wait, environment=variables)))
            running.start()
            bell.wait()
            found = [Path(f"/proc/{pid}/environ").read_bytes() for pid in parts_of_nsbox()]
            theirs = [Path(f"/proc/{pid}/environ").read_bytes() for pid in programs()]
            sandbox.terminate_execution(next(iter(sandbox.executions)))
            running.join()
    finally:
        bell.close()
    assert len(found) >= 2
    assert set(found) == {b""}
    assert all(b"LD_PRELOAD=/workspace/evil.so" in one for one in theirs)
    assert "/workspace/evil.so" in results[0].stderr


def test_names_that_look_like_options_are_names(tmp_path: Path) -> None:
    """S08: commas, spaces, newlines, dashes and "+" in names reach the kernel as structures; NUL is refused."""
    odd = tmp_path / "a,rw,suid b\nc"
    odd.mkdir()
    (odd / "file").write_text("here")
    with nsbox.Sandbox(mounts=[nsbox.Mount(source=odd, target="/data,rw,exec=1")]) as sandbox:
        assert sandbox.run(["/bin/cat", "/data,rw,exec=1/file"]).stdout == "here"
        assert not sandbox.shell("echo x >'/data,rw,exec=1/file'").ok
        assert sandbox.run(["printf", "%s|"], arguments=["--version", "+x", "a\nb"]).stdout == "--version|+x|a\nb|"
        with pytest.raises(nsbox.ProgramStartError):
            sandbox.run(["--help"])
        with pytest.raises(nsbox.ConfigError):
            sandbox.run(["/bin/echo", "a\0b"])
    assert (odd / "file").read_text() == "here"


CAPABILITIES = r"""
import threading
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
found = set()
for task in os.listdir('/proc/self/task'):
    for line in read(f'/proc/self/task/{task}/status').splitlines():
        if line.startswith('Cap'):
            found.add(line.split()[1].lstrip('0'))
ask('capabilities', lambda: sorted(found))
ask('groups', os.getgroups)
ask('ids', lambda: [*os.getresuid(), *os.getresgid()])
"""


def test_a_program_has_no_capability_in_any_set_of_any_thread() -> None:
    """S09: inheritable, permitted, effective, bounding, ambient are empty, for root inside too; the caller has some."""
    assert outside(CAPABILITIES)["capabilities"] != [""]
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            assert inside(sandbox, CAPABILITIES, user=user)["capabilities"] == [""]


def test_no_process_inside_is_the_hosts_root_or_shares_a_uid_with_another_sandbox(tmp_path: Path) -> None:
    """S10: programs, root inside and PID 1 have host uids of their sandbox's own range, above all accounts."""
    ranges = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        bell = Bell(directory)
        try:
            with nsbox.Sandbox(mounts=[bell.mount]) as sandbox:
                for user in (None, "root"):
                    thread = threading.Thread(
                        target=lambda one=sandbox, user=user: one.shell("echo >/bell/ring; sleep 30", user=user)
                    )
                    thread.start()
                    bell.wait()
                    found = {psutil.Process(pid).uids().real for pid in programs()}
                    ranges += [(number, uid // 65_536) for uid in found]
                    assert all(uid >= RANGE_FIRST for uid in found)
                    assert found
                    sandbox.terminate_execution(next(iter(sandbox.executions)))
                    thread.join()
        finally:
            bell.close()
    assert len({index for _, index in ranges}) == 2
    assert len(set(ranges)) == 2


def test_supplementary_groups_of_the_caller_are_gone() -> None:
    """S11: getgroups is empty inside, with a caller who has groups."""

    def with_groups() -> tuple[list[int], list[int]]:
        os.setgroups([7, 12])
        try:
            with nsbox.Sandbox() as sandbox:
                return outside(CAPABILITIES)["groups"], inside(sandbox, CAPABILITIES)["groups"]
        finally:
            shutdown()

    assert in_child(with_groups) == ([7, 12], [])


def test_a_set_uid_copy_of_the_launcher_refuses() -> None:
    """S12: with AT_SECURE it ends with 64 before it does anything; the same copy without the bit fails later."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "launcher"
        shutil.copy(start._BINARY, copy)
        Path(name).chmod(0o755)

        def run(mode: int) -> int:
            copy.chmod(mode)
            return subprocess.run([copy, "90", "91", "user"], user=65_533, group=65_533, check=False).returncode

        assert run(0o755) == 71
        assert run(0o4755) == 64


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S13: the directory of the uid ranges is root's alone and no link, or there is no start."""
    state = tmp_path / "state"
    monkeypatch.setattr(start, "_STATE_DIRECTORY", state)
    os.close(start._open_range_locks())
    state.chmod(0o777)
    with pytest.raises(nsbox.SetupError, match="state-directory"):
        start._open_range_locks()
    state.chmod(0o700)
    os.chown(state, 65_533, 65_533)
    with pytest.raises(nsbox.SetupError, match="state-directory"):
        start._open_range_locks()
    os.chown(state, 0, 0)
    (state / "uid-ranges").unlink()
    (state / "uid-ranges").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(nsbox.SetupError, match="state-directory"):
        start._open_range_locks()
    link = tmp_path / "link"
    link.symlink_to(state)
    monkeypatch.setattr(start, "_STATE_DIRECTORY", link)
    with pytest.raises(nsbox.SetupError, match="state-directory"):
        start._open_range_locks()


def execute(sandbox: nsbox.Sandbox) -> str:
    """The verdict and the output of a program, or the name of the error."""
    try:
        result = sandbox.execute("print('ran')")
    except nsbox.SandboxError as exc:
        return type(exc).__name__
    return f"{result.verdict} {result.stdout}"


def without(name: str | None, *, writable_root: bool = False) -> set[str]:
    """Run a program with one system call answered ENOSYS, as an old kernel or another sandbox would."""
    if name is not None:
        import pyseccomp  # noqa: PLC0415  # loads libseccomp

        filter_ = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        filter_.add_rule(pyseccomp.ERRNO(38), name)
        filter_.load()
    try:
        with nsbox.Sandbox(writable_root=writable_root) as sandbox:
            return {execute(sandbox) for _ in range(8)}  # who is first, the order or the failure, is a race
    except nsbox.SandboxError as exc:
        return {type(exc).__name__}
    finally:
        shutdown()


@pytest.mark.parametrize("name", SETUP_CALLS)
def test_a_step_that_the_kernel_refuses_stops_the_program(name: str) -> None:
    """S14: with any call of the set-up refused no program runs, and the error is nsbox's or the host's."""
    assert in_child(lambda: without(name)) <= {"SetupError", "NetworkError", "UnsupportedHostError"}


@pytest.mark.parametrize(
    "name", ["mount_setattr", "fsopen", "sendfile", "capget", "capset", "setresuid", "prctl", "kill"]
)
def test_a_step_of_a_writable_root_that_the_kernel_refuses_stops_it(name: str) -> None:
    """S14: the same for what only such a one takes: overlays, copies, another id for PID 1; else it runs."""
    allowed = {"SetupError", "NetworkError", "UnsupportedHostError"}
    assert in_child(lambda: without(name, writable_root=True)) <= allowed
    assert in_child(lambda: without(None, writable_root=True)) == {"ok ran\n"}


def test_a_caller_without_its_capabilities_gets_an_error() -> None:
    """S15: root without CAP_SYS_ADMIN, as in a container, gets a SetupError; with it the program runs."""
    code = (
        "import nsbox\ntry: print(nsbox.execute('1').verdict)\nexcept nsbox.SandboxError as e: print(type(e).__name__)"
    )
    run = [sys.executable, "-c", code]
    bare = subprocess.run(["setpriv", "--bounding-set=-sys_admin", *run], capture_output=True, text=True, check=True)
    assert bare.stdout == "SetupError\n"
    assert in_child(lambda: without(None)) == {"ok ran\n"}


def test_nothing_is_run_in_a_suspended_sandbox() -> None:
    """S17: an execution in a suspended sandbox is an error and leaves no process in it; resumed, it runs."""
    with nsbox.Sandbox() as sandbox:
        sandbox.suspend()
        with pytest.raises(nsbox.InvalidStateError):
            sandbox.execute("print(1)")
        assert programs() == {}
        sandbox.resume()
        assert sandbox.execute("print(1)").ok


def test_mounts_pass_neither_from_a_sandbox_to_the_host_nor_back(tmp_path: Path) -> None:
    """S18: on a host with shared mounts, a mount at a host path stays inside, and a later one of the host's outside."""
    shared, late = tmp_path / "shared", tmp_path / "shared/late"
    late.mkdir(parents=True)
    (tmp_path / "other").mkdir()

    def try_both() -> tuple[bool, str, str]:
        own_mounts()
        mount(b"tmpfs", shared)
        late.mkdir()
        (shared / "in").mkdir()
        mounts = [
            nsbox.Mount(source=shared, target="/usr/share/doc"),
            nsbox.Mount(source=tmp_path / "other", target="/usr/share/misc"),
        ]
        before = Path("/proc/self/mountinfo").read_text()
        with nsbox.Sandbox(mounts=mounts) as sandbox:
            unchanged = Path("/proc/self/mountinfo").read_text() == before
            mount(b"tmpfs", late)
            (late / "secret").write_text("of the host")
            outside_now = (late / "secret").read_text()
            seen = sandbox.shell("ls /usr/share/doc/late").stdout
        shutdown()
        return unchanged, outside_now, seen

    assert in_child(try_both) == (True, "of the host", "")


PLANTED = """
import os, sys
try:
    with open('/opt/shared/told', 'a') as file:
        file.write(f'{os.getuid()} ')
except OSError:
    pass
"""


def test_what_programs_have_written_is_imported_by_no_warm_interpreter(tmp_path: Path) -> None:
    """S22: a `sitecustomize` that a program leaves in a mount is run by later programs, never before they are confined:
    not where the mount is writable, nor where another sandbox has it read-only.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    for path in (tmp_path, shared):
        path.chmod(0o777)
    environment = {"PYTHONPATH": "/opt/shared"}
    with nsbox.Sandbox(
        environment=environment, mounts=[nsbox.Mount(source=shared, target="/opt/shared", read_only=False)]
    ) as sandbox:
        plant = f"import os; os.umask(0); open('/opt/shared/sitecustomize.py', 'w').write({PLANTED!r})"
        assert sandbox.execute(plant).ok
        for _ in range(4):
            assert sandbox.execute("pass").ok
        assert sandbox.isolation["interpreter"] == "cold"
        assert set((shared / "told").read_text().split()) == {"1000"}
    mounts = [nsbox.Mount(source=shared, target="/opt/shared")]
    imported = "import sys; print('sitecustomize' in sys.modules)"
    with nsbox.Sandbox(environment=environment, mounts=mounts) as sandbox:
        assert sandbox.execute(imported).stdout == "True\n"
        assert sandbox.execute(imported).ok
        until(lambda: sandbox.isolation["interpreter"] == "warm", "the interpreter is warm", 30)
        assert sandbox.execute(imported).stdout == "False\n"
    assert set((shared / "told").read_text().split()) == {"1000"}
