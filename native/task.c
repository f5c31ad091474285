/* An execution. Its process is cloned ahead, into the namespaces and cgroups of its cell, and waits there (parked) for
 * what to run; once that is sent, it becomes the program. The launcher is its parent: the exit status comes from
 * wait4(2), and nothing inside the sandbox has a part in it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

/* The process that has just been told to go on may wait on this CPU: a moment of sleep, and whoever wakes first takes
 * the other. Without it a program started 0.28 ms later in two of five cases (measured, 2 CPUs). */
enum { STEP_ASIDE_NS = 20000 };

static void control_ready(struct launcher *launcher, struct source *source, uint32_t events);
static void listener_ready(struct launcher *launcher, struct source *source, uint32_t events);

static struct task *task_of_listener(struct source *source)
{
	return (struct task *)(void *)((char *)source - offsetof(struct task, listener));
}

/* Children are born into the cell's pid namespace, for as long as this setting of the launcher's own lasts. */
static pid_t clone_into(struct launcher *launcher, struct cell *cell, struct clone_args *args)
{
	if (setns(cell->pidfd, CLONE_NEWPID) < 0)
		return -1;
	pid_t pid = sys_clone3(args);
	if (pid == 0)
		return 0;
	int saved = errno;
	if (setns(launcher->pid_namespace, CLONE_NEWPID) < 0)
		give_up_all(); /* the next sandbox would be born in this one */
	errno = saved;
	return pid;
}

static int clone_task(struct launcher *launcher, struct task *task, struct failure *failure)
{
	struct cell *cell = task->cell;
	struct template *template = cell->template;
	struct entrance entrance = {
		.cell = cell->pidfd, .proc = launcher->proc, .capabilities = template->capabilities,
		.filter = template->filter, .filter_notifies = template->filter_notifies, .filter_early = template->filter_early,
	};
	char cell_at[CGROUP_PATH], at[CGROUP_PATH];
	int pair[2];

	cell_path(cell, cell_at);
	task_path(task, at);
	if (cgroup_make(launcher, template->hierarchies, at, true, failure) < 0
	    || cgroup_write(launcher, template->hierarchies, at, template->execution_writes,
	                    template->execution_write_count, failure) < 0
	    || cgroup_open_joins(launcher, template->hierarchies, cell_at, at, entrance.joins, failure) < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		close_joins(entrance.joins);
		return fail(failure, STAGE_CLONE, 0);
	}
	task->control = (struct source){ .ready = control_ready, .fd = pair[0] };
	entrance.control = pair[1];
	AUTO_CLOSE int cgroup = cgroup_open_v2(launcher, template->hierarchies, at);
	entrance.own_init = cgroup < 0;
	struct clone_args args = {
		.flags = CLONE_PIDFD | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
		.exit_signal = SIGCHLD,
		.pidfd = (uint64_t)(uintptr_t)&task->pidfd,
		.cgroup = (uint64_t)(cgroup >= 0 ? cgroup : 0),
	};
	task->warm = task->unborn = template->wants_warm && warm_ready(template)
	                            && warm_fork(template, &entrance, task->number, cgroup) == 0;
	if (!task->warm) {
		pid_t pid = clone_into(launcher, cell, &args);
		if (pid == 0) { /* nothing is written before: a page of the launcher's would be copied for it */
			struct program program;
			enter_sandbox(&entrance, &program);
			exec_program(&program);
		}
		task->pid = pid;
	}
	int saved = errno;
	drop_fd(&pair[1]);
	close_joins(entrance.joins);
	errno = saved;
	if (task->pid < 0 && !task->unborn) {
		drop_fd(&task->control.fd);
		return fail(failure, STAGE_CLONE, 1);
	}
	return watch(launcher, &task->control) < 0 ? fail(failure, STAGE_CLONE, 2) : 0;
}

struct task *task_park(struct launcher *launcher, struct cell *cell, struct failure *failure)
{
	struct task *task = calloc(1, sizeof *task);
	char at[CGROUP_PATH];

	if (!task) {
		(void)fail(failure, STAGE_CLONE, 3);
		return NULL;
	}
	*task = (struct task){
		.control = { .fd = -1 }, .listener = { .fd = -1 }, .cell = cell, .number = ++launcher->next_number,
		.state = TASK_PARKED, .pid = -1, .pidfd = -1, .init = -1, .violation_number = -1,
	};
	for (uint32_t i = 0; i < MAX_COUNTERS; i++)
		task->counters[i] = -1;
	task->next = launcher->tasks;
	launcher->tasks = task;
	if (clone_task(launcher, task, failure) == 0)
		return task;
	if (task->pid > 0 || task->unborn) { /* alive, but not watched: it goes as any other does, and nobody is told */
		task_kill(launcher, task, REASON_CANCELLED);
		return NULL;
	}
	task_path(task, at);
	(void)cgroup_remove_v2(launcher, cell->template->hierarchies, at); /* empty: nothing was born in it */
	(void)cgroup_remove_v1(launcher, cell->template->hierarchies, at, true);
	task_release(launcher, task);
	return NULL;
}

static bool start(struct launcher *launcher, struct task *task, const struct down *down, const struct payload *payload,
                  const int *fds, struct reader reader)
{
	int passed[4] = { fds[0], fds[1], fds[2], payload->memfd };
	struct write *writes;
	uint32_t write_count;
	char at[CGROUP_PATH];

	uint64_t wall_ns = read_u64(&reader);
	task->cpu_limit_us = read_u64(&reader);
	task->cpu_rate_milli = read_u64(&reader);
	uint32_t uid = map_id(&task->cell->ids, read_u32(&reader)), gid = map_id(&task->cell->ids, read_u32(&reader));
	if (read_writes(&reader, &writes, &write_count) < 0 || !task->cpu_rate_milli) {
		free(writes);
		errno = EPROTO;
		return fail(&task->failure, STAGE_PROTOCOL, 1) == 0;
	}
	task_path(task, at);
	int limited = cgroup_write(launcher, task->cell->template->hierarchies, at, writes, write_count, &task->failure);
	free(writes);
	if (limited < 0)
		return false;
	/* the pipes become the program's: else it could not open /dev/stdout, which is to open them anew */
	for (int i = 0; i < 3; i++)
		if (fchown(fds[i], uid, gid) < 0)
			return fail(&task->failure, STAGE_STDIO, 6) == 0;

	const struct iovec parts[2] = {
		{ .iov_base = (void *)(uintptr_t)down, .iov_len = sizeof *down },
		{ .iov_base = payload->bytes, .iov_len = payload->memfd < 0 ? payload->size : 0 },
	};
	task->started_at = now_ns();
	task->wall_deadline = wall_ns ? task->started_at + wall_ns : 0;
	task->cpu_check_at = task->cpu_limit_us ? task->started_at : 0;
	task->oom_check_at = deadline_first_oom_check(launcher, task->started_at);
	task->state = TASK_STARTING;
	/* What it says from here on is heard when it has ended: waking up for it would only take time from the program. Not
	 * so where somebody wants to know, or where the filter, and with it the descriptor that tells of violations, is still
	 * to come. */
	task->tell_start = down->flags & EXEC_TELL_START;
	task->ran_warm = task->warm && (down->flags & EXEC_WARM);
	if (task->listener.fd >= 0 && !task->tell_start)
		ignore(launcher, &task->control);
	if (send_parts(task->control.fd, parts, 2, passed, payload->memfd < 0 ? 3 : 4) < 0)
		return fail(&task->failure, STAGE_DIED, 1) == 0;
	return true;
}

/* While programs run: at their ends somebody waits. */
void tasks_open_counters(struct launcher *launcher)
{
	char cell_at[CGROUP_PATH], at[CGROUP_PATH];

	launcher->count_at = 0;
	for (struct task *task = launcher->tasks; task; task = task->next) {
		if (task->counted || !task->started_at || task->reaped)
			continue;
		task->counted = true;
		cell_path(task->cell, cell_at);
		task_path(task, at);
		cgroup_open_counters(launcher, task->cell->template->hierarchies, cell_at, at, task->counters);
	}
}

/* A child of the interpreter's can become any program, though an exec out of it is dearer; the other way is far dearer. */
static void choose_interpreter(struct cell *cell, bool warm)
{
	struct template *template = cell->template;

	if (warm)
		template->wants_warm = COLD_IN_A_ROW;
	else if (template->wants_warm)
		template->wants_warm--;
}

void task_execute(struct launcher *launcher, const struct down *down, struct payload *payload, const int *fds,
                  unsigned fd_count)
{
	struct cell *cell = cell_find(launcher, down->parent);
	struct reader reader = payload_reader(payload);
	struct failure failure;

	if (!down->id || !cell || !cell->id || cell->state != CELL_READY || cell->frozen_at || fd_count != 3) {
		errno = !cell || cell->state != CELL_READY ? ESRCH : cell->frozen_at ? EBUSY : EPROTO;
		(void)fail(&failure, STAGE_PROTOCOL, 0);
		tell_failed(launcher, DOWN_EXEC, down->id, &failure);
		return;
	}
	choose_interpreter(cell, down->flags & EXEC_WARM);
	if (cell->parked && !cell->parked->warm && cell->template->wants_warm && warm_ready(cell->template)) {
		task_kill(launcher, cell->parked, REASON_NONE); /* it could only exec */
		cell->parked = NULL;
	}
	unsigned wanted = cell->template->wants_warm;
	if (down->flags & EXEC_COLD) {
		cell->template->wants_warm = 0;
		if (cell->parked && cell->parked->unborn) {
			task_kill(launcher, cell->parked, REASON_NONE); /* it may never come */
			cell->parked = NULL;
		}
	}
	struct task *task = cell->parked ? cell->parked : task_park(launcher, cell, &failure);
	cell->parked = NULL;
	cell->executions++;
	if (task && !start(launcher, task, down, payload, fds, reader) && task->failure.stage == STAGE_DIED) {
		/* it was parked, and somebody has killed it since: once more, with a new one */
		task_kill(launcher, task, REASON_NONE);
		task = task_park(launcher, cell, &failure);
		if (task)
			(void)start(launcher, task, down, payload, fds, reader);
	}
	cell->template->wants_warm = wanted;
	if (!task) {
		tell_failed(launcher, DOWN_EXEC, down->id, &failure);
		return;
	}
	launcher->refill_at = launcher->count_at = now_ns() + STEP_ASIDE_NS;
	task->id = down->id;
	if (task->failure.stage)
		task_kill(launcher, task, REASON_NONE);
}

void task_runs(struct launcher *launcher, struct task *task)
{
	task->may_run = true;
	if (task->unborn) /* its own word was faster than its interpreter's, which comes with its pidfd */
		return;
	if (task->state != TASK_STARTING || !task->execs || task->failure.stage)
		return;
	task->state = TASK_RUNNING;
	if (task->tell_start)
		tell(launcher, &(struct up){ .type = UP_STARTED, .of = DOWN_EXEC, .id = task->id }, &task->pidfd, 1);
}

/* What the process says on its way. */
static void hear(struct launcher *launcher, struct task *task)
{
	struct child_message message;
	int passed = -1;
	unsigned fd_count;
	ssize_t length = receive_packet(task->control.fd, &message, sizeof message, &passed, 1, &fd_count);

	if (length != sizeof message)
		drop_fd(&passed);
	if (length == 0) {
		unwatch(launcher, &task->control);
		task_runs(launcher, task);
		return;
	}
	if (length != sizeof message) { /* what it has said is lost, and nobody knows how far it is */
		(void)fail(&task->failure, STAGE_DIED, 1);
		unwatch(launcher, &task->control);
		task_kill(launcher, task, REASON_NONE);
		return;
	}
	switch ((enum child_word)message.word) {
	case CHILD_FAILED:
		task->failure = message.failure;
		break;
	case CHILD_LISTENER:
		if (fd_count == 1 && task->listener.fd < 0) {
			task->listener = (struct source){ .ready = listener_ready, .fd = take_fd(&passed) };
			if (watch(launcher, &task->listener) < 0) {
				(void)fail(&task->failure, STAGE_FILTER, 2);
				task_kill(launcher, task, REASON_NONE);
			}
		}
		break;
	case CHILD_EXITED:
		task->wait_status = message.wait_status;
		task->usage = message.usage;
		task->told_status = true;
		break;
	case CHILD_EXECS:
		task->execs = true;
		break;
	case CHILD_RUNS:
		task_runs(launcher, task);
		break;
	case CHILD_INIT:
		if (fd_count == 1 && task->init < 0)
			task->init = take_fd(&passed);
		break;
	case CHILD_MAP_ME:
	case CHILD_READY:
	case CHILD_CHANNEL:
		break; /* PID 1's words, and what is said to it */
	}
	drop_fd(&passed);
}

static void control_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	(void)events;
	hear(launcher, (struct task *)source);
}

/* A call that only an attack makes. No decision is taken on what its arguments point to (seccomp_unotify(2) warns of
 * that), and the call is never let through: all of the execution dies while its caller is still waiting in the kernel. */
static void listener_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	struct task *task = task_of_listener(source);
	struct seccomp_notif notice;

	memset(&notice, 0, sizeof notice); /* the kernel insists */
	if (!(events & EPOLLIN) || ioctl(source->fd, SECCOMP_IOCTL_NOTIF_RECV, &notice) < 0) {
		if (events & (EPOLLHUP | EPOLLERR))
			unwatch(launcher, source);
		return;
	}
	if (task->violation_number < 0) {
		task->violation_arch = notice.data.arch;
		task->violation_number = notice.data.nr;
		for (int i = 0; i < 6; i++)
			task->violation_args[i] = notice.data.args[i];
	}
	task_kill(launcher, task, REASON_SECURITY);
}

static bool look(struct source *source, short what)
{
	struct pollfd pending = { .fd = source->fd, .events = what };
	return source->fd >= 0 && poll(&pending, 1, 0) == 1 && (pending.revents & what);
}

void task_hear(struct launcher *launcher, struct task *task)
{
	while (look(&task->control, POLLIN))
		hear(launcher, task);
}

void task_hear_filter(struct launcher *launcher, struct task *task)
{
	while (look(&task->listener, POLLIN))
		listener_ready(launcher, &task->listener, EPOLLIN);
}
