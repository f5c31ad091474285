/* nsbox-launcher SOCKET APPLICATION MODE
 *
 * SOCKET and APPLICATION are inherited descriptors: the supervisor's socket, and a pidfd of the application, whose end
 * is ours too. MODE is "root" or "user", or, from itself to itself, "mapped". Started once by the supervisor; not useful to anybody else, set-uid least.
 *
 * The first process clones the launcher proper, init of a pid namespace of its own (so that its death is everybody's),
 * as a child of the application's, sends the pidfd of it up, and ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

enum { SOCKET = 3, APPLICATION = 4 };

static int say_hello(int pidfd)
{
	struct up hello = { .type = UP_HELLO, .id = WIRE_VERSION };
	return send_packet(SOCKET, &hello, sizeof hello, &pidfd, 1);
}

/* Nothing of the application's comes along: descriptors, directory, signals; the environment it leaves empty itself. */
static int forget_the_past(int socket, int application)
{
	/* above what may be in the way, then to where they belong */
	int high_socket = fcntl(socket, F_DUPFD_CLOEXEC, 10);
	int high_application = fcntl(application, F_DUPFD_CLOEXEC, 10);
	if (high_socket < 0 || high_application < 0)
		return -1;
	if (dup3(high_socket, SOCKET, O_CLOEXEC) < 0 || dup3(high_application, APPLICATION, O_CLOEXEC) < 0)
		return -1;
	if (sys_close_range(0, 2, 0) < 0 || sys_close_range(5, ~0u, 0) < 0)
		return -1;
	if (open("/dev/null", O_RDWR | O_CLOEXEC) != 0 || dup(0) != 1 || dup(0) != 2)
		return -1;
	for (int signal = 1; signal < NSIG; signal++)
		(void)sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL); /* not SIGKILL: EINVAL */
	sigset_t all;
	(void)sigfillset(&all);
	(void)umask(0);
	return sigprocmask(SIG_SETMASK, &all, NULL) < 0 || chdir("/") < 0 ? -1 : 0;
}

/* The root that the launcher lives in: an empty tmpfs with a procfs and a place to build root trees at. */
static int make_own_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -1;
	if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755") < 0 || chdir("/tmp") < 0)
		return -1;
	if (mkdir("proc", 0755) < 0 || mkdir(&TREE[1], 0700) < 0)
		return -1;
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return -1;
	if (sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return -1;
	return chdir("/");
}

/* As user, the mount namespace of the host is not ours to look into; a copy that follows it is. */
static int keep_host_mounts(struct launcher *launcher, int host)
{
	if (launcher->user_mode) {
		if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
			return -1;
		launcher->host_mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
		if (launcher->host_mounts < 0)
			return -1;
	} else {
		launcher->host_mounts = host;
	}
	return unshare(CLONE_NEWNS);
}

static int settle_in(struct launcher *launcher, int host)
{
	struct statfs found;

	if (keep_host_mounts(launcher, host) < 0 || make_own_root() < 0)
		return -1;
	launcher->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (launcher->proc < 0 || fstatfs(launcher->proc, &found) < 0)
		return -1;
	if (found.f_type != PROC_SUPER_MAGIC) {
		errno = EXDEV;
		return -1;
	}
	launcher->pid_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (launcher->pid_namespace < 0)
		return -1;
	/* What a warm interpreter needs to send its children into sandboxes; they empty it on their way, as all do. */
	uint64_t for_interpreters = 1ull << CAP_SYS_ADMIN | 1ull << CAP_SYS_CHROOT | 1ull << CAP_SETUID | 1ull << CAP_SETGID
	                            | 1ull << CAP_SETPCAP | 1ull << CAP_SYS_PTRACE; /* setns(2) by a pidfd looks into the process */
	if (reduce_bounding_set(for_interpreters, &(struct failure){ 0 }) < 0)
		return -1;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -1;
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return -1;
	files.rlim_cur = files.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &files);
}

static int read_setup(struct launcher *launcher, const int *fds, unsigned fd_count)
{
	struct reader reader = payload_reader(&launcher->setup);
	unsigned next_fd = 0;

	launcher->ids.inside = read_u32(&reader);
	launcher->ids.outside = read_u32(&reader);
	launcher->ids.count = read_u32(&reader);
	launcher->id_ranges = read_u32(&reader);
	launcher->hierarchy_count = read_count(&reader, 17);
	if (launcher->hierarchy_count > MAX_HIERARCHIES || fd_count < 2 * launcher->hierarchy_count)
		return -1;
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++) {
		struct hierarchy *hierarchy = &launcher->hierarchies[i];
		hierarchy->born_inside = read_u32(&reader) == 2;
		hierarchy->per_execution = read_u32(&reader);
		hierarchy->init_leaf = read_u32(&reader);
		hierarchy->name = read_string(&reader);
		hierarchy->base = fds[next_fd++];
		hierarchy->parent = fds[next_fd++];
	}
	launcher->counter_count = read_count(&reader, 22);
	if (launcher->counter_count > MAX_COUNTERS)
		return -1;
	for (uint32_t i = 0; i < launcher->counter_count; i++) {
		struct counter *counter = &launcher->counters[i];
		counter->slot = read_u32(&reader);
		counter->hierarchy = read_u32(&reader);
		counter->of_execution = read_u32(&reader);
		counter->file = read_string(&reader);
		counter->key = read_string(&reader);
		if (counter->slot >= MAX_COUNTERS || counter->hierarchy >= launcher->hierarchy_count)
			return -1;
	}
	launcher->answers_name = read_string(&reader);
	if (!reader.bad && launcher->answers_name[0])
		launcher->answers = next_fd < fd_count ? fds[next_fd++] : -1;
	if (launcher->id_ranges)
		launcher->id_lock = next_fd < fd_count ? fds[next_fd++] : -1;
	return reader.bad || next_fd != fd_count ? -1 : 0;
}

/* Waits for the one message that comes before the loop: as user, the id maps are written by then, too. */
static int receive_setup(struct launcher *launcher, struct failure *failure)
{
	static char packet[sizeof(struct down) + INLINE_PAYLOAD];
	int fds[MAX_FDS];
	unsigned fd_count;
	struct down down;
	ssize_t length = receive_packet(SOCKET, packet, sizeof packet, fds, MAX_FDS, &fd_count);

	if (length == 0)
		_exit(0);
	errno = EPROTO;
	if (length < (ssize_t)sizeof down)
		return fail(failure, STAGE_PROTOCOL, 0);
	memcpy(&down, packet, sizeof down);
	if (down.type != DOWN_SETUP || down.id != WIRE_VERSION)
		return fail(failure, STAGE_PROTOCOL, 1);
	if (payload_open(&launcher->setup, packet + sizeof down, (size_t)length - sizeof down, -1, down.payload_size) < 0
	    || read_setup(launcher, fds, fd_count) < 0)
		return fail(failure, STAGE_PROTOCOL, 2);
	return 0;
}

static int open_sources(struct launcher *launcher)
{
	sigset_t signals;

	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGCHLD);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGINT);
	launcher->epoll = epoll_create1(EPOLL_CLOEXEC);
	launcher->supervisor = (struct source){ .ready = channel_ready, .fd = SOCKET };
	launcher->application = (struct source){ .ready = application_ready, .fd = APPLICATION };
	launcher->signals = (struct source){
		.ready = signals_ready, .fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK),
	};
	if (launcher->epoll < 0 || launcher->signals.fd < 0 || fcntl(SOCKET, F_SETFL, O_NONBLOCK) < 0)
		return -1;
	return watch(launcher, &launcher->supervisor) < 0 || watch(launcher, &launcher->application) < 0
	                   || watch(launcher, &launcher->signals) < 0 ? -1 : 0;
}

static void remove_names(struct launcher *launcher)
{
	for (uint32_t i = 0; i < launcher->hierarchy_count; i++)
		(void)unlinkat(launcher->hierarchies[i].parent, launcher->hierarchies[i].name, AT_REMOVEDIR);
	/* not empty: the next start of nsbox finds and removes what a dead owner left */
	if (launcher->answers >= 0)
		(void)unlinkat(launcher->answers, launcher->answers_name, 0); /* gone already: the supervisor did it */
}

static _Noreturn void be_launcher(bool user_mode, int host)
{
	static struct launcher launcher;
	struct failure failure;

	(void)setsid(); /* Ctrl-C is for the application; it fails for who leads a session already, "mapped" */
	launcher.user_mode = user_mode;
	launcher.answers = launcher.id_lock = launcher.router = -1;
	launcher.epoll = -1;
	if (receive_setup(&launcher, &failure) < 0
	    || (settle_in(&launcher, host) < 0 && fail(&failure, STAGE_LAUNCHER, 2) < 0)
	    || (open_sources(&launcher) < 0 && fail(&failure, STAGE_LAUNCHER, 3) < 0)) {
		launcher.supervisor.fd = SOCKET;
		tell_failed(&launcher, DOWN_SETUP, WIRE_VERSION, &failure);
		_exit(1);
	}
	tell_done(&launcher, DOWN_SETUP, WIRE_VERSION);
	int clean = run_loop(&launcher);
	remove_names(&launcher);
	_exit(clean < 0);
}

/* As user, the launcher has to be exec'd inside of its user namespace: the memory of a process belongs to the namespace
 * that it was exec'd in, and while it is not dumpable only that namespace's root gets at its /proc files, ptrace(2). The
 * supervisor's first message is only looked at: when it is there, the id maps are written. */
static _Noreturn void exec_mapped(int self)
{
	struct pollfd first = { .fd = SOCKET, .events = POLLIN };
	char socket[] = "3", application[] = "4", mode[] = "mapped", name[] = "nsbox-launcher";
	char *argv[] = { name, socket, application, mode, NULL }, *envp[] = { NULL };

	if (poll(&first, 1, -1) == 1 && !(first.revents & (POLLHUP | POLLERR)) && setresgid(0, 0, 0) == 0
	    && setresuid(0, 0, 0) == 0 && fcntl(SOCKET, F_SETFD, 0) == 0 && fcntl(APPLICATION, F_SETFD, 0) == 0)
		(void)execveat(self, "", argv, envp, AT_EMPTY_PATH);
	struct launcher launcher = { .supervisor = { .fd = SOCKET } };
	struct failure failure;
	(void)fail(&failure, STAGE_LAUNCHER, 1);
	tell_failed(&launcher, DOWN_SETUP, WIRE_VERSION, &failure);
	_exit(1);
}

int main(int argc, char **argv)
{
	if (getauxval(AT_SECURE) || argc != 4)
		return 64;
	bool user_mode = strcmp(argv[3], "user") == 0;
	if (forget_the_past(atoi(argv[1]), atoi(argv[2])) < 0)
		return 71;
	if (strcmp(argv[3], "mapped") == 0)
		be_launcher(true, -1);
	int pidfd = -1, host = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	struct clone_args args = {
		.flags = CLONE_PARENT | CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
		         | (user_mode ? CLONE_NEWUSER : 0),
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
	};
	pid_t pid = host < 0 || self < 0 ? -1 : sys_clone3(&args);
	if (pid == 0 && user_mode)
		exec_mapped(self);
	if (pid == 0)
		be_launcher(false, host);
	if (pid < 0) {
		struct launcher launcher = { .supervisor = { .fd = SOCKET } };
		struct failure failure;
		(void)fail(&failure, STAGE_LAUNCHER, 0);
		tell_failed(&launcher, DOWN_SETUP, WIRE_VERSION, &failure);
		return 71;
	}
	return say_hello(pidfd) < 0 ? 71 : 0;
}
