"""Warm interpreters: Python that has started, and imported, before any program is there to run.

::

    leaving   the end of a program, in front of it
    zygote    what runs in the interpreter itself; its text goes there by -c
"""
