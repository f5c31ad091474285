"""Where the host gets its packages from, so that roots are built from the same: apt's own account of its sources."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nsbox._errors import UnsupportedHostError

_OPTION = re.compile(r"^(Acquire::(?!IndexTargets::|cdrom::)\S+) \"(.*)\";$", re.MULTILINE)
_SIGNED_BY = re.compile(r"[\[ ]signed-by=([^\] ]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What mmdebstrap is told.

    Attributes:
        suite: The code name of the distribution's release.
        lines: Of a sources.list(5).
        options: Of apt.conf(5): proxies and the like.
    """

    suite: str
    lines: tuple[str, ...]
    options: tuple[str, ...]


def host_sources(suite: str, components: tuple[str, ...]) -> Sources:
    """Those of the distribution itself, its updates and security updates, as /etc/apt has them.

    Args:
        suite: "": the host's own.
        components: Which of its archive.

    Raises:
        UnsupportedHostError: The host has no apt, or no source of this suite.
    """
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    suite = suite or release.get("VERSION_CODENAME", "")
    targets = [one for one in _targets() if _is_own(one, suite, components, release.get("ID", ""))]
    lines = tuple(dict.fromkeys(_line(one) for one in targets))
    if not suite or not lines:
        raise UnsupportedHostError(
            f"the host's apt has no source of {suite or 'a release'!r} with {' '.join(components)}",
            missing=("apt sources",),
            remedies=("a source of that release in /etc/apt, and apt-get update", "suite = of the recipe"),
        )
    return Sources(suite=suite, lines=lines, options=_options())


def _targets() -> Iterator[Mapping[str, str]]:
    """One for each index of packages; apt-get(8), "indextargets"."""
    for stanza in _run("apt-get", "indextargets", "Created-By: Packages").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if {"Repo-URI", "Release", "Component"} <= fields.keys():
            yield fields


def _is_own(target: Mapping[str, str], suite: str, components: tuple[str, ...], distribution: str) -> bool:
    """Of the distribution, and not of somebody who names his releases after it."""
    release = target["Release"]
    origin = target.get("Origin", "").lower()
    return (
        (release == suite or release in (f"{suite}-updates", f"{suite}-security", f"{suite}/updates"))
        and target["Component"] in components
        and origin in ("", distribution)
    )


def _line(target: Mapping[str, str]) -> str:
    keyring = target.get("Signed-By") or _signed_by(target.get("Sourcesentry", ""))
    options = [f"arch={target['Architecture']}"] if "Architecture" in target else []
    if keyring.startswith("/"):
        options.append(f"signed-by={keyring}")
    return f"deb [{' '.join(options)}] {target['Repo-URI']} {target['Release']} {target['Component']}"


def _signed_by(entry: str) -> str:
    """The keyring of a source, for versions of apt that do not tell: "FILE:N" is the N-th line, or paragraph."""
    path, _, number = entry.rpartition(":")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(1 << 20)
        if path.endswith(".sources"):
            paragraph = [part for part in re.split(r"\n(?:\s*\n)+", text.strip()) if part][int(number) - 1]
            found = re.search(r"^Signed-By:\s*(/\S+)\s*$", paragraph, re.MULTILINE | re.IGNORECASE)
        else:
            found = _SIGNED_BY.search(text.splitlines()[int(number) - 1])
    except (OSError, ValueError, IndexError):
        return ""
    return found[1] if found else ""


def _options() -> tuple[str, ...]:
    """How the host's apt gets things: proxies, time-outs, whether dates are checked."""
    return tuple(f'{name} "{value}"' for name, value in _OPTION.findall(_run("apt-config", "dump", "--no-empty")))


def _run(*command: str) -> str:
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    if "APT_CONFIG" in os.environ:
        environment["APT_CONFIG"] = os.environ["APT_CONFIG"]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as exc:
        said = exc.stderr.strip() if isinstance(exc, subprocess.CalledProcessError) else exc.strerror
        raise UnsupportedHostError(
            f"{' '.join(command)}: {said}", missing=("apt",), remedies=("a host with Debian's or Ubuntu's packages",)
        ) from exc
    return done.stdout
