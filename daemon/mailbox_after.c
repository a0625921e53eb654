/* What is owed to the server once messages are delivered (`after`): \Seen, delete, move, many in a command. */
#include "mailbox_private.h"
#include "util.h"

#define AFTER_AT_ONCE 100		/* owed that is worth a command while deliveries go on */
#define AFTER_COMMAND_MAX 200
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

enum step after_step(struct mailbox *m, struct folder *f)
{
	struct ranges owed = { 0 };

	if (!after_is_due(m, f))
		return STEP_NOTHING;
	if (m->selected != f) {
		look_select(m, f);
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

/* It waits for itself and the mailbox's mail goes on, also when the server ends the session whenever it is asked for it. */
void after_failed(struct mailbox *m, struct folder *f, const struct failure *why, bool ends_session)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", why->hint[0] != '\0' ? why->hint : NULL } };
	bool first = f->after_failures++ == 0;
	unsigned untold;

	if (why->schedule == SCHEDULE_THROTTLED || (first && ends_session))	/* that has its own wait; once is chance */
		return;
	if (repeats_tell(&f->after_failing, why->name, &untold))
		log_write(LOG_LEVEL_WARNING, EVENT_AFTER_REFUSED, &ctx, fields, ARRAY_LEN(fields), "`after` of delivered messages was refused, tried again "
		    "later: %s%s%s", why->text, why->hint[0] != '\0' ? "; " : "", why->hint);
	f->after_retry_ms = clock_now_ms() + AFTER_RETRY_MS * (msec_t)(f->after_failures < 30 ? f->after_failures : 30);
}

void after_on_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	bool was_copy = done->command == COMMAND_COPY, flagged = done->command == COMMAND_STORE && m->conf->after != AFTER_SEEN;

	if (!done->ok) {
		after_failed(m, f, done->failure, mailbox_is_refused(done->failure));
		if (mailbox_is_refused(done->failure))
			mailbox_end_session(m, done->failure);
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
