/* Network namespaces that the launcher is not in: the router, which is one for all its sandboxes, and each of theirs. What
 * is needed of them is opened by a child that goes there, sends it, and ends. So the launcher is never in another namespace
 * than its own, to which as user it could not come back: that is the host's, which takes CAP_SYS_ADMIN there, setns(2).
 *
 * Nothing of PID 1's help is needed: a sandbox that is suspended is opened like any other. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "launcher.h"
#include "sys.h"

enum { CELL_FDS = 2, ROUTER_FDS = 6, VISIT_STACK = 64 * 1024 };

enum visit_step {
	VISIT_CHILD = 1, /* 0 is raise_loopback's */
	VISIT_ENTER = 2,
	VISIT_DESCRIPTOR = 3, /* and the five that follow: in the order in which they are answered */
	VISIT_SETTING = 9,    /* and those that follow */
	VISIT_ANSWER = 13,
};

struct visit {
	const struct launcher *launcher;
	int where; /* a descriptor that setns(2) takes; -1: a network namespace of its own */
	unsigned wanted;
	int answer; /* socket for the descriptors */
	struct failure failure;
};

/* Of a new namespace: devices that are made in it take what is `default`. Nobody else is on them, and no address of theirs
 * is to be waited for, or to be made up from what a sandbox announces. */
static const struct setting FORWARDING[] = {
	{ "sys/net/ipv4/ip_forward", "1" },
	{ "sys/net/ipv6/conf/all/forwarding", "1" },
	{ "sys/net/ipv6/conf/default/accept_dad", "0" },
	{ "sys/net/ipv6/conf/default/accept_ra", "0" },
};

/* child */
static int set_forwarding(int proc, struct failure *failure)
{
	for (unsigned i = 0; i < sizeof FORWARDING / sizeof *FORWARDING; i++)
		if (write_file_at(proc, FORWARDING[i].path, FORWARDING[i].value) < 0
		    && (i == 0 || errno != ENOENT)) /* a kernel without IPv6 */
			return fail(failure, STAGE_NETWORK, VISIT_SETTING + (int)i);
	return 0;
}

/* child */
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

/* child; nothing is closed on the way: it ends */
static int go_and_open(struct visit *visit)
{
	const struct launcher *launcher = visit->launcher;
	bool is_new = visit->where < 0;
	int fds[ROUTER_FDS];

	if ((is_new ? unshare(CLONE_NEWNET) : setns(visit->where, CLONE_NEWNET)) < 0)
		return fail(&visit->failure, STAGE_NETWORK, VISIT_ENTER);
	if (is_new && (raise_loopback(&visit->failure) < 0 || set_forwarding(launcher->proc, &visit->failure) < 0))
		return -1;
	for (unsigned i = 0; i < visit->wanted; i++) {
		fds[i] = open_one(launcher, i);
		if (fds[i] < 0)
			return fail(&visit->failure, STAGE_NETWORK, VISIT_DESCRIPTOR + (int)i);
	}
	if (send_packet(visit->answer, "", 1, fds, visit->wanted) < 0)
		return fail(&visit->failure, STAGE_NETWORK, VISIT_ANSWER);
	return 0;
}

/* child; what it returns is its exit status, which nobody asks for */
static int be_visitor(void *argument)
{
	struct visit *visit = argument;

	return go_and_open(visit) < 0;
}

/* As by vfork(2): the memory is shared, which need not be copied then, and the launcher goes on when the child has ended. The
 * descriptors are not, so that one that is killed leaves none behind. Without a signal for its end it is no child to wait4(2)
 * as the loop calls it, wait(2) __WALL. */
static int visit_by_child(struct visit *visit, int *fds)
{
	char stack[VISIT_STACK] __attribute__((aligned(16)));
	int pair[2];
	char byte;
	unsigned count = 0;

	if (cell_make_channel(pair) < 0)
		return fail(&visit->failure, STAGE_NETWORK, VISIT_CHILD);
	AUTO_CLOSE int ours = pair[0];
	AUTO_CLOSE int theirs = pair[1];
	visit->answer = theirs;
	visit->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD }; /* it was killed, unless it says otherwise */
	pid_t pid = clone(be_visitor, stack + sizeof stack, CLONE_VM | CLONE_VFORK, visit);
	if (pid < 0)
		return fail(&visit->failure, STAGE_NETWORK, VISIT_CHILD);
	(void)waitpid(pid, NULL, __WALL); /* it has ended: this takes no time, and cannot be interrupted */
	if (receive_packet(ours, &byte, sizeof byte, fds, visit->wanted, &count) < 0 && errno != EAGAIN) /* nothing was sent */
		return fail(&visit->failure, STAGE_NETWORK, VISIT_ANSWER);
	return count == visit->wanted ? 0 : -1;
}

void network_open(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = id ? cell_find(launcher, id) : NULL;
	struct visit visit = {
		.launcher = launcher, .where = cell ? cell->pidfd : launcher->router, .wanted = cell ? CELL_FDS : ROUTER_FDS,
	};
	int fds[ROUTER_FDS] = { -1, -1, -1, -1, -1, -1 };

	errno = ESRCH;
	if ((id && (!cell || cell->state != CELL_READY) && fail(&visit.failure, STAGE_NETWORK, VISIT_ENTER) < 0)
	    || visit_by_child(&visit, fds) < 0) {
		tell_failed(launcher, DOWN_NETWORK, id, &visit.failure);
	} else {
		tell(launcher, &(struct up){ .type = UP_DONE, .of = DOWN_NETWORK, .id = id }, fds, visit.wanted);
		if (!id && launcher->router < 0)
			launcher->router = take_fd(&fds[0]);
	}
	for (unsigned i = 0; i < ROUTER_FDS; i++)
		drop_fd(&fds[i]);
}
