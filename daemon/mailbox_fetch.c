/* One batch at a time is asked for; its messages are spooled as they come and go to the delivery in the order they came. */
#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "incoming.h"
#include "mailbox_private.h"
#include "util.h"

#define WINDOW_MESSAGES 400		/* fetched and not delivered for sure; what a crash may make us fetch again */
#define WINDOW_BYTES (UINT64_C(32) << 20)
#define BODY_BYTES_MAX UINT32_MAX	/* RFC 3501's numbers end there, and all messages long before */
#define ROOM_WAIT_MS_MAX 60000		/* other mailboxes' messages soon leave the spool */

struct arrival {			/* a message from its first byte until the delivery has it */
	struct arrival *next;
	struct mailbox *mailbox;
	struct folder *folder;
	struct incoming *incoming;	/* NULL: over */
	struct message *message;	/* ours once spooled */
	uint32_t uid;			/* 0: not known yet */
	bool spooled;
};

/* --- what may be asked for --- */

static uint64_t room_for_messages(const struct mailbox *m)
{
	size_t taken = delivery_in_doubt(m->delivery) + m->n_arrivals, at_most = delivery_at_most(m->delivery);

	if (delivery_is_doubtful(m->delivery))
		return taken == 0 ? 1 : 0;
	if (at_most > WINDOW_MESSAGES)
		at_most = WINDOW_MESSAGES;
	return taken < at_most ? at_most - taken : 0;
}

static uint64_t room_for_bytes(const struct mailbox *m)
{
	uint64_t taken = delivery_bytes(m->delivery);

	for (const struct arrival *a = m->arrivals; a != NULL; a = a->next)
		if (a->incoming != NULL)
			taken += incoming_bytes(a->incoming);
	return taken < WINDOW_BYTES ? WINDOW_BYTES - taken : 0;
}

static bool window_is_open(const struct mailbox *m, const struct folder *f)
{
	uint64_t pending = ranges_count(&f->pending), room = room_for_messages(m);

	if (!fetch_is_under_way(m))
		return true;
	if (delivery_is_doubtful(m->delivery) || room_for_bytes(m) < WINDOW_BYTES / 2)
		return false;
	return room >= (pending < m->batch_limit ? pending : m->batch_limit);
}

static uint64_t batch_max(const struct mailbox *m, const struct folder *f)
{
	uint64_t room = room_for_messages(m);

	if (f->singly_to != 0 && ranges_first(&f->pending) <= f->singly_to)
		return 1;
	return room < m->batch_limit ? room : m->batch_limit;
}

static void ask_sizes(struct mailbox *m, struct folder *f)
{
	struct ranges lowest = { 0 }, rest = { 0 };

	ranges_copy(&rest, &f->pending);
	ranges_take(&rest, FOLDER_SIZES_MAX, &lowest);
	m->task = TASK_SIZES;
	m->task_folder = f;
	mailbox_expect(m, COMMAND_LIMIT_MS);
	imap_session_fetch_sizes(m->session, &lowest);
	ranges_done(&lowest);
	ranges_done(&rest);
}

static void wait_for_room(struct mailbox *m, const struct folder *f, uint64_t bytes, const char *why)
{
	bool first = m->no_room == NULL;
	msec_t wait_ms;

	if (first)
		m->no_room = xcalloc(1, sizeof(*m->no_room));
	failure_set(m->no_room, FAIL_WAIT, SCHEDULE_SINK, "no-room", "Free space on that file system, or raise spool_limit or lower min_free.",
	    "no room for %llu bytes in %s: %s", (unsigned long long)bytes, f->place_dir, why);
	wait_ms = backoff_next_ms(&m->room_waits, m->no_room, (uint32_t)clock_random(UINT32_MAX));
	if (wait_ms > ROOM_WAIT_MS_MAX)
		wait_ms = ROOM_WAIT_MS_MAX;
	if (first)
		mailbox_held(m, m->no_room, wait_ms, NULL);
	m->no_room_until_ms = clock_now_ms() + wait_ms;
	mailbox_wake_at(m, m->no_room_until_ms);
}

void fetch_release(struct mailbox *m)
{
	if (m->fetch_wanted || m->fetch_granted) {
		m->fetch_wanted = m->fetch_granted = false;
		m->env->ops->fetch_over(m->env->arg, m);
	}
}

static void send_fetch(struct mailbox *m, struct folder *f, struct ranges *batch)
{
	ranges_done(&m->batch);
	m->batch = *batch;		/* moved */
	m->batch_messages = ranges_count(&m->batch);
	m->split = SPLIT_NO;
	m->task = TASK_FETCH;
	m->task_folder = f;
	mailbox_expect(m, COMMAND_LIMIT_MS);
	imap_session_fetch(m->session, &m->batch);
}

/* The lowest pending ones, if there is room for them. */
static enum step fetch_batch(struct mailbox *m, struct folder *f)
{
	struct ranges batch = { 0 };
	uint64_t bytes, own = room_for_bytes(m), all = spool_room_bytes(m->env->spool);
	const char *no_room;

	folder_pick(f, batch_max(m, f), own < all ? own : all, &batch);
	bytes = folder_estimate(f, &batch);
	no_room = spool_no_room(m->env->spool, f->volume, bytes);
	if (no_room == NULL) {
		m->room_waits = (struct backoff){ 0 };
		send_fetch(m, f, &batch);
		return STEP_SENT;
	}
	folder_put_back(f, &batch);
	ranges_done(&batch);
	fetch_release(m);
	wait_for_room(m, f, bytes, no_room);
	return STEP_NOTHING;
}

/* One that could not be had before, alone (exchange-online 5.8). */
static enum step fetch_owed(struct mailbox *m, struct folder *f, uint32_t uid)
{
	uint64_t bytes = uid == f->large_uid ? f->large_bytes : 0;
	struct ranges batch = { 0 };
	const char *no_room = spool_no_room(m->env->spool, f->volume, bytes);

	if (no_room != NULL) {
		fetch_release(m);
		wait_for_room(m, f, bytes, no_room);
		return STEP_NOTHING;
	}
	m->room_waits = (struct backoff){ 0 };
	folder_pick_owed(f, uid, &batch);
	m->one_owed = true;
	send_fetch(m, f, &batch);
	return STEP_SENT;
}

static bool place_is_ready(struct mailbox *m, struct folder *f)
{
	if (f->place_dir == NULL || f->place_stale)
		mailbox_prepare(m, f);
	return !f->preparing;
}

static enum step take_slot(struct mailbox *m)
{
	if (!m->fetch_wanted && !m->fetch_granted) {
		m->fetch_wanted = true;
		m->env->ops->want_fetch(m->env->arg, m);
	}
	return m->fetch_granted ? STEP_SENT : STEP_WAIT;
}

bool fetch_is_under_way(const struct mailbox *m)
{
	return delivery_count(m->delivery) + m->n_arrivals > 0;
}

static uint32_t owed_due_now(const struct mailbox *m, const struct folder *f)
{
	return folder_owed_due(f, clock_wall_s(), m->ready_ms);
}

bool fetch_wants_session(const struct mailbox *m, const struct folder *f)
{
	return f->pending.n == 0 && owed_due_now(m, f) == 0 && folder_owed_due(f, clock_wall_s(), INT64_MAX) != 0;
}

bool fetch_is_wanted(const struct mailbox *m, const struct folder *f)
{
	if (f->pending.n == 0 && owed_due_now(m, f) == 0)
		return false;
	return f->loaded && !mailbox_is_held(m) && window_is_open(m, f);
}

/* f is selected and a fetch is wanted. New mail first: there may be many that are owed, and each goes alone. */
enum step fetch_step(struct mailbox *m, struct folder *f)
{
	if (!place_is_ready(m, f) || take_slot(m) == STEP_WAIT)
		return STEP_WAIT;
	if (f->pending.n == 0)
		return fetch_owed(m, f, owed_due_now(m, f));
	if (f->sizes == NULL && !f->sizes_refused && !m->no_sizes && ranges_count(&f->pending) > 1) {
		ask_sizes(m, f);
		return STEP_SENT;
	}
	return fetch_batch(m, f);
}

void mailbox_fetch_admit(struct mailbox *m)
{
	m->fetch_wanted = false;
	m->fetch_granted = true;
	mailbox_wake(m);
}

/* --- what comes --- */

static void arrival_free(struct arrival *a)
{
	incoming_abort(&a->incoming);
	message_free(&a->message);
	free(a);
}

/* Hands over what is spooled, in the order of arrival. */
static void hand_over(struct mailbox *m)
{
	while (m->arrivals != NULL && m->arrivals->incoming == NULL) {
		struct arrival *a = m->arrivals;

		m->arrivals = a->next;
		if (m->arrivals == NULL)
			m->arrivals_end = &m->arrivals;
		m->n_arrivals--;
		if (a->spooled) {
			delivery_add(m->delivery, a->message);
			a->message = NULL;
		}
		arrival_free(a);
	}
	mailbox_wake(m);
}

static void put_back_one(struct folder *f, uint32_t uid)
{
	struct ranges one = { 0 };

	ranges_add(&one, uid, uid);
	folder_put_back(f, &one);
	ranges_done(&one);
}

static void hold_for_disk(struct mailbox *m, const struct folder *f, int error)
{
	struct failure why;

	failure_from_disk(&why, "disk", "cannot write into", f->place_dir, error);
	delivery_hold(m->delivery, &why);
}

static void resume_reading(struct mailbox *m)
{
	if (m->session == NULL)
		return;
	mailbox_expect(m, COMMAND_LIMIT_MS);
	imap_session_resume(m->session);
}

static void on_room(void *arg, struct incoming *incoming)
{
	(void)incoming;
	resume_reading(((struct arrival *)arg)->mailbox);
}

static void on_spooled(void *arg, struct incoming *incoming, struct message *message, int error)
{
	struct arrival *a = arg;
	struct mailbox *m = a->mailbox;

	(void)incoming;
	a->incoming = NULL;
	a->spooled = error == 0;
	if (error == 0) {
		a->message = message;
	} else {
		put_back_one(a->folder, a->uid);
		hold_for_disk(m, a->folder, error);
	}
	hand_over(m);
}

static const struct incoming_ops incoming_ops = { .on_room = on_room, .on_spooled = on_spooled };

/* A part of a message that comes in two begins. True: the first; the second goes where the first went. */
static bool split_part(struct mailbox *m, const char *section, uint64_t size_bytes)
{
	if (m->split == SPLIT_TRY && strcmp(section, "HEADER") == 0) {
		m->split = SPLIT_HEADER;
		return true;
	}
	if (m->split == SPLIT_HEADER && strcmp(section, "TEXT") == 0)
		m->split = size_bytes > 0 ? SPLIT_TEXT : SPLIT_NO_TEXT;
	else
		m->split = SPLIT_BROKEN;
	return false;
}

/* What comes is that large, whatever was estimated. Without room for it the session ends, and the next one waits for that; a small one goes
 * over the limits by no more than was allowed for. */
static bool has_room(struct mailbox *m, struct folder *f, uint32_t uid, uint64_t size_bytes)
{
	const char *no_room = size_bytes > WINDOW_BYTES ? spool_no_room(m->env->spool, f->volume, size_bytes) : NULL;

	if (no_room == NULL)
		return true;
	folder_note_large(f, uid != 0 ? uid : ranges_first(&m->batch), size_bytes);
	wait_for_room(m, f, size_bytes, no_room);
	mailbox_end_session(m, NULL);
	return false;
}

/* No message is so large. fetch_over() finds out which one is told so. */
static void end_by_size(struct mailbox *m, uint64_t size_bytes)
{
	struct failure why;

	failure_own(&why, "protocol", &m->subject, "FETCH gave a message of %llu bytes", (unsigned long long)size_bytes);
	mailbox_end_session(m, &why);
}

void fetch_on_body_start(struct mailbox *m, const char *section, uint32_t uid, uint64_t size_bytes)
{
	struct folder *f = m->task_folder;
	struct spool_place place;
	static unsigned long long names;	/* of this run */
	struct arrival *a;
	char name[64];

	if (size_bytes > BODY_BYTES_MAX) {
		end_by_size(m, size_bytes);
		return;
	}
	if (m->task == TASK_FETCH && m->split != SPLIT_NO && split_part(m, section, size_bytes))
		section = "";		/* it begins as a whole one does */
	if (m->task != TASK_FETCH || m->coming != NULL || section[0] != '\0' || size_bytes == 0 || (uid != 0 && !ranges_has(&m->batch, uid)))
		return;			/* nobody asked for it: its bytes are dropped */
	if (!has_room(m, f, uid, size_bytes))
		return;
	a = xcalloc(1, sizeof(*a));
	a->mailbox = m;
	a->folder = f;
	snprintf(name, sizeof(name), "mailpolld.%s.%s.%llx", store_instance(m->env->store), m->env->run, ++names);
	place = (struct spool_place){ .dir = f->place_dir, .volume = f->volume, .inode = f->place_inode, .mode = f->mode, .gid = f->gid };
	a->incoming = incoming_new(m->env->spool, &place, name, &incoming_ops, a);
	*m->arrivals_end = a;
	m->arrivals_end = &a->next;
	m->n_arrivals++;
	m->coming = a;
}

void fetch_on_body(struct mailbox *m, struct evbuffer *in, size_t len)
{
	if (m->coming == NULL) {
		evbuffer_drain(in, len);
		return;
	}
	incoming_take(m->coming->incoming, in, len);
	if (incoming_lags(m->coming->incoming)) {
		mailbox_expect(m, 0);
		imap_session_pause(m->session);
	}
}

/* The one that was coming is not wanted after all. It is the last of the list. */
static void drop_coming(struct mailbox *m)
{
	struct arrival **p = &m->arrivals;

	while (*p != m->coming)
		p = &(*p)->next;
	*p = NULL;
	m->arrivals_end = p;
	m->n_arrivals--;
	arrival_free(m->coming);
	m->coming = NULL;
}

static struct message *make_message(const struct mailbox *m, const struct folder *f, const struct imap_fetch *fetch)
{
	struct message *message = xcalloc(1, sizeof(*message));

	*message = (struct message){ .mailbox = m->conf, .folder = f->name, .ref = f->at.ref, .uidvalidity = f->at.uidvalidity,
	    .uid = fetch->uid, .internaldate_s = fetch->has_internaldate ? fetch->internaldate_s : clock_wall_s(),
	    .after_owed = m->conf->after != AFTER_KEEP, .fetched_ms = clock_now_ms() };
	message->settle_from = folder_settle_from(f, fetch->uid);
	message->key = message_key(m->conf->id, f->name, f->at.uidvalidity, fetch->uid);
	return message;
}

/* As one body, or as its two parts and nothing else: what else came is in the file, too. An empty TEXT is not to be believed (exchange-online
 * 5.9), unless the message is as large as its header. */
static bool is_whole(const struct mailbox *m, const struct imap_fetch *fetch)
{
	switch (m->split) {
	case SPLIT_NO:
		return fetch->n_bodies == 1;
	case SPLIT_TEXT:
		return fetch->n_bodies == 2;
	case SPLIT_NO_TEXT:
		return fetch->n_bodies == 2 && fetch->has_size && fetch->rfc822_size_bytes == incoming_bytes(m->coming->incoming);
	default:
		return false;
	}
}

void fetch_on_fetched(struct mailbox *m, const struct imap_fetch *fetch)
{
	struct arrival *a = m->coming;

	if (m->task == TASK_SIZES && fetch->uid != 0 && fetch->has_size)
		folder_note_size(m->task_folder, fetch->uid, fetch->rfc822_size_bytes);
	if (a == NULL)
		return;
	if (fetch->uid == 0 || !ranges_has(&m->batch, fetch->uid) || !is_whole(m, fetch)) {
		drop_coming(m);
		return;
	}
	ranges_remove(&m->batch, fetch->uid, fetch->uid);
	if (a->folder->suspect == fetch->uid)
		a->folder->suspect = 0;
	if (incoming_is_substitute(a->incoming)) {	/* neither delivered nor settled; later mail flows on */
		fetch_owe(m, a->folder, fetch->uid, "the server gave a substitute for it");
		drop_coming(m);
		return;
	}
	a->uid = fetch->uid;
	m->coming = NULL;
	m->had_none = m->rests = 0;
	m->some_came = true;
	incoming_finish(a->incoming, make_message(m, a->folder, fetch));
}

/* --- how it ends --- */

static void log_unretrievable(struct mailbox *m, const struct folder *f, const struct log_context *ctx, const struct store_owed *entry)
{
	struct failure failure;
	char number[16];
	struct log_field fields[] = { { "UID", number }, { "FAILURE", "unretrievable" }, { "HINT", failure.hint } };

	snprintf(number, sizeof(number), "%u", entry->uid);
	mailbox_unretrievable(m, f, entry, &failure);
	log_write(LOG_LEVEL_ERROR, EVENT_UNRETRIEVABLE, ctx, fields, ARRAY_LEN(fields), "%s; %s", failure.text, failure.hint);
}

void fetch_owe(struct mailbox *m, struct folder *f, uint32_t uid, const char *why)
{
	int64_t now_wall_s = clock_wall_s();
	struct store_owed entry = folder_owe(f, uid, why, now_wall_s, clock_now_ms());
	struct log_context ctx = { .mailbox = m->log.mailbox, .folder = f->name };
	char number[16];
	struct log_field fields[] = { { "UID", number } };

	store_owe(m->env->store, f->at.ref, &entry, NULL, NULL);
	snprintf(number, sizeof(number), "%u", uid);
	if (entry.next_wall_s == 0)
		log_unretrievable(m, f, &ctx, &entry);
	else
		log_write(LOG_LEVEL_WARNING, EVENT_OWED, &ctx, fields, 1, "message UID %u could not be had (%s), trying again in %lld s", uid, why,
		    (long long)(entry.next_wall_s - now_wall_s));
}

bool fetch_none_given(struct mailbox *m, const struct folder *f, const struct ranges *uids, const char *why)
{
	struct failure_subject subject = m->subject;
	struct failure failure;

	subject.folder = f->name;	/* another's STATUS may have come since */
	m->had_none += folder_count_new(f, uids);
	if (m->had_none <= NONE_GIVEN_FEW || m->rests >= NONE_GIVEN_RESTS)
		return false;
	m->rests++;
	failure_own(&failure, "none-given", &subject, "%llu messages in a row could not be had: %s", (unsigned long long)m->had_none, why);
	mailbox_end_session(m, &failure);
	return true;
}

/* The connection died, or the server was unavailable, when this message was next: once may be chance, twice in a row is
 * the message (exchange-online 5.8 C). */
static void suspect(struct mailbox *m, struct folder *f, const struct failure *why)
{
	uint32_t uid = ranges_first(&m->batch);

	if (f->suspect == uid) {
		f->suspect = 0;
		m->had_none++;
		fetch_owe(m, f, uid, why->text);
		ranges_remove(&m->batch, uid, uid);
	} else {
		f->suspect = uid;
	}
}

/* The server ended the session, or was unavailable, at this FETCH. It may be any of them when none of them came. */
static void find_bad_one(struct mailbox *m, struct folder *f, const struct failure *why)
{
	if (m->batch_messages > 1 && ranges_count(&m->batch) == m->batch_messages)
		f->singly_to = ranges_last(&m->batch);
	else
		suspect(m, f, why);
}

/* The server refused: for this mailbox as a whole, or for a message among those asked for (exchange-online 5.8 C). */
static void on_refused(struct mailbox *m, struct folder *f, const struct failure *why)
{
	uint32_t first = ranges_first(&m->batch);

	if (mailbox_is_refused(why)) {
		if (why->schedule != SCHEDULE_THROTTLED && first != 0)
			find_bad_one(m, f, why);
		folder_put_back(f, &m->batch);
		mailbox_end_session(m, why);
	} else if (ranges_count(&m->batch) == 1) {
		if (fetch_none_given(m, f, &m->batch, why->text))
			folder_put_back(f, &m->batch);
		else
			fetch_owe(m, f, first, why->text);
	} else if (first != 0) {
		f->singly_to = ranges_last(&m->batch);
		folder_put_back(f, &m->batch);
	}
}

void fetch_on_done(struct mailbox *m, const struct imap_done *done)
{
	struct folder *f = m->task_folder;

	if (m->coming != NULL)			/* a body without the end of its response cannot be: the parser would not say done */
		drop_coming(m);
	if (m->one_owed && m->split == SPLIT_NO && m->batch.n > 0 && (done->ok || !mailbox_is_refused(done->failure))) {
		m->split = SPLIT_TRY;		/* not as a whole: perhaps in two parts (exchange-online 5.8) */
		work_begin_task(m, TASK_FETCH, f);
		imap_session_fetch_split(m->session, &m->batch);
		return;
	}
	m->one_owed = false;
	if (done->ok && m->batch_limit < BATCH_MESSAGES)
		m->batch_limit += m->batch_limit < BATCH_MESSAGES - BATCH_GROWTH ? BATCH_GROWTH : BATCH_MESSAGES - m->batch_limit;
	if (done->ok && f->singly_to == 0)
		f->sizes_refused = false;
	if (!done->ok) {
		on_refused(m, f, done->failure);
	} else if (m->batch.n > 0) {		/* OK with nothing (5.8 A): the next look tells whether they are still there */
		for (size_t i = 0; i < m->batch.n; i++) {
			ranges_add(&f->unanswered, m->batch.v[i].lo, m->batch.v[i].hi);
			ranges_remove(&f->under_way, m->batch.v[i].lo, m->batch.v[i].hi);
		}
		f->look_due = true;
	}
	if (f->singly_to != 0 && (f->pending.n == 0 || ranges_first(&f->pending) > f->singly_to))
		f->singly_to = 0;
	ranges_done(&m->batch);
	fetch_release(m);
	hand_over(m);
}

void fetch_over(struct mailbox *m, const struct failure *why, bool comes_back)
{
	if (m->coming != NULL)
		drop_coming(m);
	m->one_owed = false;
	if (m->task == TASK_SIZES && why->fail == FAIL_WAIT) {
		m->task_folder->sizes_refused = true;
		m->no_sizes = m->no_sizes || failure_is_of_command(why);
	}
	if (m->task == TASK_FETCH && m->batch.n > 0) {
		if (why->fail == FAIL_WAIT && why->schedule != SCHEDULE_THROTTLED && !m->stopping)
			find_bad_one(m, m->task_folder, why);
		folder_put_back(m->task_folder, &m->batch);
	}
	ranges_done(&m->batch);
	if (!comes_back)
		fetch_release(m);
	hand_over(m);
}

void fetch_drop(struct mailbox *m)
{
	while (m->arrivals != NULL) {
		struct arrival *a = m->arrivals;

		m->arrivals = a->next;
		if (a->spooled) {
			spool_remove(a->message->volume, a->message->path);
			spool_release(m->env->spool, a->message->size_bytes);
		}
		arrival_free(a);
	}
	m->arrivals_end = &m->arrivals;
	m->n_arrivals = 0;
	m->coming = NULL;
}
