#define _GNU_SOURCE
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filesystem.h"
#include "sys.h"

uint32_t map_id(const struct id_map *map, uint32_t inside)
{
	if (inside < map->inside || inside - map->inside >= map->count)
		return (uint32_t)-1;
	return inside - map->inside + map->outside;
}

struct op *read_ops(struct reader *reader, uint32_t *count)
{
	*count = read_count(reader, 34);
	struct op *ops = calloc(*count + 1, sizeof *ops);
	for (uint32_t i = 0; ops && i < *count; i++) {
		ops[i].kind = (enum op_kind)read_u32(reader);
		ops[i].flags = read_u32(reader);
		ops[i].a = read_u64(reader);
		ops[i].b = read_u64(reader);
		ops[i].path = read_string(reader);
		ops[i].arg = read_string(reader);
	}
	if (ops && reader->bad) {
		free(ops);
		return NULL;
	}
	return ops;
}

static unsigned mount_attributes(uint32_t flags)
{
	unsigned attributes = MOUNT_ATTR_NOSUID;
	if (!(flags & FLAG_WRITABLE))
		attributes |= MOUNT_ATTR_RDONLY;
	if (!(flags & FLAG_DEVICES))
		attributes |= MOUNT_ATTR_NODEV;
	if (flags & FLAG_NO_EXEC)
		attributes |= MOUNT_ATTR_NOEXEC;
	return attributes;
}

/* The directory that `path` lies in, and its last component. */
static int open_parent(int root, const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char parent[4096];

	if (!slash || (size_t)(slash - path) >= sizeof parent) {
		errno = slash ? ENAMETOOLONG : EINVAL;
		return -1;
	}
	*name = slash + 1;
	memcpy(parent, path, (size_t)(slash - path) + 1);
	parent[slash - path + 1] = '\0';
	return open_beneath(root, parent, O_PATH | O_DIRECTORY);
}

static int make_dir(struct builder *builder, const struct op *op)
{
	const char *name;
	AUTO_CLOSE int parent = open_parent(builder->root, op->path, &name);
	if (parent < 0)
		return -1;
	if (mkdirat(parent, name, (mode_t)op->a) == 0) {
		uint32_t owner = builder->id_namespace >= 0 ? map_id(&builder->ids, 0) : 0; /* where root inside is somebody */
		if (owner && fchownat(parent, name, owner, owner, AT_SYMLINK_NOFOLLOW) < 0)
			return -1;
		return fchmodat(parent, name, (mode_t)op->a, 0); /* mkdir is subject to the umask */
	}
	if (errno != EEXIST)
		return -1;
	AUTO_CLOSE int found = open_beneath(parent, name, O_PATH | O_DIRECTORY);
	return found < 0 ? -1 : 0;
}

static int make_symlink(struct builder *builder, const struct op *op)
{
	const char *name;
	AUTO_CLOSE int parent = open_parent(builder->root, op->path, &name);
	return parent < 0 ? -1 : symlinkat(op->arg, parent, name);
}

static int make_file(struct builder *builder, const struct op *op)
{
	const char *name;
	AUTO_CLOSE int parent = open_parent(builder->root, op->path, &name);
	if (parent < 0)
		return -1;
	int how = op->flags & FLAG_WRITABLE ? O_TRUNC : O_EXCL; /* in an overlay there may be one already */
	AUTO_CLOSE int fd = openat(parent, name, O_WRONLY | O_CREAT | how | O_CLOEXEC | O_NOFOLLOW, (mode_t)op->a);
	if (fd < 0)
		return -1;
	size_t length = strlen(op->arg);
	if (length && write(fd, op->arg, length) != (ssize_t)length) {
		errno = ENOSPC;
		return -1;
	}
	return fchmod(fd, (mode_t)op->a);
}

/* A copy of the host's mount at op->arg, which must still be the file that the plan was made for. */
static int clone_host_mount(const struct op *op)
{
	AUTO_CLOSE int source = sys_openat2(AT_FDCWD, op->arg, O_PATH | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
	if (source < 0)
		return -1;
	struct stat found;
	if (fstat(source, &found) < 0)
		return -1;
	if ((op->a || op->b) && (found.st_dev != op->a || found.st_ino != op->b)) {
		errno = ESTALE;
		return -1;
	}
	return clone_mount(source, "", mount_attributes(op->flags));
}

static int bind_host(struct builder *builder, const struct op *op)
{
	AUTO_CLOSE int own = openat(builder->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (own < 0 || setns(builder->host_mounts, CLONE_NEWNS) < 0)
		return -1;
	AUTO_CLOSE int tree = clone_host_mount(op);
	int saved = errno;
	if (setns(own, CLONE_NEWNS) < 0)
		_exit(70); /* in the host's mount namespace nothing may go on */
	errno = saved;
	if (tree < 0)
		return -1;
	return attach_mount(tree, builder->root, op->path);
}

static int mount_tmpfs(struct builder *builder, const struct op *op, const char *mode, int *kept)
{
	char size[24], inodes[24];
	(void)snprintf(size, sizeof size, "%llu", (unsigned long long)op->a);
	(void)snprintf(inodes, sizeof inodes, "%llu", (unsigned long long)op->b);
	const struct fs_option options[] = {
		{ "size", size }, { "nr_inodes", inodes }, { "mode", mode }, { NULL, NULL },
	};
	AUTO_CLOSE int mount = new_filesystem("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (mount < 0 || attach_mount(mount, builder->root, op->path) < 0)
		return -1;
	*kept = take_fd(&mount);
	return 0;
}

int new_procfs(void)
{
	/* invisible: what may not be traced may not be seen, PID 1 and processes of other users included, proc(5) */
	static const struct fs_option options[] = { { "hidepid", "invisible" }, { NULL, NULL } };
	return new_filesystem("proc", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

/* Written by the supervisor, through the mount below; read by programs, through a read-only copy that covers it. */
static int mount_source(struct builder *builder, const struct op *op)
{
	if (mount_tmpfs(builder, op, "0755", &builder->source) < 0)
		return -1;
	AUTO_CLOSE int copy = clone_mount(builder->source, "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	return copy < 0 ? -1 : attach_mount(copy, builder->root, op->path);
}

static int mount_proc(struct builder *builder, const struct op *op)
{
	builder->empty = open_beneath(builder->root, op->path, O_PATH | O_DIRECTORY);
	if (builder->empty < 0)
		return -1;
	AUTO_CLOSE int mount = builder->procfs >= 0 ? take_fd(&builder->procfs) : new_procfs();
	if (mount < 0 || attach_mount(mount, builder->root, op->path) < 0)
		return -1;
	/* Not the launcher's: in one procfs for all, the entries of each namespace would be found behind those of all others
	 * of the same name, and the time to make a sandbox would grow with their number. */
	builder->sysctls = openat(mount, "sys", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return builder->sysctls < 0 ? -1 : 0;
}

static int mount_devpts(struct builder *builder, const struct op *op)
{
	char most[24], group[24];
	(void)snprintf(most, sizeof most, "%llu", (unsigned long long)op->a);
	(void)snprintf(group, sizeof group, "%u", map_id(&builder->ids, (uint32_t)op->b));
	const struct fs_option options[] = {
		{ "newinstance", NULL }, { "ptmxmode", "0666" }, { "mode", "0620" },
		{ "gid", group }, { "max", most }, { NULL, NULL },
	};
	AUTO_CLOSE int mount = new_filesystem("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	return mount < 0 ? -1 : attach_mount(mount, builder->root, op->path);
}

static int mount_image(struct builder *builder, const struct op *op)
{
	char device[48], flags[128], *rest = flags;
	struct fs_option options[8] = { { "source", device } };
	size_t used = 1;

	if (op->a >= MAX_FDS || builder->devices[op->a] < 0 || strlen(op->arg) >= sizeof flags) {
		errno = EINVAL;
		return -1;
	}
	(void)snprintf(device, sizeof device, "self/fd/%d", builder->devices[op->a]);
	strcpy(flags, op->arg);
	for (char *flag; (flag = strsep(&rest, ",")) && used < 7;)
		if (*flag)
			options[used++] = (struct fs_option){ flag, NULL };
	/* the file system looks for its device from the working directory on */
	if (fchdir(builder->proc) < 0)
		return -1;
	AUTO_CLOSE int mount = new_filesystem("ext4", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (fchdir(builder->root) < 0 || mount < 0 || fchmodat(mount, ".", 0700, 0) < 0 || attach_mount(mount, builder->root, op->path) < 0)
		return -1;
	builder->quota = take_fd(&mount);
	return 0;
}

static int bind_quota_dir(struct builder *builder, const struct op *op)
{
	uint32_t owner = map_id(&builder->ids, (uint32_t)op->b);
	bool made = mkdirat(builder->quota, op->arg, (mode_t)op->a) == 0; /* the umask is 0 */
	if ((!made && errno != EEXIST) || fchownat(builder->quota, op->arg, owner, owner, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	if (!made && fchmodat(builder->quota, op->arg, (mode_t)op->a, 0) < 0)
		return -1;
	AUTO_CLOSE int tree = clone_mount(builder->quota, op->arg, mount_attributes(op->flags));
	return tree < 0 ? -1 : attach_mount(tree, builder->root, op->path);
}

static int mask(struct builder *builder, const struct op *op)
{
	AUTO_CLOSE int target = open_beneath(builder->root, op->path, O_PATH);
	if (target < 0)
		return errno == ENOENT ? 0 : -1;
	if (op->arg[0] == '/') { /* by another file of the tree, which is not read-only before all of it is there */
		AUTO_CLOSE int other = open_beneath(builder->root, op->arg, O_PATH);
		AUTO_CLOSE int copy = other < 0 ? -1 : clone_mount(other, "", mount_attributes(FLAG_NO_EXEC));
		return copy < 0 ? -1 : sys_move_mount(copy, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	}
	/* both are of the tree, and read-only and all that already */
	unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;
	AUTO_CLOSE int cover = op->flags & FLAG_DIRECTORY
		? sys_open_tree(builder->empty, "", flags)
		: sys_open_tree(builder->root, "dev/null", flags);
	return cover < 0 ? -1 : sys_move_mount(cover, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int make_read_only(struct builder *builder, const struct op *op)
{
	AUTO_CLOSE int target = open_beneath(builder->root, op->path, O_PATH);
	if (target < 0)
		return -1;
	AUTO_CLOSE int tree = clone_mount(target, "", MOUNT_ATTR_RDONLY);
	return tree < 0 ? -1 : sys_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int set_sysctl(struct builder *builder, const struct op *op)
{
	return write_file_at(builder->sysctls, op->path, op->arg);
}

static int apply_op(struct builder *builder, const struct op *op)
{
	switch (op->kind) {
	case OP_DIR:
		return make_dir(builder, op);
	case OP_SYMLINK:
		return make_symlink(builder, op);
	case OP_FILE:
		return make_file(builder, op);
	case OP_BIND:
		return bind_host(builder, op);
	case OP_PROC:
		return mount_proc(builder, op);
	case OP_DEVPTS:
		return mount_devpts(builder, op);
	case OP_QUOTA_TMPFS:
		return mount_tmpfs(builder, op, "0700", &builder->quota);
	case OP_QUOTA_DEVICE:
		return mount_image(builder, op);
	case OP_QUOTA_DIR:
		return bind_quota_dir(builder, op);
	case OP_MASK:
		return mask(builder, op);
	case OP_READ_ONLY:
		return make_read_only(builder, op);
	case OP_SYSCTL:
		return set_sysctl(builder, op);
	case OP_SOURCE:
		return mount_source(builder, op);
	case OP_OVERLAY:
		return mount_overlay(builder, op);
	case OP_COPY:
		return copy_host(builder, op);
	}
	errno = EPROTO;
	return -1;
}

/* Made anew when the processes of a sandbox are: procfs with what covers parts of it, and the terminals. */
static bool is_of_processes(enum op_kind kind)
{
	return kind == OP_PROC || kind == OP_MASK || kind == OP_READ_ONLY || kind == OP_DEVPTS || kind == OP_SYSCTL;
}

int apply_ops(struct builder *builder, const struct op *ops, uint32_t count, struct failure *failure)
{
	for (uint32_t i = 0; i < count; i++)
		if ((!builder->only_of_processes || is_of_processes(ops[i].kind)) && apply_op(builder, &ops[i]) < 0)
			return fail(failure, builder->stage, (int)i);
	return 0;
}
