"""The headers of a tar archive that is not trusted: what each entry says it is, and its bytes.

POSIX ustar and pax (POSIX.1-2017, pax(1)), and of GNU tar long names and numbers in base 256 (tar(5) of libarchive).
Whatever else there is, is an error and never the end of the archive: `tarfile` takes a damaged header in the middle for
the end, and reads extended headers of any size into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from nsbox._errors import ConfigError

BLOCK = 512
_LONGEST_HEADER = 1 << 20  # of an extended header; all attributes of one file come in one
_CHUNK = 1 << 20
_ZERO = bytes(BLOCK)
_LARGEST = 1 << 62
_RECORD = re.compile(rb"([0-9]{1,8}) ")


class Reader(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none only at the end."""
        ...


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    DEVICE = "device"
    FIFO = "FIFO"


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK, b"3": Kind.DEVICE,
    b"4": Kind.DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of an archive, as it describes itself.

    Attributes:
        name: Its path, any bytes but NUL.
        kind: What it is.
        mode: Permissions, with set-uid and its like.
        uid: Of the owner.
        gid: Of the group.
        size: In bytes, of a file; else 0.
        modified: Nanoseconds since 1970.
        target: Where a link leads to; else empty.
        attributes: How many extended attributes it has.
        offset: Where its content begins, in bytes from the beginning of the archive.
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    modified: int
    target: bytes
    attributes: int
    offset: int


class Archive:
    """An archive that is read from its beginning to its end, once.

    Args:
        reader: Where it comes from.
        name: What errors call it.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader = reader
        self._name = name
        self._position = 0
        self._left = 0  # bytes of the entry's content that nobody has read
        self._padding = 0
        self._for_all: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in order; what of its content `content` has not given is passed over.

        Raises:
            ConfigError: The archive is damaged.
        """
        while True:
            for _ in self.content():
                pass
            entry = self._next()
            if entry is None:
                return
            yield entry

    def content(self) -> Iterator[bytes]:
        """The bytes of the entry that was given last."""
        while self._left:
            data = self._some(min(self._left, _CHUNK))
            self._left -= len(data)
            yield data
        if self._padding:
            self._exactly(self._padding)
            self._padding = 0

    def skip_to(self, position: int) -> None:
        """The reader was moved to where the next header is, in bytes from the beginning."""
        self._position, self._left, self._padding = position, 0, 0

    def _next(self) -> Entry | None:
        fields: dict[bytes, bytes] = {}
        long_name = long_target = None
        extended = False
        while True:
            block = self._block()
            if block is None or block == _ZERO:
                if extended:
                    raise self._damaged("it ends behind an extended header")
                return None
            self._check_sum(block)
            kind = block[156:157]
            if kind in (b"x", b"g"):
                found = self._records(self._extended(block))
                if kind == b"g":
                    self._for_all.update(found)
                else:
                    fields.update(found)
            elif kind == b"L":
                long_name = self._extended(block).rstrip(b"\0")
            elif kind == b"K":
                long_target = self._extended(block).rstrip(b"\0")
            else:
                return self._entry(block, {**self._for_all, **fields}, long_name, long_target)
            extended = True

    def _entry(self, block: bytes, fields: dict[bytes, bytes], name: bytes | None, target: bytes | None) -> Entry:
        kind = _KINDS.get(block[156:157])
        if kind is None or any(key.startswith(b"GNU.sparse.") for key in fields):
            raise self._damaged(f"an entry of the kind {block[156:157]!r}, or a sparse one, which is not supported")
        plain = _text(block[0:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            plain = prefix + b"/" + plain
        found = fields.get(b"path", name if name is not None else plain)
        target = fields.get(b"linkpath", target if target is not None else _text(block[157:257]))
        if kind is Kind.FILE and block[156:157] != b"7" and found.endswith(b"/"):
            kind = Kind.DIRECTORY  # as archives from before POSIX have them
        size = self._decimal(fields, b"size", self._number(block[124:136]))
        if not found or b"\0" in found or b"\0" in target:
            raise self._damaged("an entry without a name, or with a NUL in it")
        content = size if kind is Kind.FILE else 0
        self._left, self._padding = content, -content % BLOCK
        return Entry(
            name=found,
            kind=kind,
            mode=self._number(block[100:108]) & 0o7777,
            uid=self._decimal(fields, b"uid", self._number(block[108:116])),
            gid=self._decimal(fields, b"gid", self._number(block[116:124])),
            size=content,
            modified=self._moment(fields.get(b"mtime"), self._number(block[136:148])),
            target=target if kind in (Kind.SYMLINK, Kind.HARDLINK) else b"",
            attributes=sum(key.startswith((b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")) for key in fields),
            offset=self._position,
        )

    # ------------------------------------------------------------ fields

    def _number(self, field: bytes) -> int:
        """Octal digits; or, where the highest bit is set, base 256, of which no negative number is one here."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
            if field[0] & 0x40 or value > _LARGEST:
                raise self._damaged("a number that no file has")
            return value
        text = field.strip(b" \0")
        if text and not re.fullmatch(rb"[0-7]+", text):
            raise self._damaged("a number that is none")
        return int(text, 8) if text else 0

    def _decimal(self, fields: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
        text = fields.get(key)
        if text is None:
            return otherwise
        if not re.fullmatch(rb"[0-9]{1,19}", text) or int(text) > _LARGEST:
            raise self._damaged(f"a {key.decode()} that is none")
        return int(text)

    def _moment(self, text: bytes | None, otherwise: int) -> int:
        if text is None:
            return min(otherwise, 1 << 34) * 1_000_000_000
        found = re.fullmatch(rb"(-?)([0-9]{1,11})(?:\.([0-9]{0,40}))?", text)
        if found is None:
            raise self._damaged("a time that is none")
        value = int(found[2]) * 1_000_000_000 + int(((found[3] or b"") + b"0" * 9)[:9])
        return 0 if found[1] else value

    def _records(self, content: bytes) -> dict[bytes, bytes]:
        """The fields of a pax header: a length, a space, KEY=VALUE and a newline; the length is of all."""
        found: dict[bytes, bytes] = {}
        start = 0
        while start < len(content):
            length = _RECORD.match(content, start)
            end = start + int(length[1]) if length else 0
            equals = content.find(b"=", length.end(), end) if length else -1
            if length is None or end > len(content) or equals < 0 or content[end - 1 : end] != b"\n":
                raise self._damaged("an extended header that is none")
            found[content[length.end() : equals]] = content[equals + 1 : end - 1]
            start = end
        return found

    def _check_sum(self, block: bytes) -> None:
        """The sum of all bytes, with the sum itself as eight spaces; old programs took bytes for signed ones."""
        rest = block[:148] + b" " * 8 + block[156:]
        said = self._number(block[148:156])
        unsigned = sum(rest)
        if said not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
            raise self._damaged("a header whose sum is wrong")

    # ------------------------------------------------------------ bytes

    def _block(self) -> bytes | None:
        first = self._reader.read(BLOCK)
        if not first:
            return None  # without the two empty blocks: tolerated by every tar
        self._position += len(first)
        return first + self._exactly(BLOCK - len(first))

    def _extended(self, block: bytes) -> bytes:
        size = self._number(block[124:136])
        if size > _LONGEST_HEADER:
            raise self._damaged(f"an extended header of more than {_LONGEST_HEADER} bytes")
        return self._exactly(size + -size % BLOCK)[:size]

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += self._some(size - len(data))
        return bytes(data)

    def _some(self, size: int) -> bytes:
        data = self._reader.read(size)
        if not data:
            raise self._damaged("it is cut off")
        self._position += len(data)
        return data

    def _damaged(self, what: str) -> ConfigError:
        return ConfigError(f"{self._name} is no tar archive that can be used, at byte {self._position}: {what}")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
