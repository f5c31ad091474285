/* Suspending: the cgroup freezer, cgroup-v2.rst, and the clocks of the executions, which stand still meanwhile. */
#define _GNU_SOURCE
#include "launcher.h"
#include "sys.h"

enum { TICK_NS = 1000000, LOOKS = 32 };

static bool is_frozen(struct launcher *launcher, const struct cell *cell)
{
	char path[CGROUP_PATH];
	struct counter frozen = { .file = "cgroup.events", .key = "frozen" };

	cell_path(cell, path);
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if (launcher->hierarchies[i].born_inside) {
			frozen.hierarchy = i;
			return cgroup_count(launcher, cell->template->hierarchies, &frozen, path, path) == 1;
		}
	return false;
}

static int set_freezer(struct launcher *launcher, const struct cell *cell, const char *value)
{
	char path[CGROUP_PATH];
	struct write write = { .file = "cgroup.freeze", .value = value };
	struct failure failure;

	cell_path(cell, path);
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if (launcher->hierarchies[i].born_inside) {
			write.hierarchy = i;
			return cgroup_write(launcher, cell->template->hierarchies, path, &write, 1, &failure);
		}
	errno = EOPNOTSUPP;
	return -1;
}

void cell_freeze(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = cell_find(launcher, id);
	struct failure failure;

	if (!id || !cell || cell->state != CELL_READY || set_freezer(launcher, cell, "1") < 0) {
		(void)fail(&failure, STAGE_FREEZE, 0);
		tell_failed(launcher, DOWN_FREEZE, id, &failure);
		return;
	}
	if (!cell->frozen_at)
		cell->frozen_at = now_ns();
	cell->freezing = true;
	for (int i = 0; i < LOOKS && cell->freezing; i++) /* 35 us for one process, 90 for ten: worth a look right away */
		if (is_frozen(launcher, cell)) {
			cell->freezing = false;
			tell_done(launcher, DOWN_FREEZE, id);
		}
	if (cell->freezing)
		launcher->tick_at = now_ns() + TICK_NS;
}

void cell_thaw(struct launcher *launcher, uint32_t id)
{
	struct cell *cell = cell_find(launcher, id);
	struct failure failure;

	if (!id || !cell || cell->state != CELL_READY || set_freezer(launcher, cell, "0") < 0) {
		(void)fail(&failure, STAGE_FREEZE, 1);
		tell_failed(launcher, DOWN_THAW, id, &failure);
		return;
	}
	uint64_t stood_still = cell->frozen_at ? now_ns() - cell->frozen_at : 0;
	cell->frozen_at = 0;
	cell->freezing = false;
	for (struct task *task = launcher->tasks; task; task = task->next)
		if (task->cell == cell && task->id) {
			task->suspended_ns += stood_still;
			if (task->wall_deadline)
				task->wall_deadline += stood_still;
		}
	tell_done(launcher, DOWN_THAW, id);
}

void cell_freeze_tick(struct launcher *launcher, struct cell *cell)
{
	if (!cell->freezing)
		return;
	if (!is_frozen(launcher, cell)) {
		launcher->tick_at = now_ns() + TICK_NS;
		return;
	}
	cell->freezing = false;
	tell_done(launcher, DOWN_FREEZE, cell->id);
}
