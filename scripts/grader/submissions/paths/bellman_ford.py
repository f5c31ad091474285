"""Correct, though slow: improves all distances until nothing changes."""

import math
import sys

nodes, edges, start, goal, *rest = (int(word) for word in sys.stdin.read().split())
distances = dict.fromkeys(range(1, nodes + 1), math.inf)
distances[start] = 0
for _ in range(nodes):
    for index in range(edges):
        origin, target, length = rest[3 * index : 3 * index + 3]
        distances[target] = min(distances[target], distances[origin] + length)
print(-1 if math.isinf(distances[goal]) else int(distances[goal]))
