#include <event2/event.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "backoff.h"
#include "http.h"
#include "log.h"
#include "token_cache_private.h"
#include "util.h"
#include "workers.h"

#define ANSWER_LIMIT_MS 30000
#define SECRET_LIMIT_MS 30000		/* a file that takes longer lies on a disk that hangs */
#define MARGIN_MS (5 * 60 * 1000)	/* not handed out in its last minutes (exchange-online 2.5) */
#define SHORT_LIFE_MS (20 * 60 * 1000)	/* below it, not in its last quarter */
#define MAX_JITTER_MS (300 * 1000)	/* exchange-online 2.5 */
#define RENEWAL_FLOOR_MS 60000		/* a renewal is not sooner, however short refresh_in is */
#define SAME_END_MS 2000
#define LIFE_NOT_TOLD_S 3600		/* expires_in is but recommended (RFC 6749 5.1); most tokens live that long */
#define LIFE_LEAST_MS 5000		/* with less, a session is renewed before anything comes of it */
#define YOUNG_MS 60000			/* exchange-online 5.2: not to be replaced */
#define REPLICATION_MS (10 * 60 * 1000)	/* after a rotation Entra may refuse the new secret for a while */
#define REPLICATION_WAIT_MS 60000
#define LOOK_AT_SECRET_MS 30000

struct secret_job {
	struct job job;
	struct grant *grant;		/* the loop's; NULL: it is gone */
	bool only_if_changed;		/* the loop's */
	char *path;
	char *secret;			/* wiped; NULL: why says what is wrong */
	uint8_t digest[SECRET_DIGEST_BYTES];
	char why[200];
	bool is_missing;		/* the file */
};

/* --- what can be handed out --- */

static bool grant_is_fetching(const struct grant *g)
{
	return g->http != NULL || (g->job != NULL && !g->job->only_if_changed);
}

static bool grant_is_fresh(const struct grant *g)
{
	return g->text != NULL && clock_now_ms() < g->margin_ms;
}

bool grant_is_usable(const struct grant *g)
{
	return g->text != NULL && clock_now_ms() < g->expires_ms;
}

static bool grant_has_failed(const struct grant *g)
{
	return g->failure.fail != FAIL_NONE;
}

bool grant_is_undecided(const struct grant *g)
{
	if (grant_is_fresh(g) || (grant_is_usable(g) && grant_has_failed(g)))
		return false;
	return grant_is_fetching(g) || !grant_has_failed(g);
}

static void grant_answer(struct grant *g)
{
	struct token_request *r;

	TAILQ_FOREACH(r, &g->waiting, link)
		event_active(r->event, 0, 0);
}

static void grant_arm(struct grant *g)
{
	msec_t now_ms = clock_now_ms(), at_ms = g->renew_ms;
	struct timeval wait;

	g->timer_looks = false;
	event_del(g->timer);
	if (grant_has_failed(g)) {
		at_ms = g->retry_ms;
		/* a person mends it: notice soon, but never before the server wants to hear from us */
		g->timer_looks = g->failure.fail == FAIL_ADMIN && g->failure.asked_wait_ms == 0 && at_ms - now_ms > LOOK_AT_SECRET_MS;
	} else if (g->text == NULL) {
		return;
	}
	wait = clock_interval(g->timer_looks ? LOOK_AT_SECRET_MS : at_ms - now_ms);
	event_add(g->timer, &wait);
}

/* --- failure --- */

static void log_failed(struct grant *g, msec_t wait_ms)
{
	const struct failure *why = &g->failure;
	struct log_context ctx = { .credential = g->credential->conf->name };
	msec_t left_s = grant_is_usable(g) ? (g->expires_ms - clock_now_ms()) / 1000 : 0;
	char more[160], repeated[24];
	unsigned untold;
	int n;

	if (!repeats_tell(&g->failing, why->name, &untold))
		return;
	n = snprintf(more, sizeof(more), "; trying again in %lld s", (long long)(wait_ms + 999) / 1000);
	if (left_s > 0)
		n += snprintf(more + n, sizeof(more) - (size_t)n, "; the present token is good for %lld s", (long long)left_s);
	if (untold > 0)
		snprintf(more + n, sizeof(more) - (size_t)n, "; the same %u times since this was last logged", untold);
	log_write(why->fail == FAIL_ADMIN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING, EVENT_TOKEN_FAILED, &ctx,
	    (struct log_field[]){ { "FAILURE", why->name }, { "HINT", why->hint[0] != '\0' ? why->hint : NULL }, { "REPEATED", repeats_text(untold, repeated, sizeof(repeated)) } },
	    3, "no new token: %s%s%s%s", why->text, more, why->hint[0] != '\0' ? ". " : "", why->hint);
}

/* A new secret is not known everywhere at once (exchange-online 3.2). */
static bool is_replicating(const struct grant *g, const struct failure *why)
{
	return strcmp(why->name, "secret-wrong") == 0 && clock_now_ms() - g->secret_changed_ms < REPLICATION_MS;
}

static void grant_failed(struct grant *g, const struct failure *why)
{
	uint32_t random = (uint32_t)clock_random((uint64_t)UINT32_MAX + 1);
	msec_t wait_ms;

	g->n_failures++;
	g->failure = *why;
	wait_ms = backoff_next_ms(&g->backoff, why, random);
	if (is_replicating(g, why) && wait_ms > REPLICATION_WAIT_MS)
		wait_ms = REPLICATION_WAIT_MS;
	g->retry_ms = clock_now_ms() + wait_ms;
	log_failed(g, wait_ms);
	grant_arm(g);
	grant_answer(g);
}

static struct failure_subject subject_of(const struct grant *g)
{
	const struct credential_conf *conf = g->credential->conf;

	return (struct failure_subject){ .client_id = conf->client_id, .tenant = conf->tenant,
	    .token_host = g->credential->token_host, .host = g->credential->token_host, .mailbox = g->subject };
}

/* --- success --- */

static void log_refreshed(struct grant *g, bool life_told)
{
	struct log_context ctx = { .credential = g->credential->conf->name };
	msec_t life_s = (g->expires_ms - g->fetched_ms) / 1000, renew_s = (g->renew_ms - g->fetched_ms) / 1000;
	char life[24];
	struct log_field field = { "LIFETIME", life }, hint = { "HINT", g->payload.finding };

	snprintf(life, sizeof(life), "%lld", (long long)life_s);
	log_write(LOG_LEVEL_INFO, EVENT_TOKEN_REFRESHED, &ctx, &field, 1, "new token, good for %lld s%s, to be renewed in %lld s%s",
	    (long long)life_s, life_told ? "" : " (assumed: the endpoint does not tell)", (long long)renew_s,
	    grant_has_failed(g) ? "; the failure is over" : "");
	if (g->payload.finding != NULL && g->payload.finding != g->finding_logged)
		log_write(LOG_LEVEL_WARNING, EVENT_TOKEN_DOUBTFUL, &ctx, &hint, 1, "what the token shows will not open a mailbox. %s", g->payload.finding);
	g->finding_logged = g->payload.finding;
}

static msec_t life_of(const struct token_answer *a)
{
	return (msec_t)(a->expires_in_s != 0 ? a->expires_in_s : LIFE_NOT_TOLD_S) * 1000;
}

static msec_t margin_of(msec_t life_ms)
{
	return life_ms < SHORT_LIFE_MS ? life_ms / 4 : MARGIN_MS;
}

/* same_end: the endpoint has given the old token again, so what it says about renewal is what it said before. */
static void plan_renewal(struct grant *g, const struct token_answer *a, bool same_end)
{
	msec_t life_ms = life_of(a), refresh_ms = (msec_t)a->refresh_in_s * 1000;
	msec_t margin_ms = margin_of(life_ms);
	msec_t jitter_ms = life_ms / 10 < MAX_JITTER_MS ? life_ms / 10 : MAX_JITTER_MS;
	msec_t floor_ms = life_ms / 4 < RENEWAL_FLOOR_MS ? life_ms / 4 : RENEWAL_FLOOR_MS;
	msec_t after_ms = !same_end && refresh_ms > 0 && refresh_ms < life_ms ? refresh_ms : life_ms / 2;

	after_ms += (msec_t)clock_random((uint64_t)(2 * jitter_ms + 1)) - jitter_ms;
	if (after_ms > life_ms - margin_ms)
		after_ms = life_ms - margin_ms;
	if (after_ms < floor_ms)
		after_ms = floor_ms;
	/* counted from when it was asked for: its life had not begun before */
	g->renew_ms = g->asked_ms + after_ms;
	g->margin_ms = g->asked_ms + life_ms - margin_ms;
	g->expires_ms = g->asked_ms + life_ms;
}

static void forget_token(struct grant *g)
{
	secret_free(&g->text);
	token_payload_done(&g->payload);
}

static void grant_renewed(struct grant *g, struct token_answer *a)
{
	msec_t end_ms = g->asked_ms + life_of(a);
	bool same_end = g->text != NULL && end_ms - g->expires_ms < SAME_END_MS && g->expires_ms - end_ms < SAME_END_MS;

	g->n_tokens++;
	forget_token(g);
	g->text = a->access_token;
	a->access_token = NULL;
	g->serial = ++g->credential->cache->serial;
	g->fetched_ms = clock_now_ms();
	plan_renewal(g, a, same_end);
	token_payload_read(g->text, &g->payload);
	log_refreshed(g, a->expires_in_s != 0);
	repeats_over(&g->failing);
	g->failure = (struct failure){ 0 };
	g->backoff = (struct backoff){ 0 };
	grant_arm(g);
	grant_answer(g);
}

/* Each who asked would ask anew at once, and so each session: also when the answer has taken most of the token's life. */
static bool is_too_short(const struct grant *g, msec_t life_ms)
{
	return life_ms < LIFE_LEAST_MS || clock_now_ms() - g->asked_ms >= life_ms - margin_of(life_ms);
}

/* An endpoint that keeps tokens may give the rest of one, and the next time a whole one: it goes away by itself. */
static void grant_got_rest(struct grant *g, msec_t life_ms)
{
	struct failure_subject subject = subject_of(g);
	struct failure why;

	failure_own(&why, "token-short-lived", &subject, "token endpoint: a token that is good for %lld s, asked for %lld s ago",
	    (long long)life_ms / 1000, (long long)(clock_now_ms() - g->asked_ms) / 1000);
	grant_failed(g, &why);
}

/* --- one request: secret, form, answer --- */

static void unusable_answer(struct failure *ret, const struct http_answer *answer, const struct failure_subject *subject)
{
	failure_from_token_answer(ret, answer->status, "", 0, answer->retry_after_s, subject);
	snprintf(ret->text, sizeof(ret->text), "HTTP %ld without a usable access token", answer->status);
}

/* Its status says enough (exchange-online 3.3), even when its body is cut, or longer than anybody reads. */
static bool goes_away_by_itself(long status)
{
	return status == 408 || status == 429 || (status >= 500 && status <= 599);
}

static void failure_of(const struct grant *g, const struct http_answer *answer, struct failure *ret)
{
	struct failure_subject subject = subject_of(g);
	enum failure_phase phase = answer->is_resolve ? PHASE_RESOLVE : answer->is_certificate ? PHASE_TLS : PHASE_CONNECT;

	if (answer->status == 200) {
		unusable_answer(ret, answer, &subject);
		return;
	}
	if (answer->status != 0) {
		failure_from_token_answer(ret, answer->status, answer->body, answer->body_len, answer->retry_after_s, &subject);
		return;
	}
	if (goes_away_by_itself(answer->told_status)) {
		failure_from_token_answer(ret, answer->told_status, "", 0, answer->retry_after_s, &subject);
		return;
	}
	if (answer->is_connected && !answer->is_certificate) {
		failure_own(ret, "token-no-answer", &subject, "token endpoint: %s", answer->error);
		return;
	}
	failure_from_network(ret, phase, answer->is_certificate, answer->error, &subject);
	if (ret->fail == FAIL_WAIT)
		ret->schedule = SCHEDULE_TOKEN;
}

static void on_answer(void *arg, const struct http_answer *answer)
{
	struct grant *g = arg;
	struct token_answer parsed;
	struct failure why;

	g->http = NULL;
	if (answer->date_wall_s != 0) {
		g->has_clock_ahead = true;
		g->clock_ahead_s = clock_wall_s() - answer->date_wall_s;
	}
	if (answer->status == 200 && token_answer_parse(answer->body, answer->body_len, &parsed) == 0) {
		if (is_too_short(g, life_of(&parsed)))
			grant_got_rest(g, life_of(&parsed));
		else
			grant_renewed(g, &parsed);
		token_answer_done(&parsed);
		return;
	}
	failure_of(g, answer, &why);
	grant_failed(g, &why);
}

/* Encodes once what is not unreserved (RFC 3986 section 2.3): a form reads a bare + as a space. */
static char *append_encoded(char *out, const char *s)
{
	static const char digits[] = "0123456789ABCDEF";

	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;

		if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strchr("-._~", c) != NULL) {
			*out++ = (char)c;
		} else {
			*out++ = '%';
			*out++ = digits[c >> 4];
			*out++ = digits[c & 15];
		}
	}
	return out;
}

static char *build_form(const struct credential_conf *conf, const char *secret)
{
	const char *const fields[] = { "client_id=", conf->client_id, "&scope=", conf->scope, "&client_secret=", secret,
	    "&grant_type=", "client_credentials" };
	size_t size = 1;
	char *form, *out;

	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		size += 3 * strlen(fields[i]);
	out = form = xmalloc(size);
	for (size_t i = 0; i < ARRAY_LEN(fields); i += 2) {
		out = stpcpy(out, fields[i]);
		out = append_encoded(out, fields[i + 1]);
	}
	*out = '\0';
	return form;
}

static void grant_post(struct grant *g, const struct secret_job *j)
{
	const struct credential_conf *conf = g->credential->conf;
	char *form = build_form(conf, j->secret);

	if (memcmp(g->digest, j->digest, sizeof(g->digest)) != 0)	/* the first one, too: the daemon may have been started for it */
		g->secret_changed_ms = clock_now_ms();
	memcpy(g->digest, j->digest, sizeof(g->digest));
	g->has_digest = true;
	g->n_requests++;
	g->asked_ms = clock_now_ms();
	g->http = http_post_form(g->credential->cache->http, conf->token_url, conf->ca_file, form, ANSWER_LIMIT_MS, on_answer, g);
	secret_free(&form);
}

static void secret_failed(struct grant *g, const char *why, bool is_missing)
{
	const struct credential_conf *conf = g->credential->conf;
	bool not_given = is_missing && conf->secret_credential != NULL;		/* by systemd: nobody puts anything there by hand */
	struct failure_subject subject = subject_of(g);
	struct failure failure;

	subject.path = not_given ? conf->secret_credential : conf->secret_file;
	failure_own(&failure, not_given ? "secret-credential" : "secret-file", &subject, "%s", why);
	g->has_digest = false;
	grant_failed(g, &failure);
}

static bool is_unchanged(const struct grant *g, const struct secret_job *j)
{
	return j->secret == NULL || (g->has_digest && memcmp(g->digest, j->digest, sizeof(g->digest)) == 0);
}

static void secret_job_free(struct secret_job *j)
{
	secret_free(&j->secret);
	free(j->path);
	free(j);
}

static void done_secret(struct job *job)
{
	struct secret_job *j = (struct secret_job *)job;
	struct grant *g = j->grant;

	if (g != NULL) {
		g->job = NULL;
		event_del(g->timer);
		if (j->only_if_changed && is_unchanged(g, j))
			grant_arm(g);
		else if (j->secret == NULL)
			secret_failed(g, j->why, j->is_missing);
		else
			grant_post(g, j);
	}
	secret_job_free(j);
}

static void work_secret(struct job *job)
{
	struct secret_job *j = (struct secret_job *)job;

	j->secret = config_read_secret(j->path, j->why, sizeof(j->why));
	j->is_missing = j->secret == NULL && access(j->path, F_OK) < 0;
	if (j->secret != NULL && EVP_Digest(j->secret, strlen(j->secret), j->digest, NULL, EVP_sha256(), NULL) != 1)
		abort();
}

static void read_secret(struct grant *g, bool only_if_changed)
{
	struct secret_job *j = xcalloc(1, sizeof(*j));
	struct timeval limit = clock_interval(SECRET_LIMIT_MS);

	j->job.work = work_secret;
	j->job.done = done_secret;
	j->grant = g;
	j->only_if_changed = only_if_changed;
	j->path = xstrdup(g->credential->conf->secret_file);
	g->job = j;
	event_add(g->timer, &limit);
	lane_submit(g->credential->cache->lane, &j->job);
}

void grant_fetch(struct grant *g)
{
	if (g->job != NULL)
		g->job->only_if_changed = false;
	else if (g->http == NULL)
		read_secret(g, false);
}

/* The job goes on alone: the askers need not wait for its disk. */
static void secret_is_late(struct grant *g)
{
	bool only_look = g->job->only_if_changed;

	g->job->grant = NULL;
	g->job = NULL;
	if (only_look)
		grant_arm(g);
	else
		secret_failed(g, "reading the secret's file takes longer than 30 s", false);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct grant *g = arg;

	(void)fd, (void)what;
	if (g->job != NULL)
		secret_is_late(g);
	else if (g->http == NULL)
		read_secret(g, g->timer_looks);
}

/* --- from outside --- */

struct grant *grant_new(struct credential *c, const char *subject)
{
	struct grant *g = xcalloc(1, sizeof(*g));

	g->credential = c;
	g->subject = xstrdup(subject);
	g->timer = evtimer_new(c->cache->base, on_timer, g);
	TAILQ_INIT(&g->waiting);
	LIST_INSERT_HEAD(&c->grants, g, link);
	return g;
}

static void grant_stop(struct grant *g)
{
	event_del(g->timer);
	http_cancel(&g->http);
	if (g->job != NULL)
		g->job->grant = NULL;
	g->job = NULL;
}

void grant_reset(struct grant *g)
{
	grant_stop(g);
	forget_token(g);
	repeats_over(&g->failing);
	g->failure = (struct failure){ 0 };
	g->backoff = (struct backoff){ 0 };
	memset(g->digest, 0, sizeof(g->digest));
	g->has_digest = false;
	g->finding_logged = NULL;
	if (!TAILQ_EMPTY(&g->waiting))
		grant_fetch(g);
}

void grant_free(struct grant *g)
{
	grant_stop(g);
	LIST_REMOVE(g, link);
	forget_token(g);
	event_free(g->timer);
	free(g->subject);
	free(g);
}

void grant_retry(struct grant *g)
{
	if (g->failure.fail == FAIL_ADMIN && g->failure.asked_wait_ms == 0)
		grant_fetch(g);
}

/* The refused token's margin begins now: one mailbox that is refused does not cost the others their token when no newer
 * one can be had. */
bool grant_refuse(struct grant *g, uint64_t serial)
{
	msec_t now_ms = clock_now_ms();

	if (g->text == NULL || g->serial != serial)
		return true;
	if (now_ms - g->fetched_ms < YOUNG_MS || grant_has_failed(g))
		return false;
	if (g->margin_ms > now_ms)
		g->margin_ms = now_ms;
	grant_fetch(g);
	return true;
}

enum token_state grant_state(const struct grant *g)
{
	if (grant_is_usable(g))
		return grant_has_failed(g) ? TOKEN_STALE : TOKEN_FRESH;
	if (grant_has_failed(g))
		return TOKEN_FAILED;
	return grant_is_fetching(g) ? TOKEN_FETCHING : TOKEN_UNUSED;
}
