"""F: which files a program sees, and which it can change."""

import os
from pathlib import Path

import pytest
from probing import inside, outside, policy

import nsbox

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

ROUTES = """
path = {path!r}
starts = ['', '../../../../../..', '/proc/1/root', '/proc/self/root', '/proc/self/root/../..', '/proc/1/cwd']
starts += ['/proc/self/cwd/../..', '/dev/fd/0/..', '/proc/self/task/self/root']
starts += [f'/proc/{{pid}}/root' for pid in os.listdir('/proc') if pid.isdigit()]
starts += [f'/proc/self/fd/{{fd}}/..' for fd in os.listdir('/proc/self/fd')]
found = []
for start in starts:
    try:
        with open(start + path) as file:
            found.append(file.read())
    except OSError:
        pass
ask('read', lambda: sorted(set(found)))
"""


def test_a_file_of_the_host_is_read_by_no_route(tmp_path: Path) -> None:
    """F01: by name, by "..", by the links of /proc and by descriptors: nothing leads to it. Outside, its name does."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    questions = ROUTES.format(path=str(secret))
    assert outside(questions) == {"read": ["of the host"]}
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            assert inside(sandbox, questions, user=user) == {"read": []}


WRITES = """
refused = {}
for line in read('/proc/self/mountinfo').splitlines():
    point = line.split()[4]
    if not os.path.isdir(point) or point.startswith(('/proc', '/dev/pts')):
        continue
    try:
        with open(f'{point}/nsbox-written', 'w'):
            refused.setdefault('written', []).append(point)
        os.unlink(f'{point}/nsbox-written')
    except OSError as exc:
        refused.setdefault(errno.errorcode[exc.errno], []).append(point)
ask('written', lambda: sorted(refused.get('written', [])))
ask('usr', lambda: opens('/usr/bin/env', os.O_WRONLY))
ask('passwd', lambda: opens('/etc/passwd', os.O_WRONLY))
ask('mode', lambda: os.chmod('/usr/bin/env', 0o777))
"""


def test_only_the_places_with_a_quota_can_be_written() -> None:
    """F02: of all mounts only home, /tmp, /dev/shm and /workspace; root inside cannot write the host's files either."""
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, WRITES)
        as_root = inside(sandbox, WRITES, user="root")
    assert found["written"] == ["/dev/shm", "/home/user", "/tmp", "/workspace"]
    for answers in (found, as_root):
        assert {answers["usr"], answers["passwd"], answers["mode"]} <= {"EROFS", "EACCES"}


SYSCTLS = """
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sys/vm/drop_caches',
             '/proc/sys/kernel/modprobe', '/proc/sysrq-trigger', '/proc/sys/user/max_user_namespaces'):
    ask(path, lambda: opens(path, os.O_WRONLY))
"""


def test_nothing_of_the_kernels_settings_can_be_opened_for_writing() -> None:
    """F03: /proc/sys is read-only, sysrq-trigger nobody's, for root inside too; the host's root may open them."""
    control = [path for path, answer in outside(SYSCTLS).items() if answer == "opened"]
    assert "/proc/sys/kernel/core_pattern" in control
    with nsbox.Sandbox() as sandbox:
        for user in (None, "root"):
            found = inside(sandbox, SYSCTLS, user=user)
            assert {found[path] for path in control} <= {"EROFS", "EACCES"}


MASKED = """
for name in ('kcore', 'keys', 'kallsyms', 'timer_list', 'interrupts', 'cmdline', 'kpagecount'):
    ask(name, lambda: read('/proc/' + name)[:64])
ask('sys', lambda: os.listdir('/sys'))
"""


def test_what_tells_of_the_kernel_is_masked() -> None:
    """F04: empty, absent or refused; on the host the command line and the interrupts are there to read. No /sys."""
    assert all(outside(MASKED)[name] for name in ("cmdline", "interrupts", "sys"))
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, MASKED)
    assert set(found.values()) <= {"", "EACCES", "EPERM", "ENOENT"}


DEVICES = """
found = []
for directory, _, names in os.walk('/'):
    if directory.startswith(('/proc', '/usr')):
        continue
    for name in names:
        status = os.lstat(os.path.join(directory, name))
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            found.append(os.path.join(directory, name))
ask('devices', lambda: sorted(found))
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    ask(str(kind), lambda: os.mknod('/tmp/device', kind | 0o666, os.makedev(1, 1)))
"""


def test_only_harmless_devices_exist_and_none_can_be_made(tmp_path: Path) -> None:
    """F05: null zero full random urandom tty and ptmx; mknod is EPERM, also without the filter's refusal."""
    allowed = [f"/dev/{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero")]
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, DEVICES)
    with nsbox.Sandbox(security=policy(tmp_path, "mknod", "mknodat")) as sandbox:
        behind = inside(sandbox, DEVICES, user="root")
    assert list(found.values()) == list(behind.values()) == [allowed, "EPERM", "EPERM"]


def test_no_cgroup_file_system_is_mounted() -> None:
    """F06: neither version is there, and the program's own path in each hierarchy is the root of what it may know."""
    questions = """
ask('mounts', lambda: sorted({line.split(' - ')[1].split()[0] for line in read('/proc/self/mountinfo').splitlines()}))
ask('paths', lambda: sorted({line.split(':')[2] for line in read('/proc/self/cgroup').splitlines()}))
"""
    assert any(kind.startswith("cgroup") for kind in outside(questions)["mounts"])
    with nsbox.Sandbox() as sandbox:
        found = inside(sandbox, questions)
    assert not any(kind.startswith("cgroup") for kind in found["mounts"])
    assert found["paths"] == ["/"]


def test_standard_input_is_no_file_of_the_hosts() -> None:
    """F07: it is a pipe; opened anew for writing by /proc it leads to no file, whatever is given as input."""
    questions = """
ask('kind', lambda: stat.S_ISFIFO(os.fstat(0).st_mode))
ask('link', lambda: os.readlink('/proc/self/fd/0').split(':')[0])
"""
    with nsbox.Sandbox() as sandbox:
        for data in (None, b"x" * 300_000):
            assert inside(sandbox, questions, stdin=data) == {"kind": True, "link": "pipe"}


MOUNTS = """
MS_REMOUNT, MS_BIND = 32, 4096
def done(result):
    if result:
        raise OSError(ctypes.get_errno(), 'refused')
    return 'done'
ask('unmask', lambda: done(libc.umount2(b'/proc/cmdline', 2)))
ask('remount', lambda: done(libc.mount(None, b'/usr', None, MS_REMOUNT | MS_BIND, None)))
ask('proc/sys', lambda: done(libc.mount(None, b'/proc/sys', None, MS_REMOUNT | MS_BIND, None)))
ask('new', lambda: done(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)))
ask('bind', lambda: done(libc.mount(b'/usr', b'/tmp', None, MS_BIND, None)))
ask('chroot', lambda: os.chroot('/tmp'))
for name in ('mnt', 'net', 'user', 'pid'):
    ask(name, lambda: done(libc.setns(os.open('/proc/self/ns/' + name, os.O_RDONLY), 0)))
"""


def test_mounts_cannot_be_changed_with_the_filter_out_of_the_way(tmp_path: Path) -> None:
    """F08: unmounting a mask and mounting anew are EPERM by the kernel itself, for root inside too."""
    with nsbox.Sandbox(security=policy(tmp_path, "mount", "umount2", "setns")) as sandbox:
        for user in (None, "root"):
            found = inside(sandbox, MOUNTS, user=user)
            assert {found[name] for name in ("unmask", "remount", "proc/sys", "new", "bind")} == {"EPERM"}


def test_neither_chroot_nor_setns_moves_a_program(tmp_path: Path) -> None:
    """F09, F10: chroot is EPERM by the kernel, and so is entering the namespaces that /proc names."""
    with nsbox.Sandbox(security=policy(tmp_path, "mount", "umount2", "setns")) as sandbox:
        for user in (None, "root"):
            found = inside(sandbox, MOUNTS, user=user)
            assert found["chroot"] == "EPERM"
            assert {found[name] for name in ("mnt", "net", "user", "pid")} <= {"EPERM", "EINVAL"}


def test_a_writable_mount_gives_its_directory_and_nothing_beside_it(tmp_path: Path) -> None:
    """F12: what the caller mounts is all of it that is there; a link in it that leads out is dead inside."""
    (tmp_path / "given").mkdir(mode=0o777)
    (tmp_path / "given").chmod(0o777)
    (tmp_path / "beside").write_text("secret")
    (tmp_path / "given/link").symlink_to(tmp_path / "beside")
    (tmp_path / "given/up").symlink_to("../beside")
    questions = """
for name in ('link', 'up', '../beside'):
    ask(name, lambda: read('/given/' + name))
ask('write', lambda: open('/given/new', 'w').write('x'))
"""
    assert (tmp_path / "given/link").read_text() == "secret"
    with nsbox.Sandbox(mounts=[nsbox.Mount(source=tmp_path / "given", target="/given", read_only=False)]) as sandbox:
        found = inside(sandbox, questions)
    assert found == {"link": "ENOENT", "up": "ENOENT", "../beside": "ENOENT", "write": 1}
    assert os.stat(tmp_path / "given/new").st_uid >= 0x7000_0000
