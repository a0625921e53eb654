/* One credential: its secret, the host that gives tokens, this machine's clock, the token and what it shows of itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "doctor_private.h"
#include "token_cache.h"
#include "token_payload.h"

#define CLOCK_MAY_DIFFER_S 60

struct grant_check {
	const struct doctor_env *env;		/* lent */
	const struct credential_conf *conf;	/* lent */
	struct report_at at;
	bool has_secret;
	struct probe *probe;			/* NULL unless under way, like the next */
	struct token_request *token_request;
	grant_cb *cb;
	void *arg;
};

static void grant_check_over(struct grant_check *g, bool has_token, const char *tenant)
{
	grant_cb *cb = g->cb;
	void *arg = g->arg;

	free(g);
	cb(arg, has_token, tenant);
}

void grant_check_cancel(struct grant_check **check)
{
	struct grant_check *g = *check;

	if (g == NULL)
		return;
	probe_cancel(&g->probe);
	token_cancel(&g->token_request);
	free(g);
	*check = NULL;
}

/* --- the clock --- */

/* False: the token endpoint told no time. */
static bool clock_ahead(const struct grant_check *g, long long *ret_s)
{
	size_t n = token_cache_snapshot(g->env->tokens, NULL, 0);
	struct token_snapshot *v = xcalloc(n, sizeof(*v));
	bool has = false;

	token_cache_snapshot(g->env->tokens, v, n);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(v[i].credential, g->conf->name) == 0 && v[i].has_clock_ahead) {
			*ret_s = (long long)v[i].clock_ahead_s;
			has = true;
		}
	}
	free(v);
	return has;
}

static void report_clock(const struct grant_check *g)
{
	long long ahead_s;

	if (!clock_ahead(g, &ahead_s))
		report_skipped(&g->at, "clock", "the token endpoint told no time");
	else if (ahead_s > CLOCK_MAY_DIFFER_S || ahead_s < -CLOCK_MAY_DIFFER_S)
		report_failed(&g->at, "clock", "Enable time synchronisation on this server (timedatectl set-ntp true).", NULL,
		    "this server's clock is %lld s %s the token endpoint's", ahead_s < 0 ? -ahead_s : ahead_s, ahead_s < 0 ? "behind" : "ahead of");
	else
		report_ok(&g->at, "clock", NULL, "agrees with the token endpoint's within %d s", CLOCK_MAY_DIFFER_S);
}

/* --- the token --- */

/* A claim, when the token has it or lacks it to its harm. */
static void report_claim(const struct grant_check *g, const char *step, const char *value, const char *hint, const char *commands)
{
	if (hint != NULL)
		report_failed(&g->at, step, hint, commands, "%s", value != NULL ? value : "(none)");
	else if (value != NULL)
		report_ok(&g->at, step, NULL, "%s", value);
}

static bool differ(const char *claim, const char *configured)
{
	return claim != NULL && configured != NULL && strcasecmp(claim, configured) != 0;
}

/* What the token says of itself (exchange-online 2.6), never the token. */
static void report_token(const struct grant_check *g, const struct token *token, const struct token_payload *p)
{
	const struct credential_conf *c = g->conf;
	long long minutes = (long long)(token->expires_ms - clock_now_ms() + 30000) / 60000;
	char *consent = commands_consent(c);
	const char *tenant = c->tenant != NULL && is_guid(c->tenant) ? c->tenant : NULL;	/* a domain's cannot be compared */

	if (p->fault == PAYLOAD_OF_USER)
		report_failed(&g->at, "token", p->finding, NULL, "good for %lld min, but a user's", minutes);
	else
		report_ok(&g->at, "token", NULL, "good for %lld min%s", minutes, p->audience == NULL ? "; it does not show what it holds" : "");
	report_claim(g, "audience", p->audience, p->fault == PAYLOAD_AUDIENCE ? p->finding : NULL, NULL);
	report_claim(g, "roles", p->roles, p->fault == PAYLOAD_ROLES ? p->finding : NULL, consent);
	report_claim(g, "tenant", p->tenant_id, differ(p->tenant_id, tenant) ? "The token is of another directory: correct `tenant`." : NULL, NULL);
	report_claim(g, "app", p->app_id, differ(p->app_id, c->client_id) ? "The token is for another application: correct `client_id`." : NULL, NULL);
	report_claim(g, "object ID", p->object_id, NULL, NULL);
	free(consent);
}

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct grant_check *g = arg;
	const char *tenant = g->conf->tenant;
	struct token_payload payload;

	g->token_request = NULL;
	report_clock(g);
	if (token == NULL) {
		report_failure(&g->at, "token", why, NULL);
		grant_check_over(g, false, tenant);
		return;
	}
	token_payload_read(token->text, &payload);
	report_token(g, token, &payload);
	grant_check_over(g, true, tenant != NULL ? tenant : payload.tenant_id);	/* whatever it shows, the IMAP server has the last word */
	token_payload_done(&payload);
}

static void on_probed(void *arg, bool good)
{
	struct grant_check *g = arg;

	g->probe = NULL;
	if (good && g->has_secret) {
		g->token_request = token_get(g->env->tokens, g->conf->name, NULL, on_token, g);
		return;
	}
	report_skipped(&g->at, "clock", "no token is asked for");
	report_skipped(&g->at, "token", "%s", g->has_secret ? "its host cannot be reached" : "there is no secret to ask with");
	grant_check_over(g, false, g->conf->tenant);
}

struct grant_check *grant_check_start(const struct doctor_env *env, const struct machine *machine, const struct credential_conf *conf,
    grant_cb *cb, void *arg)
{
	struct grant_check *g = xcalloc(1, sizeof(*g));
	uint16_t port = 443;
	char *host = url_host(conf->token_url, &port);

	*g = (struct grant_check){ .env = env, .conf = conf, .at = { env->report, SCOPE_CREDENTIAL, conf->name }, .cb = cb, .arg = arg };
	g->has_secret = machine_check_secret(machine, conf, env->report);
	g->probe = probe_start(env, &g->at, host, port, conf->ca_file, false, on_probed, g);
	free(host);
	return g;
}
