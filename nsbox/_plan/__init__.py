"""Decisions: from a configuration, and facts about the host, to what the launcher is told. Nothing here has an effect.

operations   the vocabulary of building a root
identity     uids and gids, inside and outside
hostfiles    what there is on the host, looked up (reads only)
root         which operations make the root of a sandbox
resolver     /etc/resolv.conf of a root that is a directory
writable     what a writable root adds, and what root inside has
tree         a list of operations while it is written
users        names of users to ids
template     everything that sandboxes of one kind have in common
execution    everything about one execution
"""

from nsbox._plan.execution import ExecutionPlan, plan_execution, search_path
from nsbox._plan.identity import PROGRAM_ID, IdMap
from nsbox._plan.operations import Operation, OperationFlag, OperationKind
from nsbox._plan.root import SOURCE_DIRECTORY, disk_slack_bytes, host_trees
from nsbox._plan.template import TemplatePlan, disk_backed, plan_template
from nsbox._plan.writable import overlay_error

__all__ = [
    "PROGRAM_ID",
    "SOURCE_DIRECTORY",
    "ExecutionPlan",
    "IdMap",
    "Operation",
    "OperationFlag",
    "OperationKind",
    "TemplatePlan",
    "disk_backed",
    "disk_slack_bytes",
    "host_trees",
    "overlay_error",
    "plan_execution",
    "plan_template",
    "search_path",
]
