/* Giving up: capabilities, groups, ids. All of it runs in a process just cloned, too. */
#ifndef NSBOX_CREDENTIALS_H
#define NSBOX_CREDENTIALS_H

#include <stdint.h>

#include "failure.h"

/* Becomes somebody: no groups, these ids, and of capabilities, one bit each, those that are `kept`; the bounding set stays
 * as it is. */
int drop_credentials(uint32_t uid, uint32_t gid, uint64_t kept, struct failure *failure);
int drop_capabilities(uint64_t kept, struct failure *failure);
/* Entering a user namespace fills it again, capabilities(7): for every process that has entered one. */
int empty_bounding_set(struct failure *failure);
int reduce_bounding_set(uint64_t kept, struct failure *failure);

#endif
