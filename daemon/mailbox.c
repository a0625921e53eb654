/* A mailbox's life. Every event only wakes it; mailbox_next() then decides from what is, not from what happened. */
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "audit.h"
#include "counters.h"
#include "imap_trace.h"
#include "mailbox_private.h"
#include "quarantine.h"
#include "store.h"
#include "token_cache.h"
#include "util.h"

#define START_AWAITED_MS 30000			/* an ordinary stop takes seconds, and a command its time */
#define TORN_DOWN_LIMIT_MS 60000		/* for a session to end; it takes one turn of the loop */

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
	if (m->trace != NULL)
		imap_trace_told(m->trace, "%s", state_names[next]);
	m->env->ops->state_changed(m->env->arg, m, from, next);
}

void mailbox_expect(struct mailbox *m, msec_t within_ms)
{
	m->deadline_ms = within_ms == 0 ? 0 : clock_now_ms() + within_ms;
	m->torn_down = false;
}

bool mailbox_is_held(const struct mailbox *m)
{
	int64_t retry;

	return delivery_held(m->delivery, &retry) != NULL || m->no_room != NULL;
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
		if (f->resync.year == 0)	/* else it is younger than what has been read */
			f->resync = f->at.resync;
		after_drop_unwanted(m, f);
	} else {
		m->paused = m->not_owner = true;	/* another machine's: neither sink nor `after` */
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
		m->place_failed = true;
		delivery_hold(m->delivery, why);
	} else {
		if (m->place_failed)
			mailbox_released(m);
		m->place_failed = false;
		free(f->place_dir);
		f->place_dir = xstrdup(place->dir);
		f->volume = place->volume;
		f->place_inode = place->inode;
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
	if (m->token_request != NULL)
		return;
	if (m->paused) {
		if (!m->not_owner)
			folders_ready(m);	/* for its numbers */
		mailbox_set_state(m, MAILBOX_PAUSED);
		return;
	}
	if (clock_now_ms() < m->wait_until_ms) {
		if (m->state == MAILBOX_HELD && !mailbox_is_held(m))
			mailbox_set_state(m, MAILBOX_SLEEPING);
		mailbox_wake_at(m, m->wait_until_ms);
		return;
	}
	if (m->queued) {			/* it may have asked while it had a session */
		mailbox_set_state(m, MAILBOX_QUEUED);
		return;
	}
	if (!folders_ready(m)) {
		if (mailbox_is_held(m))
			mailbox_set_state(m, MAILBOX_HELD);
		return;
	}
	if (m->conf->watch == WATCH_POLL && mailbox_is_held(m)) {
		mailbox_set_state(m, MAILBOX_HELD);
		if (m->no_room != NULL)
			mailbox_wake_at(m, m->no_room_until_ms);
		return;
	}
	mailbox_set_state(m, MAILBOX_QUEUED);
	session_want(m);
}

/* Started it is not for want of a turn: what it waits for may take for ever, and is told. */
static void await_start(struct mailbox *m)
{
	struct failure why;
	struct log_field fields[] = { { "FAILURE", "waits-for-old" }, { "HINT", why.hint } };

	if (m->awaits_start_ms == 0 || m->paused || m->failure != NULL)
		return;
	if (clock_now_ms() < m->awaits_start_ms + START_AWAITED_MS) {
		mailbox_wake_at(m, m->awaits_start_ms + START_AWAITED_MS);
		return;
	}
	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "waits-for-old", "Look for a command of its `deliver` that does not end, and for a disk that does "
	    "not answer; a restart of mailpolld does not wait for them.", "it was changed by a reload, and what it had under way before that has not ended");
	m->failures = 1;
	m->failing_since_ms = m->awaits_start_ms;
	failure_keep(&m->failure, &why);
	log_write(LOG_LEVEL_WARNING, EVENT_MAILBOX_STALLED, &m->log, fields, ARRAY_LEN(fields), "%s; %s", why.text, why.hint);
	m->env->ops->state_changed(m->env->arg, m, m->state, m->state);
}

static void mailbox_next(struct mailbox *m)
{
	if (m->no_room != NULL && clock_now_ms() >= m->no_room_until_ms) {
		failure_drop(&m->no_room);
		places_stale(m);	/* to look at the disk again */
	}
	if (m->stopping) {
		stop_next(m);
	} else if (!m->started) {
		await_start(m);
	} else if (m->session == NULL) {
		begin_next(m);
	} else {
		session_check_relogin(m);
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
	char uid[16], size[24], digest[KEY_DIGEST_HEX + 1], duration[24], *line;
	struct log_field fields[] = { { "UID", uid }, { "SIZE", size }, { "KEY", message->key }, { "DIGEST", digest }, { "DURATION_MS", duration } };

	snprintf(uid, sizeof(uid), "%u", message->uid);
	snprintf(size, sizeof(size), "%llu", (unsigned long long)message->size_bytes);
	snprintf(duration, sizeof(duration), "%lld", (long long)(clock_now_ms() - message->fetched_ms));
	message_key_digest(message->key, digest);
	if (m->env->audit == NULL) {
		log_write(LOG_LEVEL_INFO, EVENT_DELIVERED, &ctx, fields, ARRAY_LEN(fields), "delivered");
		return;
	}
	line = log_line(LOG_LEVEL_INFO, EVENT_DELIVERED, &ctx, fields, ARRAY_LEN(fields), "delivered");
	audit_line(m->env->audit, line);
	free(line);
}

static void tell_delivered(struct mailbox *m, const struct message *message)
{
	m->env->counters->delivered_bytes += message->size_bytes;
	if (m->env->audit_log || m->env->audit != NULL)
		log_delivered(m, message);
}

static void count_delivered(struct mailbox *m, struct folder *f, const struct message *message)
{
	f->at.delivered++;
	f->at.last_delivery_wall_s = clock_wall_s();
	m->env->ops->delivered(m->env->arg, m);
	if (message->after_owed)
		ranges_add(&f->at.after_owed, message->uid, message->uid);
}

/* Not told once more by what is settled at the next start, when the daemon does not come to that. */
static void on_taken(void *arg, const struct message *message)
{
	struct mailbox *m = arg;

	tell_delivered(m, message);
	/* not in tell_delivered(): how long a message lay in quarantine is an operator's time */
	histogram_note(&m->env->counters->delivery_lag, (double)(clock_wall_s() - message->internaldate_s));
}

static void on_settled(void *arg, const struct message *message, bool delivered)
{
	struct mailbox *m = arg;
	struct folder *f = folder_of(m, message);

	folder_settled(f, message->settle_from, message->uid);
	folder_note_waiting(f, clock_wall_s());
	m->progress_ms = clock_now_ms();
	f->at.last_success_wall_s = clock_wall_s();
	mailbox_released(m);
	if (delivered) {
		count_delivered(m, f, message);
		if (m->ready_ms != 0 && message->fetched_ms >= m->ready_ms)
			session_brought_mail(m);
	}
}

static void on_lost(void *arg, const struct message *message)
{
	struct ranges one = { 0 };

	ranges_add(&one, message->uid, message->uid);
	folder_put_back(folder_of(arg, message), &one);
	ranges_done(&one);
}

static void on_delivery_held(void *arg, const struct failure *why, msec_t wait_ms)
{
	const struct mailbox *m = arg;

	mailbox_held(arg, why, wait_ms, sink_conf(m->sink)->name);
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

static const struct delivery_ops delivery_ops = { .on_taken = on_taken, .on_settled = on_settled, .on_lost = on_lost, .on_held = on_delivery_held, .on_change = on_delivery_change };

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
	m->after_limit = AFTER_COMMAND_MAX;
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
	imap_session_free(&m->session);
	imap_trace_free(&m->trace);
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
	failure_drop(&m->end_why);
	failure_drop(&m->failure);
	failure_drop(&m->no_room);
	free(m->errors);
	free(m->alerts);
	session_replace_text(&m->subject.object_id, NULL);
	session_replace_text(&m->subject.token_finding, NULL);
	sink_release(m->sink);
	mailbox_conf_free(&m->conf);
	free(m);
	*mailbox = NULL;
}

void mailbox_await_start(struct mailbox *m)
{
	m->awaits_start_ms = clock_now_ms();
	mailbox_wake(m);
}

void mailbox_start(struct mailbox *m)
{
	if (m->awaits_start_ms != 0 && m->failure != NULL) {
		log_write(LOG_LEVEL_INFO, EVENT_MAILBOX_RECOVERED, &m->log, NULL, 0, "what was under way before the reload has ended after %lld s",
		    (long long)(clock_now_ms() - m->awaits_start_ms) / 1000);
		m->failures = 0;
		failure_drop(&m->failure);
		m->env->ops->state_changed(m->env->arg, m, m->state, m->state);
	}
	m->awaits_start_ms = 0;
	m->started = true;
	mailbox_wake(m);
}

void mailbox_stop(struct mailbox *m)
{
	m->stopping = true;
	mailbox_wake(m);
}

/* --- verbs --- */

void mailbox_note_redelivered(struct mailbox *m, const struct message *message)
{
	for (size_t i = 0; i < m->n_folders; i++) {
		struct folder *f = &m->folders[i];
		struct store_settlement s = { .folder = f->at.ref, .uid = message->uid, .settle_from = message->uid, .sink = sink_conf(m->sink)->name,
		    .delivered = true, .after_owed = message->after_owed, .internaldate_s = message->internaldate_s };

		if (strcmp(f->name, message->folder) != 0 || f->at.ref == 0 || f->beginning || f->at.uidvalidity != message->uidvalidity)
			continue;
		memcpy(s.hash, message->hash, sizeof(s.hash));
		store_settle(m->env->store, &s, NULL, NULL);
		tell_delivered(m, message);
		count_delivered(m, f, message);
		relist_forget_known(m);
		mailbox_wake(m);
	}
}

void mailbox_poll(struct mailbox *m)
{
	if (m->stopping || m->paused)
		return;
	m->wait_until_ms = 0;
	m->poll_asked = true;
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].look_due = true;
		m->folders[i].after_retry_ms = 0;
		m->folders[i].refused_until_ms = 0;
	}
	m->no_room_until_ms = 0;
	delivery_retry(m->delivery);
	mailbox_wake(m);
}

void mailbox_resync(struct mailbox *m, const struct store_day *since, store_cb *kept, void *arg)
{
	for (size_t i = 0; i < m->n_folders; i++) {
		m->folders[i].resync = *since;
		store_want_resync(m->env->store, m->conf->id, m->folders[i].name, since, i + 1 == m->n_folders ? kept : NULL, arg);
	}
	mailbox_poll(m);
}

bool mailbox_is_paused(const struct mailbox *m)
{
	return m->paused;
}

void mailbox_pause(struct mailbox *m)
{
	m->paused = true;
	m->wait_until_ms = 0;
	m->failures = 0;			/* a person has seen to it */
	m->backoff = (struct backoff){ 0 };
	repeats_over(&m->failing);
	failure_drop(&m->failure);
	if (m->session != NULL && m->ready_ms == 0)
		imap_session_abandon(m->session);
	if (m->token_request != NULL && m->session == NULL) {
		token_cancel(&m->token_request);
		mailbox_expect(m, 0);
		session_start_over(m);
		fetch_release(m);
	}
	mailbox_wake(m);
}

void mailbox_resume(struct mailbox *m)
{
	m->paused = false;
	mailbox_wake(m);
}

void mailbox_trace(struct mailbox *m, void (*line)(void *arg, const char *text), void *arg)
{
	imap_trace_free(&m->trace);
	if (line != NULL)
		m->trace = imap_trace_new(line, arg);
	if (m->session != NULL)
		imap_session_set_trace(m->session, m->trace);
}

bool mailbox_is_stuck(const struct mailbox *m, msec_t now_ms)
{
	return m->deadline_ms != 0 && now_ms > m->deadline_ms;
}

bool mailbox_restart_session(struct mailbox *m)
{
	struct failure why;

	if (m->torn_down)
		return false;
	m->env->counters->stalls++;
	failure_own(&why, "stuck", &m->subject, "no progress within the deadline while %s", state_names[m->state]);
	mailbox_expect(m, TORN_DOWN_LIMIT_MS);
	m->torn_down = true;
	if (m->session != NULL) {
		mailbox_end_session(m, &why);
	} else {
		token_cancel(&m->token_request);
		mailbox_expect(m, 0);
		session_start_over(m);
		session_back_off(m, &why, false);
	}
	return true;
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

msec_t mailbox_last_turn_ms(const struct mailbox *m)
{
	return m->last_look_ms > m->last_try_ms ? m->last_look_ms : m->last_try_ms;
}

static int64_t wall_of(msec_t at_ms)
{
	return clock_wall_s() + (at_ms - clock_now_ms()) / 1000;
}

static const struct folder *refused_folder(const struct mailbox *m)
{
	for (size_t i = 0; i < m->n_folders; i++)
		if (m->folders[i].refused != NULL)
			return &m->folders[i];
	return NULL;
}

static const struct failure *present_failure(const struct mailbox *m, int64_t *ret_retry_wall_s)
{
	const struct failure *held = delivery_held(m->delivery, ret_retry_wall_s);
	const struct folder *refused = refused_folder(m);

	if (m->paused) {
		*ret_retry_wall_s = 0;
		return NULL;
	}
	if (m->failure != NULL) {
		*ret_retry_wall_s = m->state == MAILBOX_BACKING_OFF ? wall_of(m->wait_until_ms) : 0;
		return m->failure;
	}
	if (held != NULL)
		return held;
	if (m->no_room != NULL) {
		*ret_retry_wall_s = wall_of(m->no_room_until_ms);
		return m->no_room;
	}
	*ret_retry_wall_s = refused != NULL && refused->refused_until_ms != 0 ? wall_of(refused->refused_until_ms) : 0;	/* 0: now */
	return refused != NULL ? refused->refused : NULL;
}

bool mailbox_is_failing(const struct mailbox *m, msec_t *ret_since_ms)
{
	int64_t retry;
	const struct failure *why = present_failure(m, &retry);
	const struct folder *refused = refused_folder(m);

	if (m->failures > 0)
		*ret_since_ms = m->failing_since_ms;
	else if (refused != NULL && why == refused->refused)
		*ret_since_ms = refused->refused_since_ms;
	else
		*ret_since_ms = m->held_since_ms;
	return why != NULL;
}

bool mailbox_fails_in_part(const struct mailbox *m)
{
	int64_t retry;
	const struct failure *why = present_failure(m, &retry);
	const struct folder *refused = refused_folder(m);
	size_t n_refused = 0;

	for (size_t i = 0; i < m->n_folders; i++)
		n_refused += m->folders[i].refused != NULL;
	return refused != NULL && why == refused->refused && n_refused < m->n_folders;
}

void mailbox_snapshot(const struct mailbox *m, struct mailbox_snapshot *ret)
{
	msec_t failing_since_ms;

	*ret = (struct mailbox_snapshot){ .address = m->conf->address, .id = m->conf->id, .state = m->state,
	    .since_wall_s = m->since_wall_s, .failures = m->failures, .n_folders = m->n_folders };
	ret->failure = present_failure(m, &ret->retry_at_wall_s);
	if (mailbox_is_failing(m, &failing_since_ms))
		ret->failing_since_wall_s = wall_of(failing_since_ms);
	if (ret->failure == NULL && m->state == MAILBOX_SLEEPING)
		ret->retry_at_wall_s = wall_of(m->wait_until_ms);
}

void mailbox_folder_snapshot(const struct mailbox *m, size_t i, struct folder_snapshot *ret)
{
	const struct folder *f = &m->folders[i];

	*ret = (struct folder_snapshot){ .name = f->name, .loaded = f->loaded, .delivered = f->at.delivered, .owed = f->at.n_owed,
	    .after_owed = ranges_count(&f->at.after_owed), .backlog = ranges_count(&f->pending) + ranges_count(&f->under_way),
	    .quarantined = quarantine_count(m->env->quarantined, m->conf->id, f->name),
	    .last_success_wall_s = f->at.last_success_wall_s, .last_delivery_wall_s = f->at.last_delivery_wall_s,
	    .rebuilt_wall_s = f->rebuilt_wall_s, .rebuilt_known = f->rebuilt_known, .rebuilt_new = f->rebuilt_new };
	for (size_t j = 0; j < f->at.n_owed; j++) {
		ret->given_up += f->at.owed[j].next_wall_s == 0;
		if (ret->oldest_owed_wall_s == 0 || f->at.owed[j].first_wall_s < ret->oldest_owed_wall_s)
			ret->oldest_owed_wall_s = f->at.owed[j].first_wall_s;
	}
}

void mailbox_unretrievable(const struct mailbox *m, const struct folder *f, const struct store_owed *owed, struct failure *ret)
{
	struct failure_subject subject = m->subject;

	subject.folder = f->name;
	subject.uid = owed->uid;
	failure_own(ret, "unretrievable", &subject, "message UID %u cannot be read over IMAP (%s)", owed->uid, owed->why);
}

int64_t mailbox_undelivered_since_wall_s(const struct mailbox *m)
{
	int64_t since = 0;

	for (size_t i = 0; i < m->n_folders; i++) {
		const struct folder *f = &m->folders[i];

		if (f->waiting_since_wall_s != 0 && (since == 0 || f->waiting_since_wall_s < since))
			since = f->waiting_since_wall_s;
		for (size_t j = 0; j < f->at.n_owed; j++)
			if (f->at.owed[j].next_wall_s != 0 && (since == 0 || f->at.owed[j].first_wall_s < since))
				since = f->at.owed[j].first_wall_s;
	}
	return since;
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
