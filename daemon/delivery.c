#include <event2/event.h>
#include <stdlib.h>
#include "backoff.h"
#include "config.h"
#include "delivery.h"
#include "message.h"
#include "sink.h"
#include "spool.h"
#include "store.h"
#include "util.h"

struct delivery {
	struct event_base *base;		/* lent, as all of these */
	struct sink *sink;
	struct spool *spool;
	struct store *store;
	const struct delivery_ops *ops;
	void *arg;
	struct message *waiting, **waiting_end;	/* in UID order */
	size_t n_waiting, n_at_sink, n_settling, n_may_wait;	/* n_may_wait: of n_settling */
	uint64_t bytes;
	size_t at_most;				/* worth having in hand; SIZE_MAX: never held, or the sink keeps the files */
	struct event *timer;			/* pending while held */
	struct failure *failure;		/* of the last attempt that failed; NULL: none since a success, and not held */
	unsigned failures;			/* in a row */
	int64_t retry_wall_s;
	bool held, stopping;
};
struct settling { struct delivery *delivery; struct message *message; bool delivered, may_wait; };

static void start_waiting(struct delivery *d);

static void release_room(struct delivery *d, const struct message *m)
{
	d->bytes -= m->size_bytes;
	spool_release(d->spool, m->size_bytes);
}

static void drop_message(struct delivery *d, struct message *m)
{
	release_room(d, m);
	message_free(&m);
}

static void on_retry_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	delivery_retry(arg);
}

struct delivery *delivery_new(struct event_base *base, struct sink *sink, struct spool *spool, struct store *store,
    const struct delivery_ops *ops, void *arg)
{
	struct delivery *d = xcalloc(1, sizeof(*d));

	d->base = base;
	d->sink = sink;
	d->spool = spool;
	d->store = store;
	d->ops = ops;
	d->arg = arg;
	d->waiting_end = &d->waiting;
	d->at_most = SIZE_MAX;
	d->timer = evtimer_new(base, on_retry_timer, d);
	return d;
}

void delivery_free(struct delivery **delivery)
{
	struct delivery *d = *delivery;

	if (d == NULL)
		return;
	delivery_stop(d);
	event_free(d->timer);
	failure_drop(&d->failure);
	free(d);
	*delivery = NULL;
}

/* The sink has had its say on a message. */
static void note_success(struct delivery *d)
{
	d->failures = 0;
	if (d->at_most < SIZE_MAX)
		d->at_most++;
	if (!d->held)
		failure_drop(&d->failure);
}

/* All but the first. */
static void give_back(struct delivery *d)
{
	struct message **from = d->waiting != NULL && d->n_at_sink == 0 ? &d->waiting->next : &d->waiting, *m = *from, *next;

	if (sink_keeps_file(d->sink))
		return;
	*from = NULL;
	d->waiting_end = from;
	for (; m != NULL; m = next) {
		next = m->next;
		d->n_waiting--;
		spool_remove(m->volume, m->path);
		d->ops->on_lost(d->arg, m);
		drop_message(d, m);
	}
}

void delivery_hold(struct delivery *d, const struct failure *why)
{
	struct timeval tv;
	msec_t wait_ms;

	if (d->stopping || (d->held && d->failures > 0))
		return;				/* one wait for all that failed together */
	failure_keep(&d->failure, why);
	wait_ms = backoff_wait_ms(why->schedule, ++d->failures, why->asked_wait_ms, (uint32_t)clock_random(UINT32_MAX));
	d->held = true;
	d->retry_wall_s = clock_wall_s() + wait_ms / 1000;
	tv = clock_interval(wait_ms);
	event_add(d->timer, &tv);
	if (!sink_keeps_file(d->sink))
		d->at_most = 1;
	give_back(d);
	d->ops->on_held(d->arg, why, wait_ms);
	d->ops->on_change(d->arg);
}

void delivery_retry(struct delivery *d)
{
	if (!d->held)
		return;
	event_del(d->timer);
	d->held = false;
	start_waiting(d);
	d->ops->on_change(d->arg);
}

static void on_settled(void *arg, enum store_result result)
{
	struct settling *s = arg;
	struct delivery *d = s->delivery;

	d->n_settling--;
	d->n_may_wait -= s->may_wait;
	if (result == STORE_OK)
		d->ops->on_settled(d->arg, s->message, s->delivered);
	if (!s->may_wait)
		release_room(d, s->message);
	message_free(&s->message);
	free(s);
	d->ops->on_change(d->arg);
}

static void settle(struct delivery *d, struct message *m, bool delivered)
{
	struct settling *s = xcalloc(1, sizeof(*s));
	struct store_settlement settlement = { .folder = m->ref, .uid = m->uid, .settle_from = m->settle_from,
	    .sink = sink_conf(d->sink)->name, .delivered = delivered, .after_owed = delivered && m->after_owed, .internaldate_s = m->internaldate_s };

	/* a file that has been renamed has its intent, which tells the same after a crash */
	settlement.may_wait = delivered && !settlement.after_owed && sink_keeps_file(d->sink);
	*s = (struct settling){ .delivery = d, .message = m, .delivered = delivered, .may_wait = settlement.may_wait };
	d->n_settling++;
	d->n_may_wait += s->may_wait;
	if (s->may_wait)
		release_room(d, m);
	for (size_t i = 0; delivered && i < STORE_HASH_BYTES; i++)
		settlement.hash[i] = m->hash[i];
	store_settle(d->store, &settlement, on_settled, s);
}

static void wait_first(struct delivery *d, struct message *m)
{
	m->next = d->waiting;
	d->waiting = m;
	if (d->waiting_end == &d->waiting)
		d->waiting_end = &m->next;
	d->n_waiting++;
}

static void on_answer(void *arg, struct message *m, enum sink_answer answer, const struct failure *why)
{
	struct delivery *d = arg;

	d->n_at_sink--;
	switch (answer) {
	case SINK_TAKEN:
		note_success(d);
		d->ops->on_taken(d->arg, m);
		if (!sink_keeps_file(d->sink))
			spool_remove(m->volume, m->path);
		settle(d, m, true);
		break;
	case SINK_QUARANTINED:
		note_success(d);
		settle(d, m, false);
		break;
	case SINK_AGAIN:
		wait_first(d, m);
		delivery_hold(d, why);
		break;
	case SINK_FETCH_AGAIN:
		delivery_hold(d, why);
		d->ops->on_lost(d->arg, m);
		drop_message(d, m);
		break;
	}
	if (d->stopping)
		delivery_stop(d);		/* what came back to wait */
	start_waiting(d);
	d->ops->on_change(d->arg);
}

static void start_waiting(struct delivery *d)
{
	while (d->waiting != NULL && !d->held && !d->stopping && (d->n_at_sink == 0 || sink_many_at_once(d->sink))) {
		struct message *m = d->waiting;

		d->waiting = m->next;
		if (d->waiting == NULL)
			d->waiting_end = &d->waiting;
		m->next = NULL;
		d->n_waiting--;
		d->n_at_sink++;
		sink_deliver(d->sink, m, on_answer, d);
	}
}

void delivery_add(struct delivery *d, struct message *m)
{
	m->next = NULL;
	*d->waiting_end = m;
	d->waiting_end = &m->next;
	d->n_waiting++;
	d->bytes += m->size_bytes;
	if (d->stopping)
		delivery_stop(d);
	else if (d->held)
		give_back(d);
	else
		start_waiting(d);
}

void delivery_stop(struct delivery *d)
{
	d->stopping = true;
	d->held = false;
	event_del(d->timer);
	while (d->waiting != NULL) {
		struct message *m = d->waiting;

		d->waiting = m->next;
		spool_remove(m->volume, m->path);
		drop_message(d, m);
	}
	d->waiting_end = &d->waiting;
	d->n_waiting = 0;
}

size_t delivery_count(const struct delivery *d)
{
	return d->n_waiting + d->n_at_sink + d->n_settling;
}

uint64_t delivery_bytes(const struct delivery *d)
{
	return d->bytes;
}

size_t delivery_under_way(const struct delivery *d)
{
	return d->n_at_sink + d->n_settling;
}

size_t delivery_in_doubt(const struct delivery *d)
{
	return delivery_count(d) - d->n_may_wait;
}

const struct failure *delivery_held(const struct delivery *d, int64_t *ret_retry_wall_s)
{
	if (!d->held)
		return NULL;
	*ret_retry_wall_s = d->retry_wall_s;
	return d->failure;
}

size_t delivery_at_most(const struct delivery *d)
{
	return d->at_most;
}

bool delivery_is_doubtful(const struct delivery *d)
{
	return d->failures > 0 || sink_is_doubtful(d->sink);
}
