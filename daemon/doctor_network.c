/* DNS, TCP and TLS of one host, one line each. */
#include <arpa/inet.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netdb.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dial.h"
#include "doctor_private.h"
#include "resolver.h"
#include "tls.h"

#define TLS_LIMIT_MS 30000
#define EXPIRES_SOON_S (14 * 86400)
#define ADDRESSES_SHOWN 4

struct probe {
	struct event_base *base;
	struct dialer *dialer;
	char *host, *subject;
	uint16_t port;
	struct failure_subject who;
	struct report *report;
	enum check_scope scope;
	SSL *ssl;
	struct bufferevent *bev;
	struct dial *dial;
	struct lookup *lookup;
	struct event *timer;
	probe_cb *cb;
	void *arg;
};

static void probe_over(struct probe *p, bool good)
{
	probe_cb *cb = p->cb;
	void *arg = p->arg;

	if (p->bev != NULL)
		bufferevent_free(p->bev);	/* frees ssl */
	else
		SSL_free(p->ssl);
	event_free(p->timer);
	free(p->host);
	free(p->subject);
	free(p);
	cb(arg, good);
}

static void failed(struct probe *p, const char *step, enum failure_phase phase, bool is_certificate, const char *what)
{
	static const char *const steps[] = { "DNS", "TCP", "TLS" };
	struct failure why;
	bool after = false;

	failure_from_network(&why, phase, is_certificate, what, &p->who);
	report_failure(p->report, p->scope, p->subject, step, &why, NULL);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		if (after)
			report_add(p->report, p->scope, p->subject, steps[i], CHECK_SKIPPED, NULL, NULL, "after the failure above");
		after = after || strcmp(steps[i], step) == 0;
	}
	probe_over(p, false);
}

static void on_bev_event(struct bufferevent *bev, short what, void *arg)
{
	struct probe *p = arg;
	char text[300], hint[160] = "";
	bool is_certificate;
	int64_t end_wall_s, left_s;

	if (!(what & BEV_EVENT_CONNECTED)) {
		tls_explain(p->ssl, bufferevent_get_openssl_error(bev), &is_certificate, text, sizeof(text));
		failed(p, "TLS", PHASE_TLS, is_certificate, text);
		return;
	}
	tls_describe(p->ssl, text, sizeof(text), &end_wall_s);
	left_s = end_wall_s - clock_wall_s();
	if (end_wall_s != 0 && left_s < EXPIRES_SOON_S)
		snprintf(hint, sizeof(hint), "The certificate ends in %lld days.", (long long)left_s / 86400);
	report_add(p->report, p->scope, p->subject, "TLS", CHECK_OK, hint, NULL, "%s", text);
	probe_over(p, true);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	if (((struct probe *)arg)->ssl == NULL)
		probe_over(arg, false);		/* it could not even begin, and that has been reported */
	else
		failed(arg, "TLS", PHASE_TLS, false, "timed out");
}

static void on_dialed(void *arg, int fd, enum failure_phase phase, const char *error)
{
	struct probe *p = arg;
	struct timeval limit = clock_interval(TLS_LIMIT_MS);

	p->dial = NULL;
	if (fd < 0) {
		failed(p, "TCP", phase, false, error);
		return;
	}
	report_add(p->report, p->scope, p->subject, "TCP", CHECK_OK, NULL, NULL, "connected to port %u", p->port);
	p->bev = bufferevent_openssl_socket_new(p->base, fd, p->ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_setcb(p->bev, NULL, NULL, on_bev_event, p);
	bufferevent_enable(p->bev, EV_READ | EV_WRITE);
	event_add(p->timer, &limit);
}

static void on_resolved(void *arg, const struct address *v, size_t n, const char *error)
{
	struct probe *p = arg;
	char text[300] = "", one[64];
	size_t at = 0;

	p->lookup = NULL;
	if (n == 0) {
		failed(p, "DNS", PHASE_RESOLVE, false, error);
		return;
	}
	for (size_t i = 0; i < n && i < ADDRESSES_SHOWN && at < sizeof(text); i++)
		if (getnameinfo((const struct sockaddr *)&v[i].sa, v[i].len, one, sizeof(one), NULL, 0, NI_NUMERICHOST) == 0)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", at > 0 ? ", " : "", one);
	report_add(p->report, p->scope, p->subject, "DNS", CHECK_OK, NULL, NULL, "%s is %s%s", p->host, text, n > ADDRESSES_SHOWN ? ", ..." : "");
	p->dial = dial_start(p->dialer, p->host, p->port, on_dialed, p);
}

struct probe *probe_start(struct event_base *base, struct resolver *resolver, struct dialer *dialer, struct tls *tls, const char *host,
    uint16_t port, const char *ca_file, struct report *report, enum check_scope scope, const char *subject, probe_cb *cb, void *arg)
{
	struct probe *p = xcalloc(1, sizeof(*p));
	char error[200];

	*p = (struct probe){ .base = base, .dialer = dialer, .host = xstrdup(host), .subject = xstrdup(subject), .port = port,
	    .report = report, .scope = scope, .cb = cb, .arg = arg };
	p->who = (struct failure_subject){ .host = p->host, .token_host = p->host };
	p->timer = evtimer_new(base, on_timer, p);
	p->ssl = tls_client(tls, host, ca_file, NULL, error, sizeof(error));
	if (p->ssl == NULL) {
		report_add(report, scope, subject, "CA certificates", CHECK_FAILED, "Correct ca_file in the configuration.", NULL, "%s", error);
		event_active(p->timer, 0, 0);
		return p;
	}
	p->lookup = resolver_start(resolver, host, port, on_resolved, p);
	return p;
}
