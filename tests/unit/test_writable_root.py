"""What a writable root is planned from: ids, cgroups, accounts, file systems below."""

import errno
from pathlib import Path

import pytest

from nsbox import ProgramStartError, SandboxConfig, UnsupportedHostError
from nsbox._cgroups import CgroupTree
from nsbox._host.facts import _filesystem_of
from nsbox._plan import OperationKind, hostfiles, overlay_error, plan_template, writable
from nsbox._plan.identity import ROOT_MAP, SINGLE_MAP, SUBUID_MAP, IdMap
from nsbox._plan.operations import Operation
from nsbox._plan.users import User, find_user
from nsbox._seccomp import compile_policy

CONFIG = SandboxConfig(writable_root=True)


@pytest.mark.parametrize(
    ("ids", "missing"), [(ROOT_MAP, "process_limit"), (SUBUID_MAP, "uid_range"), (SINGLE_MAP, "uid_range")]
)
def test_a_host_that_cannot_bound_root_inside_is_refused(ids: IdMap, missing: str) -> None:
    """Without ids of each sandbox's own, or without a limit on processes; other kinds are planned there."""
    tree = CgroupTree(mode="none", hierarchies=(), files=(), reasons={}, allowed_cpus=frozenset({0}))
    with pytest.raises(UnsupportedHostError) as caught:
        plan_template(CONFIG, tree, ids, compile_policy("default"))
    assert caught.value.missing == (missing,)
    assert caught.value.remedies
    plain = plan_template(SandboxConfig(), tree, ids, compile_policy("default"))
    assert plain.capabilities == 0
    kinds = {one.kind for one in (*plain.root_operations, *plain.cell_operations)}
    assert not kinds & {OperationKind.OVERLAY, OperationKind.COPY}


def test_accounts_are_whole_and_locked() -> None:
    """Each of passwd has a line in shadow, each of group one in gshadow; root and the sandbox's user come first."""
    files = {name: text.splitlines() for name, (text, _) in writable._accounts().items()}
    names = {name: [line.split(":")[0] for line in lines] for name, lines in files.items()}
    assert names["passwd"][:2] == names["group"][:2] == ["root", "user"]
    assert (names["passwd"], names["group"]) == (names["shadow"], names["gshadow"])
    assert len(set(names["passwd"])) == len(names["passwd"])
    assert {line.split(":")[1] for line in (*files["shadow"], *files["gshadow"])} == {"*"}
    assert {len(line.split(":")) for line in files["passwd"]} == {7}
    assert {len(line.split(":")) for line in files["group"]} == {4}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL])
def test_what_a_host_lacks_for_an_overlay_is_named_with_its_remedy(code: int) -> None:
    """By path and reason; a full quota, or another step, is not the host's lack."""
    overlay = Operation(OperationKind.OVERLAY, "/usr", "overlay%usr")
    error = overlay_error(overlay, code)
    assert error is not None
    assert "/usr" in str(error)
    assert error.remedies
    assert overlay_error(overlay, errno.ENOSPC) is None
    assert overlay_error(Operation(OperationKind.BIND, "/usr"), code) is None


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /usr rw shared:1 - overlay overlay rw
23 21 0:6 / /usrlocal rw - xfs /dev/sdb rw
24 22 0:7 / /usr rw - btrfs /dev/sdc rw
25 24 0:8 / /usr/share/a\\040b rw - tmpfs tmpfs rw
"""


def test_the_file_system_of_a_path_is_that_of_the_innermost_mount() -> None:
    """Not of one whose name only begins alike; of two at one place the later."""
    found = {path: _filesystem_of(path, MOUNTS) for path in ("/", "/etc", "/usr", "/usr/bin", "/usrlocal/x")}
    assert found == {"/": "ext4", "/etc": "ext4", "/usr": "btrfs", "/usr/bin": "btrfs", "/usrlocal/x": "xfs"}


def test_what_is_mounted_below_a_directory_is_found_by_its_real_name() -> None:
    """/proc/self/mountinfo of this process; the directory itself is not below itself."""
    everything = hostfiles.mounts_below("/")
    assert "/proc" in everything
    assert "/" not in everything
    assert all(Path(point).is_absolute() and "\\0" not in point for point in everything)
    assert "/proc" not in hostfiles.mounts_below("/proc")


USERS = "root:x:0:0::/root:/bin/sh\nbroken:x:1\nada:x:0815:20:A:/home/ada:/bin/sh\nada:x:9:9::/:/bin/sh\na.b:x:7:7:::\n"


def test_users_are_looked_up_as_the_c_library_does() -> None:
    """The first whole line; a name is no pattern; a uid without a line is a user without a name."""
    assert find_user("ada", USERS, ROOT_MAP) == User(815, 20, "ada", "/home/ada")
    assert find_user(815, USERS, ROOT_MAP) == User(815, 20, "ada", "/home/ada")
    assert find_user("a.b", USERS, ROOT_MAP) == User(7, 7, "a.b", "/")
    assert find_user(4242, USERS, ROOT_MAP).name == "4242"
    for name in ("axb", "broken", "ad", "x", "", "ada:x"):
        with pytest.raises(ProgramStartError, match="no user"):
            find_user(name, USERS, ROOT_MAP)


@pytest.mark.parametrize(
    "text",
    [
        "a:" * 500_000,
        "a\n" * 500_000,
        ":::::::\n" * 120_000,
        "x:x:" + "0" * 1_000_000,
        ("x:" + "0" * 300 + ":\n") * 3000,
    ],
    ids=["one line", "many lines", "colons", "zeros", "long lines"],
)
def test_a_hostile_passwd_is_looked_through_once(text: str) -> None:
    """No text of 1 MiB makes the lookup more than linear: with a quadratic one this test would take minutes."""
    with pytest.raises(ProgramStartError, match="no user"):
        find_user("alice", text, ROOT_MAP)
    assert find_user(5, text, ROOT_MAP).uid == 5
