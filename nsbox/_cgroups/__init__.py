"""cgroups: what Python decides about them. The launcher carries it out and knows neither v1 nor v2.

::

    model      the vocabulary: hierarchies, writes, counters
    discover   where the hierarchies are mounted, and where we are in them
    base       base directories: made, locked, removed
    v1         base nodes in v1 hierarchies, through cgroupspy
    unified    base directories in v2, and what a parent can give
    parents    which v2 parent is chosen, and what to say when none will do
    lacks      capabilities, reasons, remedies
    tree       the tree of one supervisor; build makes it
    limits     allocation -> writes and counters, pure
    report     what is in force, in words
    usage      what a sandbox uses now
garbage    what dead supervisors left
"""

from nsbox._cgroups.base import lock
from nsbox._cgroups.build import make_tree
from nsbox._cgroups.garbage import collect_garbage
from nsbox._cgroups.lacks import CAPABILITIES, Lack
from nsbox._cgroups.limits import counters, execution_writes, on_demand, sandbox_hierarchies, sandbox_writes
from nsbox._cgroups.model import BASE_NAME, Counter, CounterSlot, Hierarchy, Level, Write
from nsbox._cgroups.parents import Move
from nsbox._cgroups.report import isolation_report
from nsbox._cgroups.tree import CgroupTree
from nsbox._cgroups.usage import CgroupUsage, read_usage

__all__ = [
    "BASE_NAME",
    "CAPABILITIES",
    "CgroupTree",
    "CgroupUsage",
    "Counter",
    "CounterSlot",
    "Hierarchy",
    "Lack",
    "Level",
    "Move",
    "Write",
    "collect_garbage",
    "counters",
    "execution_writes",
    "isolation_report",
    "lock",
    "make_tree",
    "on_demand",
    "read_usage",
    "sandbox_hierarchies",
    "sandbox_writes",
]
