/* What a parked process makes of the order to become a program: native/enter.c, from the message to the exec, without what
 * would change the fuzzer's own process. Input: flags; what execve(2) says, time by time; the payload. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"

enum { MOST_EXECS = 15 };

static uint8_t exec_errors[MOST_EXECS];
static unsigned execs, rlimits;

static int record_rlimit(int resource, const struct rlimit *limit)
{
	(void)resource;
	rlimits++;
	if (limit->rlim_cur <= limit->rlim_max)
		return 0;
	errno = EINVAL;
	return -1;
}

static int record_directory(const char *path)
{
	if (strlen(path))
		return 0;
	errno = ENOENT;
	return -1;
}

static int record_exec(const char *path, char *const *argv, char *const *envp)
{
	static const int errors[] = { ENOENT, ENOTDIR, EACCES, ENOEXEC };
	size_t length = strlen(path), name = strlen(argv[0]);

	MUST(length >= name && strcmp(path + length - name, argv[0]) == 0);
	MUST(length == name || (length < 4096 && path[length - name - 1] == '/'));
	for (char *const *at = envp; *at; at++)
		(void)strlen(*at);
	errno = errors[exec_errors[execs++ % MOST_EXECS] % 4];
	return -1;
}

#define setrlimit(resource, limit) record_rlimit(resource, limit)
#define chdir(path) record_directory(path)
#define execve(path, argv, envp) record_exec(path, argv, envp)
#define dup2(from, to) ((from) < 0 ? -1 : (to))
#define setsid() 0
#define ioctl(fd, request, value) 0
#include "enter.c"
#undef dup2

/* credentials.c would give up the fuzzer's own. */
int reduce_bounding_set(uint64_t kept, struct failure *failure)
{
	(void)kept;
	(void)failure;
	return 0;
}

int drop_credentials(uint32_t uid, uint32_t gid, uint64_t kept, struct failure *failure)
{
	(void)uid;
	(void)gid;
	(void)kept;
	(void)failure;
	return 0;
}

static int launcher, first_free;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int pair[2];

	(void)argc;
	(void)argv;
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	launcher = fcntl(pair[0], F_DUPFD_CLOEXEC, 10);
	MUST(launcher >= 0 && (pair[1] == CONTROL || dup2(pair[1], CONTROL) == CONTROL));
	first_free = launcher + 1;
	return 0;
}

/* As native/task.c does, which has made sure that the size is true. */
static void send_order(uint8_t flags, const char *payload, size_t size)
{
	struct down down = { .type = DOWN_EXEC, .id = 1, .parent = 1, .payload_size = size };
	bool large = (flags & 4) && size;
	struct iovec parts[2] = {
		{ .iov_base = &down, .iov_len = sizeof down },
		{ .iov_base = (void *)(uintptr_t)payload, .iov_len = large ? 0 : size },
	};
	int fds[4];

	down.flags = ((flags & 1) ? EXEC_TERMINAL : 0) | ((flags & 2) ? EXEC_WARM : 0);
	for (int i = 0; i < 3; i++)
		MUST((fds[i] = fcntl(launcher, F_DUPFD_CLOEXEC, first_free)) >= 0);
	if (large) {
		fds[3] = memfd_create("payload", MFD_CLOEXEC);
		MUST(fds[3] >= 0 && write(fds[3], payload, size) == (ssize_t)size);
	}
	MUST(send_parts(launcher, parts, 2, fds, large ? 4 : 3) == 0);
}

/* The array is a mapping, which an exec would end. */
static void let_go(char **strings, const char *start, const char *end)
{
	size_t count = 0;

	for (; strings && strings[count]; count++)
		MUST(strings[count][0] == '\0' || (strings[count] >= start && strings[count] + strlen(strings[count]) < end));
	if (strings)
		MUST(munmap(strings, (count + 1) * sizeof *strings) == 0);
}

static void become(uint8_t flags, struct order *order)
{
	struct entrance entrance = { .capabilities = (flags & 8) ? 0xfb : 0 };
	struct program program = { 0 };
	struct failure failure = { 0 };
	struct child_message message;
	size_t size = (size_t)(order->rest.end - order->rest.at);
	char *copy = malloc(size ? size : 1); /* with nothing behind it that could be read unseen */

	MUST(copy);
	memcpy(copy, order->rest.at, size);
	order->rest.at = copy;
	order->rest.end = copy + size;
	if (prepare_program(&entrance, order, true, &program, &failure) == 0) {
		MUST(!order->rest.bad && program.argv[0]);
		MUST(recv(launcher, &message, sizeof message, MSG_DONTWAIT) == sizeof message && message.word == CHILD_EXECS);
		(void)execute(&program, &failure); /* comes back: nothing was executed */
		MUST(failure.stage == STAGE_EXEC);
	}
	MUST(failure.stage && failure.error);
	let_go(program.argv, copy, copy + size);
	let_go(program.envp, copy, copy + size);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input input = { .at = bytes, .end = bytes + size };
	uint8_t flags = take_byte(&input);
	struct order order = { .stdio = { -1, -1, -1 } };
	struct failure failure = { 0 };

	execs = rlimits = 0;
	for (int i = 0; i < MOST_EXECS; i++)
		exec_errors[i] = take_byte(&input);
	size_t length = INLINE_PAYLOAD;
	char *payload = take_bytes(&input, &length);
	send_order(flags, payload, length);
	int received = receive_order(&order, &failure);
	const char *start = order.rest.end - length;
	if (received == 0)
		become(flags, &order);
	else
		MUST(failure.stage == STAGE_PROTOCOL);
	if ((flags & 4) && length)
		MUST(munmap((void *)(uintptr_t)start, length) == 0);
	free(payload);
	(void)sys_close_range((unsigned)first_free, ~0u, 0);
	return 0;
}
