/* What the fuzz targets share. A target is one function that libFuzzer calls with any bytes at all; AddressSanitizer and
 * UndefinedBehaviorSanitizer watch the memory, MUST says what has to hold beside. `scripts/fuzz` builds and runs them. */
#ifndef NSBOX_FUZZ_H
#define NSBOX_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* The bytes of one run, taken from the front. */
struct input {
	const uint8_t *at;
	const uint8_t *end;
};

static inline size_t left(const struct input *input)
{
	return (size_t)(input->end - input->at);
}

/* 0 when there are none left. */
static inline uint8_t take_byte(struct input *input)
{
	return left(input) ? *input->at++ : 0;
}

/* A copy of the next `size` bytes, or of what is left of them; with exactly its size, so that a sanitizer sees the first
 * byte that is read too many. */
static inline char *take_bytes(struct input *input, size_t *size)
{
	if (*size > left(input))
		*size = left(input);
	char *copy = malloc(*size ? *size : 1);
	MUST(copy);
	memcpy(copy, input->at, *size);
	input->at += *size;
	return copy;
}

#endif
