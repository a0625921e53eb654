/* incoming.h - one message while a FETCH response brings it: its bytes go to the spool, its header is read in passing.
 * Its UID may come after its body, so its file is named by a counter. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "message.h"
#include "spool.h"

struct evbuffer;
struct incoming;

struct incoming_ops {			/* from the loop */
	void (*on_room)(void *arg, struct incoming *);	/* it does not lag any more */
	/* After incoming_finish(): the message, whole and spooled, the caller's now; or errno. Ends the object. */
	void (*on_spooled)(void *arg, struct incoming *, struct message *, int error);
};
struct incoming *incoming_new(struct spool *, const struct spool_place *, const char *tmp_name, const struct incoming_ops *, void *arg);
void incoming_take(struct incoming *, struct evbuffer *from, size_t len);
bool incoming_lags(struct incoming *);
uint64_t incoming_bytes(const struct incoming *);
/* After all bytes: it is not the message (exchange-online 5.8 B). */
bool incoming_is_substitute(const struct incoming *);
/* All bytes have come; message (whose identity the caller has filled in) is taken, and gets hash, size and path. */
void incoming_finish(struct incoming *, struct message *);
const struct message *incoming_message(const struct incoming *);	/* NULL before incoming_finish() */
void incoming_abort(struct incoming **);	/* its file goes; no callback comes */
