/* New file systems by the descriptor-based mount API, mount(2)'s successor: nothing is looked up twice. */
#ifndef NSBOX_FILESYSTEM_H
#define NSBOX_FILESYSTEM_H

struct fs_option {
	const char *key;
	const char *value; /* NULL: a flag */
};

/* A mount, not attached anywhere yet; `options` end with a NULL key. -1 with errno. */
int new_filesystem(const char *type, const struct fs_option *options, unsigned attributes);

/* A detached copy of what is mounted (or lies) at `path` below `dir`, with `attributes` set. -1 with errno. */
int clone_mount(int dir, const char *path, unsigned attributes);

/* The place for a mount, below `root`; no symbolic link is followed on the way, none is the target. -1 with errno. */
int open_beneath(int root, const char *path, int flags);

/* Attaches a detached mount at `path` below `root`. 0, or -1 with errno. */
int attach_mount(int mount, int root, const char *path);

#endif
