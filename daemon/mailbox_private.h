/* mailbox_private.h - what the files of a mailbox share, and nobody else includes: mailbox.c (its life: starting, deciding,
 * stopping, telling), mailbox_session.c (its sessions and its patience when they fail), mailbox_errors.c (what went wrong, for the log
 * and who asks), mailbox_work.c (what to do next in a session), mailbox_look.c (opening a folder, looking for messages),
 * mailbox_fetch.c (a batch of them coming in), mailbox_after.c (what is done with the delivered ones) and mailbox_relist.c (a folder
 * whose UIDs have changed, a resync). */
#pragma once
#include "backoff.h"
#include "config.h"
#include "delivery.h"
#include "folder.h"
#include "imap_session.h"
#include "log.h"
#include "mailbox.h"
#include "repeats.h"
#include "sink.h"
#include "spool.h"

#define BATCH_MESSAGES 200		/* the next one comes while this one is delivered */
#define BATCH_GROWTH 5
#define NONE_GIVEN_FEW 5		/* messages in a row may be bad; more, and it is the server */
#define NONE_GIVEN_RESTS 4		/* sessions in a row; then it is the messages all the same */
#define AFTER_COMMAND_MAX 200
#define COMMAND_LIMIT_MS (180 * 1000)	/* the watchdog's for one command; the session's own limit for silence is shorter */

struct event; struct arrival; struct token_request;

enum task {			/* what the command under way is for */
	TASK_NONE, TASK_STATUS, TASK_SELECT, TASK_LOOK, TASK_FIRST_LOOK /* SEARCH of the first contact */, TASK_GIVEN_UP, TASK_SIZES, TASK_FETCH,
	TASK_AFTER, TASK_AFTER_LOOK, TASK_IDLE, TASK_NOOP, TASK_RELIST_SEARCH, TASK_RELIST, TASK_RESYNC,
};
enum after_step { AFTER_STEP_FIRST, AFTER_STEP_FLAG, AFTER_STEP_EXPUNGE };

struct mailbox {
	const struct mailbox_env *env;		/* lent */
	void *owner;
	struct mailbox_conf *conf;		/* owned */
	struct failure_subject subject;		/* object_id and token_finding are owned, the rest is lent */
	struct log_context log;
	struct folder *folders;
	size_t n_folders;
	struct sink *sink;			/* held until free */
	struct delivery *delivery;
	struct event *kick;			/* active: mailbox_next() is due */
	struct event *timer;			/* the same at a given time */

	/* life, mailbox.c */
	enum mailbox_state state;
	int64_t since_wall_s;
	bool poll_asked;		/* since the session began to look; one that ends now is not the answer */
	bool started, paused, not_owner, stopping, stop_told;
	bool queued, starting;			/* want_session() has not been answered; started() is due */
	msec_t awaits_start_ms;			/* since then; 0: it does not, or has been started */
	msec_t wait_until_ms;			/* no session before; 0: now */
	unsigned answers_due;			/* of prepare() and the store; nothing is freed before they have come */
	struct token_request *token_request;
	uint64_t token_serial;
	bool token_replaced;			/* once already, since a full look was done */
	bool relogin_due;			/* a newer token is there: sign in anew, once admitted, between two commands */
	msec_t relogin_ms, relogin_latest_ms;	/* ask for it; 0: not planned. A session with the newer token is wanted then */
	bool relogin_waits;			/* it was not there yet when it was asked for */
	bool short_end;				/* the last session came to an ordinary end very soon */
	msec_t token_end_ms;			/* the session's, too (exchange-online 5.3) */
	struct imap_session *session;
	struct imap_trace *trace;		/* over all sessions; NULL: nobody looks */
	msec_t ready_ms;			/* since when the session has been signed in; 0: not yet */
	bool brought_mail;			/* it works: a message that it has fetched is delivered (session_brought_mail()) */
	bool opened;				/* it has shown that it may open the mailbox: an OK to AUTHENTICATE does not (exchange-online 5.1) */
	bool sign_in_failed;			/* that is what was logged last */
	struct failure *end_why;		/* why we ended the session ourselves; NULL: no reason to complain */
	struct failure *failure;		/* of the last try; NULL: it was good */
	unsigned failures;			/* in a row */
	struct backoff backoff;
	msec_t failing_since_ms;
	struct repeats failing, holding;	/* what has been logged of it; mailbox_errors.c, as the next ones */
	struct mailbox_error *errors; size_t n_errors;	/* NULL: none yet */
	struct alert *alerts;			/* the server's; NULL: none yet */
	unsigned holds;				/* in a row */
	msec_t held_since_ms, held_last_ms;	/* its first and its last of these */
	bool place_failed;			/* that is why it is held */
	msec_t deadline_ms;			/* the watchdog's; 0: nothing is expected */
	bool torn_down;				/* for that, and nothing has moved since */

	/* work, mailbox_work.c */
	enum task task;
	struct folder *task_folder, *selected;
	msec_t progress_ms;			/* last settlement or end of a command */
	msec_t said_ms;				/* the last command was over, or the session began */
	uint32_t search_from;
	struct ranges after_uids;
	enum after_step after_step;
	uint64_t after_limit;			/* messages in a command; fewer after one that has ended the session */
	msec_t after_began_ms;			/* with the present ones */
	bool no_idle_told, looked_all;
	msec_t idle_began_ms;
	bool idle_taken;			/* the server has said so */
	unsigned idle_refusals;			/* in a row */
	msec_t no_idle_until_ms;		/* it was refused, not answered, or was over at once */
	unsigned idle_cuts;			/* IDLEs in a row that have ended the session soon, as if it were ordinary */
	msec_t idle_cut_ms;			/* how long the shortest of them has lived */
	msec_t idle_most_ms, idle_most_until_ms;	/* so they last no longer than that, until then; 0: as long as IDLE may */
	bool idle_cut_told;
	msec_t last_look_ms, last_try_ms;	/* last_try_ms: that failed */

	struct relist *relist;			/* mailbox_relist.c; NULL: none is under way; outlives a session */

	/* fetching, mailbox_fetch.c */
	bool fetch_wanted, fetch_granted;
	unsigned batch_limit;			/* messages in a FETCH; halved when throttled, grows with each that went well */
	struct ranges batch;			/* asked for and not answered yet */
	uint64_t batch_messages;		/* how many it had when it was asked for */
	struct arrival *arrivals, **arrivals_end;	/* in the order they came */
	size_t n_arrivals;
	struct arrival *coming;			/* the last of them, while its body comes */
	/* of an owed one: it comes in two parts, in that order; NO_TEXT: the second is empty */
	enum split { SPLIT_NO, SPLIT_TRY, SPLIT_HEADER, SPLIT_TEXT, SPLIT_NO_TEXT, SPLIT_BROKEN } split;
	uint64_t had_none;			/* messages in a row that could not be had, since one could */
	bool some_came;				/* since the last look one could */
	unsigned rests;				/* sessions that ended for that, since one could */
	bool one_owed;				/* the batch is an owed one, alone */
	bool no_sizes;				/* the server does not understand the question for sizes */
	msec_t made_due_ms; int64_t made_due_wall_s;	/* when the session last looked what time has made due */
	msec_t no_room_until_ms;		/* neither spool nor disk had room */
	struct failure *no_room;
	struct backoff room_waits;		/* in a row */
};

/* mailbox.c */
void mailbox_wake(struct mailbox *);			/* something changed: decide anew, from the loop */
void mailbox_wake_at(struct mailbox *, msec_t at_ms);	/* replaces an earlier such wish */
void mailbox_set_state(struct mailbox *, enum mailbox_state);
void mailbox_expect(struct mailbox *, msec_t within_ms);	/* progress; 0: waiting for others is in order now */
void mailbox_end_session(struct mailbox *, const struct failure *why);	/* why NULL: as planned */
/* A NO that is for the mailbox as a whole, now; others are for the command or for one message (exchange-online 5.8 C). */
bool mailbox_is_refused(const struct failure *);
void mailbox_unretrievable(const struct mailbox *, const struct folder *, const struct store_owed *, struct failure *ret);
void mailbox_proved(struct mailbox *);			/* a full look at all folders has been done */
bool mailbox_is_held(const struct mailbox *);
bool mailbox_may_relogin(const struct mailbox *);		/* it is due, and admitted */
void mailbox_prepare(struct mailbox *, struct folder *);	/* asks the sink for the folder's place */

/* mailbox_errors.c: each is logged on change, then hourly with a count */
void mailbox_failed(struct mailbox *, const struct failure *, msec_t wait_ms, bool is_tokens);
void mailbox_held(struct mailbox *, const struct failure *, msec_t wait_ms, const char *sink);	/* NULL: not because of it */
void mailbox_folder_failed(struct mailbox *, struct folder *, const struct failure *, msec_t wait_ms);	/* it cannot be opened */
void mailbox_folder_recovered(struct mailbox *, struct folder *);	/* or nothing was wrong with it */
void mailbox_alerted(void *mailbox, const char *text);	/* the session's callback: the server wants a person to be told */
void mailbox_released(struct mailbox *);		/* something was handed over, or has room again */

/* mailbox_session.c */
void session_want(struct mailbox *);			/* asks the gate; mailbox_admit() follows */
void session_check_relogin(struct mailbox *);		/* is it time to ask for a newer token, or for the gate? */
void session_start_over(struct mailbox *);		/* signed in, or not: the gate's place is free */
void session_back_off(struct mailbox *, const struct failure *, bool is_tokens);	/* no session for a while */
void session_brought_mail(struct mailbox *);		/* a message that this session has fetched is delivered */
void session_replace_text(const char **owned, const char *with);

/* mailbox_work.c; what takes a void * is a callback of the session's, the mailbox being its arg */
void work_begin(struct mailbox *);			/* signed in */
void work_next(struct mailbox *);			/* sends the next command, if any is due and may be sent */
void work_over(struct mailbox *, const struct failure *why);	/* the session has ended; FAIL_NONE: as planned */
msec_t work_next_slot_ms(const struct mailbox *);	/* poll: when the next look is due */
void work_on_done(void *, const struct imap_done *);
void work_on_idling(void *);
void work_on_uids(void *, uint32_t lo, uint32_t hi);
void work_on_exists(void *, uint32_t n);

enum step { STEP_NOTHING, STEP_WAIT, STEP_SENT };	/* STEP_WAIT: an answer will wake the mailbox */
void work_begin_task(struct mailbox *, enum task, struct folder *);	/* a command follows */
void work_goes_on(struct mailbox *);	/* the server has sent something: a command's time begins anew */

/* mailbox_look.c */
enum step look_step(struct mailbox *, struct folder *);
enum step look_given_up_step(struct mailbox *, struct folder *);	/* are those that were given up still there? Once in a session */
void look_select(struct mailbox *, struct folder *);
/* A folder that cannot be opened waits for itself and the mailbox's others go on. INBOX always exists (exchange-online 5.14): its
 * refusal is the mailbox's, as is that of all: false. */
bool look_refuse_folder(struct mailbox *, struct folder *, const struct failure *why);
/* The session ends at what a look at this folder has asked: the others go first. */
void look_ends_session(struct folder *, const struct failure *why);
struct folder *look_watched_folder(const struct mailbox *);	/* that IDLE is for: the first that can be opened */
void look_on_done(struct mailbox *, struct folder *, enum task, const struct imap_done *);
/* The store is asked for it, and the folder waits: a new checkpoint (after_owed NULL: none); these are to be fetched once more, as was
 * wished. */
void look_begin_folder(struct mailbox *, struct folder *, uint32_t uidvalidity, const struct ranges *settled, const struct ranges *after_owed);
void look_resync(struct mailbox *, struct folder *, const struct ranges *uids, const struct store_day *since);

/* mailbox_after.c */
bool after_is_due(const struct mailbox *, const struct folder *);
void after_drop_unwanted(struct mailbox *, struct folder *);	/* what is owed by a configuration that wants it no more */
enum step after_step(struct mailbox *, struct folder *);
void after_on_looked(struct mailbox *, struct folder *, const struct imap_done *);
void after_on_done(struct mailbox *, struct folder *, const struct imap_done *);
/* Refused; ends_session: in a way that ends it. */
void after_failed(struct mailbox *, struct folder *, const struct failure *, bool ends_session);

/* mailbox_relist.c; the folder is selected and nothing of it is under way */
enum step relist_step(struct mailbox *, struct folder *);	/* until f->new_uidvalidity is 0 */
void relist_on_body_start(struct mailbox *);
void relist_on_body(struct mailbox *, struct evbuffer *in, size_t len);
void relist_on_fetched(struct mailbox *, const struct imap_fetch *);
void relist_on_done(struct mailbox *, struct folder *, enum task, const struct imap_done *);
void relist_over(struct mailbox *, const struct failure *why);	/* the session has ended: to be gone on with in the next */
void relist_forget_known(struct mailbox *);		/* one has been delivered that the record it goes by does not have */
void relist_drop(struct mailbox *);
enum step resync_step(struct mailbox *, struct folder *);
void resync_on_done(struct mailbox *, struct folder *, const struct imap_done *);
/* It was refused, or ended the session: after the second time the wish is given up, for it goes before all mail. */
void resync_failed(struct mailbox *, struct folder *, const struct failure *);

/* mailbox_fetch.c */
bool fetch_is_under_way(const struct mailbox *);	/* messages that are fetched and not settled */
/* There is something to fetch in this folder, and room for it. */
bool fetch_is_wanted(const struct mailbox *, const struct folder *);
/* What is due of the owed ones has been tried in this session: in a new one (exchange-online 5.8). */
bool fetch_wants_session(const struct mailbox *, const struct folder *);
enum step fetch_step(struct mailbox *, struct folder *);	/* the folder is selected and fetch_is_wanted() */
void fetch_on_body_start(struct mailbox *, const char *section, uint32_t uid, uint64_t size_bytes);
void fetch_on_body(struct mailbox *, struct evbuffer *in, size_t len);
void fetch_on_fetched(struct mailbox *, const struct imap_fetch *);
void fetch_on_done(struct mailbox *, const struct imap_done *);
/* The session has ended. comes_back: another follows at once, and goes on waiting for its turn where this one did. */
void fetch_over(struct mailbox *, const struct failure *, bool comes_back);
void fetch_drop(struct mailbox *);			/* the mailbox stops: what is not spooled yet goes */
void fetch_release(struct mailbox *);			/* the slot, or the place among those who wait for one */
void fetch_owe(struct mailbox *, struct folder *, uint32_t uid, const char *why);	/* it could not be had */
/* These could not be had. True: nor could many before them, so it is the server, and the session ends for now. */
bool fetch_none_given(struct mailbox *, const struct folder *, const struct ranges *uids, const char *why);
