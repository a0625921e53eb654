/* Looking at a folder: it is opened (SELECT; STATUS of those beside the one in IDLE), which often tells enough; at first contact what is there
 * is settled or not; then looks (SEARCH) tell what is pending, what is gone, and what a FETCH could not bring. */
#include <stdio.h>
#include <string.h>
#include "mailbox_private.h"
#include "util.h"

#define GIVEN_UP_MAX 200		/* asked about in a command */
#define FIRST_SEARCHES 3		/* all, and twice what came since */

static const unsigned look_again_s[] = { 1, 5, 30, 120 };	/* an EXISTS without new UIDs (exchange-online 5.10) */

void look_select(struct mailbox *m, struct folder *f)
{
	work_begin_task(m, TASK_SELECT, f);
	m->selected = NULL;
	m->subject.folder = f->name;
	imap_session_select(m->session, f->name);
}

/* --- first contact --- */

static void on_begun(void *arg, enum store_result result, struct store_folder *at)
{
	struct folder *f = arg;
	struct mailbox *m = f->owner;

	m->answers_due--;
	f->beginning = false;
	if (result == STORE_OK) {
		at->last_success_wall_s = f->at.last_success_wall_s;
		store_folder_done(&f->at);
		f->at = *at;
	} else {
		m->paused = m->not_owner = true;	/* another machine's: neither sink nor `after` */
	}
	mailbox_wake(m);
}

void look_begin_folder(struct mailbox *m, struct folder *f, uint32_t uidvalidity, const struct ranges *settled, const struct ranges *after_owed)
{
	f->beginning = true;
	folder_forget_uids(f);
	m->answers_due++;
	store_begin(m->env->store, m->conf->id, f->name, uidvalidity, settled, after_owed, on_begun, f);
}

void look_resync(struct mailbox *m, struct folder *f, const struct ranges *uids, const struct store_day *since)
{
	f->beginning = true;
	ranges_remove_all(&f->absent, uids);
	m->answers_due++;
	store_unsettle(m->env->store, m->conf->id, f->name, uids, since, on_begun, f);
}

/* First what there is. With a date, then what came since, twice: a UID that one answer leaves out (exchange-online 4.5, 5.10) is not settled
 * for that, and found by the looks that follow. */
static void send_first_search(struct mailbox *m, struct folder *f)
{
	ranges_done(&f->listed);
	work_begin_task(m, TASK_FIRST_LOOK, f);
	if (f->first_searches++ == 0)
		imap_session_search_from(m->session, 1);
	else
		imap_session_search_since(m->session, m->conf->start_year, m->conf->start_month, m->conf->start_day);
}

/* What of the mailbox counts as settled before anything is fetched (`start`). */
static void first_contact(struct mailbox *m, struct folder *f, const struct imap_mailbox_status *told)
{
	struct ranges settled = { 0 };

	f->at.uidvalidity = told->uidvalidity;		/* for look_begin_folder() after a SEARCH */
	f->first_searches = 0;
	ranges_done(&f->left_out);
	if (m->conf->start == START_SINCE || (m->conf->start == START_NEW && !told->has_uidnext)) {
		send_first_search(m, f);
		return;
	}
	if (m->conf->start == START_NEW && told->uidnext > 1)
		ranges_add(&settled, 1, told->uidnext - 1);
	look_begin_folder(m, f, told->uidvalidity, &settled, NULL);
	ranges_done(&settled);
}

static void on_first_look_done(struct mailbox *m, struct folder *f)
{
	if (f->first_searches > 1) {
		ranges_remove_all(&f->left_out, &f->listed);
	} else if (m->conf->start == START_SINCE) {
		ranges_copy(&f->left_out, &f->listed);
		if (f->told_uidnext > 0)		/* what came since is wanted whatever its date */
			ranges_remove(&f->left_out, f->told_uidnext, UINT32_MAX);
		if (f->told_uidnext > 0 && f->left_out.n > 0 && ranges_count(&f->left_out) >= f->told_exists)
			ranges_add(&f->left_out, 1, ranges_last(&f->left_out));		/* all are listed: between them is nothing */
	} else if (f->listed.n > 0) {
		ranges_add(&f->left_out, 1, ranges_last(&f->listed));
	}
	ranges_done(&f->listed);
	if (m->conf->start == START_SINCE && f->first_searches < FIRST_SEARCHES) {
		send_first_search(m, f);
		return;
	}
	look_begin_folder(m, f, f->at.uidvalidity, &f->left_out, NULL);
	ranges_done(&f->left_out);
}

/* --- opening --- */

static bool uidvalidity_is_another(const struct folder *f, uint32_t uidvalidity)
{
	return uidvalidity != 0 && uidvalidity != f->at.uidvalidity;
}

/* It must not be (RFC 3501 2.3.1.1): the UIDs are others, or the server tells an old one. */
static bool uidnext_is_low(const struct folder *f, uint32_t uidnext)
{
	return uidnext != 0 && uidnext <= ranges_last(&f->at.settled);
}

/* The folder that IDLE is for: the first that can be opened. */
struct folder *look_watched_folder(const struct mailbox *m)
{
	for (size_t i = 0; i < m->n_folders; i++)
		if (!folder_is_refused(&m->folders[i]))
			return &m->folders[i];
	return NULL;
}

bool look_refuse_folder(struct mailbox *m, struct folder *f, const struct failure *why)
{
	msec_t wait_ms;

	if (strcmp(f->name, "INBOX") == 0)
		return false;
	wait_ms = backoff_next_ms(&f->refusals, why, (uint32_t)clock_random(UINT32_MAX));
	if (f->refused == NULL)
		f->refused_since_ms = clock_now_ms();
	failure_keep(&f->refused, why);
	f->refused_until_ms = clock_now_ms() + wait_ms;
	ranges_done(&f->pending);
	mailbox_folder_failed(m, f, why, wait_ms);
	if (look_watched_folder(m) != NULL)
		return true;
	for (size_t i = 0; i < m->n_folders; i++)
		m->folders[i].refused_until_ms = 0;
	return false;
}

/* INBOX is what others wait for, not one that waits. */
void look_ends_session(struct folder *f, const struct failure *why)
{
	if (why->schedule != SCHEDULE_THROTTLED && !failure_is_of_token(why) && strcmp(f->name, "INBOX") != 0)
		f->ends_session = true;
}

static void end_session(struct mailbox *m, struct folder *f, const struct failure *why)
{
	struct failure named = *why;

	look_ends_session(f, why);
	if (m->n_folders > 1)			/* no answer tells which */
		snprintf(named.text, sizeof(named.text), "%.80s: %.160s", f->name, why->text);
	mailbox_end_session(m, &named);
}

static void not_opened(struct mailbox *m, struct folder *f, const struct failure *why)
{
	if (!failure_is_of_folder(why) || !look_refuse_folder(m, f, why))
		end_session(m, f, why);
}

static void note_opened(struct mailbox *m, struct folder *f)
{
	f->refusals = (struct backoff){ 0 };
	failure_drop(&f->refused);
	mailbox_folder_recovered(m, f);
}

/* Is there anything that a look would be worth? */
static bool tells_news(const struct folder *f, const struct imap_mailbox_status *s)
{
	uint32_t from = folder_search_from(f);

	if (f->at.ref == 0)			/* first contact: an empty one needs no look */
		return s->messages > 0;
	if (f->new_uidvalidity != 0 || f->resync.year != 0)
		return true;
	if (!s->has_uidnext || !s->has_uidvalidity || uidvalidity_is_another(f, s->uidvalidity) || uidnext_is_low(f, s->uidnext))
		return true;
	if (f->unanswered.n > 0 || f->at.after_owed.n > 0 || folder_owed_due(f, clock_wall_s(), INT64_MAX) != 0)
		return true;
	if (from == 0 || from >= s->uidnext)
		return false;
	/* one that no look could find, thrice and for long enough (FOLDER_GONE_MS), and nothing has changed since */
	return !(f->idle_looks >= 3 && clock_now_ms() - f->idle_since_ms >= FOLDER_GONE_MS && f->told_uidnext == s->uidnext &&
	    f->told_exists == s->messages);
}

static void note_looked(struct mailbox *m, struct folder *f)
{
	f->ends_session = false;
	f->looked_ms = m->last_look_ms = clock_now_ms();
	f->at.last_success_wall_s = clock_wall_s();
}

/* STATUS or SELECT told as much: a whole look, when there is nothing to search for (false). */
static bool look_told(struct mailbox *m, struct folder *f, const struct imap_mailbox_status *told)
{
	bool news = tells_news(f, told);

	if (!news)
		note_looked(m, f);
	if (f->told_uidnext != told->uidnext || f->told_exists != told->messages)
		f->idle_looks = 0;
	f->told_uidnext = told->uidnext;
	f->told_exists = told->messages;
	return news;
}

/* Below messages there are UIDs: such a UIDNEXT says nothing, least of all that the UIDs are others. */
static struct imap_mailbox_status believable(struct imap_mailbox_status told)
{
	if (!told.has_uidnext || (told.uidnext == 1 && told.messages > 0)) {
		told.has_uidnext = false;
		told.uidnext = 0;
	}
	return told;
}

static void on_status_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	struct imap_mailbox_status told = believable(done->status);

	if (!done->ok)
		not_opened(m, f, done->failure);
	else if (look_told(m, f, &told))
		f->select_due = f->look_due = true;	/* SELECT tells whether it can be opened */
	else
		note_opened(m, f);
}

/* --- looking --- */

/* At its command, not at its answer: what becomes known meanwhile (EXISTS, a poll asked for) is worth another look. */
static void look_begins(struct folder *f)
{
	f->look_due = false;
	f->looked_ms = 0;
	f->news_promised = f->news_promised || f->exists_rose;
	f->exists_rose = false;
}

static void send_search(struct mailbox *m, struct folder *f)
{
	uint32_t from = folder_search_from(f), unanswered = ranges_first(&f->unanswered), top = f->uidnext_was_low ? ranges_last(&f->at.settled) : 0;

	if (unanswered != 0 && (from == 0 || unanswered < from))
		from = unanswered;
	if (top != 0 && (from == 0 || top < from))
		from = top;
	m->search_from = from == 0 ? UINT32_MAX : from;
	ranges_done(&f->listed);
	look_begins(f);
	work_begin_task(m, TASK_LOOK, f);
	imap_session_search_from(m->session, m->search_from);
}

/* What the server does not have any more is settled, so that no look asks for it again. */
static void settle_gone(struct mailbox *m, struct folder *f, uint32_t lo, uint32_t hi)
{
	struct store_settlement s = { .folder = f->at.ref, .uid = hi, .settle_from = lo, .sink = sink_conf(m->sink)->name };

	store_settle(m->env->store, &s, NULL, NULL);
	folder_settled(f, lo, hi);
}

static void settle_owed_gone(struct mailbox *m, struct folder *f, uint32_t uid)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };

	log_info(&ctx, "message UID %u, which could not be had, is no longer there", uid);
	settle_gone(m, f, uid, uid);
}

/* What is owed and not listed has probably been moved or deleted: on with its schedule, and at the end of that it is gone, if the try before
 * has not found it either: one look proves nothing. */
static void judge_owed(struct mailbox *m, struct folder *f, const struct ranges *not_listed)
{
	static const char why[] = "FETCH answered OK without the message, and SEARCH does not list it";

	for (size_t i = f->at.n_owed; i-- > 0;) {	/* settling one takes it out */
		const struct store_owed *o = &f->at.owed[i];

		if (!ranges_has(not_listed, o->uid))
			continue;
		if (folder_owed_last_try(f, o->uid) && strcmp(o->why, why) == 0)
			settle_owed_gone(m, f, o->uid);
		else
			fetch_owe(m, f, o->uid, why);
	}
}

/* A FETCH brought nothing for these: those still listed are owed, the others have perhaps been moved or deleted. */
static void judge_unanswered(struct mailbox *m, struct folder *f)
{
	static const char why[] = "FETCH answered OK without the message";
	struct ranges there = f->unanswered, not_listed = { 0 };

	f->unanswered = (struct ranges){ 0 };
	ranges_copy(&not_listed, &there);
	ranges_remove_all(&not_listed, &f->listed);
	judge_owed(m, f, &not_listed);
	ranges_done(&not_listed);
	ranges_keep(&there, &f->listed);
	if (there.n > 0 && (m->some_came || !fetch_none_given(m, f, &there, why)))
		for (size_t i = 0; i < there.n; i++)
			for (uint64_t uid = there.v[i].lo; uid <= there.v[i].hi; uid++)
				fetch_owe(m, f, (uint32_t)uid, why);
	ranges_done(&there);
}

static void plan_look_again(struct folder *f, bool found)
{
	if (!found && f->news_promised && f->looks_for_nothing < ARRAY_LEN(look_again_s)) {
		f->look_again_ms = clock_now_ms() + 1000 * (msec_t)look_again_s[f->looks_for_nothing++];
	} else {
		f->news_promised = false;
		f->looks_for_nothing = 0;
		f->look_again_ms = 0;
	}
}

/* UIDNEXT was not above the highest settled UID, and that is not there, or may have come since. Else they are the same UIDs, whatever
 * UIDNEXT says. */
static bool finds_other_uids(struct folder *f)
{
	bool are_others = f->uidnext_was_low && (f->exists_rose || !ranges_has(&f->listed, ranges_last(&f->at.settled)));

	f->uidnext_was_low = false;
	return are_others;
}

static void on_look_done(struct mailbox *m, struct folder *f)
{
	struct ranges gone = { 0 };
	uint64_t n, before = ranges_count(&f->pending);

	if (finds_other_uids(f)) {
		f->new_uidvalidity = f->at.uidvalidity;
		f->look_due = true;		/* after it has been listed anew */
		ranges_done(&f->listed);
		return;
	}
	judge_unanswered(m, f);
	m->some_came = false;
	n = folder_look_done(f, m->search_from, clock_now_ms(), &gone);
	for (size_t i = gone.n; i-- > 0;)		/* from above: what is settled above is one range then, and little is moved */
		settle_gone(m, f, gone.v[i].lo, gone.v[i].hi);
	ranges_done(&gone);
	note_looked(m, f);
	f->idle_looks = n > 0 ? 0 : f->idle_looks + 1;
	if (f->idle_looks == 1)
		f->idle_since_ms = clock_now_ms();
	folder_note_waiting(f, clock_wall_s());
	plan_look_again(f, n > before);
	log_debug(&m->log, "%s: %llu to fetch", f->name, (unsigned long long)n);
}

/* The one UID that a SEARCH could list, unless the message is gone again: then FETCH answers nothing, and a SEARCH follows. */
static bool names_the_only_one(const struct folder *f, const struct imap_mailbox_status *told)
{
	return f->at.ref != 0 && f->new_uidvalidity == 0 && f->resync.year == 0 && f->unanswered.n == 0 && f->idle_looks == 0 && told->messages > 0 &&
	    told->has_uidnext && told->uidnext - 1 == folder_search_from(f);
}

static void look_finds(struct mailbox *m, struct folder *f, uint32_t uid)
{
	m->search_from = uid;
	folder_list(f, uid, uid);
	on_look_done(m, f);
}

static void on_selected(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	struct imap_mailbox_status told = believable((struct imap_mailbox_status){ true, done->uidnext != 0, done->uidvalidity != 0, done->exists,
	    done->uidnext, done->uidvalidity });
	struct failure why;

	if (!done->ok) {
		not_opened(m, f, done->failure);
		return;
	}
	note_opened(m, f);
	if (done->uidvalidity == 0 && f->at.uidvalidity == 0) {	/* without it no UID means anything (RFC 3501 2.3.1.1) */
		failure_own(&why, "protocol", &m->subject, "SELECT of %s told no UIDVALIDITY", f->name);
		end_session(m, f, &why);
		return;
	}
	m->selected = f;
	f->exists = done->exists;
	f->select_due = false;
	if (f->at.ref == 0) {
		first_contact(m, f, &told);
	} else if (f->new_uidvalidity != 0 || f->uidnext_was_low || uidvalidity_is_another(f, told.uidvalidity)) {
		f->new_uidvalidity = done->uidvalidity != 0 ? done->uidvalidity : f->at.uidvalidity;
	} else if (uidnext_is_low(f, told.uidnext)) {
		f->uidnext_was_low = true;	/* a look tells; when the session ends before that, they count as others */
		told.has_uidnext = false;
		told.uidnext = 0;
	}
	if (!look_told(m, f, &told))
		return;
	if (names_the_only_one(f, &told))
		look_finds(m, f, told.uidnext - 1);
	else
		f->look_due = true;
}

enum step look_step(struct mailbox *m, struct folder *f)
{
	bool changes = m->selected == f && (f->new_uidvalidity != 0 || (f->resync.year != 0 && f->at.ref != 0));

	if (f->beginning || (changes && fetch_is_under_way(m)))
		return STEP_WAIT;
	if (changes)
		return f->new_uidvalidity != 0 ? relist_step(m, f) : resync_step(m, f);
	if (!f->look_due)
		return STEP_NOTHING;
	if (m->selected == f) {
		send_search(m, f);
		return STEP_SENT;
	}
	look_begins(f);
	if (m->conf->watch == WATCH_IDLE && f != look_watched_folder(m) && f->at.ref != 0 && !f->select_due && f->resync.year == 0) {
		work_begin_task(m, TASK_STATUS, f);
		m->subject.folder = f->name;
		imap_session_status(m->session, f->name);
	} else {
		look_select(m, f);
	}
	return STEP_SENT;
}

/* Those given up are below all that a look searches: once in a session it is asked whether they are still there. One that two sessions in
 * a row do not find has been moved or deleted. */
enum step look_given_up_step(struct mailbox *m, struct folder *f)
{
	struct ranges given_up = { 0 };

	if (m->selected != f || f->given_up_asked || f->given_up_refused)
		return STEP_NOTHING;
	f->given_up_asked = true;
	folder_given_up(f, GIVEN_UP_MAX, &given_up);
	if (given_up.n == 0)
		return STEP_NOTHING;
	ranges_done(&f->listed);
	work_begin_task(m, TASK_GIVEN_UP, f);
	imap_session_search_uids(m->session, &given_up);
	ranges_done(&given_up);
	return STEP_SENT;
}

static void on_given_up_done(struct mailbox *m, struct folder *f)
{
	struct ranges away = { 0 };

	folder_given_up(f, GIVEN_UP_MAX, &away);
	ranges_remove_all(&away, &f->listed);
	for (size_t i = 0; i < away.n; i++)
		for (uint64_t uid = away.v[i].lo; uid <= away.v[i].hi; uid++)
			if (ranges_has(&f->given_up_away, (uint32_t)uid))
				settle_owed_gone(m, f, (uint32_t)uid);
	ranges_done(&f->given_up_away);
	f->given_up_away = away;
	ranges_done(&f->listed);
}

void look_on_done(struct mailbox *m, struct folder *f, enum task task, const struct imap_done *done)
{
	if (task == TASK_STATUS)
		on_status_done(m, f, done);
	else if (task == TASK_SELECT)
		on_selected(m, f, done);
	else if (task == TASK_GIVEN_UP && !done->ok && !mailbox_is_refused(done->failure))
		f->given_up_refused = true;
	else if (!done->ok && task == TASK_GIVEN_UP)
		mailbox_end_session(m, done->failure);
	else if (!done->ok)
		end_session(m, f, done->failure);
	else if (task == TASK_LOOK)
		on_look_done(m, f);
	else if (task == TASK_FIRST_LOOK)
		on_first_look_done(m, f);
	else
		on_given_up_done(m, f);
}
