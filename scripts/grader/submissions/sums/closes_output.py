"""Prints the correct answer, closes stdout and stderr, and lives on: the end of the output is not its end."""

import os
import sys
import time

print(sum(int(word) for word in sys.stdin.read().split()), flush=True)
os.close(1)
os.close(2)
time.sleep(3600)
