/* PID 1 of a sandbox: builds it around itself, then reaps. Everything here runs in a process just cloned. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "launcher.h"
#include "sys.h"

int empty_bounding_set(struct failure *failure)
{
	int capability = 0;

	while (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
		capability++;
	/* EINVAL: the first that this kernel does not know, and there is none that is known behind it */
	return errno == EINVAL && capability > 0 ? 0 : fail(failure, STAGE_CREDENTIALS, 5);
}

int drop_credentials(uint32_t uid, uint32_t gid, struct failure *failure)
{
	/* EPERM where setgroups is denied for good: a launcher without root and without a range of ids of its own */
	if (setgroups(0, NULL) < 0 && errno != EPERM)
		return fail(failure, STAGE_CREDENTIALS, 0);
	if (syscall(SYS_setresgid, gid, gid, gid) < 0)
		return fail(failure, STAGE_CREDENTIALS, 1);
	if (syscall(SYS_setresuid, uid, uid, uid) < 0)
		return fail(failure, STAGE_CREDENTIALS, 2);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || sys_capset_none() < 0)
		return fail(failure, STAGE_CREDENTIALS, 3);
	return 0;
}

static int enter_namespaces(const struct template *template, struct failure *failure)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
		return fail(failure, STAGE_NAMESPACE, 0);
	if (sethostname(template->hostname, strlen(template->hostname)) < 0)
		return fail(failure, STAGE_NAMESPACE, 2);
	return 0;
}

static int raise_loopback(struct failure *failure)
{
	AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return fail(failure, STAGE_NETWORK, 0);
	return 0;
}

/* Until here this process is in the launcher's own mounts, which it only looks at. In a copy of the template's, or of a
 * predecessor's, setns(2) and unshare(2) make the root of those its own: nothing outside of them is to be reached. */
static int build_mounts(struct builder *builder, const struct cell *cell, struct failure *failure)
{
	const struct template *template = cell->template;
	const struct cell *predecessor = cell->predecessor;

	builder->procfs = new_procfs();
	if (builder->procfs < 0)
		return fail(failure, STAGE_PIVOT, 2);
	if (setns(predecessor ? predecessor->pidfd : template->mounts, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0)
		return fail(failure, STAGE_NAMESPACE, 4);
	if (predecessor && (umount2("/proc", MNT_DETACH) < 0 || umount2("/dev/pts", MNT_DETACH) < 0))
		return fail(failure, STAGE_PIVOT, 4);
	builder->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (builder->root < 0)
		return fail(failure, STAGE_PIVOT, 0);
	builder->only_of_processes = predecessor != NULL;
	return apply_ops(builder, template->cell_ops, template->cell_op_count, failure);
}

static int become_user_namespace(int control, struct failure *failure)
{
	struct child_message message = { .word = CHILD_MAP_ME };
	unsigned none;

	/* After the mounts: they belong to the launcher's user namespace, so that nobody in here can change them. */
	if (unshare(CLONE_NEWUSER) < 0)
		return fail(failure, STAGE_NAMESPACE, 3);
	if (send_packet(control, &message, sizeof message, NULL, 0) < 0
	    || receive_packet(control, &message, sizeof message, NULL, 0, &none) != sizeof message)
		return fail(failure, STAGE_ID_MAP, 2);
	return 0;
}

/* user_namespaces(7), /proc/sys/user: per user namespace, writable with CAP_SYS_RESOURCE in it. */
static int limit_user_namespace(const struct template *template, int sysctls, struct failure *failure)
{
	for (uint32_t i = 0; i < template->user_sysctl_count; i++)
		if (write_file_at(sysctls, template->user_sysctls[i].path, template->user_sysctls[i].value) < 0)
			return fail(failure, STAGE_SYSCTL, (int)i);
	return 0;
}

/* By it the mounts outlive this process. */
static int open_own_mounts(const struct launcher *launcher, int *mounts, struct failure *failure)
{
	*mounts = openat(launcher->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
	return *mounts < 0 ? fail(failure, STAGE_NAMESPACE, 5) : 0;
}

static int build_sandbox(const struct birth *birth, int fds[4], struct failure *failure)
{
	const struct template *template = birth->cell->template;
	const struct cell *predecessor = birth->cell->predecessor;
	struct builder builder = {
		.proc = birth->launcher->proc, .host_mounts = birth->launcher->host_mounts, .devices = template->devices,
		.ids = birth->cell->ids, .stage = STAGE_MOUNT, .procfs = -1, .empty = -1, .sysctls = -1,
		.quota = predecessor ? predecessor->quota : -1, .source = predecessor ? predecessor->program_source : -1,
	};

	if (enter_namespaces(template, failure) < 0
	    || raise_loopback(failure) < 0
	    || build_mounts(&builder, birth->cell, failure) < 0
	    || open_own_mounts(birth->launcher, &fds[3], failure) < 0
	    || become_user_namespace(birth->control, failure) < 0
	    || limit_user_namespace(template, builder.sysctls, failure) < 0
	    || empty_bounding_set(failure) < 0
	    || drop_credentials(template->init_id, template->init_id, failure) < 0)
		return -1;
	fds[0] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fds[1] = builder.quota;
	fds[2] = builder.source;
	return fds[0] < 0 ? fail(failure, STAGE_PIVOT, 3) : 0;
}

static _Noreturn void reap_for_ever(int control)
{
	struct pollfd waits[2] = { { .fd = control, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	sigset_t none;

	(void)sigemptyset(&none);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		/* SIGCHLD is blocked but here; the launcher's end closed means that it is over */
		if (ppoll(waits, 1, NULL, &none) > 0 && (waits[0].revents & (POLLHUP | POLLERR)))
			_exit(0);
	}
}

static void on_child(int signal)
{
	(void)signal; /* only to interrupt ppoll(2) */
}

_Noreturn void be_init(const struct birth *birth)
{
	struct child_message message = { .word = CHILD_READY };
	struct sigaction action = { .sa_handler = on_child, .sa_flags = SA_NOCLDSTOP };
	int fds[4] = { -1, -1, -1, -1 };

	/* A group, for no signal to the launcher's. Not a session: the launcher's has no terminal and no way to one, and each
	 * further one is a scheduling group, sched(7), which took 20 us. A child just cloned leads no session: cannot fail. */
	(void)setpgid(0, 0);
	(void)sigaction(SIGCHLD, &action, NULL);
	if (build_sandbox(birth, fds, &message.failure) < 0) {
		message.word = CHILD_FAILED;
		(void)send_packet(birth->control, &message, sizeof message, NULL, 0); /* no one there: nothing to tell */
		_exit(1);
	}
	/* one descriptor each, quota and source always: a template without them is malformed */
	if (send_packet(birth->control, &message, sizeof message, fds, 4) < 0)
		_exit(1);
	if (dup2(birth->control, 3) < 0)
		_exit(1);
	(void)sys_close_range(4, ~0u, 0);
	reap_for_ever(3);
}
