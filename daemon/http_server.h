/* http_server.h - HTTP with bounds, for the control socket and the metrics port. At most CLIENTS_MAX connections, the next ones wait in
 * the socket's queue; one request on each, which must have come whole within 10 s, with at most 8 KiB of header and 64 KiB of body; who
 * takes nothing of a reply for 30 s, or not all of it within 10 minutes, is cut off. Nothing here blocks. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct event_base; struct evbuffer; struct evhttp_request;
struct http_server;

/* fd listens and is taken over. handle answers with one of the calls below, at once or later; what it is asked is well-formed. */
struct http_server *http_server_new(struct event_base *, int fd, void (*handle)(void *arg, struct evhttp_request *), void *arg);
/* Cuts off who is being answered: closed() comes to streams; what is to be answered later still is to be answered, to nobody. */
void http_server_free(struct http_server **);

/* A whole reply. Takes body. */
void http_reply(struct evhttp_request *, int code, const char *type, char *body);

/* The same, later: exactly once. The client may have gone by then. */
struct http_later;
struct http_later *http_answer_later(struct evhttp_request *);
void http_reply_later(struct http_later *, int code, const char *type, char *body);

/* A reply of any length, piece by piece. drained (may be NULL): all that was sent has been taken, the next piece is wanted; closed: the
 * client has gone and the stream with it. Both come from the loop, never from inside a call. */
struct http_stream;
struct http_stream_ops {
	void (*drained)(void *arg);
	void (*closed)(void *arg);
};
struct http_stream *http_stream_begin(struct http_server *, struct evhttp_request *, const char *type, const struct http_stream_ops *, void *arg);
void http_stream_is_endless(struct http_stream *);		/* no limit for the whole of it, but for its end */
void http_stream_send(struct http_stream *, struct evbuffer *);	/* takes what is in it */
size_t http_stream_backlog(const struct http_stream *);		/* bytes that the client has not taken yet */
void http_stream_end(struct http_stream *);			/* what was sent still goes out; no callback any more */

/* Percent-decodes; a `+` stays, it is part of addresses. Caller frees. */
char *http_decode(const char *s, size_t len);
char *http_query(const struct evhttp_request *, const char *key);	/* decoded; NULL: no such key. Caller frees */
