"""Correct: Dijkstra's algorithm with a heap."""

import heapq
import sys
from collections import defaultdict

_, edges, start, goal, *rest = (int(word) for word in sys.stdin.read().split())
ways = defaultdict(list)
for index in range(edges):
    origin, target, length = rest[3 * index : 3 * index + 3]
    ways[origin].append((target, length))

known: dict[int, int] = {}
heap = [(0, start)]
while heap:
    distance, node = heapq.heappop(heap)
    if node in known:
        continue
    known[node] = distance
    for target, length in ways[node]:
        heapq.heappush(heap, (distance + length, target))
print(known.get(goal, -1))
