"""The file API's work: on the file system of a sandbox, from outside, against a program that changes it meanwhile.

calls      system calls that the standard library does not have
resolve    from a path to a descriptor, within the sandbox's root
read       a bounded read
listing    what a file is, what is in a directory
write      all of a file at once, or nothing
deletion   of a file, a link, a tree
orders     one of these as data, and the way to carry it out
agent      the same in a process of its own, in the program's name
changes    from inotify's events to what has changed
watch      the inotify descriptor and its watches

Everything blocks, and is for a worker thread; nothing here knows of trio. What takes long asks `check` now and then.
"""

from nsbox._files.agent import carry_out_by_agent
from nsbox._files.changes import RawEvent
from nsbox._files.orders import Answer, Order, carry_out
from nsbox._files.read import open_local
from nsbox._files.resolve import Root, absolute, closing, named
from nsbox._files.watch import DirectoryWatch
from nsbox._files.write import TemporaryNames

__all__ = [
    "Answer",
    "DirectoryWatch",
    "Order",
    "RawEvent",
    "Root",
    "TemporaryNames",
    "absolute",
    "carry_out",
    "carry_out_by_agent",
    "closing",
    "named",
    "open_local",
]
