"""Waits for what never comes, and uses no CPU time for it."""

import threading

threading.Event().wait()
