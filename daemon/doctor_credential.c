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

static void grant_check_over(struct grant_check *g, bool has_token)
{
	grant_cb *cb = g->cb;
	void *arg = g->arg;

	free(g);
	cb(arg, has_token);
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

static char *consent_commands(const struct credential_conf *c)
{
	return xasprintf("az ad app permission add --id %s --api 00000002-0000-0ff1-ce00-000000000000 "
	    "--api-permissions 5e5addcd-3e8d-4e90-baf5-964efab2b20a=Role\n"
	    "az ad app permission admin-consent --id %s", c->client_id, c->client_id);
}

/* What the token says of itself (exchange-online 2.6), never the token. */
static void report_payload(const struct grant_check *g, const struct token *token)
{
	const struct credential_conf *c = g->conf;
	struct token_payload p;
	long long minutes = (long long)(token->expires_ms - clock_now_ms() + 30000) / 60000;
	char *commands = NULL, hint[300] = "", shown[400];

	token_payload_read(token->text, &p);
	if (p.finding != NULL) {
		snprintf(hint, sizeof(hint), "%s", p.finding);
		commands = strstr(p.finding, "IMAP.AccessAsApp") != NULL ? consent_commands(c) : NULL;
	} else if (p.app_id != NULL && strcasecmp(p.app_id, c->client_id) != 0) {
		snprintf(hint, sizeof(hint), "The token is for application %s: correct client_id.", p.app_id);
	} else if (p.tenant_id != NULL && c->tenant != NULL && is_guid(c->tenant) && strcasecmp(p.tenant_id, c->tenant) != 0) {
		snprintf(hint, sizeof(hint), "The token is of tenant %s: correct `tenant`.", p.tenant_id);
	}
	snprintf(shown, sizeof(shown), "audience %s; roles %s; tenant %s; app %s; object ID %s", p.audience != NULL ? p.audience : "(none)",
	    p.roles != NULL ? p.roles : "(none)", p.tenant_id != NULL ? p.tenant_id : "(none)", p.app_id != NULL ? p.app_id : "(none)",
	    p.object_id != NULL ? p.object_id : "(none)");
	if (p.audience == NULL && p.roles == NULL)
		report_ok(&g->at, "token", NULL, "good for %lld min; it does not show what it holds", minutes);
	else if (hint[0] == '\0')
		report_ok(&g->at, "token", NULL, "good for %lld min; %s", minutes, shown);
	else
		report_failed(&g->at, "token", hint, commands, "good for %lld min; %s", minutes, shown);
	free(commands);
	token_payload_done(&p);
}

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct grant_check *g = arg;

	g->token_request = NULL;
	report_clock(g);
	if (token != NULL)
		report_payload(g, token);
	else
		report_failure(&g->at, "token", why, NULL);
	grant_check_over(g, token != NULL);	/* whatever the token shows, the IMAP server has the last word */
}

static void on_probed(void *arg, bool good)
{
	struct grant_check *g = arg;

	g->probe = NULL;
	if (good && g->has_secret) {
		g->token_request = token_get(g->env->tokens, g->conf->name, NULL, on_token, g);
		return;
	}
	report_skipped(&g->at, "token", "%s", g->has_secret ? "its host cannot be reached" : "there is no secret to ask with");
	grant_check_over(g, false);
}

struct grant_check *grant_check_start(const struct doctor_env *env, const struct machine *machine, const struct credential_conf *conf,
    grant_cb *cb, void *arg)
{
	struct grant_check *g = xcalloc(1, sizeof(*g));
	uint16_t port = 443;
	char *host = url_host(conf->token_url, &port);

	*g = (struct grant_check){ .env = env, .conf = conf, .at = { env->report, SCOPE_CREDENTIAL, conf->name }, .cb = cb, .arg = arg };
	g->has_secret = machine_check_secret(machine, conf, env->report);
	g->probe = probe_start(env, &g->at, host, port, conf->ca_file, on_probed, g);
	free(host);
	return g;
}
