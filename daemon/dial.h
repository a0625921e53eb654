/* dial.h - a TCP connection to a host: its addresses tried in turn, each for at most 10 s; after 3 s without an
 * answer the next of the other family is tried beside it (RFC 8305 in spirit). The family that worked is remembered
 * per host, so that a broken one costs 3 s once. Sets keepalive, TCP_USER_TIMEOUT and TCP_NODELAY. */
#pragma once
#include <stdint.h>
#include "failure.h"

struct event_base; struct resolver;
struct dialer;
struct dial;
/* fd >= 0: connected, non-blocking, the caller's. Else what went wrong, one line, and where (resolve or connect). */
typedef void dial_cb(void *arg, int fd, enum failure_phase, const char *error);

struct dialer *dialer_new(struct event_base *, struct resolver *);	/* lent, outlives us */
void dialer_free(struct dialer **);
struct dial *dial_start(struct dialer *, const char *host, uint16_t port, dial_cb *cb, void *arg);
void dial_cancel(struct dial **);
/* What was dialed connects and then is silent: the next one tries the other family first. fd is still the caller's. */
void dialer_doubt(struct dialer *, const char *host, int fd);
