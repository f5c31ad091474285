"""Tries to mount a file system, which no honest program of this course does."""

import ctypes

libc = ctypes.CDLL(None)
libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
print("still alive")
