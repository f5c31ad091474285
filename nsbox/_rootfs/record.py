"""What is kept beside a tree: where it comes from and what is in it, and the digest of all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FORMAT = 1
_CHUNK = 1 << 20
_FIELD = re.compile(r"^(Package|Version|Status): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One root file system.

    Attributes:
        name: What it is called.
        kind: "recipe" or "image".
        source: The recipe's name, or the image's tags.
        made: Seconds since 1970.
        digest: Of the tree: names, modes, owners, times, contents.
        bytes: Of all its files.
        files: How many names there are in it.
        left_out: What an archive had and the tree has not, by kind.
        packages: Versions by the names of Debian packages.
        environment: Variables that programs get in it, under those of the sandbox's configuration.
        details: The recipe and the tools' versions, or the image's digest and configuration.
    """

    name: str
    kind: str
    source: str
    made: float
    digest: str
    bytes: int
    files: int
    left_out: Mapping[str, int]
    packages: Mapping[str, str]
    environment: Mapping[str, str]
    details: Mapping[str, Any]

    def to_json(self) -> str:
        """As a file has it."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Record | None:
    """None: it is damaged, or from another version of nsbox."""
    try:
        document = json.loads(text)
        if document.pop("format") != _FORMAT:
            return None
        return Record(**document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What `summarize` has seen; as `Record` has it."""

    digest: str
    bytes: int
    files: int


def summarize(tree: str) -> Summary:
    """The digest of a tree, and how large it is. Reads all of it.

    Without root owners are not part of the digest: they are the user's, whatever they should be.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    as_root = os.geteuid() == 0
    size = files = 0
    links: dict[tuple[int, int], bytes] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        place = os.path.join(os.fsencode(tree), path)
        status = os.lstat(place)
        mode = status.st_mode
        parts = [path, b"%o" % mode, b"%d" % status.st_mtime_ns]
        if as_root:
            parts.append(b"%d:%d" % (status.st_uid, status.st_gid))
        if stat.S_ISLNK(mode):
            parts.append(os.readlink(place))
        elif stat.S_ISREG(mode):
            key = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and key in links:
                parts += [b"is", links[key]]
            else:
                links[key] = path
                parts.append(_file_digest(place))
                size += status.st_size
        elif stat.S_ISDIR(mode):
            todo += sorted((os.path.join(path, name) for name in os.listdir(place)), reverse=True)
        digest.update(b"".join(b"%d:%s," % (len(part), part) for part in parts) + b"\n")
        files += 1
    return Summary(digest=f"sha256:{digest.hexdigest()}", bytes=size, files=files)


def _file_digest(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def debian_packages(status: str) -> dict[str, str]:
    """Versions by name, from the text of /var/lib/dpkg/status (deb-control(5)): of what is installed."""
    found = {}
    for stanza in status.split("\n\n"):
        fields = {match[1]: match[2] for match in _FIELD.finditer(stanza)}
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
    return found
