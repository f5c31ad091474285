"""Uses up its CPU time in four processes at once, none of which would reach the limit for a while by itself."""

import os

for _ in range(3):
    if os.fork() == 0:
        break
while True:
    pass
