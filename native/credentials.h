/* Giving up: capabilities, groups, ids. All of it runs in a process just cloned, too. */
#ifndef NSBOX_CREDENTIALS_H
#define NSBOX_CREDENTIALS_H

#include <stdint.h>

#include "failure.h"

/* Becomes nobody in particular: no groups, `id` for every uid and gid, no capability in any set. */
int drop_credentials(uint32_t uid, uint32_t gid, struct failure *failure);
/* What a root that execs can have at most, capabilities(7): bits by number. */
int limit_bounding_set(uint64_t kept, struct failure *failure);
/* Entering a user namespace fills it again, capabilities(7): for every process that has entered one. */
int empty_bounding_set(struct failure *failure);

#endif
