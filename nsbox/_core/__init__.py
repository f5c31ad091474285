"""The sandbox itself, in trio. `AsyncSandbox` and `Sandbox` are two ways to call it.

core          its states, its life, and the parts that it is put together from
part          what a part is told about the sandbox's life
executions    the one path of every execution
sources       program texts, where the sandbox can read them
output        output as it is written: events, and readers that may hold the program up
aftermath     what the end of an execution is told as
streaming     an execution whose output somebody iterates over
interactive   a program on pipes or on a terminal that somebody else holds in hand
environment   the variables that executions get
emitter       events, from where they happen to who wants them
handlers      where event handlers run
support       what a configuration asks for that this version or host does not have
turns         one change of a sandbox's life at a time
"""

from nsbox._core.core import SandboxCore

__all__ = ["SandboxCore"]
