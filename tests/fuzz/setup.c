/* The first message to the launcher. Input: how many descriptors come along; whether its size is true; the message. */
#define main launcher_main
#include "main.c"
#undef main

#include "fuzz.h"

#include <stdio.h>

static int supervisor, first_free;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int pair[2];

	(void)argc;
	(void)argv;
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	supervisor = fcntl(pair[0], F_DUPFD_CLOEXEC, 10);
	MUST(supervisor >= 0 && (pair[1] == SOCKET || dup2(pair[1], SOCKET) == SOCKET));
	first_free = supervisor + 1;
	return 0;
}

static void must_be_whole(const struct launcher *launcher, unsigned passed)
{
	MUST(launcher->hierarchy_count <= MAX_HIERARCHIES && launcher->counter_count <= MAX_COUNTERS);
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++) {
		const struct hierarchy *hierarchy = &launcher->hierarchies[i];
		MUST(fcntl(hierarchy->base, F_GETFD) >= 0 && fcntl(hierarchy->parent, F_GETFD) >= 0);
		MUST(hierarchy->base != hierarchy->parent);
		MUST(strlen(hierarchy->name) < launcher->setup.size);
	}
	for (uint32_t i = 0; i < launcher->counter_count; i++) {
		const struct counter *counter = &launcher->counters[i];
		MUST(counter->slot < MAX_COUNTERS && counter->hierarchy < launcher->hierarchy_count);
		MUST(strlen(counter->file) + strlen(counter->key) < launcher->setup.size);
	}
	unsigned named = 2 * launcher->hierarchy_count + (launcher->answers >= 0) + (launcher->id_lock >= 0);
	MUST(named == passed); /* each descriptor has its place */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct launcher launcher;
	struct input input = { .at = bytes, .end = bytes + size };
	unsigned count = take_byte(&input) % (MAX_FDS + 1);
	bool true_size = take_byte(&input) % 8;
	size_t length = sizeof(struct down) + INLINE_PAYLOAD;
	char *packet = take_bytes(&input, &length);
	struct failure failure = { 0 };
	int fds[MAX_FDS];

	if (length >= sizeof(struct down) && true_size) {
		uint64_t payload_size = length - sizeof(struct down);
		memcpy(packet + offsetof(struct down, payload_size), &payload_size, sizeof payload_size);
	}
	for (unsigned i = 0; i < count; i++)
		MUST((fds[i] = fcntl(supervisor, F_DUPFD_CLOEXEC, first_free)) >= 0);
	launcher = (struct launcher){ .answers = -1, .id_lock = -1, .epoll = -1 };
	if (length && send_packet(supervisor, packet, length, fds, count) == 0) { /* none at all is the end of the supervisor */
		if (receive_setup(&launcher, &failure) == 0)
			must_be_whole(&launcher, count);
		else
			MUST(failure.stage == STAGE_PROTOCOL && failure.error);
		payload_close(&launcher.setup);
	}
	(void)sys_close_range((unsigned)first_free, ~0u, 0);
	free(packet);
	return 0;
}
