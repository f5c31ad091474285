"""What `nsbox run` says about a result. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nsbox._errors import SandboxError, UnsupportedHostError
from nsbox._results import ExecutionResult, Verdict, signal_name


def verdict_line(result: ExecutionResult) -> str:
    """One line on why a program did not end well: verdict, and what it rests on, but no text of the program's."""
    evidence = result.evidence
    facts = []
    if result.verdict is Verdict.NONZERO_EXIT:
        facts.append(f"exit code {result.exit_code}")
    if result.verdict is Verdict.SIGNALED and result.signal is not None:
        facts.append(signal_name(result.signal))
    if isinstance(limit := evidence.get("limit"), (int, float)):
        facts.append(f"the limit is {_limit(limit)} {evidence.get('unit', '')}".rstrip())
    if "syscall" in evidence:
        facts.append(f"system call {evidence['syscall']}")
    if result.truncated:
        facts.append("its output is cut off")
    return ": ".join([result.verdict.value, *([", ".join(facts)] if facts else [])])


def _limit(value: float) -> str:
    """As it was given: a limit of 0.001 MiB is 1049 bytes, and no limit is told in powers of ten."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if value >= 0.001 else f"{value:.3g}"


def result_json(result: ExecutionResult, isolation: Mapping[str, str], status: int) -> str:
    """The whole result, what was in force, and the exit status, as one JSON object in one line."""
    return _line({**result.to_dict(), "isolation": dict(isolation), "exit_status": status})


def error_json(error: SandboxError, status: int) -> str:
    """The same for a program that could not be run: no verdict, and why not under `failure`."""
    failure: dict[str, object] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, UnsupportedHostError):
        failure |= {"missing": list(error.missing), "remedies": list(error.remedies)}
    return _line({"ok": False, "verdict": None, "failure": failure, "exit_status": status})


def _line(value: object) -> str:
    # ASCII: names on a command line may have bytes that are not UTF-8, and those have no other spelling in JSON.
    return json.dumps(value, allow_nan=False, ensure_ascii=True) + "\n"
