"""Correct: adds up the lines in threads of a pool."""

import sys
from concurrent.futures import ThreadPoolExecutor


def sum_of(line: str) -> int:
    """The sum of one line."""
    return sum(int(word) for word in line.split())


with ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(sum_of, sys.stdin)))
