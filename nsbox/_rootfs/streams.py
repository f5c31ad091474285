"""Bytes on their way from a blob to a tar archive: counted, hashed, decompressed, and never more than is allowed."""

from __future__ import annotations

import hashlib
import importlib
import re
import zlib
from typing import Any, Protocol

from nsbox._errors import ConfigError, UnsupportedHostError
from nsbox._rootfs.tar import Reader

_CHUNK = 1 << 18
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_LARGEST_WINDOW = 1 << 27  # of zstd: memory that a frame may ask for; RFC 8878 recommends 8 MiB
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


def check_digest(digest: object, name: str) -> str:
    """A digest as descriptor.md of the OCI image specification has it, of an algorithm that it registers.

    Raises:
        ConfigError: It is none. `name` says what it is of.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ConfigError(f"{name}: {digest!r} is no sha256 or sha512 digest")
    return digest


class Budget:
    """How many bytes all layers together may have.

    Args:
        most: In bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = self._left = most

    def take(self, count: int, name: str) -> None:
        """Use some of it.

        Raises:
            ConfigError: There is not so much left.
        """
        self._left -= count
        if self._left < 0:
            raise ConfigError(f"{name}: unpacked it has more than {self.most >> 20} MiB, which is the limit")


class Hashed:
    """A reader that takes the digest of what passes.

    Args:
        reader: Where it comes from.
        algorithm: "sha256" or "sha512".
    """

    def __init__(self, reader: Reader, algorithm: str = "sha256") -> None:
        self._reader = reader
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.count = 0

    def read(self, size: int, /) -> bytes:
        """As of `Reader`."""
        data = self._reader.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    def drain(self) -> None:
        """Read what is left."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        """Of what has passed."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"


class Bounded:
    """A reader that ends with an error where there is more than a budget allows.

    Args:
        reader: Where it comes from.
        budget: Shared by all layers.
        name: For the error.
    """

    def __init__(self, reader: Reader, budget: Budget, name: str) -> None:
        self._reader = reader
        self._budget = budget
        self._name = name

    def read(self, size: int, /) -> bytes:
        """As of `Reader`."""
        data = self._reader.read(size)
        self._budget.take(len(data), self._name)
        return data


class _Ahead:
    """A reader whose first bytes were looked at."""

    def __init__(self, first: bytes, reader: Reader) -> None:
        self._first = first
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        return self._reader.read(size)


class _Inflater(Protocol):
    """One compressed member at a time: gzip files and zstd frames may stand one behind the other."""

    def feed(self, data: bytes, size: int) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...


class _Gzip:
    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return (zlib.error,)

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # with gzip's header and check sum

    def feed(self, data: bytes, size: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, size)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Zstd:
    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return (importlib.import_module("compression.zstd").ZstdError,)

    def __init__(self) -> None:
        module: Any = importlib.import_module("compression.zstd")  # Python 3.14
        self._inner = module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: 27})

    def feed(self, data: bytes, size: int) -> bytes:
        found: bytes = self._inner.decompress(data, size)
        return found

    @property
    def needs_input(self) -> bool:
        return bool(self._inner.needs_input)

    @property
    def ended(self) -> bool:
        return bool(self._inner.eof)

    @property
    def rest(self) -> bytes:
        found: bytes = self._inner.unused_data
        return found


class _Inflated:
    """What comes out of a compressed reader; never much more at a time than was asked for."""

    def __init__(self, reader: Reader, make: type[_Gzip] | type[_Zstd], name: str) -> None:
        self._reader = reader
        self._make = make
        self._name = name
        self._inner: _Inflater | None = make()
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while self._inner is not None:
            try:
                if self._inner.needs_input and not self._input:
                    self._input = self._reader.read(_CHUNK)
                    if not self._input:
                        raise ConfigError(f"{self._name}: its compressed data is cut off")
                data = self._inner.feed(self._input, size)
                self._input = b""
                if self._inner.ended:
                    self._next_member()
            except self._make.errors() as exc:
                raise ConfigError(f"{self._name}: its compressed data is damaged ({exc})") from exc
            if data:
                return data
        return b""

    def _next_member(self) -> None:
        assert self._inner is not None
        rest = self._inner.rest or self._reader.read(_CHUNK)
        while rest and not rest.strip(b"\0"):  # padding, as gzip(1) takes it
            rest = self._reader.read(_CHUNK)
        self._inner, self._input = (self._make(), rest) if rest else (None, b"")


def inflated(reader: Reader, name: str) -> Reader:
    """What a layer holds, decompressed if its first bytes say that it is compressed: gzip, zstd, or neither.

    Not by its media type: archives of docker have none, and what is wrong would only be found later.

    Args:
        reader: Of the layer.
        name: For errors.

    Raises:
        ConfigError: It is compressed by something else.
        UnsupportedHostError: It is compressed with zstd, and this Python has nothing for it.
    """
    first = b""
    while len(first) < 6 and (more := reader.read(6 - len(first))):
        first += more
    whole = _Ahead(first, reader)
    for magic, kind in _OTHERS.items():
        if first.startswith(magic):
            raise ConfigError(f"{name}: compressed with {kind}, which no layer is")
    if first.startswith(_GZIP):
        return _Inflated(whole, _Gzip, name)
    return _zstd(whole, name) if first.startswith(_ZSTD) else whole


def _zstd(reader: Reader, name: str) -> Reader:
    try:
        return _Inflated(reader, _Zstd, name)
    except ImportError:
        pass
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as exc:
        raise UnsupportedHostError(
            f"{name}: compressed with zstd, which this Python has no module for",
            missing=("zstandard",),
            remedies=("pip install 'nsbox[zstd]'", "Python 3.14 or newer", "an image with gzip layers"),
        ) from exc
    inner = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    return _Translated(inner.stream_reader(reader, read_across_frames=True), name)


class _Translated:
    """A stream reader of `zstandard`, with the errors of this module; a frame that is cut off is one.

    It tells the end of its input from the end of a frame by nothing that is public: what is cut off comes out shorter,
    and the digest of the whole or the tar archive tells.
    """

    def __init__(self, reader: Any, name: str) -> None:
        self._reader = reader
        self._name = name
        self._errors: type[Exception] = importlib.import_module("zstandard").ZstdError

    def read(self, size: int, /) -> bytes:
        try:
            data: bytes = self._reader.read(size)
        except self._errors as exc:
            raise ConfigError(f"{self._name}: its compressed data is damaged ({exc})") from exc
        return data
