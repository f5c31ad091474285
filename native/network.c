/* The router's network namespace, and those of sandboxes. The launcher moves into the router's when that is made, and is at
 * home there from then on: of the host's it needs nothing, and as user it could not come back to it from a sandbox's, for that
 * takes CAP_SYS_ADMIN in the host's user namespace, setns(2). What it clones is in a network of its own, or of a sandbox,
 * before it does anything.
 *
 * Nothing of PID 1's help is needed: a sandbox that is suspended is opened like any other. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>

#include "launcher.h"
#include "sys.h"

enum { CELL_FDS = 2, ROUTER_FDS = 6 };

enum network_step {
	NETWORK_ENTER = 1,      /* 0 is raise_loopback's */
	NETWORK_DESCRIPTOR = 2, /* and the five that follow: in the order in which they are answered */
	NETWORK_SETTING = 8,    /* and those that follow */
};

/* Of a new namespace: devices that are made in it take what is `default`. Nobody else is on them, and no address of theirs
 * is to be waited for, or to be made up from what a sandbox announces. */
static const struct setting FORWARDING[] = {
	{ "sys/net/ipv4/ip_forward", "1" },
	{ "sys/net/ipv6/conf/all/forwarding", "1" },
	{ "sys/net/ipv6/conf/default/accept_dad", "0" },
	{ "sys/net/ipv6/conf/default/accept_ra", "0" },
	/* Seconds for which pieces of a packet wait for the others: there is room for 4 MiB of them, and without room nobody's
	 * are put together. Those of one packet come one after the other. */
	{ "sys/net/ipv4/ipfrag_time", "2" },
	{ "sys/net/netfilter/nf_conntrack_frag6_timeout", "2" },
};

static int set_forwarding(int proc, struct failure *failure)
{
	for (unsigned i = 0; i < sizeof FORWARDING / sizeof *FORWARDING; i++)
		if (write_file_at(proc, FORWARDING[i].path, FORWARDING[i].value) < 0
		    && (i == 0 || errno != ENOENT)) /* a kernel without IPv6, or without the module yet */
			return fail(failure, STAGE_NETWORK, NETWORK_SETTING + (int)i);
	return 0;
}

static int open_one(const struct launcher *launcher, unsigned which)
{
	switch (which) {
	case 0:
		return openat(launcher->proc, "self/ns/net", O_RDONLY | O_CLOEXEC);
	case 1:
		return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	case 2:
		return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	case 3:
		return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	case 4:
		return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	default:
		return openat(launcher->proc, "self/ns/user", O_RDONLY | O_CLOEXEC);
	}
}

static int open_all(const struct launcher *launcher, int *fds, unsigned count, struct failure *failure)
{
	for (unsigned i = 0; i < count; i++) {
		fds[i] = open_one(launcher, i);
		if (fds[i] < 0)
			return fail(failure, STAGE_NETWORK, NETWORK_DESCRIPTOR + (int)i);
	}
	return 0;
}

/* One that fails half-way leaves the launcher in a namespace with nothing in it, and the next one begins anew. */
static int make_router(struct launcher *launcher, struct failure *failure)
{
	if (unshare(CLONE_NEWNET) < 0)
		return fail(failure, STAGE_NETWORK, NETWORK_ENTER);
	if (raise_loopback(failure) < 0 || set_forwarding(launcher->proc, failure) < 0)
		return -1;
	return open_all(launcher, &launcher->router, 1, failure);
}

static int open_in_cell(const struct launcher *launcher, const struct cell *cell, int *fds, struct failure *failure)
{
	errno = ESRCH;
	if (!cell || cell->state != CELL_READY || setns(cell->pidfd, CLONE_NEWNET) < 0)
		return fail(failure, STAGE_NETWORK, NETWORK_ENTER);
	int opened = open_all(launcher, fds, CELL_FDS, failure);
	if (setns(launcher->router, CLONE_NEWNET) < 0)
		give_up_all(); /* where one sandbox is at home nothing can be done for another */
	return opened;
}

void network_open(struct launcher *launcher, uint32_t id)
{
	int fds[ROUTER_FDS] = { -1, -1, -1, -1, -1, -1 };
	struct failure failure;

	if ((launcher->router < 0 && make_router(launcher, &failure) < 0)
	    || (id ? open_in_cell(launcher, cell_find(launcher, id), fds, &failure)
	           : open_all(launcher, fds, ROUTER_FDS, &failure)) < 0)
		tell_failed(launcher, DOWN_NETWORK, id, &failure);
	else
		tell(launcher, &(struct up){ .type = UP_DONE, .of = DOWN_NETWORK, .id = id }, fds, id ? CELL_FDS : ROUTER_FDS);
	for (unsigned i = 0; i < ROUTER_FDS; i++)
		drop_fd(&fds[i]);
}
