/* The order of the steps: configuration, this machine, each credential, each IMAP host, then the mailboxes side by side as admission
 * lets them. What depends on something that failed is skipped, and says so. */
#include <curl/curl.h>
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
#include "token_payload.h"
#include "workers.h"

#define UNIT_STATE "/var/lib/mailpolld"
#define UNIT_RUNTIME "/run/mailpolld"
#define UNIT_CREDENTIALS "/run/credentials/mailpolld.service"	/* where systemd keeps those of the running unit, for root */
#define CLOCK_MAY_DIFFER_S 60

struct patient {			/* a mailbox */
	struct doctor *doctor;
	const struct mailbox_conf *conf;
	struct seat seat;
};
struct server {				/* an IMAP host */
	char *host, *ca_file;
	uint16_t port;
	bool good;
};
struct doctor {
	struct event_base *base;
	struct workers *workers;
	struct resolver *resolver;
	struct dialer *dialer;
	struct tls *tls;
	struct http *http;
	struct token_cache *tokens;
	struct admission *admission;
	struct config *config;
	struct machine *machine;
	struct report *report;
	struct visit_env visits;
	const struct mailbox_conf **chosen; size_t n_chosen;
	const struct credential_conf **credentials; bool *credential_good; size_t n_credentials, credential;
	struct server *servers; size_t n_servers, server;
	struct patient *patients; size_t n_over;
	struct event *next;		/* the next step, from the loop */
	enum { AT_CREDENTIALS, AT_SERVERS, AT_MAILBOXES, AT_END } at;
};

/* --- tokens --- */

static void report_clock(struct doctor *d, const struct credential_conf *c)
{
	struct token_snapshot *v = xcalloc(d->config->n_credentials, sizeof(*v));
	size_t n = token_cache_snapshot(d->tokens, v, d->config->n_credentials);
	char hint[200];

	for (size_t i = 0; i < n; i++) {
		long long ahead_s = (long long)v[i].clock_ahead_s, differs_s = ahead_s < 0 ? -ahead_s : ahead_s;

		if (strcmp(v[i].credential, c->name) != 0)
			continue;
		if (!v[i].has_clock_ahead) {
			report_add(d->report, SCOPE_CREDENTIAL, c->name, "clock", CHECK_SKIPPED, NULL, NULL, "the token endpoint told no time");
		} else if (differs_s > CLOCK_MAY_DIFFER_S) {
			snprintf(hint, sizeof(hint), "Enable time synchronisation on this server (timedatectl set-ntp true).");
			report_add(d->report, SCOPE_CREDENTIAL, c->name, "clock", CHECK_FAILED, hint, NULL, "this server's clock is %lld s %s the token "
			    "endpoint's", differs_s, ahead_s < 0 ? "behind" : "ahead of");
		} else {
			report_add(d->report, SCOPE_CREDENTIAL, c->name, "clock", CHECK_OK, NULL, NULL, "agrees with the token endpoint's within %d s",
			    CLOCK_MAY_DIFFER_S);
		}
	}
	free(v);
}

static char *consent_commands(const struct credential_conf *c)
{
	return xasprintf("az ad app permission add --id %s --api 00000002-0000-0ff1-ce00-000000000000 "
	    "--api-permissions 5e5addcd-3e8d-4e90-baf5-964efab2b20a=Role\n"
	    "az ad app permission admin-consent --id %s", c->client_id, c->client_id);
}

/* What the token says of itself (exchange-online 2.6), never the token. */
static bool report_payload(struct doctor *d, const struct credential_conf *c, const struct token *token)
{
	struct token_payload p;
	long long minutes = (long long)(token->expires_ms - clock_now_ms() + 30000) / 60000;
	char *commands = NULL, hint[300] = "";
	bool good = true;

	token_payload_read(token->text, &p);
	if (p.finding != NULL) {
		snprintf(hint, sizeof(hint), "%s", p.finding);
		commands = strstr(p.finding, "IMAP.AccessAsApp") != NULL ? consent_commands(c) : NULL;
	} else if (p.app_id != NULL && strcasecmp(p.app_id, c->client_id) != 0) {
		snprintf(hint, sizeof(hint), "The token is for application %s: correct client_id.", p.app_id);
	} else if (p.tenant_id != NULL && c->tenant != NULL && is_guid(c->tenant) && strcasecmp(p.tenant_id, c->tenant) != 0) {
		snprintf(hint, sizeof(hint), "The token is of tenant %s: correct `tenant`.", p.tenant_id);
	}
	good = hint[0] == '\0';
	if (p.audience == NULL && p.roles == NULL)
		report_add(d->report, SCOPE_CREDENTIAL, c->name, "token", CHECK_OK, NULL, NULL, "good for %lld min; it does not show what it holds", minutes);
	else
		report_add(d->report, SCOPE_CREDENTIAL, c->name, "token", good ? CHECK_OK : CHECK_FAILED, hint, commands,
		    "good for %lld min; audience %s; roles %s; tenant %s; app %s; object ID %s", minutes, p.audience != NULL ? p.audience : "(none)",
		    p.roles != NULL ? p.roles : "(none)", p.tenant_id != NULL ? p.tenant_id : "(none)", p.app_id != NULL ? p.app_id : "(none)",
		    p.object_id != NULL ? p.object_id : "(none)");
	free(commands);
	token_payload_done(&p);
	return good;
}

static void next_soon(struct doctor *d)
{
	event_active(d->next, 0, 0);
}

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct doctor *d = arg;
	const struct credential_conf *c = d->credentials[d->credential];

	report_clock(d, c);
	if (token != NULL) {
		report_payload(d, c, token);
		d->credential_good[d->credential] = true;	/* the IMAP server has the last word */
	} else {
		report_failure(d->report, SCOPE_CREDENTIAL, c->name, "token", why, NULL);
	}
	d->credential++;
	next_soon(d);
}

static void on_token_host(void *arg, bool good)
{
	struct doctor *d = arg;
	const struct credential_conf *c = d->credentials[d->credential];

	if (good) {
		token_get(d->tokens, c->name, NULL, on_token, d);
		return;
	}
	report_add(d->report, SCOPE_CREDENTIAL, c->name, "token", CHECK_SKIPPED, NULL, NULL, "its host cannot be reached");
	d->credential++;
	next_soon(d);
}

/* The host and port of an https URL; the configuration has checked it. */
static char *host_of(const char *url, uint16_t *ret_port)
{
	CURLU *u = curl_url();
	char *host = NULL, *port = NULL, *copy = NULL;
	uint32_t number = 443;

	if (curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
		if (curl_url_get(u, CURLUPART_PORT, &port, 0) == CURLUE_OK && parse_u32(port, &number) < 0)
			number = 443;
		copy = xstrndup(host[0] == '[' ? host + 1 : host, host[0] == '[' ? strlen(host) - 2 : strlen(host));
	}
	*ret_port = (uint16_t)number;
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(u);
	return copy;
}

static void check_credential(struct doctor *d)
{
	const struct credential_conf *c = d->credentials[d->credential];
	uint16_t port;
	char *host;

	if (!machine_check_secret(d->machine, c, d->report)) {
		report_add(d->report, SCOPE_CREDENTIAL, c->name, "token", CHECK_SKIPPED, NULL, NULL, "there is no secret to ask with");
		d->credential++;
		next_soon(d);
		return;
	}
	host = host_of(c->token_url, &port);
	probe_start(d->base, d->resolver, d->dialer, d->tls, host != NULL ? host : "", port, c->ca_file, d->report, SCOPE_CREDENTIAL, c->name,
	    on_token_host, d);
	free(host);
}

/* --- IMAP hosts --- */

static void on_server(void *arg, bool good)
{
	struct doctor *d = arg;

	d->servers[d->server++].good = good;
	next_soon(d);
}

static void check_server(struct doctor *d)
{
	const struct server *s = &d->servers[d->server];
	char *subject = xasprintf("%s:%u", s->host, s->port);

	probe_start(d->base, d->resolver, d->dialer, d->tls, s->host, s->port, s->ca_file, d->report, SCOPE_HOST, subject, on_server, d);
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

	seat_leave(&p->seat);
	patient_over(p);
}

static void admit(void *arg)
{
	struct patient *p = arg;

	visit_start(&p->doctor->visits, p->conf, on_signed_in, on_visited, p);
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
		event_base_loopbreak(d->base);
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
	curl_global_init(CURL_GLOBAL_DEFAULT);
	d->machine = machine_check(d->config, d->chosen, d->n_chosen, d->report);
	d->base = event_base_new();
	d->workers = workers_new(d->base);
	d->resolver = resolver_new(d->base, d->workers);
	d->dialer = dialer_new(d->base, d->resolver);
	d->tls = tls_new();
	d->http = http_new(d->base, d->resolver);
	d->tokens = token_cache_new(d->base, d->workers, d->http);
	d->admission = admission_new(d->base);
	d->next = event_new(d->base, -1, 0, on_next, d);
	d->visits = (struct visit_env){ .base = d->base, .dialer = d->dialer, .tls = d->tls, .tokens = d->tokens, .report = d->report };
	token_cache_configure(d->tokens, d->config);
	admission_configure(d->admission, d->config);
	next_soon(d);
	event_base_dispatch(d->base);
	event_free(d->next);
	admission_free(&d->admission);
	token_cache_free(&d->tokens);
	http_free(&d->http);
	tls_free(&d->tls);
	dialer_free(&d->dialer);
	resolver_free(&d->resolver);
	workers_free(&d->workers, 500);
	event_base_free(d->base);
	machine_free(&d->machine);
	curl_global_cleanup();
}

/* NULL: it has errors, and they are in the report. */
static struct config *read_configuration(const char *path, struct report *report)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *config = config_load(path, &errors, &warnings);

	for (size_t i = 0; i < errors.n; i++)
		report_add(report, SCOPE_CONFIGURATION, "", "error", CHECK_FAILED, NULL, NULL, "%s", errors.v[i]);
	for (size_t i = 0; config != NULL && i < warnings.n; i++)
		report_add(report, SCOPE_CONFIGURATION, "", "note", CHECK_OK, NULL, NULL, "%s", warnings.v[i]);
	if (config != NULL)
		report_add(report, SCOPE_CONFIGURATION, "", "file", CHECK_OK, NULL, NULL, "%s: %zu mailbox%s, %zu credential%s", path, config->n_mailboxes,
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
