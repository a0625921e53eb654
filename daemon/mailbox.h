/* mailbox.h - one mailbox: its one connection, the folders looked at through it, its deliveries, and its patience
 * when one of these fails. A UID is settled in the store only after the sink confirmed the message: a crash may
 * repeat a step, never skip one. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "failure.h"
#include "store.h"

struct event_base; struct dialer; struct tls; struct token_cache; struct spool; struct sink; struct sinks;
struct mailbox_conf; struct quarantine_counts; struct counters; struct audit;
struct mailbox;

enum mailbox_state {		/* the words of /status */
	MAILBOX_QUEUED,		/* not admitted yet */
	MAILBOX_WAITING_TOKEN,
	MAILBOX_CONNECTING, MAILBOX_AUTHENTICATING, MAILBOX_SYNCING, MAILBOX_WATCHING,	/* there is a session */
	MAILBOX_SLEEPING,	/* between two polls */
	MAILBOX_HELD,		/* the sink or the disk takes nothing now */
	MAILBOX_BACKING_OFF,	/* until retry_at; the failure says what and what to do */
	MAILBOX_PAUSED,		/* by the operator */
	MAILBOX_STATE_N
};
const char *mailbox_state_name(enum mailbox_state);	/* "waiting-token" */

/* What it needs of its owner, who answers upcalls from the loop. */
struct mailbox_ops {
	/* It wants to start a session: mailbox_admit() when its turn has come; mailbox_started() tells the end of starting. */
	void (*want_session)(void *arg, struct mailbox *);
	void (*started)(void *arg, struct mailbox *);		/* signed in, or failed to: the starting slot is free */
	/* It wants to fetch a batch: mailbox_fetch_admit() when there is room, at once perhaps; then fetch_over() once. */
	void (*want_fetch)(void *arg, struct mailbox *);
	void (*fetch_over)(void *arg, struct mailbox *);
	void (*throttled)(void *arg, struct mailbox *);		/* the server asked it to wait */
	/* Or, with from the same as to, whether it fails. */
	void (*state_changed)(void *arg, struct mailbox *, enum mailbox_state from, enum mailbox_state to);
	void (*delivered)(void *arg, struct mailbox *);		/* one message more is settled as handed over */
	void (*stopped)(void *arg, struct mailbox *);		/* after mailbox_stop(): free it now */
};
struct message;

struct mailbox_env {		/* lent, outlives every mailbox */
	struct event_base *base;
	struct dialer *dialer; struct tls *tls; struct token_cache *tokens;
	struct store *store; struct spool *spool; struct sinks *sinks;
	const char *run;	/* 8 hex digits, new for each run, for names of temporary files */
	const struct quarantine_counts *quarantined;
	struct counters *counters;
	bool audit_log;		/* log each message handed over */
	struct audit *audit;	/* NULL: or not into a file of its own */
	const struct mailbox_ops *ops; void *arg;
};

/* Copies the conf; state QUEUED. owner: whatever mailbox_owner() shall answer. */
struct mailbox *mailbox_new(const struct mailbox_env *, const struct mailbox_conf *, void *owner);
void *mailbox_owner(const struct mailbox *);
void mailbox_start(struct mailbox *);		/* loads its folders, then wants a session */
/* The one before it, of the same id, has not stopped yet: it waits for mailbox_start(), and fails when that takes long. */
void mailbox_await_start(struct mailbox *);
/* Ends the session, lets what a sink has begun come to its end, then says stopped. */
void mailbox_stop(struct mailbox *);
void mailbox_free(struct mailbox **);		/* only after stopped, or at the very end of the process */

void mailbox_admit(struct mailbox *);
void mailbox_fetch_admit(struct mailbox *);
void mailbox_poll(struct mailbox *);		/* look now, whatever it waits for (a pause excepted) */
/* A refused message that the sink has taken after all: it counts as delivered, and `after` is owed if its UID still means it. */
void mailbox_note_redelivered(struct mailbox *, const struct message *);
/* What was delivered since that day is fetched and delivered once more, in the next look, whenever that is and whoever has this id then:
 * kept() says that the state knows it. */
void mailbox_resync(struct mailbox *, const struct store_day *since, store_cb *kept, void *arg);
void mailbox_pause(struct mailbox *);
bool mailbox_is_paused(const struct mailbox *);		/* from that moment on; its state follows when its session has ended */
void mailbox_resume(struct mailbox *);
/* What passes on the wire of all its sessions, and its states, go to line() as text from now on, which must not call back; NULL: no more. */
void mailbox_trace(struct mailbox *, void (*line)(void *arg, const char *text), void *arg);
/* Past its own deadline (no progress for longer than any phase may last)? The watchdog's question. */
bool mailbox_is_stuck(const struct mailbox *, msec_t now_ms);
/* Tears the session down and starts anew, counted as stall. False: that was done before, and nothing has moved for 60 s since. */
bool mailbox_restart_session(struct mailbox *);

const struct mailbox_conf *mailbox_conf(const struct mailbox *);
enum mailbox_state mailbox_state(const struct mailbox *);
/* Its last look, or try that failed: who fails has had its turn, and does not stand before all who work. 0: never. */
msec_t mailbox_last_turn_ms(const struct mailbox *);
bool mailbox_is_failing(const struct mailbox *, msec_t *ret_since_ms);	/* its last session or delivery failed; since the first in a row */
bool mailbox_fails_in_part(const struct mailbox *);	/* it is failing only because some folders cannot be opened; the others are served */

struct folder_snapshot {	/* lent until the mailbox changes */
	const char *name;
	bool loaded;			/* else the state has not been read yet, and what it knows is 0 */
	uint64_t delivered, owed, given_up, after_owed, backlog, quarantined;	/* given_up: of the owed */
	int64_t oldest_owed_wall_s, last_success_wall_s, last_delivery_wall_s;	/* 0: none */
	int64_t rebuilt_wall_s;		/* its UIDs changed and it was listed anew; 0: not in this run */
	uint64_t rebuilt_known, rebuilt_new;	/* skipped, fetched */
};
struct mailbox_snapshot {	/* lent until the mailbox changes */
	const char *address, *id;
	enum mailbox_state state;
	int64_t since_wall_s, failing_since_wall_s, retry_at_wall_s;	/* 0: none */
	const struct failure *failure;		/* NULL: none */
	unsigned failures;			/* in a row */
	size_t n_folders;
};
void mailbox_snapshot(const struct mailbox *, struct mailbox_snapshot *ret);
void mailbox_folder_snapshot(const struct mailbox *, size_t i, struct folder_snapshot *ret);
struct mailbox_error { const char *name; int64_t first_wall_s, last_wall_s; unsigned times; char text[200]; };	/* times in a row */
const struct mailbox_error *mailbox_errors(const struct mailbox *, size_t *ret_n);	/* the last few, the newest first; lent until it changes */
/* Since when the oldest message that is not delivered yet has waited, as far as is known; 0: none. Given up ones do not count. */
int64_t mailbox_undelivered_since_wall_s(const struct mailbox *);
/* The n-th message of folder i that was given up after its last try; it stays owed. False: there are no more. */
bool mailbox_given_up(const struct mailbox *, size_t i, size_t n, uint32_t *ret_uid, int64_t *ret_since_wall_s, struct failure *ret_why);
