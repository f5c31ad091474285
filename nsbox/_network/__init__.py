"""The network of sandboxes: a router in a namespace of its own, its rules, its way out, and its resolver.

doors      what the launcher opens in it, and in a sandbox
"""
