"""Correct: counts in a dictionary, sorts, prints."""

import sys
from collections import Counter

counted = Counter(sys.stdin.read().lower().split())
for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
    print(word, count)
