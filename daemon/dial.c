/* At most two attempts run at a time, one for each address family; the list of addresses is walked per family. */
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "dial.h"
#include "resolver.h"

#define ATTEMPT_MS 10000
#define OTHER_FAMILY_MS 3000
#define MAX_ADDRESSES 16
#define KEEPALIVE_IDLE_S 120
#define USER_TIMEOUT_MS 60000

struct host_memory {			/* which family a host last answered on */
	struct host_memory *next;
	int family;
	char name[];
};
struct dialer {
	struct event_base *base;	/* lent */
	struct resolver *resolver;	/* lent */
	struct host_memory *hosts;	/* as many as the configuration names */
};
struct attempt {			/* one family's walk through its addresses */
	struct dial *dial;
	int family, fd;			/* fd -1: not connecting now */
	size_t next;			/* index into the dial's addresses */
	struct event *event;		/* owned; writable, or ATTEMPT_MS over */
	bool started;
};
struct dial {
	struct dialer *dialer;
	dial_cb *cb;
	void *arg;
	char *host;
	struct lookup *lookup;		/* NULL once resolved */
	struct address *addresses;
	size_t n_addresses;
	struct attempt attempts[2];	/* [0]: the family tried first */
	struct event *other_timer;	/* starts attempts[1] */
	struct event *report;		/* answers from the loop */
	int fd;				/* the result */
	enum failure_phase phase;
	char error[160];
};

struct dialer *dialer_new(struct event_base *base, struct resolver *resolver)
{
	struct dialer *d = xcalloc(1, sizeof(*d));

	d->base = base;
	d->resolver = resolver;
	return d;
}

void dialer_free(struct dialer **dialer)
{
	struct dialer *d = *dialer;

	if (d == NULL)
		return;
	while (d->hosts != NULL) {
		struct host_memory *h = d->hosts;

		d->hosts = h->next;
		free(h);
	}
	free(d);
	*dialer = NULL;
}

static struct host_memory *host_find(struct dialer *d, const char *name)
{
	struct host_memory *h;

	for (h = d->hosts; h != NULL && strcmp(h->name, name) != 0; h = h->next)
		;
	return h;
}

static void host_remember(struct dialer *d, const char *name, int family)
{
	struct host_memory *h = host_find(d, name);

	if (h == NULL) {
		h = xmalloc(sizeof(*h) + strlen(name) + 1);
		strcpy(h->name, name);
		h->next = d->hosts;
		d->hosts = h;
	}
	h->family = family;
}

static void attempt_stop(struct attempt *a)
{
	event_del(a->event);
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void dial_answer(struct dial *d)
{
	event_active(d->report, 0, 0);
}

static void set_options(int fd)
{
	int one = 1, idle_s = KEEPALIVE_IDLE_S, interval_s = 20, count = 3;
	unsigned timeout_ms = USER_TIMEOUT_MS;

	/* Best effort: a dead peer is also found by the phases' deadlines. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void dial_connected(struct dial *d, struct attempt *a)
{
	host_remember(d->dialer, d->host, a->family);
	d->fd = a->fd;
	a->fd = -1;
	attempt_stop(&d->attempts[0]);
	attempt_stop(&d->attempts[1]);
	event_del(d->other_timer);
	set_options(d->fd);
	dial_answer(d);
}

static void attempt_next(struct attempt *a);

static void attempt_failed(struct attempt *a, const char *why)
{
	snprintf(a->dial->error, sizeof(a->dial->error), "%s", why);
	attempt_stop(a);
	attempt_next(a);
}

static void on_attempt(evutil_socket_t fd, short what, void *arg)
{
	struct attempt *a = arg;
	int error = 0;
	socklen_t len = sizeof(error);

	if (what & EV_TIMEOUT) {
		attempt_failed(a, "connection timed out");
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error != 0)
		attempt_failed(a, strerror(error));
	else
		dial_connected(a->dial, a);
}

/* Begins a connection to the family's next address; when there is none, the other family's turn, or the end. */
static void attempt_next(struct attempt *a)
{
	struct dial *d = a->dial;
	struct attempt *other = a == &d->attempts[0] ? &d->attempts[1] : &d->attempts[0];
	struct timeval limit = clock_interval(ATTEMPT_MS);

	a->started = true;
	while (a->next < d->n_addresses) {
		struct address *to = &d->addresses[a->next++];

		if (to->sa.ss_family != a->family)
			continue;
		a->fd = socket(a->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (a->fd >= 0 && (connect(a->fd, (struct sockaddr *)&to->sa, to->len) == 0 || errno == EINPROGRESS)) {
			event_assign(a->event, d->dialer->base, a->fd, EV_WRITE, on_attempt, a);
			event_add(a->event, &limit);
			return;
		}
		snprintf(d->error, sizeof(d->error), "%s", strerror(errno));
		if (a->fd >= 0)
			close(a->fd);
		a->fd = -1;
	}
	if (!other->started) {
		event_del(d->other_timer);
		attempt_next(other);
	} else if (other->fd < 0) {
		dial_answer(d);
	}
}

static void on_other_family(evutil_socket_t fd, short what, void *arg)
{
	struct dial *d = arg;

	(void)fd, (void)what;
	attempt_next(&d->attempts[1]);
}

static void on_resolved(void *arg, const struct address *v, size_t n, const char *error)
{
	struct dial *d = arg;
	struct host_memory *memory = host_find(d->dialer, d->host);
	struct timeval wait = clock_interval(OTHER_FAMILY_MS);

	d->lookup = NULL;
	if (n == 0) {
		d->phase = PHASE_RESOLVE;
		snprintf(d->error, sizeof(d->error), "%s", error);
		dial_answer(d);
		return;
	}
	d->n_addresses = n < MAX_ADDRESSES ? n : MAX_ADDRESSES;
	d->addresses = xcalloc(d->n_addresses, sizeof(*d->addresses));
	memcpy(d->addresses, v, d->n_addresses * sizeof(*v));
	d->attempts[0].family = memory != NULL ? memory->family : d->addresses[0].sa.ss_family;
	d->attempts[1].family = d->attempts[0].family == AF_INET6 ? AF_INET : AF_INET6;
	event_add(d->other_timer, &wait);
	attempt_next(&d->attempts[0]);
}

static void dial_free(struct dial *d)
{
	lookup_cancel(&d->lookup);
	for (size_t i = 0; i < 2; i++) {
		attempt_stop(&d->attempts[i]);
		event_free(d->attempts[i].event);
	}
	event_free(d->other_timer);
	event_free(d->report);
	if (d->fd >= 0)
		close(d->fd);
	free(d->addresses);
	free(d->host);
	free(d);
}

static void on_report(evutil_socket_t fd, short what, void *arg)
{
	struct dial *d = arg;
	int result = d->fd;
	char error[sizeof(d->error)];

	(void)fd, (void)what;
	memcpy(error, d->error, sizeof(error));
	d->fd = -1;
	d->cb(d->arg, result, d->phase, result < 0 ? error : NULL);
	dial_free(d);
}

struct dial *dial_start(struct dialer *dialer, const char *host, uint16_t port, dial_cb *cb, void *arg)
{
	struct dial *d = xcalloc(1, sizeof(*d));

	d->dialer = dialer;
	d->cb = cb;
	d->arg = arg;
	d->host = xstrdup(host);
	d->fd = -1;
	d->phase = PHASE_CONNECT;
	strcpy(d->error, "no address");
	d->other_timer = evtimer_new(dialer->base, on_other_family, d);
	d->report = event_new(dialer->base, -1, 0, on_report, d);
	for (size_t i = 0; i < 2; i++) {
		d->attempts[i] = (struct attempt){ .dial = d, .fd = -1 };
		d->attempts[i].event = event_new(dialer->base, -1, 0, on_attempt, &d->attempts[i]);
	}
	d->lookup = resolver_start(dialer->resolver, host, port, on_resolved, d);
	return d;
}

/* A family may let the handshake's small packets through and lose the large ones of TLS. */
void dialer_doubt(struct dialer *d, const char *host, int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	struct host_memory *memory = host_find(d, host);

	if (memory == NULL || getpeername(fd, (struct sockaddr *)&peer, &len) < 0 || memory->family != peer.ss_family)
		return;
	memory->family = memory->family == AF_INET6 ? AF_INET : AF_INET6;
}

void dial_cancel(struct dial **dial)
{
	if (*dial != NULL)
		dial_free(*dial);
	*dial = NULL;
}
