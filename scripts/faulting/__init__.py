"""Every step of the way that a sandbox takes is made to fail, and every part of nsbox is killed: what comes of it.

lives     one life of a sandbox
probe.c   the program: what it finds of its isolation
kills     kills at random moments
calls     the system calls of programs in every language
"""
