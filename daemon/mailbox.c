/* A mailbox's life. Every event only wakes it; mailbox_next() then decides from what is, not from what happened. */
#include <event2/event.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include "backoff.h"
#include "mailbox_private.h"
#include "quarantine.h"
#include "store.h"
#include "token_cache.h"
#include "util.h"

#define SHORT_SESSION_MS 5000		/* an expected end that comes sooner is a failure */
#define TOKEN_ASK_MS 15000		/* at most between two questions to the token cache, which cost nothing */
#define RELOGIN_ASK_MS 5000		/* the newer token was not there yet */
#define LOG_AGAIN_MS (60 * 60 * 1000)
#define SIGN_IN_LIMIT_MS (5 * 60 * 1000)	/* all phases together */

static const char *const state_names[MAILBOX_STATE_N] = {
	[MAILBOX_QUEUED] = "queued", [MAILBOX_WAITING_TOKEN] = "waiting-token", [MAILBOX_CONNECTING] = "connecting",
	[MAILBOX_AUTHENTICATING] = "authenticating", [MAILBOX_SYNCING] = "syncing", [MAILBOX_WATCHING] = "watching",
	[MAILBOX_SLEEPING] = "sleeping", [MAILBOX_HELD] = "held", [MAILBOX_BACKING_OFF] = "backing-off",
	[MAILBOX_PAUSED] = "paused",
};

const char *mailbox_state_name(enum mailbox_state state)
{
	return state_names[state];
}

void mailbox_wake(struct mailbox *m)
{
	event_active(m->kick, 0, 0);
}

void mailbox_wake_at(struct mailbox *m, msec_t at_ms)
{
	struct timeval tv = clock_interval(at_ms - clock_now_ms());

	event_add(m->timer, &tv);
}

void mailbox_set_state(struct mailbox *m, enum mailbox_state next)	/* the only writer of m->state */
{
	enum mailbox_state from = m->state;

	if (from == next)
		return;
	log_debug(&m->log, "%s -> %s", state_names[from], state_names[next]);
	m->state = next;
	m->since_wall_s = clock_wall_s();
	m->env->ops->state_changed(m->env->arg, m, from, next);
}

void mailbox_expect(struct mailbox *m, msec_t within_ms)
{
	m->deadline_ms = within_ms == 0 ? 0 : clock_now_ms() + within_ms;
}

bool mailbox_is_held(const struct mailbox *m)
{
	int64_t retry;

	return delivery_held(m->delivery, &retry) != NULL || m->no_room != NULL;
}

/* --- failures and patience --- */

static void keep_failure(struct failure **to, const struct failure *why)
{
	if (*to == NULL)
		*to = xmalloc(sizeof(**to));
	**to = *why;
}

static void drop_failure(struct failure **failure)
{
	free(*failure);
	*failure = NULL;
}

static enum log_event event_of(const struct mailbox *m, const struct failure *why)
{
	if (why->schedule == SCHEDULE_THROTTLED)
		return EVENT_THROTTLED;
	return m->opened ? EVENT_MAILBOX_STALLED : EVENT_SIGN_IN_FAILED;
}

/* On change, then hourly with a count. What a credential's token fails for is logged once, by its owner. */
static void log_failure(struct mailbox *m, const struct failure *why, bool changed, msec_t wait_ms)
{
	struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", why->hint } };
	enum log_level level = why->fail == FAIL_ADMIN || why->fail == FAIL_TOKEN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING;

	if (!changed && clock_now_ms() - m->failure_logged_ms < LOG_AGAIN_MS) {
		m->failures_not_logged++;
		return;
	}
	if (changed)
		m->failures_not_logged = 0;
	m->sign_in_failed = event_of(m, why) == EVENT_SIGN_IN_FAILED;
	log_write(level, event_of(m, why), &m->log, fields, why->hint[0] != '\0' ? 2 : 1, "%s (trying again in %lld s)%s%s", why->text,
	    (long long)(wait_ms + 999) / 1000, why->hint[0] != '\0' ? "; " : "", why->hint);
	if (m->failures_not_logged > 0)
		log_warning(&m->log, "the same failure %u times since it was last logged", m->failures_not_logged);
	m->failure_logged_ms = clock_now_ms();
	m->failures_not_logged = 0;
}

static msec_t patience_ms(struct mailbox *m, const struct failure *why)
{
	bool same = m->failure != NULL && m->failure->schedule == why->schedule;

	m->attempt = same ? m->attempt + 1 : 1;
	return backoff_wait_ms(why->schedule, m->attempt, why->asked_wait_ms, (uint32_t)clock_random(UINT32_MAX));
}

static void wait_until(struct mailbox *m, msec_t at_ms, enum mailbox_state state)
{
	m->wait_until_ms = at_ms;
	mailbox_set_state(m, state);
	mailbox_wake_at(m, at_ms);
}

static void back_off(struct mailbox *m, const struct failure *why, bool is_tokens)
{
	bool changed = m->failure == NULL || strcmp(m->failure->name, why->name) != 0;
	msec_t wait_ms = patience_ms(m, why);

	if (is_tokens && wait_ms > TOKEN_ASK_MS)
		wait_ms = TOKEN_ASK_MS - (msec_t)clock_random(TOKEN_ASK_MS / 4);
	if (m->failures++ == 0)
		m->failing_since_ms = clock_now_ms();
	if (!is_tokens)
		log_failure(m, why, changed, wait_ms);
	keep_failure(&m->failure, why);
	if (why->schedule == SCHEDULE_THROTTLED) {		/* exchange-online 5.6 */
		m->batch_limit = (m->batch_limit + 1) / 2;
		m->env->ops->throttled(m->env->arg, m);
	}
	wait_until(m, clock_now_ms() + wait_ms, MAILBOX_BACKING_OFF);
}

void mailbox_proved(struct mailbox *m)
{
	m->token_replaced = false;
	if (m->failures > 0)
		log_write(LOG_LEVEL_INFO, m->sign_in_failed ? EVENT_SIGN_IN_RECOVERED : EVENT_MAILBOX_RECOVERED, &m->log, NULL, 0, "recovered after %u failures and %lld s", m->failures,
		    (long long)(clock_now_ms() - m->failing_since_ms) / 1000);
	m->failures = m->attempt = 0;
	drop_failure(&m->failure);
}

/* --- signing in --- */

static void starting_over(struct mailbox *m)
{
	if (!m->starting)
		return;
	m->starting = false;
	m->env->ops->started(m->env->arg, m);
}

/* The moment between the next token's arrival and the end of this one's use, drawn anew by each mailbox, so that those
 * who share a token do not come back in one minute. */
static void plan_relogin(struct mailbox *m, const struct token *token)
{
	msec_t life_ms = token->expires_ms - token->fetched_ms, margin_ms = life_ms < 20 * 60000 ? life_ms / 4 : 5 * 60000;
	msec_t latest_ms = token->expires_ms - margin_ms;

	m->relogin_due = false;
	m->token_end_ms = token->expires_ms;
	m->relogin_ms = token->renew_ms;
	if (latest_ms > token->renew_ms)
		m->relogin_ms += (msec_t)clock_random((uint64_t)(latest_ms - token->renew_ms));
}

static void replace_text(const char **text, const char *with)
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
	starting_over(m);
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

	mailbox_expect(m, COMMAND_LIMIT_MS);
	if (m->task == TASK_RELIST)
		relist_on_body(m, in, len);
	else
		fetch_on_body(m, in, len);
}

static void on_fetched(void *arg, const struct imap_fetch *fetch)
{
	struct mailbox *m = arg;

	mailbox_expect(m, COMMAND_LIMIT_MS);
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
	.on_uids = work_on_uids,
	.on_body_start = on_body_start,
	.on_body = on_body,
	.on_fetched = on_fetched,
	.on_exists = work_on_exists,
	.on_end = on_end,
};

static void open_session(struct mailbox *m, const struct token *token)
{
	struct imap_session_conf conf = { .host = m->conf->host, .port = m->conf->port, .ca_file = m->conf->ca_file,
	    .address = m->conf->address, .token = token->text, .subject = &m->subject, .log = &m->log, .resume = m->ticket };

	m->token_serial = token->serial;
	replace_text(&m->subject.object_id, token->object_id);
	replace_text(&m->subject.token_finding, token->finding);
	plan_relogin(m, token);
	m->ready_ms = 0;
	m->opened = false;
	mailbox_set_state(m, MAILBOX_CONNECTING);
	m->session = imap_session_new(m->env->base, m->env->dialer, m->env->tls, &conf, &session_ops, m);
	SSL_SESSION_free(m->ticket);	/* a ticket is good for one connection */
	m->ticket = NULL;
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
	starting_over(m);
	back_off(m, why, true);
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
			starting_over(m);
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
	if (token != NULL && token->serial != m->token_serial)
		m->relogin_due = true;
	else
		m->relogin_ms = clock_now_ms() + RELOGIN_ASK_MS;
	mailbox_wake(m);
}

static void want_session(struct mailbox *m)
{
	m->queued = true;
	m->env->ops->want_session(m->env->arg, m);
}

/* The old session goes on until the gate lets the new one start. */
static void check_relogin(struct mailbox *m)
{
	if (m->relogin_due && m->ready_ms != 0 && !m->queued && !m->starting && !m->paused)
		want_session(m);
	if (m->ready_ms == 0 || m->relogin_due || m->token_request != NULL || m->relogin_ms == 0 || clock_now_ms() < m->relogin_ms)
		return;
	m->token_request = token_get(m->env->tokens, m->conf->credential->name, token_subject(m), on_newer_token, m);
}

/* --- the session's end --- */

void mailbox_end_session(struct mailbox *m, const struct failure *why)
{
	if (why != NULL)
		keep_failure(&m->end_why, why);
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

static void after_failure(struct mailbox *m, const struct failure *why, msec_t ready_ms)
{
	/* a token's end can cut a message short, without a BYE */
	bool expected = why->fail == FAIL_EXPECTED || (why->schedule == SCHEDULE_NETWORK && clock_now_ms() >= m->token_end_ms);

	if (expected && ready_ms != 0 && clock_now_ms() - ready_ms >= SHORT_SESSION_MS) {
		log_info(&m->log, "session ended: %s; signing in again", why->text);
		next_session_at_once(m);
	} else if (why->fail == FAIL_TOKEN && !m->token_replaced &&
	    token_reject(m->env->tokens, m->conf->credential->name, token_subject(m), m->token_serial)) {
		log_info(&m->log, "%s; asking for a fresh token once", why->text);
		m->token_replaced = true;
		next_session_at_once(m);
	} else {
		back_off(m, why, false);
	}
}

/* As planned: a poll is done, or a pause, a stop, a hold. */
static void after_logout(struct mailbox *m)
{
	if (m->conf->watch == WATCH_POLL && !m->paused && !m->stopping && !mailbox_is_held(m))
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

	drop_failure(&m->end_why);
	imap_session_free(&m->session, &m->ticket);
	token_cancel(&m->token_request);
	mailbox_expect(m, 0);
	fetch_over(m, &why);
	work_over(m);
	m->ready_ms = 0;
	m->relogin_due = false;
	if (!relogin)
		starting_over(m);
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

/* --- the folders' places and checkpoints --- */

static void on_loaded(void *arg, enum store_result result, struct store_folder *at)
{
	struct folder *f = arg;
	struct mailbox *m = f->owner;

	m->answers_due--;
	f->preparing = false;
	if (result == STORE_OK) {
		store_folder_done(&f->at);
		f->at = *at;
		f->loaded = true;
		if (f->at.ref != 0)
			m->subject.worked_before = true;
	} else {
		m->paused = true;	/* another machine's: neither sink nor `after` */
	}
	mailbox_wake(m);
}

/* The checkpoint is read after the first prepare, which may have settled what the last run had under way. */
static void on_place(void *arg, const struct spool_place *place, const struct failure *why)
{
	struct folder *f = arg;
	struct mailbox *m = f->owner;

	m->answers_due--;
	f->preparing = false;
	if (place == NULL) {
		delivery_hold(m->delivery, why);
	} else {
		free(f->place_dir);
		f->place_dir = xstrdup(place->dir);
		f->volume = place->volume;
		f->mode = place->mode;
		f->gid = place->gid;
		f->place_stale = false;
		if (!f->loaded && !m->stopping) {
			f->preparing = true;
			m->answers_due++;
			store_load(m->env->store, m->conf->id, f->name, on_loaded, f);
		}
	}
	mailbox_wake(m);
}

void mailbox_prepare(struct mailbox *m, struct folder *f)
{
	if (f->preparing)
		return;
	f->preparing = true;
	m->answers_due++;
	sink_prepare(m->sink, m->conf, f->name, on_place, f);
}

static void places_stale(struct mailbox *m)
{
	for (size_t i = 0; i < m->n_folders; i++)
		m->folders[i].place_stale = true;
}

/* True when every folder is known; else that is under way, or held. */
static bool folders_ready(struct mailbox *m)
{
	bool all = true;

	for (size_t i = 0; i < m->n_folders; i++) {
		if (m->folders[i].loaded)
			continue;
		all = false;
		if (!mailbox_is_held(m))
			mailbox_prepare(m, &m->folders[i]);
	}
	if (!all && mailbox_is_held(m))
		mailbox_set_state(m, MAILBOX_HELD);
	return all;
}

/* --- deciding --- */

static void stop_next(struct mailbox *m)
{
	token_cancel(&m->token_request);
	if (m->session != NULL) {
		imap_session_abandon(m->session);
		return;
	}
	fetch_drop(m);
	delivery_stop(m->delivery);
	if (m->answers_due > 0 || delivery_under_way(m->delivery) > 0 || m->stop_told)
		return;
	m->stop_told = true;
	m->env->ops->stopped(m->env->arg, m);
}

static void begin_next(struct mailbox *m)
{
	if (m->token_request != NULL || m->queued)
		return;
	if (m->paused) {
		mailbox_set_state(m, MAILBOX_PAUSED);
		return;
	}
	if (clock_now_ms() < m->wait_until_ms) {
		mailbox_wake_at(m, m->wait_until_ms);
		return;
	}
	if (!folders_ready(m))
		return;
	if (m->conf->watch == WATCH_POLL && mailbox_is_held(m)) {
		mailbox_set_state(m, MAILBOX_HELD);
		if (m->no_room != NULL)
			mailbox_wake_at(m, m->no_room_until_ms);
		return;
	}
	mailbox_set_state(m, MAILBOX_QUEUED);
	want_session(m);
}

static void mailbox_next(struct mailbox *m)
{
	if (m->no_room != NULL && clock_now_ms() >= m->no_room_until_ms) {
		drop_failure(&m->no_room);
		places_stale(m);	/* to look at the disk again */
	}
	if (m->stopping) {
		stop_next(m);
	} else if (m->session == NULL) {
		begin_next(m);
	} else {
		check_relogin(m);
		if (m->ready_ms != 0)
			work_next(m);
	}
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	mailbox_next(arg);
}

/* --- deliveries --- */

static struct folder *folder_of(struct mailbox *m, const struct message *message)
{
	for (size_t i = 0; i < m->n_folders; i++)
		if (m->folders[i].name == message->folder)
			return &m->folders[i];
	return NULL;
}

static void log_delivered(struct mailbox *m, const struct message *message)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = message->folder, .sink = sink_conf(m->sink)->name };
	char uid[16], size[24];
	struct log_field fields[] = { { "UID", uid }, { "SIZE", size }, { "KEY", message->key } };

	snprintf(uid, sizeof(uid), "%u", message->uid);
	snprintf(size, sizeof(size), "%llu", (unsigned long long)message->size_bytes);
	log_write(LOG_LEVEL_INFO, EVENT_DELIVERED, &ctx, fields, ARRAY_LEN(fields), "delivered");
}

static void on_settled(void *arg, const struct message *message, bool delivered)
{
	struct mailbox *m = arg;
	struct folder *f = folder_of(m, message);

	folder_settled(f, message->settle_from, message->uid);
	m->progress_ms = clock_now_ms();
	f->at.last_success_wall_s = clock_wall_s();
	if (!delivered)
		return;
	f->at.delivered++;
	f->at.last_delivery_wall_s = clock_wall_s();
	m->env->ops->delivered(m->env->arg, m);
	if (message->after_owed)
		ranges_add(&f->at.after_owed, message->uid, message->uid);
	if (m->env->audit)
		log_delivered(m, message);
}

static void on_lost(void *arg, const struct message *message)
{
	struct ranges one = { 0 };

	ranges_add(&one, message->uid, message->uid);
	folder_put_back(folder_of(arg, message), &one);
	ranges_done(&one);
}

static void on_delivery_change(void *arg)
{
	struct mailbox *m = arg;
	int64_t retry;

	if (delivery_held(m->delivery, &retry) != NULL && m->session == NULL && m->state == MAILBOX_SLEEPING)
		mailbox_set_state(m, MAILBOX_HELD);
	if (delivery_is_doubtful(m->delivery))
		places_stale(m);	/* the directory may be what failed: made ready again first */
	mailbox_wake(m);
}

static const struct delivery_ops delivery_ops = { .on_settled = on_settled, .on_lost = on_lost, .on_change = on_delivery_change };

/* --- making, stopping, freeing --- */

struct mailbox *mailbox_new(const struct mailbox_env *env, const struct mailbox_conf *conf, void *owner)
{
	struct mailbox *m = xcalloc(1, sizeof(*m));

	m->env = env;
	m->owner = owner;
	m->conf = mailbox_conf_dup(conf);
	m->subject = (struct failure_subject){ .mailbox = m->conf->address, .folder = m->conf->folders[0],
	    .client_id = m->conf->credential->client_id, .tenant = m->conf->credential->tenant, .host = m->conf->host };
	m->log = (struct log_context){ .mailbox = m->conf->address, .credential = m->conf->credential->name };
	m->n_folders = m->conf->n_folders;
	m->folders = xcalloc(m->n_folders, sizeof(*m->folders));
	for (size_t i = 0; i < m->n_folders; i++) {
		folder_init(&m->folders[i], m->conf->folders[i]);
		m->folders[i].owner = m;
	}
	m->sink = sink_get(env->sinks, m->conf->deliver);
	m->delivery = delivery_new(env->base, m->sink, env->spool, env->store, &delivery_ops, m);
	m->kick = event_new(env->base, -1, 0, on_kick, m);
	m->timer = evtimer_new(env->base, on_kick, m);
	m->arrivals_end = &m->arrivals;
	m->batch_limit = BATCH_MESSAGES;
	m->state = MAILBOX_QUEUED;
	m->since_wall_s = clock_wall_s();
	return m;
}

void mailbox_free(struct mailbox **mailbox)
{
	struct mailbox *m = *mailbox;

	if (m == NULL)
		return;
	token_cancel(&m->token_request);
	imap_session_free(&m->session, NULL);
	relist_drop(m);
	fetch_drop(m);
	delivery_free(&m->delivery);
	event_free(m->kick);
	event_free(m->timer);
	for (size_t i = 0; i < m->n_folders; i++)
		folder_done(&m->folders[i]);
	free(m->folders);
	ranges_done(&m->after_uids);
	ranges_done(&m->batch);
	SSL_SESSION_free(m->ticket);
	drop_failure(&m->end_why);
	drop_failure(&m->failure);
	drop_failure(&m->no_room);
	replace_text(&m->subject.object_id, NULL);
	replace_text(&m->subject.token_finding, NULL);
	sink_release(m->sink);
	mailbox_conf_free(&m->conf);
	free(m);
	*mailbox = NULL;
}

void mailbox_start(struct mailbox *m)
{
	m->started = true;
	mailbox_wake(m);
}

void mailbox_stop(struct mailbox *m)
{
	m->stopping = true;
	mailbox_wake(m);
}

/* --- verbs --- */

void mailbox_poll(struct mailbox *m)
{
	if (m->stopping || m->paused)
		return;
	m->wait_until_ms = 0;
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].look_due = true;
		m->folders[i].after_retry_ms = 0;
	}
	m->no_room_until_ms = 0;
	delivery_retry(m->delivery);
	mailbox_wake(m);
}

void mailbox_resync(struct mailbox *m, int year, int month, int day)
{
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].resync_year = year;
		m->folders[i].resync_month = month;
		m->folders[i].resync_day = day;
	}
	mailbox_poll(m);
}

void mailbox_pause(struct mailbox *m)
{
	m->paused = true;
	m->wait_until_ms = 0;
	if (m->session != NULL && m->ready_ms == 0)
		imap_session_abandon(m->session);
	if (m->token_request != NULL && m->session == NULL) {
		token_cancel(&m->token_request);
		starting_over(m);
	}
	mailbox_wake(m);
}

void mailbox_resume(struct mailbox *m)
{
	m->paused = false;
	m->failures = m->attempt = 0;
	drop_failure(&m->failure);
	mailbox_wake(m);
}

bool mailbox_is_stuck(const struct mailbox *m, msec_t now_ms)
{
	return m->deadline_ms != 0 && now_ms > m->deadline_ms;
}

void mailbox_restart_session(struct mailbox *m)
{
	struct failure why;

	m->stalls++;
	failure_own(&why, "stuck", &m->subject, "no progress within the deadline while %s", state_names[m->state]);
	mailbox_expect(m, 60000);
	if (m->session != NULL) {
		mailbox_end_session(m, &why);
	} else {
		token_cancel(&m->token_request);
		mailbox_expect(m, 0);
		starting_over(m);
		back_off(m, &why, false);
	}
}

/* --- reading --- */

void *mailbox_owner(const struct mailbox *m)
{
	return m->owner;
}

const struct mailbox_conf *mailbox_conf(const struct mailbox *m)
{
	return m->conf;
}

enum mailbox_state mailbox_state(const struct mailbox *m)
{
	return m->state;
}

msec_t mailbox_last_look_ms(const struct mailbox *m)
{
	return m->last_look_ms;
}

static const struct failure *present_failure(const struct mailbox *m, int64_t *ret_retry_wall_s)
{
	const struct failure *held = delivery_held(m->delivery, ret_retry_wall_s);

	if (m->failure != NULL) {
		*ret_retry_wall_s = m->state == MAILBOX_BACKING_OFF ? clock_wall_s() + (m->wait_until_ms - clock_now_ms()) / 1000 : 0;
		return m->failure;
	}
	if (held != NULL)
		return held;
	*ret_retry_wall_s = 0;
	if (m->no_room != NULL)
		*ret_retry_wall_s = clock_wall_s() + (m->no_room_until_ms - clock_now_ms()) / 1000;
	return m->no_room;
}

bool mailbox_is_failing(const struct mailbox *m, msec_t *ret_since_ms)
{
	int64_t retry;

	*ret_since_ms = m->failures > 0 ? m->failing_since_ms : clock_now_ms() - (clock_wall_s() - m->since_wall_s) * 1000;
	return present_failure(m, &retry) != NULL;
}

void mailbox_snapshot(const struct mailbox *m, struct mailbox_snapshot *ret)
{
	*ret = (struct mailbox_snapshot){ .address = m->conf->address, .id = m->conf->id, .state = m->state,
	    .since_wall_s = m->since_wall_s, .failures = m->failures, .n_folders = m->n_folders };
	ret->failure = present_failure(m, &ret->retry_at_wall_s);
	if (ret->failure == NULL && m->state == MAILBOX_SLEEPING)
		ret->retry_at_wall_s = clock_wall_s() + (m->wait_until_ms - clock_now_ms()) / 1000;
}

void mailbox_folder_snapshot(const struct mailbox *m, size_t i, struct folder_snapshot *ret)
{
	const struct folder *f = &m->folders[i];

	*ret = (struct folder_snapshot){ .name = f->name, .delivered = f->at.delivered, .owed = f->at.n_owed,
	    .after_owed = ranges_count(&f->at.after_owed), .backlog = ranges_count(&f->pending) + ranges_count(&f->under_way),
	    .quarantined = quarantine_count(m->env->quarantined, m->conf->id, f->name),
	    .last_success_wall_s = f->at.last_success_wall_s, .last_delivery_wall_s = f->at.last_delivery_wall_s,
	    .rebuilt_wall_s = f->rebuilt_wall_s, .rebuilt_known = f->rebuilt_known, .rebuilt_new = f->rebuilt_new };
	for (size_t j = 0; j < f->at.n_owed; j++)
		if (ret->oldest_owed_wall_s == 0 || f->at.owed[j].first_wall_s < ret->oldest_owed_wall_s)
			ret->oldest_owed_wall_s = f->at.owed[j].first_wall_s;
}

void mailbox_unretrievable(const struct mailbox *m, const struct folder *f, const struct store_owed *owed, struct failure *ret)
{
	struct failure_subject subject = m->subject;

	subject.folder = f->name;
	subject.uid = owed->uid;
	failure_own(ret, "unretrievable", &subject, "message UID %u cannot be read over IMAP (%s)", owed->uid, owed->why);
}

bool mailbox_given_up(const struct mailbox *m, size_t i, size_t n, uint32_t *ret_uid, int64_t *ret_since_wall_s, struct failure *ret_why)
{
	const struct folder *f = &m->folders[i];

	for (size_t j = 0; j < f->at.n_owed; j++) {
		if (f->at.owed[j].next_wall_s != 0 || n-- > 0)
			continue;
		*ret_uid = f->at.owed[j].uid;
		*ret_since_wall_s = f->at.owed[j].first_wall_s;
		mailbox_unretrievable(m, f, &f->at.owed[j], ret_why);
		return true;
	}
	return false;
}
