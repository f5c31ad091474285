/* OP_OVERLAY: what is mounted at a path becomes writable, for this sandbox only, and root inside is its owner. child
 *
 * The lower layer is a copy of that mount in which every id is shifted into the range of the sandbox (an idmapped mount,
 * mount_setattr(2), Linux 5.12; as a layer, Linux 5.19): else root inside would own nothing. What is written lies in the
 * quota. The overlay's superblock belongs to the launcher's user namespace, so that its work on the layers, and the
 * trusted.* attributes that it keeps there, are out of reach for whoever is root inside. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "mounts.h"
#include "sys.h"

/* mount_setattr(2) takes an id mapping in the form of a user namespace: one with the map of the sandbox, held by a
 * process that does nothing else, until there is a descriptor of it. Not the sandbox's own, which is made only after the
 * mounts. Its files are in the procfs of the sandbox, which comes before any overlay. */
static int open_mapped_namespace(const struct builder *builder)
{
	struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	char path[48], line[64];
	int namespace = -1;

	AUTO_CLOSE int proc = openat(builder->root, "proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return -1;
	pid_t holder = sys_clone3(&args);
	if (holder == 0)
		for (;;)
			(void)pause();
	if (holder < 0)
		return -1;
	(void)snprintf(line, sizeof line, "%u %u %u\n", builder->ids.inside, builder->ids.outside, builder->ids.count);
	(void)snprintf(path, sizeof path, "%d/uid_map", holder);
	int mapped = write_file_at(proc, path, line);
	(void)snprintf(path, sizeof path, "%d/gid_map", holder);
	if (mapped == 0 && write_file_at(proc, path, line) == 0) {
		(void)snprintf(path, sizeof path, "%d/ns/user", holder);
		namespace = openat(proc, path, O_RDONLY | O_CLOEXEC);
	}
	int saved = errno;
	if (kill(holder, SIGKILL) < 0)
		return -1; /* not to be waited for; it ends with this process */
	(void)waitpid(holder, NULL, 0); /* our own child, not reaped yet */
	errno = saved;
	return namespace;
}

/* Read-only, with the ids of the sandbox, mounted at `path`: overlayfs takes layers from the mounts of its maker only.
 * Not what is mounted below it, which an overlay does not show: the plan mounts that anew on top. */
static int mount_lower(struct builder *builder, const char *path)
{
	AUTO_CLOSE int target = open_beneath(builder->root, path, O_PATH | O_DIRECTORY);
	if (target < 0)
		return -1;
	AUTO_CLOSE int lower = sys_open_tree(target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (lower < 0)
		return -1;
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
		.propagation = MS_PRIVATE, .userns_fd = (uint64_t)builder->id_namespace,
	};
	if (sys_mount_setattr(lower, "", AT_EMPTY_PATH, &attr) < 0) {
		if (errno == EINVAL)
			errno = EOPNOTSUPP; /* the file system does not know how; told apart from what overlayfs refuses */
		return -1;
	}
	return attach_mount(lower, builder->root, path) < 0 ? -1 : take_fd(&lower);
}

/* The directory in the quota that is shown for the root of `lower`: its owner, if that is one of the sandbox's ids, and
 * its mode. */
static int make_upper(const struct builder *builder, const char *name, int lower)
{
	const struct id_map *ids = &builder->ids;
	struct stat found;

	if (fstat(lower, &found) < 0 || mkdirat(builder->quota, name, 0700) < 0)
		return -1;
	uid_t owner = found.st_uid - ids->outside < ids->count ? found.st_uid : map_id(ids, 0);
	gid_t group = found.st_gid - ids->outside < ids->count ? found.st_gid : map_id(ids, 0);
	if (fchownat(builder->quota, name, owner, group, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	return fchmodat(builder->quota, name, found.st_mode & 01777, 0);
}

int mount_overlay(struct builder *builder, const struct op *op)
{
	char lower_path[40], upper_name[256], upper_path[300], work_name[256], work_path[300];

	if (builder->id_namespace < 0)
		builder->id_namespace = open_mapped_namespace(builder);
	if (builder->id_namespace < 0)
		return -1;
	AUTO_CLOSE int lower = mount_lower(builder, op->path);
	if (lower < 0)
		return -1;
	if (snprintf(upper_name, sizeof upper_name, "%s/upper", op->arg) >= (int)sizeof upper_name) {
		errno = ENAMETOOLONG;
		return -1;
	}
	(void)snprintf(work_name, sizeof work_name, "%s/work", op->arg); /* shorter */
	if (mkdirat(builder->quota, op->arg, 0700) < 0 || mkdirat(builder->quota, work_name, 0700) < 0
	    || make_upper(builder, upper_name, lower) < 0)
		return -1;
	(void)snprintf(lower_path, sizeof lower_path, "/proc/self/fd/%d", lower);
	(void)snprintf(upper_path, sizeof upper_path, "/proc/self/fd/%d/%s", builder->quota, upper_name);
	(void)snprintf(work_path, sizeof work_path, "/proc/self/fd/%d/%s", builder->quota, work_name);
	/* volatile: nothing of it outlives the sandbox, so that fsync(2), of which dpkg makes many, has nothing to do */
	const struct fs_option options[] = {
		{ "lowerdir", lower_path }, { "upperdir", upper_path }, { "workdir", work_path },
		{ "redirect_dir", "on" }, { "metacopy", "off" }, { "index", "off" }, { "volatile", NULL }, { NULL, NULL },
	};
	AUTO_CLOSE int mount = new_filesystem("overlay", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	return mount < 0 ? -1 : attach_mount(mount, builder->root, op->path);
}
