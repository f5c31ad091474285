"""native/wire.h and nsbox/_supervisor/wire.py are two descriptions of one layout."""

from __future__ import annotations

import re
import struct
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from nsbox._cgroups import CounterSlot
from nsbox._plan import OperationFlag, OperationKind
from nsbox._supervisor import wire
from nsbox._verdict import KillReason

HEADER = Path(__file__).parents[2] / "native" / "wire.h"

PROGRAM = r"""
#include <stddef.h>
#include <stdio.h>
#include "wire.h"
#define AT(field) printf(#field " %zu %zu\n", offsetof(struct up, field), sizeof ((struct up *)0)->field)
int main(void)
{
	printf("down %zu\nup %zu\n", sizeof(struct down), sizeof(struct up));
	AT(type); AT(of); AT(id); AT(stage); AT(error); AT(index); AT(reason); AT(wait_status); AT(violation_arch);
	AT(violation_number); AT(violation_args); AT(wall_ns); AT(suspended_ns); AT(user_us); AT(system_us);
	AT(max_rss_bytes); AT(read_bytes); AT(written_bytes); AT(counters);
	return 0;
}
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, ...]]:
    """What the compiler says: name to offset and size."""
    directory = tmp_path_factory.mktemp("wire")
    (directory / "layout.c").write_text(PROGRAM)
    subprocess.run(["cc", "-I", HEADER.parent, "-o", directory / "layout", directory / "layout.c"], check=True)
    done = subprocess.run([directory / "layout"], check=True, capture_output=True, text=True)
    return {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, done.stdout.splitlines())}


def test_the_structs_have_the_sizes_that_python_packs(layout: dict[str, tuple[int, ...]]) -> None:
    """`struct down` and `struct up`, with the compiler's padding."""
    assert layout.pop("down") == (wire.DOWN.size,)
    assert layout.pop("up") == (wire.UP.size,)


def test_each_field_of_a_record_is_read_from_where_c_puts_it(layout: dict[str, tuple[int, ...]]) -> None:
    """A record that has a different number in each field decodes to just these numbers."""
    packet = bytearray(wire.UP.size)
    expected: dict[str, object] = {}
    for number, (name, place) in enumerate(layout.items(), start=2):
        if name in ("down", "up"):
            continue
        offset, size = place
        count, code = (size // 8, "Q") if size > 4 else (1, "I")
        value = {"type": wire.Up.EXITED, "stage": wire.Stage.LIMIT}.get(name, number)
        struct.pack_into(f"={count}{code}", packet, offset, *[value] * count)
        expected[name] = tuple([value] * count) if count > 1 else value
    record = wire.decode(bytes(packet))
    assert {name: getattr(record, name) for name in expected} == expected


@pytest.mark.parametrize("length", [0, 1, wire.UP.size - 1, wire.UP.size + 1])
def test_a_packet_of_another_size_is_no_record(length: int) -> None:
    """`ValueError`, which the channel takes for the end of the launcher."""
    with pytest.raises(ValueError, match=f"{length} bytes"):
        wire.decode(bytes(length))


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("DOWN", wire.Down), ("UP", wire.Up), ("STAGE", wire.Stage), ("REASON", KillReason), ("OP", OperationKind),
        ("FLAG", OperationFlag),
    ],
)  # fmt: skip
def test_the_names_have_the_same_numbers_in_both_languages(prefix: str, names: type[IntEnum | IntFlag]) -> None:
    """Every constant of the header is one of the enumeration's, and the other way round."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    in_c = {name: int(value) for name, value in re.findall(rf"\b{prefix}_(\w+) = (\d+)", text)}
    in_python = {member.name: member.value for member in names if member.value or prefix != "FLAG"}
    if prefix == "REASON":
        in_python["LOST"] = wire.REASON_LOST
    assert in_c == in_python


def test_every_counter_has_a_place() -> None:
    """MAX_COUNTERS in the header bounds the slots."""
    most = int(re.findall(r"MAX_COUNTERS = (\d+)", HEADER.read_text())[0])
    assert max(CounterSlot) < most


def test_a_string_with_a_nul_is_not_made_into_two() -> None:
    """Lengths go ahead of the bytes, so that what the launcher reads is what was meant, or refused."""
    payload = wire.Payload()
    payload.text("a\0b")
    assert payload.join() == b"\x03\0\0\0a\0b\0"
