/* A library for an interpreter that runs before any program does, and forks children which become executions without an
 * exec. What a child does on its way into the sandbox is the launcher's own code, enter.c; here is what the interpreter
 * itself needs for it. It is loaded by nsbox/_warm/zygote.py, which says in which order these are called. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../enter.h"
#include "../packet.h"
#include "../sys.h"
#include "../warm.h"

#define EXPORT __attribute__((visibility("default")))

int nsbox_setup(int socket);
int nsbox_ready(void);
int nsbox_receive(void);
int nsbox_clone(void);
int nsbox_parent(int pid, int error);
int nsbox_enter(void);
char **nsbox_arguments(void);
char **nsbox_environment(void);
int nsbox_has_own_init(void);

static struct {
	int socket;
	int pid_namespace;
	int proc;
	struct warm_setup setup;
	struct sock_filter *filter;
	struct warm_request request;
	int fds[MAX_FDS];
	unsigned fd_count;
	int child; /* pidfd */
	struct program program;
} state = { .socket = -1, .pid_namespace = -1, .proc = -1, .child = -1 };

static void drop_request(void)
{
	for (unsigned i = 0; i < state.fd_count; i++)
		drop_fd(&state.fds[i]);
	state.fd_count = 0;
	drop_fd(&state.child);
}

/* The first message. 0, or -1: the launcher talks nonsense, or is gone. */
EXPORT int nsbox_setup(int socket)
{
	static char packet[sizeof(struct warm_setup) + BPF_MAXINSNS * sizeof(struct sock_filter)];
	int fds[2];
	unsigned fd_count;

	/* nothing of a process that is not a program's yet is anybody else's to see, proc(5) */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -1;
	state.socket = socket;
	ssize_t length = receive_packet(socket, packet, sizeof packet, fds, 2, &fd_count);
	if (length < (ssize_t)sizeof state.setup || fd_count != 2)
		return -1;
	state.pid_namespace = fds[0];
	state.proc = fds[1];
	memcpy(&state.setup, packet, sizeof state.setup);
	size_t size = state.setup.instructions * sizeof(struct sock_filter);
	if ((size_t)length != sizeof state.setup + size)
		return -1;
	state.filter = malloc(size + 1);
	if (!state.filter)
		return -1;
	memcpy(state.filter, packet + sizeof state.setup, size);
	return 0;
}

EXPORT int nsbox_ready(void)
{
	struct warm_answer answer = { .word = WARM_READY };
	return send_packet(state.socket, &answer, sizeof answer, NULL, 0);
}

/* Waits for the next request. -1: there will be none. */
EXPORT int nsbox_receive(void)
{
	drop_request();
	ssize_t length = receive_packet(state.socket, &state.request, sizeof state.request, state.fds, MAX_FDS, &state.fd_count);
	return length == (ssize_t)sizeof state.request && state.fd_count >= 2 ? 0 : -1;
}

/* fork(2), but that the child is the launcher's, and in the cell's pid namespace and cgroup. What glibc's fork does beyond
 * that is, with one thread, the thread id that it keeps: the kernel writes it to where it clears it, set_tid_address(2). */
EXPORT int nsbox_clone(void)
{
	int *tid = NULL;
	struct clone_args args = { .flags = CLONE_PARENT | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&state.child };

	if (prctl(PR_GET_TID_ADDRESS, &tid, 0, 0, 0) == 0 && tid) {
		args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
		args.child_tid = (uint64_t)(uintptr_t)tid;
	}
	if (state.request.has_cgroup && state.fd_count > 2) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)state.fds[2];
	}
	if (setns(state.fds[0], CLONE_NEWPID) < 0)
		return -errno;
	pid_t pid = sys_clone3(&args);
	if (pid == 0)
		return 0;
	int error = errno;
	if (setns(state.pid_namespace, CLONE_NEWPID) < 0)
		give_up_all(); /* the next one would be born in this sandbox */
	return pid < 0 ? -error : pid;
}

/* In the parent, after nsbox_clone. */
EXPORT int nsbox_parent(int pid, int error)
{
	struct warm_answer answer = {
		.word = pid > 0 ? WARM_BORN : WARM_FAILED, .number = state.request.number, .pid = pid, .error = error,
	};
	return send_packet(state.socket, &answer, sizeof answer, &state.child, pid > 0 ? 1 : 0);
}

EXPORT int nsbox_has_own_init(void)
{
	return (int)state.setup.own_init;
}

/* In the child: waits in the sandbox for what to run. Returns in the process that is to run it, which is another one where
 * nsbox_has_own_init; it has nothing open then but its stdin, stdout and stderr. */
EXPORT int nsbox_enter(void)
{
	struct entrance entrance = {
		.cell = state.fds[0], .control = state.fds[1], .proc = state.proc, .own_init = state.setup.own_init,
		.filter = { .len = (unsigned short)state.setup.instructions, .filter = state.filter },
		.filter_notifies = state.setup.filter_notifies, .filter_early = state.setup.filter_early,
	};
	unsigned next = 2 + (state.request.has_cgroup ? 1 : 0);

	for (unsigned i = 0; i < MAX_HIERARCHIES; i++)
		entrance.joins[i] = (state.request.joins >> i & 1) && next < state.fd_count ? state.fds[next++] : -1;
	enter_sandbox(&entrance, &state.program);
	if (!state.program.warm)
		exec_program(&state.program);
	/* an exec would have done both: its processes may look at each other, and the launcher hears that it runs */
	if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 || sys_close_range(3, ~0u, 0) < 0)
		_exit(127);
	return 0;
}

EXPORT char **nsbox_arguments(void)
{
	return state.program.argv;
}

EXPORT char **nsbox_environment(void)
{
	return state.program.envp;
}
