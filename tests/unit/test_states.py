"""The table of transitions and the machine that holds to it."""

from __future__ import annotations

import itertools

import pytest

from nsbox._errors import InvalidStateError, InvalidStateTransitionError
from nsbox._states import ACTIVE, ALLOWED_TRANSITIONS, SandboxStatus, StateMachine

S = SandboxStatus

# How to get to each state from CREATING.
PATHS: dict[SandboxStatus, tuple[SandboxStatus, ...]] = {
    S.CREATING: (),
    S.RUNNING: (S.RUNNING,),
    S.IDLE: (S.RUNNING, S.IDLE),
    S.BUSY: (S.RUNNING, S.BUSY),
    S.SUSPENDED: (S.RUNNING, S.SUSPENDED),
    S.TERMINATING: (S.TERMINATING,),
    S.TERMINATED: (S.TERMINATING, S.TERMINATED),
    S.ERROR: (S.ERROR,),
}

# The table of the original design, and what nsbox adds to it, kept apart so that neither hides the other.
ORIGINAL = {
    S.CREATING: {S.RUNNING, S.ERROR},
    S.RUNNING: {S.IDLE, S.BUSY, S.SUSPENDED, S.TERMINATING},
    S.IDLE: {S.BUSY, S.SUSPENDED, S.TERMINATING},
    S.BUSY: {S.IDLE, S.ERROR, S.TERMINATING},
    S.SUSPENDED: {S.RUNNING, S.TERMINATING},
    S.TERMINATING: {S.TERMINATED},
    S.TERMINATED: set(),
    S.ERROR: {S.TERMINATING},
}
ADDED = {
    (S.CREATING, S.TERMINATING),
    (S.RUNNING, S.ERROR),
    (S.IDLE, S.ERROR),
    (S.SUSPENDED, S.ERROR),
    (S.TERMINATING, S.ERROR),
    (S.BUSY, S.SUSPENDED),
    (S.SUSPENDED, S.IDLE),
    (S.SUSPENDED, S.BUSY),
    (S.ERROR, S.RUNNING),
}


def machine_in(state: SandboxStatus) -> StateMachine:
    """A machine that was led to a state by allowed steps."""
    machine = StateMachine()
    for step in PATHS[state]:
        machine.to(step)
    return machine


def test_the_table_is_the_original_one_plus_exactly_the_additions() -> None:
    """No addition is in the original already, none is missing, and there is no other."""
    original = {(old, new) for old, news in ORIGINAL.items() for new in news}
    assert not original & ADDED
    assert {(old, new) for old, news in ALLOWED_TRANSITIONS.items() for new in news} == original | ADDED


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)), ids=str)
def test_each_pair_of_states_is_a_change_or_an_error_just_as_the_table_says(
    old: SandboxStatus, new: SandboxStatus
) -> None:
    """All 64 pairs, with the observer told of the change and of nothing else; a refusal changes nothing."""
    seen: list[tuple[SandboxStatus, SandboxStatus]] = []
    machine = StateMachine(lambda before, after: seen.append((before, after)))
    for step in PATHS[old]:
        machine.to(step)
    seen.clear()
    if new in ORIGINAL[old] or (old, new) in ADDED:
        machine.to(new)
        assert machine.status is new
        assert seen == [(old, new)]
    else:
        with pytest.raises(InvalidStateTransitionError, match=f"from {old} to {new}") as caught:
            machine.to(new)
        assert machine.status is old
        assert seen == []
        assert (caught.value.old_state, caught.value.new_state) == (old, new)
        for allowed in ALLOWED_TRANSITIONS[old]:
            assert allowed.value in str(caught.value)


def test_the_final_state_says_that_it_is_final() -> None:
    """A sentence that ended in "it can go to" and nothing would be read as a bug."""
    with pytest.raises(InvalidStateTransitionError, match="nothing, it is final"):
        machine_in(S.TERMINATED).to(S.RUNNING)


@pytest.mark.parametrize("state", list(S), ids=str)
def test_require_lets_exactly_the_named_states_pass(state: SandboxStatus) -> None:
    """In each state: the active ones pass, the others are refused with action, state and what is needed."""
    machine = machine_in(state)
    if state in ACTIVE:
        machine.require(*ACTIVE, action="execute")
    else:
        with pytest.raises(InvalidStateError) as caught:
            machine.require(*ACTIVE, action="execute")
        reason, _, remedy = str(caught.value).partition("; ")
        assert (
            reason == f"cannot execute: the sandbox is {state.value}, and this needs it to be running or idle or busy"
        )
        remedies = {S.CREATING: "`start`", S.SUSPENDED: "`resume`", S.TERMINATED: "make a new one", S.ERROR: "`reset`"}
        assert remedies.get(state, "") in remedy
        assert bool(remedy) == (state in remedies)
        assert not isinstance(caught.value, InvalidStateTransitionError)


def test_what_the_observer_raises_reaches_the_caller_and_the_change_holds() -> None:
    """An observer cannot undo a change, and cannot fail in silence."""

    def observer(old: SandboxStatus, new: SandboxStatus) -> None:
        raise LookupError(f"{old} {new}")

    machine = StateMachine(observer)
    with pytest.raises(LookupError, match="creating running"):
        machine.to(S.RUNNING)
    assert machine.status is S.RUNNING


def test_the_table_cannot_be_changed() -> None:
    """Nothing bypasses the table, a misguided assignment neither."""
    with pytest.raises(TypeError):
        ALLOWED_TRANSITIONS[S.TERMINATED] = frozenset({S.RUNNING})  # type: ignore[index]
