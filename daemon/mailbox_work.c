/* In a session: what is the next command? For each folder in turn, the selected one first: look (SEARCH), do what is
 * owed after deliveries, fetch. When nothing is left, IDLE on the first folder, or LOGOUT until the next poll. */
#include <stdlib.h>
#include <string.h>
#include "mailbox_private.h"
#include "util.h"

#define IDLE_MAX_MS (9 * 60 * 1000)	/* exchange-online 5.10 */
#define IDLE_SLACK_MS (90 * 1000)	/* the session leaves IDLE by itself, with a limit of its own */
#define IDLE_SHORT_MS 1000		/* one that the server ends sooner is as good as none */
#define LINGER_MS 5000			/* deliveries under way: stay for them that long before IDLE */
#define POLL_LINGER_MS 60000		/* the same before LOGOUT */
#define AFTER_AT_ONCE 100		/* owed `after` that is worth a command while deliveries go on */
#define AFTER_COMMAND_MAX 200
#define AFTER_RETRY_MS 60000

static const unsigned look_again_s[] = { 1, 5, 30, 120 };	/* an EXISTS without new UIDs (exchange-online 5.10) */

void work_begin_task(struct mailbox *m, enum task task, struct folder *f)
{
	m->task = task;
	m->task_folder = f;
	mailbox_expect(m, COMMAND_LIMIT_MS);
}

static void send_select(struct mailbox *m, struct folder *f)
{
	work_begin_task(m, TASK_SELECT, f);
	m->selected = NULL;
	m->subject.folder = f->name;
	imap_session_select(m->session, f->name);
}

void work_begin(struct mailbox *m)
{
	m->task = TASK_NONE;
	m->selected = NULL;
	m->looked_all = false;
	m->poll_asked = false;
	m->no_idle = false;
	m->progress_ms = clock_now_ms();
	mailbox_expect(m, 0);
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].look_due = true;
		m->folders[i].select_due = false;
	}
}

void work_over(struct mailbox *m)
{
	m->task = TASK_NONE;
	m->task_folder = m->selected = NULL;
	relist_drop(m);
	for (size_t i = 0; i < m->n_folders; i++)
		folder_forget_session(&m->folders[i]);
}

/* --- first contact --- */

static void on_begun(void *arg, enum store_result result, struct store_folder *at)
{
	struct folder *f = arg;
	struct mailbox *m = f->owner;

	m->answers_due--;
	f->beginning = false;
	if (result == STORE_OK) {
		store_folder_done(&f->at);
		f->at = *at;
	} else {
		m->paused = true;	/* another machine's: neither sink nor `after` */
	}
	mailbox_wake(m);
}

void work_begin_folder(struct mailbox *m, struct folder *f, uint32_t uidvalidity, const struct ranges *settled)
{
	f->beginning = true;
	ranges_done(&f->absent);
	ranges_done(&f->missing);
	m->answers_due++;
	store_begin(m->env->store, m->conf->id, f->name, uidvalidity, settled, on_begun, f);
}

void work_unsettle(struct mailbox *m, struct folder *f, const struct ranges *uids)
{
	f->beginning = true;
	ranges_remove_all(&f->absent, uids);
	m->answers_due++;
	store_unsettle(m->env->store, m->conf->id, f->name, uids, on_begun, f);
}

/* What of the mailbox counts as settled before anything is fetched (`start`). */
static void first_contact(struct mailbox *m, struct folder *f, const struct imap_done *select)
{
	struct ranges settled = { 0 };

	f->at.uidvalidity = select->uidvalidity;	/* for work_begin_folder() after a SEARCH */
	f->at_uidnext = select->uidnext;
	if (m->conf->start == START_SINCE || (m->conf->start == START_NEW && select->uidnext == 0)) {
		work_begin_task(m, TASK_FIRST_LOOK, f);
		if (m->conf->start == START_SINCE)
			imap_session_search_since(m->session, m->conf->start_year, m->conf->start_month, m->conf->start_day);
		else
			imap_session_search_from(m->session, 1);
		return;
	}
	if (m->conf->start == START_NEW && select->uidnext > 1)
		ranges_add(&settled, 1, select->uidnext - 1);
	work_begin_folder(m, f, select->uidvalidity, &settled);
	ranges_done(&settled);
}

static void on_first_look_done(struct mailbox *m, struct folder *f)
{
	struct ranges settled = { 0 };
	uint32_t last = f->at_uidnext > 1 ? f->at_uidnext - 1 : ranges_last(&f->listed);

	if (last > 0)
		ranges_add(&settled, 1, last);
	if (m->conf->start == START_SINCE)
		ranges_remove_all(&settled, &f->listed);
	ranges_done(&f->listed);
	work_begin_folder(m, f, f->at.uidvalidity, &settled);
	ranges_done(&settled);
}

static bool uids_are_others(const struct folder *f, uint32_t uidvalidity, uint32_t uidnext)
{
	return (uidvalidity != 0 && uidvalidity != f->at.uidvalidity) || (uidnext != 0 && uidnext <= ranges_last(&f->at.settled));
}

static void on_selected(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	struct failure why;

	if (!done->ok) {
		mailbox_end_session(m, done->failure);
		return;
	}
	if (done->uidvalidity == 0 && f->at.uidvalidity == 0) {	/* without it no UID means anything (RFC 3501 2.3.1.1) */
		failure_own(&why, "protocol", &m->subject, "SELECT of %s told no UIDVALIDITY", f->name);
		mailbox_end_session(m, &why);
		return;
	}
	m->selected = f;
	f->exists = done->exists;
	f->select_due = false;
	f->look_due = true;
	if (f->at.ref == 0)
		first_contact(m, f, done);
	else if (uids_are_others(f, done->uidvalidity, done->uidnext))
		f->new_uidvalidity = done->uidvalidity != 0 ? done->uidvalidity : f->at.uidvalidity;
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
	uint32_t from = folder_search_from(f), unanswered = ranges_first(&f->unanswered);

	if (unanswered != 0 && (from == 0 || unanswered < from))
		from = unanswered;
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

/* What is owed and not listed has probably been moved or deleted: on with its schedule, and at the end of that it is gone. */
static void judge_owed(struct mailbox *m, struct folder *f, const struct ranges *not_listed)
{
	for (size_t i = f->at.n_owed; i-- > 0;) {	/* settling one moves the last into its place */
		uint32_t uid = f->at.owed[i].uid;

		if (!ranges_has(not_listed, uid))
			continue;
		if (folder_owed_last_try(f, uid))
			settle_gone(m, f, uid, uid);
		else
			fetch_owe(m, f, uid, "FETCH answered OK without the message, and SEARCH does not list it");
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

static void on_look_done(struct mailbox *m, struct folder *f)
{
	struct ranges gone = { 0 };
	uint64_t n, before = ranges_count(&f->pending);

	judge_unanswered(m, f);
	m->some_came = false;
	n = folder_look_done(f, m->search_from, clock_now_ms(), &gone);
	for (size_t i = 0; i < gone.n; i++)
		settle_gone(m, f, gone.v[i].lo, gone.v[i].hi);
	ranges_done(&gone);
	f->looked_ms = m->last_look_ms = clock_now_ms();
	f->at.last_success_wall_s = clock_wall_s();
	f->idle_looks = n > 0 ? 0 : f->idle_looks + 1;
	if (n > 0 && f->waiting_since_wall_s == 0)
		f->waiting_since_wall_s = clock_wall_s();
	else if (n == 0 && f->under_way.n == 0)
		f->waiting_since_wall_s = 0;
	plan_look_again(f, n > before);
	log_debug(&m->log, "%s: %llu to fetch", f->name, (unsigned long long)n);
}

/* STATUS of a folder that is not selected: is there anything that a SELECT would be worth? */
static bool status_tells_news(const struct folder *f, const struct imap_mailbox_status *s)
{
	uint32_t from = folder_search_from(f);

	if (f->at.ref == 0 || !s->has_uidnext || !s->has_uidvalidity || uids_are_others(f, s->uidvalidity, s->uidnext))
		return true;
	if (f->unanswered.n > 0 || f->at.after_owed.n > 0 || folder_owed_due(f, clock_wall_s()) != 0)
		return true;
	if (from == 0 || from >= s->uidnext)
		return false;
	/* a hole that no look could fill, thrice, and nothing has changed since */
	return !(f->idle_looks >= 3 && f->idle_uidnext == s->uidnext && f->idle_messages == s->messages);
}

static void on_status_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	if (!done->ok) {
		mailbox_end_session(m, done->failure);
		return;
	}
	if (status_tells_news(f, &done->status)) {
		f->select_due = f->look_due = true;
	} else {
		f->looked_ms = m->last_look_ms = clock_now_ms();
		f->at.last_success_wall_s = clock_wall_s();
	}
	if (f->idle_uidnext != done->status.uidnext || f->idle_messages != done->status.messages)
		f->idle_looks = 0;
	f->idle_uidnext = done->status.uidnext;
	f->idle_messages = done->status.messages;
}

static enum step look_step(struct mailbox *m, struct folder *f)
{
	bool changes = m->selected == f && (f->new_uidvalidity != 0 || (f->resync_year != 0 && f->at.ref != 0));

	if (f->beginning || (changes && fetch_is_under_way(m)))
		return STEP_WAIT;
	if (changes)
		return f->new_uidvalidity != 0 ? relist_step(m, f) : resync_step(m, f);
	if (!f->look_due)
		return STEP_NOTHING;
	if (m->selected == f) {
		send_search(m, f);
	} else if (f->at.ref != 0 && !f->select_due && f->resync_year == 0 && (m->conf->watch == WATCH_POLL || f != &m->folders[0])) {
		look_begins(f);
		work_begin_task(m, TASK_STATUS, f);
		m->subject.folder = f->name;
		imap_session_status(m->session, f->name);
	} else {
		send_select(m, f);
	}
	return STEP_SENT;
}

/* --- after --- */

static bool after_is_due(const struct mailbox *m, const struct folder *f)
{
	uint64_t owed = ranges_count(&f->at.after_owed);

	if (owed == 0 || m->conf->after == AFTER_KEEP || clock_now_ms() < f->after_retry_ms)
		return false;
	return owed >= AFTER_AT_ONCE || mailbox_is_held(m) || (f->pending.n == 0 && !fetch_is_under_way(m));
}

static void send_after(struct mailbox *m, struct folder *f)
{
	struct imap_session *s = m->session;

	work_begin_task(m, TASK_AFTER, f);
	if (m->after_step == AFTER_STEP_EXPUNGE)
		imap_session_expunge(s, &m->after_uids);
	else if (m->after_step == AFTER_STEP_FLAG || m->conf->after == AFTER_DELETE)
		imap_session_add_flag(s, &m->after_uids, "\\Deleted");
	else if (m->conf->after == AFTER_SEEN)
		imap_session_add_flag(s, &m->after_uids, "\\Seen");
	else if (imap_session_can(s, "MOVE"))
		imap_session_move(s, &m->after_uids, m->conf->after_folder);
	else
		imap_session_copy(s, &m->after_uids, m->conf->after_folder);
}

static enum step after_step(struct mailbox *m, struct folder *f)
{
	struct ranges owed = { 0 };

	if (!after_is_due(m, f))
		return STEP_NOTHING;
	if (m->selected != f) {
		send_select(m, f);
		return STEP_SENT;
	}
	ranges_copy(&owed, &f->at.after_owed);
	ranges_take(&owed, AFTER_COMMAND_MAX, &m->after_uids);
	ranges_done(&owed);
	m->after_step = AFTER_STEP_FIRST;
	send_after(m, f);
	return STEP_SENT;
}

static void after_done(struct mailbox *m, struct folder *f)
{
	store_after_done(m->env->store, f->at.ref, &m->after_uids, NULL, NULL);
	ranges_remove_all(&f->at.after_owed, &m->after_uids);
	f->after_failures = 0;
	f->after_retry_ms = 0;
	repeats_over(&f->after_failing);
}

static void after_refused(struct mailbox *m, struct folder *f, const struct failure *why)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", why->hint[0] != '\0' ? why->hint : NULL } };
	unsigned untold;

	if (mailbox_is_refused(why)) {
		mailbox_end_session(m, why);
		return;
	}
	f->after_failures++;
	if (repeats_tell(&f->after_failing, why->name, &untold))
		log_write(LOG_LEVEL_WARNING, EVENT_AFTER_REFUSED, &ctx, fields, ARRAY_LEN(fields), "`after` of delivered messages was refused, tried again "
		    "later: %s%s%s", why->text, why->hint[0] != '\0' ? "; " : "", why->hint);
	f->after_retry_ms = clock_now_ms() + AFTER_RETRY_MS * (msec_t)(f->after_failures < 30 ? f->after_failures : 30);
}

static void on_after_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	bool was_copy = done->command == COMMAND_COPY, flagged = done->command == COMMAND_STORE && m->conf->after != AFTER_SEEN;

	if (!done->ok) {
		after_refused(m, f, done->failure);
	} else if (was_copy) {
		m->after_step = AFTER_STEP_FLAG;
		send_after(m, f);
	} else if (flagged && imap_session_can(m->session, "UIDPLUS")) {
		m->after_step = AFTER_STEP_EXPUNGE;
		send_after(m, f);
	} else {
		if (flagged && !f->after_warned) {
			log_write(LOG_LEVEL_WARNING, EVENT_SERVER_LACKS, &m->log, NULL, 0, "the server has no UIDPLUS: delivered messages stay in %s, "
			    "marked \\Deleted", f->name);
			f->after_warned = true;
		}
		after_done(m, f);
	}
}

/* --- nothing to do --- */

static uint64_t hash_text(const char *s)	/* FNV-1a: spreads polls evenly, nothing else */
{
	uint64_t h = UINT64_C(14695981039346656037);

	for (; *s != '\0'; s++)
		h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
	return h;
}

msec_t work_next_slot_ms(const struct mailbox *m)
{
	msec_t now = clock_now_ms(), interval = m->conf->interval_ms;
	msec_t phase = (msec_t)(hash_text(m->conf->id) % (uint64_t)interval), since = (now - phase) % interval;

	return now + interval - (since < 0 ? since + interval : since);
}

/* What was due already when make_due() looked, and could not be done, waits for an event: of the sink, the gate, a delivery. */
static void earlier(const struct mailbox *m, msec_t *at_ms, msec_t candidate_ms)
{
	if (candidate_ms > m->made_due_ms && candidate_ms < *at_ms)
		*at_ms = candidate_ms;
}

/* When something becomes due that no event will tell. */
static msec_t next_due_ms(const struct mailbox *m)
{
	msec_t now = clock_now_ms(), at = now + IDLE_MAX_MS;
	int64_t owed;

	for (size_t i = 0; i < m->n_folders; i++) {
		const struct folder *f = &m->folders[i];

		earlier(m, &at, (f->looked_ms != 0 ? f->looked_ms : now) + m->conf->interval_ms);
		earlier(m, &at, f->look_again_ms);
		earlier(m, &at, f->at.after_owed.n > 0 ? f->after_retry_ms : 0);
		if ((owed = folder_next_owed_wall_s(f, m->made_due_wall_s)) != 0)
			earlier(m, &at, now + (owed - clock_wall_s()) * 1000);
	}
	return at > now ? at : now + 1;
}

/* When mailbox_next() is wanted again, while the session may go on idling. 0: no need. */
static msec_t next_aside_ms(const struct mailbox *m)
{
	msec_t at = !m->relogin_due && m->token_request == NULL ? m->relogin_ms : 0;

	if (m->no_room != NULL && (at == 0 || m->no_room_until_ms < at))
		at = m->no_room_until_ms;
	return at;
}

static void wake_aside(struct mailbox *m)
{
	msec_t at = next_aside_ms(m);

	if (at != 0)
		mailbox_wake_at(m, at);
}

/* What has become due by time alone. */
static void make_due(struct mailbox *m)
{
	msec_t now = clock_now_ms();
	bool this_session;

	m->made_due_ms = now;
	m->made_due_wall_s = clock_wall_s();
	for (size_t i = 0; i < m->n_folders; i++) {
		struct folder *f = &m->folders[i];

		if ((f->look_again_ms != 0 && now >= f->look_again_ms) || (f->looked_ms != 0 && now - f->looked_ms >= m->conf->interval_ms))
			f->look_due = true;
		if (f->look_due)
			f->look_again_ms = 0;
		if (fetch_is_owed(m, f, &this_session) && !this_session && !m->relogin_due) {
			m->relogin_due = true;
			mailbox_wake(m);
		}
	}
}

static void note_complete(struct mailbox *m)
{
	if (!m->looked_all) {
		m->looked_all = true;
		mailbox_proved(m);
	}
	for (size_t i = 0; i < m->n_folders; i++) {
		struct folder *f = &m->folders[i];

		if (!f->at.complete && f->at.ref != 0 && f->pending.n == 0 && f->under_way.n == 0) {
			f->at.complete = true;
			store_complete(m->env->store, f->at.ref, NULL, NULL);
		}
	}
}

static void log_out(struct mailbox *m)
{
	m->task = TASK_NONE;
	m->poll_asked = false;		/* up to here this session has looked for it */
	mailbox_expect(m, 60000);
	imap_session_logout(m->session);
}

static void send_idle(struct mailbox *m)
{
	msec_t at_most_ms = next_due_ms(m) - clock_now_ms();

	work_begin_task(m, TASK_IDLE, &m->folders[0]);
	mailbox_expect(m, at_most_ms + IDLE_SLACK_MS);
	mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
	m->idle_began_ms = clock_now_ms();
	wake_aside(m);
	imap_session_idle(m->session, at_most_ms);
}

static bool can_idle(struct mailbox *m)
{
	if (m->conf->watch != WATCH_IDLE)
		return false;
	if (imap_session_can(m->session, "IDLE") && !m->no_idle)
		return true;
	if (!m->no_idle_told)
		log_write(LOG_LEVEL_WARNING, EVENT_SERVER_LACKS, &m->log, NULL, 0, "the server offers no IDLE%s: looking every %lld s instead",
		    m->no_idle ? " that works" : "", (long long)m->conf->interval_ms / 1000);
	m->no_idle_told = true;
	return false;
}

/* Without IDLE, though asked for: stay signed in and look when the interval is over. */
static void wait_in_session(struct mailbox *m)
{
	msec_t due_ms = next_due_ms(m), aside_ms = next_aside_ms(m);

	mailbox_expect(m, 0);
	mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
	mailbox_wake_at(m, aside_ms != 0 && aside_ms < due_ms ? aside_ms : due_ms);
}

/* Deliveries under way will bring more to do: `after`, room for the next batch. */
static bool lingers(struct mailbox *m)
{
	msec_t limit_ms = m->conf->watch == WATCH_POLL ? POLL_LINGER_MS : LINGER_MS, until_ms = m->progress_ms + limit_ms;

	if (!fetch_is_under_way(m) || mailbox_is_held(m) || clock_now_ms() >= until_ms)
		return false;
	mailbox_wake_at(m, until_ms);
	return true;
}

static void rest(struct mailbox *m)
{
	note_complete(m);
	if (lingers(m))
		return;
	if (m->conf->watch == WATCH_POLL)
		log_out(m);
	else if (!can_idle(m))
		wait_in_session(m);
	else if (m->selected != &m->folders[0])
		send_select(m, &m->folders[0]);
	else
		send_idle(m);
}

/* --- choosing --- */

static enum step folder_step(struct mailbox *m, struct folder *f)
{
	enum step step = look_step(m, f);

	if (step == STEP_NOTHING)
		step = after_step(m, f);
	if (step != STEP_NOTHING || !fetch_is_wanted(m, f))
		return step;
	if (m->selected == f)
		return fetch_step(m, f);
	send_select(m, f);
	return STEP_SENT;
}

static enum step any_step(struct mailbox *m)
{
	enum step step = m->selected != NULL ? folder_step(m, m->selected) : STEP_NOTHING;

	for (size_t i = 0; i < m->n_folders && step == STEP_NOTHING; i++)
		if (&m->folders[i] != m->selected)
			step = folder_step(m, &m->folders[i]);
	return step;
}

/* While idling: is there a reason to leave? */
static bool is_wanted(struct mailbox *m)
{
	if (m->paused || mailbox_may_relogin(m))
		return true;
	for (size_t i = 0; i < m->n_folders; i++) {
		const struct folder *f = &m->folders[i];

		if (f->look_due || after_is_due(m, f) || fetch_is_wanted(m, f))
			return true;
	}
	return false;
}

void work_next(struct mailbox *m)
{
	make_due(m);
	if (imap_session_is_idling(m->session)) {
		mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
		if (is_wanted(m))
			imap_session_leave_idle(m->session);
		else
			fetch_release(m);
		wake_aside(m);
		return;
	}
	if (!imap_session_is_ready(m->session))
		return;
	if (m->paused || mailbox_may_relogin(m)) {
		log_out(m);
		return;
	}
	if (m->state != MAILBOX_HELD || !mailbox_is_held(m))
		mailbox_set_state(m, MAILBOX_SYNCING);
	switch (any_step(m)) {
	case STEP_NOTHING:
		fetch_release(m);	/* held, or nothing is left of what it was for: others wait for the turn */
		rest(m);
		break;
	case STEP_WAIT:
		mailbox_expect(m, 0);
		break;
	case STEP_SENT:
		break;
	}
}

static void on_idle_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	f->look_due = true;		/* a real look after each renewal: a silent IDLE hides nothing (exchange-online 5.10) */
	if (!done->ok && mailbox_is_refused(done->failure))
		mailbox_end_session(m, done->failure);
	else if (!done->ok || (done->unasked && clock_now_ms() - m->idle_began_ms < IDLE_SHORT_MS))
		m->no_idle = true;	/* else IDLE and look would follow each other without a pause */
}

/* --- the session's callbacks --- */

void work_on_done(void *arg, const struct imap_done *done)
{
	struct mailbox *m = arg;
	struct folder *f = m->task_folder;
	enum task task = m->task;

	m->progress_ms = clock_now_ms();
	m->opened = m->opened || done->ok;	/* the first command is SELECT or STATUS */
	m->task = TASK_NONE;
	mailbox_expect(m, 0);
	switch (task) {
	case TASK_STATUS:
		on_status_done(m, f, done);
		break;
	case TASK_SELECT:
		on_selected(m, f, done);
		break;
	case TASK_LOOK:
	case TASK_FIRST_LOOK:
		if (!done->ok)
			mailbox_end_session(m, done->failure);
		else if (task == TASK_LOOK)
			on_look_done(m, f);
		else
			on_first_look_done(m, f);
		break;
	case TASK_SIZES:
		if (!done->ok)
			f->sizes_refused = true;
		if (!done->ok && mailbox_is_refused(done->failure))
			mailbox_end_session(m, done->failure);
		else if (f->sizes == NULL)	/* none were told: do not ask again for these */
			folder_note_size(f, ranges_first(&f->pending), 0);
		break;
	case TASK_FETCH:
		fetch_on_done(m, done);
		break;
	case TASK_AFTER:
		on_after_done(m, f, done);
		break;
	case TASK_RELIST_SEARCH:
	case TASK_RELIST:
		relist_on_done(m, f, task, done);
		break;
	case TASK_RESYNC:
		resync_on_done(m, f, done);
		break;
	case TASK_IDLE:
		on_idle_done(m, f, done);
		break;
	case TASK_NONE:
		break;
	}
	mailbox_wake(m);
}

void work_on_uids(void *arg, uint32_t lo, uint32_t hi)
{
	struct mailbox *m = arg;
	struct failure why;

	mailbox_expect(m, COMMAND_LIMIT_MS);
	if (m->task != TASK_LOOK && m->task != TASK_FIRST_LOOK && m->task != TASK_RELIST_SEARCH && m->task != TASK_RESYNC)
		return;
	if (folder_list(m->task_folder, lo, hi))
		return;
	failure_own(&why, "protocol", &m->subject, "SEARCH lists more than a mailbox can hold");
	mailbox_end_session(m, &why);
}

void work_on_exists(void *arg, uint32_t n)
{
	struct mailbox *m = arg;
	struct folder *f = m->selected;

	if (f == NULL)			/* SELECT's own is told when it is done */
		return;
	if (n > f->exists)
		f->exists_rose = true;
	if (n > f->exists || m->task == TASK_IDLE)
		f->look_due = true;
	f->exists = n;
	if (f->look_due)
		mailbox_wake(m);
}
