/* DNS, TCP and TLS of one host, and the greeting of an IMAP server: one line each; each has its time. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "dial.h"
#include "doctor_private.h"
#include "resolver.h"
#include "tls_stream.h"

#define EXPIRES_SOON_S (14 * 86400)
#define ADDRESSES_SHOWN 4

#define GREETING_MAX 4096

enum probe_step { STEP_DNS, STEP_TCP, STEP_TLS, STEP_GREETING, STEP_N };
static const struct { const char *name; enum failure_phase phase; msec_t limit_ms; } steps[STEP_N] = {
	[STEP_DNS] = { "DNS", PHASE_RESOLVE, 0 },	/* the resolver has a limit of its own */
	[STEP_TCP] = { "TCP", PHASE_CONNECT, 60000 },
	[STEP_TLS] = { "TLS", PHASE_TLS, 30000 },
	[STEP_GREETING] = { "greeting", PHASE_GREETING, 30000 },
};

struct probe {
	const struct doctor_env *env;		/* lent */
	struct report_at at;			/* subject owned */
	char *host, *subject;
	uint16_t port;
	enum probe_step last;
	struct failure_subject who;
	enum probe_step step;			/* under way */
	struct tls_stream *stream;		/* NULL: its CA cannot be read */
	struct dial *dial;
	struct lookup *lookup;
	struct event *timer;
	probe_cb *cb;
	void *arg;
};

static void probe_free(struct probe *p)
{
	lookup_cancel(&p->lookup);
	dial_cancel(&p->dial);
	tls_stream_free(&p->stream);
	event_free(p->timer);
	free(p->host);
	free(p->subject);
	free(p);
}

void probe_cancel(struct probe **probe)
{
	if (*probe != NULL)
		probe_free(*probe);
	*probe = NULL;
}

static void probe_over(struct probe *p, bool good)
{
	probe_cb *cb = p->cb;
	void *arg = p->arg;

	probe_free(p);
	cb(arg, good);
}

static void enter(struct probe *p, enum probe_step step)
{
	struct timeval limit = clock_interval(steps[step].limit_ms);

	p->step = step;
	if (steps[step].limit_ms > 0)
		event_add(p->timer, &limit);
}

static void fail(struct probe *p, const struct failure *why)
{
	report_failure(&p->at, steps[p->step].name, why, NULL);
	for (enum probe_step s = p->step + 1; s <= p->last; s++)
		report_skipped(&p->at, steps[s].name, "after the failure above");
	probe_over(p, false);
}

static void step_failed(struct probe *p, bool is_certificate, const char *what)
{
	struct failure why;

	failure_from_network(&why, steps[p->step].phase, is_certificate, what, &p->who);
	fail(p, &why);
}

/* The first line says that this is IMAP, which port 443, say, would not; its text names the front end and means nothing else
 * (exchange-online 4.1). */
static void on_bytes(void *arg, struct evbuffer *in)
{
	struct probe *p = arg;
	char *line = evbuffer_readln(in, NULL, EVBUFFER_EOL_CRLF), shown[81];
	const char *text;
	struct failure why;

	if (line == NULL && evbuffer_get_length(in) < GREETING_MAX)
		return;
	if (line != NULL && strncasecmp(line, "* OK ", 5) == 0) {
		text = line[5] == '[' && strchr(line, ']') != NULL ? strchr(line, ']') + 1 : line + 5;	/* past a response code */
		printable(shown, sizeof(shown), text, strlen(text));
		report_ok(&p->at, "greeting", NULL, "%s", shown + strspn(shown, " "));
		free(line);
		probe_over(p, true);
		return;
	}
	printable(shown, sizeof(shown), line != NULL ? line : "", line != NULL ? strlen(line) : 0);
	if (strncasecmp(shown, "* BYE ", 6) == 0)
		failure_from_imap(&why, PHASE_GREETING, ANSWER_BYE, NULL, shown + 6, &p->who);
	else
		failure_own(&why, "protocol", &p->who, "this is no IMAP greeting: %s", shown);
	free(line);
	fail(p, &why);
}

static void on_open(void *arg)
{
	struct probe *p = arg;
	char text[300], hint[160] = "";
	int64_t end_wall_s, left_s;

	tls_stream_describe(p->stream, text, sizeof(text), &end_wall_s);
	left_s = end_wall_s - clock_wall_s();
	if (end_wall_s != 0 && left_s < EXPIRES_SOON_S)
		snprintf(hint, sizeof(hint), "The certificate ends in %lld days: its owner must renew it before.", (long long)left_s / 86400);
	report_ok(&p->at, "TLS", hint, "%s", text);
	if (p->step == p->last)
		probe_over(p, true);
	else
		enter(p, STEP_GREETING);
}

static void on_end(void *arg, bool is_certificate, const char *why)
{
	step_failed(arg, is_certificate, why);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct probe *p = arg;

	(void)fd, (void)what;
	if (p->stream == NULL)
		probe_over(p, false);		/* it could not even begin, and that has been reported */
	else
		step_failed(p, false, "timed out");
}

static void on_dialed(void *arg, int fd, enum failure_phase phase, const char *error)
{
	struct probe *p = arg;

	(void)phase;
	p->dial = NULL;
	if (fd < 0) {
		step_failed(p, false, error);
		return;
	}
	report_ok(&p->at, "TCP", NULL, "connected to port %u", p->port);
	tls_stream_open(p->stream, fd);
	enter(p, STEP_TLS);
}

static void on_resolved(void *arg, const struct address *v, size_t n, const char *error)
{
	struct probe *p = arg;
	char text[300] = "", one[64];
	size_t at = 0;

	p->lookup = NULL;
	if (n == 0) {
		step_failed(p, false, error);
		return;
	}
	for (size_t i = 0; i < n && i < ADDRESSES_SHOWN && at < sizeof(text); i++)
		if (getnameinfo((const struct sockaddr *)&v[i].sa, v[i].len, one, sizeof(one), NULL, 0, NI_NUMERICHOST) == 0)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", at > 0 ? ", " : "", one);
	report_ok(&p->at, "DNS", NULL, "%s is %s%s", p->host, text, n > ADDRESSES_SHOWN ? ", ..." : "");
	enter(p, STEP_TCP);
	p->dial = dial_start(p->env->dialer, p->host, p->port, on_dialed, p);
}

struct probe *probe_start(const struct doctor_env *env, const struct report_at *at, const char *host, uint16_t port, const char *ca_file,
    bool is_imap, probe_cb *cb, void *arg)
{
	static const struct tls_stream_ops ops = { on_open, on_bytes, on_end };
	struct probe *p = xcalloc(1, sizeof(*p));
	char error[200];

	*p = (struct probe){ .env = env, .at = *at, .host = xstrdup(host), .subject = xstrdup(at->subject), .port = port,
	    .last = is_imap ? STEP_GREETING : STEP_TLS, .cb = cb, .arg = arg };
	p->at.subject = p->subject;
	p->who = (struct failure_subject){ .host = p->host, .token_host = p->host, .mailbox = "its mailboxes" };
	p->timer = evtimer_new(env->base, on_timer, p);
	p->stream = tls_stream_new(env->base, env->tls, host, ca_file, &ops, p, error, sizeof(error));
	if (p->stream == NULL) {
		report_failed(&p->at, "CA certificates", ca_file != NULL ? "Correct ca_file in the configuration." :
		    "Install the system's certificates (apt-get install ca-certificates).", NULL, "%s", error);
		for (enum probe_step s = STEP_DNS; s <= p->last; s++)
			report_skipped(&p->at, steps[s].name, "after the failure above");
		event_active(p->timer, 0, 0);
		return p;
	}
	enter(p, STEP_DNS);
	p->lookup = resolver_start(env->resolver, host, port, on_resolved, p);
	return p;
}
