"""An uncaught exception in the first test: the recursion has no end."""

import sys


def shortest(node: int) -> int:
    """The distance of a node, were it not for the missing end."""
    return 1 + shortest(node - 1)


print(shortest(int(sys.stdin.read().split()[3])))
