/* What a program finds of its isolation. Each question is asked three times and the answer of two counts, since one call of
 * each process is made to fail; the answers are written once. Static, so that it makes few calls of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static long uid(void) { return getuid(); }
static long gid(void) { return getgid(); }
static long groups(void) { return getgroups(0, NULL); }
static long pid_of_parent(void) { return getppid(); }
static long is_session_leader(void) { return getsid(0) == getpid(); }
static long new_privileges(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }
static long filter(void) { return prctl(PR_GET_SECCOMP, 0, 0, 0, 0); }
static long dumpable(void) { return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0); }
static long death_signal(void) { int signal = -1; return prctl(PR_GET_PDEATHSIG, &signal) < 0 ? -1 : signal; }
static long bounding(void) { return prctl(PR_CAPBSET_READ, 21, 0, 0, 0); }
static long ambient(void) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 21, 0, 0); }
static long root_writable(void) { return access("/usr", W_OK); }
static long work_writable(void) { return access(".", W_OK); }
static long extra_descriptor(void) { for (int fd = 3; fd < 64; fd++) { struct stat s; if (fstat(fd, &s) == 0) return fd; } return 0; }
static long files(void) { struct rlimit l; return getrlimit(RLIMIT_NOFILE, &l) < 0 ? -1 : (long)l.rlim_cur; }
static long core(void) { struct rlimit l; return getrlimit(RLIMIT_CORE, &l) < 0 ? -1 : (long)l.rlim_max; }

static long ask(long (*question)(void))
{
	long answers[3];

	for (int i = 0; i < 3; i++) {
		errno = 0;
		answers[i] = question();
		if (answers[i] < 0)
			answers[i] = -errno;
	}
	return answers[0] == answers[1] || answers[0] == answers[2] ? answers[0] : answers[1];
}

int main(void)
{
	static const struct { const char *name; long (*question)(void); } all[] = {
		{ "uid", uid }, { "gid", gid }, { "groups", groups }, { "parent", pid_of_parent },
		{ "session", is_session_leader }, { "no_new_privs", new_privileges }, { "seccomp", filter },
		{ "dumpable", dumpable }, { "pdeathsig", death_signal }, { "bounding", bounding }, { "ambient", ambient },
		{ "usr", root_writable }, { "work", work_writable },
		{ "fd", extra_descriptor }, { "nofile", files }, { "core", core },
	};
	char text[1024];
	int length = 0;

	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		length += snprintf(text + length, sizeof text - (unsigned)length, "%s=%ld ", all[i].name, ask(all[i].question));
	text[length - 1] = '\n';
	while (write(1, text, (unsigned)length) < 0 && (errno == EINTR || errno == ENOMEM || errno == EAGAIN || errno == EPERM
	                                               || errno == EMFILE || errno == ENOSPC))
		continue;
	return 0;
}
