/* OP_COPY: a file or directory of the host's, copied into a root tree as far as everybody may read it there. Made once
 * for a kind of sandbox, by the launcher; the tree's own size bounds it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filesystem.h"
#include "mounts.h"
#include "sys.h"

enum { DEEPEST = 32, CHUNK = 1 << 20 };

static int copy_bytes(int from, int parent, const char *name, mode_t mode)
{
	AUTO_CLOSE int to = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t copied;

	if (to < 0)
		return -1;
	while ((copied = sendfile(to, from, NULL, CHUNK)) > 0)
		;
	return copied < 0 ? -1 : fchmod(to, mode & 0755);
}

static int copy_link(int dir, const char *entry, int parent, const char *name)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(dir, entry, target, sizeof target - 1);

	if (length < 0)
		return -1;
	target[length] = '\0';
	return symlinkat(target, parent, name);
}

static int copy_directory(int from, int parent, const char *name, mode_t mode, int depth);

/* What is open at `from`. Set-uid bits and owners do not come along. */
static int copy_open(int from, int parent, const char *name, int depth)
{
	struct stat found;

	if (fstat(from, &found) < 0)
		return -1;
	if (S_ISREG(found.st_mode) && (found.st_mode & S_IROTH))
		return copy_bytes(from, parent, name, found.st_mode);
	if (S_ISDIR(found.st_mode) && (found.st_mode & S_IROTH) && (found.st_mode & S_IXOTH))
		return copy_directory(from, parent, name, found.st_mode, depth);
	return 0; /* not for everybody, or neither file nor directory */
}

static int copy_entry(int dir, const char *entry, int parent, int depth)
{
	struct stat found;

	if (fstatat(dir, entry, &found, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -1; /* the host goes on meanwhile */
	if (S_ISLNK(found.st_mode))
		return copy_link(dir, entry, parent, entry);
	if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode))
		return 0; /* opening a device or a FIFO can do something */
	AUTO_CLOSE int from = openat(dir, entry, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return errno == ENOENT ? 0 : -1;
	return copy_open(from, parent, entry, depth);
}

static int copy_directory(int from, int parent, const char *name, mode_t mode, int depth)
{
	if (depth >= DEEPEST) {
		errno = ELOOP;
		return -1;
	}
	if (mkdirat(parent, name, 0700) < 0 || fchmodat(parent, name, mode & 0755, 0) < 0)
		return -1;
	AUTO_CLOSE int to = open_beneath(parent, name, O_RDONLY | O_DIRECTORY);
	int listed = fcntl(from, F_DUPFD_CLOEXEC, 3);
	DIR *list = listed < 0 ? NULL : fdopendir(listed);
	if (to < 0 || !list) {
		if (!list)
			close_fd(&listed);
		else
			(void)closedir(list); /* only read from */
		return -1;
	}
	int copied = 0;
	for (struct dirent *entry; copied == 0 && (errno = 0, entry = readdir(list));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			copied = copy_entry(from, entry->d_name, to, depth + 1);
	int saved = errno;
	(void)closedir(list); /* the same */
	errno = saved;
	return copied < 0 || saved ? -1 : 0;
}

/* The descriptor is good in any mount namespace: only the name is the host's. */
static int open_host(const struct builder *builder, const char *path)
{
	AUTO_CLOSE int own = openat(builder->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (own < 0 || setns(builder->host_mounts, CLONE_NEWNS) < 0)
		return -1;
	AUTO_CLOSE int source = sys_openat2(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
	int saved = errno;
	if (setns(own, CLONE_NEWNS) < 0)
		_exit(70); /* in the host's mount namespace nothing may go on */
	errno = saved;
	return take_fd(&source);
}

int copy_host(struct builder *builder, const struct op *op)
{
	const char *slash = strrchr(op->path, '/');
	char directory[PATH_MAX];
	struct stat found;

	if (!slash || (size_t)(slash - op->path) + 2 > sizeof directory) {
		errno = EINVAL;
		return -1;
	}
	memcpy(directory, op->path, (size_t)(slash - op->path) + 1);
	directory[slash - op->path + 1] = '\0';
	AUTO_CLOSE int parent = open_beneath(builder->root, directory, O_PATH | O_DIRECTORY);
	if (parent < 0)
		return -1;
	AUTO_CLOSE int source = open_host(builder, op->arg);
	if (source < 0 || fstat(source, &found) < 0)
		return -1;
	if (found.st_dev != op->a || found.st_ino != op->b) {
		errno = ESTALE;
		return -1;
	}
	return copy_open(source, parent, slash + 1, 0);
}
