"""Curves and tables of the command line."""

import pytest
from rich.console import Console

from nsbox._cli.chart import draw, resample
from nsbox._cli.report import verdict_line
from nsbox._cli.tables import printable, seconds, size, table
from nsbox._results import ExecutionResult, Verdict


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


def test_a_table_leaves_out_what_a_terminal_has_no_room_for() -> None:
    """In the order given, no more than needed, and it says what; none of what is left is broken over two lines."""
    headings, rows = ("name", "colour", "size"), [("x" * 20, "y" * 20, "3")]
    for width, left_out in ((80, []), (52, []), (51, ["size"]), (45, ["size"]), (44, ["size", "colour"])):
        console = Console(width=width)
        with console.capture() as captured:
            console.print(table(headings, rows, spare=("size", "colour"), width=width))
        text = " ".join(captured.get().split())
        assert {one for one in headings if one not in text.partition("left out")[0]} == set(left_out)
        assert "x" * 20 in text
        assert ("left out: " + ", ".join(left_out) in text) == bool(left_out)


@pytest.mark.parametrize(("given", "text"), [(0.0010004, "0.001"), (0.3, "0.3"), (1 << 20, "1048576"), (5, "5")])
def test_a_limit_is_told_as_it_was_given(given: float, text: str) -> None:
    """Rounded to bytes, or large, it is no number with a power of ten."""
    result = ExecutionResult(
        execution_id="exec-1", verdict=Verdict.OUTPUT_LIMIT, exit_code=None, signal=9,
        evidence={"cause": "killed", "limit": given, "unit": "MiB"},
    )  # fmt: skip
    assert verdict_line(result) == f"output_limit: the limit is {text} MiB"


def test_what_a_program_called_something_does_nothing_to_the_terminal() -> None:
    """Escape sequences are shown, not obeyed; letters of every language stay."""
    assert printable("\x1b[2Jé日\n\x9b") == "\\x1b[2Jé日\\n\\x9b"
    assert (seconds(None), seconds(1.23456)) == ("-", "1.235 s")
