/* Warm interpreters: one a template, started before any program runs, in the template's root tree and in namespaces of
 * its own. It imports what it is told to, and from then on only forks; its children are the launcher's (CLONE_PARENT). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filesystem.h"
#include "launcher.h"
#include "sys.h"
#include "warm.h"

enum { SOCKET = 3, LIBRARY = 4 };

struct interpreter {
	struct source socket;
	struct template *template;
	pid_t pid;
	int pidfd;
	bool ready;
};

static void answer_ready(struct launcher *launcher, struct source *source, uint32_t events);

/* What a terminal sends to the application is not for it. A child just cloned leads no group, and can make a session. child */
static int leave_application(struct failure *failure)
{
	return setsid() < 0 ? fail(failure, STAGE_NAMESPACE, 6) : 0;
}

/* The mounts of a sandbox: what it imports lies where programs will find it, too. child */
static int enter_tree(struct launcher *launcher, const struct template *template, struct failure *failure)
{
	struct builder builder = {
		.proc = launcher->proc, .host_mounts = launcher->host_mounts, .devices = template->devices,
		.ids = launcher->ids, .stage = STAGE_MOUNT, .procfs = new_procfs(), .empty = -1, .id_namespace = -1,
		.sysctls = -1, .quota = -1, .source = -1,
	};

	if (builder.procfs < 0)
		return fail(failure, STAGE_PIVOT, 0);
	if (unshare(CLONE_NEWNET) < 0)
		return fail(failure, STAGE_NAMESPACE, 0);
	if (setns(template->mounts, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0)
		return fail(failure, STAGE_NAMESPACE, 4);
	builder.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (builder.root < 0)
		return fail(failure, STAGE_PIVOT, 1);
	return apply_ops(&builder, template->cell_ops, template->cell_op_count, failure);
}

/* child */
static int take_descriptors(int socket, int library, int log, struct failure *failure)
{
	/* above what may be in the way, then to where they belong */
	int from[] = { fcntl(log, F_DUPFD_CLOEXEC, 10), fcntl(socket, F_DUPFD_CLOEXEC, 10), fcntl(library, F_DUPFD_CLOEXEC, 10) };

	if (fcntl(0, F_SETFD, 0) < 0 || from[0] < 0 || from[1] < 0 || from[2] < 0 || dup2(from[0], 1) < 0 || dup2(from[0], 2) < 0
	    || dup2(from[1], SOCKET) < 0 || dup2(from[2], LIBRARY) < 0 || sys_close_range(LIBRARY + 1, ~0u, 0) < 0)
		return fail(failure, STAGE_STDIO, 0);
	return 0;
}

static _Noreturn void be_interpreter(struct launcher *launcher, const struct template *template, int socket, int library,
                                     int log, char **argv, char **envp)
{
	struct failure failure;
	sigset_t none;

	(void)sigemptyset(&none);
	if (leave_application(&failure) < 0 || enter_tree(launcher, template, &failure) < 0
	    || take_descriptors(socket, library, log, &failure) < 0)
		dprintf(log, "step %u-%d: %s\n", failure.stage, failure.index, strerror(failure.error));
	else if (sigprocmask(SIG_SETMASK, &none, NULL) == 0 && execve(argv[0], argv, envp) < 0)
		dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int send_setup(struct launcher *launcher, struct interpreter *interpreter)
{
	static char packet[sizeof(struct warm_setup) + BPF_MAXINSNS * sizeof(struct sock_filter)];
	const struct template *template = interpreter->template;
	size_t size = template->filter.len * sizeof *template->filter.filter;
	bool killable = false;
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		killable |= (template->hierarchies >> i & 1) && launcher->hierarchies[i].born_inside;
	struct warm_setup setup = {
		.own_init = !killable, .filter_notifies = template->filter_notifies,
		.filter_early = template->filter_early, .instructions = template->filter.len,
	};
	int fds[] = { launcher->pid_namespace, launcher->proc };

	memcpy(packet, &setup, sizeof setup);
	memcpy(packet + sizeof setup, template->filter.filter, size);
	return send_packet(interpreter->socket.fd, packet, sizeof setup + size, fds, 2);
}

static int start(struct launcher *launcher, struct interpreter *interpreter, char **argv, char **envp, int library, int log,
                 struct failure *failure)
{
	int pair[2], size = 1 << 18;
	struct clone_args args = {
		.flags = CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD, .exit_signal = SIGCHLD,
		.pidfd = (uint64_t)(uintptr_t)&interpreter->pidfd,
	};

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(failure, STAGE_WARM, 0);
	interpreter->socket = (struct source){ .ready = answer_ready, .fd = pair[0] };
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size); /* as large as it gets */
	interpreter->pid = sys_clone3(&args);
	if (interpreter->pid == 0)
		be_interpreter(launcher, interpreter->template, pair[1], library, log, argv, envp);
	drop_fd(&pair[1]);
	if (interpreter->pid < 0)
		return fail(failure, STAGE_WARM, 1);
	if (send_setup(launcher, interpreter) < 0 || watch(launcher, &interpreter->socket) < 0)
		return fail(failure, STAGE_WARM, 2);
	return 0;
}

static void release(struct launcher *launcher, struct interpreter *interpreter)
{
	unwatch(launcher, &interpreter->socket);
	if (interpreter->pidfd >= 0 && interpreter->pid > 0)
		(void)sys_pidfd_send_signal(interpreter->pidfd, SIGKILL); /* has ended: as good */
	drop_fd(&interpreter->pidfd);
	interpreter->template->interpreter = NULL;
	free(interpreter);
}

/* It is dead, or told to be: what it was asked for and has not begun will not come. */
static void end(struct launcher *launcher, struct interpreter *interpreter, bool unasked)
{
	struct template *template = interpreter->template;
	bool was_ready = interpreter->ready;
	struct failure failure = { .stage = STAGE_WARM, .error = ECHILD, .index = 3 };

	release(launcher, interpreter);
	tasks_stillborn(launcher, template);
	if (!unasked)
		return;
	if (was_ready)
		tell(launcher, &(struct up){ .type = UP_LOST, .of = DOWN_WARM, .id = template->id }, NULL, 0);
	else
		tell_failed(launcher, DOWN_WARM, template->id, &failure);
}

static void answer_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	struct interpreter *interpreter = (struct interpreter *)source;
	struct warm_answer answer;
	int pidfd = -1;
	unsigned fd_count;
	(void)events;
	ssize_t length = receive_packet(interpreter->socket.fd, &answer, sizeof answer, &pidfd, 1, &fd_count);

	if (length != sizeof answer) {
		drop_fd(&pidfd);
		end(launcher, interpreter, true);
		return;
	}
	switch ((enum warm_word)answer.word) {
	case WARM_READY:
		interpreter->ready = true;
		interpreter->template->wants_warm = COLD_IN_A_ROW; /* it was asked for because programs are to come */
		launcher->refill_at = now_ns();
		tell_done(launcher, DOWN_WARM, interpreter->template->id);
		break;
	case WARM_BORN:
		task_born(launcher, answer.number, answer.pid, take_fd(&pidfd), 0);
		break;
	case WARM_FAILED:
		task_born(launcher, answer.number, -1, -1, answer.error);
		break;
	}
	drop_fd(&pidfd);
}

/* NULL-ended, to be freed; the words lie in the payload. */
static char **read_words(struct reader *reader)
{
	uint32_t count = read_count(reader, 5);
	char **words = calloc(count + 1, sizeof *words);

	if (!words)
		give_up_all();
	for (uint32_t i = 0; i < count; i++)
		words[i] = (char *)(uintptr_t)read_string(reader);
	return words;
}

static int warm_template(struct launcher *launcher, struct template *template, char **argv, char **envp, const int *fds,
                         struct failure *failure)
{
	struct interpreter *interpreter = calloc(1, sizeof *interpreter);

	if (!interpreter)
		give_up_all();
	*interpreter = (struct interpreter){ .socket = { .fd = -1 }, .template = template, .pid = -1, .pidfd = -1 };
	template->interpreter = interpreter;
	if (start(launcher, interpreter, argv, envp, fds[0], fds[1], failure) == 0)
		return 0;
	release(launcher, interpreter);
	return -1;
}

void warm_start(struct launcher *launcher, uint32_t id, struct payload *payload, const int *fds, unsigned fd_count)
{
	struct template *template = template_find(launcher, id);
	struct reader reader = payload_reader(payload);
	char **argv = read_words(&reader), **envp = read_words(&reader);
	struct failure failure;

	if (!template || template->interpreter || reader.bad || !argv[0] || fd_count != 2) {
		errno = EPROTO;
		(void)fail(&failure, STAGE_PROTOCOL, 0);
		tell_failed(launcher, DOWN_WARM, id, &failure);
	} else if (warm_template(launcher, template, argv, envp, fds, &failure) < 0) {
		tell_failed(launcher, DOWN_WARM, id, &failure);
	}
	free(argv);
	free(envp);
}

void warm_stop(struct launcher *launcher, struct template *template)
{
	if (template->interpreter)
		end(launcher, template->interpreter, false);
}

bool warm_ready(const struct template *template)
{
	return template->interpreter && template->interpreter->ready;
}

int warm_fork(struct template *template, const struct entrance *entrance, uint32_t number, int cgroup)
{
	struct warm_request request = { .number = number, .has_cgroup = cgroup >= 0 };
	int fds[3 + MAX_HIERARCHIES] = { entrance->cell, entrance->control };
	unsigned count = 2;

	if (cgroup >= 0)
		fds[count++] = cgroup;
	for (unsigned i = 0; i < MAX_HIERARCHIES; i++)
		if (entrance->joins[i] >= 0) {
			request.joins |= 1u << i;
			fds[count++] = entrance->joins[i];
		}
	return send_packet(template->interpreter->socket.fd, &request, sizeof request, fds, count);
}
