"""One query of a sandbox, from its bytes to those of its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import dns.message
import dns.rcode
import dns.rrset
import trio

from nsbox._network.decisions import FAILED, Answer, decide, sift
from nsbox._network.names import Names
from nsbox._network.queries import LARGEST_ANSWER, datagram_limit, error, read_query, shown_name, write_answer
from nsbox._network.shares import Account, Shares
from nsbox._network.upstream import Server, Upstream

log = logging.getLogger("nsbox")

DEADLINE_SECONDS = 4.5
"""For one query. Programs wait for 5 s and ask again then (resolv.conf(5)): they are told of the failure before."""

EACH = 64
"""Queries of one sandbox at a time; a browser asks for some dozens."""

MOST = 256
"""Of all sandboxes. Their sockets are counted by themselves, `upstream.SOCKETS_MOST`."""


class Answering:
    """Answers queries, several at a time.

    Args:
        find: What is known of the sandbox that has an address; None: nobody has it.
        servers: To ask; None: the host's.
    """

    def __init__(self, find: Callable[[str], Names | None], servers: Sequence[Server] | None) -> None:
        self._find = find
        self._upstream = Upstream(servers)
        self._shares = Shares(EACH, MOST)

    async def answer(self, wire: bytes, account: Account, *, is_stream: bool) -> bytes | None:
        """What is sent back to bytes from a sandbox; None: nothing. It raises nothing, whatever they are.

        Args:
            wire: The message.
            account: Of the sandbox, by the address that it is from; it pays for what is done at the same time.
            is_stream: Whether the answer may be long.
        """
        try:
            query = read_query(wire)
            if not isinstance(query, dns.message.Message):
                return query
            answer = await self._answer_in_time(query.question[0], account)
            if answer is None:
                return None
            limit = LARGEST_ANSWER if is_stream else datagram_limit(query)
            return write_answer(query, answer.rcode, answer.records, limit)
        except Exception:
            log.exception("resolver: a query of %s failed", account.who)
            return error(wire, dns.rcode.SERVFAIL)

    async def _answer_in_time(self, question: dns.rrset.RRset, account: Account) -> Answer | None:
        scope = self._shares.take(account.who)
        if scope is None:
            return FAILED
        scope.deadline = trio.current_time() + DEADLINE_SECONDS
        try:
            with scope:
                return await self._answer(question, account)
            return FAILED
        finally:
            self._shares.give_back(account.who, scope)

    async def _answer(self, question: dns.rrset.RRset, account: Account) -> Answer | None:
        names = self._find(account.who)
        if names is None:
            return None
        answer = decide(question, names)
        if answer is None:
            reply = await self._upstream.ask(question.name, question.rdtype, account)
            names = self._find(account.who)  # the policy of before may be no more
            if names is None:
                return None
            answer = decide(question, names) or (FAILED if reply is None else sift(question, reply, names))
        if answer.refused:
            names.refused(shown_name(question.name))
        if answer.admitted:
            await names.admit(answer.admitted)
        return answer
