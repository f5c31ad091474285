"""Everything that sandboxes do, mixed at random and four at a time, and what is left of it: nothing.

uses      the things that are done, each with the outcome that it must have
counts    what there is of processes, descriptors, cgroups, mounts, namespaces, files, memory
"""
