/* What is owed to the server once messages are delivered (`after`): \Seen, delete, move, many in a command. */
#include <stdio.h>
#include "mailbox_private.h"
#include "util.h"

#define AFTER_AT_ONCE 100		/* owed that is worth a command while deliveries go on */
#define AFTER_QUICK_MS 30000		/* twice as many would still be done before the session's limit for silence */
#define AFTER_RETRY_MS 60000

bool after_is_due(const struct mailbox *m, const struct folder *f)
{
	uint64_t owed = ranges_count(&f->at.after_owed);

	if (owed == 0 || m->conf->after == AFTER_KEEP || clock_now_ms() < f->after_retry_ms)
		return false;
	if (f->after_failures > 0 && !m->looked_all)	/* it may end the session: first the mail */
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

/* Those that were copied already, or else the lowest: as many as go into a command. */
static void pick(struct mailbox *m, const struct folder *f)
{
	struct ranges owed = { 0 };

	m->after_began_ms = clock_now_ms();
	ranges_copy(&owed, &f->at.after_owed);
	ranges_keep(&owed, &f->after_copied);
	m->after_step = owed.n > 0 ? AFTER_STEP_FLAG : AFTER_STEP_FIRST;
	if (owed.n == 0)
		ranges_copy(&owed, &f->at.after_owed);
	ranges_take(&owed, m->after_limit, &m->after_uids);
	ranges_done(&owed);
}

enum step after_step(struct mailbox *m, struct folder *f)
{
	if (!after_is_due(m, f))
		return STEP_NOTHING;
	if (m->selected != f) {
		look_select(m, f);
		return STEP_SENT;
	}
	if (f->after_doubted.n > 0) {
		ranges_done(&f->listed);
		work_begin_task(m, TASK_AFTER_LOOK, f);
		imap_session_search_uids(m->session, &f->after_doubted);
		return STEP_SENT;
	}
	pick(m, f);
	send_after(m, f);
	return STEP_SENT;
}

/* Else it would be owed for ever, or be done when somebody wants an `after` again, a year later perhaps. */
void after_drop_unwanted(struct mailbox *m, struct folder *f)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };

	if (m->conf->after != AFTER_KEEP || f->at.after_owed.n == 0)
		return;
	log_info(&ctx, "`after` is keep now: what was still to be done for %llu delivered messages is not done",
	    (unsigned long long)ranges_count(&f->at.after_owed));
	store_after_done(m->env->store, f->at.ref, &f->at.after_owed, NULL, NULL);
	ranges_done(&f->at.after_owed);
}

static void settle_after(struct mailbox *m, struct folder *f, const struct ranges *uids)
{
	store_after_done(m->env->store, f->at.ref, uids, NULL, NULL);
	ranges_remove_all(&f->at.after_owed, uids);
	ranges_remove_all(&f->after_copied, uids);
}

/* A slow server may well have done what nobody has waited for, and does it again when it is asked again: by COPY it is there twice then. So
 * fewer are asked for, until they are done in time, and more only while twice as many would be, too. */
static void ask_for_fewer(struct mailbox *m)
{
	uint64_t n = ranges_count(&m->after_uids);

	if (n > 0)				/* else they were set aside, and only asked about */
		m->after_limit = n > 1 ? n / 2 : 1;
}

static void ask_for_more(struct mailbox *m)
{
	if (clock_now_ms() - m->after_began_ms < AFTER_QUICK_MS)
		m->after_limit = m->after_limit < AFTER_COMMAND_MAX / 2 ? 2 * m->after_limit : AFTER_COMMAND_MAX;
}

static void after_done(struct mailbox *m, struct folder *f)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };

	ask_for_more(m);
	settle_after(m, f, &m->after_uids);
	f->after_failures = 0;
	f->after_retry_ms = 0;
	if (repeats_over(&f->after_failing))
		log_write(LOG_LEVEL_INFO, EVENT_MAILBOX_RECOVERED, &ctx, NULL, 0, "`after` of delivered messages is done again");
}

/* It waits for itself and the mailbox's mail goes on, also when the server ends the session whenever it is asked for it. */
void after_failed(struct mailbox *m, struct folder *f, const struct failure *why, bool ends_session)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	char repeated[24], more[80] = "";
	bool first = f->after_failures++ == 0;
	unsigned untold;

	if (ends_session)
		ask_for_fewer(m);
	if (why->schedule == SCHEDULE_THROTTLED || (first && ends_session))	/* that has its own wait; once is chance */
		return;
	if (repeats_tell(&f->after_failing, why->name, &untold)) {
		struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", why->hint[0] != '\0' ? why->hint : NULL },
			{ "REPEATED", repeats_text(untold, repeated, sizeof(repeated)) } };

		if (untold > 0)
			snprintf(more, sizeof(more), " (the same %u times since this was last logged)", untold);
		log_write(LOG_LEVEL_WARNING, EVENT_AFTER_REFUSED, &ctx, fields, ARRAY_LEN(fields), "`after` of delivered messages was refused, tried again "
		    "later: %s%s%s%s", why->text, more, why->hint[0] != '\0' ? "; " : "", why->hint);
	}
	f->after_retry_ms = clock_now_ms() + AFTER_RETRY_MS * (msec_t)(f->after_failures < 30 ? f->after_failures : 30);
}

/* OK is not enough (exchange-online 4.7): what was not moved is not deleted either, and asked about before it is tried again. */
static void set_unmoved_aside(struct mailbox *m, struct folder *f, const struct ranges *copied)
{
	if (copied == NULL)
		return;
	ranges_copy(&f->after_doubted, &m->after_uids);
	ranges_remove_all(&f->after_doubted, copied);
	ranges_remove_all(&m->after_uids, &f->after_doubted);
}

void after_on_looked(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	struct ranges doubted = f->after_doubted, there = { 0 };
	struct failure why;

	f->after_doubted = (struct ranges){ 0 };
	if (!done->ok) {
		ranges_done(&doubted);
		after_failed(m, f, done->failure, mailbox_is_refused(done->failure));
		if (mailbox_is_refused(done->failure))
			mailbox_end_session(m, done->failure);
		return;
	}
	ranges_copy(&there, &doubted);
	ranges_keep(&there, &f->listed);
	ranges_remove_all(&doubted, &there);
	settle_after(m, f, &doubted);		/* somebody else has moved or deleted these */
	if (there.n > 0) {
		failure_own(&why, "not-moved", &m->subject, "the server answered OK, and the messages are where they were");
		after_failed(m, f, &why, false);
	}
	ranges_done(&f->listed);
	ranges_done(&doubted);
	ranges_done(&there);
}

void after_on_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	bool was_copy = done->command == COMMAND_COPY, flagged = done->command == COMMAND_STORE && m->conf->after != AFTER_SEEN;

	if (!done->ok) {
		after_failed(m, f, done->failure, mailbox_is_refused(done->failure));
		if (mailbox_is_refused(done->failure))
			mailbox_end_session(m, done->failure);
		return;
	}
	if (was_copy || done->command == COMMAND_MOVE)
		set_unmoved_aside(m, f, done->copied);
	if (m->after_uids.n == 0) {		/* the question comes next */
		ask_for_more(m);
		return;
	}
	if (was_copy) {
		for (size_t i = 0; i < m->after_uids.n; i++)
			ranges_add(&f->after_copied, m->after_uids.v[i].lo, m->after_uids.v[i].hi);
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
