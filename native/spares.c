/* What is made before it is asked for: sandboxes of a kind that is in use, and parked processes. */
#define _GNU_SOURCE
#include "launcher.h"

static bool refill_template(struct launcher *launcher, struct template *template)
{
	uint32_t spare = 0;
	struct failure failure;

	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		spare += is_spare(cell, template);
	if (spare >= template->spares || !template->used)
		return false;
	(void)cell_new(launcher, template, NULL, &failure); /* failed: its end sets spares to 0, and the next asked for tells why */
	return true;
}

/* What was parked before the interpreter was there could only exec; better a sandbox is without for a moment while nobody
 * asks for it than when somebody does. */
static bool replace_cold(struct launcher *launcher, struct cell *cell)
{
	struct failure failure;

	if (cell->state != CELL_READY || cell->frozen_at || !cell->parked || cell->parked->warm
	    || !cell->template->wants_warm || !warm_ready(cell->template))
		return false;
	task_kill(launcher, cell->parked, REASON_NONE);
	cell->parked = task_park(launcher, cell, &failure); /* failed: the execution itself tries, and tells */
	return true;
}

bool cells_refill(struct launcher *launcher)
{
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (replace_cold(launcher, cell))
			return true;
	/* A process ahead for the next execution only where a second has shown that there are several. */
	for (struct cell *cell = launcher->cells; cell; cell = cell->next)
		if (cell->state == CELL_READY && cell->executions > 1 && !cell->parked && !cell->frozen_at) {
			struct failure failure;
			cell->parked = task_park(launcher, cell, &failure); /* failed: the execution itself tries, and tells */
			if (cell->parked)
				return true;
		}
	for (struct template *template = launcher->templates; template; template = template->next)
		if (refill_template(launcher, template))
			return true;
	return false;
}
