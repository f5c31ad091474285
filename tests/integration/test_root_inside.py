"""`writable_root=True`: root inside installs, adds users and changes files, and all of it is gone with the sandbox."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import packages
import pytest
from roots import copy_with_libraries

import nsbox
from nsbox import Mount, Verdict


def sandbox(**config: Any) -> nsbox.Sandbox:
    """One with a writable root, and room for package tools."""
    return nsbox.Sandbox(**{"writable_root": True, "timeout": 60, "memory_mb": 1024, **config})


def as_root(one: nsbox.Sandbox, command: str, *, user: str | int = "root") -> str:
    """The output of a shell command, which must succeed."""
    result = one.shell(f"set -e; {command}", user=user)
    assert result.ok, f"{result.verdict} {result.exit_code}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(name="shelf")
def _shelf(tmp_path: Path) -> Path:
    """A directory that everybody may read."""
    tmp_path.chmod(0o755)
    shelf = tmp_path / "shelf"
    shelf.mkdir(mode=0o755)
    return shelf


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_root_changes_the_root_and_it_is_gone_with_the_sandbox() -> None:
    """New, replaced and removed files below /usr, /etc, /var, /opt; kept by restart, gone after reset; not outside."""
    env = os.stat("/usr/bin/env")
    places = "/usr/new /etc/new /var/new /opt/new /home/new /root/new /run/new"
    with sandbox() as one:
        as_root(one, f"touch {places}; rm /usr/bin/env; echo changed > /etc/hostname; mv /usr/share /usr/shared")
        one.restart()
        assert as_root(one, "cat /etc/hostname; ls -d /usr/shared") == "changed\n/usr/shared\n"
        assert as_root(one, f"stat -c %u:%g {places}").split() == ["0:0"] * 7
        assert one.shell("env").exit_code == 127
        one.reset()
        assert as_root(one, "cat /etc/hostname; ls -d /usr/share /usr/bin/env").split()[0] == "sandbox"
        assert one.shell(f"ls {places}").stdout == ""
    now = os.stat("/usr/bin/env")
    assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (env.st_ino, env.st_mtime_ns, env.st_ctime_ns)
    assert not any(os.path.exists(path) for path in ("/usr/new", "/etc/new", "/var/new", "/opt/new", "/usr/shared"))


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_the_file_api_reads_and_writes_a_writable_root() -> None:
    """Places of programs and of root alike; what root inside has put where the quota lies elsewhere does not matter."""
    with sandbox() as one:
        for trap in ("true", "mkdir /run/quota", "rmdir /run/quota; ln -s /workspace /run/quota"):
            as_root(one, trap)
            for path in ("/workspace/x", "/home/user/x", "/tmp/x", "/opt/x", "/etc/x", "/usr/local/x", "/run/x"):
                one.write_file(path, "from outside")
                assert as_root(one, f"cat {path}") == "from outside"
                assert one.download_file(path) == b"from outside"
                assert path in {info.path for info in one.list_files(path.rpartition("/")[0])}
                one.delete_file(path)
        assert as_root(one, "ls /workspace /opt /run") == "/opt:\n\n/run:\nlock\nnsbox\nquota\n\n/workspace:\n"


@pytest.mark.needs_root
def test_others_than_root_change_nothing_of_it() -> None:
    """The user of the sandbox finds the root as it is elsewhere: readable, and not his."""
    with sandbox() as one:
        refused = one.shell("for d in /usr /etc /var /opt /root /run; do touch $d/f; done; rm /usr/bin/env")
        assert refused.stderr.count("Permission denied") == 7, refused.stderr
        assert one.execute("print(1)").stdout == "1\n"
        assert one.shell("touch ~/f /tmp/f /var/tmp/f /workspace/f && rm /var/tmp/f").ok


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_without_it_root_inside_has_a_read_only_root() -> None:
    """The control, in the same run and of the same kind but for this: `user="root"` alone writes nothing there."""
    with sandbox(writable_root=False) as one, sandbox() as other:
        for path in ("/usr/f", "/etc/f"):
            assert "Read-only" in one.shell(f"touch {path}", user="root").stderr
            as_root(other, f"touch {path}")


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.needs_tool("adduser")
@pytest.mark.needs_tool("useradd")
def test_users_are_added_and_programs_run_as_them() -> None:
    """By name and number from the next execution on, with the home directory that was made for them; and by su."""
    with sandbox() as one:
        as_root(one, "adduser --disabled-password --gecos '' alice; useradd -m -u 2001 bob; groupadd crew")
        as_root(one, "usermod -aG crew alice; echo 'alice:secret' | chpasswd")
        assert one.shell("id -un; echo $HOME; touch ~/f && ls ~", user="alice").stdout == "alice\n/home/alice\nf\n"
        assert one.shell("id -un; pwd; echo $HOME", user=2001).stdout == "bob\n/workspace\n/home/bob\n"
        assert one.shell("ls /home/alice", user="bob").ok is False
        as_root(one, "deluser bob")
        with pytest.raises(nsbox.ProgramStartError, match="no user 'bob'"):
            one.run(["id"], user="bob")
        for tool in (
            "su alice -c id",
            "runuser -u alice -- id",
            "setpriv --reuid=alice --regid=alice --init-groups id",
        ):
            found = as_root(one, tool)
            assert found.startswith("uid=1001(alice) gid=1001(alice)"), found
            assert "(crew)" in found


ROOT_SUITE = """
import os, pathlib, pwd, shutil, signal, subprocess, tempfile

def as_user(function, uid=1000):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        try:
            function()
        except PermissionError:
            os._exit(13)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert os.geteuid() == 0 and pwd.getpwuid(0).pw_dir == os.environ['HOME'] == '/root'
place = pathlib.Path(tempfile.mkdtemp())
place.chmod(0o755)
file = place / 'file'
file.write_text('x')
os.chown(file, 1000, 4321)
assert (file.stat().st_uid, file.stat().st_gid) == (1000, 4321)
file.chmod(0o600)
assert as_user(lambda: file.read_text()) == 0
assert as_user(lambda: file.read_text(), 1234) == 13
file.chmod(0o2755)
assert file.stat().st_mode & 0o7777 == 0o2755
pathlib.Path('/etc/mine.conf').write_text('mine')
assert as_user(lambda: pathlib.Path('/etc/mine.conf').write_text('theirs')) == 13
shutil.chown('/usr/bin/env', 'user', 'user')
assert os.stat('/usr/bin/env').st_uid == 1000
os.seteuid(1000)
try:
    pathlib.Path('/etc/other').touch()
    raise SystemExit('written')
except PermissionError:
    pass
os.seteuid(0)
sleeper = subprocess.Popen(['sleep', '60'], user=1000, group=1000, extra_groups=[])
os.kill(sleeper.pid, signal.SIGTERM)
assert sleeper.wait() == -signal.SIGTERM
os.symlink('/etc/mine.conf', '/var/lib/link')
os.link('/usr/bin/env', '/usr/bin/env2')
os.rename('/usr/share', '/usr/other')
print('passed')
"""


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.parametrize("disk_mb", [256, pytest.param(1100, marks=pytest.mark.needs_loop)])
def test_a_test_suite_that_wants_root_passes(disk_mb: int) -> None:
    """Owners, modes, other users, /etc, signals, links, directories of the lower layer: in memory and on an image."""
    with sandbox(disk_mb=disk_mb) as one:
        result = one.execute(ROOT_SUITE, user="root")
        assert result.stdout == "passed\n", result.stderr


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.needs_tool("dpkg-deb")
@pytest.mark.needs_tool("adduser")
@pytest.mark.parametrize("disk_mb", [256, pytest.param(1100, marks=pytest.mark.needs_loop)])
def test_dpkg_installs_a_package(shelf: Path, disk_mb: int) -> None:
    """Files, configuration, a user from its postinst; removed and purged again; the host's packages are known."""
    packages.make_deb(shelf)
    with sandbox(mounts=[Mount(source=shelf, target="/mnt/shelf")], disk_mb=disk_mb) as one:
        as_root(one, "dpkg -i /mnt/shelf/hello.deb")
        assert one.run(["hello-inside"]).stdout == "hello from a package\n"
        assert as_root(one, "stat -c %U:%G /var/lib/hello; dpkg-query -W -f '${Status}' hello-inside") == (
            "hellod:hellod\ninstall ok installed"
        )
        assert as_root(one, "dpkg-query -W -f '${Status}' dpkg") == "install ok installed"
        as_root(one, "dpkg -r hello-inside; test -e /etc/hello/conf; dpkg -P hello-inside; test ! -e /etc/hello")
        assert one.shell("hello-inside").exit_code == 127
    assert subprocess.run(["dpkg", "-s", "hello-inside"], capture_output=True, check=False).returncode != 0


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.needs_tool("dpkg-deb")
@pytest.mark.needs_tool("apt-get")
@pytest.mark.needs_tool("adduser")
def test_apt_get_installs_a_local_package(shelf: Path) -> None:
    """With its dependencies looked up among the host's packages."""
    packages.make_deb(shelf)
    with sandbox(mounts=[Mount(source=shelf, target="/mnt/shelf")]) as one:
        as_root(one, "apt-get install -y /mnt/shelf/hello.deb")
        assert one.run(["hello-inside"]).stdout == "hello from a package\n"
        as_root(one, "apt-get purge -y hello-inside")
        assert one.shell("hello-inside").exit_code == 127


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_pip_installs_into_the_interpreter_itself(shelf: Path) -> None:
    """A local wheel, into the directory of the interpreter that the sandbox shows; every user inside can import it."""
    wheel = packages.make_wheel(shelf)
    with sandbox(mounts=[Mount(source=shelf, target="/mnt/shelf")]) as one:
        assert "ModuleNotFoundError" in one.execute("import hello_inside").stderr
        as_root(one, f"python3 -m pip install -q --no-index /mnt/shelf/{wheel.name}")
        assert one.execute("import hello_inside; print(hello_inside.WORD)").stdout == "hello from a wheel\n"
        as_root(one, "python3 -m pip uninstall -q -y hello-inside")
        assert "ModuleNotFoundError" in one.execute("import hello_inside").stderr
    tried = subprocess.run([sys.executable, "-c", "import hello_inside"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in tried.stderr


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_the_quota_holds_for_the_root() -> None:
    """What is written to /usr, and what is copied because it is changed, is the sandbox's own disk: full is full."""
    fill = "i=0; while dd if=/dev/zero of=/usr/fill$i bs=1M count=60 2>/dev/null; do i=$((i+1)); done; exit 1"
    with sandbox(disk_mb=24) as one:
        as_root(one, "dd if=/dev/zero of=/usr/fits bs=1M count=8; chmod 600 /usr/bin/env")
        before = one.metadata.total_disk_used
        assert 8 << 20 <= before < (10 << 20)
        full = one.shell(fill, user="root")
        assert full.verdict is Verdict.DISK_LIMIT, full
        assert one.metadata.total_disk_used <= 24 << 20
        as_root(one, "rm /usr/fill*; echo x > /etc/fits")


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A root file system of its own: a few programs, and an /etc, /var, /root and /srv that the host does not have."""
    tmp_path.chmod(0o755)
    root = tmp_path / "root"
    for program in ("sh", "cat", "chmod", "id", "ls", "mkdir", "rm", "stat", "touch"):
        copy_with_libraries(program, root)
    if not (root / "bin").exists():
        (root / "bin").symlink_to("usr/bin")
    (root / "bin/sh").exists() or shutil.copy(root / "usr/bin/sh", root / "bin/sh")
    for name in ("etc", "var/lib/data", "root", "srv/site"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nada:x:1815:1815::/home/ada:/bin/sh\n")
    (root / "etc/secret").write_text("its own\n")
    (root / "etc/secret").chmod(0o600)
    (root / "root/.profile").touch()
    os.chown(root / "var/lib/data", 1815, 1815)
    return root


def contents(root: Path) -> dict[str, tuple[int, ...]]:
    """Every file below `root`, with what changes when it is changed."""
    found = ((path, path.lstat()) for path in (root, *root.rglob("*")))
    return {
        str(path): (one.st_ino, one.st_mode, one.st_uid, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for path, one in found
    }


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_a_directory_is_a_writable_root_and_stays_as_it_is(root: Path) -> None:
    """All of it is root's inside, by the owners that it has there; /opt and /home, which it lacks, are there too."""
    before = contents(root)
    with sandbox(rootfs=root) as one:
        assert as_root(one, "cat /etc/secret; ls -A /root; stat -c %u:%a /root /var/lib/data /home /opt") == (
            "its own\n.profile\n0:700\n1815:755\n0:755\n0:755\n"
        )
        assert one.shell("cat /etc/secret").exit_code == 1
        as_root(one, "touch /etc/a /usr/b /var/lib/c /opt/d /srv/site/e /root/f; rm -r /etc/secret /srv/site")
        as_root(one, "echo bob:x:77:78::/home/bob:/bin/sh >> /etc/passwd; chmod 700 /usr")
        as_root(one, "chmod 755 /usr; ls /opt/d")
        assert one.shell("touch /var/lib/data/f && id -u", user="ada").stdout == "1815\n"
        assert one.shell("id -u; id -g; echo $HOME", user="bob").stdout == "77\n78\n/home/bob\n"
    assert contents(root) == before


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_mounts_are_shown_in_a_writable_root_and_keep_their_own_rules(shelf: Path) -> None:
    """Below /usr, /etc, /opt and at /opt itself: what is read-only stays so, and its owners are nobody inside."""
    (shelf / "file").write_text("shown\n")
    (shelf / "private").write_text("not for others\n")
    (shelf / "private").chmod(0o600)
    mounts = [
        Mount(source=shelf, target="/usr/share/shelf"), Mount(source=shelf / "file", target="/etc/hello.conf"),
        Mount(source=shelf, target="/opt/a/b"), Mount(source=shelf, target="/srv/deep/shelf"),
    ]  # fmt: skip
    with sandbox(mounts=mounts) as one:
        assert (
            as_root(one, "cat /usr/share/shelf/file /etc/hello.conf /opt/a/b/file /srv/deep/shelf/file")
            == "shown\n" * 4
        )
        refused = one.shell("echo x > /usr/share/shelf/file; echo x > /etc/hello.conf; rm /opt/a/b/file", user="root")
        assert refused.stderr.count("Read-only file system") == 3, refused.stderr
        assert one.shell("cat /usr/share/shelf/private; chmod 644 /usr/share/shelf/private", user="root").stdout == ""
        as_root(one, "touch /usr/share/beside /etc/beside /opt/beside")
    with sandbox(mounts=[Mount(source=shelf, target="/opt")]) as one:
        assert as_root(one, "cat /opt/file") == "shown\n"


IN_OWN_MOUNTS = """
import os, subprocess, sys
import nsbox
top = {top!r}
def mount(*words):
    subprocess.run(['mount', *words], check=True)
mount('-t', 'tmpfs', 'tmpfs', top + '/root/srv/site')
open(top + '/root/srv/site/below', 'w').write('below')
with nsbox.Sandbox(writable_root=True, rootfs=top + '/root', timeout=60) as one:
    done = one.shell('cat /srv/site/below; touch /srv/site/new; rm /srv/site/below; ls /srv/site', user='root')
    print('nested:', done.stdout.split(), done.stderr)
for name in ('upper', 'work', 'merged'):
    os.mkdir(top + '/' + name)
layers = ','.join(f'{{name}}={{top}}/{{path}}' for name, path in
                  (('lowerdir', 'root'), ('upperdir', 'upper'), ('workdir', 'work')))
mount('-t', 'overlay', 'overlay', '-o', layers, top + '/merged')
with nsbox.Sandbox(rootfs=top + '/merged', timeout=60) as one:
    print('control:', one.shell('cat /etc/passwd').verdict)
try:
    nsbox.Sandbox(writable_root=True, rootfs=top + '/merged').start()
except nsbox.UnsupportedHostError as exc:
    print('refused:', repr(str(exc)), exc.missing, exc.remedies)
"""


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.needs_tool("unshare")
def test_file_systems_below_the_root_are_writable_too_or_refused_by_name(root: Path) -> None:
    """A tmpfs mounted in it gets an overlay of its own; overlayfs itself can shift no ids, and is refused as a root."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c"]
    done = subprocess.run(
        [*command, IN_OWN_MOUNTS.format(top=str(root.parent))], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    nested, control, refused = done.stdout.splitlines()
    assert nested == "nested: ['belownew'] "
    assert control == "control: ok"
    assert "idmapped mounts" in refused
    assert "rootfs=DIRECTORY" in refused


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_a_working_directory_may_lie_in_the_writable_root(root: Path) -> None:
    """One that is not there is made, for the sandbox's user; one that is there is used as it is; above it is root's."""
    with sandbox(working_directory="/usr/src/a/b") as one:
        assert one.shell("pwd; touch f; stat -c %u . ..; ls -d /usr/src /usr/bin").stdout.split() == [
            "/usr/src/a/b", "1000", "0", "/usr/bin", "/usr/src",
        ]  # fmt: skip
        as_root(one, "touch /usr/src/a/g; touch h")
    for path in ("/opt/app", "/var/www/site", "/home/ada", "/etc/app", "/root/app"):
        with sandbox(working_directory=path) as one:
            assert one.shell("pwd; touch f; stat -c %u .").stdout.split() == [path, "1000"]
            as_root(one, "id; touch /opt/x /var/x /etc/x; ls /etc/passwd /home/user")
    with sandbox(working_directory="/usr/share") as one:
        assert one.shell("pwd; stat -c %u .").stdout.split() == ["/usr/share", "0"]
        as_root(one, "touch f")
    with sandbox(rootfs=root, working_directory="/srv/site") as one:
        assert as_root(one, "pwd; touch f; ls") == "/srv/site\nf\n"
    with pytest.raises(nsbox.ConfigError, match="working_directory='/'"):
        sandbox(working_directory="/").start()


HOSTILE = {
    "a million lines": ("yes x: | head -c 3000000 > /etc/passwd", "no user 'alice'"),
    "a uid beyond the map": ("echo alice:x:70000:70000::/:/bin/sh >> /etc/passwd", "uid 70000"),
    "the uid of PID 1": ("echo alice:x:65533:65533::/:/bin/sh >> /etc/passwd", "uid 65533"),
    "the gid of PID 1": ("echo alice:x:5:65533::/:/bin/sh >> /etc/passwd", "gid 65533"),
    "no number": ("echo alice:x:-1:0::/:/bin/sh >> /etc/passwd", "no user 'alice'"),
    "a number that is too large": ("echo alice:x:99999999999999999999:0::/:/bin/sh >> /etc/passwd", "no user 'alice'"),
    "a NUL": (r"printf 'alice:x:5:5::/\0:/bin/sh\n' >> /etc/passwd", "no user 'alice'"),
    "a FIFO": ("rm /etc/passwd; mkfifo /etc/passwd", "no user 'alice'"),
    "a directory": ("rm /etc/passwd; mkdir /etc/passwd", "no user 'alice'"),
    "a device": ("rm /etc/passwd; ln -s /dev/zero /etc/passwd", "no user 'alice'"),
    "a magic link": ("rm /etc/passwd; ln -s /proc/self/fd/0 /etc/passwd", "no user 'alice'"),
    "a loop": ("rm /etc/passwd; ln -s passwd /etc/passwd", "no user 'alice'"),
    "nothing": ("rm /etc/passwd", "no user 'alice'"),
}


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_passwd_is_a_clear_error(kind: str) -> None:
    """Whatever root inside makes of it: the error names what was looked for, and the sandbox goes on."""
    command, message = HOSTILE[kind]
    with sandbox() as one:
        as_root(one, command)
        with pytest.raises(nsbox.ProgramStartError, match=message):
            one.run(["id"], user="alice")
        as_root(one, "rm -rf /etc/passwd; echo alice:x:5:6::/home/a:/bin/sh > /etc/passwd", user=0)
        assert one.shell("id -u; id -g; echo $HOME", user="alice").stdout == "5\n6\n/home/a\n"


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_a_passwd_that_is_a_link_is_not_followed(shelf: Path) -> None:
    """Neither to a mounted file that only the host's root may read, nor inside; as a file, the same text is read."""
    line = "alice:x:7:7::/:/bin/sh"
    (shelf / "private").write_text(f"{line}\n")
    (shelf / "private").chmod(0o600)
    with sandbox(mounts=[Mount(source=shelf, target="/shelf")]) as one:
        for target in ("/shelf/private", "/usr/passwd"):
            as_root(one, f"echo {line} > /usr/passwd; rm /etc/passwd; ln -s {target} /etc/passwd", user=0)
            with pytest.raises(nsbox.ProgramStartError, match="no user 'alice'"):
                one.run(["id"], user="alice")
        as_root(one, "mv /usr/passwd /etc/passwd", user=0)
        assert one.shell("id -u", user="alice").stdout == "7\n"


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_root_may_kill_everything_inside_and_the_sandbox_goes_on() -> None:
    """Signals to all but itself, twice: the next programs run, as root and not."""
    with sandbox() as one:
        for _ in range(2):
            one.shell("kill -9 -1", user="root")
            assert one.shell("id -u").stdout == "1000\n"
            assert as_root(one, "id -u") == "0\n"


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_the_command_line_has_it() -> None:
    """`--writable-root`, beside `--user root`."""
    command = [sys.executable, "-m", "nsbox._cli", "run", "--json", "--user", "root"]
    for words, status in (([], 1), (["--writable-root"], 0)):
        done = subprocess.run(
            [*command, *words, "--", "touch", "/etc/new"], capture_output=True, text=True, check=False, timeout=60
        )
        assert json.loads(done.stdout)["exit_status"] == done.returncode == status


@pytest.mark.needs_rootless
def test_without_root_it_is_refused_with_the_remedy() -> None:
    """There are no ids that could be root's inside; without it the same sandbox starts."""
    one = nsbox.Sandbox(writable_root=True)
    with pytest.raises(nsbox.UnsupportedHostError, match="root inside") as caught:
        one.start()
    assert caught.value.remedies[0] == "run as root"
    with nsbox.Sandbox() as other:
        assert other.shell("true").ok


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_host_without_shifted_ids_is_told_so() -> None:
    """On its root there is a writable one, or the error names the file system's lack and the remedy."""
    one = sandbox()
    refused = None
    try:
        one.start()
        as_root(one, "touch /usr/new")
    except nsbox.UnsupportedHostError as exc:
        refused = exc
    finally:
        one.terminate()
    if refused is not None:
        assert refused.missing == ("overlay",)
        assert any("rootfs=DIRECTORY" in remedy or "modprobe" in remedy for remedy in refused.remedies)
    with sandbox(writable_root=False) as other:
        assert other.shell("true").ok
