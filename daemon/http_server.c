/* Whose a request is, in libevent 2.1: the connection's as long as it is being read and once its reply has been handed over; while we
 * still owe the reply, a connection that breaks lets go of it and we free it, but one that evhttp_free() closes takes it along.
 * on_closed() is the one place that knows; a struct owed stands for each request in that state.
 *
 * evhttp of 2.1 neither counts its connections nor bounds the time of a request. So each connection's bufferevent is made here and a
 * reference kept: when evhttp has taken its callbacks away, the connection is over. */
#include <ctype.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include "clock.h"
#include "http_server.h"
#include "util.h"

#define CLIENTS_MAX 64
#define BODY_BYTES (64 * 1024)
#define HEADER_BYTES (8 * 1024)
#define READ_BYTES (128 * 1024)		/* kept of what a client sends before it is asked to; more than a body */
#define REQUEST_MS 10000
#define STALL_S 30
#define REPLY_MS (10 * 60 * 1000)
#define SWEEP_MS 1000

struct client {				/* a connection */
	struct bufferevent *bev;	/* a reference */
	msec_t until_ms;		/* 0: no limit */
};
struct http_server {
	struct event_base *base;	/* lent */
	struct evhttp *http;
	struct evconnlistener *listener;	/* evhttp's */
	bool full;
	struct client clients[CLIENTS_MAX];
	size_t n_clients;
	struct event *sweeper;		/* pending while there is a client */
	void (*handle)(void *arg, struct evhttp_request *);
	void *arg;
};

/* --- connections --- */

static bool is_over(const struct client *c)
{
	bufferevent_event_cb on_event = NULL;

	bufferevent_getcb(c->bev, NULL, NULL, &on_event, NULL);
	return on_event == NULL;
}

static void sweep(struct http_server *s)
{
	msec_t now_ms = clock_now_ms();
	size_t n = 0;

	for (size_t i = 0; i < s->n_clients; i++) {
		struct client *c = &s->clients[i];

		if (is_over(c)) {
			bufferevent_decref(c->bev);
			continue;
		}
		if (c->until_ms != 0 && now_ms >= c->until_ms)
			shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);	/* evhttp hears of it and closes */
		s->clients[n++] = *c;
	}
	s->n_clients = n;
}

static void pause_accepting(struct http_server *s)
{
	s->full = true;
	evconnlistener_disable(s->listener);
}

static void arm_sweeper(struct http_server *s)
{
	struct timeval wait = clock_interval(SWEEP_MS);

	if (!event_pending(s->sweeper, EV_TIMEOUT, NULL))
		event_add(s->sweeper, &wait);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *s = arg;

	(void)fd, (void)what;
	sweep(s);
	if (s->full && s->n_clients < CLIENTS_MAX) {
		s->full = false;
		evconnlistener_enable(s->listener);
	}
	if (s->n_clients > 0)
		arm_sweeper(s);
}

static void on_accept_failed(struct evconnlistener *listener, void *arg)	/* no descriptors: not at once again */
{
	(void)listener;
	pause_accepting(arg);
	arm_sweeper(arg);
}

/* The descriptor is closed with the last reference, so that its number is not another's while events of it may still come. */
static struct bufferevent *on_accept(struct event_base *base, void *arg)
{
	struct http_server *s = arg;
	struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);

	if (bev == NULL)
		abort();
	if (s->n_clients == CLIENTS_MAX - 1)
		sweep(s);
	bufferevent_setwatermark(bev, EV_READ, 0, READ_BYTES);
	bufferevent_incref(bev);
	s->clients[s->n_clients++] = (struct client){ .bev = bev, .until_ms = clock_now_ms() + REQUEST_MS };
	arm_sweeper(s);
	if (s->n_clients == CLIENTS_MAX)
		pause_accepting(s);
	return bev;
}

/* --- a whole reply --- */

static void add_headers(struct evhttp_request *req, const char *type)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);

	evhttp_add_header(headers, "Content-Type", type);
	evhttp_add_header(headers, "Connection", "close");
}

void http_reply(struct evhttp_request *req, int code, const char *type, char *body)
{
	struct evbuffer *buffer = evbuffer_new();

	add_headers(req, type);
	evbuffer_add(buffer, body, strlen(body));
	free(body);
	evhttp_send_reply(req, code, NULL, evhttp_request_get_command(req) == EVHTTP_REQ_HEAD ? NULL : buffer);
	evbuffer_free(buffer);
}

/* --- requests --- */

static struct client *client_of(struct http_server *s, struct evhttp_request *req)
{
	const struct bufferevent *bev = evhttp_connection_get_bufferevent(evhttp_request_get_connection(req));

	for (size_t i = 0; i < s->n_clients; i++)
		if (s->clients[i].bev == bev)
			return &s->clients[i];
	abort();
}

/* Each % is followed by two digits, and none is a NUL. */
static bool is_well_formed(const char *s)
{
	for (; *s != '\0'; s++)
		if (*s == '%' && (!isxdigit((unsigned char)s[1]) || !isxdigit((unsigned char)s[2]) || (s[1] == '0' && s[2] == '0')))
			return false;
	return true;
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct http_server *s = arg;

	client_of(s, req)->until_ms = clock_now_ms() + REPLY_MS;
	if (evhttp_request_get_evhttp_uri(req) != NULL && is_well_formed(evhttp_request_get_uri(req)))
		s->handle(s->arg, req);
	else
		http_reply(req, HTTP_BADREQUEST, "application/json", xstrdup("{\"error\":\"The address is not percent-encoded as it should be.\"}\n"));
}

/* --- a reply still owed --- */

struct owed {
	struct evhttp_request *request;
	void (*closed)(void *arg);
	void *arg;
};
struct http_later { struct owed owed; bool gone; };
struct http_stream { struct owed owed; struct http_server *server; const struct http_stream_ops *ops; void *arg; };

static void on_closed(struct evhttp_connection *connection, void *arg)
{
	struct owed *owed = arg;

	(void)connection;
	if (evhttp_request_get_connection(owed->request) == NULL)
		evhttp_request_free(owed->request);
	owed->closed(owed->arg);
}

static void owe(struct owed *owed, struct evhttp_request *req, void (*closed)(void *arg), void *arg)
{
	*owed = (struct owed){ .request = req, .closed = closed, .arg = arg };
	evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_closed, owed);
}

/* The rest of the reply is about to be handed over: from now on the request is the connection's. */
static void owe_no_more(struct owed *owed)
{
	evhttp_connection_set_closecb(evhttp_request_get_connection(owed->request), NULL, NULL);
}

static void later_closed(void *arg)
{
	((struct http_later *)arg)->gone = true;
}

struct http_later *http_answer_later(struct evhttp_request *req)
{
	struct http_later *later = xcalloc(1, sizeof(*later));

	owe(&later->owed, req, later_closed, later);
	return later;
}

void http_reply_later(struct http_later *later, int code, const char *type, char *body)
{
	if (later->gone) {
		free(body);
	} else {
		owe_no_more(&later->owed);
		http_reply(later->owed.request, code, type, body);
	}
	free(later);
}

/* --- a reply in pieces --- */

static void stream_closed(void *arg)
{
	struct http_stream *stream = arg;
	void (*closed)(void *) = stream->ops->closed;
	void *closed_arg = stream->arg;

	free(stream);
	closed(closed_arg);
}

static void on_drained(struct evhttp_connection *connection, void *arg)
{
	struct http_stream *stream = arg;

	(void)connection;
	if (stream->ops->drained != NULL)
		stream->ops->drained(stream->arg);
}

static struct bufferevent *bev_of(const struct http_stream *stream)
{
	return evhttp_connection_get_bufferevent(evhttp_request_get_connection(stream->owed.request));
}

struct http_stream *http_stream_begin(struct http_server *server, struct evhttp_request *req, const char *type, const struct http_stream_ops *ops,
    void *arg)
{
	struct http_stream *stream = xcalloc(1, sizeof(*stream));
	struct timeval stall = clock_interval(STALL_S * 1000);

	stream->server = server;
	stream->ops = ops;
	stream->arg = arg;
	owe(&stream->owed, req, stream_closed, stream);
	add_headers(req, type);
	evhttp_send_reply_start(req, HTTP_OK, NULL);
	bufferevent_set_timeouts(bev_of(stream), NULL, &stall);	/* nothing more is expected of the client */
	return stream;
}

void http_stream_is_endless(struct http_stream *stream)
{
	client_of(stream->server, stream->owed.request)->until_ms = 0;
}

void http_stream_send(struct http_stream *stream, struct evbuffer *piece)
{
	evhttp_send_reply_chunk_with_cb(stream->owed.request, piece, on_drained, stream);
}

size_t http_stream_backlog(const struct http_stream *stream)
{
	return evbuffer_get_length(bufferevent_get_output(bev_of(stream)));
}

void http_stream_end(struct http_stream *stream)
{
	client_of(stream->server, stream->owed.request)->until_ms = clock_now_ms() + REPLY_MS;
	owe_no_more(&stream->owed);
	evhttp_send_reply_end(stream->owed.request);
	free(stream);
}

/* --- life --- */

struct http_server *http_server_new(struct event_base *base, int fd, void (*handle)(void *arg, struct evhttp_request *), void *arg)
{
	struct http_server *s = xcalloc(1, sizeof(*s));
	struct evhttp_bound_socket *bound;

	s->base = base;
	s->handle = handle;
	s->arg = arg;
	s->http = evhttp_new(base);
	s->sweeper = evtimer_new(base, on_sweep, s);
	if (s->http == NULL || s->sweeper == NULL)
		abort();
	evhttp_set_max_body_size(s->http, BODY_BYTES);
	evhttp_set_max_headers_size(s->http, HEADER_BYTES);
	evhttp_set_timeout(s->http, STALL_S);
	evhttp_set_bevcb(s->http, on_accept, s);
	evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
	    EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);	/* to say 405 ourselves */
	evhttp_set_gencb(s->http, on_request, s);
	if ((bound = evhttp_accept_socket_with_handle(s->http, fd)) == NULL)
		abort();
	s->listener = evhttp_bound_socket_get_listener(bound);
	evconnlistener_set_error_cb(s->listener, on_accept_failed);
	return s;
}

void http_server_free(struct http_server **server)
{
	struct http_server *s = *server;

	if (s == NULL)
		return;
	evhttp_free(s->http);		/* frees what was being answered, by on_closed() */
	for (size_t i = 0; i < s->n_clients; i++)
		bufferevent_decref(s->clients[i].bev);
	event_free(s->sweeper);
	free(s);
	*server = NULL;
}

/* --- what was asked --- */

char *http_decode(const char *s, size_t len)
{
	char *raw = xstrndup(s, len), *text = evhttp_uridecode(raw, 0, NULL);

	if (text == NULL)
		abort();
	free(raw);
	return text;
}

char *http_query(const struct evhttp_request *req, const char *key)
{
	const char *p = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(req));
	size_t key_len = strlen(key);

	while (p != NULL && *p != '\0') {
		size_t len = strcspn(p, "&");

		if (len > key_len && strncmp(p, key, key_len) == 0 && p[key_len] == '=')
			return http_decode(p + key_len + 1, len - key_len - 1);
		p += len + (p[len] == '&');
	}
	return NULL;
}
