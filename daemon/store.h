/* store.h - the state: SQLite in state_dir, the only SQL in the program.
 *
 * One writer on a lane of its own; what is submitted while a transaction runs shares the next one, and so does what may wait. A callback means
 * the change is on disk. The store never gives up a change: when the disk refuses it, it tries again with back-off,
 * store_failure() says why, and callbacks come when it is mended. Per folder, operations keep their order. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "failure.h"
#include "ranges.h"

struct event_base; struct workers;
struct store;

#define STORE_HASH_BYTES 16
typedef int64_t folder_ref;		/* a row of `folder`; 0: none */

enum store_result { STORE_OK, STORE_NOT_OWNER /* another machine owns the mailbox: stop it, no sink, no `after` */ };
typedef void store_cb(void *arg, enum store_result);

/* Blocking, before the loop turns. -1: ret_error says which file and what to do (exit 71). instance: 8 hex digits
 * that name this state_dir, for temporary file names. */
struct store *store_open(struct event_base *, struct workers *, const char *state_dir, char *ret_error, size_t size);
const char *store_instance(const struct store *);
/* After workers_free(), which waits for the transaction that runs. Callbacks do not come any more. */
void store_close(struct store **);

struct store_owed {
	uint32_t uid, attempts;
	int64_t first_wall_s, next_wall_s;	/* next 0: given up */
	char *why;
	msec_t tried_ms;		/* in this run: not kept; 0: not in this run */
};
struct store_day { int year, month, day; };	/* year 0: none */
struct store_folder {			/* a folder's checkpoint, as last committed */
	folder_ref ref;			/* 0: never seen */
	uint32_t uidvalidity;
	bool complete;			/* the first sync has been finished once */
	int64_t begun_wall_s;		/* first contact */
	struct ranges settled, after_owed;
	struct store_owed *owed; size_t n_owed;
	uint64_t delivered; int64_t last_delivery_wall_s, last_success_wall_s;
	struct store_day resync;	/* an operator's wish that is still open */
};
void store_folder_done(struct store_folder *);
typedef void store_folder_cb(void *arg, enum store_result, struct store_folder *);	/* the callback takes its members over */

/* Every call below answers later, from the loop, exactly once; cb may be NULL. Arguments are copied. No cancel: arg must
 * live until the answer. */
void store_load(struct store *, const char *id, const char *folder, store_folder_cb *cb, void *arg);
/* First contact, or a new UIDVALIDITY: makes or replaces the checkpoint, then answers it, perhaps after 50 ms in which others may share
 * its transaction. The record of delivered messages stays. after_owed: of the settled ones; NULL: none. */
void store_begin(struct store *, const char *id, const char *folder, uint32_t uidvalidity,
    const struct ranges *settled, const struct ranges *after_owed, store_folder_cb *cb, void *arg);

/* What a folder's record of delivered messages knows: at most 5,000, of 30 days. */
struct store_known {
	uint8_t (*hashes)[STORE_HASH_BYTES]; size_t n;	/* ascending */
	int64_t oldest_internaldate_s;	/* of those kept; 0: none */
	bool whole;			/* none has been forgotten since the folder's first contact */
};
bool store_known_has(const struct store_known *, const uint8_t hash[static STORE_HASH_BYTES]);
void store_known_done(struct store_known *);
typedef void store_known_cb(void *arg, enum store_result, struct store_known *);	/* the callback takes it over */
void store_read_known(struct store *, folder_ref, store_known_cb *cb, void *arg);
/* An operator wants what the folder, known or not, has received since that day once more; another day takes its place. */
void store_want_resync(struct store *, const char *id, const char *folder, const struct store_day *since, store_cb *cb, void *arg);
void store_drop_resync(struct store *, const char *id, const char *folder, const struct store_day *since);	/* ... unless another has already */
/* These UIDs are to be fetched again, though they were settled, owed or given up; answers the new checkpoint. The wish for a resync since
 * that day goes with it, unless another has taken its place. */
void store_unsettle(struct store *, const char *id, const char *folder, const struct ranges *uids, const struct store_day *resynced,
    store_folder_cb *cb, void *arg);

struct store_intent {			/* a rename about to be made */
	folder_ref folder; uint32_t uid; const char *sink;
	const char *maildir, *tmp_name, *new_name;	/* tmp/tmp_name becomes new/new_name */
	const char *place;		/* what tells this tmp/ from another one of that name; not spaces */
	uint32_t settle_from;		/* as in store_settlement */
	uint8_t hash[STORE_HASH_BYTES]; int64_t internaldate_s; bool after_owed;
};
void store_add_intent(struct store *, const struct store_intent *, store_cb *cb, void *arg);
void store_drop_intent(struct store *, folder_ref, uint32_t uid, const char *sink, const char *tmp_name, store_cb *cb, void *arg);

struct store_settlement {
	folder_ref folder; uint32_t uid;
	uint32_t settle_from;		/* settles settle_from..uid: the server lists no other UID in between */
	const char *sink;		/* its intent, if any, goes with it */
	const char *found_tmp_name;	/* recovery: nothing is done unless there still is that very intent; NULL: as it is */
	uint8_t hash[STORE_HASH_BYTES];	/* of Message-ID and INTERNALDATE; all 0: none kept */
	int64_t internaldate_s;
	bool delivered;			/* counts as delivery (not: refused, skipped) */
	bool after_owed;		/* `after` is now owed for it */
	bool may_wait;			/* begins no transaction for 50 ms, unless others do */
};
void store_settle(struct store *, const struct store_settlement *, store_cb *cb, void *arg);
/* A UID that could not be had: kept owed with its schedule; attempts 0 removes it from the list. */
void store_owe(struct store *, folder_ref, const struct store_owed *, store_cb *cb, void *arg);
void store_after_done(struct store *, folder_ref, const struct ranges *uids, store_cb *cb, void *arg);
void store_complete(struct store *, folder_ref, store_cb *cb, void *arg);	/* first sync finished; may wait as a settlement may */

/* A mailbox an operator has paused stays so over restarts. store_is_paused() knows what was set in this run, too. */
void store_set_paused(struct store *, const char *id, bool paused, store_cb *cb, void *arg);
bool store_is_paused(const struct store *, const char *id);
/* Removes all that is kept of a mailbox; the answer counts its folders. */
typedef void store_count_cb(void *arg, uint64_t n);
void store_forget(struct store *, const char *id, store_count_cb *cb, void *arg);
/* Writes a whole, consistent copy into a new file. error NULL: it is on disk. */
typedef void store_backup_cb(void *arg, const char *error);
void store_backup(struct store *, const char *path, store_backup_cb *cb, void *arg);

/* Intents found at store_open(), to be resolved before mailboxes start. */
struct store_found_intent {
	folder_ref folder; uint32_t uid; char *sink;
	char *maildir, *tmp_name, *new_name; uint32_t settle_from; uint8_t hash[STORE_HASH_BYTES]; int64_t internaldate_s;
	char *place;			/* "": not known */
	bool after_owed;
	bool this_boot;			/* written since the machine last started */
};
const struct store_found_intent *store_found_intents(const struct store *, size_t *ret_n);

const struct failure *store_failure(const struct store *);	/* NULL: commits succeed */
int64_t store_last_commit_wall_s(const struct store *);
uint64_t store_commits(const struct store *);
