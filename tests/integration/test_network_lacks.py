"""A kernel that has not what networks are made of: User Mode Linux, as Debian builds it, has no nftables for IP."""

import pytest

import nsbox
from nsbox import NetworkAllocation
from nsbox._host import checks

pytestmark = pytest.mark.needs_own_kernel


def test_networks_are_refused_with_the_remedy_and_all_else_works() -> None:
    """By name at the start; a living sandbox goes on as it was, as often as it is asked."""
    refused = nsbox.Sandbox(network=True)
    for _ in range(2):
        with pytest.raises(nsbox.UnsupportedHostError, match="nf_tables") as caught:
            (refused.reset if refused.status is nsbox.SandboxStatus.ERROR else refused.start)()
        assert caught.value.missing == ("nf_tables",)
        assert caught.value.remedies
        assert refused.status is nsbox.SandboxStatus.ERROR
    refused.terminate()
    with nsbox.Sandbox(timeout=60) as one, nsbox.Network() as network:
        for _ in range(2):
            with pytest.raises(nsbox.UnsupportedHostError, match="nf_tables"):
                network.connect(one, "one")
            with pytest.raises(nsbox.UnsupportedHostError, match="nf_tables"):
                one.update_network(NetworkAllocation(access="egress"))
        assert dict(network.members) == {}
        assert one.resources.network == NetworkAllocation()
        assert one.isolation["network"] == "loopback only"
        assert one.shell("echo $((6 * 7))").stdout == "42\n"
        one.restart()
        assert one.shell("true").ok
    found = {check.id: check for check in checks()}
    assert not found["nf_tables"].ok
    assert found["nf_tables"].costs == "no networks but the loopback"
