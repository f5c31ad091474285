"""Wrong in the first test: takes the path of the fewest edges."""

import sys
from collections import defaultdict, deque

_, edges, start, goal, *rest = (int(word) for word in sys.stdin.read().split())
ways = defaultdict(list)
for index in range(edges):
    origin, target, length = rest[3 * index : 3 * index + 3]
    ways[origin].append((target, length))

known = {start: 0}
queue = deque([start])
while queue:
    node = queue.popleft()
    for target, length in ways[node]:
        if target not in known:
            known[target] = known[node] + length
            queue.append(target)
print(known.get(goal, -1))
