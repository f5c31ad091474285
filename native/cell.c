/* A cell is a sandbox, or a spare that will be one: PID 1 in its namespaces, its cgroups, and a process parked for the
 * next execution. It is built before it is asked for where a template says so: the order of events is the same. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

enum {
	TICK_NS = 1000000,
	READY_FDS = 4, /* /, quota, source, mount namespace */
	REFILL_DELAY_NS = 2000000, /* what is asked for right after a create must not wait for a spare */
};

struct cell *cell_find(struct launcher *launcher, uint32_t id)
{
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->id == id)
			return cell;
	return NULL;
}

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
static void init_path(const struct launcher *launcher, const struct cell *cell, char *path)
{
	bool leaf = false;

	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		leaf |= launcher->hierarchies[i].init_leaf;
	(void)snprintf(path, CGROUP_PATH, leaf ? "s%u/init" : "s%u", cell->number);
}

/* False while something in it is still dying. */
static bool all_dead(struct launcher *launcher, struct cell *cell)
{
	char path[CGROUP_PATH], init[CGROUP_PATH];

	cell_path(cell, path);
	init_path(launcher, cell, init);
	return cgroup_remove_v2(launcher, cell->template->hierarchies, init)
	       && cgroup_remove_v2(launcher, cell->template->hierarchies, path);
}

/* Nobody waits at either end: a supervisor or a PID 1 that does not read loses what does not fit. */
static int make_channel(int pair[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
}

static int clone_init(struct launcher *launcher, struct cell *cell, struct failure *failure)
{
	struct birth birth = { .launcher = launcher, .cell = cell };
	char init[CGROUP_PATH];
	int pair[2], channel[2];

	init_path(launcher, cell, init);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(failure, STAGE_CLONE, 0);
	cell->control = (struct source){ .ready = control_ready, .fd = pair[0] };
	birth.control = pair[1];
	AUTO_CLOSE int theirs = pair[1];
	if (make_channel(channel) < 0) {
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

/* Who waits for it is told by `failure` of its end; a restart of a sandbox that is lost by the loss, and by nothing that
 * comes later: it could be taken for the answer to the next restart of that name. */
static void give_up_heir(struct launcher *launcher, const struct cell *cell)
{
	for (struct cell *heir = launcher->cells; heir; heir = heir->next)
		if (heir->predecessor == cell) {
			heir->predecessor = NULL;
			if (!cell->destroy_asked)
				heir->restart_id = 0;
			heir->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD };
			cell_end(launcher, heir, REASON_CANCELLED);
		}
}

static void release(struct launcher *launcher, struct cell *cell)
{
	for (struct cell **link = &launcher->cells; *link; link = &(*link)->next)
		if (*link == cell) {
			*link = cell->next;
			break;
		}
	give_up_heir(launcher, cell);
	release_ids(launcher, cell);
	drop_fd(&cell->pidfd);
	drop_fd(&cell->root);
	drop_fd(&cell->quota);
	drop_fd(&cell->program_source);
	bury(launcher, &cell->mounts);
	drop_fd(&cell->channel);
	struct template *template = cell->template;
	free(cell);
	template->cells--;
	template_release(launcher, template);
}

static bool has_task(const struct launcher *launcher, const struct cell *cell)
{
	for (const struct task *task = launcher->tasks; task; task = task->next)
		if (task->cell == cell)
			return true;
	return false;
}

/* The cell is to die: everything in it is killed now, what it was made of goes when the last process is reaped. */
void cell_end(struct launcher *launcher, struct cell *cell, enum kill_reason reason)
{
	char path[CGROUP_PATH];

	if (cell->state != CELL_DYING) {
		cell->state = CELL_DYING;
		cell->freezing = false;
		for (struct task *task = launcher->tasks; task; task = task->next)
			if (task->cell == cell)
				task_kill(launcher, task, reason);
		unwatch(launcher, &cell->control);
	}
	cell_path(cell, path);
	if (cell->pid > 0) {
		/* all at once, where there is more than PID 1: it would have to kill the others in turn */
		if (has_task(launcher, cell))
			(void)cgroup_kill(launcher, cell->template->hierarchies, path);
		if (!cell->reaped)
			(void)sys_pidfd_send_signal(cell->pidfd, SIGKILL); /* the kernel kills what is in its pid namespace */
	}
	launcher->tick_at = now_ns() + TICK_NS / 4;
}

/* All of it is dead: what is left are empty directories of version 1, removed before anything else is done. */
static void tell_end(struct launcher *launcher, struct cell *cell)
{
	if (cell->told_end)
		return;
	cell->told_end = true;
	if (cell->restart_id && !cell->adopted)
		tell_failed(launcher, DOWN_RESTART, cell->restart_id, &cell->failure);
	else if (cell->destroy_asked)
		tell_done(launcher, DOWN_DESTROY, cell->id);
	else if (cell->id && cell->adopted)
		tell(launcher, &(struct up){ .type = UP_LOST, .id = cell->id }, NULL, 0);
	else if (cell->id)
		tell_failed(launcher, DOWN_CREATE, cell->id, &cell->failure);
}

/* Its files are the caller's: whether they go with it, or new processes take them over, the supervisor decides. */
static bool is_lost(const struct launcher *launcher, const struct cell *cell)
{
	return cell->id && cell->adopted && !cell->destroy_asked && !launcher->over;
}

/* Moves a dying cell towards its end, as far as it goes now. */
void cell_settle(struct launcher *launcher, struct cell *cell)
{
	if (cell->state != CELL_DYING)
		return;
	bool waiting = !cell->reaped;
	for (struct task *task = launcher->tasks, *next; task; task = next) {
		next = task->next;
		if (task->cell == cell) {
			waiting = true;
			task_settle(launcher, task);
		}
	}
	if (waiting)
		return;
	if (!all_dead(launcher, cell)) {
		launcher->tick_at = now_ns() + TICK_NS / 4;
		return;
	}
	char path[CGROUP_PATH];
	cell_path(cell, path);
	tell_end(launcher, cell);
	if (is_lost(launcher, cell)) { /* empty directories of version 1 may be left: they go with it */
		cell->state = CELL_LOST;
		give_up_heir(launcher, cell);
		(void)cgroup_remove_v1(launcher, cell->template->hierarchies, path, false);
		return;
	}
	if (!cgroup_remove_v1(launcher, cell->template->hierarchies, path, false)) {
		launcher->tick_at = now_ns() + TICK_NS;
		return;
	}
	release(launcher, cell);
}

/* Whether a program runs: its caller waits for that, and has nothing to ask for meanwhile. */
static bool is_busy(const struct launcher *launcher)
{
	for (const struct task *task = launcher->tasks; task; task = task->next)
		if (task->id && !task->reported)
			return true;
	return false;
}

static void tell_ready(struct launcher *launcher, struct cell *cell)
{
	int fds[5] = { cell->pidfd, cell->root, cell->quota, cell->program_source, cell->channel };
	enum down_type of = cell->restart_id ? DOWN_RESTART : DOWN_CREATE;

	cell->quiet = false;
	tell(launcher, &(struct up){ .type = UP_DONE, .of = of, .id = cell->id, .index = (int32_t)cell->number }, fds, 5);
	drop_fd(&cell->channel);
}

static void adopt(struct launcher *launcher, struct cell *cell)
{
	cell->adopted = true;
	cell->quiet = cell->quiet && is_busy(launcher);
	launcher->quiet |= cell->quiet;
	if (!cell->quiet)
		tell_ready(launcher, cell);
}

/* The end of the execution that was running is told at the latest. */
void cells_tell_quiet(struct launcher *launcher)
{
	launcher->quiet = false;
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->adopted && cell->quiet)
			tell_ready(launcher, cell);
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
		adopt(launcher, cell);
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
		unwatch(launcher, source);
		if (cell->state == CELL_BUILDING && !cell->failure.stage)
			cell->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD };
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

bool cell_reaped(struct launcher *launcher, pid_t pid)
{
	for (struct cell *cell = launcher->cells; cell; cell = cell->next) {
		if (cell->pid != pid || cell->reaped)
			continue;
		cell->reaped = true;
		if (cell->state == CELL_BUILDING && cell->control.fd >= 0) {
			/* its last words may still be in the socket */
			struct pollfd last = { .fd = cell->control.fd, .events = POLLIN };
			if (poll(&last, 1, 0) == 1)
				control_ready(launcher, &cell->control, EPOLLIN);
			if (!cell->failure.stage)
				cell->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD };
		}
		if (!cell->id && cell->state != CELL_DYING && !cell->restart_id)
			cell->template->spares = 0; /* do not try for ever: the next one asked for tells why */
		cell_end(launcher, cell, REASON_LOST);
		cell_settle(launcher, cell);
		return true;
	}
	return false;
}

bool is_spare(const struct cell *cell, const struct template *template)
{
	return cell->template == template && !cell->id && !cell->restart_id && cell->state != CELL_DYING;
}

void cell_restart(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = cell_find(launcher, id);
	struct failure failure;

	bool has_heir = false;
	for (struct cell *heir = launcher->cells; heir; heir = heir->next)
		has_heir |= cell && heir->predecessor == cell;
	if (!id || !cell || has_heir || (cell->state != CELL_READY && cell->state != CELL_LOST)) {
		errno = ESRCH;
		(void)fail(&failure, STAGE_PROTOCOL, 0);
		tell_failed(launcher, DOWN_RESTART, id, &failure);
	} else if (!cell_new(launcher, cell->template, cell, &failure)) {
		tell_failed(launcher, DOWN_RESTART, id, &failure);
	}
}

/* Queued in PID 1's own socket: one that is suspended takes it when it goes on. */
void cell_connect(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = cell_find(launcher, id);
	struct child_message message = { .word = CHILD_CHANNEL };
	struct pollfd room = { .fd = cell ? cell->control.fd : -1, .events = POLLOUT };
	struct failure failure;
	int pair[2];

	if (!id || !cell || cell->state != CELL_READY || poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT)) {
		errno = cell ? EAGAIN : ESRCH;
		(void)fail(&failure, STAGE_CONNECT, 0);
		tell_failed(launcher, DOWN_CONNECT, id, &failure);
		return;
	}
	if (make_channel(pair) < 0) {
		(void)fail(&failure, STAGE_CONNECT, 1);
		tell_failed(launcher, DOWN_CONNECT, id, &failure);
		return;
	}
	AUTO_CLOSE int ours = pair[0];
	AUTO_CLOSE int theirs = pair[1];
	if (send_packet(cell->control.fd, &message, sizeof message, &theirs, 1) < 0) {
		(void)fail(&failure, STAGE_CONNECT, 2);
		tell_failed(launcher, DOWN_CONNECT, id, &failure);
		return;
	}
	tell(launcher, &(struct up){ .type = UP_DONE, .of = DOWN_CONNECT, .id = id }, &ours, 1);
}

void cell_create(struct launcher *launcher, uint32_t id, uint32_t template_id, bool ahead)
{
	struct template *template = template_find(launcher, template_id);
	struct failure failure;

	if (!template || !id || cell_find(launcher, id)) {
		errno = EPROTO;
		(void)fail(&failure, STAGE_PROTOCOL, 0);
		tell_failed(launcher, DOWN_CREATE, id, &failure);
		return;
	}
	struct cell *best = NULL;
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (is_spare(cell, template)
		    && (!best || (cell->state == CELL_READY && best->state != CELL_READY)))
			best = cell;
	if (!best) {
		best = cell_new(launcher, template, NULL, &failure);
		if (!best) {
			tell_failed(launcher, DOWN_CREATE, id, &failure);
			return;
		}
	}
	best->id = id;
	best->quiet = ahead;
	template->used = true;
	launcher->refill_at = now_ns() + REFILL_DELAY_NS;
	if (best->state == CELL_READY)
		adopt(launcher, best);
}

void cells_end_all(struct launcher *launcher)
{
	for (struct template *template = launcher->templates; template; template = template->next) {
		template->spares = 0;
		warm_stop(launcher, template);
	}
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		cell_end(launcher, cell, REASON_CANCELLED);
}

void cell_destroy(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = cell_find(launcher, id);

	if (!cell || !id) {
		tell_done(launcher, DOWN_DESTROY, id);
		return;
	}
	cell->destroy_asked = true;
	cell->told_end = false; /* one that is lost has told so, and now tells that it is gone */
	give_up_heir(launcher, cell); /* else that would take over the name, and live on */
	cell_end(launcher, cell, REASON_CANCELLED);
}

/* What waits for processes to finish dying, or freezing. */
void cells_tick(struct launcher *launcher)
{
	for (struct cell *cell = launcher->cells, *next; cell; cell = next) {
		next = cell->next;
		cell_freeze_tick(launcher, cell);
		cell_settle(launcher, cell);
	}
}
