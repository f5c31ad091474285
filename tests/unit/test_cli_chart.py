"""Curves and tables of the command line."""

import pytest

from nsbox._cli.chart import draw, resample
from nsbox._cli.tables import printable, seconds, size


def test_a_curve_is_as_high_as_its_values() -> None:
    """Eighths of a row; the greatest fills it, what is above 0 is seen, and what was not measured is not."""
    assert draw([0, 1, 4, 8, None, 0.001, 99], rows=1, top=8) == [" ▁▄█ ▁█"]
    assert draw([4, 8, 12, 16], rows=2, top=16) == ["  ▄█", "▄███"]
    assert draw([0, 0], rows=1, top=0) == ["  "]


def test_a_part_of_the_time_is_its_greatest_value() -> None:
    """So that no peak is lost, however many samples share a column; a gap in time is a gap."""
    assert resample([0, 1, 2, 3], [1, 5, 2, 3], 2) == [5, 3]
    assert resample([0, 1, 9, 10], [1, 2, 3, 4], 5) == [2, None, None, None, 4]
    assert resample([7], [3], 3) == [3, 3, 3]
    assert resample([0, 1.5, 2], [1, 2, 3], 6) == [1, 1, 2, 2, 3, 3]
    assert resample([], [], 2) == [None, None]


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 10, "1.5 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_have_the_unit_that_fits(count: int | None, text: str) -> None:
    """Binary prefixes."""
    assert size(count) == text


def test_what_a_program_called_something_does_nothing_to_the_terminal() -> None:
    """Escape sequences are shown, not obeyed; letters of every language stay."""
    assert printable("\x1b[2Jé日\n\x9b") == "\\x1b[2Jé日\\n\\x9b"
    assert (seconds(None), seconds(1.23456)) == ("-", "1.235 s")
