"""Warm interpreters: Python that has started, and imported, before any program is there to run.

::

    stage     what runs in the interpreter itself; its text goes there by -c
    zygote    what it calls
    leaving   the end of a program
"""
