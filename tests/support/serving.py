"""Servers in sandboxes, and clients outside, which stay on loopback."""

import contextlib
import hashlib
import http.client
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from watching import Bell

import nsbox

READY = """
def ring(word='up'):
    with open('/bell/ring', 'w') as bell:
        bell.write(word + '\\n')
"""

HTTP = (
    READY
    + r"""
import base64, hashlib, http.server, json, sys
NAME = sys.argv[2]
GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def reply(self, body, **headers):
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_GET(self):
        if self.headers.get('Upgrade', '').lower() == 'websocket':
            return self.websocket()
        if self.path == '/seen':
            seen = {'client': self.client_address[0], 'target': self.path, 'headers': self.headers.items()}
            return self.reply(json.dumps(seen).encode())
        if self.path.startswith('/big/'):
            size = int(self.path[5:])
            self.send_response(200)
            self.send_header('Content-Length', str(size))
            self.end_headers()
            block = bytes(range(256)) * 256
            while size:
                size -= self.wfile.write(block[:size])
            return
        if self.path == '/chunks':
            self.send_response(200)
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            for word in (b'one ', b'two ', b'three'):
                self.wfile.write(b'%x\r\n%s\r\n' % (len(word), word))
            self.wfile.write(b'0\r\n\r\n')
            return
        if self.path == '/hang':
            ring('hangs')
            self.rfile.read(1)
            return
        self.reply(NAME.encode())

    do_HEAD = do_GET

    def do_POST(self):
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            body = b''
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers['Content-Length']))
        self.reply(hashlib.sha256(body).hexdigest().encode())

    def websocket(self):
        accept = base64.b64encode(hashlib.sha1(self.headers['Sec-WebSocket-Key'].encode() + GUID).digest())
        self.send_response(101)
        self.send_header('Upgrade', 'websocket')
        self.send_header('Connection', 'Upgrade')
        self.send_header('Sec-WebSocket-Accept', accept.decode())
        self.end_headers()
        while frame := self.rfile.read(2):
            size = frame[1] & 127
            mask = self.rfile.read(4)
            text = bytes(one ^ mask[index % 4] for index, one in enumerate(self.rfile.read(size)))
            if frame[0] == 0x88:
                self.wfile.write(b'\x88\x00')
                break
            self.wfile.write(bytes((0x81, size)) + text.upper())
        self.close_connection = True

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256

server = Server(('127.0.0.1', int(sys.argv[1])), Handler)
ring()
server.serve_forever()
"""
)
"""Arguments: the port, and what it answers to GET /."""

TCP = (
    READY
    + """
import asyncio, hashlib, socket, struct, sys

async def serve(reader, writer):
    # It answers when it has read an end of file, and then reads nothing more: both halves close by themselves.
    what = await reader.readline()
    if what == b'count\\n':
        size, digest = 0, hashlib.sha256()
        while data := await reader.read(65536):
            size += len(data)
            digest.update(data)
        writer.write(b'%d %s' % (size, digest.hexdigest().encode()))
    elif what == b'bye first\\n':
        writer.write(b'bye')
        writer.write_eof()
        ring((await reader.read()).decode())
    elif what == b'peer\\n':
        writer.write(writer.get_extra_info('peername')[0].encode())
    elif what == b'echo\\n':
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    elif what == b'reset\\n':
        linger = struct.pack('ii', 1, 0)
        writer.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return writer.transport.abort()
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, sys.argv[2], int(sys.argv[1]), backlog=512)
    ring()
    await server.serve_forever()

asyncio.run(main())
"""
)
"""Arguments: the port, and the address to listen on."""


HOSTILE = (
    READY
    + r"""
import socket, struct, sys, threading

def endless(sock, data):
    while True:
        sock.sendall(data)

def flood(sock):
    sock.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    sock.settimeout(1)
    sent = 0
    try:
        while sent < 200 << 20:
            sent += sock.send(b'x' * 65536)
    except TimeoutError:
        pass
    ring(str(sent))

def deaf(sock):
    ring('deaf')
    threading.Event().wait()

def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

SAYS = {
    b'/good': b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood',
    b'/garbage': b'\x00\xff\x00 garbage\r\n\r\n' * 100,
    b'/silent': b'',
    b'/short': b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789',
    b'/chunk': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nffffffffffffffffffffffff\r\n',
    b'/both': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\ngood\r\n0\r\n\r\n',
    b'/lengths': b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\ngood',
    b'/switch': b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n',
    b'/twice': b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst'
               b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond',
}
DOES = {
    b'/headers': lambda sock: endless(sock, b'HTTP/1.1 200 OK\r\n' + b'X-Endless: and so on\r\n' * 1000),
    b'/line': lambda sock: endless(sock, b'a' * 65536),
    b'/notices': lambda sock: endless(sock, b'HTTP/1.1 103 Early Hints\r\n\r\n' * 100),
    b'/trailers': lambda sock: (sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n'),
                                endless(sock, b'X-Endless: and so on\r\n' * 1000)),
    b'/flood': flood,
    b'/deaf': deaf,
    b'/reset': reset,
}

def serve(sock):
    head = b''
    with sock:
        while b'\r\n\r\n' not in head:
            if not (data := sock.recv(65536)):
                return
            head += data
        path = head.split()[1]
        try:
            if path in DOES:
                DOES[path](sock)
            else:
                sock.sendall(SAYS[path])
        except OSError:
            pass

server = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=64)
ring()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
)
"""Argument: the port. It answers to no path as a server should, but to /good."""


@contextlib.contextmanager
def server(sandbox: nsbox.Sandbox, bell: Bell, program: str, *arguments: object) -> Iterator[None]:
    """A server that runs, and listens, as long as the context."""
    with sandbox.spawn(["python3", "-c", program, *map(str, arguments)], timeout=120) as process:
        said = bell.wait()
        assert said == "up", said
        try:
            yield
        finally:
            process.close()


def port_of(url: str) -> int:
    """The port of an URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def connect(url: str, seconds: float = 20) -> socket.socket:
    """To the port of an URL, on loopback whatever name it has."""
    return socket.create_connection(("127.0.0.1", port_of(url)), timeout=seconds)


def ask(sock: socket.socket, line: str, data: bytes = b"") -> bytes:
    """Send a line and data to a TCP server, say that this is all, and read its answer to the end."""
    sock.sendall(line.encode() + b"\n" + data)
    sock.shutdown(socket.SHUT_WR)
    return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Up to the end of file."""
    found = bytearray()
    while data := sock.recv(65_536):
        found += data
    return bytes(found)


def get(url: str, path: str = "/", *, host: str | None = None, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and body of one request on a connection of its own; `host` is whom it is for, by the URL else."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Host": host or urlsplit(url).netloc, **headers})
        response = connection.getresponse()
        return response.status, response.read().decode()


def raw_http(url: str, request: bytes) -> bytes:
    """What is answered to bytes, up to the end of file."""
    with connect(url) as sock:
        sock.sendall(request)
        return read_all(sock)


def ends(sock: socket.socket) -> bool:
    """Whether a connection comes to its end, in order or by a reset, without another byte."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def status_of(answer: bytes) -> int:
    """Of an HTTP response."""
    return int(answer.split(b" ", 2)[1])


def websocket(url: str, host: str) -> socket.socket:
    """A WebSocket after its handshake (RFC 6455, 4.1)."""
    sock = connect(url)
    sock.sendall(
        f"GET /chat HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        assert data, head
        head += data
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # the example of RFC 6455, 1.3
    return sock


def exchange_frame(sock: socket.socket, text: bytes) -> bytes:
    """Send a text frame, masked as clients must, and read the one that comes back."""
    mask = b"\x01\x02\x03\x04"
    sock.sendall(bytes((0x81, 0x80 | len(text))) + mask + bytes(one ^ mask[i % 4] for i, one in enumerate(text)))
    found = b""
    while len(found) < 2 or len(found) < 2 + found[1]:
        data = sock.recv(4096)
        assert data
        found += data
    return found[2:]


def sha(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
