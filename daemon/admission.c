#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "admission.h"
#include "config.h"
#include "log.h"
#include "util.h"

#define THROTTLED_MANY 3		/* so many mailboxes within a minute are the credential's matter; both, where there are two */
#define THROTTLED_WITHIN_MS 60000
#define SLOWEST 64
#define STARTING_MOST 200		/* beyond that sign-ins only wait for the processor, each with a handshake's memory */
#define RATE_WITHOUT_LIMIT 50.0		/* what is slowed down when the configuration sets no limit */

struct gate {
	struct gate *next;
	char *credential;
	struct admission_conf conf;
	struct seat **waiting; size_t n_waiting, room_waiting;	/* a heap: first who goes first */
	uint64_t n_asked;
	TAILQ_HEAD(, seat) fetch_waiting;	/* in the order of asking */
	size_t n_seats;
	unsigned n_starting, n_fetching;
	double starts;				/* that may happen now; grows by sessions_per_second */
	msec_t counted_ms;			/* when starts was last brought up to date */
	struct event *timer;			/* the next start; pending while somebody waits for it */
	struct throttling { const struct seat *seat; msec_t at_ms; } throttled[THROTTLED_MANY];	/* the latest, of different seats */
	unsigned slow;				/* sessions per second are divided by that; 1: as configured */
	struct event *recovery;			/* pending while slow > 1 */
};
struct admission {
	struct event_base *base;		/* lent */
	struct gate *gates;
};

static void gate_next(struct gate *g);
static void fetch_next(struct gate *g);
static void count_starts(struct gate *g);
static void on_recovery(evutil_socket_t fd, short what, void *arg);

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	gate_next(arg);
}

struct admission *admission_new(struct event_base *base)
{
	struct admission *a = xcalloc(1, sizeof(*a));

	a->base = base;
	return a;
}

void admission_free(struct admission **admission)
{
	struct gate *g;

	while (*admission != NULL && (g = (*admission)->gates) != NULL) {
		(*admission)->gates = g->next;
		event_free(g->timer);
		event_free(g->recovery);
		free(g->waiting);
		free(g->credential);
		free(g);
	}
	free(*admission);
	*admission = NULL;
}

static struct gate *gate_find(const struct admission *a, const char *credential)
{
	struct gate *g;

	for (g = a->gates; g != NULL && strcmp(g->credential, credential) != 0; g = g->next)
		;
	return g;
}

/* --- slowing down --- */

static double gate_rate(const struct gate *g)	/* sessions per second; 0: no limit */
{
	double rate = g->conf.sessions_per_second;

	if (g->slow > 1)
		rate = (rate > 0 ? rate : RATE_WITHOUT_LIMIT) / g->slow;
	return rate;
}

static void set_slow(struct gate *g, unsigned slow)
{
	struct log_context ctx = { .credential = g->credential };
	struct timeval minute = clock_interval(THROTTLED_WITHIN_MS);
	bool slower = slow > g->slow;

	count_starts(g);			/* until now, at the old rate */
	g->slow = slow;
	if (slower)
		log_write(LOG_LEVEL_WARNING, EVENT_THROTTLED, &ctx, NULL, 0, "the server throttles several mailboxes of this credential: "
		    "%.2f new sessions per second from now on", gate_rate(g));
	else
		log_info(&ctx, "no mailbox was throttled for a minute: new sessions %s", slow > 1 ? "come faster again" : "start as configured");
	if (slow > 1)
		event_add(g->recovery, &minute);
}

static void on_recovery(evutil_socket_t fd, short what, void *arg)
{
	struct gate *g = arg;

	(void)fd, (void)what;
	set_slow(g, g->slow / 2);
	gate_next(g);
}

/* The seat takes the place of its own last time, or of the oldest. */
static void note_throttled(struct gate *g, const struct seat *s)
{
	struct throttling *at = &g->throttled[0];

	for (size_t i = 0; i < THROTTLED_MANY; i++) {
		if (g->throttled[i].seat == s) {
			at = &g->throttled[i];
			break;
		}
		if (g->throttled[i].at_ms < at->at_ms)
			at = &g->throttled[i];
	}
	*at = (struct throttling){ s, clock_now_ms() };
}

void seat_throttled(struct seat *s)
{
	struct gate *g = s->gate;
	msec_t since_ms = clock_now_ms() - THROTTLED_WITHIN_MS;
	struct timeval minute = clock_interval(THROTTLED_WITHIN_MS);
	size_t n = 0;

	note_throttled(g, s);
	if (g->slow > 1)
		event_add(g->recovery, &minute);	/* it goes on: no recovery yet */
	for (size_t i = 0; i < THROTTLED_MANY; i++)
		n += g->throttled[i].seat != NULL && g->throttled[i].at_ms >= since_ms;
	if (n < 2 || n < (g->n_seats < THROTTLED_MANY ? g->n_seats : THROTTLED_MANY))
		return;
	memset(g->throttled, 0, sizeof(g->throttled));	/* as many again make it slower still */
	if (g->slow < SLOWEST)
		set_slow(g, 2 * g->slow);
}

static struct gate *gate_make(struct admission *a, const char *credential)
{
	struct gate *g = xcalloc(1, sizeof(*g));

	g->credential = xstrdup(credential);
	TAILQ_INIT(&g->fetch_waiting);
	g->starts = 1;
	g->counted_ms = clock_now_ms();
	g->timer = evtimer_new(a->base, on_timer, g);
	g->recovery = evtimer_new(a->base, on_recovery, g);
	g->slow = 1;
	g->next = a->gates;
	a->gates = g;
	return g;
}

void admission_configure(struct admission *a, const struct config *config)
{
	for (size_t i = 0; i < config->n_credentials; i++) {
		const struct credential_conf *c = config->credentials[i];
		struct gate *g = gate_find(a, c->name);

		if (g == NULL)
			g = gate_make(a, c->name);
		g->conf = c->admission;
		gate_next(g);
		fetch_next(g);
	}
}

/* --- waiting to start --- */

/* Who is longest without a turn; of those that never had one, or at the same time, who asked first. */
static bool goes_before(const struct seat *a, const struct seat *b)
{
	return a->turn_ms != b->turn_ms ? a->turn_ms < b->turn_ms : a->asked < b->asked;
}

static void place(struct gate *g, struct seat *s, size_t at)
{
	g->waiting[at] = s;
	s->place = at;
}

static void move_up(struct gate *g, struct seat *s, size_t at)
{
	for (; at > 0 && goes_before(s, g->waiting[(at - 1) / 2]); at = (at - 1) / 2)
		place(g, g->waiting[(at - 1) / 2], at);
	place(g, s, at);
}

static void move_down(struct gate *g, struct seat *s, size_t at)
{
	size_t below;

	while ((below = 2 * at + 1) < g->n_waiting) {
		if (below + 1 < g->n_waiting && goes_before(g->waiting[below + 1], g->waiting[below]))
			below++;
		if (!goes_before(g->waiting[below], s))
			break;
		place(g, g->waiting[below], at);
		at = below;
	}
	place(g, s, at);
}

static void begin_waiting(struct gate *g, struct seat *s)
{
	if (g->n_waiting == g->room_waiting) {
		g->room_waiting = g->room_waiting == 0 ? 16 : 2 * g->room_waiting;
		g->waiting = xreallocarray(g->waiting, g->room_waiting, sizeof(*g->waiting));
	}
	s->waiting = true;
	s->turn_ms = s->ops->last_turn_ms(s->arg);
	s->asked = g->n_asked++;
	move_up(g, s, g->n_waiting++);
}

static void end_waiting(struct gate *g, struct seat *s)
{
	struct seat *last = g->waiting[--g->n_waiting];

	s->waiting = false;
	if (last == s)
		return;
	move_down(g, last, s->place);		/* it comes from another branch, so it may belong either way */
	move_up(g, last, last->place);
}

/* --- starting --- */

static void count_starts(struct gate *g)
{
	msec_t now_ms = clock_now_ms();
	double rate = gate_rate(g), at_most = rate > 100 ? rate / 100 : 1;	/* what may come together: a hundredth of a second's worth */

	g->starts += (double)(now_ms - g->counted_ms) * rate / 1000;
	if (g->starts > at_most)
		g->starts = at_most;
	g->counted_ms = now_ms;
}

/* May one start now? If it is a matter of time, the timer tells. */
static bool may_start(struct gate *g)
{
	struct timeval tv;

	if (g->n_starting >= STARTING_MOST || (g->conf.starting_at_once != 0 && g->n_starting >= g->conf.starting_at_once))
		return false;
	if (gate_rate(g) == 0)
		return true;
	count_starts(g);
	if (g->starts >= 1) {
		g->starts -= 1;
		return true;
	}
	tv = clock_interval((msec_t)((1 - g->starts) * 1000 / gate_rate(g)) + 1);
	event_add(g->timer, &tv);
	return false;
}

static void gate_next(struct gate *g)
{
	struct log_context ctx = { .credential = g->credential };

	while (g->n_waiting > 0 && may_start(g)) {
		struct seat *s = g->waiting[0];

		end_waiting(g, s);
		s->starting = true;
		g->n_starting++;
		log_debug(&ctx, "admitted to sign in; %zu wait", g->n_waiting);
		s->ops->admit(s->arg);
	}
}

/* Admits from the loop: who asks is in the middle of something. */
static void gate_soon(struct gate *g)
{
	event_active(g->timer, 0, 0);
}

void seat_want_session(struct seat *s)
{
	struct gate *g = s->gate;

	begin_waiting(g, s);
	gate_soon(g);
}

void seat_started(struct seat *s)
{
	if (!s->starting)
		return;
	s->starting = false;
	s->gate->n_starting--;
	gate_soon(s->gate);
}

/* --- fetching --- */

static void fetch_next(struct gate *g)
{
	struct seat *s;

	while ((s = TAILQ_FIRST(&g->fetch_waiting)) != NULL &&
	    (g->conf.fetching_at_once == 0 || g->n_fetching < g->conf.fetching_at_once)) {
		TAILQ_REMOVE(&g->fetch_waiting, s, fetch_link);
		s->fetch_waiting = false;
		s->fetching = true;
		g->n_fetching++;
		s->ops->fetch_admit(s->arg);
	}
}

void seat_want_fetch(struct seat *s)
{
	struct gate *g = s->gate;

	s->fetch_waiting = true;
	TAILQ_INSERT_TAIL(&g->fetch_waiting, s, fetch_link);
	fetch_next(g);
}

void seat_fetch_over(struct seat *s)
{
	struct gate *g = s->gate;

	if (s->fetching) {
		s->fetching = false;
		g->n_fetching--;
	}
	if (s->fetch_waiting) {
		TAILQ_REMOVE(&g->fetch_waiting, s, fetch_link);
		s->fetch_waiting = false;
	}
	fetch_next(g);
}

/* --- seats --- */

void seat_take(struct admission *a, struct seat *s, const char *credential, const struct seat_ops *ops, void *arg)
{
	s->gate = gate_find(a, credential);
	if (s->gate == NULL)
		s->gate = gate_make(a, credential);
	s->ops = ops;
	s->arg = arg;
	s->gate->n_seats++;
}

void seat_leave(struct seat *s)
{
	struct gate *g = s->gate;

	if (s->waiting)
		end_waiting(g, s);
	seat_started(s);
	seat_fetch_over(s);
	g->n_seats--;
	for (size_t i = 0; i < THROTTLED_MANY; i++)
		if (g->throttled[i].seat == s)
			g->throttled[i] = (struct throttling){ NULL, 0 };
}

void admission_snapshot(const struct admission *a, const char *credential, struct gate_snapshot *ret)
{
	const struct gate *g = gate_find(a, credential);

	*ret = (struct gate_snapshot){ 0 };
	if (g != NULL)
		*ret = (struct gate_snapshot){ .seats = g->n_seats, .waiting = g->n_waiting, .starting = g->n_starting, .fetching = g->n_fetching,
		    .sessions_per_second = gate_rate(g), .slowed = g->slow > 1 };
}
