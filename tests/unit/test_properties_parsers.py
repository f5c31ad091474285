"""What a hostile program, or a client from anywhere, can write: any of it is read, or refused by its own error."""

from __future__ import annotations

import keyword
import re
import traceback
from typing import Any

import h11
import msgpack
import pytest
from anything import ANYTHING, examples
from hypothesis import assume, given
from hypothesis import strategies as st

from nsbox import RUNTIMES, detect_language
from nsbox._contexts.frames import Done, Dropped, Forked, Frame, FrameError, FrameReader, Output, Ready, pack
from nsbox._languages import _detect, choose_language
from nsbox._ports.heads import (
    check_request,
    find_host,
    notice_outward,
    request_inward,
    response_outward,
    upgrade_of,
)
from nsbox._ports.names import host_of
from nsbox._ports.replies import RefusedError
from nsbox._runtimes.java import class_names
from nsbox._tracebacks import parse_python_error

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

LARGEST = 1000

# Frames of contexts


def packed(value: object) -> bytes:
    """A frame of anything that msgpack has a form for."""
    try:
        body: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError):
        body = b"\xc1"
    return len(body).to_bytes(4, "little") + body


WORDS = st.sampled_from(["ready", "output", "dropped", "done", "forked", "x"])
FRAMES = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.integers(0, 60), st.binary(max_size=60)).map(lambda one: one[0].to_bytes(4, "little") + one[1]),
    ANYTHING.map(packed),
    st.builds(
        lambda word, numbers, rest: packed([word, *numbers, *rest]),
        WORDS,
        st.lists(st.integers(-1, 300) | st.booleans(), max_size=2),
        st.lists(st.text(max_size=5) | st.binary(max_size=5) | ANYTHING, max_size=4),
    ),
)


def read(data: bytes, sizes: list[int]) -> list[Frame | str]:
    """What a reader makes of bytes that come in pieces of these sizes, again and again; the error is the last."""
    reader, found, turn = FrameReader(LARGEST), list[Frame | str](), 0
    while data:
        size = min(sizes[turn % len(sizes)], reader.wanted)
        assert 0 < reader.wanted <= LARGEST + 256 * 1024
        turn += 1
        piece, data = data[:size], data[size:]
        try:
            frame = reader.feed(piece)
        except FrameError as exc:
            return [*found, str(exc)]
        if frame is not None:
            found.append(frame)
    return found


@examples(300)
@given(st.lists(FRAMES, min_size=1, max_size=3), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_bytes_of_a_context_are_frames_or_a_frame_error(frames: list[bytes], sizes: list[int]) -> None:
    """The same whatever the pieces they come in; what is read is flat and has the types it should."""
    data = b"".join(frames)
    found = read(data, [LARGEST * 1000])
    assert read(data, sizes) == found
    for frame in found:
        if isinstance(frame, Output):
            pairs: list[tuple[object, object]] = list(frame.data.items())
            assert all(isinstance(name, str) and isinstance(one, str | bytes) for name, one in pairs)
        elif isinstance(frame, Done):
            assert 0 <= frame.status <= 255
        elif isinstance(frame, Dropped):
            assert frame.size >= 0
        else:
            assert isinstance(frame, Ready | Forked | str)


UNICODE = st.text(st.characters(codec="utf-8"), max_size=9)


@examples(100)
@given(
    st.integers(0, 2**63), st.booleans(),
    st.dictionaries(UNICODE, UNICODE | st.binary(max_size=9), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
)  # fmt: skip
def test_an_output_arrives_as_it_was_packed(
    cell: int, main: bool, data: dict[str, str | bytes], sizes: list[int]
) -> None:
    """By the same format in both directions."""
    frame = pack("output", cell, main, *(item for pair in data.items() for item in pair))
    assert read(frame, sizes) == [Output(cell, main, data)]


# Heads of HTTP

TOKENS = st.sampled_from(
    ["close", "upgrade", "Upgrade", "keep-alive", "host", "content-length", "transfer-encoding", "x-secret", "te", ""]
)
NAMES = st.sampled_from(
    ["Host", "Connection", "Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Upgrade", "Transfer-Encoding",
     "Content-Length", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Secret", "Cookie", "Expect"]
)  # fmt: skip
VALUES = st.one_of(
    TOKENS,
    st.lists(TOKENS, max_size=3).map(", ".join),
    st.sampled_from(["chunked", "gzip", "0", "5", "5, 5", "-1", "a.localhost", "a.localhost:80", "@evil", "websocket"]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=8),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
TARGETS = st.one_of(
    st.sampled_from(
        ["/", "*", "/a?b", "http://b.localhost/x", "HTTP://b", "http://", "http://@a/", "https://a/", "a:80"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=10),
)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "get", "M-SEARCH"])
VERSIONS = st.sampled_from(["1.1", "1.1", "1.0"])


def head(first: str, headers: list[tuple[str, str]]) -> bytes:
    """As it comes over a connection."""
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def heard(role: Any, data: bytes, asked: h11.Request | None = None) -> Any:
    """What h11 makes of it; None: nothing."""
    connection = h11.Connection(role)
    if asked is not None:
        connection.send(asked)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return None
    return event if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse) else None


def values(message: Any, name: bytes) -> list[bytes]:
    """Of all headers with a name."""
    return [value for one, value in message.headers if one == name]


HOP_BY_HOP = (b"keep-alive", b"proxy-authorization", b"te", b"trailer")


CLIENTS = st.sampled_from(["127.0.0.1", "::1", "192.0.2.7", "2001:db8::1"])


def check_passed_on(request: h11.Request, host: bytes, path: bytes, client: str) -> None:
    """A program inside reads the same method, host and length as the gateway, and of this connection nothing."""
    sent = h11.Connection(h11.CLIENT).send(request_inward(request, host, path, client))
    assert sent is not None
    inside = heard(h11.SERVER, sent)
    assert inside is not None
    assert (inside.method, inside.target) == (request.method, path)
    assert values(inside, b"host") == [host]
    for name in (b"content-length", b"transfer-encoding"):
        assert values(inside, name) == values(request, name)
    assert not [name for name, _ in inside.headers if name in HOP_BY_HOP]
    assert upgrade_of(inside) == upgrade_of(request)
    assert len(values(inside, b"connection")) == 1
    (origin,) = values(inside, b"x-forwarded-for")
    assert origin.endswith(client.encode())
    assert len(values(inside, b"x-forwarded-host")) == len(values(inside, b"x-forwarded-proto")) == 1
    if client.startswith(("192", "2001")):
        assert origin == client.encode()
        assert values(inside, b"x-forwarded-host") == [host]


def test_any_request_is_refused_or_passed_on_with_one_meaning() -> None:
    """What h11 reads, and the gateway would find somebody for."""
    passed, refused = [], set()

    @examples(400)
    @given(METHODS, TARGETS, VERSIONS, st.booleans(), HEADERS, CLIENTS)
    def ask(method: str, target: str, version: str, named: bool, headers: list[tuple[str, str]], client: str) -> None:
        own = [("Host", "a.localhost")] if named else []
        request = heard(h11.SERVER, head(f"{method} {target} HTTP/{version}", [*own, *headers]))
        assume(request is not None)
        try:
            check_request(request)
            host, path = find_host(request)
        except RefusedError as exc:
            refused.add(exc.status)
            return
        assume(host_of(host) is not None)
        check_passed_on(request, host, path, client)
        passed.append(request)

    ask()
    assert len(passed) > 50
    assert refused == {400, 405}


@examples(300)
@given(st.sampled_from([100, 101, 103, 200, 204, 304, 404, 999]), VERSIONS, HEADERS, st.booleans())
def test_any_response_is_passed_on_without_what_is_for_one_connection(
    status: int, version: str, headers: list[tuple[str, str]], upgrade: bool
) -> None:
    """And how its body is framed is not what the program inside says."""
    wish = [("Connection", "upgrade"), ("Upgrade", "websocket")] if upgrade else []
    asked = h11.Request(method="GET", target="/", headers=[("Host", "a.localhost"), *wish])
    response = heard(h11.CLIENT, head(f"HTTP/{version} {status} X", headers), asked)
    assume(response is not None)
    passed = response_outward(response) if isinstance(response, h11.Response) else notice_outward(response)
    assert passed.status_code == status
    assert not [name for name, _ in passed.headers if name in HOP_BY_HOP]
    if isinstance(passed, h11.Response):
        assert not values(passed, b"transfer-encoding")
        assert not values(passed, b"connection")
        assert len(values(passed, b"content-length")) <= 1
    elif status == 101:
        assert upgrade_of(passed) == upgrade_of(response)


# Reports of exceptions

LINES = st.sampled_from(
    ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "    x", "ValueError: x", "E", "",
     "The above exception was the direct cause of the following exception:", "  + Exception Group Traceback",
     "  + Exception Group Traceback (most recent call last):", "  | ValueError: x", "  +-+----", "SyntaxError: x",
     "Exception ignored in: x", "During handling of the above exception, another exception occurred:"]
)  # fmt: skip


@examples(300)
@given(st.lists(LINES | st.text(max_size=10), max_size=14).map("\n".join))
def test_any_text_has_an_error_or_none(text: str) -> None:
    """Twice the same; a name is one, and what is reported was written."""
    error = parse_python_error(text)
    assert parse_python_error(text) == error
    if error is not None:
        assert all(part.isidentifier() or part == "<locals>" for part in error.name.split("."))
        assert error.name in text
        assert error.traceback.endswith("\n")


IDENTIFIERS = st.text(st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")), min_size=1, max_size=8).filter(
    lambda name: name.isidentifier() and not keyword.iskeyword(name)
)
MESSAGES = st.text(st.characters(codec="utf-8"), max_size=30).filter(
    lambda text: "Traceback" not in text and "  File" not in text
)


@examples(150)
@given(IDENTIFIERS, MESSAGES, st.booleans(), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_the_interpreter_prints_of_an_exception_is_read_back(
    name: str, message: str, chained: bool, before: str
) -> None:
    """Its class and its message, whatever stands before it."""
    assume("Traceback" not in before and "  File" not in before)
    kind = type(name, (Exception,), {"__module__": "__main__"})
    try:
        try:
            raise ZeroDivisionError("first")
        except ZeroDivisionError as first:
            raise kind(message) from first if chained else None
    except Exception as exc:  # noqa: BLE001  # of a class just made
        printed = "".join(traceback.format_exception(exc))
    error = parse_python_error(f"{before}\n{printed}")
    assert error is not None
    assert error.name == name
    assert error.value == message.rstrip("\n")
    assert ("ZeroDivisionError: first" in error.traceback) == chained


# Sources of programs

PIECES = st.sampled_from(
    ["#!/usr/bin/env python3\n", "#!/bin/sh\n", "#!", "def f(x):\n    return x\n", "import os\n", "print(", ")",
     "x = 1\n",
     "package main\n", "func main() {\n", "fn main() {\n", "let mut x = 1;\n", "const x: number = 1;\n", "}\n", "{",
     "#include <stdio.h>\n", "int main(void) {\n", "std::cout << 1;\n", "public class A {\n", "console.log(1);\n",
     "public static void main(String[] a) {\n", "echo $x\n", "fi\n", "if [ 1 ]; then\n", "/*", "*/", "//", '"', "'",
     '"""', "\\", "\n", "\0", "\ud800", "\ufeff", "((((", "- - -", "lambda: ", ".a", "@"]
)  # fmt: skip
SOURCES = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)


@examples(250)
@given(SOURCES, st.sampled_from(sorted(RUNTIMES)))
def test_any_text_is_written_in_a_language_or_in_none(text: str, own: str) -> None:
    """The same when it is remembered; and where none is named there is one to run it in."""
    found = detect_language(text)
    assert found is None or found in RUNTIMES
    assert detect_language(text) == _detect.__wrapped__(text) == found
    assert choose_language(text, own) in RUNTIMES
    assert found is not None or choose_language(text, own) == own


JAVA = st.sampled_from(
    ["package ", "a", "b2", ".", ";", "public ", "final ", "class ", "interface ", "enum ", "record ", "A", "B", " ",
     "{", "}", "static void main", "(", ")", "/*", "*/", "//", "\n", '"', "'", "\\", '"""', "@", "import ", "$", "_",
     "c" * 210,
     "package a.b;", "public class A {", "void main(", "é"]
)  # fmt: skip
NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


@examples(400)
@given(st.lists(JAVA, max_size=14).map("".join))
def test_any_java_names_a_class_and_a_file(text: str) -> None:
    """Identifiers with dots between them, and one that fits a file's name; no path, no option of a command."""
    started, file = class_names(text)
    assert all(NAME.fullmatch(part) for part in started.split("."))
    assert NAME.fullmatch(file)
    assert len(file) <= 200
    assert class_names(text) == (started, file)
