"""Needs too much memory in a child, and reports success whatever became of it."""

import os
import sys

if os.fork() == 0:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))
os.wait()
sys.exit(0)
