"""An uncaught exception in the last test: takes for granted that there is a first number."""

import sys

numbers = [int(word) for word in sys.stdin.read().split()]
total = numbers[0]
for number in numbers[1:]:
    total += number
print(total)
