"""Thresholds: what counts as a crossing, and what does not."""

import math

import pytest

from nsbox._metrics.counters import find_number, sum_io
from nsbox._metrics.reading import Rates, Sample
from nsbox._metrics.thresholds import MARGIN, find_crossings, is_above

LIMITS = {"cpu": 80.0, "memory": 80.0}


def changes(*percents: float, threshold: float = 80.0) -> list[tuple[float, bool]]:
    """The crossings that a series of looks at one resource gives."""
    above: frozenset[str] = frozenset()
    found = []
    for percent in percents:
        above, crossings = find_crossings(above, {"cpu": percent}, {"cpu": threshold})
        found += [(one.usage, one.upwards) for one in crossings]
    return found


def test_a_crossing_is_told_once_in_each_direction() -> None:
    """Staying on one side tells nothing; the threshold itself is above."""
    assert changes(0, 79.9, 80, 95, 100, 81, 10, 0, 90) == [(80, True), (10, False), (90, True)]


def test_a_number_that_hovers_around_its_threshold_does_not_flood() -> None:
    """Downwards it has to go MARGIN points below; the control goes that far each time."""
    assert changes(*[80, 79, 80.5, 76] * 50) == [(80, True)]
    assert changes(*[80, 80 - MARGIN - 0.1] * 50) == [(80, True), (80 - MARGIN - 0.1, False)] * 50
    assert changes(80, 80 - MARGIN) == [(80, True)]


@pytest.mark.parametrize("threshold", [0.001, 1.0, MARGIN, 2 * MARGIN, 100.0])
def test_every_threshold_can_be_crossed_in_both_directions(threshold: float) -> None:
    """Also one that is smaller than the margin, and that of 100 %, which is reached and not exceeded."""
    assert [upwards for _, upwards in changes(0, threshold, 0, threshold, threshold=threshold)] == [
        True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("percent", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_every_number_has_an_answer(percent: float) -> None:
    """What is no number changes nothing; the others are above or below."""
    assert is_above(True, percent, 80) is (percent > 0 or math.isnan(percent))
    assert is_above(False, percent, 80) is (percent > 80)


def test_resources_are_apart() -> None:
    """Each has its own state; one without a number keeps it, one without a threshold has none."""
    above, crossings = find_crossings(frozenset(), {"cpu": 90, "memory": 90, "ink": 90}, LIMITS)
    assert above == {"cpu", "memory"}
    assert [(one.resource, one.upwards) for one in crossings] == [("cpu", True), ("memory", True)]
    above, crossings = find_crossings(above, {"memory": 5}, LIMITS)
    assert above == {"cpu"}
    assert [(one.resource, one.usage, one.limit, one.upwards) for one in crossings] == [("memory", 5, 80, False)]


def sample(at: float, cpu_seconds: float) -> Sample:
    """A look at nothing but the CPU."""
    return Sample(at, cpu_seconds, 0, 0, 0, 1, 0, 1)


def test_a_rate_is_taken_since_the_last_look_and_over_no_less_than_fifty_milliseconds() -> None:
    """Two looks at once give the same; none gives what a moment of set-up would make of it."""
    rate = Rates(10.0)
    assert rate.look(sample(10.001, 0.001)).cpu_percent == pytest.approx(2.0)
    assert rate.look(sample(11.0, 0.5)).cpu_percent == pytest.approx(50.0)
    assert rate.look(sample(11.01, 0.51)).cpu_percent == pytest.approx(100 * 0.51 / 1.01)
    assert rate.look(sample(12.0, 0.5)).cpu_percent == 0.0
    rate.restart(sample(20.0, 7.0))
    assert rate.look(sample(21.0, 7.0)).cpu_percent == 0.0
    assert rate.look(sample(22.0, 6.0)).cpu_percent == 0.0  # a counter that goes back is no negative use


def test_a_rate_of_the_network_is_that_of_the_direction_with_more() -> None:
    """In megabits, and 0 where there is no network."""
    rate = Rates(10.0)
    assert rate.look(sample(11.0, 0.0)).network_mbps == 0.0
    sent = sample(12.0, 0.0)._replace(sent_bytes=2_000_000, received_bytes=1_000_000)
    assert rate.look(sent).network_mbps == pytest.approx(16.0)
    received = sample(14.0, 0.0)._replace(sent_bytes=2_000_000, received_bytes=5_000_000)
    assert rate.look(received).network_mbps == pytest.approx(16.0)
    rate.restart(received)
    assert rate.look(sample(15.0, 0.0)).network_mbps == 0.0  # new processes, whose counters begin anew


def test_a_disk_is_as_full_as_the_nearer_of_its_two_ends() -> None:
    """Bytes and inodes; with slack it is full before the last byte."""
    assert Sample(0, 0, 0, 0, 50, 100, 9, 10).disk_percent == 90
    assert Sample(0, 0, 0, 0, 50, 100, 10, 10).is_disk_full(0)
    assert not Sample(0, 0, 0, 0, 99, 100, 0, 10).is_disk_full(0)
    assert Sample(0, 0, 0, 0, 99, 100, 0, 10).is_disk_full(1)
    assert Sample(0, 0, 0, 0, 0, 0, 0, 0).disk_percent == 0  # where nothing is limited nothing is divided by


def test_the_files_of_the_kernel_are_read_by_whole_keys() -> None:
    """No key is found inside of another, and what is no number is none."""
    text = b"total_inactive_file 7\ninactive_file 5\nnr x\nusage_usec 12"
    assert find_number(text, b"inactive_file") == 5
    assert find_number(text, b"total_inactive_file") == 7
    assert find_number(text, b"usage_usec") == 12
    assert find_number(text, b"file") is None
    assert find_number(text, b"nr") is None
    assert find_number(b"", b"nr") is None


def test_input_and_output_are_the_sum_over_the_devices() -> None:
    """In the format of both versions."""
    assert sum_io(b"8:0 rbytes=10 wbytes=2 rios=1 wios=1 dbytes=9 dios=0\n7:1 rbytes=5 wbytes=1\n") == (15, 3)
    assert sum_io(b"8:0 Read 10\n8:0 Write 2\n8:0 Total 12\n7:1 Read 5\nTotal 17\n") == (15, 2)
    assert sum_io(b"") == (0, 0)
