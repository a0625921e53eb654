/* admission.h: who may go first, how many, how fast. The clock runs a hundred times too fast; the mailboxes are of clay. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "admission.h"
#include "config.h"
#include "fast_clock.h"

#define MAX 256

struct mailbox {
	struct seat seat;
	msec_t last_turn_ms, admitted_ms;
	int fetches;
};
static struct {
	struct event_base *base;
	struct admission *admission;
	struct mailbox boxes[MAX];
	struct mailbox *order[MAX];
	int n_admitted, wanted;
} w;

static void admit(void *arg)
{
	struct mailbox *m = arg;

	m->admitted_ms = clock_now_ms();
	w.order[w.n_admitted++] = m;
	if (w.n_admitted == w.wanted)
		event_base_loopbreak(w.base);
}

static void fetch_admit(void *arg)
{
	((struct mailbox *)arg)->fetches++;
}

static msec_t last_turn_ms(const void *arg)
{
	return ((const struct mailbox *)arg)->last_turn_ms;
}

static const struct seat_ops ops = { .admit = admit, .fetch_admit = fetch_admit, .last_turn_ms = last_turn_ms };

static struct credential_conf credential = { .name = (char[]){ "contoso" } };
static struct credential_conf *credentials[] = { &credential };
static struct config config = { .credentials = credentials, .n_credentials = 1 };

static void configure(unsigned per_second, unsigned at_once, unsigned fetching)
{
	credential.admission = (struct admission_conf){ .sessions_per_second = per_second, .starting_at_once = at_once, .fetching_at_once = fetching };
	admission_configure(w.admission, &config);
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	w.base = event_base_new();
	w.admission = admission_new(w.base);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < MAX; i++)
		if (w.boxes[i].seat.gate != NULL)
			seat_leave(&w.boxes[i].seat);
	admission_free(&w.admission);
	event_base_free(w.base);
	return 0;
}

static void ask(int from, int n)
{
	for (int i = from; i < from + n; i++) {
		if (w.boxes[i].seat.gate == NULL)
			seat_take(w.admission, &w.boxes[i].seat, "contoso", &ops, &w.boxes[i]);
		seat_want_session(&w.boxes[i].seat);
	}
}

static void run_until(int admitted)
{
	w.wanted = admitted;
	event_base_dispatch(w.base);
	assert_int_equal(w.n_admitted, admitted);
}

static void expect_rate(double rate, bool slowed)
{
	struct gate_snapshot s;

	admission_snapshot(w.admission, "contoso", &s);
	assert_int_equal((int)(s.sessions_per_second * 100), (int)(rate * 100));
	assert_int_equal(s.slowed, slowed);
}

static void test_longest_without_a_look_first(void **state)
{
	(void)state;
	configure(0, 1, 0);
	w.boxes[0].last_turn_ms = 300;
	w.boxes[1].last_turn_ms = 100;
	w.boxes[2].last_turn_ms = 0;		/* never */
	w.boxes[3].last_turn_ms = 200;
	ask(0, 4);
	run_until(1);
	for (int i = 0; i < 3; i++) {
		seat_started(&w.order[i]->seat);
		run_until(i + 2);
	}
	assert_ptr_equal(w.order[0], &w.boxes[2]);
	assert_ptr_equal(w.order[1], &w.boxes[1]);
	assert_ptr_equal(w.order[2], &w.boxes[3]);
	assert_ptr_equal(w.order[3], &w.boxes[0]);
}

/* Whatever the order of asking, and whoever leaves meanwhile; equals as they asked. */
static void test_order_of_many(void **state)
{
	int gone = 0, n = MAX;

	(void)state;
	configure(0, 1, 0);
	for (int i = 0; i < MAX; i++)
		w.boxes[i].last_turn_ms = (i * 37) % 101;
	ask(0, MAX);
	for (int i = 3; i < MAX; i += 7, gone++)
		seat_leave(&w.boxes[i].seat);
	n -= gone;
	for (int i = 0; i < n; i++) {
		run_until(i + 1);
		seat_started(&w.order[i]->seat);
		assert_int_not_equal((w.order[i] - w.boxes) % 7, 3);
		if (i > 0)
			assert_true(w.order[i - 1]->last_turn_ms < w.order[i]->last_turn_ms ||
			    (w.order[i - 1]->last_turn_ms == w.order[i]->last_turn_ms && w.order[i - 1] < w.order[i]));
	}
	for (int i = 3; i < MAX; i += 7)
		w.boxes[i].seat.gate = NULL;
}

static void test_no_more_at_once(void **state)
{
	struct gate_snapshot s;

	(void)state;
	configure(0, 3, 0);
	ask(0, 10);
	run_until(3);
	event_base_loop(w.base, EVLOOP_NONBLOCK);
	assert_int_equal(w.n_admitted, 3);
	admission_snapshot(w.admission, "contoso", &s);
	assert_int_equal(s.seats, 10);
	assert_int_equal(s.waiting, 7);
	assert_int_equal(s.starting, 3);
	seat_leave(&w.order[1]->seat);		/* it ends while it starts: its place is free */
	w.order[1]->seat.gate = NULL;
	run_until(4);
}

/* Whatever the configuration says. */
static void test_never_all_at_once(void **state)
{
	(void)state;
	configure(0, 100000, 0);
	ask(0, 250);
	event_base_loop(w.base, EVLOOP_NONBLOCK);
	assert_int_equal(w.n_admitted, 200);
	seat_started(&w.order[7]->seat);
	seat_started(&w.order[8]->seat);
	run_until(202);
}

/* In no second more than that many, whatever came before. */
static void test_no_more_in_a_second(void **state)
{
	(void)state;
	configure(5, 0, 0);
	ask(0, 21);
	run_until(21);
	for (int i = 0; i + 5 < 21; i++)
		assert_true(w.order[i + 5]->admitted_ms - w.order[i]->admitted_ms >= 999);
}

static void test_fetching_in_turn(void **state)
{
	(void)state;
	configure(0, 0, 2);
	for (int i = 0; i < 4; i++) {
		seat_take(w.admission, &w.boxes[i].seat, "contoso", &ops, &w.boxes[i]);
		seat_want_fetch(&w.boxes[i].seat);
	}
	assert_int_equal(w.boxes[0].fetches + w.boxes[1].fetches, 2);
	assert_int_equal(w.boxes[2].fetches + w.boxes[3].fetches, 0);
	seat_fetch_over(&w.boxes[1].seat);
	assert_int_equal(w.boxes[2].fetches, 1);
	seat_fetch_over(&w.boxes[3].seat);	/* it does not want any more */
	seat_fetch_over(&w.boxes[0].seat);
	assert_int_equal(w.boxes[3].fetches, 0);
}

/* Those who wait for it need not wait for the end of another's turn. */
static void test_more_may_fetch(void **state)
{
	(void)state;
	configure(0, 0, 1);
	for (int i = 0; i < 4; i++) {
		seat_take(w.admission, &w.boxes[i].seat, "contoso", &ops, &w.boxes[i]);
		seat_want_fetch(&w.boxes[i].seat);
	}
	assert_int_equal(w.boxes[0].fetches, 1);
	assert_int_equal(w.boxes[1].fetches, 0);
	configure(0, 0, 3);
	assert_int_equal(w.boxes[1].fetches, 1);
	assert_int_equal(w.boxes[2].fetches, 1);
	assert_int_equal(w.boxes[3].fetches, 0);
	configure(0, 0, 0);
	assert_int_equal(w.boxes[3].fetches, 1);
}

/* exchange-online 5.6: several mailboxes throttled within a minute make the credential slower; it recovers. */
static void test_slowed_by_throttling(void **state)
{
	(void)state;
	configure(8, 0, 0);
	ask(0, 4);
	run_until(4);
	seat_throttled(&w.boxes[0].seat);
	seat_throttled(&w.boxes[0].seat);	/* one mailbox is that mailbox's matter */
	seat_throttled(&w.boxes[0].seat);
	seat_throttled(&w.boxes[1].seat);
	expect_rate(8, false);
	seat_throttled(&w.boxes[2].seat);
	expect_rate(4, true);
	seat_throttled(&w.boxes[0].seat);
	seat_throttled(&w.boxes[1].seat);
	seat_throttled(&w.boxes[3].seat);
	expect_rate(2, true);
	event_base_loop(w.base, EVLOOP_ONCE);	/* a minute without */
	expect_rate(4, true);
	event_base_loop(w.base, EVLOOP_ONCE);
	expect_rate(8, false);
}

/* of a credential with two, both */
static void test_slowed_by_throttling_of_two(void **state)
{
	(void)state;
	configure(8, 0, 0);
	ask(0, 2);
	run_until(2);
	seat_throttled(&w.boxes[1].seat);
	seat_throttled(&w.boxes[1].seat);
	expect_rate(8, false);
	seat_throttled(&w.boxes[0].seat);
	expect_rate(4, true);
	seat_leave(&w.boxes[0].seat);
	seat_throttled(&w.boxes[1].seat);	/* and one alone never */
	seat_throttled(&w.boxes[1].seat);
	expect_rate(4, true);
}

static void test_slowed_without_a_limit(void **state)
{
	(void)state;
	configure(0, 0, 0);
	ask(0, 3);
	run_until(3);
	for (int i = 0; i < 3; i++)
		seat_throttled(&w.boxes[i].seat);
	expect_rate(25, true);
	event_base_loop(w.base, EVLOOP_ONCE);
	expect_rate(0, false);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_longest_without_a_look_first), TEST(test_order_of_many), TEST(test_no_more_at_once), TEST(test_never_all_at_once),
		TEST(test_no_more_in_a_second), TEST(test_fetching_in_turn), TEST(test_more_may_fetch),
		TEST(test_slowed_by_throttling), TEST(test_slowed_by_throttling_of_two), TEST(test_slowed_without_a_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
