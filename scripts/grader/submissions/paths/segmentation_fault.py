"""Crashes: reads memory at address 0."""

import ctypes

print(ctypes.string_at(0))
