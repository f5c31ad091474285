"""Never ends: the counter is not changed in the loop."""

import sys

numbers = [int(word) for word in sys.stdin.read().split()]
total = index = 0
while index < len(numbers):
    total += numbers[0]
print(total)
