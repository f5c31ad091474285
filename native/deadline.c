/* Wall clock and CPU time of executions. The clocks of a frozen cell stand still. */
#define _GNU_SOURCE
#include "launcher.h"
#include "sys.h"

enum { SLOT_CPU_US = 0, SLOT_OOM_KILLS = 4, CPU_CHECK_MIN_NS = 2000000, OOM_CHECK_NS = 100000000 };
static const uint64_t CPU_CHECK_MAX_US = 86400000000; /* a day; in ns it still fits */

static bool runs(const struct task *task)
{
	return task->id && !task->reaped && !task->killed && !task->cell->frozen_at;
}

static const struct counter *counter_of(const struct launcher *launcher, uint32_t slot)
{
	for (uint32_t i = 0; i < launcher->counter_count; i++)
		if (launcher->counters[i].slot == slot)
			return &launcher->counters[i];
	return NULL;
}

static uint64_t count(struct launcher *launcher, const struct task *task, uint32_t slot)
{
	const struct counter *counter = counter_of(launcher, slot);
	char cell_at[CGROUP_PATH], at[CGROUP_PATH];

	cell_path(task->cell, cell_at);
	task_path(task, at);
	return counter ? cgroup_count(launcher, task->cell->template->hierarchies, counter, cell_at, at) : UINT64_MAX;
}

uint64_t deadline_cpu_us(struct launcher *launcher, const struct task *task)
{
	return count(launcher, task, SLOT_CPU_US);
}

/* Version 1 of the memory controller kills one process, and has no way to take the others of the execution along. */
uint64_t deadline_first_oom_check(const struct launcher *launcher, uint64_t now)
{
	const struct counter *counter = counter_of(launcher, SLOT_OOM_KILLS);
	return counter && !launcher->hierarchies[counter->hierarchy].born_inside ? now + OOM_CHECK_NS : 0;
}

static void check_oom(struct launcher *launcher, struct task *task, uint64_t now)
{
	uint64_t kills = count(launcher, task, SLOT_OOM_KILLS);

	task->oom_check_at = now + OOM_CHECK_NS;
	if (kills && kills != UINT64_MAX)
		task_kill(launcher, task, REASON_MEMORY);
}

/* No event tells of CPU time used up by a cgroup. It is read when it could first have been: what is left, at the
 * highest rate at which the cell can use it. */
static void check_cpu(struct launcher *launcher, struct task *task, uint64_t now)
{
	uint64_t used = count(launcher, task, SLOT_CPU_US);

	if (used == UINT64_MAX) { /* no cgroups: the supervisor samples, RLIMIT_CPU bounds each process */
		task->cpu_check_at = 0;
		return;
	}
	if (used >= task->cpu_limit_us) {
		turn_over(launcher, task, REASON_CPU_TIME);
		return;
	}
	uint64_t left_us = task->cpu_limit_us - used;
	uint64_t wait_ns = (left_us < CPU_CHECK_MAX_US ? left_us : CPU_CHECK_MAX_US) * 1000000u / task->cpu_rate_milli;
	task->cpu_check_at = now + (wait_ns > CPU_CHECK_MIN_NS ? wait_ns : CPU_CHECK_MIN_NS);
}

void deadlines_check(struct launcher *launcher, uint64_t now)
{
	for (struct task *task = launcher->tasks; task; task = task->next) {
		if (!runs(task))
			continue;
		if (task->cpu_check_at && now >= task->cpu_check_at)
			check_cpu(launcher, task, now);
		if (runs(task) && task->oom_check_at && now >= task->oom_check_at)
			check_oom(launcher, task, now);
		if (runs(task) && task->wall_deadline && now >= task->wall_deadline)
			turn_over(launcher, task, REASON_WALL_TIME);
	}
}

uint64_t deadlines_next(const struct launcher *launcher)
{
	uint64_t next = UINT64_MAX;

	for (const struct task *task = launcher->tasks; task; task = task->next) {
		if (!runs(task))
			continue;
		if (task->wall_deadline && task->wall_deadline < next)
			next = task->wall_deadline;
		if (task->cpu_check_at && task->cpu_check_at < next)
			next = task->cpu_check_at;
		if (task->oom_check_at && task->oom_check_at < next)
			next = task->oom_check_at;
	}
	return next;
}
