#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include "token_cache_private.h"
#include "util.h"
#include "workers.h"

/* --- credentials --- */

static void request_link(struct token_request *r, struct token_requests *list, struct grant *g)
{
	r->list = list;
	r->grant = g;
	TAILQ_INSERT_TAIL(list, r, link);
}

static void request_orphan(struct token_request *r, struct token_cache *cache, const char *credential)
{
	r->credential = xstrdup(credential);
	request_link(r, &cache->homeless, NULL);
	event_active(r->event, 0, 0);
}

/* Who still waits at it hears that the credential is gone. */
static void grant_drop(struct grant *g)
{
	struct token_cache *cache = g->credential->cache;
	struct token_request *r;

	while ((r = TAILQ_FIRST(&g->waiting)) != NULL) {
		TAILQ_REMOVE(&g->waiting, r, link);
		request_orphan(r, cache, g->credential->conf->name);
	}
	grant_free(g);
}

static struct grant *grant_find(struct credential *c, const char *subject)
{
	struct grant *g;

	LIST_FOREACH(g, &c->grants, link)
		if (str_equal(g->subject, subject))
			return g;
	return NULL;
}

static struct credential *credential_find(struct token_cache *cache, const char *name)
{
	struct credential *c;

	TAILQ_FOREACH(c, &cache->credentials, link)
		if (strcmp(c->conf->name, name) == 0)
			return c;
	return NULL;
}

static void credential_done(struct credential *c)
{
	credential_conf_free(&c->conf);
	free(c->token_host);
}

static void credential_set(struct credential *c, const struct credential_conf *conf)
{
	credential_done(c);
	c->conf = credential_conf_dup(conf);
	c->token_host = url_host(conf->token_url, NULL);
}

static void credential_free(struct credential *c)
{
	while (!LIST_EMPTY(&c->grants))
		grant_drop(LIST_FIRST(&c->grants));
	TAILQ_REMOVE(&c->cache->credentials, c, link);
	credential_done(c);
	free(c);
}

/* Admission and IMAP host have no part in a token. */
static bool gives_same_token(const struct credential_conf *a, const struct credential_conf *b)
{
	return a->kind == b->kind && str_equal(a->token_url, b->token_url) && str_equal(a->scope, b->scope) &&
	    str_equal(a->client_id, b->client_id) && str_equal(a->secret_file, b->secret_file) && str_equal(a->ca_file, b->ca_file);
}

static void credential_take(struct token_cache *cache, const struct credential_conf *conf)
{
	struct credential *c = credential_find(cache, conf->name);
	bool same = c != NULL && gives_same_token(c->conf, conf);
	struct grant *g;

	if (c == NULL) {
		c = xcalloc(1, sizeof(*c));
		c->cache = cache;
		LIST_INIT(&c->grants);
		TAILQ_INSERT_TAIL(&cache->credentials, c, link);
	}
	credential_set(c, conf);
	c->kept = true;
	LIST_FOREACH(g, &c->grants, link) {
		if (same)
			grant_retry(g);
		else
			grant_reset(g);
	}
}

void token_cache_configure(struct token_cache *cache, const struct config *config)
{
	struct credential *c, *next;

	TAILQ_FOREACH(c, &cache->credentials, link)
		c->kept = false;
	for (size_t i = 0; i < config->n_credentials; i++)
		credential_take(cache, config->credentials[i]);
	for (c = TAILQ_FIRST(&cache->credentials); c != NULL; c = next) {
		next = TAILQ_NEXT(c, link);
		if (!c->kept)
			credential_free(c);
	}
}

struct token_cache *token_cache_new(struct event_base *base, struct workers *workers, struct http *http)
{
	struct token_cache *cache = xcalloc(1, sizeof(*cache));

	cache->base = base;
	cache->http = http;
	cache->lane = lane_new(workers, "secrets", LANE_DISK, 2);
	TAILQ_INIT(&cache->credentials);
	TAILQ_INIT(&cache->homeless);
	return cache;
}

/* --- requests --- */

static void request_free(struct token_request *r)
{
	TAILQ_REMOVE(r->list, r, link);
	event_free(r->event);
	free(r->credential);
	free(r);
}

void token_cache_free(struct token_cache **token_cache)
{
	struct token_cache *cache = *token_cache;

	if (cache == NULL)
		return;
	while (!TAILQ_EMPTY(&cache->credentials))
		credential_free(TAILQ_FIRST(&cache->credentials));
	while (!TAILQ_EMPTY(&cache->homeless))
		request_free(TAILQ_FIRST(&cache->homeless));
	free(cache);
	*token_cache = NULL;
}

static void tell_homeless(struct token_request *r)
{
	token_cb *cb = r->cb;
	void *arg = r->arg;
	struct failure why;

	failure_own(&why, "no-credential", NULL, "there is no credential %s in the configuration", r->credential);
	request_free(r);
	cb(arg, NULL, &why);
}

static void on_request(evutil_socket_t fd, short what, void *arg)
{
	struct token_request *r = arg;
	struct grant *g = r->grant;
	token_cb *cb = r->cb;
	void *cb_arg = r->arg;
	struct token token;
	struct failure why;

	(void)fd, (void)what;
	if (g == NULL) {
		tell_homeless(r);
		return;
	}
	if (grant_is_undecided(g)) {		/* refused since it came */
		grant_fetch(g);
		return;
	}
	request_free(r);
	if (!grant_is_usable(g)) {
		why = g->failure;
		cb(cb_arg, NULL, &why);
		return;
	}
	token = (struct token){ .text = g->text, .serial = g->serial, .renew_ms = g->renew_ms, .margin_ms = g->margin_ms,
	    .expires_ms = g->expires_ms, .object_id = g->payload.object_id, .finding = g->payload.finding };
	cb(cb_arg, &token, NULL);
}

struct token_request *token_get(struct token_cache *cache, const char *credential, const char *subject, token_cb *cb, void *arg)
{
	struct token_request *r = xcalloc(1, sizeof(*r));
	struct credential *c = credential_find(cache, credential);
	struct grant *g = c != NULL ? grant_find(c, subject) : NULL;

	r->cb = cb;
	r->arg = arg;
	r->event = event_new(cache->base, -1, 0, on_request, r);
	if (c == NULL) {
		request_orphan(r, cache, credential);
		return r;
	}
	if (g == NULL)
		g = grant_new(c, subject);
	request_link(r, &g->waiting, g);
	if (grant_is_undecided(g))
		grant_fetch(g);
	else
		event_active(r->event, 0, 0);
	return r;
}

void token_cancel(struct token_request **request)
{
	if (*request != NULL)
		request_free(*request);
	*request = NULL;
}

bool token_reject(struct token_cache *cache, const char *credential, const char *subject, uint64_t serial)
{
	struct credential *c = credential_find(cache, credential);
	struct grant *g = c != NULL ? grant_find(c, subject) : NULL;

	return g != NULL && grant_refuse(g, serial);
}

/* --- status --- */

const char *token_state_name(enum token_state state)
{
	static const char *const names[] = {
		[TOKEN_UNUSED] = "unused",
		[TOKEN_FETCHING] = "fetching",
		[TOKEN_FRESH] = "fresh",
		[TOKEN_STALE] = "stale",
		[TOKEN_FAILED] = "failed",
	};

	return names[state];
}

static int64_t wall_of(msec_t at_ms)
{
	return clock_wall_s() + (at_ms - clock_now_ms()) / 1000;
}

static void snapshot_grant(const struct grant *g, struct token_snapshot *snap)
{
	bool usable = grant_is_usable(g);

	snap->state = grant_state(g);
	snap->failure = g->failure;
	snap->has_clock_ahead = g->has_clock_ahead;
	snap->clock_ahead_s = g->clock_ahead_s;
	snap->expires_wall_s = usable ? wall_of(g->expires_ms) : 0;
	if (g->failure.fail != FAIL_NONE)
		snap->refresh_wall_s = wall_of(g->retry_ms);
	else
		snap->refresh_wall_s = g->text != NULL ? wall_of(g->renew_ms) : 0;	/* also when it has ended: so it is seen to be late */
	snap->relogin_window_s = usable ? (g->margin_ms - g->renew_ms) / 1000 : 0;
}

/* Of several grants the one that is worst is shown: the states are in that order. */
static void snapshot_credential(const struct credential *c, struct token_snapshot *ret_snap)
{
	const struct grant *g;

	*ret_snap = (struct token_snapshot){ .credential = c->conf->name };
	LIST_FOREACH(g, &c->grants, link) {
		ret_snap->requests += g->n_requests;
		ret_snap->tokens += g->n_tokens;
		ret_snap->failures += g->n_failures;
		if (grant_state(g) >= ret_snap->state)
			snapshot_grant(g, ret_snap);
	}
}

size_t token_cache_snapshot(struct token_cache *cache, struct token_snapshot *ret_v, size_t room)
{
	const struct credential *c;
	size_t n = 0;

	TAILQ_FOREACH(c, &cache->credentials, link) {
		if (n < room)
			snapshot_credential(c, &ret_v[n]);
		n++;
	}
	return n;
}
