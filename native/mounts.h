/* Building a root: a list of operations, each on a path below one directory, carried out in order. */
#ifndef NSBOX_MOUNTS_H
#define NSBOX_MOUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"
#include "payload.h"
#include "wire.h"

struct op {
	enum op_kind kind;
	uint32_t flags;
	uint64_t a;
	uint64_t b;
	const char *path;
	const char *arg;
};

/* `count` ids from `inside` on are the launcher's `outside` on. */
struct id_map {
	uint32_t inside;
	uint32_t outside;
	uint32_t count;
};

/* What an id inside is to the launcher, or (uint32_t)-1, which no id can be. */
uint32_t map_id(const struct id_map *map, uint32_t inside);

struct builder {
	int root;              /* directory that the operations' paths are below */
	int proc;              /* the launcher's procfs */
	int host_mounts;       /* mount namespace in which the sources of OP_BIND are looked up */
	const int *devices;    /* descriptors of the template */
	struct id_map ids;
	enum stage stage;      /* how a failure is reported */
	bool only_of_processes; /* leave out the rest: it is there already */
	int procfs;            /* made before, or -1 */
	int empty;             /* out: the directory of the tree that the procfs covers */
	int id_namespace;      /* user namespace with the map of `ids`, made for the first OP_OVERLAY; -1 before */
	int sysctls;           /* out: /proc/sys of the procfs that was mounted, not covered by anything, or -1 */
	int quota;             /* out: the file system that everything writable lives in, or -1 */
	int source;            /* out: the file system for program texts, or -1 */
};

/* A procfs of the pid namespace that this process is in, detached. Without root it can be made only where one is visible
 * in full, mount_namespaces(7): not any more in a sandbox's own mounts. -1 with errno. */
int new_procfs(void);

/* OP_OVERLAY, overlay.c, and OP_COPY, copy.c. EOPNOTSUPP: the file system below cannot show its ids as others. */
int mount_overlay(struct builder *builder, const struct op *op);
int copy_host(struct builder *builder, const struct op *op);

/* A list of operations from a payload, allocated; strings point into the payload. NULL: malformed, or no memory. */
struct op *read_ops(struct reader *reader, uint32_t *count);

/* All of them, or -1 with the failure's index telling which. */
int apply_ops(struct builder *builder, const struct op *ops, uint32_t count, struct failure *failure);

#endif
