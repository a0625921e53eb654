#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <event2/event.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>
#include "util.h"
#include "workers.h"

struct world {
	struct event_base *base;
	struct workers *workers;
	unsigned done, wanted;
	int order[200];
	atomic_int running, most;
	sem_t go;
};
struct task { struct job job; struct world *w; int number; bool waits; };

static void work(struct job *job)
{
	struct task *t = (struct task *)job;
	int now = atomic_fetch_add(&t->w->running, 1) + 1, most = atomic_load(&t->w->most);

	while (now > most && !atomic_compare_exchange_weak(&t->w->most, &most, now))
		;
	if (t->waits)
		sem_wait(&t->w->go);
	atomic_fetch_sub(&t->w->running, 1);
}

static void done(struct job *job)
{
	struct task *t = (struct task *)job;

	t->w->order[t->w->done++] = t->number;
	if (t->w->done == t->w->wanted)
		event_base_loopbreak(t->w->base);
	free(t);
}

static void submit(struct world *w, struct lane *lane, int number, bool waits)
{
	struct task *t = xcalloc(1, sizeof(*t));

	t->job.work = work;
	t->job.done = done;
	t->w = w;
	t->number = number;
	t->waits = waits;
	lane_submit(lane, &t->job);
}

static void wait_for(struct world *w, unsigned n)
{
	w->wanted = n;
	if (w->done < n)
		event_base_dispatch(w->base);
	assert_int_equal(w->done, n);
}

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));

	w->base = event_base_new();
	w->workers = workers_new(w->base);
	sem_init(&w->go, 0, 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	workers_free(&w->workers, 5000);
	event_base_free(w->base);
	free(w);
	return 0;
}

static void test_one_thread_keeps_the_order(void **state)
{
	struct world *w = *state;
	struct lane *lane = lane_new(w->workers, "one", LANE_DISK, 1);

	for (int i = 0; i < 200; i++)
		submit(w, lane, i, false);
	wait_for(w, 200);
	for (int i = 0; i < 200; i++)
		assert_int_equal(w->order[i], i);
	assert_int_equal(atomic_load(&w->most), 1);
}

/* A lane that waits holds up no other, and has no more threads than it asked for. */
static void test_lanes_are_apart(void **state)
{
	struct world *w = *state;
	struct lane *slow = lane_new(w->workers, "slow", LANE_REMOTE, 3), *quick = lane_new(w->workers, "quick", LANE_DISK, 1);

	for (int i = 0; i < 10; i++)
		submit(w, slow, i, true);
	submit(w, quick, 100, false);
	wait_for(w, 1);
	assert_int_equal(w->order[0], 100);
	while (atomic_load(&w->running) < 3)
		;
	assert_int_equal(atomic_load(&w->running), 3);
	for (int i = 0; i < 10; i++)
		sem_post(&w->go);
	wait_for(w, 11);
	assert_true(atomic_load(&w->most) <= 4);
}

static void give_up(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	event_base_loopbreak(((struct world *)arg)->base);
}

/* One thread is idle when two jobs come, and the first of them hangs: the second gets a thread of its own. */
static void test_a_job_that_hangs_holds_up_no_other(void **state)
{
	struct world *w = *state;
	struct event *limit = evtimer_new(w->base, give_up, w);

	event_add(limit, &(struct timeval){ 20, 0 });
	for (unsigned i = 0; i < 50; i++) {		/* whether the thread is idle by then is chance */
		struct lane *lane = lane_new(w->workers, "two", LANE_REMOTE, 2);

		submit(w, lane, 0, false);
		wait_for(w, 3 * i + 1);
		submit(w, lane, 1, true);
		submit(w, lane, 2, false);
		wait_for(w, 3 * i + 2);
		assert_int_equal(w->order[w->done - 1], 2);
		sem_post(&w->go);
		wait_for(w, 3 * i + 3);
	}
	event_free(limit);
}

static void test_age(void **state)
{
	struct world *w = *state;
	struct lane *disk = lane_new(w->workers, "disk", LANE_DISK, 1), *remote = lane_new(w->workers, "remote", LANE_REMOTE, 1);
	msec_t begun_ms;

	submit(w, remote, 1, true);
	while (atomic_load(&w->running) < 1)
		;
	begun_ms = clock_now_ms();
	while (clock_now_ms() < begun_ms + 20)
		;
	assert_int_equal(workers_oldest_ms(w->workers), 0);
	submit(w, disk, 2, true);
	submit(w, disk, 3, true);
	while (workers_oldest_ms(w->workers) < 20)
		;
	begun_ms = clock_now_ms();
	sem_post(&w->go);
	sem_post(&w->go);
	wait_for(w, 2);			/* the third has only begun */
	assert_true(workers_oldest_ms(w->workers) <= clock_now_ms() - begun_ms);
	sem_post(&w->go);
	wait_for(w, 3);
	assert_int_equal(workers_oldest_ms(w->workers), 0);
}

/* At the end one may be stuck: it is left, and nothing it still touches is gone. */
static void test_stuck_job_is_left(void **state)
{
	struct world *w = *state;
	struct lane *lane = lane_new(w->workers, "stuck", LANE_DISK, 1);

	submit(w, lane, 1, true);
	submit(w, lane, 2, false);
	while (atomic_load(&w->running) == 0)
		;
	workers_free(&w->workers, 10);
	assert_null(w->workers);
	sem_post(&w->go);
	while (atomic_load(&w->running) != 0)
		;
	assert_int_equal(w->done, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_thread_keeps_the_order), TEST(test_lanes_are_apart), TEST(test_a_job_that_hangs_holds_up_no_other), TEST(test_age), TEST(test_stuck_job_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
