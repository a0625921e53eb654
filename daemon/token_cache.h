/* token_cache.h - access tokens (RFC 6749 4.4): one per credential and subject, fetched once, shared by all who ask.
 * subject is NULL where one token opens every mailbox, an address where the kind demands one each.
 *
 * Renewal runs by itself once a token has been asked for: at refresh_in if given, else at half of the life, with
 * jitter. A token is not handed out in its last 5 minutes (lives under 20 minutes: its last quarter) unless no new one
 * can be had, then until its end. An endpoint need not tell the life: then it counts as an hour, unless the server ends
 * it before (token_reject()). A token that is over within seconds is none, but a failure. One request in flight per key,
 * whoever asks; after a failure the next request waits as backoff.h says, and Retry-After is honoured; askers meanwhile
 * hear the last failure at once. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "failure.h"

struct event_base; struct http; struct workers; struct config; struct credential_conf;
struct token_cache;
struct token_request;

struct token {				/* lent for the length of a callback */
	const char *text;		/* never to be logged */
	uint64_t serial;		/* names it without telling it; grows */
	msec_t renew_ms, margin_ms, expires_ms;	/* a newer one is due; this one is handed out no more if one can be had; its end */
	const char *object_id;		/* `oid` of its payload, when it could be read; else NULL */
	const char *finding;		/* what its payload shows to be wrong, a sentence (exchange-online 2.6); else NULL */
};
/* token, or NULL and why not. */
typedef void token_cb(void *arg, const struct token *, const struct failure *);

struct token_cache *token_cache_new(struct event_base *, struct workers *, struct http *);
void token_cache_free(struct token_cache **);
/* Takes over a configuration's credentials (copied). Changed ones are forgotten and fetched anew when next asked,
 * unchanged ones keep their tokens; removed ones end, with a failure for who still waits. */
void token_cache_configure(struct token_cache *, const struct config *);

/* Always answers later, from the loop, exactly once; after token_cancel() not at all. */
struct token_request *token_get(struct token_cache *, const char *credential, const char *subject, token_cb *cb, void *arg);
void token_cancel(struct token_request **);	/* sets it to NULL; NULL inside is fine */
/* The server refused this token: forget it and fetch another, once: unless a newer one is held, or it was younger
 * than 60 s (then it is kept: a new one would be as good). Returns whether asking again can bring another token. */
bool token_reject(struct token_cache *, const char *credential, const char *subject, uint64_t serial);

enum token_state { TOKEN_UNUSED, TOKEN_FETCHING, TOKEN_FRESH, TOKEN_STALE /* usable, renewal failing */, TOKEN_FAILED };
struct token_snapshot {
	const char *credential;		/* lent until the next call into token_cache */
	enum token_state state;
	int64_t expires_wall_s;		/* 0: no token */
	int64_t refresh_wall_s;		/* the next request, for a better token or for one at all; past: it is late; 0: none is planned */
	int64_t relogin_window_s;	/* in which those who signed in with it do so anew (mailbox_session.c); 0: no token */
	struct failure failure;		/* FAIL_NONE: none */
	uint64_t requests, tokens, failures;	/* sent; what came of an attempt, which may have failed before it was sent */
	bool has_clock_ahead; int64_t clock_ahead_s;	/* this machine's clock against the endpoint's Date header */
};
const char *token_state_name(enum token_state);
size_t token_cache_snapshot(struct token_cache *, struct token_snapshot *ret_v, size_t room);	/* returns how many there are */

/* Pure, for tests and fuzzing: the success answer's JSON. -1: not a usable answer. Numbers may be strings. */
struct token_answer { char *access_token; uint64_t expires_in_s, refresh_in_s; /* 0: not told */ };
int token_answer_parse(const char *body, size_t len, struct token_answer *ret_answer) MUST_CHECK;
void token_answer_done(struct token_answer *);	/* wipes */
