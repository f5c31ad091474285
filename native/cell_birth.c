/* A cell is being made: its cgroups, PID 1 and what that says until it is ready. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "launcher.h"
#include "sys.h"

enum { READY_FDS = 4 /* /, quota, source, mount namespace */ };

static void control_ready(struct launcher *launcher, struct source *source, uint32_t events);

static int make_cgroups(struct launcher *launcher, struct cell *cell, struct failure *failure)
{
	const struct template *template = cell->template;
	char path[CGROUP_PATH], init[CGROUP_PATH + 8];

	cell_path(cell, path);
	if (cgroup_make(launcher, template->hierarchies, path, false, failure) < 0
	    || cgroup_write(launcher, template->hierarchies, path, template->sandbox_writes, template->sandbox_write_count,
	                    failure) < 0)
		return -1;
	(void)snprintf(init, sizeof init, "%s/init", path);
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if ((template->hierarchies >> i & 1) && launcher->hierarchies[i].init_leaf
		    && mkdirat(launcher->hierarchies[i].base, init, 0755) < 0)
			return fail(failure, STAGE_CGROUP, (int)i);
	return 0;
}

/* Where PID 1 is born. */
void cell_init_path(const struct launcher *launcher, const struct cell *cell, char *path)
{
	bool leaf = false;

	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		leaf |= launcher->hierarchies[i].init_leaf;
	(void)snprintf(path, CGROUP_PATH, leaf ? "s%u/init" : "s%u", cell->number);
}

/* Nobody waits at either end: a supervisor or a PID 1 that does not read loses what does not fit. */
int cell_make_channel(int pair[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
}

static int clone_init(struct launcher *launcher, struct cell *cell, struct failure *failure)
{
	struct birth birth = { .launcher = launcher, .cell = cell };
	char init[CGROUP_PATH];
	int pair[2], channel[2];

	cell_init_path(launcher, cell, init);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(failure, STAGE_CLONE, 0);
	cell->control = (struct source){ .ready = control_ready, .fd = pair[0] };
	birth.control = pair[1];
	AUTO_CLOSE int theirs = pair[1];
	if (cell_make_channel(channel) < 0) {
		drop_fd(&cell->control.fd);
		return fail(failure, STAGE_CLONE, 0);
	}
	cell->channel = channel[0];
	birth.channel = channel[1];
	AUTO_CLOSE int theirs_too = channel[1];
	AUTO_CLOSE int cgroup = cgroup_open_v2(launcher, cell->template->hierarchies, init);
	/* In version 1 it stays where the launcher is: no program descends from it, so the limits there are not for it, and a
	 * program that uses up all memory cannot take it from PID 1. */
	/* The other namespaces follow in the child: there they cost another CPU's time. */
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_PIDFD | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
		.exit_signal = SIGCHLD,
		.pidfd = (uint64_t)(uintptr_t)&cell->pidfd,
		.cgroup = (uint64_t)(cgroup >= 0 ? cgroup : 0),
	};
	pid_t pid = sys_clone3(&args);
	if (pid == 0) /* nothing is written before: a page of the launcher's would be copied for it */
		be_init(&birth);
	cell->pid = pid;
	if (cell->pid < 0) {
		drop_fd(&cell->control.fd);
		return fail(failure, STAGE_CLONE, 0);
	}
	leave_graves(launcher);
	return watch(launcher, &cell->control) < 0 ? fail(failure, STAGE_CLONE, 1) : 0;
}

struct cell *cell_new(struct launcher *launcher, struct template *template, struct cell *predecessor,
                      struct failure *failure)
{
	struct cell *cell = calloc(1, sizeof *cell);

	if (!cell) {
		(void)fail(failure, STAGE_CLONE, 2);
		return NULL;
	}
	*cell = (struct cell){
		.control = { .fd = -1 }, .template = template, .number = ++launcher->next_number, .state = CELL_BUILDING,
		.pid = -1, .pidfd = -1, .root = -1, .quota = -1, .program_source = -1, .mounts = -1, .channel = -1,
		.id_range = -1,
	};
	template->cells++;
	cell->predecessor = predecessor;
	if (predecessor) {
		cell->restart_id = predecessor->id;
		cell->ids = predecessor->ids; /* the files are theirs */
	}
	bool made = predecessor || claim_ids(launcher, cell) == 0 || fail(failure, STAGE_ID_MAP, 0) == 0;
	cell->next = launcher->cells;
	launcher->cells = cell;
	if (made && make_cgroups(launcher, cell, failure) == 0 && clone_init(launcher, cell, failure) == 0)
		return cell;
	cell->failure = *failure;
	cell->reaped = cell->pid < 0;
	cell_end(launcher, cell, REASON_CANCELLED);
	return cell;
}

static void replace(struct launcher *launcher, struct cell *cell)
{
	struct cell *old = cell->predecessor;

	cell->id = old->id;
	cell->id_range = old->id_range;
	cell->predecessor = NULL;
	old->id = 0;
	old->id_range = -1;
	cell_end(launcher, old, REASON_CANCELLED);
}

static int write_map(struct launcher *launcher, const struct cell *cell, const char *file)
{
	const struct id_map *ids = &cell->ids;
	uint32_t below = cell->template->init_id - ids->inside;
	char path[48], line[128];

	(void)snprintf(path, sizeof path, "%d/%s", cell->pid, file);
	if (cell->template->capabilities && below < ids->count - 1) /* all but PID 1's, see become_unmapped */
		(void)snprintf(line, sizeof line, "%u %u %u\n%u %u %u\n", ids->inside, ids->outside, below,
		               ids->inside + below + 1, ids->outside + below + 1, ids->count - below - 1);
	else
		(void)snprintf(line, sizeof line, "%u %u %u\n", ids->inside, ids->outside, ids->count);
	return write_file_at(launcher->proc, path, line);
}

static void cell_ready(struct launcher *launcher, struct cell *cell, int *fds)
{
	cell->root = take_fd(&fds[0]);
	cell->quota = take_fd(&fds[1]);
	cell->program_source = take_fd(&fds[2]);
	cell->mounts = take_fd(&fds[3]);
	cell->state = CELL_READY;
	cell->parked = task_park(launcher, cell, &cell->failure);
	if (!cell->parked) {
		cell_end(launcher, cell, REASON_CANCELLED);
		return;
	}
	if (cell->predecessor)
		replace(launcher, cell);
	if (cell->id)
		cell_adopt(launcher, cell);
}

/* What PID 1 says while it is set up; afterwards it has nothing to say, and its end is reported by SIGCHLD. */
static void control_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	struct cell *cell = (struct cell *)source;
	struct child_message message;
	int fds[READY_FDS] = { -1, -1, -1, -1 };
	unsigned fd_count;
	ssize_t length = (events & EPOLLIN) ? receive_packet(source->fd, &message, sizeof message, fds, READY_FDS, &fd_count) : 0;

	if (length != sizeof message) {
		for (unsigned i = 0; i < READY_FDS; i++)
			drop_fd(&fds[i]);
		unwatch(launcher, source);
		if (cell->state == CELL_BUILDING) { /* dead, or its words are lost */
			if (!cell->failure.stage)
				cell->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD };
			cell_end(launcher, cell, REASON_CANCELLED);
		}
		return;
	}
	if (message.word == CHILD_MAP_ME && cell->state == CELL_BUILDING) {
		if (write_map(launcher, cell, "uid_map") < 0 || write_map(launcher, cell, "gid_map") < 0) {
			(void)fail(&cell->failure, STAGE_ID_MAP, 1);
			cell_end(launcher, cell, REASON_CANCELLED);
		} else if (send_packet(source->fd, &message, sizeof message, NULL, 0) < 0) {
			(void)fail(&cell->failure, STAGE_DIED, 0);
			cell_end(launcher, cell, REASON_CANCELLED);
		}
	} else if (message.word == CHILD_READY && cell->state == CELL_BUILDING && fd_count == READY_FDS) {
		cell_ready(launcher, cell, fds);
	} else if (message.word == CHILD_FAILED) {
		cell->failure = message.failure;
		cell_end(launcher, cell, REASON_CANCELLED);
	}
	for (unsigned i = 0; i < fd_count; i++)
		drop_fd(&fds[i]);
}
