#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "config.h"
#include "fleet.h"
#include "http_server.h"
#include "log.h"
#include "metrics_private.h"
#include "status_json.h"
#include "util.h"

#define BACKLOG 256
#define TEXT_FORMAT "text/plain; version=0.0.4; charset=utf-8"

struct metrics {
	struct event_base *base;	/* lent */
	struct fleet *fleet;		/* lent */
	int64_t started_wall_s;
	bool by_watchdog;
	struct http_server *http;	/* NULL: nothing listens */
	char *address;			/* where it does */
	uint16_t port;
};

struct scrape {				/* with series of single mailboxes */
	struct fleet *fleet;
	struct http_stream *stream;
	struct metrics_place at;
};

static void send_more(void *arg)
{
	struct scrape *scrape = arg;
	struct evbuffer *piece = evbuffer_new();
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);
	bool more;

	if (to == NULL)
		abort();
	do {
		more = metrics_mailboxes(scrape->fleet, &scrape->at, to);
		fflush(to);		/* len */
	} while (more && len == 0);	/* of an empty piece drained() never comes */
	fclose(to);
	evbuffer_add(piece, text, len);
	free(text);
	http_stream_send(scrape->stream, piece);
	evbuffer_free(piece);
	if (more)
		return;
	http_stream_end(scrape->stream);
	free(scrape);
}

static const struct http_stream_ops scrape_ops = { .drained = send_more, .closed = free };

static void send_all(struct metrics *m, struct evhttp_request *req, char *text)	/* takes text */
{
	struct scrape *scrape = xcalloc(1, sizeof(*scrape));
	struct evbuffer *piece = evbuffer_new();

	scrape->fleet = m->fleet;
	scrape->stream = http_stream_begin(m->http, req, TEXT_FORMAT, &scrape_ops, scrape);
	evbuffer_add(piece, text, strlen(text));
	free(text);
	http_stream_send(scrape->stream, piece);
	evbuffer_free(piece);
}

static void get_metrics(struct metrics *m, struct evhttp_request *req)
{
	char *text = metrics_text(m->fleet, m->started_wall_s, m->by_watchdog);

	if (fleet_config(m->fleet)->metrics_per_mailbox && evhttp_request_get_command(req) == EVHTTP_REQ_GET)
		send_all(m, req, text);
	else
		http_reply(req, HTTP_OK, TEXT_FORMAT, text);
}

static void on_request(void *arg, struct evhttp_request *req)
{
	struct metrics *m = arg;
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
	enum evhttp_cmd_type method = evhttp_request_get_command(req);
	struct health_reason reason;
	size_t n;

	if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD)
		http_reply(req, HTTP_BADMETHOD, "application/json", status_json_error("This is asked for with GET."));
	else if (str_equal(path, "/metrics"))
		get_metrics(m, req);
	else if (str_equal(path, "/healthz"))
		http_reply(req, fleet_health(m->fleet, &reason, 1, &n) == HEALTH_DOWN ? HTTP_SERVUNAVAIL : HTTP_OK, "application/json",
		    status_json_health(m->fleet));
	else
		http_reply(req, HTTP_NOTFOUND, "application/json", status_json_error("There are /metrics and /healthz."));
}

/* The address is numeric: the configuration checked it. -1: errno says why. */
static int open_socket(const char *address, uint16_t port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *info;
	char service[8];
	int fd, on = 1, error;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(address, service, &hints, &info) != 0) {
		errno = EINVAL;
		return -1;
	}
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 || bind(fd, info->ai_addr, info->ai_addrlen) < 0 ||
	    listen(fd, BACKLOG) < 0)) {
		error = errno;
		close(fd);
		errno = error;
		fd = -1;
	}
	freeaddrinfo(info);
	return fd;
}

static bool listen_there(struct metrics *m, const struct config *config, char *ret_error, size_t size)
{
	int fd = config->metrics_address != NULL ? open_socket(config->metrics_address, config->metrics_port) : -1;

	if (config->metrics_address != NULL && fd < 0 && m->http != NULL && m->port == config->metrics_port) {
		http_server_free(&m->http);	/* perhaps it is ourselves who are in the way */
		if ((fd = open_socket(config->metrics_address, config->metrics_port)) < 0) {
			int error = errno, old = open_socket(m->address, m->port);

			if (old >= 0)
				m->http = http_server_new(m->base, old, on_request, m);
			errno = error;
		}
	}
	if (config->metrics_address != NULL && fd < 0) {
		snprintf(ret_error, size, "metrics_listen: cannot listen on %s port %u: %s", config->metrics_address, config->metrics_port,
		    strerror(errno));
		return false;
	}
	http_server_free(&m->http);
	if (fd >= 0)
		m->http = http_server_new(m->base, fd, on_request, m);
	free(m->address);
	m->address = xstrdup(config->metrics_address);
	m->port = config->metrics_port;
	return true;
}

bool metrics_follow(struct metrics *m, const struct config *config, char *ret_error, size_t size)
{
	bool same = str_equal(m->address, config->metrics_address) && m->port == config->metrics_port;

	return same || listen_there(m, config, ret_error, size);
}

struct metrics *metrics_new(struct event_base *base, struct fleet *fleet, bool by_watchdog, char *ret_error, size_t size)
{
	struct metrics *m = xcalloc(1, sizeof(*m));

	m->base = base;
	m->fleet = fleet;
	m->started_wall_s = clock_wall_s();
	m->by_watchdog = by_watchdog;
	if (!listen_there(m, fleet_config(fleet), ret_error, size))
		metrics_free(&m);
	return m;
}

void metrics_free(struct metrics **metrics)
{
	struct metrics *m = *metrics;

	if (m == NULL)
		return;
	http_server_free(&m->http);
	free(m->address);
	free(m);
	*metrics = NULL;
}
