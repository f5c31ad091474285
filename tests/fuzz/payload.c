/* The reader of payloads. Input: how the payload comes; how many reads; what each reads; the payload. */
#define _GNU_SOURCE
#include "payload.h"
#include "fuzz.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

enum way { EXACT = 0, INLINE = 1, MEMFD = 2, WAYS = 3 };

static const char *start, *end;

static void must_lie_in_payload(const char *bytes, size_t size)
{
	MUST(bytes >= start && bytes < end && (size_t)(end - bytes) > size && bytes[size] == '\0');
}

static void read_one(struct reader *reader, uint8_t what)
{
	bool was_bad = reader->bad;
	const char *before = reader->at;
	uint32_t length;

	switch (what % 5) {
	case 0: {
		uint32_t value = read_u32(reader);
		MUST(!reader->bad || value == 0);
		break;
	}
	case 1: {
		uint64_t value = read_u64(reader);
		MUST(!reader->bad || value == 0);
		break;
	}
	case 2: {
		const char *text = read_string(reader);
		if (reader->bad)
			MUST(text[0] == '\0');
		else
			must_lie_in_payload(text, strlen(text));
		break;
	}
	case 3: {
		const char *bytes = read_bytes(reader, &length);
		if (reader->bad)
			MUST(bytes[0] == '\0' && length == 0);
		else
			must_lie_in_payload(bytes, length);
		break;
	}
	default: {
		size_t least = 1 + what / 5;
		uint32_t count = read_count(reader, least);
		MUST(!reader->bad || count == 0);
		MUST(count <= (size_t)(end - reader->at) / least);
	}
	}
	MUST(reader->at >= before && reader->at <= end);
	MUST(!was_bad || (reader->bad && reader->at == before));
}

static void read_all(struct reader reader, const uint8_t *script, size_t reads)
{
	start = reader.at;
	end = reader.end;
	for (size_t i = 0; i < reads; i++)
		read_one(&reader, script[i]);
}

static int as_memfd(const char *bytes, size_t size)
{
	int fd = memfd_create("payload", MFD_CLOEXEC);

	MUST(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input input = { .at = bytes, .end = bytes + size };
	enum way way = (enum way)(take_byte(&input) % WAYS);
	uint8_t said = take_byte(&input);
	size_t reads = said % 64, length = SIZE_MAX;
	char *script = take_bytes(&input, &reads);
	char *content = take_bytes(&input, &length);
	struct payload payload;
	int fd = -1;

	if (way == EXACT) {
		read_all((struct reader){ .at = content, .end = content + length }, (const uint8_t *)script, reads);
	} else {
		size_t promised = length + (said >= 192) - (said >= 224 && length > 1 ? 2 : 0); /* rarely not what there is */
		if (way == MEMFD)
			fd = as_memfd(content, length);
		if (payload_open(&payload, content, length, fd, promised) == 0) {
			MUST(payload.size == promised && payload.mapped == (way == MEMFD) && memcmp(payload.bytes, content, promised) == 0);
			MUST(promised <= length && (way == MEMFD || promised == length));
			read_all(payload_reader(&payload), (const uint8_t *)script, reads);
		} else {
			MUST(errno == EPROTO && (promised != length || promised == 0));
		}
		payload_close(&payload);
		if (fd >= 0)
			(void)close(fd);
	}
	free(script);
	free(content);
	return 0;
}
