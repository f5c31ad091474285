"""`nsbox doctor`: the table, the judgement, and the self-test."""

import dataclasses
import json
import os
import subprocess
import sys
from types import MappingProxyType
from typing import Any

import pytest

from nsbox._cli.attacks import ATTACKS, Attack
from nsbox._cli.doctor import ISOLATING, LAUNCHER, VITAL, Status, rate
from nsbox._cli.selftest import Row, fill_in, host_secrets, judge_attack
from nsbox._host import KNOWN_CAPABILITIES, Check, capability_checks, checks, host_checks, probe_host
from nsbox._results import ExecutionResult, Verdict

NSBOX = (sys.executable, "-m", "nsbox._cli")
SECONDS = 60
BROKEN = {"NSBOX_CGROUP": "/no/such/cgroup"}
BY_ID = {attack.id: attack for attack in ATTACKS}


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    environment = {**os.environ, **variables}
    command = [*NSBOX, "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)


def doctor_json(*arguments: str, **variables: str) -> dict[str, Any]:
    """What --json says; its exit_status is known to be the command's."""
    done = doctor("--json", *arguments, **variables)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_status"] == done.returncode
    assert done.stderr == ""
    return found


@pytest.mark.lane_unified
def test_the_table_has_every_check_and_the_json_too() -> None:
    """Both say the same about this host, and the status follows from the checks."""
    expected = checks()
    found = doctor_json()
    assert [check["id"] for check in found["checks"]] == [LAUNCHER, *(check.id for check in expected)]
    assert found["self_test"] is None
    assert found["status"] == rate([Check(**check) for check in found["checks"]]).name.lower()
    table = doctor(COLUMNS="200")
    assert table.returncode == found["exit_status"]
    for check in found["checks"]:
        assert check["id"] in table.stdout
        assert check["remedy"] in table.stdout


@pytest.mark.needs_root
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_root_with_cgroups_gives_full_isolation_and_the_self_test_holds() -> None:
    """Every attack fails as it must, and the status is 0."""
    found = doctor_json("--self-test")
    assert [row for row in found["self_test"] if not row["ok"]] == []
    assert [row["id"] for row in found["self_test"]] == [attack.id for attack in ATTACKS]
    assert (found["status"], found["exit_status"], found["self_test_failure"]) == ("full", 0, None)


@pytest.mark.needs_rootless
def test_without_root_what_depends_on_no_cgroup_holds_as_well() -> None:
    """Only limits may be lacking; then the status says less than full isolation."""
    found = doctor_json("--self-test")
    failed = {row["id"] for row in found["self_test"] if not row["ok"]}
    assert failed <= {"memory", "processes", "cpu_time"}
    assert found["self_test_failure"] is None
    assert found["exit_status"] in ((1,) if failed else (0, 1))


def test_a_lack_is_shown_with_its_remedy_and_changes_the_status() -> None:
    """A cgroup that is asked for and not there: less than full; and no sandbox starts, which the self-test finds."""
    table = doctor(COLUMNS="200", **BROKEN)
    assert table.returncode == Status.DEGRADED
    assert "LACK" in table.stdout
    assert "  cgroups:\n    correct or unset NSBOX_CGROUP\n" in table.stdout
    found = doctor_json("--self-test", **BROKEN)
    assert (found["status"], found["self_test"]) == ("none", [])
    assert "/no/such/cgroup" in found["self_test_failure"]
    assert "Traceback" not in doctor("--self-test", **BROKEN).stderr


def test_vital_are_the_checks_that_say_no_sandbox_can_start() -> None:
    """Of a host that lacks everything: those, the launcher, and no others; and every name is a check's."""
    facts = probe_host()
    nothing = dataclasses.replace(
        facts,
        namespaces=frozenset(),
        seccomp_actions=frozenset(),
        libseccomp=None,
        syscalls=MappingProxyType(dict.fromkeys(facts.syscalls, False)),
    )
    says_so = {check.id for check in capability_checks(nothing) if check.costs == "no sandbox can start"}
    assert says_so | {LAUNCHER} == VITAL
    assert KNOWN_CAPABILITIES | {check.id for check in host_checks(facts)} >= ISOLATING
    assert not VITAL & ISOLATING


def test_the_status_is_the_worst_of_what_is_seen() -> None:
    """Vital before isolating, and what neither needs changes nothing."""

    def lack(name: str, *, ok: bool = False) -> Check:
        return Check(id=name, title=name, ok=ok, found="")

    bad = Row(id="x", title="x", ok=False, expected="", found="")
    good = dataclasses.replace(bad, ok=True)
    assert rate([lack("seccomp", ok=True), lack("gcc"), lack("overlay")], [good]) is Status.FULL
    assert rate([lack("memory_limit"), lack("seccomp", ok=True)]) is Status.DEGRADED
    assert rate([lack("memory_limit"), lack("seccomp")]) is Status.NONE
    assert rate([], [good, bad]) is Status.DEGRADED
    assert rate([], [good], "it broke") is Status.DEGRADED
    assert rate([], [], "it did not start") is Status.NONE


def result(verdict: Verdict, stdout: str = "", **evidence: object) -> ExecutionResult:
    """What an attack may come to."""
    return ExecutionResult(
        execution_id="x", verdict=verdict, exit_code=0, signal=None, stdout_bytes=stdout.encode(), evidence=evidence
    )


def test_only_the_exact_outcome_passes_for_a_defence() -> None:
    """Another verdict, another errno and another system call are lacks."""
    network, mount = BY_ID["network"], BY_ID["kill_mount"]
    assert judge_attack(network, result(Verdict.OK, "done ENETUNREACH 1\n")).ok
    assert not judge_attack(network, result(Verdict.OK, "done done 1\n")).ok
    assert not judge_attack(network, result(Verdict.OK, "done ETIMEDOUT 1\n")).ok
    assert not judge_attack(network, result(Verdict.NONZERO_EXIT, "done ENETUNREACH 1\n")).ok
    assert judge_attack(mount, result(Verdict.SECURITY_VIOLATION, syscall="mount")).ok
    assert not judge_attack(mount, result(Verdict.SECURITY_VIOLATION, syscall="umount2")).ok
    assert not judge_attack(mount, result(Verdict.OK, "EPERM\n")).ok


@pytest.mark.parametrize(
    "attack",
    [BY_ID[name] for name in ("host_files", "host_sockets", "host_environment", "processes_hidden", "capabilities")],
    ids=lambda attack: attack.id,
)
def test_an_attack_succeeds_outside_of_a_sandbox(attack: Attack) -> None:
    """The same program on the bare host reaches what it is after, and the row says so; an honest one passes there."""
    with host_secrets() as secret:
        for tried, holds in ((attack, False), (BY_ID["runs"], True)):
            command = [sys.executable, "-c", fill_in(tried.code, secret)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
            assert judge_attack(tried, result(Verdict.OK, done.stdout)).ok is holds
