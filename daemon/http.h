/* http.h - one HTTPS request and its answer, through libcurl's multi interface on our loop. Names are resolved by
 * ours; https only, no redirects, no proxy from the environment, certificates verified. The answer's body is
 * bounded; bodies sent are wiped when freed, since they carry secrets. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"

struct event_base; struct resolver;
struct http;
struct http_request;

struct http_answer {			/* lent for the callback */
	long status;			/* 0: no answer, or not all of it; error says why */
	long told_status;		/* of one that was cut or too long; 0: none was told */
	const char *body; size_t body_len;	/* body[body_len] is NUL */
	unsigned retry_after_s;		/* from seconds or an HTTP-date; 0: not given; at most 3600 */
	int64_t date_wall_s;		/* the Date header; 0: not given */
	const char *error;		/* one line */
	bool is_certificate;		/* the server's certificate was not accepted */
	bool is_resolve;		/* its name was not found */
	bool is_connected;		/* TLS stood when it failed */
};
typedef void http_cb(void *arg, const struct http_answer *);

struct http *http_new(struct event_base *, struct resolver *);
void http_free(struct http **);		/* after all requests are cancelled */
/* Always answers later, from the loop, exactly once. form: an application/x-www-form-urlencoded body, copied. */
struct http_request *http_post_form(struct http *, const char *url, const char *ca_file, const char *form,
    msec_t timeout_ms, http_cb *cb, void *arg);
void http_cancel(struct http_request **);	/* no callback comes any more; NULL inside is fine */
