/* The socket, and which request goes where. */
#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "control_private.h"
#include "fleet.h"
#include "http_server.h"
#include "log.h"
#include "status_json.h"
#include "util.h"

#define BACKLOG 256

/* --- replies --- */

void control_reply(struct evhttp_request *req, int code, char *json)
{
	http_reply(req, code, "application/json", xasprintf("%s\n", json));
	free(json);
}

void control_reply_later(struct http_later *later, int code, char *json)
{
	http_reply_later(later, code, "application/json", xasprintf("%s\n", json));
	free(json);
}

void control_reply_error(struct evhttp_request *req, int code, const char *sentence)
{
	control_reply(req, code, status_json_error(sentence));
}

bool control_reply_stopping(struct control *c, struct evhttp_request *req)
{
	if (fleet_is_stopping(c->fleet))
		control_reply_error(req, HTTP_SERVUNAVAIL, "mailpolld is stopping.");
	return fleet_is_stopping(c->fleet);
}

void control_reply_no_mailbox(struct control *c, struct evhttp_request *req, const char *address)
{
	char name[320], sentence[sizeof(name) + 64];

	if (control_reply_stopping(c, req))
		return;
	printable(name, sizeof(name), address, strlen(address));
	snprintf(sentence, sizeof(sentence), "No mailbox \"%s\" is configured.", name);
	control_reply_error(req, HTTP_NOTFOUND, sentence);
}

static void reply_wrong_method(struct evhttp_request *req, const char *allowed)
{
	char sentence[64];

	snprintf(sentence, sizeof(sentence), "This is asked for with %s.", allowed);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", allowed);
	control_reply_error(req, HTTP_BADMETHOD, sentence);
}

/* --- requests --- */

void control_log_peer(struct evhttp_request *req, const char *verb, const char *mailbox, const char *about)
{
	struct bufferevent *client = evhttp_connection_get_bufferevent(evhttp_request_get_connection(req));
	struct log_context context = { .mailbox = mailbox };
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	char uid[24], pid[24];
	struct log_field fields[] = { { "VERB", verb }, { "PEER_UID", uid }, { "PEER_PID", pid }, { "ABOUT", about } };

	if (getsockopt(bufferevent_getfd(client), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		log_write(LOG_LEVEL_INFO, EVENT_VERB, &context, fields, 1, "%s asked for by an unknown user: %s", verb, strerror(errno));
		return;
	}
	snprintf(uid, sizeof(uid), "%lld", (long long)peer.uid);
	snprintf(pid, sizeof(pid), "%lld", (long long)peer.pid);
	log_write(LOG_LEVEL_INFO, EVENT_VERB, &context, fields, ARRAY_LEN(fields), "%s asked for by uid %s (process %s)", verb, uid, pid);
}

static const struct route readers[] = {
	{ "/status", control_get_status },
	{ "/mailboxes/*", control_get_mailbox },
	{ "/mailboxes/*/trace", control_get_trace },
	{ "/quarantine", control_get_quarantine },
	{ NULL, NULL },
};

/* ret_word: decoded, the caller frees it; NULL when the pattern has no `*`. */
static bool route_matches(const char *pattern, const char *path, char **ret_word)
{
	const char *star = strchr(pattern, '*');
	size_t before, len;

	if (star == NULL) {
		*ret_word = NULL;
		return strcmp(pattern, path) == 0;
	}
	before = (size_t)(star - pattern);
	if (strncmp(pattern, path, before) != 0)
		return false;
	len = strcspn(path + before, "/");
	if (len == 0 || strcmp(path + before + len, star + 1) != 0)
		return false;
	*ret_word = http_decode(path + before, len);
	return true;
}

/* False: the path is none of these. */
static bool dispatch(struct control *c, struct evhttp_request *req, const char *path, const struct route *routes,
    enum evhttp_cmd_type method, const char *method_name)
{
	for (const struct route *r = routes; r->pattern != NULL; r++) {
		char *word;

		if (!route_matches(r->pattern, path, &word))
			continue;
		if (evhttp_request_get_command(req) == method)
			r->handle(c, req, word);
		else
			reply_wrong_method(req, method_name);
		free(word);
		return true;
	}
	return false;
}

static void on_request(void *arg, struct evhttp_request *req)
{
	struct control *c = arg;
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));

	if (path == NULL || (!dispatch(c, req, path, readers, EVHTTP_REQ_GET, "GET") &&
	    !dispatch(c, req, path, control_verbs, EVHTTP_REQ_POST, "POST")))
		control_reply_error(req, HTTP_NOTFOUND, "There is nothing at this path.");
}

/* --- the socket --- */

/* Whether somebody listens there; -1: it cannot be told, or it is not ours to replace. */
static int probe(const struct sockaddr_un *address, char *ret_error, size_t size)
{
	struct stat st;
	int fd, error;

	if (lstat(address->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
		snprintf(ret_error, size, "control_socket %s is there and is not a socket", address->sun_path);
		return -1;
	}
	if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) {
		snprintf(ret_error, size, "control_socket: %s", strerror(errno));
		return -1;
	}
	error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : errno;
	close(fd);
	if (error == ENOENT || error == ECONNREFUSED)
		return 0;
	if (error == 0 || error == EAGAIN)	/* EAGAIN: its queue is full */
		return 1;
	snprintf(ret_error, size, "control_socket %s: %s", address->sun_path, strerror(error));
	return -1;
}

/* Nobody can connect between bind() and listen(), so the mode is never wider than it should be. */
static int bind_socket(const struct sockaddr_un *address, char *ret_error, size_t size)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (unlink(address->sun_path) == 0 || errno == ENOENT) &&
	    bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 && chmod(address->sun_path, 0660) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	snprintf(ret_error, size, "control_socket %s: %s", address->sun_path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

static int open_socket(const char *path, char *ret_error, size_t size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int answered;

	if (strlen(path) >= sizeof(address.sun_path)) {
		snprintf(ret_error, size, "control_socket %s is longer than the %zu bytes a socket's name may have", path,
		    sizeof(address.sun_path) - 1);
		return -1;
	}
	memcpy(address.sun_path, path, strlen(path));
	answered = probe(&address, ret_error, size);
	if (answered > 0)
		snprintf(ret_error, size, "control_socket %s: another mailpolld answers there", path);
	return answered != 0 ? -1 : bind_socket(&address, ret_error, size);
}

/* --- life --- */

static void remember_name(struct control *c)
{
	struct stat st;

	if (lstat(c->path, &st) == 0) {
		c->device = st.st_dev;
		c->inode = st.st_ino;
	}
}

static void remove_name(const struct control *c)
{
	struct stat st;

	if (lstat(c->path, &st) == 0 && st.st_dev == c->device && st.st_ino == c->inode)
		unlink(c->path);
}

struct control *control_new(struct event_base *base, struct fleet *fleet, struct health *health, const char *socket_path,
    char *ret_error, size_t size)
{
	int fd = open_socket(socket_path, ret_error, size);
	struct control *c;

	if (fd < 0)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->base = base;
	c->fleet = fleet;
	c->health = health;
	c->started_wall_s = clock_wall_s();
	c->path = xstrdup(socket_path);
	remember_name(c);
	c->http = http_server_new(base, fd, on_request, c);
	return c;
}

void control_free(struct control **control)
{
	struct control *c = *control;

	if (c == NULL)
		return;
	remove_name(c);
	http_server_free(&c->http);
	control_drop_reloads(c);
	free(c->path);
	free(c);
	*control = NULL;
}
