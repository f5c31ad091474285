"""The network of sandboxes: a router in a namespace of its own, its rules, its way out, and its resolver.

addresses    which addresses sandboxes have
admitted     which addresses they know by name
answering    one query, from its bytes to those of its answer
connections  what the kernel knows of their connections
decisions    what it is answered with
doors        what the launcher opens in it, and in a sandbox
foundation   which rules there are before it has sandboxes
ground       what a router has before it has sandboxes
leftovers    what the host still knows of sandboxes that are gone
messages     interfaces, addresses, routes and queues, for the kernel
names        which names and addresses a sandbox may know
netlink      how the kernel is asked
nftables     rules, for the kernel
packets      parts of rules
pasta        the way out without root
policy       what a sandbox may reach
ports        what connects one sandbox
queries      DNS messages, as they come from sandboxes and go to them
resolver     what sandboxes ask for names
router       all of it together
rules        which rules there are
shared       what sandboxes share in them
shares       how much of the resolver one of them may have
streams      DNS by TCP
uplink       the way out as root
upstream     the servers that the resolver asks
wiring       what is done in the kernel for one of them
"""
