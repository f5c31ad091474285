"""A DNS server for tests, authoritative for a table, and as faulty as the table says.

As a program it has the arguments ADDRESS, PORT (0: one that is free) and the table as JSON. It writes its port, and
then each query that it gets as a line of JSON: name as it came, type, transport ("udp", "tcp"), flags, edns (-1: none)
and the numbers of the options. It can be run in any network namespace.

The table has names in lower case, or "*" for all others; a name that is not in it does not exist. An entry has:

    A, AAAA, TXT, CNAME, MX, PTR, …    lists of records as in zone files; CNAME and its like as a list of one, too
    ttl         seconds, of all of them; 60
    turns       a list of entries, of which each query has the next one, and again from the start
    delay       seconds before the answer
    fault       drop: no answer; servfail, refused, formerr, notimp: that code; truncate: TC by UDP, and half of what
                is behind the question is missing; wrong-id, wrong-question, garbage: such an answer; then-right: all
                of these, and then the right one; no-edns: FORMERR to whoever uses it; echo: the query sent back;
                early-end: by TCP, an end of file in the middle; always-tc: TC by UDP and by TCP
    wire        an answer in hexadecimal digits, behind the query's first two bytes
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Entry = Mapping[str, Any]
Table = Mapping[str, Entry]

_OTHER = frozenset({"ttl", "turns", "delay", "fault", "wire"})
_CODES = {
    "servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED, "formerr": dns.rcode.FORMERR,
    "notimp": dns.rcode.NOTIMP,
}  # fmt: skip
_LOCK = threading.Lock()


class Zone:
    """What is answered, without any socket."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._turns: Counter[str] = Counter()

    def entry(self, name: str) -> Entry | None:
        """What the table has of a name, this time."""
        found = self._table.get(name, self._table.get("*"))
        if found is not None and "turns" in found:
            with _LOCK:
                turn = self._turns[name]
                self._turns[name] += 1
            return dict(found["turns"][turn % len(found["turns"])])
        return found

    def answers(self, query: dns.message.Message, *, by_udp: bool) -> list[bytes]:
        """What is sent back, one after the other, after the entry's delay."""
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        entry = self.entry(name)
        answer = self._answer(query, name, entry)
        entry = entry or {}
        time.sleep(entry.get("delay", 0))
        if "wire" in entry:
            return [query.to_wire()[:2] + bytes.fromhex(entry["wire"])]
        return self._with_fault(query, answer, entry.get("fault"), by_udp=by_udp)

    def _answer(self, query: dns.message.Message, name: str, entry: Entry | None) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=True)
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        for _ in range(20):
            if entry is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                break
            if "CNAME" in entry and kind != "CNAME":
                answer.answer.append(_records(name, entry, "CNAME"))
                name = entry["CNAME"][0].lower().removesuffix(".")
                entry = self.entry(name)
                continue
            if kind in entry and kind not in _OTHER:
                answer.answer.append(_records(name, entry, kind))
            break
        return answer

    @staticmethod
    def _with_fault(
        query: dns.message.Message, answer: dns.message.Message, fault: str | None, *, by_udp: bool
    ) -> list[bytes]:
        right = answer.to_wire(max_size=65_535)
        cut = bytes((right[2] | dns.flags.TC >> 8,))
        edns = query.edns >= 0
        if fault in _CODES or (fault == "no-edns" and edns):
            refusal = dns.message.make_response(query)
            refusal.set_rcode(_CODES.get(str(fault), dns.rcode.FORMERR))
            return [refusal.to_wire()]
        wrong_id = bytes((right[0] ^ 1,)) + right[1:]
        other = dns.message.from_wire(right.replace(b"\x07example", b"\x07elpmaxe"))
        wrong_question = other.to_wire(max_size=65_535)
        garbage = right[:2] + bytes(range(256))
        match fault:
            case "drop":
                return []
            case "truncate" if by_udp:
                start = 12 + len(query.question[0].name.to_wire() or b"") + 4
                return [right[:2] + cut + right[3 : start + (len(right) - start) // 2]]
            case "always-tc":
                return [right[:2] + cut + right[3:]]
            case "wrong-id":
                return [wrong_id]
            case "wrong-question":
                return [wrong_question]
            case "garbage":
                return [garbage]
            case "then-right":
                return [b"", garbage, wrong_id, wrong_question, query.to_wire(), right]
            case "echo":
                return [query.to_wire()]
            case _:
                limit = max(512, query.payload) if edns else 512
                return [right] if not by_udp or len(right) <= limit else [right[:2] + cut + right[3:limit]]


def _records(name: str, entry: Entry, kind: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(dns.name.from_text(name), entry.get("ttl", 60), "IN", kind, *entry[kind])


def _tell(query: dns.message.Message, transport: str) -> None:
    question = query.question[0]
    seen = {
        "name": question.name.to_text(omit_final_dot=True), "type": dns.rdatatype.to_text(question.rdtype),
        "transport": transport, "flags": dns.flags.to_text(query.flags), "edns": query.edns,
        "options": [option.otype for option in query.options],
    }  # fmt: skip
    with _LOCK:
        print(json.dumps(seen), flush=True)


def _serve_datagram(zone: Zone, sock: socket.socket, wire: bytes, peer: tuple[str, int]) -> None:
    query = dns.message.from_wire(wire)
    _tell(query, "udp")
    for answer in zone.answers(query, by_udp=True):
        sock.sendto(answer, peer)


def _serve_connection(zone: Zone, sock: socket.socket) -> None:
    with sock, sock.makefile("rb") as file, contextlib.suppress(ConnectionError):
        while head := file.read(2):
            query = dns.message.from_wire(file.read(int.from_bytes(head, "big")))
            _tell(query, "tcp")
            entry = zone.entry(query.question[0].name.to_text(omit_final_dot=True).lower()) or {}
            for answer in zone.answers(query, by_udp=False):
                framed = len(answer).to_bytes(2, "big") + answer
                sock.sendall(framed[: len(framed) // 2] if entry.get("fault") == "early-end" else framed)
            if entry.get("fault") == "early-end":
                return


def bind(address: str, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """A socket for UDP and one for TCP at the same port; 0: one that is free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(50):
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind((address, port))
            tcp.bind((address, udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
            continue  # what is free by UDP need not be by TCP
        return udp, tcp
    raise OSError("no port is free by UDP and by TCP")


def _listen(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    udp, tcp = bind(address, port)
    tcp.listen(64)
    return udp, tcp


def serve(address: str, port: int, table: Table) -> None:
    """Serve for ever; the port is the first line of standard output."""
    udp, tcp = _listen(address, port)
    zone = Zone(table)
    print(udp.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection = tcp.accept()[0]
            threading.Thread(target=_serve_connection, args=(zone, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    while True:
        wire, peer = udp.recvfrom(65_535)
        threading.Thread(target=_serve_datagram, args=(zone, udp, wire, peer), daemon=True).start()


class DnsServer:
    """A running one.

    Args:
        process: Its output has not been read.
        address: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = process.stdout
        line = self._lines.readline()
        assert line, "the DNS server did not start"
        self.at = (address, int(line))
        self._queries: list[Any] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self._queries += map(json.loads, self._lines)

    def queries(self) -> list[Any]:
        """All that it has got. It is ended, so that none is on its way."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        return self._queries


@contextlib.contextmanager
def dns_server(
    table: Table, address: str = "127.0.0.1", port: int = 0, prefix: Sequence[str] = ()
) -> Iterator[DnsServer]:
    """A server with a table as long as the context; `prefix` is a command that runs it, as in another namespace."""
    command = [*prefix, sys.executable, str(Path(__file__)), address, str(port), json.dumps(table)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            server = DnsServer(process, address)
            try:
                yield server
            finally:
                server.queries()
        finally:
            process.kill()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
