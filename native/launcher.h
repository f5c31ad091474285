/* The launcher's state. One process, one thread; every function below runs in its event loop unless a comment says
 * "child": those run in a process just cloned, where nothing is allocated and only exec or _exit follows.
 *
 *   main.c       start: own namespaces, own mounts, then the loop
 *   loop.c       epoll, signals, timers
 *   channel.c    records to and messages from the supervisor
 *   template.c   what a kind of sandbox is made of; its root tree
 *   cell.c       a sandbox, and what is asked of it             init.c    child: its PID 1
 *   cell_birth.c from clone3 until it is ready                  cell_end.c until the last rmdir
 *   spares.c     what is made ahead                             freezer.c suspending
 *   task.c       an execution, from its parked process to exec  enter.c   child: the way to the program's exec
 *   task_end.c   until it is reported
 *   deadline.c   when to kill which execution
 *   graves.c     mount namespaces of the dead
 *   turn.c       an execution that does one thing after the other
 *   warm.c       interpreters that are ready before they are needed   birth.c   what they fork
 *   overlay.c    a writable root                            copy.c    what it begins with
 *   network.c    the router's network, and those of sandboxes
 *   control.c    child: the frames of PID 1's control channel
 *   cgroup.c     making, limiting, counting, killing, removing
 */
#ifndef NSBOX_LAUNCHER_H
#define NSBOX_LAUNCHER_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "credentials.h"
#include "enter.h"
#include "failure.h"
#include "mounts.h"
#include "packet.h"
#include "payload.h"
#include "wire.h"

enum { MAX_GRAVES = 16 };

struct launcher;

/* Something that epoll watches; the first member of whatever owns the descriptor. */
struct source {
	void (*ready)(struct launcher *launcher, struct source *source, uint32_t events);
	int fd;
};

struct write {
	uint32_t hierarchy;
	const char *file;
	const char *value;
};

struct counter {
	uint32_t slot;
	uint32_t hierarchy;
	uint32_t of_execution;
	const char *file;
	const char *key;
};

struct hierarchy {
	int base;             /* directory of this supervisor's sandboxes */
	int parent;           /* where `base` lies, to remove it at the end */
	const char *name;     /* of `base` in `parent` */
	bool born_inside;     /* version 2: processes are cloned into it; version 1: they move themselves, parked */
	bool init_leaf;       /* PID 1 needs a leaf: version 2 with controllers has no processes in inner nodes */
	bool per_execution;
};

struct setting {
	const char *path;
	const char *value;
};

struct template {
	struct template *next;
	uint32_t id;
	struct payload payload; /* what the strings below point into */
	int devices[MAX_FDS];
	uint32_t hierarchies;   /* bit set */
	struct write *sandbox_writes;
	uint32_t sandbox_write_count;
	struct write *execution_writes;
	uint32_t execution_write_count;
	struct op *root_ops;
	uint32_t root_op_count;
	struct op *cell_ops;
	uint32_t cell_op_count;
	struct setting *user_sysctls;
	uint32_t user_sysctl_count;
	const char *hostname;
	uint32_t init_id;       /* PID 1's uid and gid inside */
	uint64_t capabilities;  /* of root inside; any: nobody inside can become who PID 1 is */
	struct sock_fprog filter;
	bool filter_notifies;
	bool filter_early;      /* it allows all that follows parking: loaded there, it costs no execution anything */
	struct interpreter *interpreter; /* warm, or being warmed, or NULL */
	unsigned wants_warm;    /* COLD_IN_A_ROW at most; not 0: executions of late were for it, what is parked next is to be its child */
	uint32_t spares;        /* sandboxes to keep ready */
	uint32_t cells;         /* that exist */
	bool used;              /* spares are made once the first sandbox was asked for */
	bool forgotten;
	int mounts;             /* a mount namespace whose root is its tree, to be copied by each sandbox */
};

enum cell_state { CELL_BUILDING, CELL_READY, CELL_DYING, CELL_LOST /* dead, and the supervisor has not said what is to become of its files */ };

struct task;

struct cell {
	struct source control;  /* to PID 1 */
	struct cell *next;
	struct template *template;
	struct cell *predecessor; /* whose mounts it takes over, and whom it replaces once it is ready */
	uint32_t restart_id;      /* the sandbox that is restarted by it */
	struct task *parked;
	uint32_t number;        /* names its cgroups */
	uint32_t id;            /* the supervisor's; 0: a spare */
	enum cell_state state;
	bool adopted;           /* the supervisor was told that it is ready, or will be with the next record */
	bool quiet;             /* nobody waits for that yet */
	bool destroy_asked;
	bool told_end;
	bool reaped;
	pid_t pid;
	int pidfd;
	int root;
	int quota;
	int program_source;
	int mounts;             /* its mount namespace, which outlives PID 1 by this */
	int channel;            /* the supervisor's end of the control channel, until it has it */
	struct id_map ids;
	int id_range;           /* which of the launcher's ranges, -1: none */
	struct failure failure;
	uint64_t frozen_at;     /* 0: not frozen */
	bool freezing;
	uint32_t executions;
};

enum task_state { TASK_PARKED, TASK_STARTING, TASK_RUNNING, TASK_DYING };

struct task {
	struct source control;  /* to the child; end of file: it has become the program */
	struct source listener; /* of its filter */
	struct task *next;
	struct cell *cell;
	uint32_t number;
	uint32_t id;            /* the supervisor's; 0: parked */
	enum task_state state;
	bool unborn;            /* asked of the warm interpreter, and not heard of yet: no pid */
	bool warm;              /* a child of the interpreter */
	bool ran_warm;          /* and its program was run by it */
	bool reaped;
	bool killed;
	bool execs;             /* it has said that it is about to */
	bool may_run;           /* and it has, as far as can be told */
	bool tell_start;
	bool reported;
	bool told_status;       /* by CHILD_EXITED: the process cloned is an init of its own, the program its child */
	pid_t pid;
	int pidfd;
	int init;               /* pidfd of the init of its own that the process cloned has, else -1 */
	struct failure failure;
	enum kill_reason reason;
	int wait_status;
	struct rusage usage;
	uint32_t violation_arch;
	int violation_number;
	uint64_t violation_args[6];
	uint64_t started_at;
	uint64_t ended_at;
	uint64_t suspended_ns;
	uint64_t wall_deadline; /* 0: none */
	uint64_t cpu_limit_us;  /* 0: none */
	uint64_t cpu_rate_milli; /* most CPU time it can use in a second, in thousandths of a second */
	uint64_t cpu_check_at;
	bool counted;           /* whether the next have been opened */
	int counters[MAX_COUNTERS]; /* the files of the launcher's counters, open while it runs, or -1 */
	uint64_t oom_check_at;  /* 0: the kernel kills all of it itself, memory.oom.group */
	/* of one that lives from turn to turn */
	uint64_t grace_ns;      /* not 0: in a turn; at its limits it is interrupted, and killed only so much later */
	enum kill_reason interrupted;
	unsigned interrupts;
};

struct outgoing {
	struct outgoing *next;
	struct up record;
	int fds[6];
	unsigned fd_count;
};

/* What wait4(2) said of a process that is nobody's yet. */
struct ended {
	pid_t pid; /* 0: none */
	int status;
	struct rusage usage;
};

enum { MOST_ENDED = 64 }; /* more than there are between an interpreter's fork and its telling so */

struct launcher {
	struct source supervisor;
	struct source application;
	struct source signals;
	int epoll;
	int proc;                /* this pid namespace's procfs */
	int pid_namespace;
	int host_mounts;         /* the one in which OP_BIND finds its sources */
	int router;              /* network namespace that the launcher is in, the router's; -1: it is in the application's */
	bool user_mode;
	bool over;               /* the supervisor is gone */
	bool more_to_reap;
	struct payload setup;    /* what the names below point into */
	struct hierarchy hierarchies[MAX_HIERARCHIES];
	uint32_t hierarchy_count;
	struct counter counters[MAX_COUNTERS];
	uint32_t counter_count;
	int answers;             /* directory of the socket on which the supervisor answers; -1: it has none */
	const char *answers_name; /* of that socket: removed at the end, however the application ends */
	int id_lock;             /* file whose bytes are locked, one a range; -1: `ids` is for all */
	struct id_map ids;
	uint32_t id_ranges;
	struct template *templates;
	struct cell *cells;
	struct task *tasks;
	struct outgoing *outgoing_first, *outgoing_last;
	struct ended ended[MOST_ENDED];
	unsigned next_ended;
	uint32_t next_number;
	int graves[MAX_GRAVES];
	uint32_t grave_count;
	uint64_t bury_at;        /* when to let go of what is in them; 0: nothing */
	bool quiet;              /* there are cells that are to be told of before anything else is */
	uint64_t refill_at;      /* when to make spares; 0: nothing to make */
	uint64_t count_at;       /* when to open the counters of programs that have been started; 0: there are none */
	uint64_t flush_at;       /* when to try again to send what could not be sent; 0: nothing */
	uint64_t tick_at;        /* when something that could not be removed yet is tried again; 0: nothing */
};

/* loop.c */
int watch(struct launcher *launcher, struct source *source);
void ignore(struct launcher *launcher, struct source *source);
void unwatch(struct launcher *launcher, struct source *source);
void signals_ready(struct launcher *launcher, struct source *source, uint32_t events);
void application_ready(struct launcher *launcher, struct source *source, uint32_t events);
int run_loop(struct launcher *launcher);

/* channel.c */
void channel_ready(struct launcher *launcher, struct source *source, uint32_t events);
void tell(struct launcher *launcher, const struct up *record, const int *fds, unsigned fd_count);
void tell_done(struct launcher *launcher, enum down_type of, uint32_t id);
void tell_failed(struct launcher *launcher, enum down_type of, uint32_t id, const struct failure *failure);
void flush_outgoing(struct launcher *launcher);

/* template.c */
#define TREE "/t" /* an empty directory, which a tree is mounted on while it is built */
void template_make(struct launcher *launcher, uint32_t id, struct payload *payload, const int *fds, unsigned fd_count);
struct template *template_find(struct launcher *launcher, uint32_t id);
void template_forget(struct launcher *launcher, uint32_t id);
void template_release(struct launcher *launcher, struct template *template);
int read_writes(struct reader *reader, struct write **writes, uint32_t *count);

/* cell.c, freezer.c, spares.c */
void cell_create(struct launcher *launcher, uint32_t id, uint32_t template_id, bool ahead);
void cells_tell_quiet(struct launcher *launcher);
void cell_destroy(struct launcher *launcher, uint32_t id);
/* A cell that is being built, or, with its failure, dying. NULL: no memory. */
struct cell *cell_new(struct launcher *launcher, struct template *template, struct cell *predecessor,
                      struct failure *failure);
bool is_spare(const struct cell *cell, const struct template *template);
/* It is ready, and somebody's: he is told, or will be. */
void cell_adopt(struct launcher *launcher, struct cell *cell);
/* Where PID 1 is born. */
void cell_init_path(const struct launcher *launcher, const struct cell *cell, char *path);
int cell_make_channel(int pair[2]);
void cell_give_up_heir(struct launcher *launcher, const struct cell *cell);
void cell_restart(struct launcher *launcher, uint32_t id);
void cell_connect(struct launcher *launcher, uint32_t id);
void cell_freeze(struct launcher *launcher, uint32_t id);
void cell_thaw(struct launcher *launcher, uint32_t id);
void cell_freeze_tick(struct launcher *launcher, struct cell *cell);
struct cell *cell_find(struct launcher *launcher, uint32_t id);
bool cell_reaped(struct launcher *launcher, pid_t pid);
void cell_end(struct launcher *launcher, struct cell *cell, enum kill_reason reason);
void cell_settle(struct launcher *launcher, struct cell *cell);
/* One thing that is to be ready before it is asked for. False: there is nothing left to make. */
bool cells_refill(struct launcher *launcher);
void cells_tick(struct launcher *launcher);
void cells_end_all(struct launcher *launcher);
int claim_ids(struct launcher *launcher, struct cell *cell);
void release_ids(struct launcher *launcher, struct cell *cell);

/* graves.c */
void bury(struct launcher *launcher, int *mounts);
void leave_graves(struct launcher *launcher);
void graves_tick(struct launcher *launcher);

/* init.c, child */
struct birth {
	struct launcher *launcher;
	struct cell *cell;
	int control;
	int channel;
};
_Noreturn void be_init(const struct birth *birth);
int raise_loopback(struct failure *failure);

/* task.c */
struct task *task_park(struct launcher *launcher, struct cell *cell, struct failure *failure);
void task_execute(struct launcher *launcher, const struct down *down, struct payload *payload, const int *fds,
                  unsigned fd_count);
void task_kill(struct launcher *launcher, struct task *task, enum kill_reason reason);
void task_kill_id(struct launcher *launcher, uint32_t id, enum kill_reason reason);
bool task_reaped(struct launcher *launcher, pid_t pid, int status, const struct rusage *usage);
void task_settle(struct launcher *launcher, struct task *task);
/* All that it, and its filter, have said so far. */
void task_hear(struct launcher *launcher, struct task *task);
void task_hear_filter(struct launcher *launcher, struct task *task);
void task_release(struct launcher *launcher, struct task *task);
void tasks_open_counters(struct launcher *launcher);
void task_counters(struct launcher *launcher, const struct task *task, uint64_t *counters);
void tasks_tick(struct launcher *launcher);

/* Its exec has closed what it held open, or it has died since. */
void task_runs(struct launcher *launcher, struct task *task);

/* birth.c */
/* A child of the launcher's that is nobody's yet has ended: an interpreter forked it and has not told of it so far. */
void note_ended(struct launcher *launcher, pid_t pid, int status, const struct rusage *usage);
/* Heard from the warm interpreter: `number` has a pid, or, -1, for `error`, never will. The pidfd is the task's. */
void task_born(struct launcher *launcher, uint32_t number, pid_t pid, int pidfd, int error);
/* None of those that its interpreter has not forked yet will come. */
void tasks_stillborn(struct launcher *launcher, const struct template *template);

/* warm.c */
enum { COLD_IN_A_ROW = 8 }; /* so many executions that are not for the interpreter, and nothing is parked for it */
void warm_start(struct launcher *launcher, uint32_t id, struct payload *payload, const int *fds, unsigned fd_count);
void warm_stop(struct launcher *launcher, struct template *template);
bool warm_ready(const struct template *template);
int warm_fork(struct template *template, const struct entrance *entrance, uint32_t number, int cgroup);

/* turn.c */
void turn_begin(struct launcher *launcher, uint32_t id, struct payload *payload);
void turn_end(struct launcher *launcher, uint32_t id);
void turn_interrupt(struct launcher *launcher, uint32_t id, enum kill_reason reason);
/* It has reached a limit: in a turn it is interrupted, as long as there is grace, else killed. */
void turn_over(struct launcher *launcher, struct task *task, enum kill_reason reason);

/* network.c */
void network_open(struct launcher *launcher, uint32_t id);

/* deadline.c */
uint64_t deadline_cpu_us(struct launcher *launcher, const struct task *task); /* UINT64_MAX: not known here */
uint64_t deadline_first_oom_check(const struct launcher *launcher, uint64_t now);
void deadlines_check(struct launcher *launcher, uint64_t now);
uint64_t deadlines_next(const struct launcher *launcher);

/* cgroup.c */
enum { CGROUP_PATH = 40 };
int cgroup_make(struct launcher *launcher, uint32_t hierarchies, const char *path, bool execution, struct failure *failure);
int cgroup_write(struct launcher *launcher, uint32_t hierarchies, const char *path, const struct write *writes,
                 uint32_t count, struct failure *failure);
int cgroup_open_joins(struct launcher *launcher, uint32_t hierarchies, const char *cell, const char *task, int *joins,
                      struct failure *failure);
void close_joins(int *joins);
int cgroup_open_v2(struct launcher *launcher, uint32_t hierarchies, const char *path);
bool cgroup_kill(struct launcher *launcher, uint32_t hierarchies, const char *path);
bool cgroup_remove_v2(struct launcher *launcher, uint32_t hierarchies, const char *path);
bool cgroup_remove_v1(struct launcher *launcher, uint32_t hierarchies, const char *path, bool execution);
uint64_t cgroup_count(struct launcher *launcher, uint32_t hierarchies, const struct counter *counter, const char *cell,
                      const char *task);
/* The file read last, for counters that follow each other. */
struct counted {
	uint32_t hierarchy;
	ssize_t length;
	char path[CGROUP_PATH + 128];
	char text[4096];
};
/* `open`: the counter's file, or -1, and then it is opened for this once. */
uint64_t cgroup_count_in(struct launcher *launcher, uint32_t hierarchies, const struct counter *counter, int open,
                         const char *cell, const char *task, struct counted *last);
/* Opens what is not open. Where that fails, it is for `cgroup_count_in` to fail again. */
void cgroup_open_counters(struct launcher *launcher, uint32_t hierarchies, const char *cell, const char *task, int *counters);
void cell_path(const struct cell *cell, char *path);
void task_path(const struct task *task, char *path);

#endif
