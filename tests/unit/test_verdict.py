"""The verdict: every combination of facts has one, and the first cause wins."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from nsbox._results import Verdict
from nsbox._verdict import Judgement, KillReason, Observation, Violation, execution_metrics, judge

MIB = 1 << 20
PTRACE = Violation(number=101, name="ptrace", architecture="x86_64", arguments=(16, 1, 0, 0, 0, 0))
QUIET: dict[str, Any] = {
    "wait_status": 0,
    "reason": KillReason.NONE,
    "violation": None,
    "oom_kills": 0,
    "processes_refused": 0,
    "quota_full": False,
    "bytes_dropped": 0,
    "wall_seconds": 1.5,
    "cpu_seconds": 1.25,
    "user_seconds": 1.0,
    "system_seconds": 0.25,
    "peak_memory_bytes": 90 * MIB,
    "process_count_peak": 3,
    "read_bytes": 10,
    "written_bytes": 20,
    "max_rss_bytes": 80 * MIB,
    "memory_limit_bytes": 100 * MIB,
    "cgroup_mode": "unified",
    "wall_limit_seconds": 5.0,
    "cpu_limit_seconds": 2.0,
    "output_limit_bytes": 16 * MIB,
    "process_limit": 64,
    "disk_limit_bytes": 256 * MIB,
    "file_size_limit_bytes": 64 * MIB,
}


def verdict_of(**facts: Any) -> Judgement:
    """The judgement of an execution about which nothing but some facts is to be said."""
    return judge(Observation(**{**QUIET, **facts}))


def exited(code: int) -> int:
    """The wait status of an exit."""
    return code << 8


# One entry a rule, in the order of the architecture's precedence: the facts that make it apply, and its verdict. The
# last four need an end that is not exit code 0, and exclude one another by the wait status.
ENDS = {
    "exit 0": exited(0),
    "exit 1": exited(1),
    "exit 137": exited(137),
    "SIGKILL": int(signal.SIGKILL),
    "SIGSEGV with a core": signal.SIGSEGV | 0x80,
    "SIGXFSZ": int(signal.SIGXFSZ),
    "SIGSYS": int(signal.SIGSYS),
    "SIGPIPE": int(signal.SIGPIPE),
}
KILLED = {
    KillReason.CANCELLED: Verdict.CANCELLED,
    KillReason.WALL_TIME: Verdict.WALL_TIME_LIMIT,
    KillReason.CPU_TIME: Verdict.CPU_TIME_LIMIT,
    KillReason.OUTPUT: Verdict.OUTPUT_LIMIT,
    KillReason.MEMORY: Verdict.MEMORY_LIMIT,
    KillReason.SECURITY: Verdict.SECURITY_VIOLATION,
}


def test_the_first_cause_wins_in_every_combination_of_facts() -> None:
    """All 3584 combinations: total, in the order of precedence, and what the kernel said is passed on unchanged."""
    seen: set[Verdict] = set()
    count = 0
    for reason, status, violation, oom, refused, full, dropped, sampled in itertools.product(
        KillReason, ENDS.values(), (None, PTRACE), (0, 2), (0, 3), (False, True), (0, 9), (False, True)
    ):
        got = verdict_of(
            reason=reason,
            wait_status=status,
            violation=violation,
            oom_kills=oom,
            processes_refused=refused,
            quota_full=full,
            bytes_dropped=dropped,
            cgroup_mode="none" if sampled else "hybrid",
            max_rss_bytes=100 * MIB,
        )
        causes = [
            (reason is not KillReason.NONE, KILLED.get(reason)),
            (violation is not None, Verdict.SECURITY_VIOLATION),
            (oom > 0, Verdict.MEMORY_LIMIT),
            (dropped > 0, Verdict.OUTPUT_LIMIT),
            (status == 0, Verdict.OK),
            (sampled, Verdict.MEMORY_LIMIT),
            (refused > 0, Verdict.PROCESS_LIMIT),
            (full, Verdict.DISK_LIMIT),
            (status == signal.SIGXFSZ, Verdict.DISK_LIMIT),
            (os.WIFSIGNALED(status), Verdict.SIGNALED),
            (True, Verdict.NONZERO_EXIT),
        ]
        assert got.verdict is next(verdict for applies, verdict in causes if applies)
        assert got.exit_code == (os.WEXITSTATUS(status) if os.WIFEXITED(status) else None)
        assert got.signal == (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)
        seen.add(got.verdict)
        count += 1
    assert count == 7 * 8 * 2**6
    assert seen == set(Verdict) - {Verdict.COMPILE_ERROR}  # which is decided by who was run, not by how it ended


@pytest.mark.parametrize("code", [0, 1, 2, 9, 124, 125, 127, 137, 139, 143, 255])
def test_an_exit_code_never_passes_for_a_kill(code: int) -> None:
    """137 by exit(137) is an exit; 137 by a kernel's kill is a signal; the verdict tells them apart."""
    got = verdict_of(wait_status=exited(code))
    assert (got.verdict, got.exit_code, got.signal) == (Verdict.NONZERO_EXIT if code else Verdict.OK, code, None)
    killed = verdict_of(wait_status=signal.SIGKILL)
    assert (killed.verdict, killed.exit_code, killed.signal) == (Verdict.SIGNALED, None, 9)


@pytest.mark.parametrize(
    ("program", "verdict", "exit_code", "signal_number"),
    [
        ("pass", Verdict.OK, 0, None),
        ("raise SystemExit(3)", Verdict.NONZERO_EXIT, 3, None),
        ("import os; os.kill(os.getpid(), 9)", Verdict.SIGNALED, None, 9),
        ("import os; os.abort()", Verdict.SIGNALED, None, 6),
        ("import os; os.kill(os.getpid(), 31)", Verdict.SIGNALED, None, 31),
        ("import os, signal as s; s.signal(25, s.SIG_DFL); os.kill(os.getpid(), 25)", Verdict.DISK_LIMIT, None, 25),
    ],
)
def test_the_wait_status_of_a_real_process_is_read_right(
    program: str, verdict: Verdict, exit_code: int | None, signal_number: int | None
) -> None:
    """The status comes from wait4 itself, so the arithmetic on it is the kernel's."""
    process = subprocess.Popen([sys.executable, "-I", "-c", program])
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0  # reaped here; subprocess must not wait again
    got = verdict_of(wait_status=status)
    assert (got.verdict, got.exit_code, got.signal) == (verdict, exit_code, signal_number)


@pytest.mark.parametrize("status", [0x137F, 0xFFFF, 0x7F, -1, 0x10000])
def test_a_wait_status_that_is_no_end_is_refused(status: int) -> None:
    """Stopped, continued and impossible ones: whoever observed them has not observed an end."""
    with pytest.raises(ValueError, match="wait_status"):
        verdict_of(wait_status=status)
    assert verdict_of(wait_status=0x137F & 0xFF00).exit_code == 0x13


def test_a_program_that_copes_with_a_refusal_is_ok_and_the_evidence_says_so() -> None:
    """A refused fork and a full disk are facts, not failures, when the program exits 0; with exit 1 they are."""
    facts: dict[str, Any] = {"processes_refused": 4, "quota_full": True}
    fine = verdict_of(**facts)
    assert fine.verdict is Verdict.OK
    assert (fine.evidence["processes_refused"], fine.evidence["quota_full"]) == (4, True)
    assert verdict_of(**facts, wait_status=exited(1)).verdict is Verdict.PROCESS_LIMIT


def test_an_oom_kill_of_a_child_counts_even_if_the_program_exits_0() -> None:
    """Anywhere in the tree; without one the same end is OK."""
    got = verdict_of(oom_kills=1)
    assert (got.verdict, got.exit_code) == (Verdict.MEMORY_LIMIT, 0)
    assert got.evidence["oom_kills"] == 1
    assert verdict_of(oom_kills=0).verdict is Verdict.OK


def test_a_sigsys_is_a_violation_only_where_the_filter_recorded_one() -> None:
    """A program can send itself SIGSYS; what it cannot do is write the launcher's record."""
    forged = verdict_of(wait_status=signal.SIGSYS)
    assert (forged.verdict, forged.evidence["signal_name"]) == (Verdict.SIGNALED, "SIGSYS")
    real = verdict_of(wait_status=signal.SIGSYS, violation=PTRACE)
    assert real.verdict is Verdict.SECURITY_VIOLATION
    assert {key: real.evidence[key] for key in real.evidence if key.startswith("syscall")} == {
        "syscall": "ptrace",
        "syscall_number": 101,
        "syscall_architecture": "x86_64",
        "syscall_arguments": (16, 1, 0, 0, 0, 0),
    }


def test_a_call_without_a_name_is_named_by_its_number() -> None:
    """An unknown number must not become an empty name."""
    got = verdict_of(violation=Violation(number=999, name="", architecture="x86_64"))
    assert got.evidence["syscall"] == "unknown_999"


def test_a_full_output_is_never_a_crash_and_never_ok() -> None:
    """Whether the kill came before the program's own end is a race, and the verdict is the same whoever won it."""
    for status in (exited(0), exited(1), int(signal.SIGPIPE)):
        assert verdict_of(wait_status=status, bytes_dropped=1).verdict is Verdict.OUTPUT_LIMIT
    assert verdict_of(wait_status=signal.SIGKILL, reason=KillReason.OUTPUT).verdict is Verdict.OUTPUT_LIMIT
    assert verdict_of(wait_status=signal.SIGPIPE).verdict is Verdict.SIGNALED


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, Verdict.MEMORY_LIMIT),
        ({"max_rss_bytes": 100 * MIB - 1}, Verdict.NONZERO_EXIT),
        ({"wait_status": 0}, Verdict.OK),
        ({"memory_limit_bytes": 0}, Verdict.NONZERO_EXIT),
        ({"cgroup_mode": "hybrid"}, Verdict.NONZERO_EXIT),
    ],
)
def test_without_memory_events_a_failed_program_at_its_limit_hit_it(facts: dict[str, Any], verdict: Verdict) -> None:
    """Only where there are no events, only at the limit, only for an end that failed, and it says "sampled"."""
    base = {"cgroup_mode": "none", "max_rss_bytes": 100 * MIB, "peak_memory_bytes": 0, "wait_status": exited(1)}
    got = verdict_of(**{**base, **facts})
    assert got.verdict is verdict
    assert got.evidence.get("memory_source") == ("sampled" if verdict is Verdict.MEMORY_LIMIT else None)


def test_an_oom_kill_is_evidence_from_the_cgroup() -> None:
    """The counterpart of "sampled"."""
    assert verdict_of(oom_kills=1).evidence["memory_source"] == "cgroup"


@pytest.mark.parametrize(
    ("facts", "resource", "usage", "limit", "unit"),
    [
        ({"reason": KillReason.WALL_TIME}, "wall_time", 1.5, 5.0, "seconds"),
        ({"reason": KillReason.CPU_TIME}, "cpu_time", 1.25, 2.0, "seconds"),
        ({"oom_kills": 1}, "memory", 90.0, 100.0, "MiB"),
        ({"bytes_dropped": MIB}, "output", 17.0, 16.0, "MiB"),
        ({"processes_refused": 1, "wait_status": 1}, "processes", 3, 64, "processes"),
        ({"quota_full": True, "wait_status": 1}, "disk", 256.0, 256.0, "MiB"),
        ({"wait_status": int(signal.SIGXFSZ)}, "disk", 64.0, 64.0, "MiB"),
    ],
)
def test_the_evidence_of_a_limit_has_it_in_the_unit_of_its_field(
    facts: dict[str, Any], resource: str, usage: float, limit: float, unit: str
) -> None:
    """So that what is reported is the number that was configured; OK, the control, has none of it."""
    evidence = verdict_of(**facts).evidence
    assert [evidence[key] for key in ("resource", "usage", "limit", "unit")] == [resource, usage, limit, unit]
    assert not {"resource", "usage", "limit", "unit"} & set(verdict_of().evidence)


def test_a_limit_that_is_not_known_is_left_out() -> None:
    """No number is better than a made-up one."""
    bare = {name: value for name, value in QUIET.items() if "limit" not in name}
    got = judge(Observation(**{**bare, "memory_limit_bytes": 0, "reason": KillReason.OUTPUT}))
    assert got.evidence["resource"] == "output"
    assert not {"usage", "limit"} & set(got.evidence)


def test_the_evidence_says_for_what_was_killed_and_by_what() -> None:
    """The recorded reason, the signal by name, and always the mode of the cgroups."""
    got = verdict_of(reason=KillReason.WALL_TIME, wait_status=signal.SIGKILL)
    assert {key: got.evidence[key] for key in ("cause", "killed_for", "signal_name", "cgroup_mode")} == {
        "cause": "killed",
        "killed_for": "wall_time",
        "signal_name": "SIGKILL",
        "cgroup_mode": "unified",
    }
    assert set(verdict_of().evidence) == {"cause", "cgroup_mode"}
    assert verdict_of(wait_status=40).evidence["signal_name"] == "SIG40"


def test_the_values_of_the_reasons_are_those_on_the_wire() -> None:
    """The launcher in C has the same numbers; a raw number from it becomes the name, an unknown one is refused."""
    assert [reason.value for reason in KillReason] == list(range(7))
    assert verdict_of(reason=2, wait_status=9).verdict is Verdict.WALL_TIME_LIMIT
    with pytest.raises(ValueError, match="7"):
        verdict_of(reason=7)


def test_the_metrics_are_the_observations_numbers() -> None:
    """Field by field; without memory counters the peak is the largest process instead of an untrue 0."""
    metrics = execution_metrics(Observation(**QUIET), queued_seconds=0.5, suspended_seconds=2.0)
    assert dataclasses.astuple(metrics) == (1.5, 1.25, 1.0, 0.25, 90 * MIB, 3, 10, 20, 0.5, 2.0)
    sampled = Observation(**{**QUIET, "cgroup_mode": "none", "peak_memory_bytes": 0})
    assert execution_metrics(sampled).peak_memory_bytes == 80 * MIB
