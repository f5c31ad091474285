/* The frames of the control channel: what PID 1 makes of any bytes. */
#include "control.h"
#include "fuzz.h"

#include <sys/socket.h>

/* The same request, written by the general rules of msgpack. */
static size_t write_again(uint8_t *to, const struct control_request *request)
{
	static const char *const keys[] = { "n", "family", "type" };
	const uint64_t values[] = { request->number, request->family, request->type };
	bool socket = request->op == CONTROL_SOCKET;
	size_t at = 0;

	to[at++] = (uint8_t)(0x80 | (socket ? 4 : 2));
	for (int i = 0; i < (socket ? 3 : 1); i++) {
		to[at++] = (uint8_t)(0xa0 | strlen(keys[i]));
		memcpy(to + at, keys[i], strlen(keys[i]));
		at += strlen(keys[i]);
		to[at++] = 0xcf;
		for (int shift = 56; shift >= 0; shift -= 8)
			to[at++] = (uint8_t)(values[i] >> shift);
	}
	const char *op = socket ? "\xa2op\xa6socket" : "\xa2op\xa4ping";
	memcpy(to + at, op, strlen(op));
	return at + strlen(op);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct control_request request, again;
	uint8_t frame[CONTROL_FRAME];

	if (!control_parse(bytes, size, &request))
		return 0;
	MUST(size < CONTROL_FRAME);
	if (request.op == CONTROL_SOCKET) {
		MUST(request.family == AF_INET || request.family == AF_INET6);
		MUST(request.type == SOCK_STREAM || request.type == SOCK_DGRAM);
	} else {
		MUST(request.op == CONTROL_PING);
	}
	size_t length = write_again(frame, &request);
	MUST(control_parse(frame, length, &again));
	MUST(again.op == request.op && again.number == request.number && again.family == request.family && again.type == request.type);
	for (size_t less = 0; less < size; less++) { /* no request begins another one */
		uint8_t *start = malloc(less ? less : 1);
		MUST(start);
		memcpy(start, bytes, less);
		MUST(!control_parse(start, less, &again));
		free(start);
	}
	uint8_t *answer = malloc(CONTROL_FRAME);
	MUST(answer);
	length = control_answer(answer, &request, (int)(request.number & 0xfff));
	MUST(length < CONTROL_FRAME && !control_parse(answer, length, &again));
	free(answer);
	return 0;
}
