/* The way of a process into a sandbox, and what it says on it. Also for the library that a warm interpreter loads: no part
 * of the launcher's state is needed here. */
#ifndef NSBOX_ENTER_H
#define NSBOX_ENTER_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "failure.h"
#include "payload.h"
#include "wire.h"

enum child_word {
	CHILD_MAP_ME = 1,
	CHILD_READY = 2,
	CHILD_FAILED = 3,
	CHILD_LISTENER = 4,
	CHILD_EXITED = 5,
	CHILD_EXECS = 6,
	CHILD_RUNS = 7,
	CHILD_INIT = 8,
	CHILD_CHANNEL = 9,
};

struct child_message {
	uint32_t word;
	struct failure failure;
	int32_t wait_status;
	struct rusage usage;
};

struct entrance {
	int cell;                   /* pidfd of the sandbox's PID 1 */
	int control;
	int proc;                   /* the launcher's procfs */
	int joins[MAX_HIERARCHIES]; /* `tasks` of version 1, opened by the launcher */
	bool own_init;              /* no cgroup to kill by: a pid namespace of its own instead */
	struct sock_fprog filter;
	bool filter_notifies;
	uint64_t capabilities;      /* of root inside; of the bounding set, what an execution may keep */
	bool filter_early;          /* it allows all that follows parking: loaded there, it costs no execution anything */
};

/* What the process is to become. */
struct program {
	char **argv;
	char **envp;
	const char *search; /* directories for an argv[0] without a slash */
	bool warm;          /* an interpreter that is there already may run it, without exec */
};

/* Waits, parked in the sandbox, for what to run, and gets ready to be it: on return nothing is left to do but to exec, or
 * to go on where warm says so. Ends the process where anything fails, once that is told. child */
void enter_sandbox(const struct entrance *entrance, struct program *program);
/* Only returns, having told, where it failed: by ending the process. child */
_Noreturn void exec_program(const struct program *program);

#endif
