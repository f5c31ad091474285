"""The file API's work: on the file system of a sandbox, from outside, against a program that changes it meanwhile.

calls      system calls that the standard library does not have
resolve    from a path to a descriptor, within the sandbox's root
read       a bounded read
listing    what a file is, what is in a directory
write      all of a file at once, or nothing
deletion   of a file, a link, a tree
changes    from inotify's events to what has changed
watch      the inotify descriptor and its watches

Everything blocks, and is for a worker thread; nothing here knows of trio. What takes long asks `check` now and then.
"""

from nsbox._files.changes import RawEvent
from nsbox._files.deletion import delete
from nsbox._files.listing import list_directory
from nsbox._files.read import open_local, read_file
from nsbox._files.resolve import Root, absolute, named, owner_of_programs
from nsbox._files.watch import DirectoryWatch
from nsbox._files.write import TemporaryNames, Writing, write_file

__all__ = [
    "DirectoryWatch",
    "RawEvent",
    "Root",
    "TemporaryNames",
    "Writing",
    "absolute",
    "delete",
    "list_directory",
    "named",
    "open_local",
    "owner_of_programs",
    "read_file",
    "write_file",
]
