"""What compilers need beside a sandbox: where a toolchain is, what comes out of one, and where that is kept.

`locate` looks for a program in what a sandbox sees of the host; `built` takes what a compiler has left in its sandbox;
`store` keeps it, in files that only this user writes.
"""

from nsbox._compile.built import BuiltFile, ResultError, copy_tree, read_tree
from nsbox._compile.locate import UNKNOWN, Program, find_program
from nsbox._compile.store import Store, open_store

__all__ = [
    "UNKNOWN", "BuiltFile", "Program", "ResultError", "Store", "copy_tree", "find_program", "open_store", "read_tree",
]  # fmt: skip
