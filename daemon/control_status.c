/* Reading: status in slices, as fast as the reader takes it, and what lies in quarantine. */
#include <event2/buffer.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "control_private.h"
#include "fleet.h"
#include "health.h"
#include "http_server.h"
#include "log.h"
#include "status_json.h"
#include "util.h"

#define SLICE_MAILBOXES 100
#define SLICE_BYTES (128 * 1024)	/* a slice ends after the mailbox that passes this */

struct answer {				/* a status that is being written */
	struct control *control;	/* lent */
	struct http_stream *stream;
	bool only_failing, opened;
	char *match;			/* a pattern for address or id; NULL: all */
	size_t next;			/* index of the mailbox to go on with */
};

static void add_text(struct evbuffer *to, char *text)	/* takes text */
{
	evbuffer_add(to, text, strlen(text));
	free(text);
}

static void add_opening(struct control *c, struct evbuffer *to)
{
	add_text(to, status_json_opening(c->fleet, MAILPOLLD_VERSION, c->started_wall_s));
}

static void add_closing(struct control *c, struct evbuffer *to)
{
	evbuffer_add(to, ",", 1);
	add_text(to, status_json_closing(c->fleet, health_lag_max_ms(c->health), log_dropped()));
}

static void answer_free(void *arg)
{
	struct answer *a = arg;

	free(a->match);
	free(a);
}

static bool is_wanted(const struct answer *a, const struct mailbox *mailbox)
{
	msec_t since_ms;

	if (a->match != NULL && !mailbox_conf_is_like(mailbox_conf(mailbox), a->match))
		return false;
	return !a->only_failing || mailbox_is_failing(mailbox, &since_ms);
}

/* The next mailboxes; false: these were the last. The index is all that is kept between two slices: a reload meanwhile
 * may have changed what stands there, or how many there are. */
static bool add_mailboxes(struct answer *a, struct evbuffer *to)
{
	const struct fleet *fleet = a->control->fleet;
	size_t n = 0, start = evbuffer_get_length(to);

	while (a->next < fleet_size(fleet) && n < SLICE_MAILBOXES && evbuffer_get_length(to) - start < SLICE_BYTES) {
		const struct mailbox *mailbox = fleet_mailbox(fleet, a->next++);

		if (!is_wanted(a, mailbox))
			continue;
		if (a->opened)
			evbuffer_add(to, ",", 1);
		a->opened = true;
		add_text(to, status_json_mailbox(mailbox));
		n++;
	}
	return a->next < fleet_size(fleet);
}

static void send_slice(void *arg)
{
	struct answer *a = arg;
	struct evbuffer *slice = evbuffer_new();
	bool more;

	if (a->next == 0) {
		add_opening(a->control, slice);
		evbuffer_add_printf(slice, ",\"mailboxes\":[");
	}
	more = add_mailboxes(a, slice);
	if (!more) {
		evbuffer_add(slice, "]", 1);
		add_closing(a->control, slice);
	}
	http_stream_send(a->stream, slice);
	evbuffer_free(slice);
	if (!more) {
		http_stream_end(a->stream);
		answer_free(a);
	}
}

static const struct http_stream_ops status_ops = { .drained = send_slice, .closed = answer_free };

static void send_mailboxes(struct control *c, struct evhttp_request *req)
{
	char *failing = http_query(req, "failing"), *match = http_query(req, "match");
	struct answer *a = xcalloc(1, sizeof(*a));

	*a = (struct answer){ .control = c, .only_failing = str_equal(failing, "1"), .match = match };
	a->stream = http_stream_begin(c->http, req, "application/json", &status_ops, a);
	free(failing);
	send_slice(a);
}

/* All but the mailboxes, or with everything about the one given. */
static void send_small(struct control *c, struct evhttp_request *req, const struct mailbox *mailbox)
{
	char *opening = status_json_opening(c->fleet, MAILPOLLD_VERSION, c->started_wall_s);
	char *closing = status_json_closing(c->fleet, health_lag_max_ms(c->health), log_dropped());
	char *one = mailbox != NULL ? status_json_mailbox_whole(mailbox) : NULL;

	control_reply(req, HTTP_OK, one != NULL ? xasprintf("%s,\"mailboxes\":[%s],%s", opening, one, closing) : xasprintf("%s,%s", opening, closing));
	free(opening);
	free(closing);
	free(one);
}

void control_get_mailbox(struct control *c, struct evhttp_request *req, const char *address)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);

	if (mailbox == NULL)
		control_reply_no_mailbox(c, req, address);
	else
		send_small(c, req, mailbox);
}

void control_get_status(struct control *c, struct evhttp_request *req, const char *none)
{
	char *summary = http_query(req, "summary"), *match = http_query(req, "match");

	(void)none;
	if (match != NULL && strlen(match) > CONTROL_PATTERN_BYTES)
		control_reply_error(req, HTTP_BADREQUEST, "match is longer than an address can be");
	else if (str_equal(summary, "1"))
		send_small(c, req, NULL);
	else
		send_mailboxes(c, req);
	free(match);
	free(summary);
}

static void on_quarantine_list(void *arg, char *json)
{
	control_reply_later(arg, HTTP_OK, json);
}

void control_get_quarantine(struct control *c, struct evhttp_request *req, const char *none)
{
	(void)none;
	fleet_quarantine_list(c->fleet, on_quarantine_list, http_answer_later(req));
}
