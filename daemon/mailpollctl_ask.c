/* Asking the daemon over its socket, and saying why there is no answer. */
#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>
#include "mailpollctl_private.h"
#include "util.h"

#define ANSWER_MAX_BYTES (256 * 1024 * 1024)
#define ANSWER_WITHIN_S 60
#define VERB_WITHIN_S 300		/* a reload of thousands of mailboxes, a copy of the state, a command that takes its time */
#define LINE_BYTES 4096

/* Why nobody answered: what connect() itself says. */
static int probe(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	error = fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
	if (fd >= 0)
		close(fd);
	return error;
}

static int complain_unreachable(const struct options *o, CURLcode code)
{
	const char *path = o->socket;
	int error = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ? probe(path) : 0;	/* the latter for a path too long */

	if (error == EACCES || error == EPERM) {
		fprintf(o->complaints,
		    "mailpollctl: %s: permission denied: use sudo; members of group mailpolld (usermod -aG mailpolld USER, then log in anew) "
		    "may, too, but can also read the client secret, which opens every mailbox\n",
		    path);
		return EX_NOPERM;
	}
	if (error != 0)
		fprintf(o->complaints, "mailpollctl: mailpolld is not running, or has another control_socket: %s: %s. See `systemctl status mailpolld`; start it "
		    "with `systemctl start mailpolld`, or name its socket with -s\n", path, strerror(error));
	else if (code == CURLE_OPERATION_TIMEDOUT)
		fprintf(o->complaints, "mailpollctl: mailpolld does not answer at %s in time. See `systemctl status mailpolld` and `journalctl -u mailpolld`\n",
		    path);
	else if (code == CURLE_RECV_ERROR || code == CURLE_PARTIAL_FILE || code == CURLE_GOT_NOTHING)
		fprintf(o->complaints, "mailpollctl: mailpolld has closed the connection: it has been stopped, or has ended. See `systemctl status mailpolld`\n");
	else
		fprintf(o->complaints, "mailpollctl: %s: %s\n", path, curl_easy_strerror(code));
	return EX_UNAVAILABLE;
}

int complain_refused(const struct options *o, const char *of, const struct reply *r)
{
	const char *error = string_of(r->json, "error");

	fputs("mailpollctl: ", o->complaints);
	if (of != NULL) {
		put_clean(o->complaints, of);
		fputs(": ", o->complaints);
	}
	put_clean(o->complaints, error != NULL ? error : "refused without a reason");
	fputc('\n', o->complaints);
	switch (r->status) {
	case 400:
		return EX_USAGE;
	case 404:
		return EX_NOUSER;
	case 503:
		return EX_TEMPFAIL;
	default:
		return EXIT_FAILURE;
	}
}

void reply_done(struct reply *r)
{
	json_decref(r->json);
	free(r->body);
	*r = (struct reply){ 0 };
}

static void reply_add(struct reply *r, const char *data, size_t len)
{
	if (r->len + len + 1 > r->room) {
		r->room = 2 * (r->len + len + 1);
		r->body = xreallocarray(r->body, r->room, 1);
	}
	memcpy(r->body + r->len, data, len);
	r->len += len;
	r->body[r->len] = '\0';
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct reply *r = arg;

	if (size * n > ANSWER_MAX_BYTES - r->len)
		return 0;
	reply_add(r, data, size * n);
	return size * n;
}

static CURL *prepare(const char *socket, const char *before, const char *word, const char *after)
{
	char *name = percent_encode(word != NULL ? word : "", ""), *url = xasprintf("http://mailpolld%s%s%s", before, name, after);
	CURL *easy = curl_easy_init();

	if (easy == NULL)
		abort();
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, socket);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	free(name);
	free(url);
	return easy;
}

static int read_json(const struct options *o, struct reply *r)
{
	if (r->len > 0)
		r->json = json_loadb(r->body, r->len, JSON_REJECT_DUPLICATES, NULL);
	if (r->json != NULL)
		return EX_OK;
	fprintf(o->complaints, "mailpollctl: what answers at %s is not mailpolld (HTTP status %ld)\n", o->socket, r->status);
	return EX_UNAVAILABLE;
}

int ask(const struct options *o, bool is_verb, const char *before, const char *word, const char *after, struct reply *ret_reply)
{
	CURL *easy = prepare(o->socket, before, word, after);
	CURLcode code;
	int status;

	*ret_reply = (struct reply){ 0 };
	if (is_verb)
		curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, "");
	curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)(is_verb ? VERB_WITHIN_S : ANSWER_WITHIN_S));
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, ret_reply);
	code = curl_easy_perform(easy);
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &ret_reply->status);
	curl_easy_cleanup(easy);
	status = code == CURLE_OK ? read_json(o, ret_reply) : complain_unreachable(o, code);
	if (status != EX_OK)
		reply_done(ret_reply);
	return status;
}

/* --- a mailbox's wire --- */

struct listening { CURL *easy; struct reply refusal; char line[LINE_BYTES]; size_t len; };

static void put_lines(struct listening *l, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] != '\n' && l->len < sizeof(l->line) - 1) {
			l->line[l->len++] = data[i];
		} else if (data[i] == '\n') {
			l->line[l->len] = '\0';
			put_clean(stdout, l->line);
			fputc('\n', stdout);
			l->len = 0;
		}
	}
	fflush(stdout);
}

static size_t on_piece(char *data, size_t size, size_t n, void *arg)
{
	struct listening *l = arg;
	long status = 0;

	curl_easy_getinfo(l->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		return on_body(data, size, n, &l->refusal);
	put_lines(l, data, size * n);
	return ferror(stdout) ? 0 : size * n;
}

static void on_interrupt(int signal)	/* each line has been written out */
{
	(void)signal;
	_exit(EX_OK);
}

int run_trace(const struct options *o, const char *address)
{
	struct listening *l = xcalloc(1, sizeof(*l));
	CURLcode code;
	int status;

	signal(SIGINT, on_interrupt);
	signal(SIGTERM, on_interrupt);
	l->easy = prepare(o->socket, "/mailboxes/", address, "/trace");
	curl_easy_setopt(l->easy, CURLOPT_WRITEFUNCTION, on_piece);
	curl_easy_setopt(l->easy, CURLOPT_WRITEDATA, l);
	code = curl_easy_perform(l->easy);
	curl_easy_getinfo(l->easy, CURLINFO_RESPONSE_CODE, &l->refusal.status);
	curl_easy_cleanup(l->easy);
	if (code == CURLE_WRITE_ERROR)
		status = EX_IOERR;
	else if (code != CURLE_OK)
		status = complain_unreachable(o, code);
	else if (l->refusal.status == 200)
		status = EX_UNAVAILABLE;	/* its last line says why */
	else if ((status = read_json(o, &l->refusal)) == EX_OK)
		status = complain_refused(o, NULL, &l->refusal);
	reply_done(&l->refusal);
	free(l);
	return status;
}
