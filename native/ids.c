/* Every sandbox of a launcher that is root has host uids that no other sandbox on the machine has: the ranges are handed
 * out by locks on the bytes of one file, which vanish with the descriptor, however the launcher ends. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

static int lock_byte(int fd, uint32_t index, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = index, .l_len = 1 };
	return fcntl(fd, F_OFD_SETLK, &lock);
}

/* OFD locks do not conflict within one open file: what this launcher holds, it has to know itself. */
static bool held(const struct launcher *launcher, int index)
{
	for (const struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->id_range == index)
			return true;
	return false;
}

int claim_ids(struct launcher *launcher, struct cell *cell)
{
	cell->id_range = -1;
	cell->ids = launcher->ids;
	if (launcher->id_lock < 0)
		return 0;
	uint32_t first = cell->number * 7919u; /* a prime: neighbours in time are no neighbours in the file */
	for (uint32_t i = 0; i < launcher->id_ranges; i++) {
		uint32_t index = (first + i) % launcher->id_ranges;
		if (held(launcher, (int)index) || lock_byte(launcher->id_lock, index, F_WRLCK) < 0)
			continue;
		cell->id_range = (int)index;
		cell->ids.outside = launcher->ids.outside + index * launcher->ids.count;
		return 0;
	}
	errno = EUSERS;
	return -1;
}

void release_ids(struct launcher *launcher, struct cell *cell)
{
	if (cell->id_range >= 0)
		(void)lock_byte(launcher->id_lock, (uint32_t)cell->id_range, F_UNLCK); /* unlocking cannot fail */
	cell->id_range = -1;
}
