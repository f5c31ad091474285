"""The network of sandboxes: a router in a namespace of its own, its rules, its way out, and its resolver.

answering  one query, from its bytes to those of its answer
decisions  what it is answered with
doors      what the launcher opens in it, and in a sandbox
messages   DNS, as it comes from sandboxes and goes to them
names      which names and addresses a sandbox may know
resolver   what sandboxes ask for names
shares     how much of the resolver one of them may have
streams    DNS by TCP
upstream   the servers that the resolver asks
"""
