"""Wrong in the third test: calculates with floating point, which cannot hold so many digits."""

import sys

print(int(sum(float(word) for word in sys.stdin.read().split())))
