"""Variables that are changed while a sandbox lives."""

import pytest

import nsbox


def test_a_change_holds_from_the_next_execution_on() -> None:
    """Set, set several, get, delete; an execution's own variables come over them and vanish with it."""
    show = ["/bin/sh", "-c", "echo ${A-none} ${B-none} ${C-none}"]
    with nsbox.Sandbox(environment={"A": "configured"}) as sandbox:
        assert sandbox.run(show).stdout == "configured none none\n"
        sandbox.set_environment_variable("A", "set")
        sandbox.set_environment_variables({"B": "b", "C": "ü = c"})
        assert sandbox.run(show).stdout == "set b ü = c\n"
        assert sandbox.run(show, environment={"B": "own"}).stdout == "set own ü = c\n"
        assert sandbox.get_environment_variable("B") == "b"
        assert sandbox.get_environment_variable("D") is None
        sandbox.delete_environment_variable("B")
        sandbox.delete_environment_variable("B")
        assert sandbox.run(show).stdout == "set none ü = c\n"
        assert dict(sandbox.metadata.environment) == {"A": "set", "C": "ü = c"}
        sandbox.restart()
        assert sandbox.get_environment_variable("C") == "ü = c"
        sandbox.reset()
        assert dict(sandbox.metadata.environment) == {"A": "configured"}


@pytest.mark.parametrize(("key", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y"), ("A", 1), (1, "x")])
def test_what_no_variable_can_be_is_refused(key: object, value: object) -> None:
    """The message names it, and nothing is changed, also not by the valid part of several."""
    with nsbox.Sandbox() as sandbox:
        with pytest.raises(nsbox.ConfigError, match="variables"):
            sandbox.set_environment_variable(key, value)  # type: ignore[arg-type]
        with pytest.raises(nsbox.ConfigError, match="variables"):
            sandbox.set_environment_variables({"GOOD": "x", key: value})  # type: ignore[dict-item]
        assert dict(sandbox.metadata.environment) == {}


def test_changes_are_told() -> None:
    """One event each; deleting what is not there changes nothing and tells nothing."""
    found: list[nsbox.Event] = []
    sandbox = nsbox.Sandbox.create()
    sandbox.on("environmentUpdated", found.append)
    sandbox.on("environmentBatchUpdated", found.append)
    sandbox.on("environmentDeleted", found.append)
    sandbox.set_environment_variable("A", "1")
    sandbox.set_environment_variables({"B": "2"})
    sandbox.delete_environment_variable("A")
    sandbox.delete_environment_variable("A")
    sandbox.terminate()
    first, second, third = found
    assert isinstance(first, nsbox.EnvironmentUpdated)
    assert (first.key, first.value) == ("A", "1")
    assert isinstance(second, nsbox.EnvironmentBatchUpdated)
    assert dict(second.variables) == {"B": "2"}
    assert isinstance(third, nsbox.EnvironmentDeleted)
    assert third.key == "A"
    with pytest.raises(nsbox.InvalidStateError):
        sandbox.set_environment_variable("A", "late")


def test_variables_of_one_execution_are_in_no_event_and_no_repr() -> None:
    """Their names are, which is what helps; so are not the values in `executions`."""
    found: list[nsbox.Event] = []
    with nsbox.Sandbox() as sandbox:
        sandbox.on(nsbox.Event, found.append)
        options = nsbox.ExecutionOptions(environment={"KEY": "hunter2"})
        assert sandbox.shell("test ${#KEY} = 7", options).ok
        assert "hunter2" not in repr(options)
        assert dict(options.environment) == {"KEY": "hunter2"}
    assert not any("hunter2" in repr(event) for event in found)
    started = next(event for event in found if isinstance(event, nsbox.ExecutionStarted))
    assert dict(started.execution.options.environment) == {"KEY": "<hidden>"}
