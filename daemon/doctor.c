/* The order of the steps: configuration, this machine, each credential, each IMAP host, then the mailboxes side by side as admission
 * lets them. What depends on something that failed is skipped, and says so. */
#include <event2/event.h>
#include <signal.h>
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

#define PROGRESS_MS 1000

struct key {				/* a credential */
	const struct credential_conf *conf;
	bool has_token;
	char *tenant;			/* for commands to paste; NULL: not Entra's */
	bool signed_in;			/* a mailbox has */
};
struct server {				/* an IMAP host */
	const char *host, *ca_file;	/* lent by the configuration */
	uint16_t port;
	bool good;
};
struct patient {			/* a mailbox */
	struct doctor *doctor;
	const struct mailbox_conf *conf;
	struct key *key;
	struct server *server;
	struct seat seat;
	struct visit *visit;		/* NULL unless under way */
	bool over, refused;
};
struct doctor {
	struct doctor_env env;
	struct workers *workers;
	struct http *http;
	struct admission *admission;
	struct config *config;
	struct unit *unit;		/* NULL: the configuration is not its */
	struct machine *machine;
	struct report *report;
	const struct mailbox_conf **chosen; size_t n_chosen;
	struct key *keys; size_t n_keys, key;		/* the first so many are done */
	struct server *servers; size_t n_servers, server;
	struct patient *patients; size_t n_over;	/* n_chosen of them */
	struct grant_check *grant_check;		/* NULL unless under way, like the next */
	struct probe *probe;
	bool visiting;					/* all else is done */
	struct event *next, *progress, *signals[2];	/* next: the next step, from the loop */
};

static void tell_progress(struct doctor *d)
{
	if (d->key < d->n_keys)
		report_progress(d->report, "credential %s ...", d->keys[d->key].conf->name);
	else if (d->server < d->n_servers)
		report_progress(d->report, "host %s ...", d->servers[d->server].host);
	else
		report_progress(d->report, "%zu of %zu mailboxes ...", d->n_over, d->n_chosen);
}

static void on_progress(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	tell_progress(arg);
}

static void next_soon(struct doctor *d)
{
	event_active(d->next, 0, 0);
}

/* --- credentials and IMAP hosts --- */

static void on_key(void *arg, bool has_token, const char *tenant)
{
	struct doctor *d = arg;
	struct key *key = &d->keys[d->key++];

	d->grant_check = NULL;
	key->has_token = has_token;
	key->tenant = xstrdup(tenant);
	next_soon(d);
}

static void check_key(struct doctor *d)
{
	d->grant_check = grant_check_start(&d->env, d->machine, d->keys[d->key].conf, on_key, d);
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

	d->probe = probe_start(&d->env, &(struct report_at){ d->report, SCOPE_HOST, subject }, s->host, s->port, s->ca_file, true,
	    on_server, d);
	free(subject);
}

/* --- mailboxes --- */

static void patient_over(struct patient *p)
{
	p->over = true;
	p->doctor->n_over++;
	tell_progress(p->doctor);
	next_soon(p->doctor);
}

static void on_visit_started(void *arg)
{
	seat_started(&((struct patient *)arg)->seat);
}

static void on_visit_over(void *arg, enum visit_result result)
{
	struct patient *p = arg;

	p->visit = NULL;
	p->refused = result == VISIT_REFUSED;
	p->key->signed_in = p->key->signed_in || result == VISIT_SIGNED_IN;
	seat_leave(&p->seat);
	patient_over(p);
}

static void admit(void *arg)
{
	struct patient *p = arg;

	p->visit = visit_start(&p->doctor->env, p->conf, p->key->tenant, on_visit_started, on_visit_over, p);
}

static void fetch_admit(void *arg)
{
	(void)arg;
}

static msec_t last_turn_ms(const void *arg)
{
	(void)arg;
	return 0;
}

static const struct seat_ops seat_ops = { .admit = admit, .fetch_admit = fetch_admit, .last_turn_ms = last_turn_ms };

static void check_mailboxes(struct doctor *d)
{
	d->visiting = true;
	for (size_t i = 0; i < d->n_chosen; i++) {
		struct patient *p = &d->patients[i];
		const char *why_not = !p->key->has_token ? "there is no token to sign in with" : !p->server->good ? "its host cannot be reached" : NULL;

		machine_report_sink(d->machine, i, d->report);
		if (why_not != NULL) {
			visit_skip(d->report, p->conf, why_not);
			patient_over(p);
		} else {
			seat_take(d->admission, &p->seat, p->conf->credential->name, &seat_ops, p);
			seat_want_session(&p->seat);
		}
	}
}

/* All are over. When others with its credential could sign in, the trouble is the mailbox's own (exchange-online 5.2). */
static void explain_refusals(struct doctor *d)
{
	for (size_t i = 0; i < d->n_chosen; i++)
		if (d->patients[i].refused && d->patients[i].key->signed_in)
			visit_explain_refusal(d->report, d->patients[i].conf, d->patients[i].key->tenant);
}

static void on_next(evutil_socket_t fd, short what, void *arg)
{
	struct doctor *d = arg;

	(void)fd, (void)what;
	if (d->key < d->n_keys)
		check_key(d);
	else if (d->server < d->n_servers)
		check_server(d);
	else if (!d->visiting && d->n_chosen > 0)
		check_mailboxes(d);
	else if (d->n_over == d->n_chosen)
		event_base_loopbreak(d->env.base);
}

/* --- what is to be examined --- */

static const struct mailbox_conf *find_mailbox(const struct config *config, const char *address)
{
	for (size_t i = 0; i < config->n_mailboxes; i++)
		if (strcasecmp(config->mailboxes[i]->address, address) == 0 || strcmp(config->mailboxes[i]->id, address) == 0)
			return config->mailboxes[i];
	return NULL;
}

static void choose_mailbox(struct doctor *d, const struct mailbox_conf *conf)
{
	for (size_t i = 0; i < d->n_chosen; i++)
		if (d->chosen[i] == conf)
			return;
	d->chosen[d->n_chosen++] = conf;
}

static int choose_mailboxes(struct doctor *d, const struct doctor_options *o)
{
	const struct mailbox_conf *conf;
	int result = 0;

	d->chosen = xcalloc(d->config->n_mailboxes + o->n_addresses, sizeof(*d->chosen));
	for (size_t i = 0; i < o->n_addresses; i++) {
		if ((conf = find_mailbox(d->config, o->addresses[i])) != NULL) {
			choose_mailbox(d, conf);
		} else {
			fprintf(stderr, "mailpolld doctor: %s has no mailbox %s\n", o->path, o->addresses[i]);
			result = -1;
		}
	}
	for (size_t i = 0; o->n_addresses == 0 && i < d->config->n_mailboxes; i++)
		d->chosen[d->n_chosen++] = d->config->mailboxes[i];
	return result;
}

static struct key *key_for(struct doctor *d, const struct credential_conf *conf)
{
	for (size_t i = 0; i < d->n_keys; i++)
		if (d->keys[i].conf == conf)
			return &d->keys[i];
	d->keys[d->n_keys].conf = conf;
	return &d->keys[d->n_keys++];
}

static struct server *server_for(struct doctor *d, const struct mailbox_conf *conf)
{
	for (size_t i = 0; i < d->n_servers; i++)
		if (strcmp(d->servers[i].host, conf->host) == 0 && d->servers[i].port == conf->port && str_equal(d->servers[i].ca_file, conf->ca_file))
			return &d->servers[i];
	d->servers[d->n_servers] = (struct server){ .host = conf->host, .port = conf->port, .ca_file = conf->ca_file };
	return &d->servers[d->n_servers++];
}

/* All credentials, or with addresses given those that they need. */
static void gather(struct doctor *d, bool all_credentials)
{
	d->keys = xcalloc(d->config->n_credentials, sizeof(*d->keys));
	d->servers = xcalloc(d->n_chosen, sizeof(*d->servers));
	d->patients = xcalloc(d->n_chosen, sizeof(*d->patients));
	for (size_t i = 0; all_credentials && i < d->config->n_credentials; i++)
		key_for(d, d->config->credentials[i]);
	for (size_t i = 0; i < d->n_chosen; i++)
		d->patients[i] = (struct patient){ .doctor = d, .conf = d->chosen[i], .key = key_for(d, d->chosen[i]->credential),
		    .server = server_for(d, d->chosen[i]) };
}

/* --- life --- */

/* What is known so far is worth telling; a second signal ends it at once. */
static void on_signal(evutil_socket_t fd, short what, void *arg)
{
	struct doctor *d = arg;

	(void)fd, (void)what;
	report_interrupted(d->report);
	event_base_loopbreak(d->env.base);
}

static void add_events(struct doctor *d)
{
	static const int numbers[] = { SIGINT, SIGTERM };
	struct timeval every = clock_interval(PROGRESS_MS);

	d->next = event_new(d->env.base, -1, 0, on_next, d);
	d->progress = event_new(d->env.base, -1, EV_PERSIST, on_progress, d);
	if (report_shows_progress(d->report))
		event_add(d->progress, &every);
	for (size_t i = 0; i < ARRAY_LEN(d->signals); i++) {
		d->signals[i] = evsignal_new(d->env.base, numbers[i], on_signal, d);
		event_add(d->signals[i], NULL);
	}
}

/* After the loop: what an interruption has left under way. */
static void cancel_all(struct doctor *d)
{
	grant_check_cancel(&d->grant_check);
	probe_cancel(&d->probe);
	for (size_t i = 0; i < d->n_chosen; i++) {
		struct patient *p = &d->patients[i];

		if (p->over)
			continue;
		if (p->visit != NULL)
			visit_interrupt(&p->visit);
		else
			visit_skip(d->report, p->conf, "interrupted");
		if (p->seat.gate != NULL)
			seat_leave(&p->seat);
	}
}

static void examine(struct doctor *d)
{
	struct doctor_env *e = &d->env;

	d->machine = machine_check(d->config, d->unit, d->chosen, d->n_chosen, d->report);
	e->report = d->report;
	e->base = event_base_new();
	d->workers = workers_new(e->base);
	e->resolver = resolver_new(e->base, d->workers);
	e->dialer = dialer_new(e->base, e->resolver);
	e->tls = tls_new();
	d->http = http_new(e->base, e->resolver);
	e->tokens = token_cache_new(e->base, d->workers, d->http);
	d->admission = admission_new(e->base);
	add_events(d);
	token_cache_configure(e->tokens, d->config);
	admission_configure(d->admission, d->config);
	next_soon(d);
	event_base_dispatch(e->base);
	for (size_t i = 0; i < ARRAY_LEN(d->signals); i++)
		event_free(d->signals[i]);
	cancel_all(d);
	explain_refusals(d);
	event_free(d->progress);
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

/* Caller frees. */
static char *join_lines(const struct config_messages *messages, const char *before)
{
	char *all = xstrdup("");

	for (size_t i = 0; i < messages->n; i++) {
		char *longer = xasprintf("%s%s%s%s", all, i > 0 ? "\n" : "", before, messages->v[i]);

		free(all);
		all = longer;
	}
	return all;
}

/* NULL: it has errors, and they are in the report. */
static struct config *read_configuration(const char *path, struct report *report)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *config = config_load(path, &errors, &warnings);
	struct report_at at = { report, SCOPE_CONFIGURATION, "" };
	const char *hint = config_may_pass(&errors) ? "Look whether this machine's groups can be had (getent group): the daemon starts when they can."
	    : "Correct the configuration; mailpolld.yaml(5) explains every key.";
	char *advice = join_lines(&warnings, "Warning: ");

	for (size_t i = 0; i < errors.n; i++)
		report_failed(&at, "error", i + 1 == errors.n ? hint : NULL, NULL, "%s", errors.v[i]);
	if (config != NULL)
		report_ok(&at, "file", advice, "%s: %zu mailbox%s, %zu credential%s", path, config->n_mailboxes,
		    config->n_mailboxes == 1 ? "" : "es", config->n_credentials, config->n_credentials == 1 ? "" : "s");
	free(advice);
	config_messages_done(&errors);
	config_messages_done(&warnings);
	return config;
}

/* credential:NAME before the service runs, or when it has not been restarted since: from where systemd would read it. */
static void adopt_credentials(struct config *config, const struct unit *unit)
{
	for (size_t i = 0; i < config->n_credentials; i++) {
		struct credential_conf *c = config->credentials[i];
		const char *path;

		if (c->secret_credential == NULL || access(c->secret_file, F_OK) == 0)
			continue;
		path = unit != NULL ? unit_credential(unit, c->secret_credential) : NULL;
		free(c->secret_file);
		c->secret_file = path != NULL ? xstrdup(path) : xasprintf("$CREDENTIALS_DIRECTORY/%s", c->secret_credential);
	}
}

int doctor_run(const struct doctor_options *o)
{
	struct doctor d = { 0 };
	int status = EX_USAGE;

	config_assume_unit();
	log_set_level(LOG_LEVEL_NONE);		/* the report says it */
	signal(SIGPIPE, SIG_IGN);		/* servers close connections */
	d.report = report_new(o->json);
	d.config = read_configuration(o->path, d.report);
	if (d.config == NULL) {
		report_end(&d.report);
		return EX_CONFIG;
	}
	if (choose_mailboxes(&d, o) == 0) {
		d.unit = strcmp(o->path, CONFIG_DEFAULT_FILE) == 0 ? unit_read() : NULL;
		adopt_credentials(d.config, d.unit);
		gather(&d, o->n_addresses == 0);
		report_expect_mailboxes(d.report, d.n_chosen);
		examine(&d);
		status = report_end(&d.report) ? EX_OK : EXIT_FAILURE;
	} else {
		report_drop(&d.report);
	}
	for (size_t i = 0; i < d.n_keys; i++)
		free(d.keys[i].tenant);
	free(d.chosen);
	free(d.keys);
	free(d.servers);
	free(d.patients);
	unit_free(&d.unit);
	config_free(&d.config);
	return status;
}
