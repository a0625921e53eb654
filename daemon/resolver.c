/* A name is asked for by one job at a time; whoever wants it waits at that name. Nobody waits longer than ANSWER_MS, also
 * when getaddrinfo hangs: its end then only fills the cache. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include "resolver.h"
#include "util.h"
#include "workers.h"

#define ANSWER_MS 30000
#define STALE_ANSWER_MS 1800		/* RFC 8767 section 5: an old answer now beats a new one too late */
#define FRESH_MS 60000
#define STALE_MS 3600000
#define FAILURE_MS 5000			/* a failure answers for so long, or a dead DNS would hold up every caller anew */
#define THREADS 4
#define MAX_ADDRESSES 32
#define MAX_NAMES 256			/* beyond it, names nobody has asked for lately go */

struct resolve_job {
	struct job job;
	struct name *name;		/* the loop's; NULL: nobody is interested any more */
	char *host;
	struct address *v;		/* results, written by work() */
	size_t n;
	char error[128];
};
TAILQ_HEAD(lookups, lookup);
struct name {
	LIST_ENTRY(name) link;
	struct lookups waiting;
	struct resolve_job *job;	/* NULL: no getaddrinfo runs */
	struct address *v;		/* the last good answer, without port */
	size_t n;
	msec_t good_ms;			/* its time; n 0: none */
	msec_t failed_ms;		/* of the last failure, when error is not "" */
	char error[128];
	char host[];
};
struct resolver {
	struct event_base *base;	/* lent */
	struct lane *lane;
	LIST_HEAD(, name) names;
	size_t n_names;
};
struct lookup {
	TAILQ_ENTRY(lookup) link;	/* while name is set */
	struct name *name;		/* NULL: a numeric address, in numeric */
	struct address numeric;
	uint16_t port;
	resolver_cb *cb;
	void *arg;
	struct event *due;		/* the answer is there, or time is up */
};

struct resolver *resolver_new(struct event_base *base, struct workers *workers)
{
	struct resolver *r = xcalloc(1, sizeof(*r));

	r->base = base;
	r->lane = lane_new(workers, "resolver", LANE_REMOTE, THREADS);
	LIST_INIT(&r->names);
	return r;
}

static void name_free(struct name *name)
{
	LIST_REMOVE(name, link);
	if (name->job != NULL)
		name->job->name = NULL;
	free(name->v);
	free(name);
}

void resolver_free(struct resolver **resolver)
{
	struct resolver *r = *resolver;

	if (r == NULL)
		return;
	while (!LIST_EMPTY(&r->names))
		name_free(LIST_FIRST(&r->names));
	free(r);
	*resolver = NULL;
}

/* --- on the lane --- */

static void take_addresses(struct resolve_job *j, const struct addrinfo *list)
{
	j->v = xcalloc(MAX_ADDRESSES, sizeof(*j->v));
	for (const struct addrinfo *ai = list; ai != NULL && j->n < MAX_ADDRESSES; ai = ai->ai_next) {
		if ((ai->ai_family != AF_INET && ai->ai_family != AF_INET6) || ai->ai_addrlen > sizeof(j->v->sa))
			continue;
		memcpy(&j->v[j->n].sa, ai->ai_addr, ai->ai_addrlen);
		j->v[j->n++].len = ai->ai_addrlen;
	}
}

static void work_resolve(struct job *job)
{
	struct resolve_job *j = (struct resolve_job *)job;
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG }, *list = NULL;
	int code = getaddrinfo(j->host, NULL, &hints, &list);
	const char *error = code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code);

	if (code == 0) {
		take_addresses(j, list);
		freeaddrinfo(list);
		error = "the name has no address";
	}
	if (j->n == 0)
		printable(j->error, sizeof(j->error), error, strlen(error));
}

/* --- on the loop --- */

static bool name_is_fresh(const struct name *name)
{
	return name->n > 0 && clock_now_ms() - name->good_ms < FRESH_MS;
}

static bool name_is_usable(const struct name *name)
{
	return name->n > 0 && clock_now_ms() - name->good_ms < STALE_MS;
}

static bool name_has_failed(const struct name *name)
{
	return name->error[0] != '\0' && clock_now_ms() - name->failed_ms < FAILURE_MS;
}

static void done_resolve(struct job *job)
{
	struct resolve_job *j = (struct resolve_job *)job;
	struct name *name = j->name;
	struct lookup *l;

	if (name != NULL) {
		name->job = NULL;
		memcpy(name->error, j->error, sizeof(name->error));
		name->failed_ms = clock_now_ms();
		if (j->n > 0) {
			free(name->v);
			name->v = j->v;
			name->n = j->n;
			name->good_ms = clock_now_ms();
			j->v = NULL;
		}
		TAILQ_FOREACH(l, &name->waiting, link)
			event_active(l->due, 0, 0);
	}
	free(j->v);
	free(j->host);
	free(j);
}

static void name_ask(struct resolver *r, struct name *name)
{
	struct resolve_job *j = xcalloc(1, sizeof(*j));

	j->job.work = work_resolve;
	j->job.done = done_resolve;
	j->name = name;
	j->host = xstrdup(name->host);
	name->job = j;
	lane_submit(r->lane, &j->job);
}

static void drop_old_names(struct resolver *r)
{
	struct name *name = LIST_FIRST(&r->names), *next;

	for (; name != NULL; name = next) {
		next = LIST_NEXT(name, link);
		if (name->job == NULL && TAILQ_EMPTY(&name->waiting) && !name_is_fresh(name)) {
			name_free(name);
			r->n_names--;
		}
	}
}

static struct name *name_get(struct resolver *r, const char *host)
{
	struct name *name;

	LIST_FOREACH(name, &r->names, link)
		if (strcasecmp(name->host, host) == 0)
			return name;
	if (r->n_names >= MAX_NAMES)
		drop_old_names(r);
	name = xcalloc(1, sizeof(*name) + strlen(host) + 1);
	strcpy(name->host, host);
	TAILQ_INIT(&name->waiting);
	LIST_INSERT_HEAD(&r->names, name, link);
	r->n_names++;
	return name;
}

static void lookup_free(struct lookup *l)
{
	if (l->name != NULL)
		TAILQ_REMOVE(&l->name->waiting, l, link);
	event_free(l->due);
	free(l);
}

static void set_port(struct address *a, uint16_t port)
{
	if (a->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&a->sa)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&a->sa)->sin_port = htons(port);
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct lookup *l = arg;
	const struct name *name = l->name;
	const struct address *from = name != NULL ? name->v : &l->numeric;
	size_t n = name == NULL ? 1 : name_is_usable(name) ? name->n : 0;
	resolver_cb *cb = l->cb;
	void *cb_arg = l->arg;
	struct address v[MAX_ADDRESSES];
	char error[sizeof(name->error)] = "no answer from the name servers";

	(void)fd, (void)what;
	for (size_t i = 0; i < n; i++) {
		v[i] = from[i];
		set_port(&v[i], l->port);
	}
	if (n == 0 && name_has_failed(name))
		memcpy(error, name->error, sizeof(error));
	lookup_free(l);
	cb(cb_arg, v, n, n > 0 ? NULL : error);
}

static bool parse_numeric(const char *host, struct address *ret_address)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&ret_address->sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ret_address->sa;

	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		ret_address->len = sizeof(*v4);
		return true;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		ret_address->len = sizeof(*v6);
		return true;
	}
	return false;
}

/* The answer is at hand, or comes with the job's end, or time runs out: whichever is first. */
static void lookup_wait(struct resolver *r, struct lookup *l)
{
	struct name *name = l->name;
	struct timeval limit = clock_interval(name_is_usable(name) ? STALE_ANSWER_MS : ANSWER_MS);

	if (name->job == NULL && (name_is_fresh(name) || name_has_failed(name))) {
		event_active(l->due, 0, 0);
		return;
	}
	if (name->job == NULL)
		name_ask(r, name);
	event_add(l->due, &limit);
}

struct lookup *resolver_start(struct resolver *r, const char *host, uint16_t port, resolver_cb *cb, void *arg)
{
	struct lookup *l = xcalloc(1, sizeof(*l));

	l->cb = cb;
	l->arg = arg;
	l->port = port;
	l->due = evtimer_new(r->base, on_due, l);
	if (parse_numeric(host, &l->numeric)) {
		event_active(l->due, 0, 0);
		return l;
	}
	l->name = name_get(r, host);
	TAILQ_INSERT_TAIL(&l->name->waiting, l, link);
	lookup_wait(r, l);
	return l;
}

void lookup_cancel(struct lookup **lookup)
{
	if (*lookup != NULL)
		lookup_free(*lookup);
	*lookup = NULL;
}
