"""Landlock, landlock(7): what keeps the executions of one sandbox apart."""

from __future__ import annotations

import ctypes
import functools

_CREATE_RULESET = 444  # the same on every architecture, scripts/syscall.tbl
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_WITH_SCOPES = 6  # Linux 6.12: a domain that takes no right away but that of signalling out of it


@functools.cache
def landlock_abi() -> int:
    """The version of the kernel's Landlock; 0: there is none, or it is not enabled."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    found: int = libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_long(_VERSION))
    return max(found, 0)


def executions_are_apart() -> bool:
    """Whether executions of one sandbox can do nothing to each other's processes."""
    return landlock_abi() >= _WITH_SCOPES


def separation_of_executions() -> str:
    """What holds between executions of one sandbox, for `Sandbox.isolation`."""
    if executions_are_apart():
        return "a Landlock domain each: no signals, and nothing of each other in /proc"
    return "same user: they can signal each other, and read each other's environment (needs Landlock ABI 6, Linux 6.12)"
