/* token_cache_private.h - what the files of the token cache share: token_cache.c (credentials, requests, status) and
 * token_cache_grant.c (the life of one token). token_cache_answer.c is pure and needs none of it. Nobody else
 * includes it.
 *
 * A grant is one token that many share: a credential, and a subject where the credential needs one. It does one thing at a
 * time: reads the secret on a lane, asks the endpoint, or waits for its timer. Whoever wants its token is a request that
 * waits at the grant, and has an event of its own to be answered from. */
#pragma once
#include <sys/queue.h>
#include "backoff.h"
#include "config.h"
#include "repeats.h"
#include "token_cache.h"
#include "token_payload.h"

struct event; struct http_request; struct lane;

#define SECRET_DIGEST_BYTES 32

TAILQ_HEAD(token_requests, token_request);
struct grant {
	LIST_ENTRY(grant) link;
	struct credential *credential;
	char *subject;			/* NULL: the one token opens every mailbox */
	char *text;			/* wiped; NULL: no token */
	struct token_payload payload;
	uint64_t serial;
	msec_t fetched_ms, renew_ms, expires_ms;
	msec_t margin_ms;		/* from then on handed out only when no newer one can be had */
	struct event *timer;
	bool timer_looks;		/* the timer is for a look at the secret, not for a token */
	struct secret_job *job;		/* the secret is being read */
	struct http_request *http;	/* the endpoint is being asked */
	msec_t asked_ms;		/* when */
	uint8_t digest[SECRET_DIGEST_BYTES];	/* of the secret last sent; all 0: none yet */
	bool has_digest;		/* the last attempt got as far as sending one */
	msec_t secret_changed_ms;	/* it was not the same before, or none */
	struct failure failure;		/* of the last attempt; FAIL_NONE: it went well */
	struct backoff backoff;
	msec_t retry_ms;		/* no request before, after a failure */
	struct repeats failing;		/* what has been logged of it */
	const char *finding_logged;	/* static */
	uint64_t n_requests, n_tokens, n_failures;
	bool has_clock_ahead; int64_t clock_ahead_s;	/* by the last answer's Date */
	struct token_requests waiting;
};
struct credential {
	TAILQ_ENTRY(credential) link;
	struct token_cache *cache;
	struct credential_conf *conf;	/* an own copy */
	char *token_host;
	bool kept;			/* the new configuration has it */
	LIST_HEAD(, grant) grants;
};
struct token_cache {
	struct event_base *base;	/* lent */
	struct http *http;		/* lent */
	struct lane *lane;
	TAILQ_HEAD(, credential) credentials;	/* in the order of the configuration */
	struct token_requests homeless;	/* their credential is not in the configuration */
	uint64_t serial;
};
struct token_request {
	TAILQ_ENTRY(token_request) link;
	struct token_requests *list;	/* it is in */
	struct grant *grant;		/* NULL: homeless */
	char *credential;		/* name, when homeless */
	token_cb *cb;
	void *arg;
	struct event *event;
};
struct grant *grant_new(struct credential *, const char *subject);
void grant_free(struct grant *);		/* after its requests have gone elsewhere */
void grant_fetch(struct grant *);		/* unless it does already */
void grant_retry(struct grant *);		/* a person may have mended what failed: now, unless the server said when */
void grant_reset(struct grant *);		/* its credential has changed: all is forgotten, those who wait wait on */
bool grant_refuse(struct grant *, uint64_t serial);	/* token_reject() */

bool grant_is_usable(const struct grant *);	/* a token is held that may be handed out */
bool grant_is_undecided(const struct grant *);	/* nothing can be said yet: a token is on its way, or must be asked for */
enum token_state grant_state(const struct grant *);
