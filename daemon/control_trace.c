/* A mailbox's wire, live, as lines of text for as long as the reader takes them. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdlib.h>
#include "config.h"
#include "control_private.h"
#include "fleet.h"
#include "http_server.h"
#include "util.h"

#define TRACES_MAX 16			/* others are to be answered, too */
#define BACKLOG_BYTES (1024 * 1024)	/* a reader that is further behind is cut off */

struct reader {
	struct control *control;	/* lent */
	struct fleet_trace *trace;	/* NULL: it has ended */
	struct http_stream *stream;
	struct event *cut_off;		/* active: it is too slow, or the trace has ended */
	const char *why;		/* then; static */
};

static void send_line(struct reader *r, const char *text)
{
	struct evbuffer *line = evbuffer_new();
	int64_t now_ms = clock_wall_ms();

	evbuffer_add_printf(line, "%02d:%02d:%02d.%03dZ %s\n", (int)(now_ms / 3600000 % 24), (int)(now_ms / 60000 % 60), (int)(now_ms / 1000 % 60),
	    (int)(now_ms % 1000), text);
	http_stream_send(r->stream, line);
	evbuffer_free(line);
}

static void reader_free(struct reader *r)
{
	fleet_trace_stop(&r->trace);
	event_free(r->cut_off);
	r->control->n_traces--;
	free(r);
}

static void on_closed(void *arg)
{
	reader_free(arg);
}

/* From the loop, since a line comes from inside the trace that ends here. */
static void on_cut_off(evutil_socket_t fd, short what, void *arg)
{
	struct reader *r = arg;

	(void)fd, (void)what;
	http_stream_end(r->stream);
	reader_free(r);
}

static void end(struct reader *r, const char *why)
{
	char text[160];

	r->why = why;
	snprintf(text, sizeof(text), "-- the trace ends: %s", why);
	send_line(r, text);
	event_active(r->cut_off, 0, 0);
}

static void on_line(void *arg, const char *text)
{
	struct reader *r = arg;

	if (r->why != NULL)
		return;
	if (http_stream_backlog(r->stream) > BACKLOG_BYTES)
		end(r, "its reader is too slow");
	else
		send_line(r, text);
}

static void on_end(void *arg, const char *why)
{
	struct reader *r = arg;

	r->trace = NULL;
	if (r->why == NULL)
		end(r, why);
}

static const struct fleet_trace_ops trace_ops = { .line = on_line, .end = on_end };
static const struct http_stream_ops stream_ops = { .closed = on_closed };

void control_get_trace(struct control *c, struct evhttp_request *req, const char *address)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);
	struct reader *r;
	char text[400];

	if (mailbox == NULL) {
		control_reply_no_mailbox(c, req, address);
		return;
	}
	if (c->n_traces == TRACES_MAX) {
		control_reply_error(req, HTTP_SERVUNAVAIL, "Too many traces are under way: end one of them first.");
		return;
	}
	control_log_peer(req, "trace", mailbox_conf(mailbox)->address, NULL);
	c->n_traces++;
	r = xcalloc(1, sizeof(*r));
	r->control = c;
	r->cut_off = event_new(c->base, -1, 0, on_cut_off, r);
	r->stream = http_stream_begin(c->http, req, "text/plain; charset=utf-8", &stream_ops, r);
	http_stream_is_endless(r->stream);
	snprintf(text, sizeof(text), "-- %s, %s", mailbox_conf(mailbox)->address, mailbox_state_name(mailbox_state(mailbox)));
	send_line(r, text);
	r->trace = fleet_trace_start(c->fleet, address, &trace_ops, r);
}
