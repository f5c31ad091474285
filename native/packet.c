/* One message with descriptors alongside, over a SOCK_SEQPACKET socket. */
#define _GNU_SOURCE
#include "packet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "sys.h"
#include "wire.h"

int send_packet(int fd, const void *buffer, size_t size, const int *passed, unsigned passed_count)
{
	const struct iovec data = { .iov_base = (void *)(uintptr_t)buffer, .iov_len = size };

	return send_parts(fd, &data, 1, passed, passed_count);
}

int send_parts(int fd, const struct iovec *parts, unsigned count, const int *passed, unsigned passed_count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = { 0 };
	struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count };
	size_t size = 0;

	for (unsigned i = 0; i < count; i++)
		size += parts[i].iov_len;
	if (passed_count) {
		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(passed_count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(passed_count * sizeof(int));
		memcpy(CMSG_DATA(header), passed, passed_count * sizeof(int));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

ssize_t receive_packet(int fd, void *buffer, size_t size, int *passed, unsigned passed_max, unsigned *passed_count)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct iovec data = { .iov_base = buffer, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space,
	};

	*passed_count = 0;
	ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	/* told once, before what the peer had still sent, when it ended without having read all: unix(7) says EOF, the kernel
	 * says this first */
	if (length < 0 && errno == ECONNRESET)
		length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (length < 0)
		return -1;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int one;
			memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof one);
			if (*passed_count < passed_max)
				passed[(*passed_count)++] = one;
			else
				drop_fd(&one);
		}
	}
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		while (*passed_count)
			drop_fd(&passed[--*passed_count]);
		errno = EMSGSIZE;
		return -1;
	}
	return length;
}
