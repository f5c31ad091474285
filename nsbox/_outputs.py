"""What a program displays and reports about itself: opaque data, from a program that can write what it likes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from nsbox._config.frozen import FrozenMap, shown


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CodeError:
    """An error as the program's own runtime reported it. The program can write what it likes here.

    Attributes:
        name: The class, as printed: "ValueError", "json.decoder.JSONDecodeError".
        value: The message, with the notes behind it.
        traceback: The whole report, with the chain of causes.
    """

    name: str
    value: str
    traceback: str

    def __repr__(self) -> str:
        return f"CodeError(name={shown(self.name)}, value={shown(self.value)}, traceback={shown(self.traceback)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RichOutput:
    """One output in several representations, by Jupyter's conventions.

    Attributes:
        data: MIME type to payload. Binary payloads are bytes, or base64 in a str as Jupyter has them.
        is_main_result: Whether it is the value of the last expression.
        stdout_position: Bytes of `stdout_bytes` that were written before it.
        stderr_position: The same of `stderr_bytes`.
    """

    data: Mapping[str, str | bytes]
    is_main_result: bool = False
    stdout_position: int = 0
    stderr_position: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", FrozenMap(self.data))

    @property
    def text(self) -> str | None:
        """The payload of text/plain."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The payload of text/html. It is the program's: do not show it in a page that is trusted."""
        return self._text("text/html")

    @property
    def svg(self) -> str | None:
        """The payload of image/svg+xml. It is the program's, and may contain scripts."""
        return self._text("image/svg+xml")

    @property
    def png(self) -> bytes | None:
        """The bytes of image/png.

        Raises:
            ValueError: The program's payload is a str and not base64.
        """
        payload = self.data.get("image/png")
        # Jupyter breaks base64 into lines, which strict decoding refuses.
        return base64.b64decode("".join(payload.split()), validate=True) if isinstance(payload, str) else payload

    @property
    def json(self) -> object:
        """The value of application/json; None where there is none.

        Raises:
            ValueError: The program's payload is not JSON, or is nested too deeply.
        """
        payload = self.data.get("application/json")
        try:
            return None if payload is None else json.loads(payload)
        except RecursionError as exc:
            raise ValueError("application/json is nested too deeply") from exc

    def _text(self, mime_type: str) -> str | None:
        payload = self.data.get(mime_type)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else payload


def plain(value: object) -> object:
    """A value as what JSON knows. NaN and infinity, which JSON does not know, become strings."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
