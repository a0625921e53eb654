/* folder.h - one folder's UIDs: what is settled, what the server lists, what is to be fetched, what is owed. Pure: it
 * decides nothing about connections and writes nothing; the mailbox asks it and tells the store.
 *
 * Every UID is at any time in one of: settled (never looked at again), owed (could not be had, has a schedule),
 * under way (asked for, or on its way through the sink), pending (listed, to be fetched), or unknown. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "backoff.h"
#include "clock.h"
#include "failure.h"
#include "ranges.h"
#include "repeats.h"
#include "spool.h"
#include "store.h"

#define FOLDER_LISTED_MAX 1000000	/* ranges in an answer to SEARCH; more is no mailbox */
#define FOLDER_SIZES_MAX 200		/* as many sizes are asked for ahead of a fetch */

struct folder {
	char *name;
	void *owner;			/* whose it is, for callbacks that get the folder */
	struct store_folder at;		/* the checkpoint, as committed; at.ref 0: no first contact yet */
	struct ranges listed;		/* while a SEARCH is answered */
	struct ranges pending, under_way;
	struct ranges unanswered;	/* a FETCH gave nothing for them: the next look decides (exchange-online 5.8 A) */
	uint32_t suspect;		/* the connection died when this was next: fetch it alone; 0: none */
	uint32_t exists;		/* as last told */
	struct ranges absent;		/* UIDs between others that a look has proven not to exist, since it listed as many as SELECT told */
	struct ranges missing; msec_t missing_ms;	/* holes between settled UIDs that looks have left out since then */
	uint32_t new_uidvalidity;	/* SELECT showed that the UIDs are not ours any more; 0: they are. Over sessions, until it is listed anew */
	bool uidnext_was_low;		/* as SELECT told it: the look that follows tells whether they are */
	int64_t rebuilt_wall_s; uint64_t rebuilt_known, rebuilt_new;	/* when that last happened in this run, and its counts */
	struct store_day resync, resync_asked;	/* an operator wants what came since then again; kept by the store until that is done */
	unsigned resync_failures;	/* in a row */
	unsigned first_searches;	/* at first contact: how many have been asked */
	struct ranges left_out;		/* ... and what `start` leaves out, so far */
	struct { uint32_t uid; uint64_t bytes; } *sizes; size_t n_sizes;	/* estimates for the lowest pending; NULL: not asked */
	uint32_t large_uid; uint64_t large_bytes;	/* there was no room for this one when it came; it has told its size; 0: none */
	char *place_dir; struct volume *volume; ino_t place_inode; mode_t mode; gid_t gid;	/* where its messages are spooled; NULL: not known */
	bool place_stale;		/* prepare it again before the next fetch */
	bool preparing, beginning;	/* an answer is due: of the sink's prepare; of the store */
	bool loaded;			/* at is what the store has */
	bool given_up_asked, given_up_refused;	/* in this session: are they still there? A session has ended for that question */
	struct ranges given_up_away;	/* those that were not, when last asked */
	bool look_due;
	bool select_due;		/* STATUS said that there is something: SELECT now */
	bool ends_session;		/* the last session has ended at what a look at it asked: all others have their turn before it */
	bool exists_rose;		/* EXISTS has promised something new since the last look began */
	bool news_promised;		/* the same before it; no look has found it */
	bool sizes_refused;		/* a session ended when it asked for them: the next fetch goes without */
	uint32_t singly_to;		/* a FETCH of many was refused: one at a time up to this UID; 0: not so */
	unsigned looks_for_nothing;	/* in a row, after an EXISTS that promised something */
	msec_t look_again_ms;		/* 0: no need */
	int64_t waiting_since_wall_s;	/* since when the oldest that is pending or under way is known, about; 0: there is none */
	uint32_t waiting_to; int64_t later_since_wall_s;	/* of up to this UID; since when there are later ones, 0: none */
	msec_t looked_ms;		/* the last whole look; 0: never, or one is under way */
	uint32_t told_uidnext, told_exists;	/* together, by the last SELECT or STATUS; UIDNEXT 0: not told */
	unsigned idle_looks; msec_t idle_since_ms;	/* in a row, that found nothing behind these; since when */
	struct failure *refused;	/* it could not be opened, the mailbox's others could; NULL: it can */
	struct backoff refusals; struct repeats refusing;	/* in a row; what has been logged of it */
	msec_t refused_since_ms, refused_until_ms;	/* not asked for before */
	msec_t after_retry_ms; unsigned after_failures;	/* `after` failed: not before */
	struct repeats after_failing;	/* what has been logged of it */
	struct ranges after_copied;	/* owed, and copied already: only \Deleted and EXPUNGE are missing */
	struct ranges after_doubted;	/* owed, and not moved though the server said OK: are they still there? */
	bool after_warned;
};

void folder_init(struct folder *, const char *name);
void folder_done(struct folder *);
bool folder_is_refused(const struct folder *);	/* it is not to be asked for now */
void folder_forget_uids(struct folder *);	/* the UIDs are others: what was found out of theirs is worth nothing */
void folder_forget_session(struct folder *);	/* listed and pending are of a session that has ended */

/* The UID a SEARCH must begin at: below it everything is settled or owed. 0: nothing is left to search. */
uint32_t folder_search_from(const struct folder *);
bool folder_list(struct folder *, uint32_t lo, uint32_t hi);	/* a SEARCH's number; false: there are too many */
void folder_listed(struct folder *);		/* that was all of them; before listed is read, and before folder_look_done() */
/* The SEARCH is over: pending is what it listed and nobody has dealt with. Returns how many that are. ret_gone gets
 * UIDs below the settled ones that the server does not list any more: to be settled as not there. One look that leaves a
 * message out proves nothing, unless it listed as many as EXISTS tells; else looks must leave it out for FOLDER_GONE_MS. */
#define FOLDER_GONE_MS (10 * 60 * 1000)
#define FOLDER_GONE_MAX 20000		/* ranges from one look, the highest: each is a settlement of its own. The rest come from later looks */
uint64_t folder_look_done(struct folder *, uint32_t from, msec_t now_ms, struct ranges *ret_gone);
/* Moves a batch from pending to under way, the lowest first. At least one UID when there is any. */
void folder_pick(struct folder *, uint64_t max_messages, uint64_t max_bytes, struct ranges *ret_batch);
void folder_pick_owed(struct folder *, uint32_t uid, struct ranges *ret_batch);	/* the same for one that is owed: alone */
/* An estimate, and no more believed than the largest messages there are (exchange-online 5.7, 6). */
#define FOLDER_SIZE_BELIEVED (UINT64_C(256) << 20)
void folder_note_size(struct folder *, uint32_t uid, uint64_t bytes);
void folder_note_large(struct folder *, uint32_t uid, uint64_t bytes);	/* no estimate; of the last such message */
uint64_t folder_estimate(const struct folder *, const struct ranges *uids);	/* bytes, as far as is known */
/* The lowest UID that may be settled along with uid, since none in between exists. */
uint32_t folder_settle_from(const struct folder *, uint32_t uid);
void folder_settled(struct folder *, uint32_t from, uint32_t uid);
/* Keeps waiting_since_wall_s, after a look and after each settlement. What became known after the first ones have been taken for one is taken
 * for one, too: while mail never ceases to come, the age is that of a few messages, not of all. */
void folder_note_waiting(struct folder *, int64_t now_wall_s);
void folder_put_back(struct folder *, const struct ranges *uids);	/* under way no more, to be fetched again; what is owed stays that */

/* When the UIDs have changed: a message whose INTERNALDATE is older than this counts as delivered, though the record of
 * delivered messages has lost sight of it. policy_s: what the configuration's `start` leaves out; oldest_kept_s: of the
 * record. What is owed has never been delivered and holds the limit back by a day. */
int64_t folder_known_before_s(const struct folder *, int64_t policy_s, int64_t oldest_kept_s);

/* UIDs that could not be had (exchange-online 5.8): tried again after 1 min, 10 min, 1 h, then given up. Returns the
 * entry to be stored. */
struct store_owed folder_owe(struct folder *, uint32_t uid, const char *why, int64_t now_wall_s, msec_t now_ms);
uint64_t folder_count_new(const struct folder *, const struct ranges *uids);	/* how many are not owed already */
/* The lowest that is due, and was last tried before the session that began then (exchange-online 5.8: in a fresh one). 0: none. */
uint32_t folder_owed_due(const struct folder *, int64_t now_wall_s, msec_t session_ms);
void folder_owed_over(struct folder *, uint32_t uid);
void folder_given_up(const struct folder *, size_t max, struct ranges *ret_uids);	/* after the last try; the lowest */
bool folder_owed_last_try(const struct folder *, uint32_t uid);	/* the next folder_owe() gives it up */
int64_t folder_next_owed_wall_s(const struct folder *, int64_t after_wall_s);	/* of those due later than that; 0: none */
