"""Prints the correct answer and sends itself SIGKILL, as if somebody had killed it for a limit."""

import os
import signal
import sys

print(sum(int(word) for word in sys.stdin.read().split()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
