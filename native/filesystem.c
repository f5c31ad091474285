#define _GNU_SOURCE
#include "filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"

int new_filesystem(const char *type, const struct fs_option *options, unsigned attributes)
{
	AUTO_CLOSE int context = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (context < 0)
		return -1;
	for (; options->key; options++) {
		unsigned command = options->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
		if (syscall(SYS_fsconfig, context, command, options->key, options->value, 0) < 0)
			return -1;
	}
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
}

int clone_mount(int dir, const char *path, unsigned attributes)
{
	/* AT_RECURSIVE, for in a user namespace a mount without the ones locked onto it is EINVAL, mount_namespaces(7) */
	AUTO_CLOSE int tree = sys_open_tree(dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
	                                                   | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return -1;
	/* private: the copy of a shared mount would be its peer, and what is mounted in one place would appear in the other */
	struct mount_attr attr = { .attr_set = attributes, .propagation = MS_PRIVATE };
	if (sys_mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr) < 0)
		return -1;
	return take_fd(&tree);
}

int open_beneath(int root, const char *path, int flags)
{
	uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
	return sys_openat2(root, path, (uint64_t)(flags | O_CLOEXEC), 0, resolve);
}

int attach_mount(int mount, int root, const char *path)
{
	AUTO_CLOSE int target = open_beneath(root, path, O_PATH);
	if (target < 0)
		return -1;
	return sys_move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}
