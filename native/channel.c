/* The socket to the supervisor. Nothing here may wait: a supervisor that is busy must not delay a kill. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"
#include "sys.h"

enum { FLUSH_NS = 5000000 };

/* Whether it is sent, or nobody is there to read it any more. */
static bool sent(struct launcher *launcher, const struct up *record, const int *fds, unsigned fd_count)
{
	return send_packet(launcher->supervisor.fd, record, sizeof *record, fds, fd_count) == 0
	       || launcher->supervisor.fd < 0 || errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN;
}

void flush_outgoing(struct launcher *launcher)
{
	while (launcher->outgoing_first) {
		struct outgoing *first = launcher->outgoing_first;
		if (!sent(launcher, &first->record, first->fds, first->fd_count))
			return;
		launcher->outgoing_first = first->next;
		if (!first->next)
			launcher->outgoing_last = NULL;
		for (unsigned i = 0; i < first->fd_count; i++)
			drop_fd(&first->fds[i]);
		free(first);
	}
}

void tell(struct launcher *launcher, const struct up *record, const int *fds, unsigned fd_count)
{
	if (launcher->quiet)
		cells_tell_quiet(launcher);
	if (!launcher->outgoing_first && sent(launcher, record, fds, fd_count))
		return;
	struct outgoing *later = calloc(1, sizeof *later);
	if (!later)
		give_up_all(); /* a record lost would leave the supervisor waiting for ever; death is noticed */
	later->record = *record;
	for (unsigned i = 0; i < fd_count; i++) {
		later->fds[later->fd_count] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
		if (later->fds[later->fd_count] < 0)
			give_up_all(); /* the same */
		later->fd_count++;
	}
	if (launcher->outgoing_last)
		launcher->outgoing_last->next = later;
	else
		launcher->outgoing_first = later;
	launcher->outgoing_last = later;
	launcher->flush_at = now_ns() + FLUSH_NS; /* room in the socket is not all that can be wanting */
}

void tell_done(struct launcher *launcher, enum down_type of, uint32_t id)
{
	tell(launcher, &(struct up){ .type = UP_DONE, .of = of, .id = id }, NULL, 0);
}

void tell_failed(struct launcher *launcher, enum down_type of, uint32_t id, const struct failure *failure)
{
	struct up record = {
		.type = UP_FAILED, .of = of, .id = id,
		.stage = failure->stage, .error = failure->error, .index = failure->index,
	};
	tell(launcher, &record, NULL, 0);
}

static void refuse(struct launcher *launcher, const struct down *down)
{
	errno = EPROTO;
	struct failure failure;
	(void)fail(&failure, STAGE_PROTOCOL, 0);
	tell_failed(launcher, (enum down_type)down->type, down->id, &failure);
}

static void obey(struct launcher *launcher, const struct down *down, struct payload *payload, const int *fds,
                 unsigned fd_count)
{
	switch ((enum down_type)down->type) {
	case DOWN_TEMPLATE:
		template_make(launcher, down->id, payload, fds, fd_count);
		return;
	case DOWN_FORGET:
		template_forget(launcher, down->id);
		return;
	case DOWN_CREATE:
		cell_create(launcher, down->id, down->parent, down->flags & CREATE_AHEAD);
		return;
	case DOWN_DESTROY:
		cell_destroy(launcher, down->id);
		return;
	case DOWN_EXEC:
		task_execute(launcher, down, payload, fds, fd_count);
		return;
	case DOWN_KILL:
		task_kill_id(launcher, down->id, (enum kill_reason)down->flags);
		return;
	case DOWN_FREEZE:
		cell_freeze(launcher, down->id);
		return;
	case DOWN_THAW:
		cell_thaw(launcher, down->id);
		return;
	case DOWN_RESTART:
		cell_restart(launcher, down->id);
		return;
	case DOWN_WARM:
		warm_start(launcher, down->id, payload, fds, fd_count);
		return;
	case DOWN_COOL: {
		struct template *template = template_find(launcher, down->id);
		if (template)
			warm_stop(launcher, template);
		return;
	}
	case DOWN_CONNECT:
		cell_connect(launcher, down->id);
		return;
	case DOWN_NETWORK:
		network_open(launcher, down->id);
		return;
	case DOWN_TURN:
		turn_begin(launcher, down->id, payload);
		return;
	case DOWN_TURN_END:
		turn_end(launcher, down->id);
		return;
	case DOWN_INTERRUPT:
		turn_interrupt(launcher, down->id, (enum kill_reason)down->flags);
		return;
	case DOWN_SETUP: /* came before the loop; a second one is refused */
		break;
	}
	refuse(launcher, down);
}

static void receive_message(struct launcher *launcher)
{
	static char packet[sizeof(struct down) + INLINE_PAYLOAD]; /* too large for the stack, and there is one loop */
	int fds[MAX_FDS];
	unsigned fd_count;
	ssize_t length = receive_packet(launcher->supervisor.fd, packet, sizeof packet, fds, MAX_FDS, &fd_count);

	if (length < 0)
		return;
	if (length == 0) {
		launcher->over = true;
		return;
	}
	struct down down = { 0 };
	struct payload payload = { .memfd = -1 };
	int memfd = -1;
	if ((size_t)length >= sizeof down)
		memcpy(&down, packet, sizeof down);
	if (down.payload_size > INLINE_PAYLOAD && fd_count)
		memfd = fds[--fd_count];
	if ((size_t)length < sizeof down
	    || payload_open(&payload, packet + sizeof down, (size_t)length - sizeof down, memfd, down.payload_size) < 0)
		refuse(launcher, &down);
	else
		obey(launcher, &down, &payload, fds, fd_count);
	payload_close(&payload); /* a template has taken it over, and left it empty */
	drop_fd(&memfd);
	for (unsigned i = 0; i < fd_count; i++)
		drop_fd(&fds[i]);
}

void channel_ready(struct launcher *launcher, struct source *source, uint32_t events)
{
	(void)source;
	if (events & EPOLLOUT)
		flush_outgoing(launcher);
	if (events & EPOLLIN)
		receive_message(launcher);
	else if (events & (EPOLLHUP | EPOLLERR))
		launcher->over = true;
}
