/* fleet.h - all mailboxes: which there are, who may start or fetch now, reload, and what is told of them all. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "failure.h"
#include "mailbox.h"

struct event_base; struct workers; struct config; struct config_messages; struct counters;
struct fleet;

/* Takes config over. NULL: ret_error says why it cannot start (exit 71). Opens the state (blocking, before the loop). */
struct fleet *fleet_new(struct event_base *, struct workers *, struct config *, char *ret_error, size_t size);
/* Settles intents of the last run, then starts every mailbox; on_ready comes from the loop when that has begun. */
void fleet_start(struct fleet *, void (*on_ready)(void *arg), void *arg);
/* Stops every mailbox; on_stopped from the loop when all are stopped or at_most_ms have passed. */
void fleet_stop(struct fleet *, msec_t at_most_ms, void (*on_stopped)(void *arg), void *arg);
void fleet_free(struct fleet **);

struct reload_outcome { bool ok; size_t added, removed, changed, kept; const char *errors, *warnings; /* NULL or lines; lent */ };
/* Reads the file again off the loop; all or nothing; unchanged mailboxes keep their sessions. done comes from the
 * loop once. A reload asked for while one runs waits for it, then reads the file once more. */
void fleet_reload(struct fleet *, void (*done)(void *arg, const struct reload_outcome *), void *arg);
/* What else a new configuration must suit: take() makes it its own, as the last step before all the rest follows; false: ret_error says
 * why the reload fails. */
typedef bool take_config_cb(void *arg, const struct config *, char *ret_error, size_t size);
void fleet_set_taker(struct fleet *, take_config_cb *take, void *arg);

/* Verbs, for the mailbox with this address or id, or, when there is none, for each that is like it. How many those are, and how many of
 * them are paused then: no poll looks at these. */
size_t fleet_poll(struct fleet *, const char *who, size_t *ret_paused);
/* kept: the state knows it of all of them. From the loop, once, unless there are none. */
size_t fleet_pause(struct fleet *, const char *who, size_t *ret_paused, store_cb *kept, void *arg);
size_t fleet_resume(struct fleet *, const char *who, size_t *ret_paused, store_cb *kept, void *arg);
/* kept: the wish outlives us. From the loop, once. False: no such mailbox. */
bool fleet_resync(struct fleet *, const char *address, const struct store_day *since, store_cb *kept, void *arg);
/* May its state be removed? The configuration does not have it any more, and it has stopped. In a stop: none. */
bool fleet_may_forget(const struct fleet *, const char *id);
void fleet_forget(struct fleet *, const char *id, void (*done)(void *arg, uint64_t folders), void *arg);
/* Refused messages. Each answers later, from the loop, exactly once. list takes json: {"messages":[...]}; keys must be sane. */
void fleet_quarantine_list(struct fleet *, void (*list)(void *arg, char *json), void *arg);
void fleet_quarantine_drop(struct fleet *, const char *key, void (*done)(void *arg, int error), void *arg);
enum retry_outcome { RETRY_TAKEN, RETRY_REFUSED /* again */, RETRY_LATER /* not now, why says it */, RETRY_UNKNOWN };
typedef void retry_cb(void *arg, enum retry_outcome, const char *why);	/* why is lent; NULL: nothing to say */
void fleet_quarantine_retry(struct fleet *, const char *key, retry_cb *done, void *arg);
/* Copies the state into a new file; error NULL: it is there. done from the loop. */
void fleet_backup(struct fleet *, const char *path, void (*done)(void *arg, const char *error), void *arg);

/* Looks at a mailbox's wire, live, over all its sessions. end: the mailbox is there no more, why says it, and the trace neither. Neither may
 * call back. NULL: no such mailbox. */
struct fleet_trace;
struct fleet_trace_ops { void (*line)(void *arg, const char *text); void (*end)(void *arg, const char *why); };
struct fleet_trace *fleet_trace_start(struct fleet *, const char *address, const struct fleet_trace_ops *, void *arg);
void fleet_trace_stop(struct fleet_trace **);

bool fleet_is_serving(const struct fleet *);		/* it has started, and does not stop */
bool fleet_is_stopping(const struct fleet *);		/* its mailboxes are not to be found any more */
/* Reading. Mailboxes by index in configuration order, valid until the loop turns. */
size_t fleet_size(const struct fleet *);
const struct mailbox *fleet_mailbox(const struct fleet *, size_t i);
const struct mailbox *fleet_find(const struct fleet *, const char *address_or_id);	/* any case; NULL: none */
size_t fleet_count(const struct fleet *, enum mailbox_state);
uint64_t fleet_delivered(const struct fleet *);			/* since the start */
uint64_t fleet_quarantined(const struct fleet *);		/* also of mailboxes that are not in the configuration any more */
size_t fleet_failing(struct fleet *);			/* mailboxes whose last try failed */
int64_t fleet_config_loaded_wall_s(const struct fleet *);
const char *fleet_config_error(const struct fleet *);		/* of the last reload; NULL: it was good */
const struct config *fleet_config(const struct fleet *);

enum health_level { HEALTH_OK, HEALTH_DEGRADED, HEALTH_DOWN };
const char *health_name(enum health_level);				/* "ok" */
struct health_reason { const char *what; char name[128]; int64_t since_wall_s; char hint[FAILURE_HINT_MAX]; };	/* what: "credential", "admission", "sink", "store", "disk", "mailboxes" */
#define HEALTH_REASONS_MAX 64		/* there are never more */
/* At most room reasons are written; ret_n gets how many. */
enum health_level fleet_health(struct fleet *, struct health_reason *ret_v, size_t room, size_t *ret_n);
bool fleet_is_alive(struct fleet *);				/* the watchdog's question (promise 8) */

struct sink_snapshot {
	const char *name; const char *kind;			/* lent */
	const char *target;					/* template or command */
	bool failing; uint64_t delivered, refused, temporary;
	unsigned running, waiting;
	const struct failure *failure;				/* NULL: none */
};
size_t fleet_sinks(const struct fleet *, struct sink_snapshot *ret_v, size_t room);
struct counters *fleet_counters(struct fleet *);		/* the fleet's; who else has something to count may */
struct token_snapshot; struct gate_snapshot;	/* token_cache.h, admission.h */
void fleet_admission(const struct fleet *, const char *credential, struct gate_snapshot *ret);
size_t fleet_tokens(struct fleet *, struct token_snapshot *ret_v, size_t room);
/* More mailboxes share the token than admission lets sign in anew in its window? Then hint says so. */
bool fleet_relogin_is_tight(const struct fleet *, const struct token_snapshot *, char *ret_hint, size_t size);
struct store_snapshot { int64_t last_commit_wall_s; uint64_t spool_bytes, commits; size_t spool_files; const struct failure *failure; };
void fleet_store(const struct fleet *, struct store_snapshot *ret);
