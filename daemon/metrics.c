#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "fleet.h"
#include "log.h"
#include "metrics.h"
#include "status_json.h"
#include "util.h"

#define TIMEOUT_S 30
#define HEADER_BYTES 16384
#define HTTP_UNAVAILABLE 503

struct metrics {
	struct event_base *base;	/* lent */
	struct fleet *fleet;		/* lent */
	int64_t started_wall_s;
	struct evhttp *http;		/* NULL: nothing listens */
	char *address;			/* where it does */
	uint16_t port;
	bool complained;		/* the new address could not be listened on, and that was logged */
};

static void reply(struct evhttp_request *req, int code, const char *type, char *text)	/* takes text */
{
	struct evbuffer *body = evbuffer_new();

	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
	evbuffer_add(body, text, strlen(text));
	evhttp_send_reply(req, code, NULL, body);
	evbuffer_free(body);
	free(text);
}

static void on_metrics(struct evhttp_request *req, void *arg)
{
	struct metrics *m = arg;

	reply(req, HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", metrics_text(m->fleet, m->started_wall_s));
}

static void on_healthz(struct evhttp_request *req, void *arg)
{
	struct metrics *m = arg;
	struct health_reason reason;
	size_t n;
	bool down = fleet_health(m->fleet, &reason, 1, &n) == HEALTH_DOWN;

	reply(req, down ? HTTP_UNAVAILABLE : HTTP_OK, "application/json", status_json_health(m->fleet));
}

static int listen_there(struct metrics *m, const struct config *config, char *ret_error, size_t size)
{
	struct evhttp *http = config->metrics_address != NULL ? evhttp_new(m->base) : NULL;

	if (http != NULL) {
		evhttp_set_timeout(http, TIMEOUT_S);
		evhttp_set_max_headers_size(http, HEADER_BYTES);
		evhttp_set_max_body_size(http, 0);
		evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
		evhttp_set_cb(http, "/metrics", on_metrics, m);
		evhttp_set_cb(http, "/healthz", on_healthz, m);
		if (evhttp_bind_socket(http, config->metrics_address, config->metrics_port) < 0) {
			snprintf(ret_error, size, "metrics_listen: cannot listen on %s port %u: %s", config->metrics_address, config->metrics_port,
			    strerror(errno));
			evhttp_free(http);
			return -1;
		}
	}
	if (m->http != NULL)
		evhttp_free(m->http);
	m->http = http;
	free(m->address);
	m->address = xstrdup(config->metrics_address);
	m->port = config->metrics_port;
	return 0;
}

void metrics_follow(struct metrics *m)
{
	const struct config *config = fleet_config(m->fleet);
	char error[256];
	bool same = str_equal(m->address, config->metrics_address) && m->port == config->metrics_port;
	bool failed = !same && listen_there(m, config, error, sizeof(error)) < 0;

	if (failed && !m->complained)
		log_error(NULL, "%s; tried again until it works", error);
	m->complained = failed;
}

struct metrics *metrics_new(struct event_base *base, struct fleet *fleet, char *ret_error, size_t size)
{
	struct metrics *m = xcalloc(1, sizeof(*m));

	m->base = base;
	m->fleet = fleet;
	m->started_wall_s = clock_wall_s();
	if (listen_there(m, fleet_config(fleet), ret_error, size) < 0)
		metrics_free(&m);
	return m;
}

void metrics_free(struct metrics **metrics)
{
	struct metrics *m = *metrics;

	if (m == NULL)
		return;
	if (m->http != NULL)
		evhttp_free(m->http);
	free(m->address);
	free(m);
	*metrics = NULL;
}
