/* delivery.h - one mailbox's spooled messages on their way through its sink: order, patience, settling. A message is
 * settled in the store only after the sink confirmed it or it is durable in quarantine. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "failure.h"

struct event_base; struct message; struct sink; struct spool; struct store;
struct delivery;

struct delivery_ops {			/* from the loop; messages are lent */
	void (*on_taken)(void *arg, const struct message *);	/* the sink has confirmed it; on_settled follows when that is on disk, too */
	void (*on_settled)(void *arg, const struct message *, bool delivered);	/* on disk; false: quarantined */
	void (*on_lost)(void *arg, const struct message *);	/* its file is gone, or it is given back: fetch it again when not held */
	void (*on_held)(void *arg, const struct failure *why, msec_t wait_ms);	/* it begins, or goes on after another try */
	void (*on_change)(void *arg);		/* held, not held any more, or empty */
};

struct delivery *delivery_new(struct event_base *, struct sink *, struct spool *, struct store *, const struct delivery_ops *, void *arg);
void delivery_free(struct delivery **);	/* only when nothing is under way; waiting messages lose their files */
void delivery_add(struct delivery *, struct message *);	/* takes it; messages come in UID order */
/* A failure before a message could be added (its file could not be written) holds like one of the sink. While it is held it keeps one
 * message, unless the sink keeps the files: the others are given back (on_lost), for the spool is everybody's. */
void delivery_hold(struct delivery *, const struct failure *);
void delivery_retry(struct delivery *);	/* now, whatever the wait */
void delivery_stop(struct delivery *);	/* begins nothing new; what waits is dropped */

size_t delivery_count(const struct delivery *);		/* messages not settled yet */
uint64_t delivery_bytes(const struct delivery *);	/* of their files, as far as the sink has not taken them over */
size_t delivery_under_way(const struct delivery *);	/* of these: at the sink or being settled */
/* Of these: what may have to be fetched again, after a crash or before, and whose `after` will be owed. Not those whose settlement alone
 * waits for others. */
size_t delivery_in_doubt(const struct delivery *);
/* The sink or the disk takes nothing now. NULL: it does, as far as we know. */
const struct failure *delivery_held(const struct delivery *, int64_t *ret_retry_wall_s);
/* How many in hand are worth having: one after a hold of such a sink, and one more for each on which it has had its say since, so that what
 * is given back by the next hold is never more than what was delivered until then. SIZE_MAX: any number. */
size_t delivery_at_most(const struct delivery *);
bool delivery_is_doubtful(const struct delivery *);	/* it, or its sink for another mailbox, failed last time: try with one message */
