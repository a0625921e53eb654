/* Whose a request is, in libevent 2.1: the connection's as long as it is being read and once its reply has been
 * handed over; while we still owe the reply, a connection that breaks lets go of it and we free it, but one that
 * evhttp_free() closes takes it along. on_closed() is the one place that knows; a struct answer stands for each
 * request in that state. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "config.h"
#include "control.h"
#include "fleet.h"
#include "health.h"
#include "log.h"
#include "quarantine.h"
#include "status_json.h"

#define SLICE_MAILBOXES 100
#define SLICE_BYTES (128 * 1024)	/* a slice ends after the mailbox that passes this */
#define BODY_BYTES (64 * 1024)
#define HEADER_BYTES (8 * 1024)
#define READ_BYTES (128 * 1024)		/* kept of what a client sends before it is asked to; more than a body */
#define TIMEOUT_S 30
#define BACKLOG 64
#define ERRORS_LOGGED 50		/* of one failed reload */

struct reload;
struct later { struct answer *answer; /* NULL: the client has gone */ };	/* the arg of what answers later, exactly once */
struct answer {				/* a reply still owed */
	struct control *control;	/* lent */
	struct evhttp_request *request;
	struct reload *reload;		/* waited for; NULL: a status is being written */
	struct later *later;		/* waited for, too */
	LIST_ENTRY(answer) entry;	/* in reload->askers */
	bool only_failing, opened;
	size_t next;			/* index of the mailbox to go on with */
};
struct reload {				/* one fleet_reload() that has not been answered */
	struct control *control;	/* NULL: freed meanwhile */
	LIST_HEAD(, answer) askers;
};
struct control {
	struct fleet *fleet;		/* lent, as is health */
	struct health *health;
	struct evhttp *http;
	char *path;
	dev_t device;			/* of the socket's name, to remove no other's */
	ino_t inode;
	int64_t started_wall_s;
	struct reload *running, *further;	/* NULL: none */
};
struct route {
	const char *pattern;		/* `*` stands for a mailbox */
	void (*handle)(struct control *, struct evhttp_request *, const char *address);
};

/* --- replies --- */

static void add_text(struct evbuffer *to, char *text)	/* takes text */
{
	evbuffer_add(to, text, strlen(text));
	free(text);
}

static void reply(struct evhttp_request *req, int code, char *json)	/* takes json */
{
	struct evbuffer *body = evbuffer_new();

	add_text(body, json);
	evbuffer_add(body, "\n", 1);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", "application/json");
	evhttp_send_reply(req, code, NULL, evhttp_request_get_command(req) == EVHTTP_REQ_HEAD ? NULL : body);
	evbuffer_free(body);
}

static void reply_error(struct evhttp_request *req, int code, const char *sentence)
{
	reply(req, code, status_json_error(sentence));
}

static void reply_no_mailbox(struct evhttp_request *req, const char *address)
{
	char name[320], sentence[sizeof(name) + 64];

	printable(name, sizeof(name), address, strlen(address));
	snprintf(sentence, sizeof(sentence), "No mailbox \"%s\" is configured.", name);
	reply_error(req, HTTP_NOTFOUND, sentence);
}

static void reply_wrong_method(struct evhttp_request *req, const char *allowed)
{
	char sentence[64];

	snprintf(sentence, sizeof(sentence), "This is asked for with %s.", allowed);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", allowed);
	reply_error(req, HTTP_BADMETHOD, sentence);
}

static void answer_free(struct answer *a)
{
	if (a->reload != NULL)
		LIST_REMOVE(a, entry);
	if (a->later != NULL)
		a->later->answer = NULL;
	free(a);
}

static void on_closed(struct evhttp_connection *connection, void *arg)
{
	struct answer *a = arg;

	(void)connection;
	if (evhttp_request_get_connection(a->request) == NULL)
		evhttp_request_free(a->request);
	answer_free(a);
}

static struct answer *answer_new(struct control *c, struct evhttp_request *req)
{
	struct answer *a = xcalloc(1, sizeof(*a));

	a->control = c;
	a->request = req;
	evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_closed, a);
	return a;
}

/* The rest of the reply is about to be handed over: from now on the request is the connection's. */
static struct evhttp_request *answer_end(struct answer *a)
{
	struct evhttp_request *req = a->request;

	evhttp_connection_set_closecb(evhttp_request_get_connection(req), NULL, NULL);
	answer_free(a);
	return req;
}

/* --- status --- */

static void add_opening(struct control *c, struct evbuffer *to)
{
	add_text(to, status_json_opening(c->fleet, MAILPOLLD_VERSION, c->started_wall_s));
}

static void add_closing(struct control *c, struct evbuffer *to)
{
	evbuffer_add(to, ",", 1);
	add_text(to, status_json_closing(c->fleet, health_lag_max_ms(c->health), log_dropped()));
}

static bool is_wanted(const struct answer *a, const struct mailbox *mailbox)
{
	msec_t since_ms;

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

static void on_drained(struct evhttp_connection *connection, void *arg);

static void send_slice(struct answer *a, struct evbuffer *slice)	/* slice may hold the opening already */
{
	struct evhttp_request *req = a->request;

	if (add_mailboxes(a, slice)) {
		evhttp_send_reply_chunk_with_cb(req, slice, on_drained, a);
		return;
	}
	evbuffer_add(slice, "]", 1);
	add_closing(a->control, slice);
	answer_end(a);
	evhttp_send_reply_chunk(req, slice);
	evhttp_send_reply_end(req);
}

static void on_drained(struct evhttp_connection *connection, void *arg)
{
	struct evbuffer *slice = evbuffer_new();

	(void)connection;
	send_slice(arg, slice);
	evbuffer_free(slice);
}

static void send_mailboxes(struct control *c, struct evhttp_request *req, bool only_failing)
{
	struct answer *a = answer_new(c, req);
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
	struct evbuffer *slice = evbuffer_new();

	a->only_failing = only_failing;
	evhttp_add_header(headers, "Content-Type", "application/json");
	evhttp_add_header(headers, "Connection", "close");	/* HTTP/1.0 sees the end by it */
	evhttp_send_reply_start(req, HTTP_OK, NULL);
	add_opening(c, slice);
	evbuffer_add_printf(slice, ",\"mailboxes\":[");
	send_slice(a, slice);
	evbuffer_free(slice);
}

/* All but the mailboxes, or with the one given. */
static void send_small(struct control *c, struct evhttp_request *req, const struct mailbox *mailbox)
{
	struct evbuffer *body = evbuffer_new();

	add_opening(c, body);
	if (mailbox != NULL) {
		evbuffer_add_printf(body, ",\"mailboxes\":[");
		add_text(body, status_json_mailbox(mailbox));
		evbuffer_add(body, "]", 1);
	}
	add_closing(c, body);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", "application/json");
	evhttp_send_reply(req, HTTP_OK, NULL, body);
	evbuffer_free(body);
}

/* `+` stays: it is part of addresses. "" when there is a NUL inside. */
static char *decode(const char *s, size_t len)
{
	char *raw = xstrndup(s, len), *text;
	size_t size = 0;

	text = evhttp_uridecode(raw, 0, &size);
	free(raw);
	if (text == NULL || strlen(text) != size) {
		free(text);
		return xstrdup("");
	}
	return text;
}

/* NULL: no such key. Caller frees. */
static char *query_value(const struct evhttp_request *req, const char *key)
{
	const char *p = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(req));
	size_t key_len = strlen(key);

	while (p != NULL && *p != '\0') {
		size_t len = strcspn(p, "&");

		if (len > key_len && strncmp(p, key, key_len) == 0 && p[key_len] == '=')
			return decode(p + key_len + 1, len - key_len - 1);
		p += len + (p[len] == '&');
	}
	return NULL;
}

static bool query_is_on(const struct evhttp_request *req, const char *key)
{
	char *value = query_value(req, key);
	bool on = str_equal(value, "1");

	free(value);
	return on;
}

static void get_mailbox(struct control *c, struct evhttp_request *req, const char *address)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);

	if (mailbox == NULL)
		reply_no_mailbox(req, address);
	else
		send_small(c, req, mailbox);
}

static void get_status(struct control *c, struct evhttp_request *req, const char *none)
{
	char *address = query_value(req, "address");

	(void)none;
	if (address != NULL)
		get_mailbox(c, req, address);
	else if (query_is_on(req, "summary"))
		send_small(c, req, NULL);
	else
		send_mailboxes(c, req, query_is_on(req, "failing"));
	free(address);
}

/* --- reload --- */

static void log_errors(const char *lines)
{
	size_t n = 0;

	for (size_t len; lines != NULL && *lines != '\0'; lines += len + (lines[len] == '\n')) {
		len = strcspn(lines, "\n");
		if (len > 0 && n++ < ERRORS_LOGGED)
			log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "%.*s", (int)(len < 1000 ? len : 1000), lines);
	}
	if (n > ERRORS_LOGGED)
		log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "and %zu more errors: `mailpolld check` lists them all",
		    n - ERRORS_LOGGED);
	log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "the configuration was not reloaded; the running one stays");
}

static void log_outcome(const struct reload_outcome *outcome)
{
	if (outcome->ok)
		log_write(LOG_LEVEL_INFO, EVENT_RELOADED, NULL, NULL, 0,
		    "configuration reloaded: %zu mailboxes added, %zu removed, %zu changed, %zu unchanged", outcome->added,
		    outcome->removed, outcome->changed, outcome->kept);
	else
		log_errors(outcome->errors);
}

static void on_reloaded(void *arg, const struct reload_outcome *outcome)
{
	struct reload *r = arg;
	struct control *c = r->control;
	struct answer *a;

	if (c != NULL) {
		log_outcome(outcome);
		if (c->running == r)
			c->running = c->further;
		c->further = NULL;
		if (c->running == NULL)
			health_ready(c->health);
		while ((a = LIST_FIRST(&r->askers)) != NULL)
			reply(answer_end(a), outcome->ok ? HTTP_OK : 409, status_json_reload(outcome));
	}
	free(r);
}

/* The reload that will have read what the file says now: not the one that runs. */
static struct reload *reload_begin(struct control *c)
{
	struct reload *r = c->further;

	if (r != NULL)
		return r;
	r = xcalloc(1, sizeof(*r));
	r->control = c;
	LIST_INIT(&r->askers);
	if (c->running == NULL) {
		c->running = r;
		health_reloading(c->health);
	} else {
		c->further = r;
	}
	fleet_reload(c->fleet, on_reloaded, r);
	return r;
}

void control_reload(struct control *c)
{
	reload_begin(c);
}

/* --- verbs --- */

static void log_verb(struct evhttp_request *req, const char *verb, const char *address)
{
	struct bufferevent *client = evhttp_connection_get_bufferevent(evhttp_request_get_connection(req));
	struct log_context context = { .mailbox = address };
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(bufferevent_getfd(client), SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		log_info(&context, "%s asked for by uid %lld (process %lld)", verb, (long long)peer.uid, (long long)peer.pid);
	else
		log_info(&context, "%s asked for by an unknown user: %s", verb, strerror(errno));
}

static void post_reload(struct control *c, struct evhttp_request *req, const char *none)
{
	struct answer *a = answer_new(c, req);

	(void)none;
	log_verb(req, "reload", NULL);
	a->reload = reload_begin(c);
	LIST_INSERT_HEAD(&a->reload->askers, a, entry);
}

static void do_verb(struct control *c, struct evhttp_request *req, const char *address, const char *verb,
    bool (*act)(struct fleet *, const char *address))
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);

	if (mailbox == NULL || !act(c->fleet, address)) {
		reply_no_mailbox(req, address);
		return;
	}
	log_verb(req, verb, mailbox_conf(mailbox)->address);
	reply(req, HTTP_OK, status_json_done(mailbox));
}

static void post_poll(struct control *c, struct evhttp_request *req, const char *address)
{
	do_verb(c, req, address, "poll", fleet_poll);
}

static void post_pause(struct control *c, struct evhttp_request *req, const char *address)
{
	do_verb(c, req, address, "pause", fleet_pause);
}

static void post_resume(struct control *c, struct evhttp_request *req, const char *address)
{
	do_verb(c, req, address, "resume", fleet_resume);
}

static void post_resync(struct control *c, struct evhttp_request *req, const char *address)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);
	char *since = query_value(req, "since");
	int year, month, day;

	if (since == NULL || date_parse(since, &year, &month, &day) < 0) {
		reply_error(req, HTTP_BADREQUEST, "since must be a date such as 2026-01-31");
	} else if (mailbox == NULL || !fleet_resync(c->fleet, address, year, month, day)) {
		reply_no_mailbox(req, address);
	} else {
		log_verb(req, "resync", mailbox_conf(mailbox)->address);
		reply(req, HTTP_OK, status_json_done(mailbox));
	}
	free(since);
}

static struct later *answer_later(struct control *c, struct evhttp_request *req)
{
	struct later *later = xcalloc(1, sizeof(*later));

	later->answer = answer_new(c, req);
	later->answer->later = later;
	return later;
}

static void reply_later(struct later *later, int code, char *json)	/* takes json */
{
	if (later->answer != NULL)
		reply(answer_end(later->answer), code, json);
	else
		free(json);
	free(later);
}

static void on_forgotten(void *arg, uint64_t folders)
{
	if (folders > 0)
		reply_later(arg, HTTP_OK, xasprintf("{\"ok\":true,\"folders\":%llu}", (unsigned long long)folders));
	else
		reply_later(arg, HTTP_NOTFOUND, status_json_error("The state knows no mailbox with this id."));
}

static void post_forget(struct control *c, struct evhttp_request *req, const char *id)
{
	if (fleet_find(c->fleet, id) != NULL) {
		reply_error(req, 409, "This mailbox is in the configuration: take it out and reload first.");
		return;
	}
	log_verb(req, "forget", id);
	fleet_forget(c->fleet, id, on_forgotten, answer_later(c, req));
}

static void on_backed_up(void *arg, const char *error)
{
	char sentence[300];

	if (error == NULL) {
		reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
		return;
	}
	snprintf(sentence, sizeof(sentence), "The copy cannot be written: %s (the file must not be there yet, and its directory be writable for the "
	    "daemon's user).", error);
	reply_later(arg, HTTP_INTERNAL, status_json_error(sentence));
}

static void post_backup(struct control *c, struct evhttp_request *req, const char *none)
{
	char *file = query_value(req, "file");

	(void)none;
	if (file == NULL || file[0] != '/') {
		reply_error(req, HTTP_BADREQUEST, "file must be an absolute path");
	} else {
		log_verb(req, "backup", NULL);
		fleet_backup(c->fleet, file, on_backed_up, answer_later(c, req));
	}
	free(file);
}

static void post_log_level(struct control *c, struct evhttp_request *req, const char *none)
{
	char *word = query_value(req, "level");
	enum log_level level;

	(void)c, (void)none;
	if (word == NULL || !log_level_parse(word, &level)) {
		reply_error(req, HTTP_BADREQUEST, "level must be error, warning, info or debug");
	} else {
		log_verb(req, "log-level", NULL);
		log_set_level(level);
		reply(req, HTTP_OK, xasprintf("{\"ok\":true,\"level\":\"%s\"}", log_level_name(level)));
	}
	free(word);
}

/* --- quarantine --- */

static void on_quarantine_list(void *arg, char *json)
{
	reply_later(arg, HTTP_OK, json);
}

static void get_quarantine(struct control *c, struct evhttp_request *req, const char *none)
{
	(void)none;
	fleet_quarantine_list(c->fleet, on_quarantine_list, answer_later(c, req));
}

/* False: it has been answered. */
static bool check_key(struct evhttp_request *req, const char *verb, const char *key)
{
	if (!quarantine_key_is_sane(key)) {
		reply_error(req, HTTP_BADREQUEST, "This is not the KEY of a message.");
		return false;
	}
	log_verb(req, verb, NULL);
	return true;
}

static void on_dropped(void *arg, int error)
{
	if (error == 0)
		reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
	else
		reply_later(arg, error == ENOENT ? HTTP_NOTFOUND : HTTP_INTERNAL,
		    status_json_error(error == ENOENT ? "There is no such message in quarantine." : strerror(error)));
}

static void post_quarantine_drop(struct control *c, struct evhttp_request *req, const char *key)
{
	if (check_key(req, "quarantine drop", key))
		fleet_quarantine_drop(c->fleet, key, on_dropped, answer_later(c, req));
}

static void on_retried(void *arg, enum retry_outcome outcome, const char *why)
{
	static const struct { int code; const char *sentence; } answers[] = {
		[RETRY_TAKEN] = { HTTP_OK, NULL }, [RETRY_REFUSED] = { 409, "The sink refused it again" },
		[RETRY_LATER] = { HTTP_SERVUNAVAIL, "It could not be delivered now" },
		[RETRY_UNKNOWN] = { HTTP_NOTFOUND, "There is no such message in quarantine" },
	};
	char *sentence;

	if (outcome == RETRY_TAKEN) {
		reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
		return;
	}
	sentence = xasprintf("%s: %s.", answers[outcome].sentence, why != NULL ? why : "no reason given");
	reply_later(arg, answers[outcome].code, status_json_error(sentence));
	free(sentence);
}

static void post_quarantine_retry(struct control *c, struct evhttp_request *req, const char *key)
{
	if (check_key(req, "quarantine retry", key))
		fleet_quarantine_retry(c->fleet, key, on_retried, answer_later(c, req));
}

/* --- requests --- */

static const struct route readers[] = {
	{ "/status", get_status },
	{ "/mailboxes/*", get_mailbox },
	{ "/quarantine", get_quarantine },
	{ NULL, NULL },
};
static const struct route verbs[] = {
	{ "/reload", post_reload },
	{ "/mailboxes/*/poll", post_poll },
	{ "/mailboxes/*/pause", post_pause },
	{ "/mailboxes/*/resume", post_resume },
	{ "/mailboxes/*/resync", post_resync },
	{ "/quarantine/*/retry", post_quarantine_retry },
	{ "/quarantine/*/drop", post_quarantine_drop },
	{ "/forget/*", post_forget },
	{ "/backup", post_backup },
	{ "/log-level", post_log_level },
	{ NULL, NULL },
};

/* ret_address: decoded, the caller frees it; NULL when the pattern has no `*`. */
static bool route_matches(const char *pattern, const char *path, char **ret_address)
{
	const char *star = strchr(pattern, '*');
	size_t before, len;

	if (star == NULL) {
		*ret_address = NULL;
		return strcmp(pattern, path) == 0;
	}
	before = (size_t)(star - pattern);
	if (strncmp(pattern, path, before) != 0)
		return false;
	len = strcspn(path + before, "/");
	if (len == 0 || strcmp(path + before + len, star + 1) != 0)
		return false;
	*ret_address = decode(path + before, len);
	return true;
}

/* False: the path is none of these. */
static bool dispatch(struct control *c, struct evhttp_request *req, const char *path, const struct route *routes,
    enum evhttp_cmd_type method, const char *method_name)
{
	for (const struct route *r = routes; r->pattern != NULL; r++) {
		char *address;

		if (!route_matches(r->pattern, path, &address))
			continue;
		if (evhttp_request_get_command(req) == method)
			r->handle(c, req, address);
		else
			reply_wrong_method(req, method_name);
		free(address);
		return true;
	}
	return false;
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct control *c = arg;
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	const char *path = uri != NULL ? evhttp_uri_get_path(uri) : NULL;

	if (path == NULL || (!dispatch(c, req, path, readers, EVHTTP_REQ_GET, "GET") &&
	    !dispatch(c, req, path, verbs, EVHTTP_REQ_POST, "POST")))
		reply_error(req, HTTP_NOTFOUND, "There is nothing at this path.");
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

static struct bufferevent *new_client(struct event_base *base, void *arg)
{
	struct bufferevent *client = bufferevent_socket_new(base, -1, 0);

	(void)arg;
	if (client != NULL)
		bufferevent_setwatermark(client, EV_READ, 0, READ_BYTES);
	return client;
}

static struct evhttp *serve(struct control *c, struct event_base *base, int fd)
{
	struct evhttp *http = evhttp_new(base);

	if (http == NULL)
		return NULL;
	evhttp_set_max_body_size(http, BODY_BYTES);
	evhttp_set_max_headers_size(http, HEADER_BYTES);
	evhttp_set_timeout(http, TIMEOUT_S);
	evhttp_set_bevcb(http, new_client, NULL);
	evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
	    EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);	/* to say 405 ourselves */
	evhttp_set_gencb(http, on_request, c);
	if (evhttp_accept_socket(http, fd) == 0)
		return http;
	evhttp_free(http);
	return NULL;
}

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
	c->fleet = fleet;
	c->health = health;
	c->started_wall_s = clock_wall_s();
	c->path = xstrdup(socket_path);
	remember_name(c);
	c->http = serve(c, base, fd);
	if (c->http == NULL) {
		snprintf(ret_error, size, "control_socket %s: cannot be served", socket_path);
		close(fd);
		control_free(&c);
	}
	return c;
}

void control_free(struct control **control)
{
	struct control *c = *control;

	if (c == NULL)
		return;
	remove_name(c);
	if (c->http != NULL)
		evhttp_free(c->http);	/* frees what was being answered, by on_closed() */
	if (c->running != NULL)
		c->running->control = NULL;
	if (c->further != NULL)
		c->further->control = NULL;
	free(c->path);
	free(c);
	*control = NULL;
}
