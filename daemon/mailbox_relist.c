/* Looking at a folder with other eyes: its UIDs are not those we knew (the mailbox was moved or restored,
 * exchange-online 5.12), or an operator wants what was delivered once more. What is on its way through the sink belongs
 * to the old checkpoint: it is settled before either begins. */
#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mailbox_private.h"
#include "message.h"
#include "util.h"

#define LIST_AT_ONCE 500
#define LISTINGS_MAX 3			/* a known message that they leave out would be new later */
#define RESYNC_TRIES 2			/* once may be chance */

struct relist {				/* one folder's; gone on with in the next session */
	struct folder *folder;
	uint32_t uidvalidity;		/* of the UIDs it lists */
	bool listed, has_known;
	struct store_known known;	/* the record of delivered messages */
	int64_t known_before_s;		/* an older INTERNALDATE counts as known ... */
	int64_t named_before_s;		/* ... of a message with a Message-ID */
	unsigned listings;		/* that told fewer than there are */
	struct ranges left, asked;	/* to be asked for; in the command under way */
	struct ranges settled;		/* known */
	struct ranges delivered;	/* of these: found in the record, and not only too old for it */
	uint64_t n_listed;
	uint32_t singly_to;		/* a command for many failed: one at a time up to this UID; 0: not so */
	uint32_t suspect;		/* the session ended when it was asked for alone; 0: none */
	unsigned none_given, rests;	/* messages in a row that told nothing, each asked for alone; sessions that ended for that */
	struct header_scan scan;	/* of the response that comes */
};

void relist_forget_known(struct mailbox *m)
{
	if (m->task != TASK_RELIST && m->task != TASK_RELIST_SEARCH)
		relist_drop(m);			/* begun anew */
}

void relist_drop(struct mailbox *m)
{
	struct relist *r = m->relist;

	if (r == NULL)
		return;
	store_known_done(&r->known);
	ranges_done(&r->left);
	ranges_done(&r->asked);
	ranges_done(&r->settled);
	ranges_done(&r->delivered);
	header_scan_done(&r->scan);
	free(r);
	m->relist = NULL;
}

static int64_t policy_floor_s(const struct mailbox *m, const struct folder *f)
{
	switch (m->conf->start) {
	case START_SINCE:		/* a day of room for the server's time zone */
		return date_start_s(m->conf->start_year, m->conf->start_month, m->conf->start_day) - 86400;
	case START_NEW:			/* a time to come is of a clock that was ahead: it tells of no message that it is old */
		return f->at.begun_wall_s <= clock_wall_s() ? f->at.begun_wall_s : 0;
	default:
		return 0;
	}
}

static void on_known(void *arg, enum store_result result, struct store_known *known)
{
	struct folder *f = arg;
	struct mailbox *m = f->owner;
	struct relist *r = m->relist;

	m->answers_due--;
	if (result != STORE_OK || r == NULL || r->folder != f || r->has_known) {
		store_known_done(known);
	} else {
		r->known = *known;
		r->has_known = true;
		r->known_before_s = folder_known_before_s(f, policy_floor_s(m, f), known->oldest_internaldate_s);
		r->named_before_s = known->whole ? folder_known_before_s(f, policy_floor_s(m, f), 0) : r->known_before_s;
	}
	mailbox_wake(m);
}

static enum step relist_begin(struct mailbox *m, struct folder *f)
{
	relist_drop(m);
	m->relist = xcalloc(1, sizeof(*m->relist));
	m->relist->folder = f;
	m->relist->uidvalidity = f->new_uidvalidity;
	m->answers_due++;
	store_read_known(m->env->store, f->at.ref, on_known, f);
	return STEP_WAIT;
}

/* For which of the delivered ones was `after` still owed? The record does not tell: it is owed for all, where once more does no harm. What
 * is deleted must be certain. */
static bool owes_after_again(const struct mailbox *m, const struct folder *f)
{
	return f->at.after_owed.n > 0 && (m->conf->after == AFTER_SEEN || m->conf->after == AFTER_MOVE);
}

static void tell_after(const struct mailbox *m, const struct folder *f, char *ret_text, size_t size)
{
	unsigned long long owed = ranges_count(&f->at.after_owed);

	ret_text[0] = '\0';
	if (owes_after_again(m, f))
		snprintf(ret_text, size, "; `after`, owed for %llu, is done for %llu", owed, (unsigned long long)ranges_count(&m->relist->delivered));
	else if (owed > 0 && m->conf->after == AFTER_DELETE)
		snprintf(ret_text, size, "; %llu delivered ones that were to be deleted stay", owed);
}

static void relist_end(struct mailbox *m, struct folder *f)
{
	struct relist *r = m->relist;
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	struct failure told;
	char after[80];
	struct log_field fields[] = { { "FAILURE", "uids-changed" }, { "HINT", told.hint } };

	f->rebuilt_known = ranges_count(&r->settled);
	f->rebuilt_new = r->n_listed - f->rebuilt_known;
	f->rebuilt_wall_s = clock_wall_s();
	tell_after(m, f, after, sizeof(after));
	failure_own(&told, "uids-changed", &m->subject,
	    "the folder was rebuilt or moved (UIDVALIDITY %u, was %u): %llu known messages are skipped, %llu are fetched%s", f->new_uidvalidity,
	    f->at.uidvalidity, (unsigned long long)f->rebuilt_known, (unsigned long long)f->rebuilt_new, after);
	log_write(LOG_LEVEL_WARNING, EVENT_UIDVALIDITY_CHANGED, &ctx, fields, ARRAY_LEN(fields), "%s", told.text);
	look_begin_folder(m, f, f->new_uidvalidity, &r->settled, owes_after_again(m, f) ? &r->delivered : NULL);
	f->new_uidvalidity = 0;
	relist_drop(m);
}

enum step relist_step(struct mailbox *m, struct folder *f)
{
	struct relist *r = m->relist;

	if (r == NULL || r->folder != f || r->uidvalidity != f->new_uidvalidity)
		return relist_begin(m, f);
	if (!r->has_known)
		return STEP_WAIT;
	if (!r->listed) {
		ranges_done(&f->listed);
		work_begin_task(m, TASK_RELIST_SEARCH, f);
		imap_session_search_from(m->session, 1);
	} else if (r->left.n > 0) {
		ranges_take(&r->left, ranges_first(&r->left) <= r->singly_to ? 1 : LIST_AT_ONCE, &r->asked);
		work_begin_task(m, TASK_RELIST, f);
		imap_session_fetch_identity(m->session, &r->asked);
	} else {
		relist_end(m, f);
		return STEP_WAIT;
	}
	return STEP_SENT;
}

void relist_on_body_start(struct mailbox *m)
{
	header_scan_done(&m->relist->scan);
}

void relist_on_body(struct mailbox *m, struct evbuffer *in, size_t len)
{
	struct evbuffer_iovec first = { 0 };

	if (evbuffer_peek(in, (ev_ssize_t)len, NULL, &first, 1) >= 1)
		header_scan(&m->relist->scan, first.iov_base, first.iov_len < len ? first.iov_len : len);
	evbuffer_drain(in, len);
}

void relist_on_fetched(struct mailbox *m, const struct imap_fetch *fetch)
{
	struct relist *r = m->relist;
	const struct header_value *id = &r->scan.values[HEADER_MESSAGE_ID];
	uint8_t hash[STORE_HASH_BYTES];
	bool delivered, older = fetch->internaldate_s < (id->len > 0 ? r->named_before_s : r->known_before_s);

	/* a header without its last empty line was not given (exchange-online 5.9): as if nothing had been told */
	if (fetch->has_internaldate && ranges_has(&r->asked, fetch->uid) && (r->scan.seen_bytes > 0 || older)) {
		message_hash(id->v, id->len, fetch->internaldate_s, hash);
		delivered = store_known_has(&r->known, hash);
		if (delivered)
			ranges_add(&r->delivered, fetch->uid, fetch->uid);
		if (delivered || older)
			ranges_add(&r->settled, fetch->uid, fetch->uid);
		ranges_remove(&r->asked, fetch->uid, fetch->uid);
		r->none_given = r->rests = 0;
	}
	header_scan_done(&r->scan);
}

static void ask_again(struct relist *r)
{
	for (size_t i = 0; i < r->asked.n; i++)
		ranges_add(&r->left, r->asked.v[i].lo, r->asked.v[i].hi);
}

/* Which of them is it? One that is refused alone, or twice ended the session, is not known: it will be fetched, or owed, as any other. */
static void asked_in_vain(struct relist *r, bool session_ended)
{
	uint32_t first = ranges_first(&r->asked), last = ranges_last(&r->asked);

	if (last > r->singly_to) {		/* they were not asked for alone */
		r->singly_to = last;
		ask_again(r);
	} else if (session_ended && r->suspect != first) {
		r->suspect = first;
		ask_again(r);
	} else {
		r->none_given++;
	}
}

/* A server that tells nothing of any message would make all of them new. They are listed once more, in another session. */
static void rest_from_listing(struct mailbox *m)
{
	struct relist *r = m->relist;
	struct failure why;

	if (r->none_given <= NONE_GIVEN_FEW || r->rests >= NONE_GIVEN_RESTS)
		return;
	failure_own(&why, "none-given", &m->subject, "%u messages in a row told neither Message-ID nor date", r->none_given);
	r->none_given = 0;
	r->rests++;
	r->listed = false;
	r->listings = r->singly_to = 0;
	ranges_done(&r->left);
	mailbox_end_session(m, &why);
}

void relist_over(struct mailbox *m, const struct failure *why)
{
	struct relist *r = m->relist;

	if (r == NULL || r->asked.n == 0)
		return;
	if (why->fail == FAIL_WAIT && why->schedule != SCHEDULE_THROTTLED && !m->stopping)
		asked_in_vain(r, true);
	else
		ask_again(r);
	ranges_done(&r->asked);
	header_scan_done(&r->scan);
}

/* Several that are incomplete may be complete together. */
static void note_listed(struct relist *r, struct folder *f)
{
	for (size_t i = 0; i < f->listed.n; i++)
		ranges_add(&r->left, f->listed.v[i].lo, f->listed.v[i].hi);
	ranges_done(&f->listed);
	r->listed = ranges_count(&r->left) >= f->exists || ++r->listings >= LISTINGS_MAX;
	ranges_remove_all(&r->left, &r->settled);
	r->n_listed = ranges_count(&r->left) + ranges_count(&r->settled);
}

void relist_on_done(struct mailbox *m, struct folder *f, enum task task, const struct imap_done *done)
{
	struct relist *r = m->relist;

	if (!done->ok && task == TASK_RELIST_SEARCH)
		look_ends_session(f, done->failure);
	if (!done->ok && (task == TASK_RELIST_SEARCH || mailbox_is_refused(done->failure))) {
		mailbox_end_session(m, done->failure);		/* relist_over() follows */
		return;
	}
	if (task == TASK_RELIST_SEARCH) {
		note_listed(r, f);
	} else if (r->asked.n > 0) {		/* NO, or an OK without them (exchange-online 5.8) */
		asked_in_vain(r, false);
		rest_from_listing(m);
	}
	ranges_done(&r->asked);
}

/* --- on an operator's word --- */

enum step resync_step(struct mailbox *m, struct folder *f)
{
	ranges_done(&f->listed);
	work_begin_task(m, TASK_RESYNC, f);
	if (memcmp(&f->resync, &f->resync_asked, sizeof(f->resync)) != 0)
		f->resync_failures = 0;
	f->resync_asked = f->resync;
	imap_session_search_since(m->session, f->resync.year, f->resync.month, f->resync.day);
	return STEP_SENT;
}

static void resync_over(struct folder *f)
{
	f->resync_failures = 0;
	if (memcmp(&f->resync, &f->resync_asked, sizeof(f->resync)) == 0)	/* else another day has been asked for meanwhile */
		f->resync.year = 0;
}

void resync_failed(struct mailbox *m, struct folder *f, const struct failure *why)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	char day[40], hint[FAILURE_HINT_MAX];
	struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", hint } };

	if (why->schedule == SCHEDULE_THROTTLED || failure_is_of_token(why) || ++f->resync_failures < RESYNC_TRIES)
		return;
	snprintf(day, sizeof(day), "%04d-%02d-%02d", f->resync_asked.year, f->resync_asked.month, f->resync_asked.day);
	snprintf(hint, sizeof(hint), "Ask for it once more, or for a later day: mailpollctl resync %s --since %s.", m->conf->address, day);
	log_write(LOG_LEVEL_WARNING, EVENT_MAILBOX_STALLED, &ctx, fields, ARRAY_LEN(fields), "resync since %s is given up, the server did not list "
	    "that folder %u times: %s; %s", day, f->resync_failures, why->text, hint);
	store_drop_resync(m->env->store, m->conf->id, f->name, &f->resync_asked);
	resync_over(f);
}

void resync_on_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };

	if (!done->ok) {
		resync_failed(m, f, done->failure);
		mailbox_end_session(m, done->failure);
		return;
	}
	log_info(&ctx, "resync: %llu messages since %04d-%02d-%02d are fetched again", (unsigned long long)ranges_count(&f->listed),
	    f->resync_asked.year, f->resync_asked.month, f->resync_asked.day);
	resync_over(f);
	f->look_due = true;
	look_resync(m, f, &f->listed, &f->resync_asked);
	ranges_done(&f->listed);
}
