"""Results: text and bytes, exceptions from verdicts, JSON, and reprs that stay short."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from nsbox._config import ExecutionOptions
from nsbox._errors import ExecutionError, ExecutionTimeoutError, ResourceExceededError, SecurityViolationError
from nsbox._outputs import CodeError, RichOutput
from nsbox._results import Execution, ExecutionMetrics, ExecutionResult, SandboxMetadata, Verdict
from nsbox._states import ExecutionStatus

METRICS = ExecutionMetrics(
    wall_seconds=1.5,
    cpu_seconds=1.25,
    user_seconds=1.0,
    system_seconds=0.25,
    peak_memory_bytes=1 << 20,
    process_count_peak=2,
    read_bytes=0,
    written_bytes=0,
    queued_seconds=0.0,
    suspended_seconds=0.0,
)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def result(verdict: Verdict = Verdict.OK, **fields: Any) -> ExecutionResult:
    """A result of which only some fields matter."""
    return ExecutionResult(**{"execution_id": "e1", "verdict": verdict, "exit_code": 0, "signal": None, **fields})


EXCEPTIONS: dict[Verdict, type[ExecutionError]] = {
    Verdict.WALL_TIME_LIMIT: ExecutionTimeoutError,
    Verdict.CPU_TIME_LIMIT: ExecutionTimeoutError,
    Verdict.MEMORY_LIMIT: ResourceExceededError,
    Verdict.OUTPUT_LIMIT: ResourceExceededError,
    Verdict.PROCESS_LIMIT: ResourceExceededError,
    Verdict.DISK_LIMIT: ResourceExceededError,
    Verdict.SECURITY_VIOLATION: SecurityViolationError,
    Verdict.NONZERO_EXIT: ExecutionError,
    Verdict.SIGNALED: ExecutionError,
    Verdict.COMPILE_ERROR: ExecutionError,
    Verdict.CANCELLED: ExecutionError,
}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_each_verdict_has_its_exception_its_status_and_its_ok(verdict: Verdict) -> None:
    """OK returns the result itself; every other raises exactly its class, with the result in it."""
    made = result(verdict)
    assert made.ok == (verdict is Verdict.OK)
    assert made.status is (ExecutionStatus.COMPLETED if made.ok else ExecutionStatus.FAILED)
    if verdict is Verdict.OK:
        assert made.raise_for_verdict() is made
    else:
        with pytest.raises(ExecutionError, match=verdict.value) as caught:
            made.raise_for_verdict()
        assert type(caught.value) is EXCEPTIONS[verdict]
        assert caught.value.result is made
        assert caught.value.execution_id == "e1"
        assert pickle.loads(pickle.dumps(caught.value)).result == made  # noqa: S301 - our own bytes


def test_the_exceptions_carry_the_numbers_of_the_evidence() -> None:
    """Limit and usage come from the evidence; where it has none, NaN says so."""
    with pytest.raises(ExecutionTimeoutError, match="limit 5 seconds") as timeout:
        result(Verdict.WALL_TIME_LIMIT, evidence={"limit": 5.0, "unit": "seconds"}).raise_for_verdict()
    assert timeout.value.timeout == 5.0
    with pytest.raises(ResourceExceededError, match="limit 512 MiB") as memory:
        result(Verdict.MEMORY_LIMIT, evidence={"usage": 511.5, "limit": 512.0, "unit": "MiB"}).raise_for_verdict()
    assert (memory.value.resource, memory.value.usage, memory.value.limit) == ("memory", 511.5, 512.0)
    with pytest.raises(SecurityViolationError, match="system call ptrace") as violation:
        result(Verdict.SECURITY_VIOLATION, evidence={"syscall": "ptrace"}).raise_for_verdict()
    assert (violation.value.violation, violation.value.severity) == ("ptrace", "critical")
    with pytest.raises(ExecutionTimeoutError) as unknown:
        result(Verdict.CPU_TIME_LIMIT).raise_for_verdict()
    assert math.isnan(unknown.value.timeout)


def test_the_message_says_what_the_program_said_and_stays_short() -> None:
    """The class and the value of its error are in it; a value of a megabyte is cut."""
    error = CodeError(name="ValueError", value="x" * 1_000_000, traceback="...")
    with pytest.raises(ExecutionError, match="exit code 1, ValueError: 'xxx") as caught:
        result(Verdict.NONZERO_EXIT, exit_code=1, error=error).raise_for_verdict()
    assert len(str(caught.value)) < 500
    with pytest.raises(ExecutionError, match=r"\(SIGSEGV\)"):
        result(Verdict.SIGNALED, exit_code=None, signal=11).raise_for_verdict()


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", ""), (b"plain\n", "plain\n"), ("ü\ufffd".encode(), "ü\ufffd"), (b"a\xffb", "a\ufffdb"), (b"\0", "\0")],
)
def test_text_is_the_bytes_as_utf8_and_json_is_exact_where_text_is_not(raw: bytes, text: str) -> None:
    """Nothing is lost: what is not UTF-8 is in the JSON as base64 too, and only then."""
    made = result(stdout_bytes=raw, stderr_bytes=raw)
    assert (made.stdout, made.stderr) == (text, text)
    assert made.stdout is made.stdout  # decoded once
    shown = made.to_dict()
    for name in ("stdout", "stderr"):
        assert shown[name] == text
        if text.encode() == raw:
            assert f"{name}_base64" not in shown
        else:
            assert base64.b64decode(str(shown[f"{name}_base64"])) == raw


def test_to_dict_is_json_of_everything() -> None:
    """It passes through the strictest JSON and comes back equal."""
    made = result(
        Verdict.SIGNALED,
        exit_code=None,
        signal=9,
        stdout_bytes=b"out",
        truncated=True,
        outputs=[RichOutput(data={"text/plain": "t", "image/png": b"\x89PNG"}, is_main_result=True)],
        error=CodeError(name="E", value="v", traceback="t"),
        metrics=METRICS,
        evidence={"arguments": (1, 2), "nested": {"set": {3}, "nan": math.nan}, "raw": b"x", "verdict": Verdict.OK},
    )
    shown = made.to_dict()
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown == {
        "execution_id": "e1",
        "status": "failed",
        "verdict": "signaled",
        "ok": False,
        "exit_code": None,
        "signal": 9,
        "signal_name": "SIGKILL",
        "stdout": "out",
        "stderr": "",
        "truncated": True,
        "outputs": [{"data": {"text/plain": "t", "image/png": "iVBORw=="}, "is_main_result": True}],
        "error": {"name": "E", "value": "v", "traceback": "t"},
        "metrics": dataclasses.asdict(METRICS),
        "evidence": {"arguments": [1, 2], "nested": {"set": [3], "nan": "nan"}, "raw": "eA==", "verdict": "ok"},
    }


def test_no_repr_prints_megabytes() -> None:
    """What helps is in it, at a length for a terminal."""
    big = b"x" * (16 << 20)
    made = result(
        Verdict.NONZERO_EXIT,
        exit_code=1,
        stdout_bytes=big,
        truncated=True,
        error=CodeError(name="E", value="v" * 10**6, traceback="t" * 10**6),
        metrics=METRICS,
    )
    for part in ("NONZERO_EXIT", "exit_code=1", "16777216 bytes", "truncated", "error='E'", "wall_seconds=1.500"):
        assert part in repr(made)
    execution = Execution(
        id="e1", sandbox_id="s1", code="#" * 10**6, language="python", options=ExecutionOptions(), created_at=NOON
    )
    output = RichOutput(data={"image/png": big})
    for item in (made, made.error, execution, output):
        assert len(repr(item)) < 600


def test_a_result_is_frozen_all_the_way_down() -> None:
    """What the caller put in can change afterwards without changing the result, which is hashable and picklable."""
    evidence: dict[str, Any] = {"list": [1], "map": {"a": [2]}}
    made = result(evidence=evidence, outputs=[RichOutput(data={"text/plain": "x"})], metrics=METRICS)
    evidence["list"].append(9)
    assert made.evidence == {"list": (1,), "map": {"a": (2,)}}
    assert hash(made) == hash(pickle.loads(pickle.dumps(made)))  # noqa: S301 - our own bytes
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.verdict = Verdict.OK  # type: ignore[misc]


def test_rich_outputs_give_each_representation_or_none() -> None:
    """Jupyter's base64 in lines and plain bytes give the same picture; what is not there is None."""
    picture = b"\x89PNG" * 30
    lines = base64.encodebytes(picture).decode()
    assert "\n" in lines.strip()
    for payload in (picture, lines):
        assert RichOutput(data={"image/png": payload}).png == picture
    full = RichOutput(
        data={"text/plain": b"t\xff", "text/html": "<b>", "image/svg+xml": "<svg/>", "application/json": '{"a": [1]}'}
    )
    assert (full.text, full.html, full.svg, full.json) == ("t\ufffd", "<b>", "<svg/>", {"a": [1]})
    empty = RichOutput(data={})
    assert (empty.text, empty.html, empty.svg, empty.png, empty.json) == (None,) * 5


@pytest.mark.parametrize("payload", ["{", "[" * 200_000, b"\xff"])
def test_broken_json_of_a_program_is_a_value_error(payload: str | bytes) -> None:
    """Also when it is nested to exhaust the stack; well-formed JSON, the control, is read."""
    with pytest.raises(ValueError):  # noqa: PT011 - the json module's message differs between the cases
        _ = RichOutput(data={"application/json": payload}).json
    assert RichOutput(data={"application/json": "[[1]]"}).json == [[1]]


def test_a_picture_that_is_not_base64_is_a_value_error() -> None:
    """Bytes are taken as they are, text must be base64."""
    with pytest.raises(ValueError, match="base64"):
        _ = RichOutput(data={"image/png": "not base64!"}).png


def test_an_execution_is_a_record_that_each_step_makes_anew() -> None:
    """An event that carries the first record still says "pending" after the end."""
    pending = Execution(
        id="e1", sandbox_id="s1", code="1", language="python", options=ExecutionOptions(), created_at=NOON
    )
    running = pending.started(NOON)
    done = running.ended(NOON, result(metrics=METRICS))
    assert [item.status.value for item in (pending, running, done)] == ["pending", "running", "completed"]
    assert (pending.metrics, done.metrics, done.started_at, done.completed_at) == (None, METRICS, NOON, NOON)
    assert running.ended(NOON, result(Verdict.MEMORY_LIMIT)).status is ExecutionStatus.FAILED
    assert running.ended(NOON, None).status is ExecutionStatus.FAILED


def test_times_have_a_zone() -> None:
    """A naive time would only fail later, when somebody compares it."""
    naive = NOON.replace(tzinfo=None)
    assert SandboxMetadata(created_at=NOON, last_active_at=NOON, tags={"a": "b"}).tags == {"a": "b"}
    with pytest.raises(ValueError, match="time zone"):
        SandboxMetadata(created_at=NOON, last_active_at=naive)
