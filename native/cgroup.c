/* cgroups, without knowing which controller does what: the supervisor names every file, value and counter. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

void cell_path(const struct cell *cell, char *path)
{
	(void)snprintf(path, CGROUP_PATH, "s%u", cell->number);
}

void task_path(const struct task *task, char *path)
{
	(void)snprintf(path, CGROUP_PATH, "s%u/e%u", task->cell->number, task->number);
}

static bool used(const struct launcher *launcher, uint32_t hierarchies, uint32_t index, bool execution)
{
	return (hierarchies >> index & 1) && (!execution || launcher->hierarchies[index].per_execution);
}

int cgroup_make(struct launcher *launcher, uint32_t hierarchies, const char *path, bool execution, struct failure *failure)
{
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if (used(launcher, hierarchies, i, execution) && mkdirat(launcher->hierarchies[i].base, path, 0755) < 0)
			return fail(failure, STAGE_CGROUP, (int)i);
	return 0;
}

int cgroup_write(struct launcher *launcher, uint32_t hierarchies, const char *path, const struct write *writes,
                 uint32_t count, struct failure *failure)
{
	char file[CGROUP_PATH + 128];

	for (uint32_t i = 0; i < count; i++) {
		const struct write *write = &writes[i];
		if (write->hierarchy >= launcher->hierarchy_count || !(hierarchies >> write->hierarchy & 1)) {
			errno = EPROTO;
			return fail(failure, STAGE_LIMIT, (int)i);
		}
		(void)snprintf(file, sizeof file, "%s/%s", path, write->file);
		if (write_file_at(launcher->hierarchies[write->hierarchy].base, file, write->value) < 0)
			return fail(failure, STAGE_LIMIT, (int)i);
	}
	return 0;
}

void close_joins(int *joins)
{
	for (uint32_t i = 0; i < MAX_HIERARCHIES; i++)
		drop_fd(&joins[i]);
}

/* The child, which has one thread, writes itself into `tasks`; the kernel looks at who opened it. Only for a thread that
 * moves itself the kernel needs no cgroup_threadgroup_rwsem: a writer of cgroup.procs, or of another's pid, waits for an
 * RCU grace period after every pause, 10 to 20 ms, and with it waits whoever makes or removes a cgroup. */
int cgroup_open_joins(struct launcher *launcher, uint32_t hierarchies, const char *cell, const char *task, int *joins,
                      struct failure *failure)
{
	char file[CGROUP_PATH + 16];

	for (uint32_t i = 0; i < MAX_HIERARCHIES; i++)
		joins[i] = -1;
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++) {
		const struct hierarchy *hierarchy = &launcher->hierarchies[i];
		if (!(hierarchies >> i & 1) || hierarchy->born_inside)
			continue;
		(void)snprintf(file, sizeof file, "%s/tasks", hierarchy->per_execution ? task : cell);
		joins[i] = openat(hierarchy->base, file, O_WRONLY | O_CLOEXEC);
		if (joins[i] < 0) {
			(void)fail(failure, STAGE_CGROUP, (int)i);
			close_joins(joins);
			return -1;
		}
	}
	return 0;
}

static const struct hierarchy *version_2(const struct launcher *launcher, uint32_t hierarchies)
{
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if ((hierarchies >> i & 1) && launcher->hierarchies[i].born_inside)
			return &launcher->hierarchies[i];
	return NULL;
}

int cgroup_open_v2(struct launcher *launcher, uint32_t hierarchies, const char *path)
{
	const struct hierarchy *hierarchy = version_2(launcher, hierarchies);
	return hierarchy ? openat(hierarchy->base, path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
}

bool cgroup_kill(struct launcher *launcher, uint32_t hierarchies, const char *path)
{
	const struct hierarchy *hierarchy = version_2(launcher, hierarchies);
	char file[CGROUP_PATH + 16];

	if (!hierarchy)
		return false;
	(void)snprintf(file, sizeof file, "%s/cgroup.kill", path);
	return write_file_at(hierarchy->base, file, "1") == 0;
}

/* False while a process in it is still dying: try again in a moment. Waiting for the notification of cgroup.events
 * would be later, it is held back for up to 15 ms. Where there is a version 2, true says that all of the group is dead. */
bool cgroup_remove_v2(struct launcher *launcher, uint32_t hierarchies, const char *path)
{
	const struct hierarchy *hierarchy = version_2(launcher, hierarchies);
	return !hierarchy || unlinkat(hierarchy->base, path, AT_REMOVEDIR) == 0 || errno == ENOENT;
}

/* The same for the directories of version 1, which go when that of version 2 is gone. */
bool cgroup_remove_v1(struct launcher *launcher, uint32_t hierarchies, const char *path, bool execution)
{
	bool gone = true;

	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		if (used(launcher, hierarchies, i, execution) && !launcher->hierarchies[i].born_inside
		    && unlinkat(launcher->hierarchies[i].base, path, AT_REMOVEDIR) < 0 && errno != ENOENT)
			gone = false;
	return gone;
}

static uint64_t find_number(const char *text, const char *key)
{
	size_t length = strlen(key);

	if (!length)
		return strtoull(text, NULL, 10);
	/* "key N" on a line of its own, or the sum of "key=N" over the lines of io.stat and of "8:0 Read N" in blkio */
	uint64_t sum = 0;
	bool found = false;
	for (const char *at = text; (at = strstr(at, key)); at += length) {
		char before = at == text ? '\n' : at[-1];
		if ((before == '\n' || before == ' ') && (at[length] == ' ' || at[length] == '=')) {
			sum += strtoull(at + length + 1, NULL, 10);
			found = true;
		}
	}
	return found ? sum : UINT64_MAX;
}

uint64_t cgroup_count(struct launcher *launcher, uint32_t hierarchies, const struct counter *counter, const char *cell,
                      const char *task)
{
	struct counted counted = { .hierarchy = UINT32_MAX };
	return cgroup_count_in(launcher, hierarchies, counter, -1, cell, task, &counted);
}

static void counter_path(const struct counter *counter, const char *cell, const char *task, char path[CGROUP_PATH + 128])
{
	(void)snprintf(path, CGROUP_PATH + 128, "%s/%s", counter->of_execution ? task : cell, counter->file);
}

static bool of_one_file(const struct counter *one, const struct counter *other)
{
	return one->hierarchy == other->hierarchy && one->of_execution == other->of_execution
	       && strcmp(one->file, other->file) == 0;
}

void cgroup_open_counters(struct launcher *launcher, uint32_t hierarchies, const char *cell, const char *task, int *counters)
{
	char path[CGROUP_PATH + 128];

	for (uint32_t i = 0; i < launcher->counter_count; i++) {
		const struct counter *counter = &launcher->counters[i];
		if (counters[i] >= 0 || !(hierarchies >> counter->hierarchy & 1) || (i && of_one_file(counter, counter - 1)))
			continue;
		counter_path(counter, cell, task, path);
		counters[i] = openat(launcher->hierarchies[counter->hierarchy].base, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	}
}

static ssize_t read_open(int fd, char *buffer, size_t size)
{
	ssize_t length = pread(fd, buffer, size - 1, 0);
	if (length >= 0)
		buffer[length] = '\0';
	return length;
}

/* Several counters of one file are read at once: a read costs some 10 us, and every execution pays for all of them. */
uint64_t cgroup_count_in(struct launcher *launcher, uint32_t hierarchies, const struct counter *counter, int open,
                         const char *cell, const char *task, struct counted *last)
{
	char path[CGROUP_PATH + 128];

	if (!(hierarchies >> counter->hierarchy & 1))
		return UINT64_MAX;
	counter_path(counter, cell, task, path);
	if (last->hierarchy != counter->hierarchy || strcmp(last->path, path) != 0) {
		last->hierarchy = counter->hierarchy;
		strcpy(last->path, path);
		last->length = open >= 0
			? read_open(open, last->text, sizeof last->text)
			: read_file_at(launcher->hierarchies[counter->hierarchy].base, path, last->text, sizeof last->text);
	}
	return last->length <= 0 ? UINT64_MAX : find_number(last->text, counter->key);
}
