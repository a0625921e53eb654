/* A mailbox's sessions: from the wish for one over token, sign-in and planned re-login to its end, and what follows from how it ended:
 * at once, with a fresh token, or after a wait. */
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "backoff.h"
#include "counters.h"
#include "imap_trace.h"
#include "mailbox_private.h"
#include "token_cache.h"
#include "util.h"

#define SHORT_SESSION_MS 5000		/* an expected end that comes sooner is a failure, and mail that came before it no proof */
#define TOKEN_ASK_MS 15000		/* at most between two questions to the token cache, which cost nothing */
#define RELOGIN_ASK_MS 5000		/* the newer token was not there yet */
#define SIGN_IN_LIMIT_MS (5 * 60 * 1000)	/* all phases together */

/* --- failures and patience --- */

static void wait_until(struct mailbox *m, msec_t at_ms, enum mailbox_state state)
{
	m->wait_until_ms = at_ms;
	mailbox_set_state(m, state);
	mailbox_wake_at(m, at_ms);
}

void session_back_off(struct mailbox *m, const struct failure *why, bool is_tokens)
{
	msec_t wait_ms = backoff_next_ms(&m->backoff, why, (uint32_t)clock_random(UINT32_MAX));

	if (is_tokens && wait_ms > TOKEN_ASK_MS)
		wait_ms = TOKEN_ASK_MS - (msec_t)clock_random(TOKEN_ASK_MS / 4);
	fetch_release(m);		/* of a re-login that has come to nothing */
	m->last_try_ms = clock_now_ms();
	if (m->failures++ == 0)
		m->failing_since_ms = m->last_try_ms;
	mailbox_failed(m, why, wait_ms, is_tokens);
	failure_keep(&m->failure, why);
	if (why->schedule == SCHEDULE_THROTTLED) {		/* exchange-online 5.6 */
		m->batch_limit = (m->batch_limit + 1) / 2;
		m->env->counters->throttled_ms += (uint64_t)wait_ms;
		m->env->ops->throttled(m->env->arg, m);
	}
	wait_until(m, clock_now_ms() + wait_ms, MAILBOX_BACKING_OFF);
}

static void recovered(struct mailbox *m)
{
	if (m->failures > 0)
		log_write(LOG_LEVEL_INFO, m->sign_in_failed ? EVENT_SIGN_IN_RECOVERED : EVENT_MAILBOX_RECOVERED, &m->log, NULL, 0, "recovered after %u failures and %lld s", m->failures,
		    (long long)(clock_now_ms() - m->failing_since_ms) / 1000);
	m->failures = 0;
	repeats_over(&m->failing);
	failure_drop(&m->failure);
}

void mailbox_proved(struct mailbox *m)
{
	m->token_replaced = false;
	m->subject.worked_before = true;
	m->backoff = (struct backoff){ 0 };
	recovered(m);
}

static bool is_short(msec_t ready_ms)
{
	return ready_ms == 0 || clock_now_ms() - ready_ms < SHORT_SESSION_MS;
}

/* What the last session ended at has not had its turn in this one. */
static bool may_end_again(const struct mailbox *m)
{
	for (size_t i = 0; i < m->n_folders; i++)
		if (m->folders[i].ends_session)
			return true;
	return false;
}

/* A full look proves more, but behind a backlog it is hours away. The waits begin anew only if this session lasts (after_failure()): one
 * that ends early each time, whatever it has brought, is not to be tried each second. */
void session_brought_mail(struct mailbox *m)
{
	if (is_short(m->ready_ms) && may_end_again(m))
		return;
	m->brought_mail = true;
	if (m->failure == NULL)
		return;
	recovered(m);
	m->env->ops->state_changed(m->env->arg, m, m->state, m->state);
}

/* --- signing in --- */

void session_start_over(struct mailbox *m)
{
	if (!m->starting)
		return;
	m->starting = false;
	m->env->ops->started(m->env->arg, m);
}

/* The moment between the next token's arrival and the end of this one's use, drawn anew by each mailbox, so that those
 * who share a token do not come back in one minute; once more when it has come late. */
static void draw_relogin(struct mailbox *m, msec_t from_ms)
{
	m->relogin_ms = from_ms;
	if (m->relogin_latest_ms > from_ms)
		m->relogin_ms += (msec_t)clock_random((uint64_t)(m->relogin_latest_ms - from_ms));
}

static void plan_relogin(struct mailbox *m, const struct token *token)
{
	m->relogin_due = m->relogin_waits = false;
	m->token_end_ms = token->expires_ms;
	m->relogin_latest_ms = token->margin_ms;
	draw_relogin(m, token->renew_ms);
}

void session_replace_text(const char **text, const char *with)
{
	union { const char *lent; char *owned; } old = { .lent = *text };

	if (str_equal(old.lent, with))
		return;
	free(old.owned);
	*text = xstrdup(with);
}

static void on_authenticating(void *arg)
{
	mailbox_set_state(arg, MAILBOX_AUTHENTICATING);
}

static void on_ready(void *arg)
{
	struct mailbox *m = arg;

	m->ready_ms = clock_now_ms();
	m->env->counters->sessions_opened++;
	session_start_over(m);
	mailbox_set_state(m, MAILBOX_SYNCING);
	work_begin(m);
	mailbox_wake(m);
}

static void on_body_start(void *arg, const char *section, uint32_t uid, uint64_t size_bytes)
{
	struct mailbox *m = arg;

	if (m->task == TASK_RELIST)
		relist_on_body_start(m);
	else
		fetch_on_body_start(m, section, uid, size_bytes);
}

static void on_body(void *arg, struct evbuffer *in, size_t len)
{
	struct mailbox *m = arg;

	work_goes_on(m);
	if (m->task == TASK_RELIST)
		relist_on_body(m, in, len);
	else
		fetch_on_body(m, in, len);
}

static void on_fetched(void *arg, const struct imap_fetch *fetch)
{
	struct mailbox *m = arg;

	work_goes_on(m);
	if (m->task == TASK_RELIST)
		relist_on_fetched(m, fetch);
	else
		fetch_on_fetched(m, fetch);
}

static void on_end(void *arg, const struct failure *why);

static const struct imap_session_ops session_ops = {
	.on_authenticating = on_authenticating,
	.on_ready = on_ready,
	.on_done = work_on_done,
	.on_idling = work_on_idling,
	.on_uids = work_on_uids,
	.on_body_start = on_body_start,
	.on_body = on_body,
	.on_fetched = on_fetched,
	.on_alert = mailbox_alerted,
	.on_exists = work_on_exists,
	.on_end = on_end,
};

static void open_session(struct mailbox *m, const struct token *token)
{
	struct imap_session_conf conf = { .host = m->conf->host, .port = m->conf->port, .ca_file = m->conf->ca_file,
	    .address = m->conf->address, .token = token->text, .subject = &m->subject, .log = &m->log, .trace = m->trace };

	m->token_serial = token->serial;
	session_replace_text(&m->subject.object_id, token->object_id);
	session_replace_text(&m->subject.token_finding, token->finding);
	plan_relogin(m, token);
	m->ready_ms = 0;
	m->opened = m->brought_mail = false;
	mailbox_set_state(m, MAILBOX_CONNECTING);
	m->session = imap_session_new(m->env->base, m->env->dialer, m->env->tls, &conf, &session_ops, m);
}

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct mailbox *m = arg;

	m->token_request = NULL;
	if (token != NULL) {
		open_session(m, token);
		return;
	}
	mailbox_expect(m, 0);
	if (m->trace != NULL)
		imap_trace_told(m->trace, "no token: %s", why->text);
	session_start_over(m);
	session_back_off(m, why, true);
}

static const char *token_subject(const struct mailbox *m)
{
	(void)m;		/* client_secret_file: one token opens every mailbox */
	return NULL;
}

static void sign_in(struct mailbox *m)
{
	mailbox_set_state(m, MAILBOX_WAITING_TOKEN);
	mailbox_expect(m, SIGN_IN_LIMIT_MS);
	m->token_request = token_get(m->env->tokens, m->conf->credential->name, token_subject(m), on_token, m);
}

void mailbox_admit(struct mailbox *m)
{
	bool relogin = m->relogin_due && m->ready_ms != 0, begin = m->session == NULL && clock_now_ms() >= m->wait_until_ms;

	m->queued = false;
	m->starting = true;
	if (!m->stopping && !m->paused && m->token_request == NULL && begin) {
		sign_in(m);
	} else {
		if (!relogin || m->stopping || m->paused)
			session_start_over(m);
		mailbox_wake(m);
	}
}

bool mailbox_may_relogin(const struct mailbox *m)
{
	return m->relogin_due && m->starting && m->ready_ms != 0;
}

static void on_newer_token(void *arg, const struct token *token, const struct failure *why)
{
	struct mailbox *m = arg;

	(void)why;
	m->token_request = NULL;
	if (token == NULL || token->serial == m->token_serial) {
		m->relogin_waits = true;
		m->relogin_ms = clock_now_ms() + RELOGIN_ASK_MS;
	} else if (m->relogin_waits) {		/* all who waited for it know within seconds */
		m->relogin_waits = false;
		draw_relogin(m, clock_now_ms());
	} else {
		m->relogin_due = true;
	}
	mailbox_wake(m);
}

void session_want(struct mailbox *m)
{
	m->queued = true;
	m->env->ops->want_session(m->env->arg, m);
}

/* The old session goes on until the gate lets the new one start. */
void session_check_relogin(struct mailbox *m)
{
	if (m->relogin_due && m->ready_ms != 0 && !m->queued && !m->starting && !m->paused)
		session_want(m);
	if (m->ready_ms == 0 || m->relogin_due || m->token_request != NULL || m->relogin_ms == 0 || clock_now_ms() < m->relogin_ms)
		return;
	m->token_request = token_get(m->env->tokens, m->conf->credential->name, token_subject(m), on_newer_token, m);
}

/* --- the session's end --- */

void mailbox_end_session(struct mailbox *m, const struct failure *why)
{
	if (why != NULL)
		failure_keep(&m->end_why, why);
	if (m->session != NULL)
		imap_session_abandon(m->session);
}

bool mailbox_is_refused(const struct failure *why)
{
	return why->schedule == SCHEDULE_THROTTLED || why->schedule == SCHEDULE_UNAVAILABLE;
}

static void next_session_at_once(struct mailbox *m)
{
	m->wait_until_ms = 0;
	mailbox_wake(m);
}

/* A token's end is an ordinary end (exchange-online 5.3), also one that cuts a message short, without a BYE. */
static bool ended_as_usual(const struct mailbox *m, const struct failure *why)
{
	return why->fail == FAIL_EXPECTED || (why->schedule == SCHEDULE_NETWORK && clock_now_ms() >= m->token_end_ms);
}

/* Not twice in a row when the session was short: that would go round without a pause. */
static bool again_at_once(struct mailbox *m, msec_t ready_ms)
{
	bool was_short = m->short_end;

	m->short_end = is_short(ready_ms);
	return !m->short_end || !was_short;
}

static void after_failure(struct mailbox *m, const struct failure *why, msec_t ready_ms)
{
	const char *credential = m->conf->credential->name;

	if (ended_as_usual(m, why) && again_at_once(m, ready_ms)) {
		if (strcmp(why->name, "token-expired") == 0)	/* the server knows better than our clock */
			token_reject(m->env->tokens, credential, token_subject(m), m->token_serial);
		log_info(&m->log, "session ended: %s; signing in again", why->text);
		next_session_at_once(m);
	} else if (why->fail == FAIL_TOKEN && !m->token_replaced &&
	    token_reject(m->env->tokens, credential, token_subject(m), m->token_serial)) {
		log_info(&m->log, "%s; asking for a fresh token once", why->text);
		m->token_replaced = true;
		next_session_at_once(m);
	} else {
		if (m->brought_mail && !is_short(ready_ms))
			m->backoff = (struct backoff){ 0 };
		session_back_off(m, why, false);
	}
}

/* As planned: a poll is done, or a pause, a stop, a hold. */
static void after_logout(struct mailbox *m)
{
	if (m->conf->watch == WATCH_POLL && !m->poll_asked && !m->paused && !m->stopping && !mailbox_is_held(m))
		wait_until(m, work_next_slot_ms(m), MAILBOX_SLEEPING);
	else
		next_session_at_once(m);
}

static void on_end(void *arg, const struct failure *session_why)
{
	struct mailbox *m = arg;
	struct failure why = m->end_why != NULL ? *m->end_why : *session_why;
	msec_t ready_ms = m->ready_ms;
	bool signed_in = ready_ms != 0, planned = why.fail == FAIL_NONE && signed_in;
	bool relogin = planned && mailbox_may_relogin(m) && !m->stopping && !m->paused;

	if (signed_in)
		counters_session_ended(m->env->counters, why.fail == FAIL_NONE ? "planned" : why.name);
	if (m->trace != NULL)
		imap_trace_told(m->trace, "session ended: %s", why.fail == FAIL_NONE ? "as planned" : why.text);
	failure_drop(&m->end_why);
	imap_session_free(&m->session);
	token_cancel(&m->token_request);
	mailbox_expect(m, 0);
	fetch_over(m, &why, relogin);
	work_over(m, &why);
	m->ready_ms = 0;
	m->relogin_due = false;
	if (!relogin)
		session_start_over(m);
	if (m->stopping || m->paused)
		mailbox_wake(m);
	else if (relogin)
		sign_in(m);
	else if (planned)
		after_logout(m);
	else if (why.fail == FAIL_NONE)		/* abandoned while signing in */
		next_session_at_once(m);
	else
		after_failure(m, &why, ready_ms);
}
