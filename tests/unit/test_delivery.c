/* Order and patience on the way through a sink; sink and store are of clay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "delivery.h"
#include "message.h"
#include "sink.h"
#include "spool.h"
#include "store.h"
#include "util.h"

#define N 8

static struct {
	struct event_base *base;
	struct delivery *delivery;
	bool many_at_once, keeps_file, doubtful;
	struct { struct message *message; sink_answer_cb *cb; void *arg; } at_sink[N];	/* by UID */
	size_t in_doubt;		/* while it is being settled */
	uint64_t released_bytes, bytes;
	unsigned removed;		/* files */
	unsigned given, taken, settled, delivered, may_wait, lost, held;
} w;

/* --- in place of sink.c, spool.c and store.c --- */

static struct sink_conf conf = { .name = (char[]){ "clay" } };

const struct sink_conf *__wrap_sink_conf(const struct sink *sink);
const struct sink_conf *__wrap_sink_conf(const struct sink *sink)
{
	(void)sink;
	return &conf;
}

bool __wrap_sink_many_at_once(const struct sink *sink);
bool __wrap_sink_many_at_once(const struct sink *sink)
{
	(void)sink;
	return w.many_at_once;
}

bool __wrap_sink_keeps_file(const struct sink *sink);
bool __wrap_sink_keeps_file(const struct sink *sink)
{
	(void)sink;
	return w.keeps_file;
}

bool __wrap_sink_is_doubtful(const struct sink *sink);
bool __wrap_sink_is_doubtful(const struct sink *sink)
{
	(void)sink;
	return w.doubtful;
}

void __wrap_sink_deliver(struct sink *sink, struct message *m, sink_answer_cb *cb, void *arg);
void __wrap_sink_deliver(struct sink *sink, struct message *m, sink_answer_cb *cb, void *arg)
{
	(void)sink;
	assert_null(w.at_sink[m->uid].message);
	w.at_sink[m->uid].message = m;
	w.at_sink[m->uid].cb = cb;
	w.at_sink[m->uid].arg = arg;
	w.given++;
}

void __wrap_spool_release(struct spool *spool, uint64_t bytes);
void __wrap_spool_release(struct spool *spool, uint64_t bytes)
{
	(void)spool;
	w.released_bytes += bytes;
}

void __wrap_spool_remove(struct volume *volume, const char *path);
void __wrap_spool_remove(struct volume *volume, const char *path)
{
	(void)volume, (void)path;
	w.removed++;
}

void __wrap_store_settle(struct store *store, const struct store_settlement *what, store_cb *cb, void *arg);
void __wrap_store_settle(struct store *store, const struct store_settlement *what, store_cb *cb, void *arg)
{
	(void)store;
	w.may_wait += what->may_wait;
	w.bytes = delivery_bytes(w.delivery);
	w.in_doubt = delivery_in_doubt(w.delivery);
	cb(arg, STORE_OK);
}

/* --- the scene --- */

static void on_taken(void *arg, const struct message *m)
{
	(void)arg, (void)m;
	w.taken++;
}

static void on_settled(void *arg, const struct message *m, bool delivered)
{
	(void)arg, (void)m;
	w.settled++;
	w.delivered += delivered;
	assert_int_equal(w.taken, w.delivered);	/* told before, and not of a refused one */
}

static void on_lost(void *arg, const struct message *m)
{
	(void)arg, (void)m;
	w.lost++;
}

static void on_held(void *arg, const struct failure *why, msec_t wait_ms)
{
	(void)arg, (void)why;
	assert_true(wait_ms > 0);
	w.held++;
}

static void on_change(void *arg)
{
	(void)arg;
}

static const struct delivery_ops ops = { .on_taken = on_taken, .on_settled = on_settled, .on_lost = on_lost, .on_held = on_held, .on_change = on_change };

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	w.keeps_file = true;
	w.base = event_base_new();
	w.delivery = delivery_new(w.base, NULL, NULL, NULL, &ops, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	delivery_free(&w.delivery);
	event_base_free(w.base);
	return 0;
}

static void add(uint32_t uid, bool after_owed)
{
	struct message *m = xcalloc(1, sizeof(*m));

	m->uid = uid;
	m->after_owed = after_owed;
	m->size_bytes = 100;
	delivery_add(w.delivery, m);
}

static void answer(uint32_t uid, enum sink_answer said)
{
	struct message *m = w.at_sink[uid].message;
	struct failure why;

	assert_non_null(m);
	w.at_sink[uid].message = NULL;
	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "command", NULL, "message %u", uid);
	w.at_sink[uid].cb(w.at_sink[uid].arg, m, said, said == SINK_TAKEN ? NULL : &why);
}

static void expect_held(const char *why)
{
	int64_t retry_wall_s = 0;
	const struct failure *held = delivery_held(w.delivery, &retry_wall_s);

	if (why == NULL) {
		assert_null(held);
		return;
	}
	assert_non_null(held);
	assert_string_equal(held->text, why);
	assert_true(retry_wall_s > 0);
}

/* What was at the sink before it began may well be taken: nothing else begins, and the reason stays, until the wait is over. */
static void test_held_whoever_succeeds_meanwhile(void **state)
{
	(void)state;
	w.many_at_once = true;
	for (uint32_t uid = 1; uid <= 3; uid++)
		add(uid, false);
	assert_int_equal(w.given, 3);
	answer(1, SINK_AGAIN);
	expect_held("message 1");
	answer(2, SINK_TAKEN);
	expect_held("message 1");
	add(4, false);
	assert_int_equal(w.given, 3);
	answer(3, SINK_FETCH_AGAIN);
	expect_held("message 3");
	assert_int_equal(w.lost, 1);
	assert_int_equal(w.held, 2);
	delivery_retry(w.delivery);
	expect_held(NULL);
	assert_int_equal(w.given, 5);
	answer(1, SINK_TAKEN);
	answer(4, SINK_TAKEN);
	assert_false(delivery_is_doubtful(w.delivery));
	assert_int_equal(w.settled, 3);
	assert_int_equal(delivery_count(w.delivery), 0);
}

static void test_one_wait_for_all_that_fail_together(void **state)
{
	(void)state;
	w.many_at_once = true;
	for (uint32_t uid = 1; uid <= 3; uid++)
		add(uid, false);
	w.doubtful = true;
	assert_true(delivery_is_doubtful(w.delivery));	/* for another mailbox */
	w.doubtful = false;
	assert_false(delivery_is_doubtful(w.delivery));
	for (uint32_t uid = 1; uid <= 3; uid++)
		answer(uid, SINK_AGAIN);
	assert_int_equal(w.held, 1);
	expect_held("message 1");
	assert_true(delivery_is_doubtful(w.delivery));
}

static void test_one_at_a_time_in_order(void **state)
{
	(void)state;
	add(1, false);
	add(2, false);
	assert_int_equal(w.given, 1);
	answer(1, SINK_AGAIN);
	delivery_retry(w.delivery);
	assert_non_null(w.at_sink[1].message);		/* the same one first */
	answer(1, SINK_QUARANTINED);
	assert_non_null(w.at_sink[2].message);
	answer(2, SINK_TAKEN);
	assert_int_equal(w.settled, 2);
}

/* Only what an intent tells after a crash, too, and what nobody waits for. */
static void test_settlement_that_may_wait(void **state)
{
	(void)state;
	add(1, false);
	assert_int_equal(delivery_in_doubt(w.delivery), 1);
	answer(1, SINK_TAKEN);
	assert_int_equal(w.may_wait, 1);
	assert_int_equal(w.in_doubt, 0);
	assert_int_equal(w.bytes, 0);		/* its file is the sink's */
	add(2, true);
	answer(2, SINK_TAKEN);
	assert_int_equal(w.in_doubt, 1);
	assert_int_equal(w.bytes, 100);
	add(3, false);
	answer(3, SINK_QUARANTINED);
	w.keeps_file = false;
	add(4, false);
	answer(4, SINK_TAKEN);
	assert_int_equal(w.may_wait, 1);
	assert_int_equal(w.settled, 4);
	assert_int_equal(w.released_bytes, 400);	/* each once */
	assert_int_equal(delivery_bytes(w.delivery), 0);
}

static void hold(void)
{
	struct failure why;

	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "disk", NULL, "full");
	delivery_hold(w.delivery, &why);
}

static void expect_kept(size_t messages, unsigned lost)
{
	assert_int_equal(delivery_count(w.delivery), messages);
	assert_int_equal(delivery_bytes(w.delivery), 100 * messages);
	assert_int_equal(w.lost, lost);
	assert_int_equal(w.removed, lost);
	assert_int_equal(w.released_bytes, 100 * lost);
	assert_int_equal(w.settled, 0);
}

/* Its messages lie in the spool, which others need: one is kept, the first, and what still arrives is not. */
static void test_held_keeps_one(void **state)
{
	(void)state;
	w.keeps_file = false;
	assert_int_equal(delivery_at_most(w.delivery), SIZE_MAX);
	for (uint32_t uid = 1; uid <= 4; uid++)
		add(uid, false);
	answer(1, SINK_AGAIN);
	expect_kept(1, 3);
	add(5, false);
	expect_kept(1, 4);
	delivery_retry(w.delivery);
	assert_non_null(w.at_sink[1].message);
	answer(1, SINK_AGAIN);
	expect_kept(1, 4);
	delivery_retry(w.delivery);
	w.removed = 0;
	answer(1, SINK_TAKEN);
	assert_int_equal(w.removed, 1);
	assert_int_equal(w.settled, 1);
	assert_int_equal(w.given, 3);
	add(2, false);				/* fetched again */
	add(3, false);
	answer(2, SINK_TAKEN);
	answer(3, SINK_TAKEN);
	assert_int_equal(w.settled, 3);
}

/* Held before anything has come, or while one is at the sink: that is the one. */
static void test_held_by_the_disk(void **state)
{
	(void)state;
	w.keeps_file = false;
	hold();
	add(1, false);
	add(2, false);
	expect_kept(1, 1);
	delivery_retry(w.delivery);
	add(2, false);
	hold();
	expect_kept(1, 2);
	add(2, false);
	expect_kept(1, 3);
	answer(1, SINK_AGAIN);
	expect_kept(1, 3);
	delivery_retry(w.delivery);
	assert_non_null(w.at_sink[1].message);
	answer(1, SINK_TAKEN);
	assert_int_equal(delivery_count(w.delivery), 0);
}

/* A sink that fails now and then does not make all be fetched each time. */
static void test_what_is_worth_having(void **state)
{
	(void)state;
	w.keeps_file = false;
	add(1, false);
	answer(1, SINK_AGAIN);
	assert_int_equal(delivery_at_most(w.delivery), 1);
	delivery_retry(w.delivery);
	answer(1, SINK_TAKEN);
	add(2, false);
	answer(2, SINK_QUARANTINED);
	assert_int_equal(delivery_at_most(w.delivery), 3);
	add(3, false);
	answer(3, SINK_AGAIN);
	assert_int_equal(delivery_at_most(w.delivery), 1);
	delivery_retry(w.delivery);
	answer(3, SINK_TAKEN);
	teardown(NULL);
	setup(NULL);				/* its sink keeps the files */
	add(1, false);
	answer(1, SINK_AGAIN);
	assert_int_equal(delivery_at_most(w.delivery), SIZE_MAX);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_held_whoever_succeeds_meanwhile), TEST(test_one_wait_for_all_that_fail_together), TEST(test_one_at_a_time_in_order),
		TEST(test_settlement_that_may_wait), TEST(test_held_keeps_one), TEST(test_held_by_the_disk), TEST(test_what_is_worth_having),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
