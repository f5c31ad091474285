"""What a sandbox sees as its root: the host's programs, or a directory, and what is mounted on top."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from roots import copy_with_libraries

import nsbox
from nsbox import Mount, Verdict

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A root file system with a shell and a few programs."""
    root = tmp_path / "root"
    for program in ("sh", "cat", "ls", "id", "mkdir", "touch", "env"):
        copy_with_libraries(program, root)
    if not (root / "bin").exists():
        (root / "bin").symlink_to("usr/bin")
    (root / "bin" / "sh").exists() or shutil.copy(root / "usr/bin/sh", root / "bin/sh")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nada:x:1815:1815::/home/ada:/bin/sh\n")
    (root / "etc/motd").write_text("mine\n")
    (root / "var/lib/data").mkdir(parents=True)
    (root / "var/tmp").mkdir()
    (root / "opt").symlink_to("/etc")
    (root / "srv").symlink_to("../../../../../etc")
    (root / "proc").mkdir()
    (root / "proc/fake").write_text("x")
    (root / "tmp").mkdir()
    (root / "tmp/old").write_text("x")
    return root


def test_a_directory_is_a_root(root: Path) -> None:
    """Its programs, /etc and users; /proc, /dev, /tmp and /workspace are the sandbox's own; no Python is needed."""
    with nsbox.Sandbox(rootfs=root, timeout=20) as sandbox:
        result = sandbox.shell(
            "cat /etc/motd; ls -A /tmp; ls -d /var/lib/data; ls /proc/fake; ls /proc/self/stat; id -u"
        )
        assert result.stdout.split() == ["mine", "/var/lib/data", "/proc/self/stat", "1000"], result.stderr
        who = sandbox.shell("id -u; id -g; echo $HOME $USER $PATH", user="ada").stdout.split()
        assert who == [
            "1815",
            "1815",
            "/home/ada",
            "ada",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        assert sandbox.shell("for d in /workspace /tmp /dev/shm /home/user; do touch $d/f || exit 1; done").ok
        refused = sandbox.shell("for d in / /etc /usr /var/lib /var/lib/data; do touch $d/f; done")
        assert refused.stderr.count("Read-only file system") == 5, refused.stderr
        with pytest.raises(nsbox.UnsupportedHostError, match="python3"):
            sandbox.execute("print(1)")
        assert sandbox.shell("true").ok
    assert sorted(path.name for path in (root / "tmp").iterdir()) == ["old"]
    assert not (root / "workspace").exists()


def test_links_of_a_root_lead_into_it(root: Path) -> None:
    """Absolute and relative ones out of it are resolved inside: they reach nothing of the host's (F01)."""
    canary = root.parent / "canary"
    canary.write_text("secret")
    (root / "etc/out").symlink_to(canary)
    (root / "etc/up").symlink_to("../" * 12 + str(canary).lstrip("/"))
    with nsbox.Sandbox(rootfs=root, timeout=20) as sandbox:
        assert sandbox.shell("cat /opt/motd; cat /srv/motd").stdout == "mine\n" * 2
        for path in ("/etc/out", "/etc/up", str(canary), f"/proc/1/root{canary}", f"/proc/self/root{canary}"):
            assert "secret" not in sandbox.run(["cat", path]).stdout
    with nsbox.Sandbox(rootfs=root, mounts=[Mount(source=canary, target="/data/canary")]) as sandbox:
        assert sandbox.run(["cat", "/data/canary"]).stdout == "secret"  # the control: it can be read where it is shown


@pytest.mark.needs_static
def test_a_static_program_is_root_enough(tmp_path: Path) -> None:
    """One file in /bin is enough to run it."""
    source = tmp_path / "hello.c"
    source.write_text('#include <unistd.h>\nint main(void) { return write(1, "hello\\n", 6) != 6; }\n')
    hello = tmp_path / "root/bin/hello"
    hello.parent.mkdir(parents=True)
    subprocess.run(["cc", "-static", "-o", hello, source], check=True)
    with nsbox.Sandbox(rootfs=tmp_path / "root", timeout=20) as sandbox:
        result = sandbox.run(["/bin/hello"])
        assert (result.verdict, result.stdout) == (Verdict.OK, "hello\n")


def test_what_holds_no_root_is_refused(tmp_path: Path) -> None:
    """An OCI layout that is none; and a directory with neither programs nor an image in it."""
    (tmp_path / "oci-layout").write_text("{}")
    with pytest.raises(nsbox.ConfigError, match="its layout has the version None"):
        nsbox.Sandbox(rootfs=tmp_path).start()
    (tmp_path / "oci-layout").unlink()
    with pytest.raises(nsbox.ConfigError, match="neither usr nor bin"):
        nsbox.Sandbox(rootfs=tmp_path).start()


def test_the_host_s_root_shows_programs_and_nothing_else() -> None:
    """No /root, /home, /srv, /boot, /var/lib, /sys, no account, host name or secret of the host's /etc (F01, I03)."""
    with nsbox.Sandbox(timeout=20) as sandbox:
        top = set(sandbox.run(["ls", "/"]).stdout.split())
        own = {
            "bin",
            "lib",
            "lib32",
            "lib64",
            "libx32",
            "sbin",
            "dev",
            "etc",
            "home",
            "mnt",
            "proc",
            "run",
            "tmp",
            "usr",
        }
        prefixes = {Path(prefix).parts[1] for prefix in (sys.prefix, sys.base_prefix)}
        assert top <= own | prefixes | {"var", "workspace"}
        assert (
            "/etc/shadow"
            not in sandbox.shell("ls /etc/shadow /etc/machine-id /etc/ssh /var/log /var/lib 2>/dev/null").stdout
        )
        assert sandbox.run(["cat", "/etc/passwd"]).stdout.count("\n") == 3
        assert sandbox.run(["cat", "/etc/hostname", "/proc/sys/kernel/hostname"]).stdout == "sandbox\n" * 2
        devices = set(sandbox.run(["ls", "/dev"]).stdout.split())
        streams = {"fd", "stdin", "stdout", "stderr"}
        assert devices == streams | {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm"}
        interfaces = sandbox.shell("tail -n +3 /proc/net/dev | cut -d: -f1").stdout.split()
        assert interfaces == ["lo"]


def test_the_interpreter_s_prefix_shows_itself_only() -> None:
    """What lies beside a prefix in a home directory stays unseen."""
    with nsbox.Sandbox(timeout=20) as sandbox:
        for prefix in {Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr")}:
            seen = sandbox.run(["ls", "-A", str(prefix.parent)]).stdout.split()
            assert prefix.name in seen
            hidden = {entry.name for entry in prefix.parent.iterdir()} - {prefix.name}
            assert not hidden & set(seen) or prefix.parent == Path("/")
        result = sandbox.execute("import sys, trio, msgpack; print(sys.executable, trio.__version__)")
        assert result.ok, result.stderr
        assert result.stdout.split()[0] == os.path.abspath(sys.executable) or result.stdout.startswith(
            str(Path(sys.prefix))
        )


def test_an_interpreter_whose_prefix_others_cannot_read_works(tmp_path: Path) -> None:
    """A virtual environment below a directory of mode 0700, as the application's own interpreter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", private / "env"], check=True, timeout=60)
    (private / "secret").write_text("secret")
    packages = next((private / "env/lib").glob("python3*")) / "site-packages"
    (packages / "only_here.py").write_text("name = 'only here'\n")
    (packages / "application.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
    code = """
import nsbox, sys
result = nsbox.execute('import only_here, sys; print(only_here.name, sys.prefix)')
print(result.stdout + result.stderr, end='')
print(nsbox.execute("print(open(%r).read())" % sys.argv[1]).stderr.splitlines()[-1].split(':')[0])
"""
    done = subprocess.run(
        [private / "env/bin/python", "-c", code, str(private / "secret")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"only here {private}/env\nFileNotFoundError\n", done.stderr


@pytest.mark.parametrize("target", ["/data", "/a/b/c", "/workspace/data", "/tmp/data", "/home/user/data", "/srv/x y"])
def test_a_mount_shows_a_directory(tmp_path: Path, target: str) -> None:
    """Read-only unless asked for, nosuid and nodev always; with what is mounted below."""
    (tmp_path / "file").write_text("content")
    tmp_path.chmod(0o777)
    with nsbox.Sandbox(mounts=[Mount(source=tmp_path, target=target)], timeout=20) as sandbox:
        assert sandbox.run(["cat", f"{target}/file"]).stdout == "content"
        refused = sandbox.run(["touch", f"{target}/new"])
        assert "Read-only file system" in refused.stderr
    with nsbox.Sandbox(mounts=[Mount(source=tmp_path, target=target, read_only=False)], timeout=20) as sandbox:
        assert sandbox.run(["touch", f"{target}/new"]).ok
        options = sandbox.run(["findmnt", "-no", "OPTIONS", "-T", f"{target}/new"]).stdout
        assert {"rw", "nosuid", "nodev"} <= set(options.strip().split(",")), options
    assert (tmp_path / "new").exists()


def test_a_mount_may_be_a_file_and_cover_a_file(tmp_path: Path) -> None:
    """One that is there in the read-only root; several mounts in one another, whatever their order."""
    motd = tmp_path / "motd"
    motd.write_text("mine")
    (tmp_path / "inner").mkdir()
    mounts = [
        Mount(source=motd, target="/data/inner/motd"),
        Mount(source=tmp_path / "inner", target="/usr/share/doc"),
        Mount(source=motd, target="/usr/bin/env"),
    ]
    with nsbox.Sandbox(mounts=mounts, timeout=20) as sandbox:
        assert sandbox.run(["cat", "/data/inner/motd", "/usr/bin/env"]).stdout == "minemine"
        assert sandbox.run(["ls", "-A", "/usr/share/doc"]).stdout == ""
    with nsbox.Sandbox() as sandbox:
        assert sandbox.run(["cat", "/usr/bin/env"]).stdout != "mine"


def test_a_source_that_is_a_link_shows_what_it_leads_to(tmp_path: Path) -> None:
    """The caller's link, resolved when the sandbox is made."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("content")
    (tmp_path / "link").symlink_to("real")
    with nsbox.Sandbox(mounts=[Mount(source=tmp_path / "link", target="/data")], timeout=20) as sandbox:
        assert sandbox.run(["cat", "/data/file"]).stdout == "content"


@pytest.mark.parametrize(
    "directory", ["/workspace", "/workspace/deep/er", "/tmp/x", "/home/user", "/srv/work", "/dev/shm"]
)
def test_the_working_directory_is_made_and_writable(directory: str) -> None:
    """Wherever it is, in the one quota; /workspace is there in any case."""
    with nsbox.Sandbox(working_directory=directory, disk_mb=4, timeout=20) as sandbox:
        result = sandbox.shell("pwd; touch x && ls; touch /workspace/y")
        assert (result.verdict, result.stdout) == (Verdict.OK, f"{directory}\nx\n"), result.stderr
        full = sandbox.run(["dd", "if=/dev/zero", "of=fill", "bs=1M", "count=5"])
        assert full.verdict is Verdict.DISK_LIMIT
        sandbox.restart()
        assert sandbox.shell("pwd; ls x").stdout == f"{directory}\nx\n"
