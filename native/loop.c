/* One event at a time: what an event frees, no later event of the same batch can name. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

enum { FAREWELL_NS = 2000000000, REAP_AT_ONCE = 256, FLUSH_NS = 5000000 };

int watch(struct launcher *launcher, struct source *source)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = source };
	return epoll_ctl(launcher->epoll, EPOLL_CTL_ADD, source->fd, &event);
}

/* What stays in the set after its owner is freed would be followed into other memory: rather none of this than that. */
static void forget(struct launcher *launcher, const struct source *source)
{
	if (epoll_ctl(launcher->epoll, EPOLL_CTL_DEL, source->fd, NULL) < 0 && errno != ENOENT) /* not watched: as good */
		give_up_all();
}

/* Its descriptor stays open, and is looked at when there is another reason to. */
void ignore(struct launcher *launcher, struct source *source)
{
	forget(launcher, source);
}

/* Removed by name, and only then closed: a child just cloned may still hold the descriptor, and epoll(7) would go on. */
void unwatch(struct launcher *launcher, struct source *source)
{
	if (source->fd < 0)
		return;
	forget(launcher, source);
	drop_fd(&source->fd);
}

/* So many at a time, that deadlines are looked at in between. */
static void reap(struct launcher *launcher)
{
	int status;
	struct rusage usage;

	launcher->more_to_reap = false;
	for (int i = 0; i < REAP_AT_ONCE; i++) {
		pid_t pid = wait4(-1, &status, WNOHANG, &usage);
		if (pid == 0 || (pid < 0 && errno == ECHILD))
			return;
		if (pid < 0)
			continue; /* one that is left is not told of again */
		if (!task_reaped(launcher, pid, status, &usage) && !cell_reaped(launcher, pid))
			note_ended(launcher, pid, status, &usage);
	}
	launcher->more_to_reap = true;
}

void signals_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	while (read(source->fd, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			reap(launcher);
		else
			launcher->over = true;
	}
}

void application_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	(void)source;
	(void)events;
	launcher->over = true; /* a pidfd is readable when its process has ended */
}

/* NULL: no event, no end. */
static const struct timespec *time_left(const struct launcher *launcher, uint64_t farewell, struct timespec *left)
{
	uint64_t next = deadlines_next(launcher), now = now_ns();

	if (launcher->tick_at && launcher->tick_at < next)
		next = launcher->tick_at;
	if (launcher->flush_at && launcher->flush_at < next)
		next = launcher->flush_at;
	if (launcher->refill_at && launcher->refill_at < next)
		next = launcher->refill_at;
	if (launcher->count_at && launcher->count_at < next)
		next = launcher->count_at;
	if (launcher->bury_at && launcher->bury_at < next)
		next = launcher->bury_at;
	if (farewell && farewell < next)
		next = farewell;
	if (next == UINT64_MAX && !launcher->more_to_reap)
		return NULL;
	uint64_t wait = next <= now || launcher->more_to_reap ? 0 : next - now;
	*left = (struct timespec){ .tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000) };
	return left;
}

/* Where a filter of the application's own, such as a container's, does not know epoll_pwait2(2), in whole milliseconds. */
static int wait_for_event(const struct launcher *launcher, uint64_t farewell, struct epoll_event *event)
{
	struct timespec left;
	const struct timespec *timeout = time_left(launcher, farewell, &left);
	int ready = epoll_pwait2(launcher->epoll, event, 1, timeout, NULL);

	if (ready >= 0 || (errno != ENOSYS && errno != EPERM))
		return ready;
	int whole_ms = !timeout ? -1 : left.tv_sec >= 60 ? 60000 : (int)(left.tv_sec * 1000 + (left.tv_nsec + 999999) / 1000000);
	return epoll_wait(launcher->epoll, event, 1, whole_ms);
}

static void watch_for_room(struct launcher *launcher)
{
	struct epoll_event event = {
		.events = launcher->outgoing_first ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = &launcher->supervisor,
	};
	if (launcher->supervisor.fd >= 0)
		(void)epoll_ctl(launcher->epoll, EPOLL_CTL_MOD, launcher->supervisor.fd, &event);
}

static void on_time(struct launcher *launcher)
{
	uint64_t now = now_ns();

	if (launcher->more_to_reap || deadlines_next(launcher) <= now)
		reap(launcher); /* what has ended by itself is not killed */
	if (deadlines_next(launcher) <= now) {
		deadlines_check(launcher, now);
	}
	if (launcher->flush_at && launcher->flush_at <= now) {
		flush_outgoing(launcher);
		launcher->flush_at = launcher->outgoing_first ? now + FLUSH_NS : 0;
	}
	if (launcher->count_at && launcher->count_at <= now)
		tasks_open_counters(launcher);
	graves_tick(launcher);
	if (launcher->tick_at && launcher->tick_at <= now) {
		launcher->tick_at = 0;
		tasks_tick(launcher);
		cells_tick(launcher);
	}
}

static bool refill(struct launcher *launcher)
{
	uint64_t now = now_ns();

	if (!launcher->refill_at || launcher->refill_at > now || launcher->over)
		return false;
	if (!cells_refill(launcher))
		launcher->refill_at = 0;
	return true;
}

/* Until the supervisor is gone and everything that was made is unmade. 0, or -1: something could not be removed. */
int run_loop(struct launcher *launcher)
{
	uint64_t farewell = 0;
	bool waits_for_room = false;

	for (;;) {
		struct epoll_event event;

		if (launcher->over && !farewell) {
			farewell = now_ns() + FAREWELL_NS;
			unwatch(launcher, &launcher->supervisor);
			unwatch(launcher, &launcher->application);
			cells_end_all(launcher);
		}
		if (farewell && now_ns() > farewell)
			return -1;
		if ((launcher->outgoing_first != NULL) != waits_for_room) {
			waits_for_room = !waits_for_room;
			watch_for_room(launcher);
		}
		on_time(launcher);
		if (launcher->over && !launcher->cells && !launcher->tasks)
			return 0;
		int ready = epoll_wait(launcher->epoll, &event, 1, 0);
		if (ready == 0 && !refill(launcher))
			ready = wait_for_event(launcher, farewell, &event);
		if (ready == 1) {
			struct source *source = event.data.ptr;
			source->ready(launcher, source, event.events);
		}
	}
}
