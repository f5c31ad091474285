"""Sandboxes whose root is an image: by name from the cache, and by the path of a layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from images import Layout, directory, docker_archive, file, layer, symlink, tree
from roots import copy_with_libraries

import nsbox
from nsbox._rootfs import open_cache

pytestmark = pytest.mark.needs_user_namespace
NSBOX = (sys.executable, "-m", "nsbox._cli")
SECONDS = 100


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`nsbox`, run to its end."""
    return subprocess.run([*NSBOX, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS, **options)


@pytest.fixture(name="_cache", autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBOX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(name="layers", scope="module")
def _layers(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A shell and a few programs; on top of them a program where only the image's own PATH leads, and an account."""
    place = tmp_path_factory.mktemp("programs")
    for program in ("sh", "cat", "ls", "env", "id"):
        copy_with_libraries(program, place)
    if not (place / "bin").exists():
        (place / "bin").symlink_to("usr/bin")
    if not (place / "bin/sh").exists():
        shutil.copy(place / "usr/bin/sh", place / "bin/sh")
    extra = [
        directory("opt/tool/bin"),
        file("opt/tool/bin/tool", "#!/bin/sh\necho tool $LEVEL $HOME\n", mode=0o755),
        file("etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"),
        symlink("srv", "/opt/tool"),
    ]
    return [layer(*tree(place), file("etc/gone", "x")), layer(*extra, file("etc/.wh.gone"))]


CONFIG = {"Env": ["PATH=/opt/tool/bin:/usr/bin:/bin", "LEVEL=image", "HOME=/root"], "User": "ada", "WorkingDir": "/srv"}


@pytest.fixture(name="layout")
def _layout(layers: list[bytes], tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.add(layout.image(*layers, config=CONFIG), "tool:1")
    return layout


def test_an_image_that_was_imported_is_a_root_by_its_name(layers: list[bytes], tmp_path: Path) -> None:
    """`nsbox rootfs import`, `list` and `remove`, and `--rootfs NAME`; with the image's variables, below one's own."""
    archive = docker_archive(tmp_path / "saved.tar", [("tool:1", layers)], **CONFIG)
    done = command("rootfs", "import", str(archive), "tool")
    assert done.returncode == 0, done.stderr
    assert "variables for programs: LEVEL, PATH\n" in done.stdout
    assert "not used: User 'ada'\nnot used: WorkingDir '/srv'\n" in done.stdout
    again = command("rootfs", "import", str(archive), "tool")
    assert "the same, to the last bit, as what was there" in again.stdout
    (root,) = json.loads(command("rootfs", "list", "--json").stdout)["roots"]
    assert (root["name"], root["kind"], root["source"]) == ("tool", "image", "tool:1")
    assert "tool" in command("rootfs", "list").stdout
    for options, expected in (((), "tool image /home/user\n"), (("--env", "LEVEL=mine"), "tool mine /home/user\n")):
        done = command("run", "--rootfs", "tool", *options, "--", "tool")
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
    done = command(
        "run", "--rootfs", "tool", "--", "sh", "-c", "pwd; ls /etc; id -u; cat /srv/bin/tool | cat > copy; ls"
    )
    assert done.stdout.split() == ["/workspace", "passwd", "resolv.conf", "1000", "copy"], done.stderr
    assert command("rootfs", "remove", "tool").stdout == "removed tool\n"
    assert json.loads(command("rootfs", "list", "--json").stdout)["roots"] == []


def test_a_layout_is_unpacked_by_the_first_start(layout: Layout) -> None:
    """And not again by those that follow; `config` stays as it was written."""
    places = set()
    for _ in range(2):
        with nsbox.Sandbox(rootfs=layout.place, timeout=SECONDS) as sandbox:
            assert sandbox.config.rootfs == layout.place
            assert sandbox.run(["tool"]).stdout == "tool image /home/user\n"
        (name,) = open_cache().names()
        found = open_cache().find(name)
        assert found is not None
        places.add(found.place)
    assert len(places) == 1
    assert name.startswith("sha256-")
    layout.path(layout.manifests[0]["digest"]).write_bytes(b"{}")
    with pytest.raises(nsbox.ConfigError, match="is damaged"):
        nsbox.Sandbox(rootfs=layout.place).start()


async def test_a_root_that_is_used_stays(layout: Layout) -> None:
    """Through restart and reset, until the sandbox ends; a start that fails holds nothing."""
    assert (await trio.to_thread.run_sync(command, "rootfs", "import", str(layout.place), "tool")).returncode == 0
    cache = open_cache()
    async with nsbox.AsyncSandbox(rootfs="tool", timeout=SECONDS) as sandbox:
        for change in (sandbox.restart, sandbox.reset, None):
            assert (await sandbox.run(["tool"])).ok
            with pytest.raises(nsbox.InvalidStateError, match="a sandbox uses it"):
                cache.remove("tool")
            if change is not None:
                await change()
    failing = nsbox.AsyncSandbox(rootfs="tool", mounts=[nsbox.Mount(source=Path("/nowhere"), target="/data")])
    with pytest.raises(nsbox.ConfigError, match="nowhere"):
        await failing.start()
    cache.remove("tool")
    await failing.terminate()


def test_a_root_that_is_replaced_is_the_next_sandboxs(layers: list[bytes], layout: Layout, tmp_path: Path) -> None:
    """Who uses the old one goes on with it; one process sees both."""
    other = Layout(tmp_path / "other")
    other.add(other.image(layers[0], layers[1], layer(file("opt/tool/bin/tool", "#!/bin/sh\necho new\n", mode=0o755)),
                          config=CONFIG))  # fmt: skip
    assert command("rootfs", "import", str(layout.place), "tool").returncode == 0
    with nsbox.Sandbox(rootfs="tool", timeout=SECONDS) as first:
        assert first.run(["tool"]).stdout == "tool image /home/user\n"
        assert command("rootfs", "import", str(other.place), "tool").returncode == 0
        with nsbox.Sandbox(rootfs="tool", timeout=SECONDS) as second:
            assert second.run(["tool"]).stdout == "new\n"
        assert first.run(["tool"]).stdout == "tool image /home/user\n"
        first.reset()
        assert first.run(["tool"]).stdout == "new\n"


def test_a_pool_unpacks_a_layout_once(layout: Layout) -> None:
    """Sandboxes that start at the same time wait for the first one's."""
    with nsbox.Pool(size=3, rootfs=layout.place, timeout=SECONDS) as pool:
        outcomes = list(pool.map(lambda sandbox, _: sandbox.run(["tool"]).stdout, range(4)))
    assert outcomes == ["tool image /home/user\n"] * 4
    assert len([*open_cache().directory.glob("trees/*")]) == 1


def test_a_name_that_is_not_there_is_refused_with_what_to_do(layout: Layout) -> None:
    """A recipe's name, any other, and names that are there."""
    with pytest.raises(nsbox.ConfigError, match=r"no root of this name; there are none yet; nsbox rootfs build python"):
        nsbox.Sandbox(rootfs="python").start()
    command("rootfs", "import", str(layout.place), "tool")
    done = command("run", "--rootfs", "mine", "--", "true")
    assert done.returncode == 2
    assert "there are tool; nsbox rootfs import SOURCE mine, or a directory: './mine'" in done.stderr


def test_a_full_disk_is_told_and_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    """A cache on a file system of one MiB, in a mount namespace of its own."""
    (tmp_path / "small").mkdir(mode=0o700)
    script = (
        'mount -t tmpfs -o size=1m,mode=0700 none "$1/small" && export NSBOX_CACHE_DIR="$1/small" && '
        f'{sys.executable} -m nsbox._cli rootfs import "$1/layout" tool; echo $?; find "$1/small" -mindepth 2 -type d'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(tmp_path)], capture_output=True,
        text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert "No space left on device" in done.stderr, done
    assert set(done.stdout.split()) == {"125", f"{tmp_path}/small/rootfs/names", f"{tmp_path}/small/rootfs/trees"}
    assert layout.place.exists()


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
def test_root_inside_owns_what_root_owns_in_an_image(layout: Layout) -> None:
    """With a writable root; outside nothing is changed."""
    assert command("rootfs", "import", str(layout.place), "tool").returncode == 0
    with nsbox.Sandbox(rootfs="tool", writable_root=True, timeout=SECONDS) as sandbox:
        done = sandbox.shell("echo x > /opt/tool/bin/new && ls -ln /opt/tool/bin/tool /opt/tool/bin/new", user="root")
        assert done.ok, done.stderr
        assert [line.split()[2] for line in done.stdout.splitlines()] == ["0", "0"]
    found = open_cache().find("tool")
    assert found is not None
    assert os.listdir(found.root / "opt/tool/bin") == ["tool"]
