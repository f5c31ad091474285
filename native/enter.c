/* The way of a process from its clone to the program's first instruction. Nothing is allocated here, and whatever fails
 * is told to the launcher in one message: the program runs with everything, or not at all. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "credentials.h"
#include "enter.h"
#include "packet.h"
#include "sys.h"

enum { CONTROL = 3, OWN_FD_MAX = 4 };

struct order {
	struct reader rest;     /* behind what the launcher has read */
	uint32_t uid, gid;
	int stdio[3];
	bool terminal;
	bool warm;
};

static _Noreturn void give_up(const struct failure *failure)
{
	struct child_message message = { .word = CHILD_FAILED, .failure = *failure };
	(void)send_packet(CONTROL, &message, sizeof message, NULL, 0); /* no launcher, no one to tell */
	_exit(127);
}

static int join_cgroups(const int *joins, struct failure *failure)
{
	for (int i = 0; i < MAX_HIERARCHIES; i++)
		if (joins[i] >= 0 && write(joins[i], "0", 1) != 1)
			return fail(failure, STAGE_JOIN_CGROUP, i);
	return 0;
}

static int join_cell(const struct entrance *entrance, struct failure *failure)
{
	int pidfd = entrance->cell;

	if (join_cgroups(entrance->joins, failure) < 0)
		return -1;
	/* Where the host itself runs out of memory, it should take programs first. Raising needs no privilege, proc(5). */
	if (write_file_at(entrance->proc, "self/oom_score_adj", "500") < 0)
		return fail(failure, STAGE_NAMESPACE, 0);
	if (setns(pidfd, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return fail(failure, STAGE_NAMESPACE, 1);
	if (unshare(CLONE_NEWCGROUP) < 0)
		return fail(failure, STAGE_NAMESPACE, 2);
	/* before the user namespace: in that one no more namespaces can be made */
	if (entrance->own_init && unshare(CLONE_NEWPID) < 0)
		return fail(failure, STAGE_NAMESPACE, 5);
	if (setns(pidfd, CLONE_NEWUSER) < 0)
		return fail(failure, STAGE_NAMESPACE, 3);
	return reduce_bounding_set(entrance->capabilities, failure);
}

/* Leaves 0, 1, 2 (the null device) and CONTROL open. */
static int keep_control(int control, struct failure *failure)
{
	if (control != CONTROL && dup3(control, CONTROL, O_CLOEXEC) < 0)
		return fail(failure, STAGE_STDIO, 0);
	if (sys_close_range(CONTROL + 1, ~0u, 0) < 0)
		return fail(failure, STAGE_STDIO, 1);
	return 0;
}

/* A domain of its own, landlock(7): other executions of the sandbox can neither signal it nor see anything of it in
 * /proc, its environment above all (ptrace(2), access mode checks). Kernels before 6.12 have no domain that takes no
 * other right away: there nothing is separated, which the supervisor finds out by itself and reports. */
static int separate_from_others(struct failure *failure)
{
	struct { uint64_t fs, net, scoped; } rules = { .scoped = 1u << 1 /* LANDLOCK_SCOPE_SIGNAL */ };
	AUTO_CLOSE int domain = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);

	if (domain < 0)
		return 0;
	return syscall(SYS_landlock_restrict_self, domain, 0) < 0 ? fail(failure, STAGE_CREDENTIALS, 6) : 0;
}

static int load_filter(const struct entrance *entrance, struct failure *failure)
{
	struct child_message message = { .word = CHILD_LISTENER };

	if (!entrance->filter.len) {
		errno = EINVAL; /* no filter is not a filter that allows everything */
		return fail(failure, STAGE_FILTER, 2);
	}
	unsigned flags = entrance->filter_notifies ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
	int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &entrance->filter);
	if (listener < 0)
		return fail(failure, STAGE_FILTER, 0);
	if (entrance->filter_notifies
	    && (send_packet(CONTROL, &message, sizeof message, &listener, 1) < 0 || close(listener) < 0))
		return fail(failure, STAGE_FILTER, 1);
	return 0;
}

static void read_launchers_part(struct order *order)
{
	struct reader *reader = &order->rest;

	for (int i = 0; i < 3; i++)
		(void)read_u64(reader); /* deadlines */
	order->uid = read_u32(reader);
	order->gid = read_u32(reader);
	uint32_t writes = read_count(reader, 14);
	for (uint32_t i = 0; i < writes; i++) {
		(void)read_u32(reader);
		(void)read_string(reader);
		(void)read_string(reader);
	}
}

/* Parked: waits for what to run. The launcher's end of file means that it will not come. */
static int receive_order(struct order *order, struct failure *failure)
{
	static char packet[sizeof(struct down) + INLINE_PAYLOAD];
	struct down down;
	int fds[OWN_FD_MAX];
	unsigned fd_count;
	ssize_t length = receive_packet(CONTROL, packet, sizeof packet, fds, OWN_FD_MAX, &fd_count);

	if (length == 0)
		_exit(0);
	if (length < (ssize_t)sizeof down || fd_count < 3)
		return fail(failure, STAGE_PROTOCOL, 2);
	memcpy(&down, packet, sizeof down);
	memcpy(order->stdio, fds, sizeof order->stdio);
	order->terminal = down.flags & EXEC_TERMINAL;
	order->warm = down.flags & EXEC_WARM;
	const char *bytes = packet + sizeof down;
	if (fd_count == 4) {
		bytes = mmap(NULL, down.payload_size, PROT_READ, MAP_PRIVATE, fds[3], 0);
		if (bytes == MAP_FAILED)
			return fail(failure, STAGE_PROTOCOL, 3);
	}
	order->rest = (struct reader){ .at = bytes, .end = bytes + down.payload_size };
	read_launchers_part(order);
	return order->rest.bad ? fail(failure, STAGE_PROTOCOL, 4) : 0;
}

/* The parent is left with CONTROL and, as its descriptor 0, with `kept`. */
static long fork_here(int kept, struct failure *failure)
{
	long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid < 0) {
		(void)fail(failure, STAGE_CLONE, 4);
		give_up(failure);
	}
	if (pid > 0) {
		(void)sys_close_range(0, 2, 0); /* the pipes of the program, which only it may hold open */
		if (kept >= 0)
			(void)dup2(kept, 0); /* both are there: cannot fail */
		(void)sys_close_range(CONTROL + 1, ~0u, 0);
	}
	return pid;
}

/* Reaps until the program has ended, and says how; the kernel then kills what is left in the pid namespace. */
static _Noreturn void be_init_of(pid_t program)
{
	struct child_message message = { .word = CHILD_RUNS };
	char none;

	while (read(0, &none, 1) < 0 && errno == EINTR)
		; /* nothing is ever written: end of file is its exec, or its end */
	(void)send_packet(CONTROL, &message, sizeof message, NULL, 0); /* no launcher, no one to tell */
	message.word = CHILD_EXITED;
	for (;;) {
		pid_t ended = wait4(-1, &message.wait_status, 0, &message.usage);
		if (ended == program) {
			(void)send_packet(CONTROL, &message, sizeof message, NULL, 0);
			_exit(0);
		}
		if (ended < 0 && errno != EINTR)
			_exit(1);
	}
}

/* The launcher kills init, not this process: the kernel lets init end only when everything in its namespace is dead
 * (pid_namespaces(7)), so this process' end says that all of it is. */
static _Noreturn void wait_for_init(pid_t init)
{
	struct child_message message = { .word = CHILD_INIT };
	int status = 0, pidfd = (int)syscall(SYS_pidfd_open, init, 0);

	if (pidfd < 0 || send_packet(CONTROL, &message, sizeof message, &pidfd, 1) < 0)
		_exit(1); /* init dies with this process */
	while (waitpid(init, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		(void)kill(getpid(), SIGKILL); /* killed, as it was; else it has told itself how the program ended */
	_exit(0);
}

/* Without a cgroup to kill by, a pid namespace does it, made by join_cell: the first process that is born into it is its
 * init, and takes all with it. This process, whom the launcher knows, waits outside of it, and init dies with this one. */
static void fork_into_own_namespace(struct failure *failure)
{
	AUTO_CLOSE int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (self < 0) {
		(void)fail(failure, STAGE_CLONE, 5);
		give_up(failure);
	}
	long init = fork_here(-1, failure);
	if (init > 0)
		wait_for_init((pid_t)init);
	struct pollfd parent = { .fd = self, .events = POLLIN };
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || poll(&parent, 1, 0) != 0)
		_exit(1); /* the parent was killed before it could be tied to it */
	int until_exec[2];
	if (pipe2(until_exec, O_CLOEXEC) < 0) {
		(void)fail(failure, STAGE_CLONE, 6);
		give_up(failure);
	}
	long program = fork_here(until_exec[0], failure);
	if (program > 0)
		be_init_of((pid_t)program);
}

static int take_stdio(const int *stdio, struct failure *failure)
{
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			return fail(failure, STAGE_STDIO, 2 + i);
	return 0;
}

/* A session of its own has no controlling terminal. A child just cloned leads no group, and can make one. */
static int leave_terminal(struct failure *failure)
{
	return setsid() < 0 ? fail(failure, STAGE_STDIO, 8) : 0;
}

static int take_terminal(struct failure *failure)
{
	(void)setsid(); /* leads a session already, unless it is the child of an init of its own */
	return ioctl(0, TIOCSCTTY, 0) < 0 ? fail(failure, STAGE_STDIO, 7) : 0;
}

static int set_rlimits(struct reader *reader, struct failure *failure)
{
	uint32_t count = read_count(reader, 20);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t resource = read_u32(reader);
		struct rlimit limit = { .rlim_cur = read_u64(reader) };
		limit.rlim_max = read_u64(reader);
		if (setrlimit((int)resource, &limit) < 0)
			return fail(failure, STAGE_RLIMIT, (int)resource);
	}
	return 0;
}

/* `count` strings as execve(2) wants them, NULL at the end; the array is a mapping, and goes with the exec. */
static char **read_strings(struct reader *reader)
{
	uint32_t count = read_count(reader, 5);
	char **strings = mmap(NULL, ((size_t)count + 1) * sizeof *strings, PROT_READ | PROT_WRITE,
	                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (strings == MAP_FAILED) {
		reader->bad = true;
		return NULL;
	}
	for (uint32_t i = 0; i < count; i++)
		strings[i] = (char *)(uintptr_t)read_string(reader);
	return strings;
}

/* Everything but the exec. */
static int prepare_program(const struct entrance *entrance, struct order *order, bool filtered, struct program *program,
                           struct failure *failure)
{
	struct reader *reader = &order->rest;
	sigset_t none;

	(void)sigemptyset(&none);
	(void)umask(022);
	if (take_stdio(order->stdio, failure) < 0 || (order->terminal && take_terminal(failure) < 0)
	    || set_rlimits(reader, failure) < 0)
		return -1;
	uint64_t capabilities = read_u64(reader);
	const char *directory = read_string(reader);
	program->search = read_string(reader);
	program->argv = read_strings(reader);
	program->envp = read_strings(reader);
	if (reader->bad || !program->argv[0] || (capabilities & ~entrance->capabilities)) {
		errno = EPROTO;
		return fail(failure, STAGE_PROTOCOL, 5);
	}
	if (capabilities != entrance->capabilities && reduce_bounding_set(capabilities, failure) < 0)
		return -1;
	if (drop_credentials(order->uid, order->gid, capabilities, failure) < 0)
		return -1;
	if (chdir(directory) < 0)
		return fail(failure, STAGE_DIRECTORY, 0);
	if (sys_close_range(CONTROL, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		return fail(failure, STAGE_STDIO, 5);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		return fail(failure, STAGE_CREDENTIALS, 4);
	if (!filtered && load_filter(entrance, failure) < 0)
		return -1;
	/* the filter is in force: only exec and the report of its failure from here on */
	struct child_message message = { .word = CHILD_EXECS };
	return send_packet(CONTROL, &message, sizeof message, NULL, 0) < 0 ? fail(failure, STAGE_EXEC, 1) : 0;
}

void enter_sandbox(const struct entrance *entrance, struct program *program)
{
	struct order order = { .stdio = { -1, -1, -1 } };
	struct failure failure = { 0 };
	bool early = entrance->filter_early && !entrance->own_init;

	int joined = join_cell(entrance, &failure);
	if (keep_control(entrance->control, &failure) < 0)
		_exit(127);
	if (joined < 0 || leave_terminal(&failure) < 0 || separate_from_others(&failure) < 0
	    || (early && load_filter(entrance, &failure) < 0) || receive_order(&order, &failure) < 0)
		give_up(&failure);
	if (entrance->own_init)
		fork_into_own_namespace(&failure);
	program->warm = order.warm;
	if (prepare_program(entrance, &order, early, program, &failure) < 0)
		give_up(&failure);
}

/* execvp(3)'s search, in the sandbox's own PATH, and without its detour through a shell. */
static int execute(const struct program *program, struct failure *failure)
{
	char **argv = program->argv, **envp = program->envp;
	const char *name = argv[0];
	char path[4096];
	bool denied = false;

	if (strchr(name, '/')) {
		(void)execve(name, argv, envp);
		return fail(failure, STAGE_EXEC, 0);
	}
	errno = ENOENT;
	for (const char *at = program->search; *name && *at;) {
		size_t length = strcspn(at, ":");
		if (length && length + strlen(name) + 2 <= sizeof path) {
			memcpy(path, at, length);
			path[length] = '/';
			strcpy(path + length + 1, name);
			(void)execve(path, argv, envp);
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				return fail(failure, STAGE_EXEC, 0);
			denied |= errno == EACCES;
		}
		at += length + (at[length] == ':');
	}
	errno = denied ? EACCES : ENOENT;
	return fail(failure, STAGE_EXEC, 0);
}

_Noreturn void exec_program(const struct program *program)
{
	struct failure failure;

	(void)execute(program, &failure);
	give_up(&failure);
}
