/* Giving up: capabilities, groups, ids. */
#define _GNU_SOURCE
#include "credentials.h"

#include <errno.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"

int reduce_bounding_set(uint64_t kept, struct failure *failure)
{
	int capability = 0;

	/* EINVAL: the first that this kernel does not know, and there is none that is known behind it */
	while ((capability < 64 && (kept >> capability & 1)) || prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
		capability++;
	return errno == EINVAL && capability > 0 ? 0 : fail(failure, STAGE_CREDENTIALS, 5);
}

int empty_bounding_set(struct failure *failure)
{
	return reduce_bounding_set(0, failure);
}

int drop_capabilities(uint64_t kept, struct failure *failure)
{
	/* a change of ids or capabilities has made the process as dumpable as /proc/sys/fs/suid_dumpable says, proc(5) */
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || sys_capset(kept) < 0
	    || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return fail(failure, STAGE_CREDENTIALS, 3);
	return 0;
}

int drop_credentials(uint32_t uid, uint32_t gid, uint64_t kept, struct failure *failure)
{
	/* EPERM where setgroups is denied for good: a launcher without root and without a range of ids of its own */
	if (setgroups(0, NULL) < 0 && errno != EPERM)
		return fail(failure, STAGE_CREDENTIALS, 0);
	if (syscall(SYS_setresgid, gid, gid, gid) < 0)
		return fail(failure, STAGE_CREDENTIALS, 1);
	if (syscall(SYS_setresuid, uid, uid, uid) < 0)
		return fail(failure, STAGE_CREDENTIALS, 2);
	return drop_capabilities(kept, failure);
}
