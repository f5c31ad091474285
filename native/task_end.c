/* An execution ends: it is killed, or has ended by itself; it is reaped, counted, reported, and its cgroups are removed. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "launcher.h"
#include "sys.h"

enum { TICK_NS = 1000000 };

void task_release(struct launcher *launcher, struct task *task)
{
	for (struct task **link = &launcher->tasks; *link; link = &(*link)->next)
		if (*link == task) {
			*link = task->next;
			break;
		}
	if (task->cell->parked == task)
		task->cell->parked = NULL;
	unwatch(launcher, &task->control);
	unwatch(launcher, &task->listener);
	drop_fd(&task->pidfd);
	drop_fd(&task->init);
	for (uint32_t i = 0; i < MAX_COUNTERS; i++)
		drop_fd(&task->counters[i]);
	free(task);
}

void task_kill(struct launcher *launcher, struct task *task, enum kill_reason reason)
{
	char at[CGROUP_PATH];

	if (task->reason == REASON_NONE && !task->reaped)
		task->reason = reason;
	task->killed = true;
	task_hear(launcher, task); /* its init's name may be in there */
	task_path(task, at);
	/* The main process first, and apart: cgroup.kill may have to wait for who else moves processes on this host. One that
	 * is gone already is no error: SIGCHLD is on its way. */
	if (!task->reaped && task->pidfd >= 0)
		(void)sys_pidfd_send_signal(task->init >= 0 ? task->init : task->pidfd, SIGKILL);
	(void)cgroup_kill(launcher, task->cell->template->hierarchies, at);
}

void task_kill_id(struct launcher *launcher, uint32_t id, enum kill_reason reason)
{
	for (struct task *task = launcher->tasks; id && task; task = task->next)
		if (task->id == id && !task->reaped)
			task_kill(launcher, task, reason);
}

/* Whether PID 1 is on its way out. Its programs are killed before, by the kernel (pid_namespaces(7)), and reaped before,
 * by us; only the flag PF_EXITING in its stat, proc_pid_stat(5), tells why they died. */
static bool init_is_dying(struct launcher *launcher, const struct cell *cell)
{
	enum { FLAGS_AFTER_NAME = 7, EXITING = 0x4 };
	char path[32], text[1024];

	(void)snprintf(path, sizeof path, "%d/stat", cell->pid);
	if (cell->reaped || read_file_at(launcher->proc, path, text, sizeof text) <= 0)
		return true;
	char *at = strrchr(text, ')');
	for (int i = 0; at && i < FLAGS_AFTER_NAME; i++)
		at = strchr(at + 1, ' ');
	return at && (strtoul(at, NULL, 10) & EXITING);
}

bool task_reaped(struct launcher *launcher, pid_t pid, int status, const struct rusage *usage)
{
	for (struct task *task = launcher->tasks; task; task = task->next) {
		if (task->pid != pid || task->reaped)
			continue;
		task_hear(launcher, task);
		task_hear_filter(launcher, task); /* a sibling of the main process, which waits for its answer */
		task->reaped = true;
		if (task->cell->parked == task)
			task->cell->parked = NULL; /* nobody's next execution, however long its cgroups take to go */
		task->ended_at = now_ns();
		if (task->cell->frozen_at && task->started_at)
			task->suspended_ns += task->ended_at - task->cell->frozen_at;
		if (!task->told_status) {
			task->wait_status = status;
			task->usage = *usage;
		}
		if (task->reason == REASON_WALL_TIME && WIFEXITED(task->wait_status))
			task->reason = REASON_NONE; /* it ended by itself before the kill came */
		if (task->reason == REASON_NONE)
			task->reason = task->interrupted; /* a turn that was over its limit has no better end */
		if (task->reason == REASON_NONE && WIFSIGNALED(task->wait_status) && WTERMSIG(task->wait_status) == SIGKILL
		    && init_is_dying(launcher, task->cell))
			task->reason = REASON_LOST;
		if (task->state == TASK_STARTING && !task->failure.stage && !task->execs && !task->told_status && !task->killed)
			task->failure = (struct failure){ .stage = STAGE_DIED, .error = ECHILD };
		task->state = TASK_DYING;
		task_settle(launcher, task);
		return true;
	}
	return false;
}

static void report(struct launcher *launcher, const struct task *task, const uint64_t *counters)
{
	struct up record = {
		.type = UP_EXITED, .of = DOWN_EXEC, .id = task->id, .index = task->ran_warm,
		.reason = task->reason, .wait_status = task->wait_status,
		.violation_arch = task->violation_arch, .violation_number = task->violation_number,
		.wall_ns = task->ended_at - task->started_at - task->suspended_ns, .suspended_ns = task->suspended_ns,
		.user_us = (uint64_t)task->usage.ru_utime.tv_sec * 1000000u + (uint64_t)task->usage.ru_utime.tv_usec,
		.system_us = (uint64_t)task->usage.ru_stime.tv_sec * 1000000u + (uint64_t)task->usage.ru_stime.tv_usec,
		.max_rss_bytes = (uint64_t)task->usage.ru_maxrss * 1024u,
		.read_bytes = (uint64_t)task->usage.ru_inblock * 512u,
		.written_bytes = (uint64_t)task->usage.ru_oublock * 512u,
	};
	memcpy(record.violation_args, task->violation_args, sizeof record.violation_args);
	memcpy(record.counters, counters, sizeof record.counters);
	tell(launcher, &record, NULL, 0);
}

/* As they are now; those of one that was reported are not read again. */
void task_counters(struct launcher *launcher, const struct task *task, uint64_t *counters)
{
	char cell_at[CGROUP_PATH], at[CGROUP_PATH];
	struct counted counted = { .hierarchy = UINT32_MAX };

	cell_path(task->cell, cell_at);
	task_path(task, at);
	for (uint32_t i = 0; i < MAX_COUNTERS; i++)
		counters[i] = UINT64_MAX;
	for (uint32_t i = 0; i < launcher->counter_count && task->id && !task->reported; i++)
		counters[launcher->counters[i].slot] =
			cgroup_count_in(launcher, task->cell->template->hierarchies, &launcher->counters[i], task->counters[i],
			                cell_at, at, &counted);
}

/* The main process is reaped: the rest of its tree is killed, its cgroups are read and removed, and it is reported. */
void task_settle(struct launcher *launcher, struct task *task)
{
	uint32_t hierarchies = task->cell->template->hierarchies;
	char at[CGROUP_PATH];
	uint64_t counters[MAX_COUNTERS];

	if (task->state != TASK_DYING)
		return;
	task_path(task, at);
	task_counters(launcher, task, counters);
	if (!cgroup_remove_v2(launcher, hierarchies, at)) {
		(void)cgroup_kill(launcher, hierarchies, at);
		launcher->tick_at = now_ns() + TICK_NS / 4;
		return;
	}
	if (task->id && !task->reported) {
		task->reported = true; /* all of it is dead: the empty directories of version 1 need not be waited for */
		if (task->failure.stage)
			tell_failed(launcher, DOWN_EXEC, task->id, &task->failure);
		else
			report(launcher, task, counters);
	}
	if (!cgroup_remove_v1(launcher, hierarchies, at, true)) {
		launcher->tick_at = now_ns() + TICK_NS / 4;
		return;
	}
	struct cell *cell = task->cell;
	task_release(launcher, task);
	if (cell->state == CELL_DYING)
		launcher->tick_at = now_ns();
}

void tasks_tick(struct launcher *launcher)
{
	for (struct task *task = launcher->tasks, *next; task; task = next) {
		next = task->next;
		task_settle(launcher, task);
	}
}
