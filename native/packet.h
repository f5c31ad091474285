/* One message with descriptors alongside, over a SOCK_SEQPACKET socket. */
#ifndef NSBOX_PACKET_H
#define NSBOX_PACKET_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Its length, or -1 with errno; more descriptors than `passed_max` are closed. */
ssize_t receive_packet(int fd, void *buffer, size_t size, int *passed, unsigned passed_max, unsigned *passed_count);
int send_packet(int fd, const void *buffer, size_t size, const int *passed, unsigned passed_count);
int send_parts(int fd, const struct iovec *parts, unsigned count, const int *passed, unsigned passed_count);

#endif
