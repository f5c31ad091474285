/* What the supervisor and the launcher say to each other, over one SOCK_SEQPACKET socket pair.
 *
 * Down: a fixed `struct down`, then a payload (`payload_size` bytes), which follows in the same packet or, when it is
 * larger than INLINE_PAYLOAD, lies in a memfd that is the last of the descriptors sent along.
 * Up: always one `struct up`, with descriptors alongside where noted.
 *
 * Both ends are built together and run on one host, so the integers are the host's own. nsbox/_supervisor/_wire.py
 * holds the same layout; tests/unit/test_wire.py compares the two.
 */
#ifndef NSBOX_WIRE_H
#define NSBOX_WIRE_H

#include <stdint.h>

enum {
	WIRE_VERSION = 1,
	INLINE_PAYLOAD = 96 * 1024,
	MAX_FDS = 40, /* two for each hierarchy, and two */
	MAX_HIERARCHIES = 16,
	MAX_COUNTERS = 16,
};

enum down_type {
	DOWN_SETUP = 1,    /* id: WIRE_VERSION; once, first. fds: base and parent directory of each hierarchy,
	                    * [directory of the socket for `nsbox ps`], [uid ranges] */
	DOWN_TEMPLATE = 2, /* id: template; prepares a root tree; fds: block devices named by OP_QUOTA_DEVICE */
	DOWN_FORGET = 3,   /* id: template; no sandbox may use it any more */
	DOWN_CREATE = 4,   /* id: sandbox, parent: template; flags: whether nobody waits, see CREATE_AHEAD */
	DOWN_DESTROY = 5,  /* id: sandbox */
	DOWN_EXEC = 6,     /* id: execution, parent: sandbox; fds: stdin, stdout, stderr */
	DOWN_KILL = 7,     /* id: execution, flags: enum kill_reason */
	DOWN_FREEZE = 8,   /* id: sandbox */
	DOWN_THAW = 9,     /* id: sandbox */
	DOWN_RESTART = 10, /* id: sandbox: new processes and namespaces, in the mounts of the old ones; also after UP_LOST */
	DOWN_CONNECT = 11, /* id: sandbox: a new control channel, for one that broke */
	DOWN_NETWORK = 12, /* id: sandbox, or 0: the router, which is made if there is none: what its network is changed by */
	DOWN_WARM = 20,    /* id: template; payload: argv, environment; fds: the library of native/interpreter, where its stderr
	                    * goes. Done when everything is imported */
	DOWN_COOL = 21,    /* id: template; ends its interpreter. Not answered */
	DOWN_TURN = 30,    /* id: execution, which lives on for one turn after the other; payload: limits of wall clock (ns) and
	                    * CPU time (us) from now on, 0: none, and the grace (ns) after which it is killed when SIGINT did not
	                    * end the turn. Done at once, with times and counters since its start */
	DOWN_TURN_END = 31, /* id: execution; its limits are off. Done, with why it was interrupted, and again times and counters */
	DOWN_INTERRUPT = 32, /* id: execution, flags: enum kill_reason: in a turn, SIGINT to its process group, as by a terminal;
	                    * with a reason the grace begins. Not answered */
};

/* Flags of DOWN_CREATE. */
enum { CREATE_AHEAD = 1 }; /* while an execution runs, the answer comes with the next record: one wake for both */

/* Flags of DOWN_EXEC. */
enum {
	EXEC_TELL_START = 1, /* an UP_STARTED is wanted */
	EXEC_TERMINAL = 2,   /* its stdin is a terminal, which becomes the controlling one */
	EXEC_WARM = 4,       /* an interpreter that is there already may run it */
	EXEC_COLD = 8,       /* for a process that is there, whatever becomes of the interpreter */
};

struct down {
	uint32_t type;
	uint32_t id;
	uint32_t parent;
	uint32_t flags;
	uint64_t payload_size;
};

enum up_type {
	UP_HELLO = 1,     /* id: WIRE_VERSION; fd: pidfd of the launcher */
	UP_DONE = 2,      /* what was asked for (`of`, `id`) is done; DOWN_CREATE, DOWN_RESTART: index: the number in the names
	                   * of its cgroups; fds: pidfd of PID 1, /, quota, source, control channel.
	                   * DOWN_CONNECT: fd: control channel. DOWN_NETWORK: fds: network namespace, NETLINK_ROUTE socket in
	                   * it; of the router also NETLINK_NETFILTER, UDP and TCP socket in it, its user namespace */
	UP_FAILED = 3,    /* it failed at `stage` with `error`; nothing of it is left */
	UP_EXITED = 4,    /* id: execution; its whole tree is dead and its cgroups are gone; index: 1: run by a warm interpreter */
	UP_STARTED = 6,   /* id: execution, whose program runs; fd: pidfd of the process that the launcher waits for: the program,
	                   * or without cgroups the process that waits for its pid namespace */
	UP_LOST = 5,      /* id: sandbox; its PID 1 died unasked; every process of it is dead. Its files are kept until
	                   * DOWN_DESTROY, or for DOWN_RESTART. of DOWN_WARM: id: template, whose interpreter died */
};

/* Why the launcher killed an execution. The first reason is kept. Same values: nsbox/_verdict.py KillReason. */
enum kill_reason {
	REASON_NONE = 0,
	REASON_CANCELLED = 1,
	REASON_WALL_TIME = 2,
	REASON_CPU_TIME = 3,
	REASON_OUTPUT = 4,
	REASON_MEMORY = 5,
	REASON_SECURITY = 6,
	REASON_LOST = 7,  /* PID 1 died, and all with it: not the program's doing as far as anybody knows */
};

/* The step that failed; `index` tells which of several (the mount operation, the write, the hierarchy). */
enum stage {
	STAGE_NONE = 0,
	STAGE_PROTOCOL = 1,      /* a message that makes no sense: a bug of the supervisor's */
	STAGE_LAUNCHER = 2,      /* the launcher's own namespaces and mounts */
	STAGE_ROOT = 3,          /* preparing the root tree; index: operation */
	STAGE_CGROUP = 4,        /* making a cgroup; index: hierarchy */
	STAGE_LIMIT = 5,         /* writing a limit; index: write */
	STAGE_CLONE = 6,         /* clone3 */
	STAGE_JOIN_CGROUP = 7,   /* moving into a v1 cgroup; index: hierarchy */
	STAGE_NAMESPACE = 8,     /* unshare or setns */
	STAGE_NETWORK = 9,       /* index: 0: bringing up loopback; DOWN_NETWORK: enum network_step */
	STAGE_MOUNT = 10,        /* mounting in the sandbox; index: operation */
	STAGE_PIVOT = 11,        /* pivot_root */
	STAGE_ID_MAP = 12,       /* uid_map, gid_map */
	STAGE_SYSCTL = 13,       /* limits of the user namespace; index: entry */
	STAGE_CREDENTIALS = 14,  /* set*id, groups, capabilities */
	STAGE_STDIO = 15,        /* stdin, stdout, stderr */
	STAGE_RLIMIT = 16,       /* index: resource */
	STAGE_DIRECTORY = 17,    /* chdir to the working directory */
	STAGE_FILTER = 18,       /* loading the system call filter */
	STAGE_EXEC = 19,         /* execve: the program's fault, not the host's */
	STAGE_FREEZE = 20,
	STAGE_DIED = 21,         /* a process of nsbox's own died during set-up */
	STAGE_CONNECT = 22,      /* a new control channel for PID 1 */
	STAGE_WARM = 30,         /* the warm interpreter */
};

struct up {
	uint32_t type;
	uint32_t of;             /* enum down_type that this answers */
	uint32_t id;
	uint32_t stage;
	int32_t error;
	int32_t index;
	/* UP_EXITED, and UP_DONE of DOWN_TURN and DOWN_TURN_END, from here */
	uint32_t reason;
	int32_t wait_status;
	uint32_t violation_arch; /* AUDIT_ARCH_*, 0: none */
	int32_t violation_number;
	uint64_t violation_args[6];
	uint64_t wall_ns;        /* without the time suspended */
	uint64_t suspended_ns;
	uint64_t user_us;        /* rusage of the main process and the children it waited for */
	uint64_t system_us;
	uint64_t max_rss_bytes;  /* of the largest single process */
	uint64_t read_bytes;     /* from storage, getrusage(2) */
	uint64_t written_bytes;
	uint64_t counters[MAX_COUNTERS]; /* UINT64_MAX: not known here */
};

/* One step in building a root. The launcher carries out the first list of a template once, PID 1 the second each time. */
enum op_kind {
	OP_DIR = 1,           /* path; a: mode */
	OP_SYMLINK = 2,       /* path -> arg */
	OP_FILE = 3,          /* path with content arg; a: mode; FLAG_WRITABLE: instead of what is there */
	OP_BIND = 4,          /* host path arg at path; flags: enum op_flag; a: st_dev, b: st_ino of what it must be */
	OP_PROC = 6,          /* path */
	OP_DEVPTS = 7,        /* path; a: most terminals, b: group inside */
	OP_QUOTA_TMPFS = 8,   /* path; a: bytes, b: inodes; becomes the quota, whose root is for its owner alone */
	OP_QUOTA_DEVICE = 9,  /* path; a: which of the template's descriptors, arg: options; an ext4 image becomes the quota */
	OP_QUOTA_DIR = 10,    /* directory arg of the quota at path; a: mode, b: owner inside; flags: enum op_flag */
	OP_MASK = 12,         /* path: hide what is there, if it is there; flags: whether it is a directory; arg, if any:
	                       * another file of the tree, which is to be seen instead */
	OP_READ_ONLY = 13,    /* path: bind onto itself, read-only */
	OP_SYSCTL = 14,       /* arg into the file path below /proc/sys, as the launcher's user; after OP_PROC */
	OP_SOURCE = 15,       /* path; a: bytes, b: inodes: a tmpfs that the supervisor writes program texts to */
	OP_OVERLAY = 16,      /* path: writable from here on, owned by root inside; arg: directory of the quota for it */
	OP_COPY = 17,         /* host path arg copied to path, what everybody may read of it; a: st_dev, b: st_ino */
};

enum op_flag {
	FLAG_WRITABLE = 1,
	FLAG_DEVICES = 2,
	FLAG_NO_EXEC = 4,
	FLAG_DIRECTORY = 8,
};

#endif
