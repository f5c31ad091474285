"""Requests to the kernel through netlink(7) sockets: many messages in one system call, each refusal told by its step.

The kernel works on a message while it is sent, in the sender's own call, so that its answers wait when send(2) returns.
An error is always answered; of what succeeds only the last message asks for an answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

from nsbox._errors import SetupError

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
REQUEST, MULTI, ACK, DUMP = 0x1, 0x2, 0x4, 0x300  # NLM_F_*
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800  # NLM_F_*, of what makes something

_ERROR, _DONE = 2, 3  # NLMSG_*
_ACK_TLVS = 0x200  # NLM_F_ACK_TLVS
_MESSAGE_OF_ERROR = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11  # <linux/netlink.h>
_SENT = 1 << 20
"""Bytes of a batch, at most; the kernel gives less where its own limit is lower."""
_RECEIVED = 1 << 16
"""Bytes of an answer; the kernel's own pieces have half of that (netlink_dump)."""
_CODE = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_OF_ATTRIBUTE = 0x3FFF  # NLA_TYPE_MASK

# NFNL_MSG_BATCH_BEGIN and _END, of the subsystem nf_tables
_BEGIN, _END = (HEADER.pack(20, kind, REQUEST, 0, 0) + struct.pack(">BBH", 0, 0, 10) for kind in (0x10, 0x11))

_steps: list[str] = ["commit the rules"]
_numbers: dict[str, int] = {_steps[0]: 0}


def number_of_step(step: str) -> int:
    """The sequence number of all messages that do `step`, by which an error of the kernel's is told apart."""
    number = _numbers.get(step)
    if number is None:
        _numbers[step] = number = len(_steps)
        _steps.append(step)
    return number


def attribute(kind: int, *payload: bytes) -> bytes:
    """One attribute, padded; what it carries may be attributes again."""
    data = b"".join(payload)
    return _ATTRIBUTE.pack(len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes that `data` is made of, by their types."""
    found = {}
    position = 0
    while position + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < 4:
            break
        found[kind & _TYPE_OF_ATTRIBUTE] = data[position + 4 : position + length]
        position += length + 3 & ~3
    return found


def message(kind: int, flags: int, step: str, *payload: bytes) -> bytes:
    """One message of ready parts."""
    data = b"".join(payload)
    return HEADER.pack(len(data) + 16, kind, flags | REQUEST, number_of_step(step), 0) + data


class Template:
    """Encoded messages with places that are filled in for each use; encoding them anew costs a hundred times as much.

    Args:
        data: The messages, with a value in each place that is nowhere else.
        places: These values.
    """

    __slots__ = ("_fixed", "_names")

    def __init__(self, data: bytes, places: Mapping[str, bytes]) -> None:
        found = sorted((offset, name) for name, value in places.items() for offset in _occurrences(data, value))
        starts = [0, *(offset + len(places[name]) for offset, name in found)]
        ends = [*(offset for offset, _ in found), len(data)]
        assert all(start <= end for start, end in zip(starts, ends, strict=True)), "places overlap"
        self._fixed = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        self._names = [name for _, name in found]

    def fill(self, values: Mapping[str, bytes]) -> bytes:
        """The messages with these values in their places; each as long as what it replaces."""
        parts = self._fixed.copy()
        for number, name in enumerate(self._names):
            parts[number] += values[name]
        return b"".join(parts)


def _occurrences(data: bytes, value: bytes) -> list[int]:
    found = []
    position = data.find(value)
    while position >= 0:
        found.append(position)
        position = data.find(value, position + len(value))
    return found


class Netlink:
    """A netlink socket, for one request at a time; may be used from several threads.

    Args:
        sock: The socket, which stays the caller's to close.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(_RECEIVED))
        sock.setblocking(False)  # all there is to hear is there when something was sent
        sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT)

    def do(self, *messages: bytes) -> None:
        """Carry out all messages, each by itself.

        Raises:
            SetupError: The first one that the kernel refused; the others were carried out nevertheless.
        """
        self._carry_out(b"", messages, b"")

    def commit(self, *messages: bytes) -> None:
        """Carry out messages of nf_tables in one transaction: all of them, or none.

        Raises:
            SetupError: The first one that the kernel refused.
        """
        self._carry_out(_BEGIN, messages, _END)

    def _carry_out(self, before: bytes, messages: Sequence[bytes], after: bytes) -> None:
        data = bytearray(b"".join(messages))
        position = last = 0
        while position < len(data):
            last = position
            position += HEADER.unpack_from(data, position)[0] + 3 & ~3
        if not data:
            return
        data[last + 6] |= ACK  # the low byte of its flags
        for kind, flags, payload in self._exchange(before + data + after):
            if kind == _ERROR:
                code = -_CODE.unpack_from(payload)[0]
                if not code:
                    return  # that of the last message, which no other answer comes after
                raise _refusal(code, flags, payload)
        raise SetupError("network", errno.EPROTO, "the kernel did not answer")

    def ask(self, *messages: bytes) -> list[bytes]:
        """What the kernel answers, message by message, without the headers.

        Raises:
            SetupError: The first request that it refused.
        """
        found = []
        for kind, flags, payload in self._exchange(b"".join(messages)):
            if kind == _ERROR:
                raise _refusal(-_CODE.unpack_from(payload)[0], flags, payload)
            if kind != _DONE:
                found.append(payload)
        return found

    def _exchange(self, data: bytes) -> Sequence[tuple[int, int, bytes]]:
        with self._lock:
            try:
                self._sock.send(data)
            except OSError as exc:
                raise SetupError("network", exc.errno or errno.EIO, f"cannot ask the kernel: {exc.strerror}") from exc
            return list(self._answers())

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        while True:
            try:
                length = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as exc:  # ENOBUFS: answers were lost
                raise SetupError("network", exc.errno or errno.EIO, f"cannot hear the kernel: {exc.strerror}") from exc
            position = 0
            while position + 16 <= length:
                size, kind, flags, _, _ = HEADER.unpack_from(self._buffer, position)
                yield kind, flags, bytes(self._buffer[position + 16 : position + size])
                position += size + 3 & ~3


def _refusal(code: int, flags: int, payload: bytes) -> SetupError:
    """The kernel's answer: an error, the header of the message, and sometimes a text (NLMSGERR_ATTR_MSG)."""
    sequence = HEADER.unpack_from(payload, 4)[3]
    step = _steps[sequence] if sequence < len(_steps) else _steps[0]
    text = attributes(payload[20:]).get(_MESSAGE_OF_ERROR, b"") if flags & _ACK_TLVS else b""
    said = text.rstrip(b"\0").decode(errors="replace")
    return SetupError("network", code, f"cannot {step}: {os.strerror(code)}" + (f" ({said})" if said else ""))
