"""The events: names, fields, and the table in the documents."""

import dataclasses
import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import nsbox
from nsbox import _events

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"

CONTRACT = """
Created Started Suspended Resumed Terminated StateChanged:old_state,new_state Connected Disconnected:code,reason
ExecutionStarted:execution ExecutionOutput:execution_id,stream,content ExecutionCompleted:execution,result
ExecutionFailed:execution,error ExecutionTimeout:execution_id,timeout
MetricsUpdated:metrics ResourceWarning:resource,usage,limit ResourceExceeded:resource,usage,limit DiskFull:usage,limit
DomainRefused:domain RuntimeErrorEvent:error SecurityViolation:violation,severity HeartbeatFailed:error
ReconnectFailed:original_error,reconnect_error
RecoverySucceeded:strategy,attempt RecoveryAttemptFailed:strategy,attempt,error RecoveryFailed:strategy
FileUploaded:file_info FileDownloaded:path,size FileDeleted:path EnvironmentUpdated:key,value
EnvironmentBatchUpdated:variables EnvironmentDeleted:key PortExposed:exposed_port PortClosed:port
"""


def own_fields(kind: type[nsbox.Event]) -> list[str]:
    """Those that not every event has."""
    return [field.name for field in dataclasses.fields(kind) if field.name not in ("sandbox_id", "at")]


def test_every_event_of_the_contract_is_there_with_its_fields() -> None:
    """No other, no other field, and each is exported."""
    expected = {
        name: fields.split(",") if fields else [] for name, _, fields in (w.partition(":") for w in CONTRACT.split())
    }
    assert {kind.__name__: own_fields(kind) for kind in _events.EVENTS.values()} == expected
    assert all(getattr(nsbox, name) is _events.EVENTS[kind.name] for name, kind in by_class_name().items())


def by_class_name() -> dict[str, type[nsbox.Event]]:
    """The events by the names of their classes."""
    return {kind.__name__: kind for kind in _events.EVENTS.values()}


def test_names_are_those_of_the_classes_in_snake_case() -> None:
    """And every one can be found by it, by the class, and in camelCase."""
    for name, kind in by_class_name().items():
        snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        camel = name[0].lower() + name[1:]
        assert kind.name == snake
        assert _events.find_event(snake) is _events.find_event(camel) is _events.find_event(kind) is kind


@pytest.mark.parametrize("name", ["", "execution", "ExecutionDone", "events_lost", None, 3, int])
def test_what_is_no_event_is_refused(name: object) -> None:
    """The message has the names that there are."""
    with pytest.raises(nsbox.ConfigError, match="execution_started"):
        _events.find_event(name)  # type: ignore[arg-type]


def test_an_event_cannot_be_changed() -> None:
    """Several readers get the same object."""
    event = nsbox.PortClosed(sandbox_id="sbx", at=datetime.now(UTC), port=80)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.port = 81  # type: ignore[misc]


def test_the_table_in_the_document_is_that_of_the_classes() -> None:
    """Event, first sentence of its docstring, fields."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    expected = [
        (
            kind.__name__,
            " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()),
            ", ".join(f"`{field}`" for field in own_fields(kind)),
        )
        for kind in _events.EVENTS.values()
    ]
    assert [row for row in rows if row[0] in by_class_name()] == expected
