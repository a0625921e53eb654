/* resolver.h - names to addresses, off the loop. One getaddrinfo per name in flight; answers are kept 60 s, and a last
 * good answer is used for an hour when a new one cannot be had. Numeric addresses never leave the loop. */
#pragma once
#include <stddef.h>
#include <sys/socket.h>
#include "failure.h"

struct workers; struct event_base;
struct resolver;
struct address { struct sockaddr_storage sa; socklen_t len; };	/* port is set */
typedef void resolver_cb(void *arg, const struct address *v, size_t n, const char *error);	/* n 0: error says why */

struct resolver *resolver_new(struct event_base *, struct workers *);
void resolver_free(struct resolver **);		/* after all lookups are cancelled */
/* Answers later, from the loop, exactly once, within 30 s; the addresses are lent for the call. */
struct lookup *resolver_start(struct resolver *, const char *host, uint16_t port, resolver_cb *cb, void *arg);
void lookup_cancel(struct lookup **);		/* no callback comes any more; NULL inside is fine */
