"""Any order of operations, and of faults, on a real sandbox: the states, results and errors are the documented ones.

The model below is docs/recovery.md and the table of test_life_cycle.py; recovery is off, so that each step has one
outcome. After each sequence no program is left, and after the test nothing at all.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence

import pytest
from anything import TIMES
from watching import parts_of_nsbox, programs, until

import nsbox
from nsbox import InvalidStateError, NetworkError, SandboxStatus, Verdict
from nsbox._blocking_handles import BlockingProcess
from nsbox._supervisor.start import pid_of

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_cgroups]

S = SandboxStatus
ACTIVE = (S.RUNNING, S.IDLE, S.BUSY)
MOST = 3
SEQUENCES, STEPS_EACH = 6, 100
ENFORCEMENT = nsbox.EnforcementPolicy(max_concurrent_executions=MOST, max_execution_seconds=60)
OFF = nsbox.RecoveryPolicy(auto_recover=False)


HAPPENS = {
    "start creating", "execute running", "execute idle", "execute busy", "spawn idle", "finish busy", "suspend busy",
    "resume suspended", "terminate_execution busy", "terminate_execution suspended", "restart busy",
    "restart suspended", "reset busy", "reset suspended", "reset error", "reconnect busy", "reconnect error",
    "kill PID 1 busy", "kill PID 1 suspended", "kill launcher busy", "kill launcher suspended", "terminate busy",
    "terminate suspended", "terminate error", "refused creating", "refused busy", "refused suspended",
    "refused error", "refused terminated",
}  # fmt: skip
"""What the sequences have to come to, all together: an operation and the state that it met."""


Condition = Callable[["Machine"], object]
Step = Callable[["Machine"], None]
STEPS: list[tuple[Step, Condition]] = []


def step(condition: Condition) -> Callable[[Step], Step]:
    """Something to do where the condition holds."""

    def add(function: Step) -> Step:
        STEPS.append((function, condition))
        return function

    return add


def active(machine: Machine) -> bool:
    """It takes executions."""
    return machine.status in ACTIVE


class Machine:
    """A sandbox, and what is known of it.

    Args:
        seed: What it does is chosen by this.
    """

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)  # noqa: S311  # the same sequence every time
        self.happened: list[str] = []
        self.make()

    def go_on(self) -> None:
        """One step that the state has a place for, and a look at everything."""
        allowed = [one for one, condition in STEPS if condition(self)]
        self.source.choice(allowed)(self)
        self.is_as_known()

    def make(self) -> None:
        """A new one, not started."""
        self.sandbox = nsbox.Sandbox(enforcement=ENFORCEMENT, recovery=OFF, warm=False)
        self.status = S.CREATING
        self.before = S.RUNNING  # what it was when it was suspended
        self.running: list[BlockingProcess] = []
        self.lines = 0  # in a file of the sandbox's
        self.launcher_dead = False

    def note(self, what: str) -> None:
        """For HAPPENS."""
        self.happened.append(f"{what} {self.status}")

    def all_end(self, outcome: Verdict | type[Exception]) -> None:
        """Everything that runs has ended so; each caller is told."""
        for process in self.running:
            if isinstance(outcome, Verdict):
                assert process.wait().verdict is outcome
            else:
                with pytest.raises(outcome):
                    process.wait()
            process.close()
        self.running.clear()

    def one_ended(self) -> None:
        """The last to end leaves an active sandbox IDLE."""
        if self.status is S.BUSY and not self.running:
            self.status = S.IDLE

    def some(self) -> BlockingProcess:
        """One of those that run."""
        return self.running.pop(self.source.randrange(len(self.running)))

    @step(lambda _: True)
    def try_what_is_not_allowed(self) -> None:
        """Every call that the state has no place for is refused."""
        calls: Mapping[Callable[[], object], Sequence[SandboxStatus]] = {
            self.sandbox.start: (S.CREATING,),
            lambda: self.sandbox.shell("true"): ACTIVE,
            lambda: self.sandbox.spawn(["cat"]): ACTIVE,
            self.sandbox.suspend: ACTIVE,
            self.sandbox.resume: (S.SUSPENDED,),
            self.sandbox.restart: (*ACTIVE, S.SUSPENDED),
            self.sandbox.reset: (*ACTIVE, S.SUSPENDED, S.ERROR),
            self.sandbox.reconnect: (*ACTIVE, S.SUSPENDED, S.ERROR),
        }
        for call, states in calls.items():
            if self.status not in states:
                with pytest.raises(InvalidStateError, match=self.status.value):
                    call()
        with pytest.raises(InvalidStateError, match="exe-none"):
            self.sandbox.terminate_execution("exe-none")
        self.note("refused")

    @step(lambda self: self.status is S.CREATING)
    def start(self) -> None:
        """Once."""
        self.sandbox.start()
        self.note("start")
        self.status = S.RUNNING

    @step(active)
    def execute(self) -> None:
        """A program that counts how often it has run on these files; one too many is refused."""

        def call() -> nsbox.ExecutionResult:
            return self.sandbox.shell("echo >> lines; wc -l < lines")

        if len(self.running) == MOST:
            with pytest.raises(nsbox.ResourceLimitError, match="max_concurrent_executions"):
                call()
            return
        self.lines += 1
        result = call()
        assert (result.verdict, result.stdout) == (Verdict.OK, f"{self.lines}\n")
        self.note("execute")
        self.status = S.BUSY if self.running else S.IDLE

    @step(lambda self: active(self) and len(self.running) < MOST)
    def spawn(self) -> None:
        """One that runs until its input ends."""
        self.running.append(self.sandbox.spawn(["cat"]))
        self.note("spawn")
        self.status = S.BUSY

    @step(lambda self: self.running and self.status is S.BUSY)
    def finish(self) -> None:
        """By itself."""
        process = self.some()
        process.stdin.send_all(b"last words")
        process.stdin.close()
        assert b"".join(process.stdout) == b"last words"
        assert process.wait().verdict is Verdict.OK
        process.close()
        self.note("finish")
        self.one_ended()

    @step(lambda self: self.running)
    def terminate_execution(self) -> None:
        """Suspended ones too; a second time, there is no such execution."""
        process = self.some()
        self.sandbox.terminate_execution(process.execution_id)
        assert process.wait().verdict is Verdict.CANCELLED
        process.close()
        with pytest.raises(InvalidStateError, match=process.execution_id):
            self.sandbox.terminate_execution(process.execution_id)
        self.note("terminate_execution")
        self.one_ended()

    @step(active)
    def suspend(self) -> None:
        """What runs stays, and stands still."""
        self.sandbox.suspend()
        self.note("suspend")
        self.before, self.status = self.status, S.SUSPENDED

    @step(lambda self: self.status is S.SUSPENDED)
    def resume(self) -> None:
        """To where it was."""
        self.sandbox.resume()
        self.note("resume")
        self.status = self.before
        self.one_ended()

    @step(lambda self: active(self) or self.status is S.SUSPENDED)
    def restart(self) -> None:
        """The files stay."""
        self.sandbox.restart()
        self.note("restart")
        self.renew()

    @step(lambda self: self.status not in (S.CREATING, S.TERMINATED))
    def reset(self) -> None:
        """They do not; and out of ERROR, whatever it was that broke."""
        self.sandbox.reset()
        self.note("reset")
        self.lines = 0
        self.launcher_dead = False
        self.renew()

    def renew(self) -> None:
        """All processes are new."""
        self.all_end(Verdict.CANCELLED)
        self.one_ended()
        if self.status in (S.SUSPENDED, S.ERROR):
            self.status = S.RUNNING

    @step(lambda self: active(self) or self.status is S.ERROR)
    def reconnect(self) -> None:
        """New processes where it is lost, else nothing is changed."""
        self.sandbox.reconnect()
        self.note("reconnect")
        if self.status is S.ERROR:
            self.status = S.RUNNING
            self.lines = 0 if self.launcher_dead else self.lines
            self.launcher_dead = False

    @step(lambda self: active(self) or self.status is S.SUSPENDED)
    def kill(self) -> None:
        """ERROR, and what ran has no verdict. PID 1's death leaves the files, the launcher's does not."""
        whole = self.source.random() < 0.5
        os.kill(parts_of_nsbox()[0] if whole else pid_of(self.sandbox._core.living()[1].pidfd), signal.SIGKILL)
        self.note("kill launcher" if whole else "kill PID 1")
        self.launcher_dead = whole
        self.lost()

    def lost(self) -> None:
        """It is told of a moment later."""
        until(lambda: self.sandbox.status is S.ERROR, "the loss is noticed")
        self.status = S.ERROR
        assert isinstance(self.sandbox.last_error, NetworkError)
        self.all_end(NetworkError)

    @step(lambda self: self.status not in (S.CREATING, S.TERMINATED))
    def terminate(self) -> None:
        """And again; nothing runs on. The sequence goes on with another sandbox."""
        for _ in range(2):
            self.sandbox.terminate()
            assert self.sandbox.status is S.TERMINATED
        self.note("terminate")
        self.all_end(Verdict.CANCELLED)
        self.status = S.TERMINATED
        self.try_what_is_not_allowed()
        assert programs() == {}
        self.make()

    def is_as_known(self) -> None:
        """State, and what runs, in the sandbox's own words and in the kernel's."""
        assert self.sandbox.status is self.status
        assert self.sandbox.is_active == (self.status in ACTIVE)
        assert set(self.sandbox.executions) == {process.execution_id for process in self.running}
        assert len(programs()) == len(self.running)

    def close(self) -> None:
        """The sequence is over."""
        self.sandbox.terminate()
        for process in self.running:
            process.close()
        assert programs() == {}


def test_any_order_of_operations_and_faults_is_one_of_the_documented_ones() -> None:
    """Each step has the outcome of the model, or raises the model's error and changes nothing."""
    happened: set[str] = set()
    for seed in range(SEQUENCES * TIMES):
        machine = Machine(seed)
        try:
            for _ in range(STEPS_EACH):
                machine.go_on()
        except BaseException:
            print(f"seed {seed}: {', '.join(machine.happened)}")
            raise
        finally:
            machine.close()
        happened.update(machine.happened)
    assert happened >= HAPPENS, HAPPENS - happened
