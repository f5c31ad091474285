"""Needs more and more memory: keeps a copy of everything for every word, and never comes to an end of it."""

import sys

text = sys.stdin.read()
kept = []
while True:
    kept.append(bytearray(1 << 20) + text.encode())
