"""Building a root by mmdebstrap(1): its tar archive comes through a pipe, and is unpacked as the layer of an image is.

Always in its mode "unshare": without root it has a user namespace of its own, and as root its mounts are in a mount
namespace that ends with it, however that is. The archive is the same in both, to the last bit, for the same recipe,
packages and version of mmdebstrap.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nsbox._errors import ConfigError, SetupError, UnsupportedHostError
from nsbox._plan.identity import PROGRAM_ID
from nsbox._rootfs.cache import Cache, New, Tree, write_scratch
from nsbox._rootfs.recipe import Recipe
from nsbox._rootfs.record import Record, debian_packages, summarize
from nsbox._rootfs.sources import Sources, host_sources
from nsbox._rootfs.streams import Bounded, Budget, Hashed
from nsbox._rootfs.unpack import Limits, Unpacker

_NEVER = (  # paths in the root
    # What tells of the host, its mirrors and its passwords for them; and how this root was built.
    "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/apt/auth.conf*", "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/dev/*", "/proc/*",
    "/sys/*", "/run/*", "/tmp/*",  # noqa: S108
)  # fmt: skip
_USER = f"user:x:{PROGRAM_ID}:{PROGRAM_ID}:user:/home/user:/bin/bash\n"
_GROUP = f"user:x:{PROGRAM_ID}:\n"
_FILES = {
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "/etc/hostname": "sandbox\n",
    "/etc/resolv.conf": "",
}
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
"""It merges /usr by links from the beginning; else a package does, which brings all of Perl along (45 MiB)."""
_LEAST_IDS = 65_536
_GRACE_SECONDS = 20.0
_LOG_LINES = 12
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HANDED_ON = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def build_root(cache: Cache, recipe: Recipe, name: str, limits: Limits | None = None) -> tuple[Tree, bool]:
    """Build a root and keep it. Blocks for some ten seconds to some minutes; what it has begun is gone if it fails.

    Args:
        cache: Where to keep it.
        recipe: What from.
        name: What it is to be called; what was called so before is replaced.
        limits: What it may have at most.

    Returns:
        The tree, and whether it differs from the one that was there.

    Raises:
        UnsupportedHostError: mmdebstrap, its sources, or a range of uids lacks.
        SetupError: mmdebstrap failed, or the disk is full.
        ConfigError: The root is larger than is allowed.
    """
    tool = _find_tool()
    version = _version(tool)
    sources = host_sources(recipe.suite, recipe.components)
    with cache.new() as new:
        directory = new.root
        scratch = _scratch(new)
        log = new.path / "log"
        with Unpacker(directory, limits or Limits(), _filter(recipe)) as tree:
            _run(_command(tool, recipe, sources), _environment(recipe, scratch), log, tree, limits or Limits())
            left_out = {kind: count for kind, count in tree.left_out.items() if count}
            _finish(directory, recipe)
            tree.finish()
        shutil.rmtree(scratch, ignore_errors=True)
        log.unlink()
        summary = summarize(directory)
        record = Record(
            name=name,
            kind="recipe",
            source=recipe.name,
            made=time.time(),
            digest=summary.digest,
            bytes=summary.bytes,
            files=summary.files,
            left_out=left_out,
            packages=_packages(directory),
            environment={},
            details={"recipe": recipe.to_dict(), "suite": sources.suite, "mmdebstrap": version},
        )
        return cache.keep(new, record)


# ---------------------------------------------------------------- what it needs


def _find_tool() -> str:
    tool = shutil.which("mmdebstrap", path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if tool is None:
        raise UnsupportedHostError(
            "roots are built by mmdebstrap, which is not installed",
            missing=("mmdebstrap",),
            remedies=("apt-get install mmdebstrap",),
        )
    if os.geteuid() != 0:
        _check_user()
    return tool


def _check_user() -> None:
    """Its user namespace needs a range of uids (subuid(5)), and the helpers that map it."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    lacking = [f"{user} in {path}" for path in ("/etc/subuid", "/etc/subgid") if not _has_range(path, user)]
    lacking += [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    if lacking:
        raise UnsupportedHostError(
            f"to build a root without root, mmdebstrap needs a range of uids and gids; there is no {lacking[0]}",
            missing=tuple(lacking),
            remedies=(
                "apt-get install uidmap",
                f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
                "build it as root",
            ),
        )


def _has_range(path: str, user: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            rows = [line.strip().split(":") for line in file]
    except OSError:
        return False
    return any(len(row) == 3 and row[0] in (user, str(os.geteuid())) and row[2].isdecimal()
               and int(row[2]) >= _LEAST_IDS for row in rows)  # fmt: skip


def _version(tool: str) -> str:
    done = subprocess.run([tool, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().removeprefix("mmdebstrap ")


# ---------------------------------------------------------------- running it


def _scratch(new: New) -> str:
    """Where mmdebstrap works. Without root it is another user there, who has to be let in, and whose it will be."""
    if os.geteuid() == 0:
        path = new.path / "scratch.d"
        path.mkdir(0o700)
        return str(path)
    scratch = tempfile.mkdtemp(prefix=f"nsbox-rootfs-{os.getpid()}-")
    write_scratch(new, scratch)
    os.chmod(scratch, 0o1777)
    return scratch


def _command(tool: str, recipe: Recipe, sources: Sources) -> list[str]:
    packages = [f"--include={','.join(recipe.packages)}"] if recipe.packages else []
    hooks = [f"--hook-dir={_MERGED_USR}"] if os.path.isdir(_MERGED_USR) else []
    return [
        tool,
        "--quiet",
        "--mode=unshare",
        "--format=tar",
        f"--variant={recipe.variant}",
        "--skip=check/qemu,output/dev",
        *packages,
        *hooks,
        "--dpkgopt=force-unsafe-io",  # all is written to the disk once, by `Cache.keep`
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude),
        *(f"--dpkgopt=path-include={pattern}" for pattern in recipe.keep),
        *(f"--aptopt={option}" for option in sources.options),
        "--",
        sources.suite,
        "-",
        *sources.lines,
    ]


def _environment(recipe: Recipe, scratch: str) -> Mapping[str, str]:
    handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    return {**handed_on, "PATH": _PATH, "LC_ALL": "C.UTF-8", "TMPDIR": scratch, "SOURCE_DATE_EPOCH": str(recipe.epoch)}


def _run(command: list[str], environment: Mapping[str, str], log: Path, tree: Unpacker, limits: Limits) -> None:
    setpriv = shutil.which("setpriv", path=_PATH)
    if setpriv is not None:  # else it would go on where we are killed, until it has something to write
        command = [setpriv, "--pdeathsig", "TERM", *command]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd="/",
            start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        with process.stdout as output:
            reader = Hashed(Bounded(output, Budget(limits.bytes), "mmdebstrap"))
            tree.apply(reader, "the archive of mmdebstrap", plain=True)
            reader.drain()
        status = process.wait()
    except ConfigError as exc:
        exc.add_note(_tail(log))
        raise
    finally:
        _end(process)
    if status != 0 or not reader.count:
        said = _tail(log)
        code = errno.ENOSPC if os.strerror(errno.ENOSPC) in said else errno.EIO
        raise SetupError("rootfs", code, f"mmdebstrap failed with status {status}: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """On a signal it removes what it has made; one that does not end by it is killed, with all that it has started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "; ".join(lines[-_LOG_LINES:])


# ---------------------------------------------------------------- what it has made


def _filter(recipe: Recipe) -> Callable[[str], bool]:
    """What is left out of the tree: what maintainers' scripts have made is there whatever dpkg was told."""
    never, exclude, keep = (
        re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)")
        for patterns in (_NEVER, recipe.exclude, recipe.keep)
    )

    def leave_out(path: str) -> bool:
        return bool(never.match(path) or (exclude.match(path) and not keep.match(path)))

    return leave_out


def _finish(root: str, recipe: Recipe) -> None:
    """Write what every sandbox is to find: names, and an account for its programs. Nobody else has this tree yet."""
    try:
        for path, text in {**_FILES, **recipe.files}.items():
            _write(root, path, text, recipe.epoch)
        for path, line in (("/etc/passwd", _USER), ("/etc/group", _GROUP)):
            before = Path(root + path).read_text(encoding="utf-8")
            if f":{PROGRAM_ID}:" not in before:
                _write(root, path, before + line, recipe.epoch)
    except OSError as exc:
        raise SetupError("rootfs", exc.errno or errno.EIO, exc.strerror or "", str(exc.filename or root)) from exc


def _write(root: str, path: str, text: str, epoch: int) -> None:
    place = os.path.realpath(root + os.path.dirname(path))
    if place != root and not place.startswith(root + "/"):
        raise OSError(errno.EXDEV, f"{path} is behind a link that leads out of the root")
    missing = []
    while not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    for one in reversed(missing):
        os.mkdir(one, 0o755)
        place = one
    target = os.path.join(place, os.path.basename(path))
    if os.path.lexists(target):
        os.unlink(target)
    with open(target, "x", encoding="utf-8") as file:
        file.write(text)
    os.chmod(target, 0o644)
    for one in (target, *missing):
        os.utime(one, (epoch, epoch))


def _packages(root: str) -> dict[str, str]:
    try:
        with open(f"{root}/var/lib/dpkg/status", encoding="utf-8", errors="replace") as file:
            return debian_packages(file.read())
    except OSError:
        return {}
