"""Carrying plans out: the launcher's process, the socket to it, and what goes on around one execution.

wire         the layout of messages, as native/wire.h has it
start        starting the launcher, with its cgroups and ids
channel      requests and answers over its socket
supervisor   one per trio run: templates, sandboxes
directory    where the sockets of supervisors are
registry     what a supervisor tells other processes of its sandboxes
census       asking all supervisors for theirs
garbage      what dead applications left
cell         a living sandbox, as the supervisor holds it
image        the disk image of a sandbox that is not in memory
pump         stdin, stdout and stderr, with their limits
sampling     limits where there are no cgroups to hold them
execution    one execution, from its pipes to the observation
portal       the supervisor in a thread of its own, for callers that are not in a trio run
"""
