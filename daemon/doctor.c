/* The order of the steps: configuration, this machine, each credential, each IMAP host, then the mailboxes side by side as admission
 * lets them. What depends on something that failed is skipped, and says so. */
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>
#include <unistd.h>
#include "admission.h"
#include "dial.h"
#include "doctor_private.h"
#include "http.h"
#include "log.h"
#include "resolver.h"
#include "tls.h"
#include "token_cache.h"
#include "workers.h"

#define UNIT_STATE "/var/lib/mailpolld"
#define UNIT_RUNTIME "/run/mailpolld"
#define UNIT_CREDENTIALS "/run/credentials/mailpolld.service"	/* where systemd keeps those of the running unit, for root */

struct patient {			/* a mailbox */
	struct doctor *doctor;
	const struct mailbox_conf *conf;
	struct seat seat;
	struct visit *visit;		/* NULL unless under way */
};
struct server {				/* an IMAP host */
	char *host, *ca_file;
	uint16_t port;
	bool good;
};
struct doctor {
	struct doctor_env env;
	struct workers *workers;
	struct http *http;
	struct admission *admission;
	struct config *config;
	struct machine *machine;
	struct report *report;
	struct grant_check *grant_check;	/* NULL unless under way, like the next */
	struct probe *probe;
	const struct mailbox_conf **chosen; size_t n_chosen;
	const struct credential_conf **credentials; bool *credential_good; size_t n_credentials, credential;
	struct server *servers; size_t n_servers, server;
	struct patient *patients; size_t n_over;
	struct event *next;		/* the next step, from the loop */
	enum { AT_CREDENTIALS, AT_SERVERS, AT_MAILBOXES, AT_END } at;
};

/* --- credentials and IMAP hosts --- */

static void next_soon(struct doctor *d)
{
	event_active(d->next, 0, 0);
}

static void on_credential(void *arg, bool has_token)
{
	struct doctor *d = arg;

	d->grant_check = NULL;
	d->credential_good[d->credential++] = has_token;
	next_soon(d);
}

static void check_credential(struct doctor *d)
{
	d->grant_check = grant_check_start(&d->env, d->machine, d->credentials[d->credential], on_credential, d);
}

static void on_server(void *arg, bool good)
{
	struct doctor *d = arg;

	d->probe = NULL;
	d->servers[d->server++].good = good;
	next_soon(d);
}

static void check_server(struct doctor *d)
{
	const struct server *s = &d->servers[d->server];
	char *subject = xasprintf("%s:%u", s->host, s->port);

	d->probe = probe_start(&d->env, &(struct report_at){ d->report, SCOPE_HOST, subject }, s->host, s->port, s->ca_file, on_server, d);
	free(subject);
}

/* --- mailboxes --- */

static void patient_over(struct patient *p)
{
	struct doctor *d = p->doctor;

	report_mailbox_over(d->report, p->conf->address);
	if (++d->n_over == d->n_chosen)
		next_soon(d);
}

static void on_signed_in(void *arg)
{
	seat_started(&((struct patient *)arg)->seat);
}

static void on_visited(void *arg)
{
	struct patient *p = arg;

	p->visit = NULL;
	seat_leave(&p->seat);
	patient_over(p);
}

static void admit(void *arg)
{
	struct patient *p = arg;

	p->visit = visit_start(&p->doctor->env, p->conf, on_signed_in, on_visited, p);
}

static void fetch_admit(void *arg)
{
	(void)arg;
}

static msec_t last_look_ms(const void *arg)
{
	(void)arg;
	return 0;
}

static const struct seat_ops seat_ops = { .admit = admit, .fetch_admit = fetch_admit, .last_look_ms = last_look_ms };

static bool credential_is_good(const struct doctor *d, const struct credential_conf *c)
{
	for (size_t i = 0; i < d->n_credentials; i++)
		if (d->credentials[i] == c)
			return d->credential_good[i];
	return false;
}

static struct server *server_of(const struct doctor *d, const struct mailbox_conf *conf)
{
	for (size_t i = 0; i < d->n_servers; i++)
		if (strcmp(d->servers[i].host, conf->host) == 0 && d->servers[i].port == conf->port && str_equal(d->servers[i].ca_file, conf->ca_file))
			return &d->servers[i];
	return NULL;
}

static void check_mailboxes(struct doctor *d)
{
	d->at = AT_END;
	if (d->n_chosen == 0)
		next_soon(d);
	for (size_t i = 0; i < d->n_chosen; i++) {
		struct patient *p = &d->patients[i];

		*p = (struct patient){ .doctor = d, .conf = d->chosen[i] };
		machine_report_sink(d->machine, i, d->report);
		if (!credential_is_good(d, p->conf->credential)) {
			visit_skip(d->report, p->conf, "there is no token to sign in with");
			patient_over(p);
		} else if (!server_of(d, p->conf)->good) {
			visit_skip(d->report, p->conf, "its host cannot be reached");
			patient_over(p);
		} else {
			seat_take(d->admission, &p->seat, p->conf->credential->name, &seat_ops, p);
			seat_want_session(&p->seat);
		}
	}
}

static void on_next(evutil_socket_t fd, short what, void *arg)
{
	struct doctor *d = arg;

	(void)fd, (void)what;
	if (d->at == AT_CREDENTIALS && d->credential == d->n_credentials)
		d->at = AT_SERVERS;
	if (d->at == AT_SERVERS && d->server == d->n_servers)
		d->at = AT_MAILBOXES;
	switch (d->at) {
	case AT_CREDENTIALS:
		check_credential(d);
		break;
	case AT_SERVERS:
		check_server(d);
		break;
	case AT_MAILBOXES:
		check_mailboxes(d);
		break;
	case AT_END:
		event_base_loopbreak(d->env.base);
		break;
	}
}

/* --- what is to be examined --- */

static const struct mailbox_conf *find_mailbox(const struct config *config, const char *address)
{
	for (size_t i = 0; i < config->n_mailboxes; i++)
		if (strcasecmp(config->mailboxes[i]->address, address) == 0 || strcmp(config->mailboxes[i]->id, address) == 0)
			return config->mailboxes[i];
	return NULL;
}

static int choose_mailboxes(struct doctor *d, const struct doctor_options *o)
{
	d->chosen = xcalloc(d->config->n_mailboxes + o->n_addresses + 1, sizeof(*d->chosen));
	for (size_t i = 0; i < o->n_addresses; i++) {
		const struct mailbox_conf *conf = find_mailbox(d->config, o->addresses[i]);

		if (conf == NULL) {
			fprintf(stderr, "mailpolld doctor: %s has no mailbox %s\n", o->path, o->addresses[i]);
			return -1;
		}
		d->chosen[d->n_chosen++] = conf;
	}
	for (size_t i = 0; o->n_addresses == 0 && i < d->config->n_mailboxes; i++)
		d->chosen[d->n_chosen++] = d->config->mailboxes[i];
	return 0;
}

static void choose_credential(struct doctor *d, const struct credential_conf *credential)
{
	for (size_t i = 0; i < d->n_credentials; i++)
		if (d->credentials[i] == credential)
			return;
	d->credentials[d->n_credentials++] = credential;
}

/* All credentials, or with addresses given those that they need. */
static void choose_credentials_and_servers(struct doctor *d, bool all)
{
	d->credentials = xcalloc(d->config->n_credentials + 1, sizeof(*d->credentials));
	d->credential_good = xcalloc(d->config->n_credentials + 1, sizeof(*d->credential_good));
	d->servers = xcalloc(d->n_chosen + 1, sizeof(*d->servers));
	d->patients = xcalloc(d->n_chosen + 1, sizeof(*d->patients));
	for (size_t i = 0; all && i < d->config->n_credentials; i++)
		choose_credential(d, d->config->credentials[i]);
	for (size_t i = 0; i < d->n_chosen; i++) {
		const struct mailbox_conf *conf = d->chosen[i];

		choose_credential(d, conf->credential);
		if (server_of(d, conf) == NULL)
			d->servers[d->n_servers++] = (struct server){ .host = conf->host, .port = conf->port, .ca_file = conf->ca_file };
	}
}

/* --- life --- */

static void examine(struct doctor *d)
{
	struct doctor_env *e = &d->env;

	d->machine = machine_check(d->config, d->chosen, d->n_chosen, d->report);
	e->report = d->report;
	e->base = event_base_new();
	d->workers = workers_new(e->base);
	e->resolver = resolver_new(e->base, d->workers);
	e->dialer = dialer_new(e->base, e->resolver);
	e->tls = tls_new();
	d->http = http_new(e->base, e->resolver);
	e->tokens = token_cache_new(e->base, d->workers, d->http);
	d->admission = admission_new(e->base);
	d->next = event_new(e->base, -1, 0, on_next, d);
	token_cache_configure(e->tokens, d->config);
	admission_configure(d->admission, d->config);
	next_soon(d);
	event_base_dispatch(e->base);
	event_free(d->next);
	admission_free(&d->admission);
	token_cache_free(&e->tokens);
	http_free(&d->http);
	tls_free(&e->tls);
	dialer_free(&e->dialer);
	resolver_free(&e->resolver);
	workers_free(&d->workers, 500);
	event_base_free(e->base);
	machine_free(&d->machine);
}

/* NULL: it has errors, and they are in the report. */
static struct config *read_configuration(const char *path, struct report *report)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *config = config_load(path, &errors, &warnings);
	struct report_at at = { report, SCOPE_CONFIGURATION, "" };

	for (size_t i = 0; i < errors.n; i++)
		report_failed(&at, "error", NULL, NULL, "%s", errors.v[i]);
	for (size_t i = 0; config != NULL && i < warnings.n; i++)
		report_ok(&at, "note", NULL, "%s", warnings.v[i]);
	if (config != NULL)
		report_ok(&at, "file", NULL, "%s: %zu mailbox%s, %zu credential%s", path, config->n_mailboxes,
		    config->n_mailboxes == 1 ? "" : "es", config->n_credentials, config->n_credentials == 1 ? "" : "s");
	config_messages_done(&errors);
	config_messages_done(&warnings);
	return config;
}

/* From a shell the daemon's directories are where the unit puts them. */
static void assume_unit(void)
{
	setenv("STATE_DIRECTORY", UNIT_STATE, 0);
	setenv("RUNTIME_DIRECTORY", UNIT_RUNTIME, 0);
	if (access(UNIT_CREDENTIALS, X_OK) == 0)
		setenv("CREDENTIALS_DIRECTORY", UNIT_CREDENTIALS, 0);
}

int doctor_run(const struct doctor_options *o)
{
	struct doctor d = { 0 };
	int status;

	assume_unit();
	log_set_level(LOG_LEVEL_NONE);		/* the report says it */
	d.report = report_new(o->json);
	d.config = read_configuration(o->path, d.report);
	if (d.config == NULL) {
		report_end(&d.report);
		return EX_CONFIG;
	}
	if (choose_mailboxes(&d, o) == 0) {
		choose_credentials_and_servers(&d, o->n_addresses == 0);
		report_expect_mailboxes(d.report, d.n_chosen);
		examine(&d);
		status = report_end(&d.report) ? EX_OK : EXIT_FAILURE;
	} else {
		status = EX_USAGE;
		report_drop(&d.report);
	}
	free(d.chosen);
	free(d.credentials);
	free(d.credential_good);
	free(d.servers);
	free(d.patients);
	config_free(&d.config);
	return status;
}
