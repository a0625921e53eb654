/* In a session: what is the next command? For each folder in turn, the selected one first: look, do what is
 * owed after deliveries, fetch. When nothing is left, IDLE on the first folder, or LOGOUT until the next poll. */
#include "mailbox_private.h"
#include "util.h"

#define IDLE_MAX_MS (9 * 60 * 1000)	/* exchange-online 5.10 */
#define IDLE_SLACK_MS (90 * 1000)	/* the session leaves IDLE by itself, with a limit of its own */
#define IDLE_SHORT_MS 1000		/* one that the server ends sooner is as good as none */
#define IDLE_REFUSALS 2			/* in a row that end the session */
#define NO_IDLE_MS (60 * 60 * 1000)	/* after that it may be that it works */
#define IDLE_CUTS 5			/* in a row that are no chance */
#define IDLE_CUT_MS (3 * 60 * 1000)	/* one that lives longer is ordinary */
#define IDLE_LEAST_MS 10000		/* as often a look is worth it */
#define NOOP_MS (9 * 60 * 1000)		/* servers end a session in which nothing is said for 30 minutes (RFC 3501 5.4) */
#define SAME_EXISTS_MS 10000
#define LINGER_MS 5000			/* deliveries under way: stay for them that long before IDLE */
#define POLL_LINGER_MS 60000		/* the same before LOGOUT */

void work_begin_task(struct mailbox *m, enum task task, struct folder *f)
{
	m->task = task;
	m->task_folder = f;
	mailbox_expect(m, COMMAND_LIMIT_MS);
}

/* What comes unasked, as flags that somebody changes during IDLE, says nothing of a command (exchange-online 4.6). */
void work_goes_on(struct mailbox *m)
{
	if (m->task != TASK_NONE && m->task != TASK_IDLE)
		mailbox_expect(m, COMMAND_LIMIT_MS);
}

void work_begin(struct mailbox *m)
{
	m->task = TASK_NONE;
	m->selected = NULL;
	m->looked_all = false;
	m->poll_asked = false;
	m->progress_ms = m->said_ms = clock_now_ms();
	mailbox_expect(m, 0);
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].look_due = true;
		m->folders[i].select_due = false;
		m->folders[i].given_up_asked = false;
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

		if (folder_is_refused(f)) {
			earlier(m, &at, f->refused_until_ms);
			continue;
		}
		earlier(m, &at, (f->looked_ms != 0 ? f->looked_ms : now) + m->conf->interval_ms);
		earlier(m, &at, f->look_again_ms);
		earlier(m, &at, f->at.after_owed.n > 0 ? f->after_retry_ms : 0);
		if ((owed = folder_next_owed_wall_s(f, m->made_due_wall_s)) != 0)
			earlier(m, &at, now + (owed - clock_wall_s()) * 1000);
	}
	return at > now ? at : now + 1;
}

/* When mailbox_next() is wanted again, while the session may go on idling or waiting. 0: no need. */
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

	m->made_due_ms = now;
	m->made_due_wall_s = clock_wall_s();
	for (size_t i = 0; i < m->n_folders; i++) {
		struct folder *f = &m->folders[i];

		if (folder_is_refused(f))
			continue;
		if (f->refused != NULL || (f->look_again_ms != 0 && now >= f->look_again_ms) || (f->looked_ms != 0 && now - f->looked_ms >= m->conf->interval_ms))
			f->look_due = true;
		if (f->look_due)
			f->look_again_ms = 0;
		if (!m->relogin_due && fetch_wants_session(m, f)) {
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

		if (!f->at.complete && f->at.ref != 0 && f->refused == NULL && f->pending.n == 0 && f->under_way.n == 0) {
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

	if (m->idle_most_ms != 0 && clock_now_ms() >= m->idle_most_until_ms) {
		m->idle_most_ms = 0;
		m->idle_cuts = IDLE_CUTS - 1;
	}
	if (m->idle_most_ms != 0 && m->idle_most_ms < at_most_ms)
		at_most_ms = m->idle_most_ms;
	work_begin_task(m, TASK_IDLE, m->selected);
	mailbox_expect(m, at_most_ms + IDLE_SLACK_MS);
	mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
	m->idle_began_ms = clock_now_ms();
	m->idle_taken = false;
	wake_aside(m);
	imap_session_idle(m->session, at_most_ms);
}

static bool can_idle(struct mailbox *m)
{
	bool works = clock_now_ms() >= m->no_idle_until_ms;

	if (m->conf->watch != WATCH_IDLE)
		return false;
	if (imap_session_can(m->session, "IDLE") && works)
		return true;
	if (!m->no_idle_told)
		log_write(LOG_LEVEL_WARNING, EVENT_SERVER_LACKS, &m->log, NULL, 0, "the server offers no IDLE%s: looking every %lld s instead",
		    works ? "" : " that works", (long long)m->conf->interval_ms / 1000);
	m->no_idle_told = true;
	return false;
}

/* Else IDLE and look, or IDLE and sign-in, would follow each other without a pause. */
static void do_without_idle(struct mailbox *m)
{
	m->idle_refusals = 0;
	m->no_idle_until_ms = clock_now_ms() + NO_IDLE_MS;
}

static void tell_idle_cut(struct mailbox *m)
{
	struct failure why;
	struct log_field fields[] = { { "FAILURE", "idle-cut" }, { "HINT", why.hint } };

	failure_own(&why, "idle-cut", &m->subject, "connections to %s that idle are cut after %lld s, each time: IDLE is renewed after %lld s",
	    m->conf->host, (long long)m->idle_cut_ms / 1000, (long long)m->idle_most_ms / 1000);
	if (!m->idle_cut_told)
		log_write(LOG_LEVEL_WARNING, EVENT_IDLE_CUT, &m->log, fields, ARRAY_LEN(fields), "%s; %s", why.text, why.hint);
	m->idle_cut_told = true;
}

/* Ordinary, but not each time: all that idle would sign in anew all the time. */
static void note_idle_cut(struct mailbox *m, msec_t lived_ms)
{
	if (m->idle_cuts == 0 || lived_ms < m->idle_cut_ms)
		m->idle_cut_ms = lived_ms;
	if (++m->idle_cuts < IDLE_CUTS)
		return;
	m->idle_cuts = 0;
	m->idle_most_ms = m->idle_cut_ms / 4 * 3 > IDLE_LEAST_MS ? m->idle_cut_ms / 4 * 3 : IDLE_LEAST_MS;
	m->idle_most_until_ms = clock_now_ms() + NO_IDLE_MS;
	tell_idle_cut(m);
}

/* It was not cut; one that was over sooner than those that were says nothing of that. */
static void note_idle_lived(struct mailbox *m, msec_t lived_ms)
{
	if (lived_ms > m->idle_cut_ms) {
		m->idle_most_ms = 0;
		m->idle_cut_told = false;
	}
	if (lived_ms > m->idle_cut_ms || m->idle_most_ms != 0)
		m->idle_cuts = 0;
}

/* IDLE has ended the session: because it is not taken (exchange-online 5.7) or never answered, or at once; or it was cut. A token's end, being
 * throttled, and what we end ourselves say nothing of IDLE. */
static void note_idle_ended(struct mailbox *m, const struct failure *why)
{
	msec_t lived_ms = clock_now_ms() - m->idle_began_ms;

	if (why->fail == FAIL_NONE || why->schedule == SCHEDULE_THROTTLED || m->stopping || failure_is_of_token(why))
		return;
	if (!m->idle_taken || lived_ms < IDLE_SHORT_MS || failure_is_of_command(why)) {
		if (++m->idle_refusals >= IDLE_REFUSALS)
			do_without_idle(m);
	} else if (why->fail == FAIL_EXPECTED && lived_ms < IDLE_CUT_MS) {
		note_idle_cut(m, lived_ms);
	} else {
		note_idle_lived(m, lived_ms);
	}
}

/* Signed in with nothing to say until then, or until something happens; but a word now and then. */
static void wait_in_silence(struct mailbox *m, msec_t until_ms)
{
	msec_t noop_ms = m->said_ms + NOOP_MS, aside_ms = next_aside_ms(m);

	if (aside_ms != 0 && aside_ms < until_ms)
		until_ms = aside_ms;
	if (clock_now_ms() < noop_ms) {
		imap_session_wait(m->session);
		mailbox_wake_at(m, until_ms < noop_ms ? until_ms : noop_ms);
	} else {
		work_begin_task(m, TASK_NOOP, NULL);
		imap_session_noop(m->session);
	}
}

/* Without IDLE, though asked for: stay signed in and look when the interval is over. */
static void wait_in_session(struct mailbox *m)
{
	mailbox_expect(m, 0);
	mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
	wait_in_silence(m, next_due_ms(m));
}

/* Deliveries under way will bring more to do: `after`, a message once more; and before LOGOUT, that the folder is complete. */
static bool lingers(struct mailbox *m)
{
	bool poll = m->conf->watch == WATCH_POLL;
	bool waits = poll ? fetch_is_under_way(m) : m->n_arrivals > 0 || delivery_in_doubt(m->delivery) > 0;
	msec_t until_ms = m->progress_ms + (poll ? POLL_LINGER_MS : LINGER_MS);

	if (!waits || mailbox_is_held(m) || clock_now_ms() >= until_ms)
		return false;
	wait_in_silence(m, until_ms);
	return true;
}

static void rest(struct mailbox *m)
{
	bool proved = m->looked_all;

	note_complete(m);
	if (!proved)
		mailbox_wake(m);		/* what had to wait for that comes next */
	if (!proved || lingers(m))
		return;
	if (m->conf->watch == WATCH_POLL)
		log_out(m);
	else if (!can_idle(m))
		wait_in_session(m);
	else if (m->selected != look_watched_folder(m))
		look_select(m, look_watched_folder(m));
	else
		send_idle(m);
}

/* --- choosing --- */

/* One that was refused may end the session again: first the others. */
static bool stands_back(const struct mailbox *m, const struct folder *f)
{
	if (f->refused == NULL || m->looked_all)
		return false;
	for (size_t i = 0; i < m->n_folders; i++)
		if (m->folders[i].refused == NULL)
			return true;
	return false;
}

static enum step folder_step(struct mailbox *m, struct folder *f)
{
	enum step step;

	if (folder_is_refused(f) || stands_back(m, f))
		return STEP_NOTHING;
	step = look_step(m, f);
	if (step == STEP_NOTHING)
		step = after_step(m, f);
	if (step != STEP_NOTHING)
		return step;
	if (!fetch_is_wanted(m, f))
		return look_given_up_step(m, f);
	if (m->selected == f)
		return fetch_step(m, f);
	look_select(m, f);
	return STEP_SENT;
}

/* Those that the session may end at come last, so that in each session all others have their turn. */
static enum step any_step(struct mailbox *m)
{
	enum step step = m->selected != NULL ? folder_step(m, m->selected) : STEP_NOTHING;

	for (size_t i = 0; i < 2 * m->n_folders && step == STEP_NOTHING; i++) {
		struct folder *f = &m->folders[i % m->n_folders];

		if (f != m->selected && f->ends_session == (i >= m->n_folders))
			step = folder_step(m, f);
	}
	return step;
}

/* While idling: is there a reason to leave? */
static bool is_wanted(struct mailbox *m)
{
	if (m->paused || mailbox_may_relogin(m))
		return true;
	for (size_t i = 0; i < m->n_folders; i++) {
		const struct folder *f = &m->folders[i];

		if (!folder_is_refused(f) && (f->look_due || after_is_due(m, f) || fetch_is_wanted(m, f)))
			return true;
	}
	return false;
}

void work_next(struct mailbox *m)
{
	make_due(m);
	if (imap_session_is_idling(m->session)) {
		mailbox_set_state(m, mailbox_is_held(m) ? MAILBOX_HELD : MAILBOX_WATCHING);
		if (is_wanted(m)) {
			imap_session_leave_idle(m->session);
		} else {
			fetch_release(m);
			note_complete(m);	/* what was still being settled when IDLE began */
		}
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
		wait_in_silence(m, INT64_MAX);
		break;
	case STEP_SENT:
		break;
	}
}

static void on_idle_done(struct mailbox *m, struct folder *f, const struct imap_done *done)
{
	f->look_due = true;		/* a real look after each renewal: a silent IDLE hides nothing (exchange-online 5.10) */
	if (!done->ok && mailbox_is_refused(done->failure)) {
		note_idle_ended(m, done->failure);
		mailbox_end_session(m, done->failure);
	} else if (!done->ok || (done->unasked && clock_now_ms() - m->idle_began_ms < IDLE_SHORT_MS)) {
		do_without_idle(m);
	} else {
		m->idle_refusals = 0;
		note_idle_lived(m, clock_now_ms() - m->idle_began_ms);
	}
}

/* --- the session's callbacks --- */

void work_on_idling(void *arg)
{
	struct mailbox *m = arg;

	m->idle_taken = true;
}

/* A look at a folder is no way to go on: that folder waits for itself, or goes last. */
static void note_look_over(struct mailbox *m, const struct failure *why)
{
	bool opens = m->task == TASK_SELECT || m->task == TASK_STATUS;

	if (opens && failure_is_of_command(why) && look_refuse_folder(m, m->task_folder, why))
		return;
	if (opens || m->task == TASK_LOOK || m->task == TASK_FIRST_LOOK || m->task == TASK_RELIST_SEARCH)
		look_ends_session(m->task_folder, why);
}

void work_over(struct mailbox *m, const struct failure *why)
{
	if (why->fail != FAIL_NONE && !m->stopping)
		note_look_over(m, why);
	if ((m->task == TASK_AFTER || m->task == TASK_AFTER_LOOK) && why->fail != FAIL_NONE && !m->stopping)
		after_failed(m, m->task_folder, why, true);
	if (m->task == TASK_RESYNC && why->fail != FAIL_NONE && !m->stopping)
		resync_failed(m, m->task_folder, why);
	if (m->task == TASK_IDLE)
		note_idle_ended(m, why);
	if (m->task == TASK_GIVEN_UP && why->fail != FAIL_NONE && !m->stopping)
		m->task_folder->given_up_refused = true;
	relist_over(m, why);
	m->task = TASK_NONE;
	m->task_folder = m->selected = NULL;
	for (size_t i = 0; i < m->n_folders; i++)
		folder_forget_session(&m->folders[i]);
}

static bool lists(enum task task)
{
	return task == TASK_LOOK || task == TASK_FIRST_LOOK || task == TASK_GIVEN_UP || task == TASK_AFTER_LOOK || task == TASK_RELIST_SEARCH || task == TASK_RESYNC;
}

void work_on_done(void *arg, const struct imap_done *done)
{
	struct mailbox *m = arg;
	struct folder *f = m->task_folder;
	enum task task = m->task;

	m->progress_ms = m->said_ms = clock_now_ms();
	m->opened = m->opened || done->ok;	/* the first command is SELECT or STATUS */
	m->task = TASK_NONE;
	mailbox_expect(m, 0);
	if (lists(task))
		folder_listed(f);
	switch (task) {
	case TASK_STATUS:
	case TASK_SELECT:
	case TASK_LOOK:
	case TASK_FIRST_LOOK:
	case TASK_GIVEN_UP:
		look_on_done(m, f, task, done);
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
		after_on_done(m, f, done);
		break;
	case TASK_AFTER_LOOK:
		after_on_looked(m, f, done);
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
	case TASK_NOOP:
		if (!done->ok && mailbox_is_refused(done->failure))
			mailbox_end_session(m, done->failure);
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

	if (!lists(m->task))
		return;
	work_goes_on(m);
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
	/* the same number again may mean something new; a server that tells it at each IDLE is not to be believed each time */
	if (n > f->exists || (m->task == TASK_IDLE && clock_now_ms() - f->looked_ms >= SAME_EXISTS_MS))
		f->look_due = true;
	f->exists = n;
	if (f->look_due)
		mailbox_wake(m);
}
