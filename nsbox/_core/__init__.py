"""The sandbox itself, in trio. `AsyncSandbox` and `Sandbox` are two ways to call it.

sources   program texts, where the sandbox can read them
support   what a configuration asks for that this version or host does not have
turns     one change of a sandbox's life at a time
core      the state machine, and the one path of every execution
"""

from nsbox._core.core import SandboxCore

__all__ = ["SandboxCore"]
