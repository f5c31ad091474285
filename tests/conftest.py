"""The rules that all tests live by: needs are met or said to be missing, and nothing is left behind.

A test names what it needs by markers (pyproject.toml). On a developer's host a missing need skips the test with the
reason. NSBOX_LANE names the lane that runs: tests of other lanes are deselected. With NSBOX_MUST_RUN=1 or CI=true a
need that is missing fails the test. NSBOX_SHARD=2/3 runs the second third of the lane, so that kernels with one
processor each can share it.
"""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import leaks
import needs
import pytest
import trio

WATCHED = ("integration", "security")
"""Folders of tests after which nothing may be left."""


def must_run() -> bool:
    """Whether a missing need is a failure."""
    return os.environ.get("NSBOX_MUST_RUN") == "1" or os.environ.get("CI") == "true"


def current_lane() -> str | None:
    """The lane that was named; None: a developer runs what this host gives."""
    lane = os.environ.get("NSBOX_LANE")
    if lane is not None and lane not in needs.LANES:
        raise pytest.UsageError(f"NSBOX_LANE={lane} is no lane; the lanes are {', '.join(needs.LANES)}")
    return lane


def current_shard() -> tuple[int, int]:
    """Which part of how many runs: (1, 1) is all."""
    shard = os.environ.get("NSBOX_SHARD", "1/1")
    found = re.fullmatch(r"([1-9])/([1-9])", shard)
    if found is None or found[1] > found[2]:
        raise pytest.UsageError(f"NSBOX_SHARD={shard} is no shard, such as 1/2 and 2/2")
    return int(found[1]), int(found[2])


def pytest_report_header() -> str:
    """The lane, and the needs that this host does not meet."""
    missing = [f"{name}: {reason}" for name, probe in needs.PROBES.items() if (reason := probe()) is not None]
    part, parts = current_shard()
    return "\n".join([f"lane: {current_lane() or 'none'}, {part} of {parts}, must run: {must_run()}", *missing])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to other lanes and shards; each test of a lane is in exactly one shard."""
    lane = current_lane()
    part, parts = current_shard()
    if lane is None and parts == 1:
        return
    mine = [item for item in items if lane is None or needs.belongs(lane, marks_of(item))][part - 1 :: parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine


def marks_of(item: pytest.Item) -> frozenset[str]:
    """The names of its markers."""
    return frozenset(mark.name for mark in item.iter_markers())


def missing_need(item: pytest.Item) -> str | None:
    """Why this host cannot run the test; None when it can."""
    for mark in item.iter_markers():
        if mark.name == "needs_tool" and shutil.which(mark.args[0]) is None:
            return f"{mark.args[0]} is not installed"
        if mark.name in needs.PROBES and (reason := needs.PROBES[mark.name]()) is not None:
            return reason
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose need is missing, or fail it where it must run."""
    reason = missing_need(item)
    if reason is not None and must_run():
        pytest.fail(f"this test must run here, but: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _warm() -> None:
    """Let the libraries open what they open once and keep."""
    asyncio.run(asyncio.sleep(0))
    trio.run(partial(trio.to_thread.run_sync, partial(subprocess.run, ["true"], check=True)))


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the WATCHED folders that leaves a process, fd, thread, cgroup, mount, file or loop device."""
    if not set(WATCHED) & set(Path(request.node.path).parts):
        yield
        return
    request.getfixturevalue("_warm")
    before = leaks.snapshot()
    yield
    leaks.stop_supervisor()
    left = leaks.settled(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)
