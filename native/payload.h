/* Reading a payload: integers and NUL-ended strings, one after the other, with a sticky error. */
#ifndef NSBOX_PAYLOAD_H
#define NSBOX_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
	const char *at;
	const char *end;
	bool bad; /* set once anything did not fit; every later read gives 0 or "" */
};

struct payload {
	char *bytes;
	size_t size;
	bool mapped;
	int memfd; /* where it came from, the caller's; -1: in the packet */
};

/* The `size` bytes that follow in `inline_bytes`, or lie in `memfd` when that is not -1; copied or mapped. */
int payload_open(struct payload *payload, const char *inline_bytes, size_t inline_size, int memfd, size_t size);
void payload_close(struct payload *payload);
struct reader payload_reader(const struct payload *payload);

uint32_t read_u32(struct reader *reader);
uint64_t read_u64(struct reader *reader);
/* A length, the bytes, a NUL that the length does not count. The pointer is into the payload. */
const char *read_string(struct reader *reader);
const char *read_bytes(struct reader *reader, uint32_t *length);
/* A count of items that each take at least `least` bytes; too many for what is left is an error. */
uint32_t read_count(struct reader *reader, size_t least);

#endif
