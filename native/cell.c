/* A cell is a sandbox, or a spare that will be one: PID 1 in its namespaces, its cgroups, and a process parked for the
 * next execution. It is built before it is asked for where a template says so: the order of events is the same. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>

#include "launcher.h"
#include "sys.h"

enum { REFILL_DELAY_NS = 2000000 }; /* what is asked for right after a create must not wait for a spare */

struct cell *cell_find(struct launcher *launcher, uint32_t id)
{
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->id == id)
			return cell;
	return NULL;
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

void cell_adopt(struct launcher *launcher, struct cell *cell)
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
	if (cell_make_channel(pair) < 0) {
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
		cell_adopt(launcher, best);
}
