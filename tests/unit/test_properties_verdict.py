"""The verdict is total and deterministic, and its precedence is the list of docs/architecture.md, in that order."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from anything import examples
from hypothesis import given
from hypothesis import strategies as st

from nsbox._results import Verdict
from nsbox._verdict import KillReason, Observation, Violation, execution_metrics, judge

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"

pytestmark = pytest.mark.needs_root  # it needs nothing: once is enough

COUNTS = st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.integers(-3, 3))
SIZES = st.integers(0, 2**64 - 1)
SECONDS = st.floats(0, 1e10)
VIOLATIONS = st.builds(
    Violation, number=st.integers(-(2**31), 2**31 - 1), name=st.text(max_size=5), architecture=st.text(max_size=5),
    arguments=st.lists(SIZES, max_size=6).map(tuple),
)  # fmt: skip
ENDED = st.one_of(
    st.just(0), st.integers(1, 255).map(lambda code: code << 8), st.sampled_from([9, 11, 25, 31, 128 + 6]),
    st.integers(0, 0xFFFF).filter(lambda status: status & 0x7F != 0x7F),
)  # fmt: skip
OBSERVATIONS = st.builds(
    Observation,
    wait_status=ENDED, reason=st.just(KillReason.NONE) | st.sampled_from(KillReason),
    violation=st.none() | VIOLATIONS, oom_kills=COUNTS, processes_refused=COUNTS, quota_full=st.booleans(),
    bytes_dropped=COUNTS, wall_seconds=SECONDS, cpu_seconds=SECONDS, user_seconds=SECONDS, system_seconds=SECONDS,
    peak_memory_bytes=SIZES, process_count_peak=SIZES, read_bytes=SIZES, written_bytes=SIZES, max_rss_bytes=SIZES,
    memory_limit_bytes=st.just(0) | SIZES, cgroup_mode=st.sampled_from(["unified", "hybrid", "none"]),
    compiler=st.booleans(), wall_limit_seconds=st.none() | SECONDS, cpu_limit_seconds=st.none() | SECONDS,
    output_limit_bytes=st.none() | SIZES, process_limit=st.none() | SIZES, disk_limit_bytes=st.none() | SIZES,
    file_size_limit_bytes=st.none() | SIZES,
)  # fmt: skip

KILLED = {
    KillReason.CANCELLED: Verdict.CANCELLED, KillReason.WALL_TIME: Verdict.WALL_TIME_LIMIT,
    KillReason.CPU_TIME: Verdict.CPU_TIME_LIMIT, KillReason.OUTPUT: Verdict.OUTPUT_LIMIT,
    KillReason.MEMORY: Verdict.MEMORY_LIMIT, KillReason.SECURITY: Verdict.SECURITY_VIOLATION,
}  # fmt: skip
Rule = Callable[[Observation], bool]
RULES: Mapping[str, Rule] = {
    "killed": lambda seen: seen.reason is not KillReason.NONE,
    "filter": lambda seen: seen.violation is not None,
    "oom_kill": lambda seen: seen.oom_kills > 0,
    "output_dropped": lambda seen: seen.bytes_dropped > 0,
    "exit, 0": lambda seen: seen.wait_status >> 8 == 0 and not seen.wait_status & 0x7F,
    "rss_at_limit": lambda seen: seen.cgroup_mode == "none" and 0 < seen.memory_limit_bytes <= seen.max_rss_bytes,
    "processes_refused": lambda seen: seen.processes_refused > 0,
    "quota_full": lambda seen: seen.quota_full,
    "file_size": lambda seen: seen.wait_status & 0x7F == signal.SIGXFSZ,
    "signal": lambda seen: seen.wait_status & 0x7F != 0,
    "exit": lambda _: True,
}


def documented() -> list[tuple[str, Rule, Verdict | None]]:
    """The rules of the document: cause, whether it applies, the verdict it gives; None: that of the reason."""
    section = ARCHITECTURE.read_text().partition("\n## Facts, then verdict\n")[2].partition("\n## ")[0]
    found: list[tuple[str, Rule, Verdict | None]] = []
    for line in re.findall(r"^\d+\. (.*)$", section, re.MULTILINE):
        cause = line.split("`")[1]
        verdicts = re.findall(r"\b(?:[A-Z]{2,}_[A-Z_]+|OK|SIGNALED)\b", line)
        rule = "exit, 0" if cause == "exit" and "OK" in verdicts else cause
        found.append((cause, RULES[rule], None if cause == "killed" else Verdict[verdicts[0]]))
    return found


DOCUMENTED = documented()


def test_the_document_has_every_rule() -> None:
    """Eleven of them; each cause but "exit" once."""
    assert [cause for cause, _, _ in DOCUMENTED].count("exit") == 2
    assert {cause for cause, _, _ in DOCUMENTED} == {rule.partition(",")[0] for rule in RULES}


@examples(600)
@given(OBSERVATIONS)
def test_the_first_rule_of_the_document_that_applies_decides(seen: Observation) -> None:
    """Any facts in any combination; a compiler's end is judged by the same rules, and is COMPILE_ERROR."""
    cause, _, verdict = next(rule for rule in DOCUMENTED if rule[1](seen))
    verdict = verdict or KILLED[seen.reason]
    if cause == "killed" and seen.reason is KillReason.MEMORY and seen.oom_kills > 0:
        cause = "oom_kill"
    judged = judge(seen)
    assert judged.evidence["cause"] == cause
    if seen.compiler and verdict is not Verdict.CANCELLED:
        assert judged.evidence["compiler_verdict"] == verdict.value
        verdict = Verdict.COMPILE_ERROR
    assert judged.verdict is verdict
    assert (judged.exit_code is None) != (judged.signal is None)


@examples(300)
@given(OBSERVATIONS)
def test_a_judgement_is_always_the_same_and_can_be_stored(seen: Observation) -> None:
    """Twice, and of a copy; it is hashable, travels by pickle, and its evidence is JSON. So are the metrics."""
    judged = judge(seen)
    assert judge(seen) == judge(dataclasses.replace(seen)) == judged
    assert pickle.loads(pickle.dumps(judged)) == judged  # noqa: S301  # our own
    assert hash(judged) == hash(judge(seen))
    assert json.loads(json.dumps(dict(judged.evidence), allow_nan=False))["cgroup_mode"] == seen.cgroup_mode
    assert execution_metrics(seen) == execution_metrics(dataclasses.replace(seen))


@examples(200)
@given(st.integers(-(2**40), 2**40), st.integers(-9, 99))
def test_what_is_no_end_is_no_observation(status: int, reason: int) -> None:
    """A wait status of a stopped process, or of none, and a reason that is not known, get no verdict at all."""
    seen: dict[str, Any] = {item.name: 0 for item in dataclasses.fields(Observation)} | {
        "violation": None,
        "cgroup_mode": "none",
    }
    right = 0 <= status <= 0xFFFF and status & 0x7F != 0x7F and reason in {*KillReason}
    try:
        made = Observation(**{**seen, "wait_status": status, "reason": reason})
    except ValueError:
        assert not right
    else:
        assert right
        assert judge(made).verdict in Verdict
