"""Writes a file without end, and dies of the full disk."""

from pathlib import Path

with Path("index.txt").open("w") as file:
    while True:
        file.write("to be or not to be " * 5000)
