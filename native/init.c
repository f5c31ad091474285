/* PID 1 of a sandbox: builds it around itself, then reaps. Everything here runs in a process just cloned. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "filesystem.h"
#include "launcher.h"
#include "sys.h"

/* Where root inside can become anybody, PID 1 is nobody that is known inside: of equal ids one process may set the limits
 * of another, prlimit(2), and RLIMIT_CPU kills even the init of a pid namespace. So it takes its ids, which the map leaves
 * out, while they can still be named: before it is in the user namespace. */
static int become_unmapped(const struct cell *cell, struct failure *failure)
{
	uint32_t id = map_id(&cell->ids, cell->template->init_id);
	uint64_t all;

	if (setgroups(0, NULL) < 0 || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return fail(failure, STAGE_CREDENTIALS, 7);
	if (syscall(SYS_setresgid, id, id, id) < 0 || syscall(SYS_setresuid, id, id, id) < 0)
		return fail(failure, STAGE_CREDENTIALS, 8);
	if (sys_capget(&all) < 0 || sys_capset(all) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return fail(failure, STAGE_CREDENTIALS, 9);
	return 0;
}

static int become_nobody(const struct template *template, struct failure *failure)
{
	if (template->capabilities)
		return drop_capabilities(0, failure);
	return drop_credentials(template->init_id, template->init_id, 0, failure);
}

static int enter_namespaces(const struct template *template, struct failure *failure)
{
	if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
		return fail(failure, STAGE_NAMESPACE, 0);
	if (sethostname(template->hostname, strlen(template->hostname)) < 0)
		return fail(failure, STAGE_NAMESPACE, 2);
	return 0;
}

int raise_loopback(struct failure *failure)
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
	if (setns(predecessor ? predecessor->mounts : template->mounts, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0)
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

/* By it the mounts, and with them the files, outlive this process. */
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
		.ids = birth->cell->ids, .stage = STAGE_MOUNT, .procfs = -1, .empty = -1, .id_namespace = -1, .sysctls = -1,
		.quota = predecessor ? predecessor->quota : -1, .source = predecessor ? predecessor->program_source : -1,
	};

	if (enter_namespaces(template, failure) < 0
	    || raise_loopback(failure) < 0
	    || build_mounts(&builder, birth->cell, failure) < 0
	    || open_own_mounts(birth->launcher, &fds[3], failure) < 0
	    || (template->capabilities && become_unmapped(birth->cell, failure) < 0)
	    || become_user_namespace(birth->control, failure) < 0
	    || limit_user_namespace(template, builder.sysctls, failure) < 0
	    || empty_bounding_set(failure) < 0
	    || become_nobody(template, failure) < 0)
		return -1;
	fds[0] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fds[1] = builder.quota;
	fds[2] = builder.source;
	return fds[0] < 0 ? fail(failure, STAGE_PIVOT, 3) : 0;
}

/* One request. False: the peer has closed it, or says what is none, and the channel is of no use any more. */
static bool answer(int channel)
{
	uint8_t frame[CONTROL_FRAME];
	struct control_request request;
	unsigned none;
	ssize_t length = receive_packet(channel, frame, sizeof frame, NULL, 0, &none);

	if (length < 0)
		return errno == EAGAIN || errno == EINTR;
	if (!control_parse(frame, (size_t)length, &request))
		return false;
	AUTO_CLOSE int made = -1;
	int error = 0;
	if (request.op == CONTROL_SOCKET) {
		/* neither raw nor packet sockets: it has no capability, and the request knows only streams and datagrams */
		made = socket((int)request.family, (int)request.type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		error = made < 0 ? errno : 0;
	}
	size_t size = control_answer(frame, &request, error);
	/* who does not read gets no answer; who is gone is noticed by the next poll */
	(void)send_packet(channel, frame, size, &made, made >= 0);
	return true;
}

/* The launcher has something to say: a new channel, or by its end that all is over. */
static void hear_launcher(int control, int *channel)
{
	struct child_message message;
	int passed = -1;
	unsigned count;
	ssize_t length = receive_packet(control, &message, sizeof message, &passed, 1, &count);

	if (length == 0)
		_exit(0);
	if (length == sizeof message && message.word == CHILD_CHANNEL && passed >= 0) {
		drop_fd(channel);
		*channel = take_fd(&passed);
	}
	drop_fd(&passed);
}

/* So many at a time that programs which only start and end others cannot keep the channel from being answered. */
static bool reap_some(void)
{
	for (int i = 0; i < 256; i++)
		if (waitpid(-1, NULL, WNOHANG) <= 0)
			return false;
	return true;
}

static _Noreturn void reap_for_ever(int control, int channel)
{
	struct pollfd waits[2] = { { .fd = control, .events = POLLIN }, { .events = POLLIN } };
	const struct timespec at_once = { 0 };
	sigset_t none;

	(void)sigemptyset(&none);
	for (;;) {
		bool more = reap_some();
		waits[1].fd = channel; /* poll(2) leaves a negative one out */
		/* SIGCHLD is blocked but here; what is readable is told before a signal that is pending */
		if (ppoll(waits, 2, more ? &at_once : NULL, &none) <= 0)
			continue;
		if (waits[1].revents && (!(waits[1].revents & POLLIN) || !answer(channel)))
			drop_fd(&channel);
		if (waits[0].revents & POLLIN)
			hear_launcher(control, &channel);
		else if (waits[0].revents & (POLLHUP | POLLERR))
			_exit(0); /* the launcher's end closed means that it is over */
	}
}

static void on_child(int signal)
{
	(void)signal; /* only to interrupt ppoll(2) */
}

/* In version 2 it lives below the sandbox's memory limit: the kernel is to choose a program there, which has 500, and
 * never this one. Without CAP_SYS_RESOURCE no more can be done than to take back what the application has raised. */
static void spare_from_oom(int proc)
{
	char text[16];

	if (write_file_at(proc, "self/oom_score_adj", "-1000") < 0
	    && read_file_at(proc, "self/oom_score_adj", text, sizeof text) > 0 && atoi(text) > 0)
		(void)write_file_at(proc, "self/oom_score_adj", "0");
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
	spare_from_oom(birth->launcher->proc);
	if (build_sandbox(birth, fds, &message.failure) < 0) {
		message.word = CHILD_FAILED;
		(void)send_packet(birth->control, &message, sizeof message, NULL, 0); /* no one there: nothing to tell */
		_exit(1);
	}
	/* one descriptor each, quota and source always: a template without them is malformed */
	if (send_packet(birth->control, &message, sizeof message, fds, 4) < 0)
		_exit(1);
	int channel = fcntl(birth->channel, F_DUPFD, 5);
	if (channel < 0 || dup2(birth->control, 3) < 0 || dup2(channel, 4) < 0)
		_exit(1);
	(void)sys_close_range(5, ~0u, 0);
	reap_for_ever(3, 4);
}
