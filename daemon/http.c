/* curl says through two callbacks which sockets and which time-out it waits for; our events tell it when they are due.
 * Those callbacks, and the one that takes the body, never call curl or a user. A request that is over, for whatever
 * reason, wakes its own event, and answers from there. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include "http.h"
#include "resolver.h"
#include "util.h"

#define CONNECT_TIMEOUT_MS 20000L
#define MAX_ANSWER_BYTES (256 * 1024)
#define MAX_CONNECTIONS 4L		/* kept open for the next request */
#define MAX_RETRY_AFTER_S 3600
#define MAX_ADDRESSES 16

struct watched {			/* one socket of curl's */
	LIST_ENTRY(watched) link;
	curl_socket_t fd;
	struct event *event;
};
struct http {
	struct event_base *base;	/* lent */
	struct resolver *resolver;	/* lent */
	CURLM *multi;
	struct event *timer;		/* curl's */
	LIST_HEAD(, watched) sockets;
};
struct http_request {
	struct http *http;
	struct lookup *lookup;		/* NULL once resolved */
	CURL *easy;
	bool added;			/* easy is in the multi handle */
	struct event *event;		/* the time limit while it runs; then the answer */
	bool over;
	struct curl_slist *resolve, *headers;
	char *url, *host, *ca_file;
	char *form;			/* wiped */
	uint16_t port;
	bool is_numeric;		/* host is an address */
	char *body;			/* wiped; NULL: nothing came */
	size_t body_len, body_size;
	bool too_long;
	struct http_answer answer;
	char error[CURL_ERROR_SIZE];
	http_cb *cb;
	void *arg;
};

/* --- curl and the loop --- */

static void request_over(struct http_request *r)
{
	r->over = true;
	event_del(r->event);
	event_active(r->event, 0, 0);
}

static void request_done(struct http_request *r, CURLcode code);

static void take_completions(struct http *h)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(h->multi, &left)) != NULL) {
		struct http_request *r = NULL;
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &r);
		request_done(r, code);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct http *h = arg;
	int running;

	(void)fd, (void)what;
	curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	take_completions(h);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	struct http *h = arg;
	int running, action = ((what & EV_READ) ? CURL_CSELECT_IN : 0) | ((what & EV_WRITE) ? CURL_CSELECT_OUT : 0);

	curl_multi_socket_action(h->multi, fd, action, &running);
	take_completions(h);
}

static int set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct http *h = arg;
	struct timeval wait = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };

	(void)multi;
	if (timeout_ms < 0)
		event_del(h->timer);
	else
		event_add(h->timer, &wait);	/* real time: curl knows no other clock */
	return 0;
}

static struct watched *watched_get(struct http *h, curl_socket_t fd)
{
	struct watched *w;

	LIST_FOREACH(w, &h->sockets, link)
		if (w->fd == fd)
			return w;
	w = xcalloc(1, sizeof(*w));
	w->fd = fd;
	w->event = event_new(h->base, fd, 0, on_socket, h);
	LIST_INSERT_HEAD(&h->sockets, w, link);
	return w;
}

static void watched_free(struct watched *w)
{
	LIST_REMOVE(w, link);
	event_free(w->event);
	free(w);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused)
{
	struct http *h = arg;
	struct watched *w = watched_get(h, fd);
	int events = ((what & CURL_POLL_IN) ? EV_READ : 0) | ((what & CURL_POLL_OUT) ? EV_WRITE : 0);

	(void)easy, (void)unused;
	if (what == CURL_POLL_REMOVE) {
		watched_free(w);
		return 0;
	}
	event_del(w->event);
	event_assign(w->event, h->base, fd, (short)(events | EV_PERSIST), on_socket, h);
	event_add(w->event, NULL);
	return 0;
}

struct http *http_new(struct event_base *base, struct resolver *resolver)
{
	struct http *h = xcalloc(1, sizeof(*h));

	curl_global_init(CURL_GLOBAL_DEFAULT);
	h->base = base;
	h->resolver = resolver;
	LIST_INIT(&h->sockets);
	h->timer = evtimer_new(base, on_timer, h);
	if ((h->multi = curl_multi_init()) == NULL)
		abort();
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, MAX_CONNECTIONS);
	return h;
}

void http_free(struct http **http)
{
	struct http *h = *http;

	if (h == NULL)
		return;
	curl_multi_cleanup(h->multi);
	while (!LIST_EMPTY(&h->sockets))
		watched_free(LIST_FIRST(&h->sockets));
	event_free(h->timer);
	curl_global_cleanup();
	free(h);
	*http = NULL;
}

/* --- the answer --- */

/* Grows without realloc(), which would leave an unwiped copy of a token behind. */
static void body_reserve(struct http_request *r, size_t more)
{
	size_t size = r->body_size > 0 ? r->body_size : 4096;
	char *grown;

	while (size < r->body_len + more + 1)
		size *= 2;
	if (size == r->body_size)
		return;
	grown = xmalloc(size);
	if (r->body != NULL) {
		memcpy(grown, r->body, r->body_len);
		explicit_bzero(r->body, r->body_size);
		free(r->body);
	}
	r->body = grown;
	r->body_size = size;
}

static size_t take_body(char *data, size_t unit, size_t n, void *arg)
{
	struct http_request *r = arg;
	size_t len = unit * n;

	if (len > MAX_ANSWER_BYTES - r->body_len) {
		r->too_long = true;
		return 0;
	}
	body_reserve(r, len);
	memcpy(r->body + r->body_len, data, len);
	r->body_len += len;
	r->body[r->body_len] = '\0';
	return len;
}

static const char *header(CURL *easy, const char *name)
{
	struct curl_header *found;

	return curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK ? found->value : NULL;
}

static unsigned retry_after_s(const char *value)
{
	uint64_t s;
	time_t date;
	int64_t wait_s;

	if (value == NULL)
		return 0;
	if (parse_u64(value, &s) == 0)
		return s < MAX_RETRY_AFTER_S ? (unsigned)s : MAX_RETRY_AFTER_S;
	if (value[strspn(value, "0123456789")] == '\0')		/* digits only, more than 64 bits hold */
		return value[0] != '\0' ? MAX_RETRY_AFTER_S : 0;
	if ((date = curl_getdate(value, NULL)) < 0)
		return 0;
	wait_s = (int64_t)date - clock_wall_s();
	return wait_s <= 0 ? 0 : wait_s < MAX_RETRY_AFTER_S ? (unsigned)wait_s : MAX_RETRY_AFTER_S;
}

static void answer_failed(struct http_request *r, const char *error)
{
	char line[sizeof(r->error)];
	long sent = 0;			/* a handshake has no time in a connection that was kept from the request before */

	printable(line, sizeof(line), error, strlen(error));
	memcpy(r->error, line, sizeof(line));
	r->answer.error = r->error;
	if (r->easy != NULL) {
		curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &r->answer.told_status);
		r->answer.retry_after_s = retry_after_s(header(r->easy, "Retry-After"));
	}
	r->answer.is_connected = r->easy != NULL && curl_easy_getinfo(r->easy, CURLINFO_REQUEST_SIZE, &sent) == CURLE_OK && sent > 0;
}

static void answer_error(struct http_request *r, CURLcode code)
{
	if (r->too_long)
		answer_failed(r, "the answer is longer than 256 KiB");
	else
		answer_failed(r, r->error[0] != '\0' ? r->error : curl_easy_strerror(code));
	r->answer.is_certificate = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
	    code == CURLE_SSL_ISSUER_ERROR || code == CURLE_SSL_INVALIDCERTSTATUS;
	r->answer.is_resolve = code == CURLE_COULDNT_RESOLVE_HOST;
}

static void answer_taken(struct http_request *r)
{
	const char *date = header(r->easy, "Date");
	time_t date_s = date != NULL ? curl_getdate(date, NULL) : -1;

	curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &r->answer.status);
	if (r->answer.status == 0)
		answer_failed(r, "the server's answer has no status");
	r->answer.body = r->body != NULL ? r->body : "";
	r->answer.body_len = r->body_len;
	r->answer.retry_after_s = retry_after_s(header(r->easy, "Retry-After"));
	r->answer.date_wall_s = date_s > 0 ? date_s : 0;
}

static void request_done(struct http_request *r, CURLcode code)
{
	if (code == CURLE_OK)
		answer_taken(r);
	else
		answer_error(r, code);
	curl_multi_remove_handle(r->http->multi, r->easy);
	r->added = false;
	request_over(r);
}

static void wipe_free(char *p, size_t size)
{
	if (p != NULL)
		explicit_bzero(p, size);
	free(p);
}

static void request_free(struct http_request *r)
{
	lookup_cancel(&r->lookup);
	if (r->added)
		curl_multi_remove_handle(r->http->multi, r->easy);
	if (r->easy != NULL)
		curl_easy_cleanup(r->easy);
	curl_slist_free_all(r->resolve);
	curl_slist_free_all(r->headers);
	event_free(r->event);
	wipe_free(r->body, r->body_size);
	secret_free(&r->form);
	free(r->url);
	free(r->host);
	free(r->ca_file);
	free(r);
}

static void time_is_up(struct http_request *r)
{
	r->answer.is_resolve = r->lookup != NULL;
	lookup_cancel(&r->lookup);
	answer_failed(r, r->answer.is_resolve ? "no answer from the name servers in time" : "no answer in time");
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct http_request *r = arg;

	(void)fd, (void)what;
	if (!r->over)
		time_is_up(r);
	if (r->added) {
		curl_multi_remove_handle(r->http->multi, r->easy);
		r->added = false;
	}
	r->cb(r->arg, &r->answer);
	request_free(r);
}

/* --- the request --- */

static void set_safety(CURL *easy, const char *ca_file)
{
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (ca_file != NULL) {
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);	/* the system's would still be trusted */
		curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, 0L);	/* else a file that is replaced counts a day later */
	}
}

static void set_request(struct http_request *r)
{
	CURL *easy = r->easy;

	r->headers = curl_slist_append(NULL, "Accept: application/json");
	r->headers = curl_slist_append(r->headers, "Expect:");
	curl_easy_setopt(easy, CURLOPT_URL, r->url);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "mailpolld/" MAILPOLLD_VERSION);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, r->headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(r->form));
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, r->form);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, r);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, r->error);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, r);
	curl_easy_setopt(easy, CURLOPT_RESOLVE, r->resolve);
}

static size_t append_address(char *text, size_t size, size_t len, const struct address *a)
{
	bool v6 = a->sa.ss_family == AF_INET6;
	const void *in = v6 ? (const void *)&((const struct sockaddr_in6 *)&a->sa)->sin6_addr
			    : (const void *)&((const struct sockaddr_in *)&a->sa)->sin_addr;
	char address[INET6_ADDRSTRLEN] = "";

	inet_ntop(a->sa.ss_family, in, address, sizeof(address));
	return len + (size_t)snprintf(text + len, size - len, "%s%s%s%s", len > 0 ? "," : "", v6 ? "[" : "", address, v6 ? "]" : "");
}

static struct curl_slist *resolve_list(const struct http_request *r, const struct address *v, size_t n)
{
	char addresses[MAX_ADDRESSES * (INET6_ADDRSTRLEN + 3)] = "";
	size_t len = 0;
	struct curl_slist *list;
	char *entry;

	for (size_t i = 0; i < n && i < MAX_ADDRESSES; i++)
		len = append_address(addresses, sizeof(addresses), len, &v[i]);
	entry = xasprintf("%s:%u:%s", r->host, r->port, addresses);
	list = curl_slist_append(NULL, entry);
	free(entry);
	return list;
}

static void on_resolved(void *arg, const struct address *v, size_t n, const char *error)
{
	struct http_request *r = arg;

	r->lookup = NULL;
	if (n == 0) {
		r->answer.is_resolve = true;
		answer_failed(r, error);
		request_over(r);
		return;
	}
	if (!r->is_numeric)
		r->resolve = resolve_list(r, v, n);
	if ((r->easy = curl_easy_init()) == NULL)
		abort();
	set_safety(r->easy, r->ca_file);
	set_request(r);
	r->added = curl_multi_add_handle(r->http->multi, r->easy) == CURLM_OK;
	if (!r->added) {
		answer_failed(r, "curl did not take the request");
		request_over(r);
	}
}

static char *url_part(CURLU *url, CURLUPart part)
{
	char *text = NULL, *copy;

	if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK)
		return NULL;
	copy = xstrdup(text);
	curl_free(text);
	return copy;
}

/* [::1] is ::1 to the resolver. */
static void strip_brackets(struct http_request *r)
{
	size_t len = strlen(r->host);

	r->is_numeric = r->host[0] == '[' || inet_addr(r->host) != INADDR_NONE;
	if (r->host[0] == '[' && r->host[len - 1] == ']') {
		memmove(r->host, r->host + 1, len - 2);
		r->host[len - 2] = '\0';
	}
}

static bool take_url(struct http_request *r)
{
	CURLU *url = curl_url();
	bool ok = url != NULL && curl_url_set(url, CURLUPART_URL, r->url, 0) == CURLUE_OK;
	char *scheme = ok ? url_part(url, CURLUPART_SCHEME) : NULL, *port = ok ? url_part(url, CURLUPART_PORT) : NULL;
	uint32_t number = 0;

	r->host = ok ? url_part(url, CURLUPART_HOST) : NULL;
	ok = str_equal(scheme, "https") && r->host != NULL && r->host[0] != '\0' && port != NULL &&
	    parse_u32(port, &number) == 0 && number > 0 && number <= UINT16_MAX;
	if (ok) {
		r->port = (uint16_t)number;
		strip_brackets(r);
	}
	free(scheme);
	free(port);
	curl_url_cleanup(url);
	return ok;
}

struct http_request *http_post_form(struct http *h, const char *url, const char *ca_file, const char *form,
    msec_t timeout_ms, http_cb *cb, void *arg)
{
	struct http_request *r = xcalloc(1, sizeof(*r));
	struct timeval limit = clock_interval(timeout_ms);

	r->http = h;
	r->cb = cb;
	r->arg = arg;
	r->url = xstrdup(url);
	r->ca_file = xstrdup(ca_file);
	r->form = xstrdup(form);
	r->event = evtimer_new(h->base, on_event, r);
	r->answer.body = "";
	event_add(r->event, &limit);
	if (take_url(r)) {
		r->lookup = resolver_start(h->resolver, r->host, r->port, on_resolved, r);
	} else {
		answer_failed(r, "not an https URL");
		request_over(r);
	}
	return r;
}

void http_cancel(struct http_request **request)
{
	if (*request != NULL)
		request_free(*request);
	*request = NULL;
}
