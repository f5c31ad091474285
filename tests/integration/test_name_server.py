"""Whom programs ask for names: /etc/resolv.conf, in every root."""

from pathlib import Path

import pytest
from roots import copy_with_libraries

import nsbox
from nsbox._config.networks import NAME_SERVER
from nsbox._network.addresses import GATEWAY

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]
EXPECTED = "nameserver 169.254.1.1\noptions edns0\n"
OTHER = "nameserver 192.0.2.53\n"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A root file system with a shell, and no /etc/resolv.conf."""
    root = tmp_path / "root"
    for program in ("sh", "cat", "ls"):
        copy_with_libraries(program, root)
    if not (root / "bin").exists():
        (root / "bin").symlink_to("usr/bin")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return root


def put(root: Path, kind: str) -> None:
    """What images have at this place."""
    path = root / "etc/resolv.conf"
    if kind == "a file":
        path.write_text(OTHER)
    elif kind == "a link to /run":
        path.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    elif kind == "a link in /etc":
        (root / "etc/resolv.real").write_text(OTHER)
        path.symlink_to("resolv.real")
    elif kind == "no /etc":
        (root / "etc/passwd").unlink()
        (root / "etc").rmdir()


KINDS = ("a file", "a link to /run", "a link in /etc", "nothing", "no /etc")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writable", [False, True], ids=("read-only", "writable"))
def test_a_directory_as_the_root_has_the_name_server(root: Path, kind: str, *, writable: bool) -> None:
    """Whatever the directory has there, which is not changed; after a restart and a reset too."""
    put(root, kind)
    path = root / "etc/resolv.conf"
    before = path.exists(), path.is_symlink()
    with nsbox.Sandbox(rootfs=root, writable_root=writable, timeout=20) as sandbox:
        for change in (None, sandbox.restart, sandbox.reset):
            if change is not None:
                change()
            result = sandbox.shell("cat /etc/resolv.conf")
            assert result.stdout == EXPECTED, result.stderr
        names = sandbox.shell("ls /etc").stdout.split()
        if kind != "no /etc":
            assert "passwd" in names
        if not writable:
            refused = sandbox.shell("echo x >/etc/other; cat /proc/self/mountinfo")
            assert "ead-only file system" in refused.stderr
            mounts = [line.split() for line in refused.stdout.splitlines()]
            assert {fields[5].split(",")[0] for fields in mounts if fields[4].startswith("/etc")} <= {"ro"}
    assert (path.exists(), path.is_symlink()) == before
    if kind == "a file":
        assert path.read_text() == OTHER


@pytest.mark.parametrize("writable", [False, True], ids=("read-only", "writable"))
def test_the_root_of_the_host_has_the_name_server(*, writable: bool) -> None:
    """Nothing is seen of the host's own, and without a network a name is not found, at once."""
    with nsbox.Sandbox(writable_root=writable, timeout=20) as sandbox:
        assert sandbox.shell("cat /etc/resolv.conf").stdout == EXPECTED
        asked = sandbox.execute(
            "import socket, time\nat = time.monotonic()\n"
            "try: socket.getaddrinfo('example.com', 80)\n"
            "except socket.gaierror: print('no', time.monotonic() - at < 2)\n"
        )
        assert asked.stdout == "no True\n", asked.stderr


def test_the_name_server_is_the_router() -> None:
    """Two packages of one layer have its address."""
    assert str(GATEWAY) == NAME_SERVER
    assert f"nameserver {NAME_SERVER}\n" in EXPECTED


def test_a_mount_of_the_caller_s_comes_over_it(root: Path, tmp_path: Path) -> None:
    """Over the file, as over every other one."""
    own = tmp_path / "own"
    own.write_text(OTHER)
    own.chmod(0o644)
    mount = nsbox.Mount(source=own, target="/etc/resolv.conf")
    for kind in ("nothing", "a file"):
        put(root, kind)
        with nsbox.Sandbox(rootfs=root, mounts=[mount], timeout=20) as sandbox:
            assert sandbox.shell("cat /etc/resolv.conf").stdout == OTHER
