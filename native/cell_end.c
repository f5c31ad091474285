/* A cell dies: everything in it is killed, reaped, and told of; what it was made of is removed to the last directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "launcher.h"
#include "sys.h"

enum { TICK_NS = 1000000 };

/* False while something in it is still dying. */
static bool all_dead(struct launcher *launcher, struct cell *cell)
{
	char path[CGROUP_PATH], init[CGROUP_PATH];

	cell_path(cell, path);
	cell_init_path(launcher, cell, init);
	return cgroup_remove_v2(launcher, cell->template->hierarchies, init)
	       && cgroup_remove_v2(launcher, cell->template->hierarchies, path);
}

/* Who waits for it is told by `failure` of its end; a restart of a sandbox that is lost by the loss, and by nothing that
 * comes later: it could be taken for the answer to the next restart of that name. */
void cell_give_up_heir(struct launcher *launcher, const struct cell *cell)
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
	cell_give_up_heir(launcher, cell);
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
		cell_give_up_heir(launcher, cell);
		(void)cgroup_remove_v1(launcher, cell->template->hierarchies, path, false);
		return;
	}
	if (!cgroup_remove_v1(launcher, cell->template->hierarchies, path, false)) {
		launcher->tick_at = now_ns() + TICK_NS;
		return;
	}
	release(launcher, cell);
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
				cell->control.ready(launcher, &cell->control, EPOLLIN);
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
	cell_give_up_heir(launcher, cell); /* else that would take over the name, and live on */
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
