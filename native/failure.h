/* What went wrong, small enough for one write: "could not start" must never look like "ran and exited 127". */
#ifndef NSBOX_FAILURE_H
#define NSBOX_FAILURE_H

#include <errno.h>
#include <stdint.h>

#include "wire.h"

struct failure {
	uint32_t stage;
	int32_t error;
	int32_t index;
};

/* Notes `stage`, errno and `index`; gives -1, so that a step can end with `return fail(...)`. */
static inline int fail(struct failure *failure, enum stage stage, int index)
{
	*failure = (struct failure){ .stage = stage, .error = errno ? errno : EIO, .index = index };
	return -1;
}

#endif
