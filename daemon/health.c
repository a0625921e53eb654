/* One notification is under way at a time; what waits behind it is bounded, since the manager may not read for days: a
 * STATUS or WATCHDOG that waits is replaced by the next one, and of the states only the latest few are kept. */
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include "counters.h"
#include "health.h"
#include "log.h"
#include "workers.h"

#define TICK_MS 1000			/* measures lag, and sends a status that had to wait */
#define STATUS_BYTES 512
#define WAITING_MAX 8

enum notice_kind { NOTICE_STATE, NOTICE_STATUS, NOTICE_WATCHDOG };
struct notice {
	enum notice_kind kind;
	char *text;			/* owned */
};
struct notify_job {
	struct job job;
	struct health *health;		/* the loop's; NULL once it is freed */
	int error;
	char text[];
};
struct health {
	struct event_base *base;	/* lent */
	struct lane *lane;		/* NULL: nobody to notify */
	bool (*alive)(void *arg);
	void *arg;
	struct event *tick, *watchdog;	/* watchdog: NULL when the unit has none */
	msec_t tick_due_ms, lag_max_ms;
	struct counters *counters;	/* lent; NULL: nobody counts */
	struct notice waiting[WAITING_MAX];
	size_t n_waiting;
	struct notify_job *under_way;	/* NULL: none */
	bool failing, withheld;		/* logged already */
	char status[STATUS_BYTES];
	bool status_due;		/* changed since it was last sent */
	msec_t status_sent_ms;
};

/* --- on the lane --- */

static void work_notify(struct job *job)
{
	struct notify_job *n = (struct notify_job *)job;

	n->error = sd_notify(0, n->text);
}

/* --- on the loop --- */

static void send_next(struct health *h);

static void note_outcome(struct health *h, int error)
{
	if (error < 0 && !h->failing)
		log_warning(NULL, "the service manager cannot be notified: %s", strerror(-error));
	h->failing = error < 0;
}

static void done_notify(struct job *job)
{
	struct notify_job *n = (struct notify_job *)job;
	struct health *h = n->health;

	if (h != NULL) {
		note_outcome(h, n->error);
		h->under_way = NULL;
		send_next(h);
	}
	free(n);
}

static void forget_waiting(struct health *h, size_t i)
{
	free(h->waiting[i].text);
	h->n_waiting--;
	memmove(&h->waiting[i], &h->waiting[i + 1], (h->n_waiting - i) * sizeof(h->waiting[0]));
}

static void submit_first_waiting(struct health *h, struct health *told)
{
	size_t size = strlen(h->waiting[0].text) + 1;
	struct notify_job *n = xcalloc(1, sizeof(*n) + size);

	n->job = (struct job){ .work = work_notify, .done = done_notify };
	n->health = told;
	memcpy(n->text, h->waiting[0].text, size);
	forget_waiting(h, 0);
	h->under_way = n;
	lane_submit(h->lane, &n->job);
}

static void send_next(struct health *h)
{
	if (h->under_way == NULL && h->n_waiting > 0)
		submit_first_waiting(h, h);
}

static struct notice *find_waiting(struct health *h, enum notice_kind kind)
{
	for (size_t i = 0; i < h->n_waiting; i++)
		if (h->waiting[i].kind == kind)
			return &h->waiting[i];
	return NULL;
}

static void notify(struct health *h, enum notice_kind kind, char *text)	/* takes text */
{
	struct notice *same = kind == NOTICE_STATE ? NULL : find_waiting(h, kind);

	if (h->lane == NULL) {
		free(text);
		return;
	}
	if (same != NULL) {
		free(same->text);
		same->text = text;
		return;
	}
	if (h->n_waiting == WAITING_MAX)	/* the oldest state: there is one, of the others at most one each waits */
		forget_waiting(h, (size_t)(find_waiting(h, NOTICE_STATE) - h->waiting));
	h->waiting[h->n_waiting++] = (struct notice){ kind, text };
	send_next(h);
}

static void send_status(struct health *h)
{
	h->status_due = false;
	h->status_sent_ms = clock_now_ms();
	notify(h, NOTICE_STATUS, xasprintf("STATUS=%s", h->status));
}

/* The loop's idea of now is that of its last wake-up; a timer must count from this moment, or a callback that took
 * long would not show as lag. */
static void wind_tick(struct health *h)
{
	struct timeval tv = clock_interval(TICK_MS);

	event_base_update_cache_time(h->base);
	h->tick_due_ms = clock_now_ms() + TICK_MS;
	event_add(h->tick, &tv);
}

static void note_lag(struct health *h)
{
	msec_t late_ms = clock_now_ms() - h->tick_due_ms;

	if (late_ms > h->lag_max_ms)
		h->lag_max_ms = late_ms;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct health *h = arg;

	(void)fd, (void)what;
	note_lag(h);
	if (h->counters != NULL)
		histogram_note(&h->counters->loop_lag, (double)(clock_now_ms() - h->tick_due_ms) / 1000);
	if (h->status_due)
		send_status(h);
	wind_tick(h);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
	struct health *h = arg;
	bool alive = h->alive(h->arg);

	(void)fd, (void)what;
	if (alive)
		notify(h, NOTICE_WATCHDOG, xstrdup("WATCHDOG=1"));
	else if (!h->withheld)
		log_write(LOG_LEVEL_ERROR, EVENT_WATCHDOG_WITHHELD, NULL, NULL, 0, "something is stuck: the watchdog's ping is withheld until it moves, or until systemd starts us anew");
	else
		log_debug(NULL, "the watchdog's ping is still withheld");
	if (alive && h->withheld)
		log_info(NULL, "the watchdog's ping goes out again");
	h->withheld = !alive;
}

static void start_watchdog(struct health *h)
{
	uint64_t usec = 0;
	struct timeval tv;

	if (sd_watchdog_enabled(0, &usec) <= 0)
		return;
	tv = clock_interval((msec_t)(usec / 2000 > 0 ? usec / 2000 : 1));
	h->watchdog = event_new(h->base, -1, EV_PERSIST, on_watchdog, h);
	event_add(h->watchdog, &tv);
}

struct health *health_new(struct event_base *base, struct workers *workers, bool (*alive)(void *arg), void *arg)
{
	struct health *h = xcalloc(1, sizeof(*h));
	const char *manager = getenv("NOTIFY_SOCKET");

	h->base = base;
	h->alive = alive;
	h->arg = arg;
	h->status_sent_ms = clock_now_ms() - TICK_MS;
	h->tick = evtimer_new(base, on_tick, h);
	wind_tick(h);
	if (manager == NULL || *manager == '\0')
		return h;
	h->lane = lane_new(workers, "notify", LANE_REMOTE, 1);
	start_watchdog(h);
	return h;
}

void health_free(struct health **health)
{
	struct health *h = *health;

	if (h == NULL)
		return;
	if (h->under_way != NULL)
		h->under_way->health = NULL;
	while (h->n_waiting > 0)
		submit_first_waiting(h, NULL);
	event_free(h->tick);
	if (h->watchdog != NULL)
		event_free(h->watchdog);
	free(h);
	*health = NULL;
}

void health_ready(struct health *h)
{
	notify(h, NOTICE_STATE, xstrdup("READY=1"));
}

void health_reloading(struct health *h)
{
	struct timespec ts;

	/* Not our own clock: it is compared with the manager's. */
	clock_gettime(CLOCK_MONOTONIC, &ts);
	notify(h, NOTICE_STATE, xasprintf("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000));
}

/* The watchdog goes on to the end: a ping after STOPPING=1 arms it again, so there must be a next one. */
void health_stopping(struct health *h)
{
	notify(h, NOTICE_STATE, xstrdup("STOPPING=1"));
}

void health_status(struct health *h, const char *fmt, ...)
{
	char raw[STATUS_BYTES], text[STATUS_BYTES];
	va_list args;

	va_start(args, fmt);
	vsnprintf(raw, sizeof(raw), fmt, args);
	va_end(args);
	printable(text, sizeof(text), raw, strlen(raw));
	if (strcmp(text, h->status) == 0)
		return;
	memcpy(h->status, text, sizeof(text));
	h->status_due = true;
	if (clock_now_ms() - h->status_sent_ms >= TICK_MS)
		send_status(h);
}

void health_set_counters(struct health *h, struct counters *counters)
{
	h->counters = counters;
}

msec_t health_lag_max_ms(struct health *h)
{
	msec_t late_ms;

	note_lag(h);
	late_ms = h->lag_max_ms;
	h->lag_max_ms = 0;
	return late_ms;
}
