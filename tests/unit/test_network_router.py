"""What the router decides without a kernel: ranges, addresses, policies, and messages with places."""

import ipaddress
import itertools
import os
import struct
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox._config import NetworkAllocation
from nsbox._errors import SetupError, UnsupportedHostError
from nsbox._network import addresses, messages, netlink, nftables, rules
from nsbox._network.addresses import AddressPool, candidates, choose_range
from nsbox._network.netlink import Template, attribute, attributes
from nsbox._network.policy import CONNECTIONS, Policy, address_ranges, contains, port_ranges

NETWORKS = st.one_of(
    st.builds(lambda number, length: ipaddress.ip_network((number, length), strict=False),
              st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda number, length: ipaddress.ip_network((number.to_bytes(16, "big"), length), strict=False),
              st.integers(0, 2**128 - 1), st.integers(0, 128)),
)  # fmt: skip


@given(st.lists(NETWORKS, max_size=8), st.data())
def test_ranges_hold_what_the_networks_hold(networks: list[IPv4Network | IPv6Network], data: st.DataObject) -> None:
    """However they overlap; and they ascend with a gap between each two, as the kernel wants it."""
    texts = tuple(map(str, networks))
    for version, bits in ((4, 32), (6, 128)):
        ranges = address_ranges(texts, version)
        assert all(first <= last for first, last in ranges)
        assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(ranges))
        edges = [int(edge) + step for one in networks if one.version == version
                 for edge in (one[0], one[-1]) for step in (-1, 0, 1)]  # fmt: skip
        choices = st.integers(0, 2**bits - 1) if not edges else st.sampled_from(edges) | st.integers(0, 2**bits - 1)
        value = min(max(data.draw(choices), 0), 2**bits - 1)
        expected = any(one.version == version and int(one[0]) <= value <= int(one[-1]) for one in networks)
        assert contains(ranges, value) == expected


@given(st.lists(st.integers(1, 65535), unique=True, max_size=20), st.integers(0, 65535))
def test_neighbouring_ports_are_one_range(ports: list[int], port: int) -> None:
    """The same for ports."""
    ranges = port_ranges(tuple(ports))
    assert contains(ranges, port) == (port in ports)
    assert sum(last - first + 1 for first, last in ranges) == len(ports)
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(ranges))


def test_a_policy_is_what_the_allocation_says() -> None:
    """By default nothing is reached at all; with egress all but private networks and the host."""
    none = Policy.of(NetworkAllocation())
    assert not none.access
    default = Policy.of(NetworkAllocation(access="egress"))
    assert default.access
    assert default.blocks_host
    assert not default.by_name
    assert "host" not in default.blocked_networks
    assert contains(address_ranges(default.blocked_networks, 4), int(ipaddress.ip_address("10.1.2.3")))
    loose = Policy.of(NetworkAllocation(access="egress", blocked_networks=(), allowed_domains=(), allowed_ports=[1]))
    assert loose == Policy(blocks_host=False, by_name=True, allowed_ports=(1,), connections_limit=CONNECTIONS)
    assert Policy.of(NetworkAllocation(blocked_networks=["host"])).blocks_host


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), unique_by=lambda one: one[0], max_size=6))
def test_attributes_are_read_as_they_were_written(parts: list[tuple[int, bytes]]) -> None:
    """Padding is no part of them."""
    data = b"".join(attribute(kind, payload) for kind, payload in parts)
    assert len(data) % 4 == 0
    assert attributes(data) == dict(parts)


@given(st.binary(max_size=60))
def test_attributes_of_any_bytes_are_read_to_an_end(data: bytes) -> None:
    """The kernel sends no such thing; a loop without an end would be worse than a wrong answer."""
    assert sum(map(len, attributes(data).values())) <= len(data)


@given(st.lists(st.sampled_from([b"", b"x", b"<one>", b"[two]"]), max_size=10), st.binary(min_size=5, max_size=5))
def test_a_template_has_its_values_in_all_their_places(pieces: list[bytes], value: bytes) -> None:
    """A value that looks like another place is not taken for one."""
    template = Template(b"".join(pieces), {"one": b"<one>", "two": b"[two]"})
    values = {"one": value, "two": b"<one>"}
    expected = b"".join({b"<one>": value, b"[two]": b"<one>"}.get(piece, piece) for piece in pieces)
    assert template.fill(values) == expected


def test_the_places_of_the_rules_are_in_them_and_nothing_else_is() -> None:
    """What a sandbox has of its own is in its messages as often as it should be: no place is hit by accident."""
    form = rules.Form(access=True, blocks_host=True, has_ports=True, by_name=True, limited=True)
    values = {"number": b"00000042", "other": b"00000007", "mark": struct.pack("=I", 42),
              "limit": struct.pack(">I", 9), "own4": bytes([10, 0, 0, 1]), "own6": bytes(15) + b"\1"}  # fmt: skip
    data = rules.opened(form, ipv6=True).fill(values)
    for place in rules.PLACES.values():
        assert place not in data
    assert data.count(b"c00000042\0") == 18  # made, in 16 rules, and in the map of all
    assert data.count(b"v00000042\0") == 4
    assert data.count(b"blocked4_00000007\0") == data.count(b"ports_00000007\0") == 1
    assert data.count(struct.pack("=I", 42)) == 3  # compared, set, and in the set of flows


@pytest.mark.parametrize("length", [2, 4, 16])
def test_an_interval_ends_where_the_keys_end(length: int) -> None:
    """One that reaches the last key has no end: there is no key for it."""
    last = (1 << length * 8) - 1
    one = nftables.element(bytes(length))
    assert nftables.interval(0, last, length) == one
    assert len(nftables.interval(0, last - 1, length)) > len(one)


def test_messages_with_many_elements_are_cut() -> None:
    """The length of an attribute has 16 bits; 65,535 ports of which no two are neighbours take that many."""
    ranges = [nftables.interval(port, port, 2) for port in range(1, 65536, 2)]
    data = rules.TABLE.add("ports", ranges)
    position = count = 0
    while position < len(data):
        length = netlink.HEADER.unpack_from(data, position)[0]
        assert length < 1 << 16
        position += length
        count += 1
    assert position == len(data)
    assert count == 64


def test_addresses_come_back_as_late_as_possible() -> None:
    """In turn; those of the router, of the network and of its broadcast are nobody's."""
    pool = AddressPool(IPv4Network("10.1.0.0/27"), IPv6Network("fd00::/64"))
    places = [pool.take() for _ in range(15)]
    assert [str(pool.own4(place)) for place in (places[0], places[-1])] == ["10.1.0.16", "10.1.0.30"]
    assert str(pool.own6(places[0])) == "fd00::10"
    with pytest.raises(SetupError, match=r"all addresses of 10\.1\.0\.0/27 are in use: 15 sandboxes"):
        pool.take()
    for place in places[3:5]:
        pool.give_back(place)
    assert [pool.take(), pool.take()] == places[3:5]


def test_a_range_overlaps_nothing_that_is_used() -> None:
    """Within the usual pool there is room beside almost anything; without, in another; or it is said."""
    used = [IPv4Network("10.192.0.0/11"), IPv4Network("10.224.0.0/12"), IPv4Network("192.0.2.0/24")]
    found = [one for _, one in candidates(used)]
    assert len(found) == len(set(found)) == 256 + 256 + 16 + 32
    assert not any(one.overlaps(other) for one in found for other in used)
    assert all(one.subnet_of(IPv4Network("10.240.0.0/12")) for one in found[:256])
    assert choose_range([IPv4Network("10.0.0.0/8")], None).subnet_of(IPv4Network("172.16.0.0/12"))
    numbers = [number for number, _ in candidates([])]
    assert sorted(numbers) == list(range(1024 + 256 + 16 + 32))
    with pytest.raises(UnsupportedHostError, match="no range of private addresses is left"):
        choose_range(list(addresses._POOLS), None)


def test_another_supervisors_range_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it has the register open."""
    monkeypatch.setattr(addresses, "REGISTER", f"{tmp_path}/register")
    monkeypatch.setattr(addresses, "_POOLS", (IPv4Network("10.192.0.0/19"),))
    registers = [addresses.open_register() for _ in range(3)]
    try:
        found = {choose_range([], one) for one in registers[:2]}
        assert found == {IPv4Network("10.192.0.0/20"), IPv4Network("10.192.16.0/20")}
        with pytest.raises(UnsupportedHostError):
            choose_range([], registers[2])
        os.close(registers.pop(0))
        assert choose_range([], registers[1]) in found
    finally:
        for one in registers:
            os.close(one)


def test_the_registers_directory_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others can write to is not trusted."""
    monkeypatch.setattr(addresses, "REGISTER", f"{tmp_path}/open/register")
    os.mkdir(f"{tmp_path}/open")
    os.chmod(f"{tmp_path}/open", 0o777)
    with pytest.raises(SetupError, match="only root can write"):
        addresses.open_register()


@given(st.floats(0.001, 1e19), st.sampled_from([1500, 65520]))
def test_a_rate_lets_every_packet_through(mbps: float, mtu: int) -> None:
    """What may be sent at once is more than one packet, and all values fit."""
    values = messages.rate_values(mbps, mtu)
    rate, burst, queue = (int.from_bytes(values[name], "little") for name in ("rate64", "burst", "queue"))
    assert rate >= 1
    assert burst > mtu + 14  # with an Ethernet header
    assert queue >= 16 * mtu
    assert {name: len(value) for name, value in values.items()} == {"rate": 4, "rate64": 8, "burst": 4, "queue": 4}
    if 0.01 < mbps < 1e6:
        assert rate == pytest.approx(mbps * 125_000, rel=0.01)
