/* A reader and a writer for exactly the frames of control.h; not for msgpack in general (its spec.md has the bytes). */
#include "control.h"

#include <string.h>
#include <sys/socket.h>

enum { FIXMAP = 0x80, FIXSTR = 0xa0, UINT8 = 0xcc, UINT16 = 0xcd, UINT32 = 0xce, UINT64 = 0xcf, MOST_ENTRIES = 4 };

struct input {
	const uint8_t *at;
	const uint8_t *end;
	bool bad;
};

struct word {
	const uint8_t *bytes;
	size_t length;
};

static uint8_t read_byte(struct input *input)
{
	if (input->at == input->end) {
		input->bad = true;
		return 0;
	}
	return *input->at++;
}

/* A string of up to 31 bytes; longer ones are no word of ours. */
static struct word read_word(struct input *input)
{
	uint8_t tag = read_byte(input);
	size_t length = tag & 0x1f;

	if (input->bad || (tag & 0xe0) != FIXSTR || (size_t)(input->end - input->at) < length) {
		input->bad = true;
		return (struct word){ 0 };
	}
	struct word word = { .bytes = input->at, .length = length };
	input->at += length;
	return word;
}

static uint64_t read_number(struct input *input)
{
	uint8_t tag = read_byte(input);
	uint64_t value = 0;

	if (tag < 0x80)
		return tag;
	if (tag < UINT8 || tag > UINT64) {
		input->bad = true;
		return 0;
	}
	for (int bytes = 1 << (tag - UINT8); bytes > 0; bytes--)
		value = value << 8 | read_byte(input);
	return value;
}

static bool is(struct word word, const char *text)
{
	return word.length == strlen(text) && memcmp(word.bytes, text, word.length) == 0;
}

static bool makes_sense(const struct control_request *request, unsigned seen)
{
	enum { PING = 0x3, SOCKET = 0xf };

	switch (request->op) {
	case CONTROL_PING:
		return seen == PING;
	case CONTROL_SOCKET:
		return seen == SOCKET && (request->family == AF_INET || request->family == AF_INET6)
		       && (request->type == SOCK_STREAM || request->type == SOCK_DGRAM);
	}
	return false;
}

bool control_parse(const uint8_t *bytes, size_t size, struct control_request *request)
{
	static const char *const keys[MOST_ENTRIES] = { "op", "n", "family", "type" };
	struct input input = { .at = bytes, .end = bytes + size };
	uint64_t values[MOST_ENTRIES] = { 0 };
	unsigned seen = 0;
	uint8_t tag = read_byte(&input);

	if (input.bad || (tag & 0xf0) != FIXMAP || (tag & 0x0f) > MOST_ENTRIES)
		return false;
	for (int left = tag & 0x0f; left > 0; left--) {
		struct word key = read_word(&input);
		unsigned i = 0;
		while (i < MOST_ENTRIES && (input.bad || !is(key, keys[i])))
			i++;
		if (i == MOST_ENTRIES || (seen >> i & 1))
			return false;
		seen |= 1u << i;
		if (i > 0) {
			values[i] = read_number(&input);
		} else {
			struct word op = read_word(&input);
			if (input.bad)
				return false;
			values[0] = is(op, "ping") ? CONTROL_PING : is(op, "socket") ? CONTROL_SOCKET : 0;
		}
	}
	*request = (struct control_request){
		.op = (enum control_op)values[0], .number = values[1], .family = values[2], .type = values[3],
	};
	return !input.bad && input.at == input.end && makes_sense(request, seen);
}

static size_t put_word(uint8_t *to, const char *text)
{
	size_t length = strlen(text);

	to[0] = (uint8_t)(FIXSTR | length);
	memcpy(to + 1, text, length);
	return 1 + length;
}

static size_t put_number(uint8_t *to, uint64_t value)
{
	to[0] = UINT64;
	for (int i = 0; i < 8; i++)
		to[1 + i] = (uint8_t)(value >> (56 - 8 * i));
	return 9;
}

size_t control_answer(uint8_t frame[CONTROL_FRAME], const struct control_request *request, int error)
{
	bool socket = request->op == CONTROL_SOCKET;
	size_t at = 0;

	frame[at++] = (uint8_t)(FIXMAP | (socket ? 3 : 2));
	at += put_word(frame + at, "op");
	at += put_word(frame + at, socket ? "socket" : "pong");
	at += put_word(frame + at, "n");
	at += put_number(frame + at, request->number);
	if (socket) {
		at += put_word(frame + at, "errno");
		at += put_number(frame + at, (uint64_t)error);
	}
	return at;
}
