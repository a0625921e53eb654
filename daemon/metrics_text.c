/* The text that Prometheus reads: base units, HELP and TYPE of each family; names end as their kind demands. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "admission.h"
#include "config.h"
#include "counters.h"
#include "fleet.h"
#include "log.h"
#include "metrics_private.h"
#include "token_cache.h"
#include "util.h"

void metrics_family(FILE *to, const char *name, const char *type, const char *help)
{
	fprintf(to, "# HELP mailpolld_%s %s\n# TYPE mailpolld_%s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
void metrics_label(FILE *to, const char *before, const char *name, const char *value)
{
	fprintf(to, "%s%s=\"", before, name);
	for (; *value != '\0'; value++) {
		if (*value == '\\' || *value == '"')
			fputc('\\', to);
		if (*value == '\n')
			fputs("\\n", to);
		else
			fputc(*value, to);
	}
	fputc('"', to);
}

static void single(FILE *to, const char *name, const char *type, const char *help, double value)
{
	metrics_family(to, name, type, help);
	fprintf(to, "mailpolld_%s %.17g\n", name, value);
}

static void labelled(FILE *to, const char *name, const char *key, const char *value, double number)
{
	fprintf(to, "mailpolld_%s", name);
	metrics_label(to, "{", key, value);
	fprintf(to, "} %.17g\n", number);
}

static void histogram(FILE *to, const char *name, const char *help, const struct histogram *h)
{
	uint64_t n = 0;

	metrics_family(to, name, "histogram", help);
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		n += h->counts[i];
		fprintf(to, "mailpolld_%s_bucket{le=\"%g\"} %llu\n", name, h->bounds[i], (unsigned long long)n);
	}
	fprintf(to, "mailpolld_%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)histogram_count(h));
	fprintf(to, "mailpolld_%s_sum %.17g\nmailpolld_%s_count %llu\n", name, h->sum, name, (unsigned long long)histogram_count(h));
}

/* --- mailboxes --- */

static void put_mailboxes(FILE *to, struct fleet *fleet)
{
	uint64_t owed = 0, given_up = 0, backlog = 0, after_owed = 0;
	int64_t since, oldest = 0;
	msec_t failing_ms, longest_ms = 0;

	metrics_family(to, "mailboxes", "gauge", "Mailboxes by state.");
	for (int state = 0; state < MAILBOX_STATE_N; state++)
		labelled(to, "mailboxes", "state", mailbox_state_name((enum mailbox_state)state), (double)fleet_count(fleet, (enum mailbox_state)state));
	single(to, "mailboxes_failing", "gauge", "Mailboxes whose last session or delivery failed.", (double)fleet_failing(fleet));
	for (size_t i = 0; i < fleet_size(fleet); i++) {
		const struct mailbox *m = fleet_mailbox(fleet, i);
		struct mailbox_snapshot now;

		if (mailbox_is_failing(m, &failing_ms) && clock_now_ms() - failing_ms > longest_ms)
			longest_ms = clock_now_ms() - failing_ms;
		mailbox_snapshot(m, &now);
		since = mailbox_undelivered_since_wall_s(m);
		if (since != 0 && (oldest == 0 || since < oldest))
			oldest = since;
		for (size_t f = 0; f < now.n_folders; f++) {
			struct folder_snapshot folder;

			mailbox_folder_snapshot(m, f, &folder);
			owed += folder.owed;
			given_up += folder.given_up;
			backlog += folder.backlog;
			after_owed += folder.after_owed;
		}
	}
	single(to, "longest_failing_seconds", "gauge", "How long the mailbox has failed that has failed longest; 0: none fails.",
	    (double)longest_ms / 1000);
	single(to, "messages_backlog", "gauge", "Messages that servers list and that are not delivered yet.", (double)backlog);
	single(to, "messages_owed", "gauge", "Messages that could not be had from the server, given up ones included.", (double)owed);
	single(to, "messages_unretrievable", "gauge", "Messages given up after the last try; they are still on the server.", (double)given_up);
	single(to, "messages_quarantined", "gauge", "Refused messages that lie in quarantine.", (double)fleet_quarantined(fleet));
	single(to, "messages_after_owed", "gauge", "Delivered messages whose `after` is still to be done.", (double)after_owed);
	single(to, "oldest_undelivered_age_seconds", "gauge", "How long the oldest message that is known and not delivered has waited; 0: none.",
	    oldest != 0 ? (double)(clock_wall_s() - oldest) : 0);
}

/* --- sinks --- */

static void put_sinks(FILE *to, const struct fleet *fleet, const struct counters *c)
{
	size_t room = fleet_sinks(fleet, NULL, 0), n, failing = 0;
	struct sink_snapshot *v = xcalloc(room, sizeof(*v));

	n = fleet_sinks(fleet, v, room);
	for (size_t i = 0; i < n && i < room; i++)
		failing += v[i].failing || v[i].failure != NULL;
	free(v);
	metrics_family(to, "deliveries_total", "counter", "Attempts to hand a message to a sink, by outcome.");
	labelled(to, "deliveries_total", "outcome", "delivered", (double)c->delivered);
	labelled(to, "deliveries_total", "outcome", "quarantined", (double)c->refused);
	labelled(to, "deliveries_total", "outcome", "temporary", (double)c->temporary);
	single(to, "sinks_failing", "gauge", "Sinks that take nothing now.", (double)failing);
}

/* --- credentials --- */

static void put_credentials(FILE *to, struct fleet *fleet)
{
	size_t room = fleet_tokens(fleet, NULL, 0), n;
	struct token_snapshot *v = xcalloc(room + 1, sizeof(*v));
	struct gate_snapshot gate;

	n = fleet_tokens(fleet, v, room);
	n = n < room ? n : room;
	metrics_family(to, "token_requests_total", "counter", "Attempts to get an access token, by outcome.");
	for (size_t i = 0; i < n; i++) {
		fputs("mailpolld_token_requests_total", to);
		metrics_label(to, "{", "credential", v[i].credential);
		fprintf(to, ",outcome=\"failed\"} %llu\nmailpolld_token_requests_total", (unsigned long long)v[i].failures);
		metrics_label(to, "{", "credential", v[i].credential);
		fprintf(to, ",outcome=\"ok\"} %llu\n", (unsigned long long)v[i].tokens);
	}
	metrics_family(to, "token_expiry_time_seconds", "gauge", "When the access token ends, in seconds since 1970; 0: there is none.");
	for (size_t i = 0; i < n; i++)
		labelled(to, "token_expiry_time_seconds", "credential", v[i].credential, (double)v[i].expires_wall_s);
	metrics_family(to, "token_refresh_time_seconds", "gauge",
	    "When the next access token is to be asked for, in seconds since 1970; past: it is late; 0: none is planned.");
	for (size_t i = 0; i < n; i++)
		labelled(to, "token_refresh_time_seconds", "credential", v[i].credential, (double)v[i].refresh_wall_s);
	metrics_family(to, "token_failing", "gauge", "1 while no new access token can be had.");
	for (size_t i = 0; i < n; i++)
		labelled(to, "token_failing", "credential", v[i].credential, v[i].state == TOKEN_FAILED || v[i].state == TOKEN_STALE);
	metrics_family(to, "sign_ins_waiting", "gauge", "Mailboxes that wait for their turn to sign in.");
	for (size_t i = 0; i < n; i++) {
		fleet_admission(fleet, v[i].credential, &gate);
		labelled(to, "sign_ins_waiting", "credential", v[i].credential, (double)gate.waiting);
	}
	metrics_family(to, "admission_slowed", "gauge", "1 while the server throttles several mailboxes and fewer sessions start.");
	for (size_t i = 0; i < n; i++) {
		fleet_admission(fleet, v[i].credential, &gate);
		labelled(to, "admission_slowed", "credential", v[i].credential, gate.slowed);
	}
	free(v);
}

/* Only of those whose end somebody has told: a client secret does not say it itself. */
static void put_secrets(FILE *to, const struct config *config)
{
	metrics_family(to, "secret_expiry_time_seconds", "gauge", "When the client secret ends (client_secret_expires), in seconds since 1970.");
	for (size_t i = 0; i < config->n_credentials; i++)
		if (config->credentials[i]->secret_expires_s != 0)
			labelled(to, "secret_expiry_time_seconds", "credential", config->credentials[i]->name, (double)config->credentials[i]->secret_expires_s);
}

/* --- the rest --- */

static void put_counters(FILE *to, const struct counters *c)
{
	single(to, "sessions_opened_total", "counter", "IMAP sessions signed in.", (double)c->sessions_opened);
	metrics_family(to, "sessions_ended_total", "counter", "IMAP sessions ended, by what ended them: mailpolld-errors(7), or planned.");
	for (size_t i = 0; i < c->n_ended; i++)
		labelled(to, "sessions_ended_total", "reason", c->ended[i].reason, (double)c->ended[i].n);
	single(to, "delivered_bytes_total", "counter", "Bytes of messages delivered.", (double)c->delivered_bytes);
	single(to, "throttled_seconds_total", "counter", "Time that mailboxes waited because a server throttled them.", (double)c->throttled_ms / 1000);
	single(to, "mailbox_stalls_total", "counter", "Sessions torn down because nothing moved within their deadline.", (double)c->stalls);
	histogram(to, "delivery_lag_seconds", "From a message's INTERNALDATE to the sink's confirmation.", &c->delivery_lag);
	histogram(to, "sink_duration_seconds", "How long sinks took for a message, its wait for a turn included.", &c->sink_duration);
	histogram(to, "loop_lag_seconds", "How late the event loop's timers came.", &c->loop_lag);
}

char *metrics_text(struct fleet *fleet, int64_t started_wall_s, bool by_watchdog)
{
	struct store_snapshot store;
	struct health_reason reason;
	char *text = NULL;
	size_t len, n;
	FILE *to = open_memstream(&text, &len);

	if (to == NULL)
		abort();
	fleet_store(fleet, &store);
	metrics_family(to, "build_info", "gauge", "Always 1; the version is its label.");
	labelled(to, "build_info", "version", MAILPOLLD_VERSION, 1);
	single(to, "start_time_seconds", "gauge", "When the daemon started, in seconds since 1970.", (double)started_wall_s);
	single(to, "started_by_watchdog", "gauge", "1 when the service manager's watchdog ended the run before this one.", by_watchdog);
	single(to, "config_last_reload_successful", "gauge", "1 unless the last reload was refused.", fleet_config_error(fleet) == NULL);
	single(to, "health", "gauge", "0 ok, 1 degraded, 2 down.", (double)fleet_health(fleet, &reason, 1, &n));
	put_mailboxes(to, fleet);
	put_sinks(to, fleet, fleet_counters(fleet));
	put_credentials(to, fleet);
	put_secrets(to, fleet_config(fleet));
	put_counters(to, fleet_counters(fleet));
	single(to, "spool_bytes", "gauge", "Bytes of messages that are fetched and not delivered.", (double)store.spool_bytes);
	single(to, "spool_files", "gauge", "Messages that are being fetched, or are fetched and not delivered.", (double)store.spool_files);
	single(to, "store_commits_total", "counter", "Transactions of the state.", (double)store.commits);
	single(to, "store_failing", "gauge", "1 while the state cannot be written.", store.failure != NULL);
	single(to, "log_lines_dropped_total", "counter", "Log lines dropped because nobody read them.", (double)log_dropped());
	fclose(to);
	return text;
}
