"""Metrics: what is measured, when it is looked at, and what is told of it."""

import itertools
import math
import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import leaks
import pytest
import trio
from watching import Bell, until

import nsbox
from nsbox import (
    CpuAllocation,
    EnforcementPolicy,
    Event,
    MemoryAllocation,
    MonitoringThresholds,
    ResourceAllocation,
    SandboxStatus,
    Verdict,
)

MIB = 1 << 20
COUNTERS = ("cpu.stat", "memory.stat", "memory.current", "memory.usage_in_bytes", "pids.current")
RING = "open('/bell/ring', 'w').write({!r})"
WAIT = "open('/bell/go').readline()"
SPIN = f"{RING.format('spin' + chr(10))}\nwhile True: pass"
FILL = """
with open('/workspace/full', 'wb', buffering=0) as file:
    try:
        while True:
            file.write(bytes(1 << 20))
    except OSError:
        pass
"""
EAT = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    """A FIFO that programs ring."""
    directory = tmp_path / "bell"
    directory.mkdir()
    made = Bell(directory)
    yield made
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For the calls that a test does not wait for."""
    with ThreadPoolExecutor(4) as made:
        yield made


class Heard:
    """The events of some kinds, in order.

    Args:
        sandbox: Whose.
        kinds: Which; their names.
    """

    def __init__(self, sandbox: nsbox.Sandbox, *kinds: str) -> None:
        self._waiting: queue.Queue[Event] = queue.Queue()
        self.stop = [sandbox.on(kind, self._waiting.put) for kind in kinds]

    def next(self, seconds: float = 20.0) -> Any:
        """The next one; none within the time fails the test."""
        return self._waiting.get(timeout=seconds)

    def next_of(self, resource: str) -> Any:
        """The next one about a resource; those about others are passed over."""
        while (event := self.next()).resource != resource:
            pass
        return event

    def next_about(self, resource: str) -> Any:
        """The next one that is about this resource or about none."""
        while getattr(event := self.next(), "resource", resource) != resource:
            pass
        return event

    def rest(self) -> list[tuple[str, str | None]]:
        """What has come and was not taken: names and resources."""
        found = []
        while not self._waiting.empty():
            event = self._waiting.get()
            found.append((event.name, getattr(event, "resource", None)))
        return found


# ------------------------------------------------------------ what is measured


def percent_of(event: Event) -> float:
    """Of the CPU allocation, as an event tells it; NaN: it tells an excess."""
    if isinstance(event, nsbox.MetricsUpdated):
        return 100 * event.metrics.usage.cpu.utilization
    return event.usage if isinstance(event, nsbox.ResourceWarning) else math.nan


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_program_that_burns_cpu_shows_its_allocation(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """A fifth of a CPU: some 20 percent of one CPU, 100 of the allocation; warned of once, and once when it is over."""
    resources = ResourceAllocation(cpu=CpuAllocation(cores=0.4, limit_percent=50))
    thresholds = MonitoringThresholds(cpu_percent=60)
    with nsbox.Sandbox(
        resources=resources, thresholds=thresholds, metrics_interval=0.2, mounts=[bell.mount], timeout=60
    ) as sandbox:
        warnings, excess = Heard(sandbox, "resource_warning"), Heard(sandbox, "resource_exceeded")
        story: list[Event] = []
        for kind in ("metrics_updated", "resource_warning", "resource_exceeded"):
            sandbox.on(kind, story.append)
        assert sandbox.get_resource_usage().cpu.limit == pytest.approx(20)
        future = pool.submit(sandbox.execute, SPIN)
        bell.wait()
        up = warnings.next()
        assert (up.resource, up.limit) == ("cpu", 60)
        assert 60 <= up.usage < 200
        reached = excess.next()
        assert (reached.resource, reached.limit) == ("cpu", pytest.approx(0.2))
        sandbox.get_resource_usage()
        time.sleep(0.5)  # 25 periods of the bandwidth
        assert 10 < sandbox.get_resource_usage().cpu.usage < 30
        (execution,) = sandbox.executions
        sandbox.terminate_execution(execution)
        assert future.result(20).verdict is Verdict.CANCELLED
        until(lambda: story[-1].name == "resource_warning" and percent_of(story[-1]) < 55, "it is warned of downwards")
    directions = [percent_of(event) >= 60 for event in story if event.name == "resource_warning"]
    assert directions == [True, False] * (len(directions) // 2)  # once unless others took the CPU meanwhile
    percents = [percent_of(event) for event in story if event.name != "resource_warning"]
    told = [index for index, percent in enumerate(percents) if math.isnan(percent)]
    for one, other in itertools.pairwise(told):
        assert min(percents[one + 1 : other]) < 90


@pytest.mark.lane_unified
def test_memory_that_a_program_takes_is_what_usage_grows_by(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """100 MiB within a tenth, and they are gone when it gives them back."""
    code = f"""
{RING.format("before" + chr(10))}
{WAIT}
block = bytearray(100 << 20)
{RING.format("taken" + chr(10))}
{WAIT}
del block
{RING.format("freed" + chr(10))}
{WAIT}
"""
    with nsbox.Sandbox(mounts=[bell.mount], memory_mb=512, timeout=60) as sandbox:

        def used() -> float:
            return sandbox.get_resource_usage().memory.usage

        future = pool.submit(sandbox.execute, code)
        assert bell.wait() == "before"
        until(lambda: used() > 0, "the program is seen")
        before = used()
        bell.go()
        assert bell.wait() == "taken"
        until(lambda: 90 < used() - before < 110, "100 MiB are seen")
        bell.go()
        assert bell.wait() == "freed"
        until(lambda: used() - before < 10, "their end is seen")
        bell.go()
        assert future.result(20).ok
        assert sandbox.get_resource_usage().memory.limit == 512
        assert sandbox.metadata.total_memory_used > 100 * MIB


def test_files_are_what_disk_usage_counts() -> None:
    """MiB against the quota; also with a sandbox that has nothing running."""
    with nsbox.Sandbox(disk_mb=64) as sandbox:
        before = sandbox.get_resource_usage().disk
        assert (before.limit, before.usage < 1) == (64, True)
        assert sandbox.shell("head -c 16M /dev/zero >/workspace/file").ok
        after = sandbox.get_resource_usage().disk
        assert 16 <= after.usage < 17
        assert after.utilization == pytest.approx(after.usage / 64)
        assert sandbox.shell("rm /workspace/file").ok
        assert sandbox.get_resource_usage().disk.usage < 1


def test_without_a_network_none_is_used_and_nothing_is_limited() -> None:
    """Bytes on the sandbox's own loopback are no network."""
    with nsbox.Sandbox() as sandbox:
        network = sandbox.get_resource_usage().network
    assert (network.usage, network.limit, network.utilization) == (0, float("inf"), 0)


def test_threads_and_open_files_are_those_of_the_programs(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """Of two processes with three threads, and nothing of nsbox's own; nothing at all when none runs."""
    code = f"""
import os, threading
files = [open('/dev/null') for _ in range(20)]
for _ in range(2):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if os.fork() == 0:
    while True: {WAIT}
{RING.format("ready" + chr(10))}
{WAIT}
os._exit(0)
"""
    with nsbox.Sandbox(mounts=[bell.mount], metrics_interval=0.05, timeout=60) as sandbox:
        heard = Heard(sandbox, "metrics_updated")
        assert heard.next().metrics.processes == 0
        future = pool.submit(sandbox.execute, code)
        bell.wait()
        until(lambda: heard.next().metrics.processes == 2, "both processes are seen")
        metrics = heard.next().metrics
        assert metrics.processes == 2
        assert metrics.threads == 4
        assert 46 <= metrics.open_files < 60
        assert metrics.disk_inodes > 0
        (execution,) = sandbox.executions
        sandbox.terminate_execution(execution)
        assert future.result(20).verdict is Verdict.CANCELLED
        until(lambda: heard.next().metrics.processes == 0, "their end is seen")
        assert heard.next().metrics.threads is None


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_suspended_sandbox_uses_no_cpu_and_can_be_asked(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """None from the first look on; before and afterwards it burns."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=60) as sandbox:
        future = pool.submit(sandbox.execute, SPIN)
        bell.wait()
        until(lambda: sandbox.get_resource_usage().cpu.usage > 20, "it burns")
        sandbox.suspend()
        assert sandbox.get_resource_usage().cpu.usage < 1  # microseconds may be accounted a moment later
        time.sleep(0.1)  # a time in which it would have burnt
        assert sandbox.get_resource_usage().cpu.usage < 1
        sandbox.resume()
        until(lambda: sandbox.get_resource_usage().cpu.usage > 20, "it burns again")
        (execution,) = sandbox.executions
        sandbox.terminate_execution(execution)
        assert future.result(20).verdict is Verdict.CANCELLED


def test_what_is_not_there_cannot_be_asked() -> None:
    """Before the start and after the end it is an `InvalidStateError`."""
    sandbox = nsbox.Sandbox()
    with pytest.raises(nsbox.InvalidStateError):
        sandbox.get_resource_usage()
    with sandbox:
        assert sandbox.get_resource_usage().memory.limit == 512
    with pytest.raises(nsbox.InvalidStateError):
        sandbox.get_resource_usage()


# ------------------------------------------------------------ when it is looked at


def counters_open() -> int:
    """How many files of cgroups this process has open, but for the directories."""
    return sum(count for name, count in leaks.open_files().items() if name.endswith(COUNTERS))


def test_nothing_is_read_while_nobody_would_hear_of_it() -> None:
    """No look and no open file in ten intervals; with a subscriber there are some of both, and none after the end."""
    with nsbox.Sandbox(metrics_interval=0.02) as sandbox:
        time.sleep(0.2)
        assert sandbox._core.meter.looks == 0
        assert counters_open() == 0
        heard = Heard(sandbox, "metrics_updated")
        for _ in range(3):
            heard.next()
        assert sandbox._core.meter.looks >= 3
        opened = counters_open()
        assert opened == 4 or not sandbox._core.living()[0].tree.hierarchies
        for stop in heard.stop:
            stop()
        looks = sandbox._core.meter.looks
        time.sleep(0.2)
        assert sandbox._core.meter.looks <= looks + 1  # one may have been on its way
        sandbox.restart()
        assert counters_open() == 0
        sandbox.get_resource_usage()
        assert counters_open() == opened
    assert counters_open() == 0


async def test_forty_sandboxes_are_all_looked_at_and_leave_nothing_open() -> None:
    """Each is heard three times; the files of their counters go with them."""
    heard: dict[str, int] = {}
    done = trio.Event()

    def count(event: Event) -> None:
        heard[event.sandbox_id] = heard.get(event.sandbox_id, 0) + 1
        if len(heard) == 40 and min(heard.values()) >= 3:
            done.set()

    sandboxes = [nsbox.AsyncSandbox(metrics_interval=0.1) for _ in range(40)]
    try:
        for sandbox in sandboxes:
            await sandbox.start()
            sandbox.on("metrics_updated", count)
        with trio.fail_after(30):
            await done.wait()
    finally:
        for sandbox in sandboxes:
            await sandbox.terminate()


@pytest.mark.lane_unified
def test_a_stream_has_metrics_between(bell: Bell) -> None:
    """Of its own sandbox, at the interval, while the program runs."""
    code = f"print('one', flush=True)\n{WAIT}\nprint('two', flush=True)"
    seen = []
    with nsbox.Sandbox(mounts=[bell.mount], metrics_interval=0.05, timeout=60) as sandbox:
        stream = sandbox.execute_stream(code)
        for event in stream:
            seen.append(event.name)
            assert event.sandbox_id == sandbox.id
            if seen.count("metrics_updated") == 3:
                bell.go()
        assert stream.result.stdout == "one\ntwo\n"
        looks = sandbox._core.meter.looks
    assert "execution_output" in seen
    assert seen.count("metrics_updated") >= 3
    assert looks >= 3


# ------------------------------------------------------------ thresholds and limits


@pytest.mark.lane_unified
def test_a_disk_that_fills_is_warned_of_and_told_once(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """Seen full while the program runs, so that its end does not tell it again; and downwards when it is emptied."""
    code = f"{FILL}\n{RING.format('full' + chr(10))}\n{WAIT}\nraise SystemExit(1)"
    with nsbox.Sandbox(mounts=[bell.mount], disk_mb=8, metrics_interval=0.05, timeout=60) as sandbox:
        warnings = Heard(sandbox, "resource_warning")
        told = Heard(sandbox, "disk_full", "execution_failed")
        excess = Heard(sandbox, "resource_exceeded")
        future = pool.submit(sandbox.execute, code)
        bell.wait()
        up = warnings.next_of("disk")
        assert (up.limit, up.usage >= 80) == (80, True)
        assert excess.next_of("disk").limit == 8
        full = told.next()
        assert (full.name, full.limit, round(full.usage)) == ("disk_full", 8, 8)
        bell.go()
        assert future.result(20).verdict is Verdict.DISK_LIMIT
        assert told.next().name == "execution_failed"
        assert sandbox.shell("rm /workspace/full").ok
        assert warnings.next_of("disk").usage < 75
        assert told.rest() == []
        assert ("resource_exceeded", "disk") not in excess.rest()


def test_a_disk_that_was_filled_between_two_looks_is_told_by_the_end_of_the_program() -> None:
    """Once, though it stays full; and the size of a single file is no full disk."""
    with nsbox.Sandbox(disk_mb=8, metrics_interval=0.2) as sandbox:
        told = Heard(sandbox, "resource_exceeded", "disk_full")
        metrics = Heard(sandbox, "metrics_updated")
        assert sandbox.execute(f"{FILL}\nraise SystemExit(1)").verdict is Verdict.DISK_LIMIT
        metrics.rest()
        metrics.next()
        metrics.next()
    assert told.rest() == [("resource_exceeded", "disk"), ("disk_full", None)]
    with nsbox.Sandbox(disk_mb=128) as sandbox:
        told = Heard(sandbox, "resource_exceeded", "disk_full")
        assert sandbox.shell("exec head -c 100M /dev/zero >/workspace/file").verdict is Verdict.DISK_LIMIT
    assert told.rest() == [("resource_exceeded", "disk")]


def test_an_execution_that_takes_long_is_warned_of_once(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """At its time and not at the next look; one that is shorter is not."""
    thresholds = MonitoringThresholds(execution_seconds=0.3)
    with nsbox.Sandbox(mounts=[bell.mount], thresholds=thresholds, metrics_interval=600, timeout=60) as sandbox:
        warnings = Heard(sandbox, "resource_warning")
        assert sandbox.shell("true").ok
        future = pool.submit(sandbox.execute, WAIT)
        warning = warnings.next_of("execution")
        assert (warning.limit, warning.usage >= 0.3) == (0.3, True)
        bell.go()
        assert future.result(20).ok
    assert ("resource_warning", "execution") not in warnings.rest()


@pytest.mark.needs_cgroups
def test_the_time_of_an_execution_stands_still_while_it_is_suspended(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """Suspended for longer than the threshold, it is warned of when it has run for so long."""
    thresholds = MonitoringThresholds(execution_seconds=0.5)
    with nsbox.Sandbox(mounts=[bell.mount], thresholds=thresholds, metrics_interval=0.05, timeout=60) as sandbox:
        warnings = Heard(sandbox, "resource_warning")
        future = pool.submit(sandbox.execute, f"{RING.format('on' + chr(10))}\n{WAIT}")
        bell.wait()
        sandbox.suspend()
        time.sleep(1.0)  # twice the threshold, if it counted
        assert ("resource_warning", "execution") not in warnings.rest()
        sandbox.resume()
        warning = warnings.next_of("execution")
        bell.go()
        metrics = future.result(20).metrics
        assert metrics is not None
        assert 0.5 <= warning.usage <= metrics.wall_seconds + 0.5
        assert metrics.suspended_seconds >= 1.0
    assert ("resource_warning", "execution") not in warnings.rest()


@pytest.mark.lane_unified
def test_memory_that_is_not_enforced_is_told_once(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """Seen while it runs, or where that was too short for a look by its end; the verdict is OK."""
    enforcement = EnforcementPolicy(enforce_memory_limits=False, max_execution_seconds=60)
    take = "block = bytearray(100 << 20)"
    with nsbox.Sandbox(mounts=[bell.mount], enforcement=enforcement, memory_mb=64, metrics_interval=0.05) as sandbox:
        told = Heard(sandbox, "resource_exceeded")
        future = pool.submit(sandbox.execute, f"{take}\n{RING.format('taken' + chr(10))}\n{WAIT}")
        bell.wait()
        event = told.next_of("memory")
        assert (event.limit, event.usage > 64) == (64, True)
        bell.go()
        assert future.result(20).verdict is Verdict.OK
        assert ("resource_exceeded", "memory") not in told.rest()
    with nsbox.Sandbox(enforcement=enforcement, memory_mb=64, metrics_interval=600) as sandbox:
        told = Heard(sandbox, "resource_exceeded")
        assert sandbox.execute(f"import time\n{take}\ntime.sleep(0.2)").verdict is Verdict.OK  # 4 looks where sampled
        assert sandbox.execute("pass").ok
    assert told.rest() == [("resource_exceeded", "memory")]


# ------------------------------------------------------------ suspended at the limit, and memory given back


def at_limit(limit_mb: int = 64) -> dict[str, Any]:
    """A sandbox that is not to be killed for memory."""
    return {"resources": ResourceAllocation(memory=MemoryAllocation(limit_mb=limit_mb, oom_kill_disable=True))}


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_sandbox_is_suspended_at_its_limit_instead_of_killed(pool: ThreadPoolExecutor) -> None:
    """It says so, can be asked, meets its limit again when resumed, and goes on when something gives memory back.

    The control without the option is killed.
    """
    with nsbox.Sandbox(memory_mb=64) as control:
        assert control.execute(EAT).verdict is Verdict.MEMORY_LIMIT
    with nsbox.Sandbox(**at_limit(), timeout=60) as sandbox:
        heard = Heard(sandbox, "resource_exceeded", "suspended", "execution_failed")
        future = pool.submit(sandbox.execute, EAT)
        for _ in range(2):
            exceeded, suspended = (heard.next_about("memory") for _ in range(2))  # a slow machine's CPU is busy, too
            assert (exceeded.name, exceeded.resource, exceeded.limit) == ("resource_exceeded", "memory", 64)
            assert exceeded.usage > 60
            assert suspended.name == "suspended"
            assert sandbox.status is SandboxStatus.SUSPENDED
            assert sandbox.get_resource_usage().memory.usage > 60
            assert not future.done()
            sandbox.resume()
        assert [heard.next_about("memory").name for _ in range(2)] == ["resource_exceeded", "suspended"]
        (execution,) = sandbox.executions
        sandbox.terminate_execution(execution)
        assert future.result(20).verdict is Verdict.CANCELLED
        sandbox.resume()
        assert sandbox.execute("print('on')").stdout == "on\n"


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_limit_of_its_own_kills_an_execution_all_the_same() -> None:
    """memory_limit_mb is not the sandbox's limit, and the rest of the sandbox stays as it is."""
    with nsbox.Sandbox(**at_limit(128), timeout=60) as sandbox:
        assert sandbox.execute(EAT, memory_limit_mb=48).verdict is Verdict.MEMORY_LIMIT
        assert sandbox.execute("print('on')").stdout == "on\n"


@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
@pytest.mark.parametrize("action", ["terminate", "restart", "reset", "suspend"])
def test_whatever_is_asked_of_a_sandbox_at_its_limit_happens(action: str, pool: ThreadPoolExecutor) -> None:
    """The moment in which the kernel holds its programs is in nobody's way."""
    with nsbox.Sandbox(**at_limit(), timeout=60) as sandbox:
        heard = Heard(sandbox, "resource_exceeded")
        future = pool.submit(sandbox.execute, EAT)
        heard.next()
        if action == "suspend":
            until(lambda: sandbox.status is SandboxStatus.SUSPENDED, "it is suspended")
            with pytest.raises(nsbox.InvalidStateError):
                sandbox.suspend()
            sandbox.terminate()
        else:
            getattr(sandbox, action)()
        assert future.result(20).verdict is Verdict.CANCELLED
        if action not in {"suspend", "terminate"}:
            assert sandbox.execute("print('on')").stdout == "on\n"


@pytest.mark.needs_rootless
def test_where_no_cgroup_holds_memory_suspending_at_the_limit_is_refused() -> None:
    """At the start, with what is missing and what mends it."""
    with pytest.raises(nsbox.UnsupportedHostError) as caught:
        nsbox.Sandbox.create(**at_limit())
    assert caught.value.missing == ("oom_suspend",)
    assert caught.value.remedies != ()
    assert caught.value.remedies[0]


def test_a_limit_that_is_not_enforced_cannot_suspend() -> None:
    """The two together are a `ConfigError`."""
    with pytest.raises(nsbox.ConfigError, match="oom_kill_disable"):
        nsbox.Sandbox(**at_limit(), enforcement=EnforcementPolicy(enforce_memory_limits=False))


@pytest.mark.needs_unified
@pytest.mark.needs_cgroups
@pytest.mark.lane_unified
def test_a_suspended_sandbox_gives_the_cache_of_its_files_back(
    bell: Bell, pool: ThreadPoolExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that a program has read are charged to it; what is given back is logged, and the program goes on."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "big").write_bytes(bytes(64 * MIB))
    mounts = [bell.mount, nsbox.Mount(source=data, target="/data", read_only=False)]
    code = f"""
import os
fd = os.open('/data/big', os.O_RDWR)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
while os.read(fd, 1 << 20): pass
{RING.format("read" + chr(10))}
{WAIT}
print('on')
"""
    (data / "big").chmod(0o666)
    data.chmod(0o777)
    with nsbox.Sandbox(mounts=mounts, memory_mb=256, timeout=60) as sandbox:
        future = pool.submit(sandbox.execute, code)
        bell.wait()
        before = int(charged(sandbox).read_text())
        with caplog.at_level("INFO", "nsbox"):
            sandbox.suspend(reclaim_memory=True)
        assert sandbox.status is SandboxStatus.SUSPENDED
        (line,) = [record.getMessage() for record in caplog.records if "given back" in record.getMessage()]
        given_back = int(line.split(" bytes")[0].rpartition(" ")[2])
        assert given_back > 0
        assert int(charged(sandbox).read_text()) <= before - given_back + MIB
        sandbox.resume()
        bell.go()
        assert future.result(20).stdout == "on\n"


def charged(sandbox: nsbox.Sandbox) -> Path:
    """The file that tells what a sandbox is charged for."""
    supervisor, cell = sandbox._core.living()
    return supervisor.tree.hierarchies[0].path / f"s{cell.number}" / "memory.current"


@pytest.mark.needs_hybrid
@pytest.mark.needs_cgroups
def test_where_memory_cannot_be_reclaimed_nothing_is_suspended(bell: Bell, pool: ThreadPoolExecutor) -> None:
    """It is refused by name before anything is changed, the running program included."""
    with nsbox.Sandbox(mounts=[bell.mount], timeout=60) as sandbox:
        future = pool.submit(sandbox.execute, f"{RING.format('on' + chr(10))}\n{WAIT}\nprint('on')")
        bell.wait()
        with pytest.raises(nsbox.UnsupportedHostError) as caught:
            sandbox.suspend(stop_executions=True, reclaim_memory=True)
        assert caught.value.missing == ("memory_reclaim",)
        assert sandbox.status is SandboxStatus.BUSY
        bell.go()
        assert future.result(20).stdout == "on\n"
        sandbox.suspend()
        assert sandbox.status is SandboxStatus.SUSPENDED
