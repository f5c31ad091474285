"""Wrong from the second test on: takes negative numbers for positive ones."""

import sys

print(sum(abs(int(word)) for word in sys.stdin.read().split()))
