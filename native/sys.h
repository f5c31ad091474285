/* System calls that glibc 2.36 has no wrapper for, and descriptors that close themselves. */
#ifndef NSBOX_SYS_H
#define NSBOX_SYS_H

#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void close_fd(int *fd);
#define AUTO_CLOSE __attribute__((cleanup(close_fd)))

/* Hands a descriptor on: the variable forgets it. */
int take_fd(int *fd);
void drop_fd(int *fd);

pid_t sys_clone3(struct clone_args *args);
int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_open_tree(int dir, const char *path, unsigned flags);
int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags);
int sys_mount_setattr(int dir, const char *path, unsigned flags, struct mount_attr *attr);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_close_range(unsigned first, unsigned last, unsigned flags);
int sys_pidfd_send_signal(int pidfd, int signal);
/* The permitted set, and effective and permitted set at once with nothing inheritable; one bit a capability. */
int sys_capget(uint64_t *permitted);
int sys_capset(uint64_t capabilities);

/* Writes a whole small file (kernel attribute files take a value in one write). 0, or -1 with errno. */
int write_file_at(int dir, const char *path, const char *value);
/* Reads up to size-1 bytes and ends them with NUL. Length, or -1 with errno. */
ssize_t read_file_at(int dir, const char *path, char *buffer, size_t size);

uint64_t now_ns(void);

/* There is no going on. The launcher is the init of its pid namespace, whose death is that of all in it; and an init that
 * is traced survives the signals of abort(3), pid_namespaces(7). */
_Noreturn void give_up_all(void);

#endif
