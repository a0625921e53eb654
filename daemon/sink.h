/* sink.h - the sinks that are configured, shared by all mailboxes that deliver to them: who asks for a delivery gets
 * one of three answers. Counts outcomes, quarantines what a sink refuses, and knows a sink that fails from a message
 * that is bad: after five refusals in a row with no success between nothing more is quarantined until one passes. */
#pragma once
#include "sink_driver.h"

struct sinks;
struct sink;

struct sinks *sinks_new(const struct sink_env *);	/* copied */
void sinks_free(struct sinks **);
/* Settles what the last run had under way, before any mailbox starts; done from the loop. */
void sinks_recover(struct sinks *, void (*done)(void *arg), void *arg);
void sinks_recovery_is_late(struct sinks *);		/* done has not come, and mailboxes start all the same */
struct sink *sink_get(struct sinks *, const struct sink_conf *);	/* the one of equal configuration, made when new */
void sink_release(struct sink *);		/* nothing of the caller's is under way; the last one frees it */
const struct sink_conf *sink_conf(const struct sink *);
bool sink_many_at_once(const struct sink *);	/* messages of one mailbox may be under way together */
bool sink_keeps_file(const struct sink *);	/* the message's file is the delivery: nobody removes it */
/* It failed last time, whoever's message that was, and does not keep files: one in the hands of each mailbox is enough to find out more. */
bool sink_is_doubtful(const struct sink *);
/* As in sink_driver.h; no cancel. */
void sink_prepare(struct sink *, const struct mailbox_conf *, const char *folder, sink_place_cb *cb, void *arg);

enum sink_answer {
	SINK_TAKEN,		/* confirmed: settle it */
	SINK_QUARANTINED,	/* refused, and durable in quarantine/: settle it, no `after` */
	SINK_AGAIN,		/* the same file again, after a wait */
	SINK_FETCH_AGAIN,	/* its file is gone: fetch it again, after a wait */
};
typedef void sink_answer_cb(void *arg, struct message *, enum sink_answer, const struct failure *why);
/* Once, from the loop; no cancel: arg and message must live until the answer. */
void sink_deliver(struct sink *, struct message *, sink_answer_cb *cb, void *arg);
void sinks_hurry(struct sinks *);		/* the daemon is stopping */

struct sink_counts { uint64_t delivered, refused, temporary; unsigned in_hand, refused_in_a_row; bool failing; struct failure failure; };
size_t sinks_count(const struct sinks *);
const struct sink *sinks_at(const struct sinks *, size_t i);
const struct sink_counts *sink_counts(const struct sink *);
unsigned sink_waiting(const struct sink *);	/* of those in hand: who waits for a turn */
