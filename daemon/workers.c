/* One mutex for all lanes: jobs are disk accesses and name lookups, each far longer than its handling here. Nobody is woken while
 * it is held, or would wait for it at once: two more switches. What the threads share lives until the last of them has gone, so
 * that one that is stuck in the kernel harms nobody. */
#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>
#include "util.h"
#include "workers.h"

struct jobs { struct job *first, **end; };

struct lane {
	SLIST_ENTRY(lane) link;
	struct shared *shared;
	const char *name;
	enum lane_kind kind;
	unsigned max_threads, n_threads, n_waiting, n_queued;
	struct jobs queue;
	pthread_cond_t wanted;
	SLIST_HEAD(, thread) threads;
};

struct thread {
	SLIST_ENTRY(thread) link;
	struct lane *lane;
	struct job *running;			/* NULL: none */
};

struct shared {
	pthread_mutex_t mutex;
	unsigned refs;				/* the owner's and one of each thread */
	bool closing, dropping;			/* nothing new comes; what is queued is not begun any more */
	SLIST_HEAD(, lane) lanes;
	struct jobs done;
	int done_fd;				/* eventfd; the loop's end */
	unsigned n_unfinished;			/* queued or running */
	pthread_cond_t idle;			/* there are none */
};

struct workers {
	struct shared *shared;
	struct event *done_ev;
};

static void jobs_init(struct jobs *q)
{
	q->first = NULL;
	q->end = &q->first;
}

static void jobs_put(struct jobs *q, struct job *job)
{
	job->next = NULL;
	*q->end = job;
	q->end = &job->next;
}

static struct job *jobs_take(struct jobs *q)
{
	struct job *job = q->first;

	if (job != NULL && (q->first = job->next) == NULL)
		q->end = &q->first;
	return job;
}

/* Jobs that nobody will hear of any more: what they own is their callers' to free, who are being freed themselves, so it
 * goes with the process. */
static struct jobs abandoned;
static pthread_mutex_t abandoned_mutex = PTHREAD_MUTEX_INITIALIZER;	/* the last thread of one pool may outlive the next pool */

static void abandon(struct jobs *q)
{
	struct job *job;

	pthread_mutex_lock(&abandoned_mutex);
	if (abandoned.end == NULL)
		jobs_init(&abandoned);
	while ((job = jobs_take(q)) != NULL)
		jobs_put(&abandoned, job);
	pthread_mutex_unlock(&abandoned_mutex);
}

/* With the mutex held; gives it up. */
static void shared_unref(struct shared *s)
{
	struct lane *lane;
	bool last = --s->refs == 0;

	pthread_mutex_unlock(&s->mutex);
	if (!last)
		return;
	abandon(&s->done);
	while ((lane = SLIST_FIRST(&s->lanes)) != NULL) {
		SLIST_REMOVE_HEAD(&s->lanes, link);
		abandon(&lane->queue);
		pthread_cond_destroy(&lane->wanted);
		free(lane);
	}
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->mutex);
	close(s->done_fd);
	free(s);
}

static void tell_loop(struct shared *s)
{
	uint64_t one = 1;

	while (write(s->done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void run_one(struct thread *t, struct shared *s, struct job *job)
{
	bool told;

	job->started_ms = clock_now_ms();
	t->running = job;
	pthread_mutex_unlock(&s->mutex);
	job->work(job);
	pthread_mutex_lock(&s->mutex);
	t->running = NULL;
	told = s->done.first != NULL;
	jobs_put(&s->done, job);
	if (--s->n_unfinished == 0)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->mutex);
	if (!told)			/* else the loop is about to take them all */
		tell_loop(s);
	pthread_mutex_lock(&s->mutex);
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;
	struct lane *lane = t->lane;
	struct shared *s = lane->shared;
	struct job *job;

	pthread_setname_np(pthread_self(), lane->name);
	pthread_mutex_lock(&s->mutex);
	while (!s->dropping) {
		if ((job = jobs_take(&lane->queue)) != NULL) {
			lane->n_queued--;
			run_one(t, s, job);
			continue;
		}
		if (s->closing)
			break;
		lane->n_waiting++;
		pthread_cond_wait(&lane->wanted, &s->mutex);
		lane->n_waiting--;
	}
	SLIST_REMOVE(&lane->threads, t, thread, link);
	lane->n_threads--;
	free(t);
	shared_unref(s);
	return NULL;
}

/* With the mutex held. Signals are the loop's alone. */
static void start_thread(struct lane *lane)
{
	struct thread *t = xcalloc(1, sizeof(*t));
	sigset_t all, before;
	pthread_t id;
	int error;

	t->lane = lane;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&id, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0) {
		free(t);
		if (lane->n_threads > 0)
			return;		/* those that run will do it */
		fprintf(stderr, "cannot start a thread for %s: %s\n", lane->name, strerror(error));
		abort();
	}
	pthread_detach(id);
	SLIST_INSERT_HEAD(&lane->threads, t, link);
	lane->n_threads++;
	lane->shared->refs++;
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	struct shared *s = ((struct workers *)arg)->shared;
	struct job *job, *next;
	uint64_t count;

	(void)what;
	if (read(fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&s->mutex);
	next = s->done.first;
	jobs_init(&s->done);
	pthread_mutex_unlock(&s->mutex);
	while ((job = next) != NULL) {
		next = job->next;
		job->done(job);
	}
}

struct workers *workers_new(struct event_base *base)
{
	struct workers *w = xcalloc(1, sizeof(*w));
	struct shared *s = xcalloc(1, sizeof(*s));
	pthread_condattr_t monotonic;

	pthread_mutex_init(&s->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->idle, &monotonic);
	pthread_condattr_destroy(&monotonic);
	jobs_init(&s->done);
	s->refs = 1;
	s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->done_fd < 0)
		abort();
	w->shared = s;
	w->done_ev = event_new(base, s->done_fd, EV_READ | EV_PERSIST, on_done, w);
	event_add(w->done_ev, NULL);
	return w;
}

bool workers_free(struct workers **workers, msec_t wait_ms)
{
	struct workers *w = *workers;
	struct shared *s;
	struct lane *lane;
	struct timespec until;
	bool finished;

	if (w == NULL)
		return true;
	s = w->shared;
	event_free(w->done_ev);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(wait_ms / 1000);
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&s->mutex);
	s->closing = true;
	SLIST_FOREACH(lane, &s->lanes, link)
		pthread_cond_broadcast(&lane->wanted);
	while (s->n_unfinished > 0 && pthread_cond_timedwait(&s->idle, &s->mutex, &until) == 0)
		;
	finished = s->n_unfinished == 0;
	s->dropping = true;
	shared_unref(s);
	free(w);
	*workers = NULL;
	return finished;
}

struct lane *lane_new(struct workers *w, const char *name, enum lane_kind kind, unsigned threads)
{
	struct lane *lane = xcalloc(1, sizeof(*lane));

	lane->shared = w->shared;
	lane->name = name;
	lane->kind = kind;
	lane->max_threads = threads;
	jobs_init(&lane->queue);
	pthread_cond_init(&lane->wanted, NULL);
	SLIST_INIT(&lane->threads);
	pthread_mutex_lock(&w->shared->mutex);
	SLIST_INSERT_HEAD(&w->shared->lanes, lane, link);
	pthread_mutex_unlock(&w->shared->mutex);
	return lane;
}

void lane_submit(struct lane *lane, struct job *job)
{
	struct shared *s = lane->shared;
	bool waits;

	job->lane = lane;
	pthread_mutex_lock(&s->mutex);
	jobs_put(&lane->queue, job);
	s->n_unfinished++;
	lane->n_queued++;
	waits = lane->n_waiting > 0;
	/* who has been woken counts as waiting until it runs: it takes one of these, and may be long about it */
	if (lane->n_waiting < lane->n_queued && lane->n_threads < lane->max_threads)
		start_thread(lane);
	pthread_mutex_unlock(&s->mutex);
	if (waits)
		pthread_cond_signal(&lane->wanted);
}

static msec_t oldest_started_ms(const struct lane *lane, msec_t now_ms)
{
	msec_t oldest = now_ms;
	struct thread *t;

	SLIST_FOREACH(t, &lane->threads, link)
		if (t->running != NULL && t->running->started_ms < oldest)
			oldest = t->running->started_ms;
	return oldest;
}

msec_t workers_oldest_ms(struct workers *w)
{
	msec_t now_ms = clock_now_ms(), oldest = now_ms, one;
	struct lane *lane;

	pthread_mutex_lock(&w->shared->mutex);
	SLIST_FOREACH(lane, &w->shared->lanes, link) {
		if (lane->kind == LANE_DISK && (one = oldest_started_ms(lane, now_ms)) < oldest)
			oldest = one;
	}
	pthread_mutex_unlock(&w->shared->mutex);
	return now_ms - oldest;
}
