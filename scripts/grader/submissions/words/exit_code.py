"""Prints the correct answer, but ends with an exit code that says otherwise."""

import sys
from collections import Counter

counted = Counter(sys.stdin.read().lower().split())
for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
    print(word, count)
sys.exit(3)
