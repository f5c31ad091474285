/* Between the launcher and a warm interpreter: one SOCK_SEQPACKET socket, fixed structs, descriptors alongside. */
#ifndef NSBOX_WARM_H
#define NSBOX_WARM_H

#include <stdint.h>

#include "wire.h"

/* Down, once, first; behind it the instructions of the filter. fd: the launcher's pid namespace, its procfs. */
struct warm_setup {
	uint32_t own_init; /* see struct entrance */
	uint32_t filter_notifies;
	uint32_t filter_early;
	uint32_t instructions;
};

/* Down: fork one. fds: the cell's pidfd, the child's control socket, the cgroup of version 2 if there is one, then those
 * of `joins` in the order of their bits. */
struct warm_request {
	uint32_t number;
	uint32_t has_cgroup;
	uint32_t joins; /* bit set: hierarchies of version 1 */
};

enum warm_word {
	WARM_READY = 1, /* everything is imported, and one thread runs */
	WARM_BORN = 2,  /* `number` is a child of the launcher's now; fd: its pidfd */
	WARM_FAILED = 3, /* `number` could not be forked */
};

/* Up. */
struct warm_answer {
	uint32_t word;
	uint32_t number;
	int32_t pid;
	int32_t error;
};

#endif
