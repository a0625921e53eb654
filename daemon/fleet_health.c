/* The verdict: is mail moving? Each reason keeps the time when it was first seen; fleet.c looks every 15 s, whether or not somebody asks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fleet_private.h"
#include "store.h"
#include "token_cache.h"
#include "util.h"
#include "workers.h"

#define DISK_STALLED_MS 20000		/* a disk that answers nothing for that long: down */
#define JOB_STUCK_MS 180000		/* a worker's job that old: the watchdog is not fed */
#define FAILING_LONG_MS (15 * 60 * 1000)
#define FAILING_FEW 3			/* fewer mailboxes may always fail for long without being degraded, and 1 % */
#define FIRST_TURNS_MS 60000		/* that one has failed: then nobody waits for the first try of all the others */

struct verdict {
	enum health_level health;
	struct health_reason *v;
	size_t n;
};

static int64_t known_since(const struct fleet *f, const char *what, const char *name)
{
	for (size_t i = 0; i < f->n_reasons; i++)
		if (strcmp(f->reasons[i].what, what) == 0 && strcmp(f->reasons[i].name, name) == 0)
			return f->reasons[i].since_wall_s;
	return clock_wall_s();
}

static void add_reason(struct fleet *f, struct verdict *verdict, enum health_level how_bad, const char *what, const char *name, const char *hint)
{
	struct health_reason *r;

	if (how_bad > verdict->health)
		verdict->health = how_bad;
	if (verdict->n == HEALTH_REASONS_MAX)
		return;
	r = &verdict->v[verdict->n++];
	r->what = what;
	snprintf(r->name, sizeof(r->name), "%s", name);
	snprintf(r->hint, sizeof(r->hint), "%s", hint);
	r->since_wall_s = known_since(f, what, r->name);
}

static void judge_disks(struct fleet *f, struct verdict *verdict)
{
	const struct failure *why = store_failure(f->store);

	if (why != NULL)
		add_reason(f, verdict, HEALTH_DOWN, "store", "state", why->hint[0] != '\0' ? why->hint : why->text);
	if (workers_oldest_ms(f->workers) >= DISK_STALLED_MS)
		add_reason(f, verdict, HEALTH_DOWN, "disk", "disk", "A disk has not answered for 20 s: look at the kernel's log.");
}

void fleet_count_watching(struct fleet *f)
{
	const struct config *c = f->config;
	size_t at = 0;

	free(f->watching);
	f->watching = xcalloc(c->n_credentials, sizeof(*f->watching));
	for (size_t i = 0; i < c->n_mailboxes; i++) {
		while (c->credentials[at] != c->mailboxes[i]->credential)	/* mostly the same as the one before */
			at = (at + 1) % c->n_credentials;
		f->watching[at] += c->mailboxes[i]->watch == WATCH_IDLE;
	}
}

bool fleet_relogin_is_tight(const struct fleet *f, const struct token_snapshot *token, char *ret_hint, size_t size)
{
	size_t watching = 0;
	unsigned allowed = 0;

	for (size_t i = 0; token->relogin_window_s > 0 && i < f->config->n_credentials; i++) {
		if (strcmp(f->config->credentials[i]->name, token->credential) != 0)
			continue;
		allowed = f->config->credentials[i]->admission.sessions_per_second;
		watching = f->watching[i];
	}
	if (allowed == 0 || token->relogin_window_s <= 0 || (double)watching <= (double)allowed * (double)token->relogin_window_s)
		return false;
	snprintf(ret_hint, size, "%zu mailboxes of %s sign in anew within %lld s of each token, which takes %.1f sessions per second; %u are "
	    "allowed: some are without a session for a while. Raise sessions_per_second.", watching, token->credential,
	    (long long)token->relogin_window_s, (double)watching / (double)token->relogin_window_s, allowed);
	return true;
}

static void judge_credentials(struct fleet *f, struct verdict *verdict, const struct token_snapshot *tokens, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tokens[i].state == TOKEN_FAILED || tokens[i].state == TOKEN_STALE)
			add_reason(f, verdict, HEALTH_DEGRADED, "credential", tokens[i].credential,
			    tokens[i].failure.hint[0] != '\0' ? tokens[i].failure.hint : tokens[i].failure.text);
}

static void judge_admission(struct fleet *f, struct verdict *verdict, const struct token_snapshot *tokens, size_t n)
{
	char hint[400];

	for (size_t i = 0; i < n; i++)
		if (fleet_relogin_is_tight(f, &tokens[i], hint, sizeof(hint)))
			add_reason(f, verdict, HEALTH_OK, "admission", tokens[i].credential, hint);
}

static void judge_sinks(struct fleet *f, struct verdict *verdict)
{
	for (size_t i = 0; i < sinks_count(f->sinks); i++) {
		const struct sink *sink = sinks_at(f->sinks, i);
		const struct sink_counts *c = sink_counts(sink);
		const struct sink_conf *conf = sink_conf(sink);
		const char *name = conf->kind == SINK_MAILDIR ? conf->maildir : conf->command[0];

		if (c->failing || c->failure.fail != FAIL_NONE)
			add_reason(f, verdict, HEALTH_DEGRADED, "sink", name, c->failure.hint[0] != '\0' ? c->failure.hint : c->failure.text);
	}
}

/* It has neither failed nor got through to a server yet. */
static bool awaits_first_turn(const struct mailbox *m)
{
	return mailbox_last_turn_ms(m) == 0 && mailbox_state(m) < MAILBOX_SYNCING;
}

static void judge_mailboxes(struct fleet *f, struct verdict *verdict)
{
	size_t failing = 0, in_part = 0, long_failing = 0, paused = 0, untried = 0;
	msec_t since_ms, now_ms = clock_now_ms(), longest_ms = 0;
	const struct failure *cause = NULL;
	bool one_cause = true;
	char hint[FAILURE_HINT_MAX], how_many[128];

	for (size_t i = 0; i < f->n_members; i++) {
		const struct mailbox *m = f->members[i]->mailbox;
		struct mailbox_snapshot snap;

		if (!mailbox_is_failing(m, &since_ms)) {
			if (mailbox_is_paused(m))
				paused++;
			else
				untried += awaits_first_turn(m);
			continue;
		}
		failing++;
		in_part += mailbox_fails_in_part(m);
		long_failing += now_ms - since_ms >= FAILING_LONG_MS;
		if (now_ms - since_ms > longest_ms)
			longest_ms = now_ms - since_ms;
		mailbox_snapshot(m, &snap);
		one_cause = one_cause && (cause == NULL || strcmp(cause->name, snap.failure->name) == 0);
		cause = snap.failure;
	}
	if (longest_ms < FIRST_TURNS_MS)
		untried = 0;
	if (untried > 0)
		snprintf(how_many, sizeof(how_many), "%zu of %zu mailboxes fail (%zu others await their first turn)", failing, f->n_members, untried);
	else
		snprintf(how_many, sizeof(how_many), "%zu of %zu mailboxes fail", failing, f->n_members);
	if (failing > 1 && one_cause && cause->hint[0] != '\0')	/* the application's matter, or the server's: said once (exchange-online 5.2) */
		snprintf(hint, sizeof(hint), "%s, all with %s: %.600s", how_many, cause->name, cause->hint);
	else
		snprintf(hint, sizeof(hint), "%s: see `mailpollctl status --failing`.", how_many);
	if (failing > 0 && in_part == 0 && failing + untried + paused == f->n_members)
		add_reason(f, verdict, HEALTH_DOWN, "mailboxes", "all", hint);
	else if (long_failing >= FAILING_FEW && long_failing * 100 > f->n_members)
		add_reason(f, verdict, HEALTH_DEGRADED, "mailboxes", "many", hint);
}

const char *health_name(enum health_level health)
{
	static const char *const names[] = { "ok", "degraded", "down" };

	return names[health];
}

/* What matters most first: there may be more reasons than room. */
enum health_level fleet_judge(struct fleet *f)
{
	struct verdict verdict = { .health = HEALTH_OK, .v = xcalloc(HEALTH_REASONS_MAX, sizeof(struct health_reason)) };
	size_t n = token_cache_snapshot(f->tokens, NULL, 0);
	struct token_snapshot *tokens = xcalloc(n, sizeof(*tokens));

	token_cache_snapshot(f->tokens, tokens, n);
	judge_mailboxes(f, &verdict);
	judge_disks(f, &verdict);
	judge_credentials(f, &verdict, tokens, n);
	judge_sinks(f, &verdict);
	judge_admission(f, &verdict, tokens, n);
	free(tokens);
	free(f->reasons);
	f->reasons = verdict.v;
	f->n_reasons = verdict.n;
	return verdict.health;
}

enum health_level fleet_health(struct fleet *f, struct health_reason *ret_v, size_t room, size_t *ret_n)
{
	enum health_level health = fleet_judge(f);

	*ret_n = f->n_reasons < room ? f->n_reasons : room;
	memcpy(ret_v, f->reasons, *ret_n * sizeof(*ret_v));
	return health;
}

bool fleet_is_alive(struct fleet *f)
{
	return workers_oldest_ms(f->workers) <= JOB_STUCK_MS && !f->stuck;
}
