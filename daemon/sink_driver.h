/* sink_driver.h - what every kind of sink offers to sink.c: a table of functions, as in sink_maildir.h. */
#pragma once
#include <stddef.h>
#include "failure.h"
#include "message.h"
#include "spool.h"

struct event_base; struct workers; struct volumes; struct lane; struct sink_conf; struct counters;

enum sink_outcome {
	SINK_DELIVERED,
	SINK_REFUSED,		/* this message will never be taken: quarantine it */
	SINK_TEMPORARY,		/* the same file again, later */
	SINK_LOST,		/* the file cannot be trusted any more and is gone: fetch the message again, later */
	SINK_STUCK,		/* no outcome so far, and perhaps none for long, since what works on it cannot be ended; another one follows */
};

struct sink_env {		/* lent, outlives every sink */
	struct counters *counters;
	struct event_base *base;
	struct workers *workers;
	struct volumes *volumes;
	struct volume *state_volume;	/* state_dir's */
	struct lane *maildir_lane;	/* for making Maildirs ready; many threads */
	struct lane *spawn_lane;	/* for starting programs; many threads */
	struct store *store;
	const char *state_dir;
	const char *run;		/* 8 hex digits, new for each run; temporary files of other runs are left-overs */
	struct quarantine_counts *quarantined;
	struct sink_recovery *recovery;	/* sink_maildir's: intents of the last run; NULL before sink_maildir_recover() */
	struct sink_prepares *prepares;	/* sink_maildir's */
};

/* Once, from the loop, but for SINK_STUCK before. why is set unless delivered; lent. */
typedef void sink_done_cb(void *arg, struct message *, enum sink_outcome, const struct failure *why);
/* Where this folder's messages are spooled, or why there is no place now; lent. */
typedef void sink_place_cb(void *arg, const struct spool_place *, const struct failure *why);

struct sink_driver {
	bool many_at_once;	/* messages of one mailbox may be under way together; outcomes keep no order */
	bool keeps_file;	/* the spooled file itself is what is delivered */
	void *(*open)(const struct sink_env *, const struct sink_conf *);	/* conf is lent until close */
	void (*close)(void *self);		/* only when nothing is under way */
	/* Makes ready what is needed and says where to spool. No cancel: arg must live until the answer. */
	void (*prepare)(void *self, const struct mailbox_conf *, const char *folder, sink_place_cb *cb, void *arg);
	void (*deliver)(void *self, struct message *, sink_done_cb *cb, void *arg);
	void (*hurry)(void *self);	/* the daemon is stopping: end what may take long; NULL: nothing to do */
	unsigned (*waiting)(const void *self);	/* how many of those given to it have not had their turn; NULL: none ever has to wait */
};
