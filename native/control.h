/* The frames of the control channel between the supervisor and PID 1 of a sandbox: msgpack, one map a packet.
 *
 *   {"op": "ping", "n": N}                                -> {"op": "pong", "n": N}
 *   {"op": "socket", "n": N, "family": F, "type": T}      -> {"op": "socket", "n": N, "errno": E}, E = 0: with the socket
 *
 * F is AF_INET or AF_INET6, T is SOCK_STREAM or SOCK_DGRAM. Anything else is no request. nsbox/_supervisor/control.py is
 * the other end.
 */
#ifndef NSBOX_CONTROL_H
#define NSBOX_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONTROL_FRAME = 512 /* bytes, at most */ };

enum control_op { CONTROL_PING = 1, CONTROL_SOCKET = 2 };

struct control_request {
	enum control_op op;
	uint64_t number;
	uint64_t family;
	uint64_t type;
};

/* False: it is no request. Reads `size` bytes and nothing behind them; allocates nothing. */
bool control_parse(const uint8_t *bytes, size_t size, struct control_request *request);
/* Writes the answer, always less than CONTROL_FRAME bytes. Returns its size. */
size_t control_answer(uint8_t frame[CONTROL_FRAME], const struct control_request *request, int error);

#endif
