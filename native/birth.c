/* Executions that a warm interpreter forks. They are the launcher's children, and are known to it only when the interpreter
 * has told of them: by then they may run already, or have ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "launcher.h"
#include "sys.h"

static struct task *find_unborn(struct launcher *launcher, uint32_t number)
{
	for (struct task *task = launcher->tasks; task; task = task->next)
		if (task->unborn && task->number == number)
			return task;
	return NULL;
}

static void never_born(struct launcher *launcher, struct task *task, int error)
{
	task->unborn = false;
	task->reaped = true;
	task->state = TASK_DYING;
	if (!task->failure.stage)
		task->failure = (struct failure){ .stage = STAGE_WARM, .error = error, .index = 4 };
	if (task->cell->parked == task)
		task->cell->parked = NULL;
	task_settle(launcher, task);
}

static bool waits_for_birth(const struct launcher *launcher)
{
	for (const struct task *task = launcher->tasks; task; task = task->next)
		if (task->unborn)
			return true;
	return false;
}

void note_ended(struct launcher *launcher, pid_t pid, int status, const struct rusage *usage)
{
	if (waits_for_birth(launcher)) /* else nothing of ours is left of it */
		launcher->ended[launcher->next_ended++ % MOST_ENDED] = (struct ended){ .pid = pid, .status = status, .usage = *usage };
}

static void take_ended(struct launcher *launcher, pid_t pid)
{
	for (unsigned i = 0; i < MOST_ENDED; i++) {
		struct ended *ended = &launcher->ended[i];
		if (ended->pid != pid)
			continue;
		ended->pid = 0;
		(void)task_reaped(launcher, pid, ended->status, &ended->usage);
	}
	if (!waits_for_birth(launcher)) /* what was noted is nobody's, and its pid may be given to another */
		memset(launcher->ended, 0, sizeof launcher->ended);
}

void task_born(struct launcher *launcher, uint32_t number, pid_t pid, int pidfd, int error)
{
	struct task *task = find_unborn(launcher, number);

	if (task && pid > 0) {
		task->unborn = false;
		task->pid = pid;
		task->pidfd = take_fd(&pidfd);
		if (task->killed)
			(void)sys_pidfd_send_signal(task->pidfd, SIGKILL); /* has ended: SIGCHLD is on its way, or was */
		if (task->may_run)
			task_runs(launcher, task);
		take_ended(launcher, pid);
	} else if (task) {
		never_born(launcher, task, error);
	}
	drop_fd(&pidfd);
}

void tasks_stillborn(struct launcher *launcher, const struct template *template)
{
	for (struct task *task = launcher->tasks, *next; task; task = next) {
		next = task->next;
		if (task->unborn && task->cell->template == template)
			never_born(launcher, task, ECHILD);
	}
}
