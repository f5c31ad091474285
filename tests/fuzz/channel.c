/* The launcher's bookkeeping: whatever the supervisor, PID 1, a program's process or a warm interpreter says, in any order,
 * with processes that end at any moment. All of it is the launcher's own code, but for the system calls below: processes
 * are numbers, and what /proc and cgroups say is the input's.
 *
 * Input: steps, each a byte that says which, and what it takes. In the end every execution must have been answered once,
 * and no sandbox, execution or descriptor is left. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define sys_clone3 clone3_of_the_kernel
#define write_file_at write_file_of_the_kernel
#define read_file_at read_file_of_the_kernel
#define sys_pidfd_send_signal signal_of_the_kernel
#include "sys.c"
#undef sys_clone3
#undef write_file_at
#undef read_file_at
#undef sys_pidfd_send_signal

#include "fuzz.h"
#include "launcher.h"
#include "warm.h"

pid_t sys_clone3(struct clone_args *args);
int write_file_at(int dir, const char *path, const char *value);
ssize_t read_file_at(int dir, const char *path, char *buffer, size_t size);
int sys_pidfd_send_signal(int pidfd, int signal);

enum {
	MOST_STEPS = 64,
	MOST_ENDS = 128,
	MOST_PIDS = 512,
	MOST_EXECUTIONS = 64,
	MOST_LOOKS = 256,
	MOST_ROUNDS = 64,
	FIRST_PID = 1000,
	LONGEST_FILE = 255,
};

static int supervisor;
static int directory; /* in which no cgroup is to be found */
static int anything; /* a descriptor to pass on */
static int proc;

/* What is new with each input. */
static struct world {
	struct launcher launcher;
	int ends[MOST_ENDS];  /* what children hold of socket pairs */
	int peers[MOST_ENDS]; /* the launcher's ends, by number only: it has closed some */
	unsigned end_count;
	bool dead[MOST_PIDS];
	int pids;
	unsigned executions, answered[MOST_EXECUTIONS + 1];
	uint8_t refusals; /* one bit each: system calls that are refused */
	char file[LONGEST_FILE + 1];
} world;

/* The kernel, as far as the launcher sees it. */

static bool refused(unsigned which, int error)
{
	errno = error;
	return world.refusals >> which & 1;
}

pid_t sys_clone3(struct clone_args *args)
{
	if (world.pids == MOST_PIDS || refused(0, EAGAIN))
		return -1;
	if (args->flags & CLONE_PIDFD) {
		int *pidfd = (int *)(uintptr_t)args->pidfd;
		*pidfd = fcntl(anything, F_DUPFD_CLOEXEC, 3);
		MUST(*pidfd >= 0);
	}
	return FIRST_PID + world.pids++;
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
	if (refused(1, EMFILE) || syscall(SYS_socketpair, domain, type, protocol, pair) < 0)
		return -1;
	if (world.end_count < MOST_ENDS) {
		world.peers[world.end_count] = pair[0];
		world.ends[world.end_count] = fcntl(pair[1], F_DUPFD_CLOEXEC, 3);
		MUST(world.ends[world.end_count++] >= 0);
	}
	return 0;
}

int write_file_at(int dir, const char *path, const char *value)
{
	(void)dir;
	MUST(strlen(path) < 256 && strlen(value) <= INLINE_PAYLOAD * 2);
	return refused(2, EINVAL) ? -1 : 0;
}

ssize_t read_file_at(int dir, const char *path, char *buffer, size_t size)
{
	size_t length = strlen(world.file);

	(void)dir;
	MUST(strlen(path) < 256 && size);
	if (refused(3, ENOENT))
		return -1;
	length = length < size - 1 ? length : size - 1;
	memcpy(buffer, world.file, length);
	buffer[length] = '\0';
	return (ssize_t)length;
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	(void)dir;
	(void)mode;
	MUST(strlen(path) < CGROUP_PATH + 8);
	return refused(4, ENOSPC) ? -1 : 0;
}

int unlinkat(int dir, const char *path, int flags)
{
	(void)dir;
	(void)flags;
	MUST(strlen(path) < CGROUP_PATH + 8);
	return refused(5, EBUSY) ? -1 : 0;
}

int fchown(int fd, uid_t owner, gid_t group)
{
	(void)owner;
	(void)group;
	MUST(fcntl(fd, F_GETFD) >= 0);
	return refused(6, EPERM) ? -1 : 0;
}

int sys_pidfd_send_signal(int pidfd, int signal)
{
	MUST(signal == SIGKILL || signal == SIGINT);
	MUST(fcntl(pidfd, F_GETFD) >= 0);
	return 0;
}

int kill(pid_t pid, int signal)
{
	MUST(signal == SIGINT && -pid >= FIRST_PID && -pid < FIRST_PID + world.pids);
	return refused(7, ESRCH) ? -1 : 0;
}

int setns(int fd, int type)
{
	bool comes_back = fd == world.launcher.router; /* else the launcher ends */

	MUST(type == CLONE_NEWPID || (type == CLONE_NEWNET && fcntl(fd, F_GETFD) >= 0));
	return type == CLONE_NEWNET && !comes_back && refused(3, ESRCH) ? -1 : 0;
}

int unshare(int flags)
{
	errno = EPERM;
	return flags == CLONE_NEWNET && !(world.refusals >> 4 & 1) ? 0 : -1;
}

int ioctl(int fd, unsigned long request, ...)
{
	MUST(fcntl(fd, F_GETFD) >= 0 && request == SIOCSIFFLAGS);
	return refused(6, EPERM) ? -1 : 0;
}

/* What comes of a step. */

static void hear_as_supervisor(void)
{
	struct { struct up record; char more; } told;
	int fds[MAX_FDS];
	unsigned fd_count;
	ssize_t length;

	while ((length = receive_packet(supervisor, &told, sizeof told, fds, MAX_FDS, &fd_count)) > 0) {
		const struct up *up = &told.record;
		MUST(length == sizeof *up);
		MUST(up->type >= UP_DONE && up->type <= UP_STARTED);
		MUST(up->type != UP_FAILED || (up->stage && up->error));
		if (up->of == DOWN_EXEC && (up->type == UP_EXITED || up->type == UP_FAILED) && up->id)
			MUST(up->id <= world.executions && world.answered[up->id]++ == 0);
		for (unsigned i = 0; i < fd_count; i++)
			drop_fd(&fds[i]);
	}
}

/* Children read what they are sent, or the launcher would wait for them. */
static void hear_as_children(void)
{
	static char packet[sizeof(struct down) + INLINE_PAYLOAD];
	int fds[MAX_FDS];
	unsigned fd_count;

	for (unsigned i = 0; i < world.end_count; i++) {
		int flags = world.ends[i] < 0 ? -1 : fcntl(world.ends[i], F_GETFL);
		if (flags < 0 || fcntl(world.ends[i], F_SETFL, flags | O_NONBLOCK) < 0)
			continue;
		while (receive_packet(world.ends[i], packet, sizeof packet, fds, MAX_FDS, &fd_count) > 0)
			while (fd_count)
				drop_fd(&fds[--fd_count]);
	}
}

/* As run_loop has it: one event at a time. */
static void run(void)
{
	struct launcher *launcher = &world.launcher;
	struct epoll_event event;

	for (int i = 0; i < MOST_LOOKS && epoll_wait(launcher->epoll, &event, 1, 0) == 1; i++) {
		struct source *source = event.data.ptr;
		source->ready(launcher, source, event.events);
		hear_as_supervisor();
	}
	flush_outgoing(launcher);
	hear_as_supervisor();
	hear_as_children();
}

static void end_process(int index, int status)
{
	struct rusage usage = { 0 };

	if (world.dead[index])
		return;
	world.dead[index] = true;
	pid_t pid = FIRST_PID + index;
	if (!task_reaped(&world.launcher, pid, status, &usage) && !cell_reaped(&world.launcher, pid))
		note_ended(&world.launcher, pid, status, &usage);
}

static void let_time_pass(uint8_t which)
{
	struct launcher *launcher = &world.launcher;

	if (which & 1)
		deadlines_check(launcher, now_ns() + ((uint64_t)which << 32));
	if (which & 2) {
		launcher->bury_at = launcher->bury_at ? 1 : 0;
		graves_tick(launcher);
	}
	if (which & 4)
		(void)cells_refill(launcher);
	launcher->tick_at = 0;
	tasks_tick(launcher);
	cells_tick(launcher);
}

/* Steps. */

static unsigned make_fds(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		MUST((fds[i] = fcntl(anything, F_DUPFD_CLOEXEC, 3)) >= 0);
	return count;
}

static void send_as(int socket, const void *packet, size_t size, unsigned fd_count)
{
	int fds[MAX_FDS];
	struct iovec part = { .iov_base = (void *)(uintptr_t)packet, .iov_len = size };

	fd_count = make_fds(fds, fd_count);
	if (socket >= 0 && size) /* nothing at all is the end of who sends it */
		(void)send_parts(socket, &part, 1, fds, fd_count); /* who is gone does not hear it */
	while (fd_count)
		drop_fd(&fds[--fd_count]);
}

static void ask(struct input *input)
{
	struct down down = { .type = take_byte(input), .id = take_byte(input), .parent = take_byte(input), .flags = take_byte(input) };
	uint8_t how = take_byte(input);
	size_t size = take_byte(input);
	size += (size_t)take_byte(input) << 8;
	char *payload = take_bytes(input, &size);
	char *packet = malloc(sizeof down + size);
	int fds[MAX_FDS];
	unsigned count = make_fds(fds, how % 5);
	bool large = how & 0x40;

	MUST(packet);
	if (down.type == DOWN_EXEC) {
		if (world.executions == MOST_EXECUTIONS)
			down.type = DOWN_INTERRUPT;
		else
			down.id = ++world.executions;
	}
	down.payload_size = size + (how >= 0xc0);
	if (large) {
		down.payload_size += INLINE_PAYLOAD + 1;
		fds[count++] = memfd_create("payload", MFD_CLOEXEC);
		MUST(fds[count - 1] >= 0 && write(fds[count - 1], payload, size) == (ssize_t)size);
		MUST(ftruncate(fds[count - 1], INLINE_PAYLOAD + 1 + (off_t)size) == 0);
	}
	memcpy(packet, &down, sizeof down);
	memcpy(packet + sizeof down, payload, size);
	MUST(send_packet(supervisor, packet, sizeof down + (large ? 0 : size), fds, count) == 0);
	while (count)
		drop_fd(&fds[--count]);
	free(packet);
	free(payload);
}

static unsigned an_end(struct input *input)
{
	uint8_t which = take_byte(input);
	return world.end_count ? which % world.end_count : MOST_ENDS;
}

static bool reads_child_messages(unsigned end)
{
	for (struct cell *cell = world.launcher.cells; cell; cell = cell->next)
		if (cell->control.fd == world.peers[end])
			return true;
	for (struct task *task = world.launcher.tasks; task; task = task->next)
		if (task->control.fd == world.peers[end])
			return true;
	return false;
}

static size_t read_there(unsigned end)
{
	return reads_child_messages(end) ? sizeof(struct child_message) : sizeof(struct warm_answer);
}

static void say(unsigned end, const void *message, size_t size, unsigned fd_count)
{
	if (end < MOST_ENDS)
		send_as(world.ends[end], message, size, fd_count);
}

static void say_as_child(struct input *input)
{
	unsigned end = an_end(input);
	struct child_message message = { .word = take_byte(input) };

	message.failure = (struct failure){ .stage = STAGE_LAUNCHER + take_byte(input) % STAGE_WARM, .error = EIO };
	message.wait_status = take_byte(input) << 8;
	say(end, &message, sizeof message, take_byte(input) % 6);
}

static void say_as_interpreter(struct input *input)
{
	unsigned end = an_end(input);
	struct warm_answer answer = { .word = take_byte(input) };

	answer.number = world.launcher.next_number - take_byte(input) % 4;
	answer.error = 1 + take_byte(input);
	if (answer.word == WARM_BORN && world.pids < MOST_PIDS)
		answer.pid = FIRST_PID + world.pids++;
	say(end, &answer, sizeof answer, take_byte(input) % 3);
}

static void say_anything_as_child(struct input *input)
{
	unsigned end = an_end(input);
	size_t size = take_byte(input);
	char *bytes = take_bytes(input, &size);

	if (end < MOST_ENDS && size != read_there(end)) /* the launcher believes whole ones: they are its own kind's */
		say(end, bytes, size, size % 4);
	free(bytes);
}

static void say_anything_as_supervisor(struct input *input)
{
	size_t size = take_byte(input);
	char *bytes = take_bytes(input, &size);
	uint32_t type = 0;

	memcpy(&type, bytes, size < sizeof type ? size : sizeof type);
	if (type != DOWN_EXEC) /* those are counted */
		send_as(supervisor, bytes, size, take_byte(input) % 6);
	free(bytes);
}

static void change_kernel(struct input *input)
{
	world.refusals = take_byte(input);
	size_t size = take_byte(input);
	char *text = take_bytes(input, &size);
	memcpy(world.file, text, size);
	world.file[size] = '\0';
	free(text);
}

static void step(struct input *input)
{
	switch (take_byte(input) % 9) {
	case 0:
		ask(input);
		break;
	case 1:
		say_as_child(input);
		break;
	case 2:
		say_as_interpreter(input);
		break;
	case 3:
		say_anything_as_child(input);
		break;
	case 4:
		say_anything_as_supervisor(input);
		break;
	case 5: {
		unsigned which = take_byte(input);
		uint8_t status = take_byte(input);
		if (world.pids)
			end_process((int)(which % (unsigned)world.pids), status & 0x80 ? SIGKILL : status << 8);
		break;
	}
	case 6:
		change_kernel(input);
		break;
	case 7:
		let_time_pass(take_byte(input));
		break;
	default: { /* its exec, or its end */
		unsigned which = take_byte(input);
		if (world.end_count)
			drop_fd(&world.ends[which % world.end_count]);
	}
	}
	run();
}

/* The beginning and the end. */

static void add_template(uint32_t id, uint32_t hierarchies)
{
	static const struct sock_filter allow = { .code = BPF_RET | BPF_K, .k = 0x7fff0000 };
	struct template *template = calloc(1, sizeof *template);

	MUST(template);
	*template = (struct template){
		.next = world.launcher.templates, .id = id, .hierarchies = hierarchies, .spares = 1, .hostname = "sandbox",
		.init_id = 65533, .mounts = -1, .payload = { .memfd = -1 }, .filter_notifies = true, .filter_early = true,
		.filter = { .len = 1, .filter = malloc(sizeof allow) },
	};
	MUST(template->filter.filter);
	memcpy(template->filter.filter, &allow, sizeof allow);
	for (unsigned i = 0; i < MAX_FDS; i++)
		template->devices[i] = -1;
	world.launcher.templates = template;
}

static void begin(void)
{
	struct launcher *launcher = &world.launcher;
	int pair[2];

	world = (struct world){ .launcher = {
		.proc = proc, .pid_namespace = directory, .host_mounts = -1, .router = -1, .answers = -1, .id_lock = -1,
	} };
	MUST(syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	supervisor = pair[0];
	launcher->supervisor = (struct source){ .ready = channel_ready, .fd = pair[1] };
	launcher->epoll = epoll_create1(EPOLL_CLOEXEC);
	MUST(launcher->epoll >= 0 && watch(launcher, &launcher->supervisor) == 0);
	launcher->ids = (struct id_map){ .outside = 0x70000000, .count = 65536 };
	launcher->hierarchies[0] = (struct hierarchy){ .base = directory, .parent = directory, .name = "v2", .born_inside = true, .per_execution = true };
	launcher->hierarchies[1] = (struct hierarchy){ .base = directory, .parent = directory, .name = "v1", .per_execution = true };
	launcher->hierarchy_count = 2;
	launcher->counters[0] = (struct counter){ .slot = 0, .of_execution = 1, .file = "cpu.stat", .key = "usage_usec" };
	launcher->counters[1] = (struct counter){ .slot = 4, .hierarchy = 1, .of_execution = 1, .file = "memory.oom_control", .key = "oom_kill" };
	launcher->counters[2] = (struct counter){ .slot = 9, .file = "pids.peak", .key = "" };
	launcher->counter_count = 3;
	add_template(1, 1);
	add_template(2, 3); /* nothing can be parked there: there is no cgroup.procs to open */
}

static bool over(void)
{
	return !world.launcher.tasks && !world.launcher.cells;
}

static void end_all_processes(void)
{
	for (int i = 0; i < world.pids; i++)
		end_process(i, SIGKILL);
	let_time_pass(0);
	run();
}

static void end(void)
{
	struct launcher *launcher = &world.launcher;

	world.refusals = 0;
	for (unsigned i = 0; i < world.end_count; i++)
		drop_fd(&world.ends[i]);
	run();
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->id)
			cell_destroy(launcher, cell->id);
	for (int i = 0; i < MOST_ROUNDS && launcher->tasks; i++)
		end_all_processes();
	for (unsigned i = 1; i <= world.executions; i++)
		MUST(world.answered[i] == 1 || !"an execution was not answered");
	launcher->over = true;
	unwatch(launcher, &launcher->supervisor);
	cells_end_all(launcher);
	for (int i = 0; i < MOST_ROUNDS && !over(); i++)
		end_all_processes();
	MUST(over());
	while (launcher->templates)
		template_forget(launcher, launcher->templates->id);
	flush_outgoing(launcher);
	leave_graves(launcher);
	drop_fd(&launcher->router);
	MUST(close(launcher->epoll) == 0 && close(supervisor) == 0);
}

static unsigned count_fds(void)
{
	DIR *listing = opendir("/proc/self/fd");
	unsigned count = 0;

	MUST(listing);
	while (readdir(listing))
		count++;
	(void)closedir(listing);
	return count;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	directory = open("/proc/self/fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC);
	anything = eventfd(0, EFD_CLOEXEC);
	proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	MUST(directory >= 0 && anything >= 0 && proc >= 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input input = { .at = bytes, .end = bytes + size };
	unsigned before = count_fds();

	begin();
	for (int i = 0; i < MOST_STEPS && left(&input); i++)
		step(&input);
	end();
	MUST(count_fds() == before);
	return 0;
}
