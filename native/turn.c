/* An execution that lives on and does one thing after the other, each within limits of its own: the cells of a context. At
 * a limit its process group gets SIGINT, as from a terminal, and has a grace to stop in; only then is it killed. */
#define _GNU_SOURCE
#include <signal.h>

#include "launcher.h"
#include "sys.h"

static struct task *find(struct launcher *launcher, uint32_t id)
{
	for (struct task *task = launcher->tasks; id && task; task = task->next)
		if (task->id == id && !task->reaped && task->started_at)
			return task;
	return NULL;
}

static uint64_t suspended_ns(const struct task *task)
{
	return task->suspended_ns + (task->cell->frozen_at ? now_ns() - task->cell->frozen_at : 0);
}

static void answer(struct launcher *launcher, enum down_type of, uint32_t id, struct task *task)
{
	struct failure failure = { .stage = STAGE_DIED, .error = ESRCH };
	struct up record = { .type = UP_DONE, .of = of, .id = id, .violation_number = -1 };

	if (!task) {
		tell_failed(launcher, of, id, &failure);
		return;
	}
	record.reason = task->interrupted;
	record.suspended_ns = suspended_ns(task);
	record.wall_ns = now_ns() - task->started_at - record.suspended_ns;
	task_counters(launcher, task, record.counters);
	tell(launcher, &record, NULL, 0);
}

void turn_begin(struct launcher *launcher, uint32_t id, struct payload *payload)
{
	struct task *task = find(launcher, id);
	struct reader reader = payload_reader(payload);
	uint64_t wall_ns = read_u64(&reader), cpu_us = read_u64(&reader), grace_ns = read_u64(&reader);

	if (task && !reader.bad) {
		uint64_t used = cpu_us ? deadline_cpu_us(launcher, task) : UINT64_MAX, now = now_ns();
		task->interrupted = REASON_NONE;
		task->interrupts = 0;
		task->grace_ns = grace_ns;
		task->wall_deadline = wall_ns ? now + wall_ns : 0;
		task->cpu_limit_us = used != UINT64_MAX ? used + cpu_us : 0; /* else the supervisor samples */
		task->cpu_check_at = task->cpu_limit_us ? now : 0;
	}
	answer(launcher, DOWN_TURN, id, reader.bad ? NULL : task);
}

void turn_end(struct launcher *launcher, uint32_t id)
{
	struct task *task = find(launcher, id);

	if (task)
		task->wall_deadline = task->cpu_check_at = task->grace_ns = 0;
	answer(launcher, DOWN_TURN_END, id, task);
	if (task)
		task->interrupted = REASON_NONE;
}

/* A process group that its leader has left cannot be interrupted: then the leader alone is. */
static void interrupt(struct task *task)
{
	if (task->pid > 0 && kill(-task->pid, SIGINT) < 0 && task->pidfd >= 0)
		(void)sys_pidfd_send_signal(task->pidfd, SIGINT); /* has ended: SIGCHLD is on its way */
}

/* Twice in its grace: Python loses an interrupt that comes while an object is finalised. */
void turn_over(struct launcher *launcher, struct task *task, enum kill_reason reason)
{
	enum { MOST_INTERRUPTS = 2 };

	if (!task->interrupted)
		task->interrupted = reason;
	if (!task->grace_ns || task->interrupts == MOST_INTERRUPTS) {
		task_kill(launcher, task, task->interrupted);
		return;
	}
	task->interrupts++;
	task->cpu_check_at = 0;
	task->wall_deadline = now_ns() + task->grace_ns / MOST_INTERRUPTS;
	interrupt(task);
}

void turn_interrupt(struct launcher *launcher, uint32_t id, enum kill_reason reason)
{
	struct task *task = find(launcher, id);

	if (!task || !task->grace_ns) /* there is no turn, or it is over */
		return;
	if (reason == REASON_NONE)
		interrupt(task);
	else if (!task->interrupted)
		turn_over(launcher, task, reason);
}
