/* A template is one kind of sandbox, told once: limits, filter, and two lists of mount operations. The first list makes
 * a root tree in a mount namespace of its own, in which there is nothing else: a sandbox enters it and copies it, for next
 * to nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filesystem.h"
#include "launcher.h"
#include "sys.h"

int read_writes(struct reader *reader, struct write **writes, uint32_t *count)
{
	*count = read_count(reader, 14);
	*writes = calloc(*count + 1, sizeof **writes);
	for (uint32_t i = 0; *writes && i < *count; i++) {
		(*writes)[i].hierarchy = read_u32(reader);
		(*writes)[i].file = read_string(reader);
		(*writes)[i].value = read_string(reader);
	}
	return *writes && !reader->bad ? 0 : -1;
}

static int read_template(struct template *template)
{
	struct reader reader = payload_reader(&template->payload);
	uint32_t filter_size;

	template->hierarchies = read_u32(&reader);
	template->init_id = read_u32(&reader);
	template->spares = read_u32(&reader);
	template->filter_notifies = read_u32(&reader);
	template->filter_early = read_u32(&reader);
	template->capabilities = read_u64(&reader);
	template->hostname = read_string(&reader);
	const char *filter = read_bytes(&reader, &filter_size);
	if (reader.bad || filter_size % sizeof(struct sock_filter) || filter_size / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return -1;
	if (filter_size) {
		template->filter.len = (unsigned short)(filter_size / sizeof(struct sock_filter));
		template->filter.filter = malloc(filter_size); /* a copy: the payload is not aligned */
		if (!template->filter.filter)
			return -1;
		memcpy(template->filter.filter, filter, filter_size);
	}
	if (read_writes(&reader, &template->sandbox_writes, &template->sandbox_write_count) < 0
	    || read_writes(&reader, &template->execution_writes, &template->execution_write_count) < 0)
		return -1;
	template->user_sysctl_count = read_count(&reader, 10);
	template->user_sysctls = calloc(template->user_sysctl_count + 1, sizeof *template->user_sysctls);
	for (uint32_t i = 0; template->user_sysctls && i < template->user_sysctl_count; i++) {
		template->user_sysctls[i].path = read_string(&reader);
		template->user_sysctls[i].value = read_string(&reader);
	}
	template->root_ops = read_ops(&reader, &template->root_op_count);
	template->cell_ops = read_ops(&reader, &template->cell_op_count);
	return template->user_sysctls && template->root_ops && template->cell_ops && !reader.bad ? 0 : -1;
}

static void free_template(struct template *template)
{
	for (unsigned i = 0; i < MAX_FDS; i++)
		drop_fd(&template->devices[i]);
	drop_fd(&template->mounts);
	free(template->filter.filter);
	free(template->sandbox_writes);
	free(template->execution_writes);
	free(template->user_sysctls);
	free(template->root_ops);
	free(template->cell_ops);
	payload_close(&template->payload);
	free(template);
}

static int open_own_mounts(const struct launcher *launcher)
{
	return openat(launcher->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
}

static int build_tree(struct launcher *launcher, struct template *template, struct failure *failure)
{
	static const struct fs_option options[] = { { "size", "64m" }, { "nr_inodes", "16384" }, { "mode", "0755" }, { NULL, NULL } };

	AUTO_CLOSE int top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int tree = new_filesystem("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (top < 0 || tree < 0 || attach_mount(tree, top, TREE) < 0)
		return fail(failure, STAGE_LAUNCHER, 0);
	struct builder builder = {
		.root = tree, .proc = launcher->proc, .host_mounts = launcher->host_mounts, .devices = template->devices,
		.ids = launcher->ids, .stage = STAGE_ROOT, .procfs = -1, .empty = -1, .id_namespace = -1, .sysctls = -1, .quota = -1,
		.source = -1,
	};
	int built = apply_ops(&builder, template->root_ops, template->root_op_count, failure);
	drop_fd(&builder.quota);
	drop_fd(&builder.source);
	struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
	if (built == 0 && sys_mount_setattr(tree, "", AT_EMPTY_PATH, &read_only) < 0)
		return fail(failure, STAGE_LAUNCHER, 1);
	/* pivot_root(2): after pivot_root(".", ".") the old root lies on top of the new one. Done here, once, it saves every
	 * sandbox the unmounting, which is a grace period of RCU. */
	if (built == 0 && (fchdir(tree) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0))
		return fail(failure, STAGE_PIVOT, 1);
	return built;
}

/* The launcher goes into a copy of its own mounts, makes the root of that the tree, keeps it by a descriptor, and goes
 * back. It has one thread, and setns(2) gives it its own root and working directory again. */
static int make_mounts(struct launcher *launcher, struct template *template, struct failure *failure)
{
	AUTO_CLOSE int own = open_own_mounts(launcher);

	if (own < 0 || unshare(CLONE_NEWNS) < 0)
		return fail(failure, STAGE_LAUNCHER, 5);
	int built = build_tree(launcher, template, failure);
	if (built == 0) {
		template->mounts = open_own_mounts(launcher);
		if (template->mounts < 0)
			built = fail(failure, STAGE_LAUNCHER, 6);
	}
	if (setns(own, CLONE_NEWNS) < 0)
		give_up_all(); /* the launcher's own files are not there: it could not go on */
	return built;
}

void template_make(struct launcher *launcher, uint32_t id, struct payload *payload, const int *fds, unsigned fd_count)
{
	struct failure failure;
	struct template *template = calloc(1, sizeof *template);

	if (!template)
		give_up_all();
	template->id = id;
	template->mounts = -1;
	template->payload = *payload;
	*payload = (struct payload){ .memfd = -1 };
	for (unsigned i = 0; i < MAX_FDS; i++)
		template->devices[i] = i < fd_count ? fcntl(fds[i], F_DUPFD_CLOEXEC, 3) : -1;
	if (read_template(template) < 0) {
		errno = EPROTO;
		(void)fail(&failure, STAGE_PROTOCOL, 0);
	} else if (make_mounts(launcher, template, &failure) == 0) {
		template->next = launcher->templates;
		launcher->templates = template;
		tell_done(launcher, DOWN_TEMPLATE, id);
		return;
	}
	free_template(template);
	tell_failed(launcher, DOWN_TEMPLATE, id, &failure);
}

struct template *template_find(struct launcher *launcher, uint32_t id)
{
	for (struct template *template = launcher->templates; template; template = template->next)
		if (template->id == id && !template->forgotten)
			return template;
	return NULL;
}

void template_release(struct launcher *launcher, struct template *template)
{
	if (!template->forgotten || template->cells)
		return;
	for (struct template **link = &launcher->templates; *link; link = &(*link)->next)
		if (*link == template) {
			*link = template->next;
			break;
		}
	tell_done(launcher, DOWN_FORGET, template->id);
	free_template(template);
}

void template_forget(struct launcher *launcher, uint32_t id)
{
	struct template *template = template_find(launcher, id);

	if (!template) {
		tell_done(launcher, DOWN_FORGET, id);
		return;
	}
	template->forgotten = true;
	template->spares = 0;
	warm_stop(launcher, template);
	for (struct cell *cell = launcher->cells, *next; cell; cell = next) {
		next = cell->next;
		if (is_spare(cell, template)) /* not the heir of a sandbox that is being restarted */
			cell_end(launcher, cell, REASON_CANCELLED);
	}
	template_release(launcher, template);
}
