"""What names a sandbox may ask for, which addresses it may be told, and how much of the resolver it may have."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter
from collections.abc import Sequence

import pytest
import trio

from nsbox._config.networks import PRIVATE_NETWORKS
from nsbox._network.names import (
    Names,
    Patterns,
    embedded_address,
    is_loopback_name,
    is_nowhere,
    reverse_network,
)
from nsbox._network.shares import Account, Budget, Shares
from nsbox._network.upstream import name_servers

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

PRIVATE = [ipaddress.ip_network(one) for one in PRIVATE_NETWORKS]


def is_private(address: str) -> bool:
    """By the ranges that are blocked unless a configuration says otherwise."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in one for one in PRIVATE if one.version == parsed.version)


async def admit_nothing(_: Sequence[tuple[str, float]]) -> None:
    """Where nothing is admitted."""


def names(blocked: tuple[str, ...] = (), allowed: tuple[str, ...] | None = None) -> Names:
    """Of a sandbox without peers."""
    return Names(
        blocked=blocked, allowed=allowed, hosts=lambda _: None, admit=admit_nothing, refused=lambda _: None,
        is_blocked_address=is_private,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.org", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.c.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "example.com.org", False),
        ("*.com", "example.com", True),
        ("*.com", "com", False),
        ("Example.COM.", "example.com", True),
        ("*.Example.COM.", "www.example.com", True),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", True),
        ("example.com", "", False),
        ("*.example.com", "", False),
        ("*.example.com", "*.example.com", True),
        ("localhost", "localhost", True),
    ],
)
def test_a_pattern_matches_whole_labels(pattern: str, name: str, matches: bool) -> None:
    """A star is for one label or more, and never for none."""
    assert Patterns([pattern]).match(name) is matches
    assert Patterns(["other.org", pattern, "*.other.net"]).match(name) is matches


def test_no_pattern_matches_nothing() -> None:
    """An empty list of allowed names allows none."""
    assert not Patterns([]).match("example.com")
    assert not names(allowed=()).permits("example.com")
    assert not names(allowed=()).permits("")


def test_what_is_blocked_is_blocked_even_where_it_is_allowed() -> None:
    """Both lists hold; without any of them everything may be asked for."""
    both = names(blocked=("bad.example.com",), allowed=("*.example.com",))
    assert both.permits("good.example.com")
    assert not both.permits("bad.example.com")
    assert not both.permits("example.org")
    assert both.blocks("bad.example.com")
    assert not both.blocks("example.org")
    assert names().permits("example.org")
    assert names().permits("")


@pytest.mark.parametrize(
    ("address", "inner"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::10.1.2.3", "10.1.2.3"),
        ("64:ff9b::10.1.2.3", "10.1.2.3"),
        ("2002:a01:203::1", "10.1.2.3"),
        ("2001:0:5db8::f5fe:fdfc", "10.1.2.3"),
        ("::", None),
        ("::1", None),
        ("2606:4700::1", None),
        ("10.1.2.3", None),
    ],
)
def test_an_address_in_another_is_found(address: str, inner: str | None) -> None:
    """All forms that a host, a relay or a translator would take the IPv4 address out of."""
    found = embedded_address(ipaddress.ip_address(address))
    assert found == (None if inner is None else ipaddress.ip_address(inner))


def test_hidden_addresses_stay_hidden_in_any_form_when_only_their_own_range_is_blocked() -> None:
    """With nothing but 10.0.0.0/8 blocked, and with the ranges of the default; public ones are told."""

    def is_ten(address: str) -> bool:
        return address.startswith("10.")

    only_ten = Names(hosts=lambda _: None, admit=admit_nothing, refused=lambda _: None, is_blocked_address=is_ten)
    for one in ("10.1.2.3", "::ffff:10.1.2.3", "::10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1"):
        assert only_ten.hides(one), one
        assert names().hides(one), one
    for one in ("192.0.2.1", "64:ff9b::8.8.8.8", "2002:808:808::1", "127.0.0.1"):
        assert not only_ten.hides(one), one
        assert names().hides(one), one
    for one in ("8.8.8.8", "2606:4700::1"):
        assert not names().hides(one), one
    assert only_ten.hides("::ffff:8.8.8.8")  # nobody needs to write it so, and it would be admitted as IPv6


def test_names_that_never_leave() -> None:
    """RFC 6761 and 7686."""
    assert is_loopback_name("localhost")
    assert is_loopback_name("a.localhost")
    assert not is_loopback_name("notlocalhost")
    assert not is_loopback_name("localhost.example.com")
    assert is_nowhere("x.invalid")
    assert is_nowhere("onion")
    assert not is_nowhere("invalid.example.com")
    assert not is_nowhere("")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("4.3.2.1.in-addr.arpa", "1.2.3.4/32"),
        ("168.192.in-addr.arpa", "192.168.0.0/16"),
        ("10.in-addr.arpa", "10.0.0.0/8"),
        ("lb._dns-sd._udp.0.1.168.192.in-addr.arpa", "192.168.1.0/32"),
        ("5.0-127.2.0.192.in-addr.arpa", "192.0.2.0/24"),
        ("x.9.4.3.2.1.in-addr.arpa", "1.2.3.4/32"),
        ("256.1.in-addr.arpa", "1.0.0.0/8"),
        ("01.in-addr.arpa", None),
        ("in-addr.arpa", None),
        ("arpa", None),
        ("", None),
        ("4.3.2.1.in-addr.arpa.example.com", None),
        ("d.f.ip6.arpa", "fd00::/8"),
        (".".join(reversed("fe800000000000000000000000000001")) + ".ip6.arpa", "fe80::1/128"),
        ("x." + ".".join(reversed("fe800000000000000000000000000001")) + ".ip6.arpa", "fe80::1/128"),
        ("g.f.ip6.arpa", "f000::/4"),
        ("ip6.arpa", None),
    ],
)
def test_a_name_for_addresses_is_about_a_range(name: str, network: str | None) -> None:
    """Read from the right, as far as it is a number."""
    found = reverse_network(name)
    assert found == (None if network is None else ipaddress.ip_network(network))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", [("192.0.2.1", 53), ("2001:db8::1", 53)]),
        ("# nameserver 192.0.2.9\n; nameserver 192.0.2.8\n\n nameserver\t192.0.2.1 x\nsearch a b\noptions edns0\n",
         [("192.0.2.1", 53)]),
        ("nameserver fe80::1%eth0\n", [("fe80::1%eth0", 53)]),
        ("nameserver dns.example.com\nnameserver 1.2.3\nnameserver 192.0.2.1", [("192.0.2.1", 53)]),
        ("".join(f"nameserver 192.0.2.{i}\n" for i in range(5)), [(f"192.0.2.{i}", 53) for i in range(3)]),
        ("", [("127.0.0.1", 53)]),
        ("nameserver\nNAMESERVER 192.0.2.1", [("127.0.0.1", 53)]),
    ],
)  # fmt: skip
def test_the_hosts_servers_are_read_as_the_c_library_reads_them(config: str, found: list[tuple[str, int]]) -> None:
    """At most three; what is no address is left out; without any it is the host itself."""
    assert list(name_servers(config)) == found


def test_one_alone_has_a_half_of_the_time_and_has_it_again_after_a_while() -> None:
    """What is taken beyond is a debt; who has taken nothing can begin all the same, as long as there is something."""
    budget = Budget(share=0.5, seconds=4)
    assert budget.wait_seconds("a", 100) == 0
    budget.take("a", 100, 0.99)
    assert budget.wait_seconds("a", 100) == 0
    budget.take("a", 100, 0.51)
    assert budget.wait_seconds("a", 100) == pytest.approx(4 * math.log(1.5))
    assert budget.wait_seconds("b", 100) == 0
    assert budget.wait_seconds("a", 101) == pytest.approx(4 * math.log(1.5) - 1)
    assert budget.wait_seconds("a", 102) == 0
    budget.take("b", 102, 5)
    assert budget.wait_seconds("c", 102) > 0
    assert budget.wait_seconds("c", 200) == 0


@pytest.mark.parametrize("count", [1, 3, 30, 300])
def test_all_together_never_have_everything_and_a_new_one_can_always_begin(count: int) -> None:
    """However many take whatever they may, in turn, in small pieces, for a minute; begin at once, or nearly so."""
    budget = Budget(share=0.4, seconds=4)
    greedy = [f"greedy {number}" for number in range(count)]
    taken = 0.0
    for step in range(600):
        now = 50 + step / 10
        while goes_on := [one for one in greedy if not budget.wait_seconds(one, now)]:
            for one in goes_on:
                if not budget.wait_seconds(one, now):
                    budget.take(one, now, 0.0005)
                    taken += 0.0005
        assert budget.wait_seconds("new", now) < 0.01
    assert taken < 0.4 * 60 + 0.4 * 4
    assert taken > 0.4 * 60 * count / (count + 1) * 0.9


def test_those_that_have_used_little_are_forgotten() -> None:
    """There are as many as a sandbox's number may be."""
    budget = Budget(share=0.4, seconds=4)
    for number in range(5000):
        budget.take(str(number), number, 0.001)
    assert len(budget._each) <= 1025


class Ledger(Budget):
    """Notes what was paid."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.paid: Counter[str] = Counter()

    def take(self, who: str, now: float, seconds: float) -> None:
        """As it is told."""
        super().take(who, now, seconds)
        self.paid[who] += int(seconds * 1e9)


async def test_what_one_takes_of_the_thread_it_pays_for_and_nothing_else() -> None:
    """Before and after it waits, whether it ends well or not; not for what others do meanwhile."""
    ledger = Ledger()

    async def work(turns: int) -> int:
        began = time.thread_time_ns()
        for _ in range(turns):
            sum(range(200_000))
            await trio.lowlevel.checkpoint()
        return time.thread_time_ns() - began

    async def fail() -> None:
        await work(3)
        raise KeyError("failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Account(ledger, "busy").run, work, 20)
        nursery.start_soon(Account(ledger, "idle").run, trio.sleep, 0.02)
    assert ledger.paid["busy"] > 10 * ledger.paid["idle"] > 0
    assert await Account(ledger, "alone").run(work, 5) == pytest.approx(ledger.paid["alone"], rel=0.5)
    with pytest.raises(KeyError):
        await Account(ledger, "fails").run(fail)
    assert ledger.paid["fails"] > ledger.paid["idle"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await Account(ledger, "cancelled").run(work, 5)
    assert scope.cancelled_caught
    assert 0 < ledger.paid["cancelled"] < ledger.paid["busy"]


def test_one_has_so_many_shares_and_no_more() -> None:
    """Given back, there is one again."""
    shares = Shares(each=2, most=10)
    first, second = shares.take("a"), shares.take("a")
    assert first is not None
    assert second is not None
    assert shares.take("a") is None
    assert shares.take("b") is not None
    shares.give_back("a", first)
    assert shares.take("a") is not None
    assert shares.take("a") is None


async def test_who_has_the_most_gives_one_up_for_who_has_less() -> None:
    """The oldest one, and only as long as that makes it more even; given back late it counts once."""
    shares = Shares(each=4, most=4)
    held = [scope for _ in range(4) if (scope := shares.take("greedy")) is not None]
    assert shares.take("greedy") is None
    modest = [shares.take("modest")]
    assert [scope.cancel_called for scope in held] == [True, False, False, False]
    modest.append(shares.take("modest"))
    assert [scope.cancel_called for scope in held] == [True, True, False, False]
    assert shares.take("modest") is None
    assert shares.take("greedy") is None
    assert shares.take("third") is not None
    assert [scope.cancel_called for scope in held] == [True, True, True, False]
    shares.give_back("greedy", held[0])
    assert shares.take("fourth") is not None
    assert [scope is not None and scope.cancel_called for scope in modest] == [True, False]
    assert shares.take("fifth") is None
    shares.give_back("greedy", held[3])
    assert shares.take("fifth") is not None


async def test_what_is_given_up_ends_where_it_waits() -> None:
    """As any scope that is cancelled."""
    shares = Shares(each=2, most=2)
    scope = shares.take("greedy")
    assert scope is not None
    assert shares.take("greedy") is not None
    assert shares.take("modest") is not None
    with scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
