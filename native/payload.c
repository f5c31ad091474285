#define _GNU_SOURCE
#include "payload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

int payload_open(struct payload *payload, const char *inline_bytes, size_t inline_size, int memfd, size_t size)
{
	*payload = (struct payload){ .memfd = -1 };
	if (memfd < 0) {
		if (inline_size != size) {
			errno = EPROTO;
			return -1;
		}
		payload->bytes = malloc(size + 1);
		if (!payload->bytes)
			return -1;
		memcpy(payload->bytes, inline_bytes, size);
		payload->size = size;
		return 0;
	}
	struct stat found;
	if (fstat(memfd, &found) < 0)
		return -1;
	if ((uint64_t)found.st_size < size || size == 0) {
		errno = EPROTO;
		return -1;
	}
	void *mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, memfd, 0);
	if (mapping == MAP_FAILED)
		return -1;
	*payload = (struct payload){ .bytes = mapping, .size = size, .mapped = true, .memfd = memfd };
	return 0;
}

void payload_close(struct payload *payload)
{
	if (payload->mapped)
		(void)munmap(payload->bytes, payload->size); /* our own mapping: cannot fail */
	else
		free(payload->bytes);
	*payload = (struct payload){ .memfd = -1 };
}

struct reader payload_reader(const struct payload *payload)
{
	return (struct reader){ .at = payload->bytes, .end = payload->bytes + payload->size };
}

static const char *take(struct reader *reader, size_t size)
{
	if (reader->bad || (size_t)(reader->end - reader->at) < size) {
		reader->bad = true;
		return NULL;
	}
	const char *taken = reader->at;
	reader->at += size;
	return taken;
}

uint32_t read_u32(struct reader *reader)
{
	uint32_t value = 0;
	const char *bytes = take(reader, sizeof value);
	if (bytes)
		memcpy(&value, bytes, sizeof value);
	return value;
}

uint64_t read_u64(struct reader *reader)
{
	uint64_t value = 0;
	const char *bytes = take(reader, sizeof value);
	if (bytes)
		memcpy(&value, bytes, sizeof value);
	return value;
}

const char *read_bytes(struct reader *reader, uint32_t *length)
{
	*length = read_u32(reader);
	const char *bytes = take(reader, (size_t)*length + 1);
	if (bytes && bytes[*length] == '\0')
		return bytes;
	reader->bad = true;
	*length = 0;
	return "";
}

const char *read_string(struct reader *reader)
{
	uint32_t length;
	const char *bytes = read_bytes(reader, &length);
	if (memchr(bytes, '\0', length)) {
		reader->bad = true;
		return "";
	}
	return bytes;
}

uint32_t read_count(struct reader *reader, size_t least)
{
	uint32_t count = read_u32(reader);
	if (reader->bad || count > (size_t)(reader->end - reader->at) / least) {
		reader->bad = true;
		return 0;
	}
	return count;
}
