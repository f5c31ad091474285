"""Wrong in the second test: takes "The" and "the" for two words."""

import sys
from collections import Counter

counted = Counter(sys.stdin.read().split())
for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
    print(word, count)
