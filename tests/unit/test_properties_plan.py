"""Whatever the configuration: a plan shows of the host what it may and nothing else, and nothing where it may not."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from anything import examples
from hypothesis import given
from hypothesis import strategies as st

from nsbox import ConfigError, ExecutionOptions, Mount, SandboxConfig, SandboxError
from nsbox._cgroups import CgroupTree
from nsbox._config import DiskAllocation, effective_limits, make_config
from nsbox._plan import Operation, OperationFlag, OperationKind, hostfiles, plan_execution, plan_template, writable
from nsbox._plan import root as plan_root
from nsbox._plan.identity import ROOT_MAP, SINGLE_MAP, IdMap
from nsbox._plan.users import HOST_PASSWD
from nsbox._seccomp import CompiledPolicy
from nsbox._supervisor import wire

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

K, F = OperationKind, OperationFlag
NO_CGROUPS = CgroupTree(mode="none", hierarchies=(), files=(), reasons={}, allowed_cpus=frozenset({0}))
ALLOW = CompiledPolicy(name="x", bpf=bytes(8), instructions=1, notifies=True)
MOUNTS = frozenset({
    K.BIND, K.PROC, K.DEVPTS, K.QUOTA_TMPFS, K.QUOTA_DEVICE, K.QUOTA_DIR, K.MASK, K.READ_ONLY, K.SOURCE, K.OVERLAY,
})  # fmt: skip
"""What hides what was at its path before."""

NAMES = st.sampled_from(
    ["a", "x y", "é", "proc", "sys", "dev", "etc", "usr", "run", "nsbox", "quota", "tmp", "shm", "mnt", "home", "user",
     "workspace", "var", "lib", "bin", "opt", "root", "python", ".", "..", "", "null"]
)  # fmt: skip
USUAL = st.sampled_from(
    ["/data", "/srv/a b/c", "/opt/x", "/workspace", "/workspace/in/x", "/tmp/a", "/home/user/b", "/mnt/c"]
)
PATHS = USUAL | st.lists(NAMES, max_size=4).map(lambda names: "/" + "/".join(names))
SOURCES = st.sampled_from(["data", "data/deep", "file", "to-etc", "to-file", "up", "missing"])
ENTRIES = st.dictionaries(
    st.sampled_from(["usr", "bin", "lib", "etc", "var", "opt", "srv", "home", "proc", "dev", "tmp", "run", "x y"]),
    st.sampled_from(["directory", "file", "/etc", "/", "..", "../..", "usr", "/proc/self/root", "data", "."]),
    max_size=6,
)  # fmt: skip


@pytest.fixture(name="host", scope="module")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something to mount: directories, files, and links that lead away."""
    host = tmp_path_factory.mktemp("host")
    (host / "data" / "deep").mkdir(parents=True)
    (host / "file").write_text("x")
    (host / "to-etc").symlink_to("/etc")
    (host / "to-file").symlink_to("file")
    (host / "up").symlink_to("..")
    return host


def make_root(directory: Path, entries: dict[str, str]) -> Path:
    """A root file system of somebody's who would like to see the host's."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "usr").mkdir(parents=True)
    for name, kind in entries.items():
        if name == "usr":
            continue
        if kind == "directory":
            (directory / name / "below").mkdir(parents=True)
        elif kind == "file":
            (directory / name).write_text(name)
        else:
            (directory / name).symlink_to(kind)
    return directory


def real(paths: Iterable[str]) -> dict[str, str]:
    """Where each path leads."""
    return {path: os.path.realpath(path) for path in paths}


def shown(config: SandboxConfig) -> dict[tuple[str, str], OperationFlag]:
    """All that may be bound or copied: path inside and path of the host, to what it may be."""
    allowed = {
        (f"/dev/{name}", os.path.realpath(f"/dev/{name}")): F.DEVICES | F.NO_EXEC for name, *_ in plan_root._DEVICES
    }
    if config.rootfs == "host":
        etc = [f"/etc/{name}" for name in writable._HOST_ETC] if config.writable_root else []
        allowed |= dict.fromkeys(real([*plan_root.host_trees(), *etc]).items(), F.NONE)
        allowed |= {(path, entry.path): F.NONE for path, entry in hostfiles.interpreter_prefixes()}
        if config.writable_root:
            allowed |= dict.fromkeys(real(["/var/lib/dpkg"]).items(), F.NONE)
    for mount in config.mounts:
        allowed[mount.target, os.path.realpath(mount.source)] = F.NONE if mount.read_only else F.WRITABLE
    return allowed


def check_of_host(one: Operation, config: SandboxConfig, allowed: dict[tuple[str, str], OperationFlag]) -> None:
    """A step that shows something of the host."""
    found = os.stat(one.arg, follow_symlinks=False)
    assert (found.st_dev, found.st_ino) == (one.a, one.b)
    if (one.path, one.arg) in allowed:
        assert one.flags == allowed[one.path, one.arg]
        return
    assert one.flags == F.NONE
    if config.rootfs == "host":
        # what else is mounted on the host below something that is shown, where it is shown
        assert config.writable_root
        assert any(one.path.removeprefix(path) == one.arg.removeprefix(source) for path, source in allowed)
        assert one.arg in hostfiles.mounts_below("/")
    else:
        assert hostfiles.is_below(one.arg, os.path.realpath(config.rootfs))


def check(operations: Sequence[Operation], config: SandboxConfig) -> None:
    """Each step of both lists, and what hides what."""
    allowed = shown(config)
    for one in operations:
        if one.kind is K.SYSCTL:
            assert one.path in ("kernel/shm_rmid_forced", "kernel/shmmax", "kernel/shmall")
            continue
        assert one.path.startswith("/")
        assert one.path == posixpath.normpath(one.path)
        assert one.path != "/"
        assert not {"", ".", ".."} & set(one.path.split("/")[1:])
        if one.kind in (K.BIND, K.COPY):
            check_of_host(one, config, allowed)
        elif one.kind is K.SYMLINK and config.rootfs != "host" and not one.path.startswith("/dev/"):
            root = os.path.realpath(config.rootfs)
            assert hostfiles.is_below(os.path.realpath(os.path.dirname(f"{root}{one.path}")), root)
            assert os.readlink(f"{root}{one.path}") == one.arg
        elif one.kind is K.QUOTA_DIR:
            assert not {"", ".", ".."} & set(one.arg.split("/"))
        elif one.flags & F.WRITABLE:
            assert one.kind is K.FILE
            assert one.path in ("/var/lib/dpkg/statoverride", "/etc/resolv.conf")
        if hostfiles.is_below(one.path, "/proc"):
            assert one.kind in (K.DIR, K.PROC, K.MASK, K.READ_ONLY)
        if hostfiles.is_below(one.path, "/dev") and one.kind is not K.DIR:
            known = {f"/dev/{name}" for name, *_ in (*plan_root._DEVICES, *plan_root._DEVICE_LINKS)}
            assert one.path in {*known, "/dev/pts", "/dev/shm"}
    check_nothing_is_hidden(operations, config)


def check_nothing_is_hidden(operations: Sequence[Operation], config: SandboxConfig) -> None:
    """What a sandbox needs, and what was asked for, is not covered by what comes later."""
    own = {"/proc", "/dev/pts", "/dev/shm", "/tmp", plan_root.HOME, plan_root.SOURCE_DIRECTORY}
    own |= {f"/dev/{name}" for name, *_ in plan_root._DEVICES}
    asked = {mount.target for mount in config.mounts}
    last = {one.path: index for index, one in enumerate(operations) if one.kind in MOUNTS and one.path in own | asked}
    assert last.keys() == own | asked
    for path, index in last.items():
        covering = [one for one in operations[index + 1 :] if one.kind in MOUNTS and hostfiles.is_below(path, one.path)]
        assert not covering
    working = config.working_directory
    there = (
        one.path == working or (one.kind in MOUNTS and hostfiles.is_below(working, one.path)) for one in operations
    )
    assert any(there)


def test_a_plan_shows_what_was_asked_for_and_the_system_and_nothing_else(host: Path, tmp_path: Path) -> None:
    """Any mounts and any working directory, on the host's root and on one that is full of links; or a ConfigError."""
    seen = {"planned": 0, "refused": 0, "mounted": 0}

    @examples(150)
    @given(
        st.dictionaries(PATHS, st.tuples(SOURCES, st.booleans()), max_size=3), PATHS, st.booleans(),
        st.none() | ENTRIES, st.sampled_from([ROOT_MAP, SINGLE_MAP]), st.booleans(),
    )  # fmt: skip
    def plan(
        mounts: dict[str, tuple[str, bool]], working: str, writable_root: bool, entries: dict[str, str] | None,
        ids: IdMap, on_disk: bool,
    ) -> None:  # fmt: skip
        rootfs: str | Path = "host" if entries is None else make_root(tmp_path / "root", entries)
        try:
            config = SandboxConfig(
                rootfs=rootfs,
                mounts=[
                    Mount(source=host / source, target=target, read_only=read_only)
                    for target, (source, read_only) in mounts.items()
                ],
                working_directory=working,
                writable_root=writable_root,
            )
            if on_disk:
                config = make_config(config, disk_mb=1)
            tree, cell = plan_root.root_operations(config, as_root=ids is ROOT_MAP)
        except ConfigError:
            seen["refused"] += 1
            return
        check((*tree, *cell), config)
        seen["planned"] += 1
        seen["mounted"] += bool(mounts)

    plan()
    assert min(seen.values()) > 20, seen


@pytest.mark.parametrize(
    "directory", ["/proc", "/proc/x", "/dev", "/dev/pts", "/sys", "/run/nsbox", "/home/x", "/etc/x"]
)
def test_a_working_directory_hides_nothing_of_the_system(directory: str) -> None:
    """Each of these would have been a mount over /proc, the devices, the program's text, its home or its accounts."""
    with pytest.raises(ConfigError, match="working_directory"):
        plan_root.root_operations(SandboxConfig(working_directory=directory), as_root=True)


@pytest.mark.parametrize("target", ["/run", "/run/quota/x", "/run/nsbox"])
def test_a_mount_that_would_be_hidden_is_refused(host: Path, target: str) -> None:
    """By what nsbox itself mounts there."""
    config = SandboxConfig(mounts=[Mount(source=host / "data", target=target)])
    with pytest.raises(ConfigError, match="target"):
        plan_root.root_operations(config, as_root=True)


@pytest.mark.parametrize("kind", ["file", "/etc", "nowhere"])
def test_the_var_of_a_root_may_be_anything(tmp_path: Path, kind: str) -> None:
    """A file, and links that lead out or nowhere: nothing of the host's is listed."""
    config = SandboxConfig(rootfs=make_root(tmp_path / "root", {"var": kind}))
    tree, _ = plan_root.root_operations(config, as_root=True)
    assert not [one for one in tree if one.path.startswith("/var/") and one.path != "/var/tmp"]


SECONDS = st.floats(0.001, 1e9)
MEGABYTES = st.sampled_from([1, 64, 2**20, 2**43 - 1])


@examples(60)
@given(
    memory=MEGABYTES, disk=MEGABYTES, inodes=st.sampled_from([16, 2**63 - 1]), wall=SECONDS, cpu=st.none() | SECONDS,
    own_memory=st.none() | MEGABYTES, user=st.sampled_from([None, "root", "user", "nobody", "nobody else", 0, 65_535]),
    arguments=st.lists(st.text(max_size=4), max_size=3), ids=st.sampled_from([ROOT_MAP, SINGLE_MAP]),
)  # fmt: skip
def test_whatever_may_be_configured_fits_the_wire(
    *, memory: int, disk: int, inodes: int, wall: float, cpu: float | None, own_memory: int | None,
    user: str | int | None, arguments: list[str], ids: IdMap,
) -> None:  # fmt: skip
    """The largest numbers that a configuration may have, too: a plan is encoded, or there is no plan."""
    try:
        config = make_config(memory_mb=memory, timeout=wall)
        resources = dataclasses.replace(config.resources, disk=DiskAllocation(quota_mb=disk, quota_inodes=inodes))
        config = make_config(config, resources=resources)
        options = ExecutionOptions(cpu_timeout=cpu, memory_limit_mb=own_memory, user=user, arguments=arguments)
        template = plan_template(config, NO_CGROUPS, ids, ALLOW)
        execution = plan_execution(
            config, NO_CGROUPS, ids, effective_limits(config, options), user=user, passwd=HOST_PASSWD,
            runtime_environment={}, allowed_cpus=2,
        )  # fmt: skip
    except SandboxError:
        return
    assert wire.encode_template(template)
    assert wire.encode_execution(execution, tuple(map(os.fsencode, arguments)))
    assert ids.has(execution.uid)
    assert ids.has(execution.gid)
    assert execution.uid != ids.init_id or ids is SINGLE_MAP
    assert execution.capabilities == 0
