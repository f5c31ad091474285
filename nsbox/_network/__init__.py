"""The network of sandboxes: a router in a namespace of its own, its rules, its way out, and its resolver.

answering  one query, from its bytes to those of its answer
decisions  what it is answered with
doors      what the launcher opens in it, and in a sandbox
names      which names and addresses a sandbox may know
queries    DNS messages, as they come from sandboxes and go to them
resolver   what sandboxes ask for names
shares     how much of the resolver one of them may have
streams    DNS by TCP
upstream   the servers that the resolver asks
"""
