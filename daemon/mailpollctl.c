/* mailpollctl.c - a client of mailpolld's control socket: asks over HTTP, shows the JSON that comes back as a person
 * reads it. Everything the daemon says passes printable() before it reaches the terminal. */
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include "util.h"

#define DEFAULT_SOCKET "/run/mailpolld/control"
#define COLUMNS 100
#define ADDRESS_COLUMNS 36
#define ANSWER_MAX_BYTES (256 * 1024 * 1024)
#define ANSWER_WITHIN_S 60
#define RELOAD_WITHIN_S 300
#define WATCH_EVERY_S 2
#define SINKS_SHOWN 8			/* more of them: only those that fail */
#define AGE_SIZE 32

struct options {
	const char *socket;
	bool failing, json, watch;
	const char *since;
};
struct reply {
	long status;			/* of HTTP */
	char *body;
	size_t len, room;
	json_t *json;			/* NULL: the body is none */
};
struct command {
	const char *name;
	int (*run)(const struct options *, const char *address);
	bool takes_address, needs_address, takes_flags, needs_since;
};

/* --- text --- */

/* How many columns a UTF-8 text takes, one for each character. */
static size_t columns(const char *s, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += ((unsigned char)s[i] & 0xc0) != 0x80;
	return n;
}

static char *clean(const char *s)	/* caller frees */
{
	size_t len = s != NULL ? strlen(s) : 0;
	char *text = xmalloc(len + 1);

	printable(text, len + 1, s != NULL ? s : "", len);
	return text;
}

static void put_clean(FILE *to, const char *s)
{
	char *text = clean(s);

	fputs(text, to);
	free(text);
}

static void put_spaces(FILE *to, size_t n)
{
	fprintf(to, "%*s", (int)n, "");
}

/* Words of one line, wrapped; at is the column already reached, indent that of the lines that follow. */
static void put_words(FILE *to, const char *line, size_t at, size_t indent)
{
	bool first = true;

	while (*line != '\0') {
		size_t len = strcspn(line, " "), width = columns(line, len);

		if (len > 0 && !first && at + 1 + width > COLUMNS) {
			fputc('\n', to);
			put_spaces(to, indent);
			at = indent;
			first = true;
		}
		if (len > 0) {
			fprintf(to, "%s%.*s", first ? "" : " ", (int)len, line);
			at += width + !first;
			first = false;
		}
		line += len + (line[len] == ' ');
	}
	fputc('\n', to);
}

/* A label and what it is about, line by line, wrapped below it. */
static void put_text(FILE *to, size_t indent, const char *label, const char *text)
{
	char *start = clean(label);
	size_t at = indent + columns(start, strlen(start));

	put_spaces(to, indent);
	fputs(start, to);
	free(start);
	do {
		size_t len = strcspn(text, "\n");
		char *raw = xstrndup(text, len), *line = clean(raw);

		put_words(to, line, at, indent + 2);
		free(raw);
		free(line);
		text += len + (text[len] == '\n');
		at = indent + 2;
		if (*text != '\0')
			put_spaces(to, at);
	} while (*text != '\0');
}

static const char *say_age(long long seconds, char ret_text[static AGE_SIZE])
{
	long long s = seconds < 0 ? 0 : seconds;

	if (s < 120)
		snprintf(ret_text, AGE_SIZE, "%llds", s);
	else if (s < 120 * 60)
		snprintf(ret_text, AGE_SIZE, "%lldm", s / 60);
	else if (s < 48 * 3600)
		snprintf(ret_text, AGE_SIZE, "%lldh", s / 3600);
	else
		snprintf(ret_text, AGE_SIZE, "%lldd", s / 86400);
	return ret_text;
}

/* --- reading the answer --- */

static const char *string_of(const json_t *object, const char *key)	/* NULL: null or absent */
{
	return json_string_value(json_object_get(object, key));
}

static long long number_of(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

static time_t time_of(const json_t *object, const char *key)	/* 0: null, absent or no time */
{
	const char *text = string_of(object, key), *end;
	struct tm tm = { 0 };

	if (text == NULL || (end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm)) == NULL || *end != '\0')
		return 0;
	return timegm(&tm);
}

static const char *age_of(const json_t *object, const char *key, char ret_text[static AGE_SIZE])
{
	time_t at = time_of(object, key);

	return at == 0 ? "-" : say_age((long long)(time(NULL) - at), ret_text);
}

static const char *until(const json_t *object, const char *key, char ret_text[static AGE_SIZE])
{
	return say_age((long long)(time_of(object, key) - time(NULL)), ret_text);
}

static bool is_failing(const json_t *mailbox)
{
	return string_of(mailbox, "error") != NULL;
}

static long long sum_of(const json_t *mailbox, const char *key)
{
	const json_t *folders = json_object_get(mailbox, "folders"), *folder;
	long long sum = 0;
	size_t i;

	json_array_foreach(folders, i, folder)
		sum += number_of(folder, key);
	return sum;
}

static time_t latest_of(const json_t *mailbox, const char *key)
{
	const json_t *folders = json_object_get(mailbox, "folders"), *folder;
	time_t latest = 0;
	size_t i;

	json_array_foreach(folders, i, folder) {
		time_t at = time_of(folder, key);

		latest = at > latest ? at : latest;
	}
	return latest;
}

/* --- asking --- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct reply *r = arg;
	size_t len = size * n;

	if (len > ANSWER_MAX_BYTES - r->len)
		return 0;
	if (r->len + len + 1 > r->room) {
		r->room = 2 * (r->len + len + 1);
		r->body = xreallocarray(r->body, r->room, 1);
	}
	memcpy(r->body + r->len, data, len);
	r->len += len;
	r->body[r->len] = '\0';
	return len;
}

static void reply_done(struct reply *r)
{
	json_decref(r->json);
	free(r->body);
	*r = (struct reply){ 0 };
}

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

static int complain_unreachable(const char *path, CURLcode code)
{
	int error = code == CURLE_COULDNT_CONNECT ? probe(path) : 0;

	if (error == EACCES || error == EPERM) {
		fprintf(stderr, "mailpollctl: %s: permission denied; be a member of the unit's group (mailpolld), or root\n", path);
		return EX_NOPERM;
	}
	if (error != 0)
		fprintf(stderr, "mailpollctl: mailpolld is not running, or not with this socket: %s: %s (systemctl status mailpolld)\n", path,
		    strerror(error));
	else if (code == CURLE_OPERATION_TIMEDOUT)
		fprintf(stderr, "mailpollctl: mailpolld does not answer at %s (systemctl status mailpolld)\n", path);
	else
		fprintf(stderr, "mailpollctl: %s: %s\n", path, curl_easy_strerror(code));
	return EX_UNAVAILABLE;
}

static CURLcode transfer(const char *socket, const char *url, bool is_verb, long within_s, struct reply *r)
{
	CURL *easy = curl_easy_init();
	CURLcode code;

	if (easy == NULL)
		return CURLE_FAILED_INIT;
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, socket);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	if (is_verb)
		curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, "");
	curl_easy_setopt(easy, CURLOPT_TIMEOUT, within_s);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, r);
	code = curl_easy_perform(easy);
	if (code == CURLE_OK)
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &r->status);
	curl_easy_cleanup(easy);
	return code;
}

/* before, the address encoded (NULL: none), after: the path. EX_OK: ret_reply has an answer, perhaps a refusal. */
static int ask(const struct options *o, bool is_verb, const char *before, const char *address, const char *after, struct reply *ret_reply)
{
	char *name = percent_encode(address != NULL ? address : "", ""), *url = xasprintf("http://mailpolld%s%s%s", before, name, after);
	long within_s = is_verb && address == NULL ? RELOAD_WITHIN_S : ANSWER_WITHIN_S;
	CURLcode code;

	*ret_reply = (struct reply){ 0 };
	code = transfer(o->socket, url, is_verb, within_s, ret_reply);
	free(name);
	free(url);
	if (code != CURLE_OK) {
		reply_done(ret_reply);
		return complain_unreachable(o->socket, code);
	}
	if (ret_reply->len > 0)
		ret_reply->json = json_loadb(ret_reply->body, ret_reply->len, JSON_REJECT_DUPLICATES, NULL);
	if (ret_reply->json != NULL)
		return EX_OK;
	fprintf(stderr, "mailpollctl: what answers at %s is not mailpolld (HTTP status %ld)\n", o->socket, ret_reply->status);
	reply_done(ret_reply);
	return EX_UNAVAILABLE;
}

static int complain_refused(const struct reply *r)
{
	const char *error = string_of(r->json, "error");

	fputs("mailpollctl: ", stderr);
	put_clean(stderr, error != NULL ? error : "refused without a reason");
	fputc('\n', stderr);
	return EXIT_FAILURE;
}

/* --- status: the whole --- */

static void show_health(FILE *to, const json_t *status)
{
	const json_t *config = json_object_get(status, "config"), *reasons = json_object_get(status, "reasons"), *reason;
	const char *error = string_of(config, "error");
	char age[AGE_SIZE], loaded[AGE_SIZE];
	size_t i;

	fputs("mailpolld ", to);
	put_clean(to, string_of(status, "version"));
	fputs(": ", to);
	put_clean(to, string_of(status, "health"));
	fprintf(to, "; up for %s, configuration loaded %s ago\n", age_of(status, "started_at", age), age_of(config, "loaded_at", loaded));
	json_array_foreach(reasons, i, reason) {
		const char *what = string_of(reason, "what"), *name = string_of(reason, "name"), *hint = string_of(reason, "hint");
		char *label = xasprintf("%s %s, for %s: ", what != NULL ? what : "?", name != NULL ? name : "",
		    age_of(reason, "since", age));

		put_text(to, 2, label, hint != NULL ? hint : "fails");
		free(label);
	}
	if (error != NULL)
		put_text(to, 2, "the last reload failed, the configuration before it runs on: ", error);
}

static void show_totals(FILE *to, json_t *totals)
{
	static const char *const not_states[] = { "mailboxes", "failing", "delivered" };
	const char *key, *separator = ": ";
	json_t *value;

	fprintf(to, "%lld mailboxes", number_of(totals, "mailboxes"));
	json_object_foreach(totals, key, value) {
		bool is_state = true;

		for (size_t i = 0; i < ARRAY_LEN(not_states); i++)
			is_state = is_state && strcmp(key, not_states[i]) != 0;
		if (!is_state || json_integer_value(value) == 0)
			continue;
		fprintf(to, "%s%lld ", separator, (long long)json_integer_value(value));
		put_clean(to, key);
		separator = ", ";
	}
	fprintf(to, "; %lld failing; %lld delivered since the start\n", number_of(totals, "failing"), number_of(totals, "delivered"));
}

static void show_admission(FILE *to, const json_t *admission)
{
	double rate = json_number_value(json_object_get(admission, "sessions_per_second"));
	const char *hint = string_of(admission, "hint");

	if (json_is_true(json_object_get(admission, "slowed")))
		fprintf(to, "    slowed down to %.2f new sessions per second: the server throttles its mailboxes\n", rate);
	if (number_of(admission, "waiting") > 0)
		fprintf(to, "    %lld of %lld mailboxes wait for their turn to sign in\n", number_of(admission, "waiting"),
		    number_of(admission, "mailboxes"));
	if (hint != NULL)
		put_text(to, 4, "", hint);
}

static void show_credentials(FILE *to, const json_t *credentials)
{
	const json_t *credential;
	size_t i;

	json_array_foreach(credentials, i, credential) {
		const char *error = string_of(credential, "error"), *hint = string_of(credential, "hint");
		char age[AGE_SIZE];

		fputs("credential ", to);
		put_clean(to, string_of(credential, "name"));
		fputs(": token ", to);
		put_clean(to, string_of(credential, "state"));
		if (time_of(credential, "expires_at") != 0)
			fprintf(to, ", ends in %s", until(credential, "expires_at", age));
		fputc('\n', to);
		if (error != NULL)
			put_text(to, 4, "", error);
		if (hint != NULL)
			put_text(to, 4, "", hint);
		show_admission(to, json_object_get(credential, "admission"));
	}
}

static void show_sink(FILE *to, const json_t *sink)
{
	const char *error = string_of(sink, "error"), *hint = string_of(sink, "hint");
	const char *kind = string_of(sink, "kind"), *target = string_of(sink, "target");
	char *label = xasprintf("%s %s: ", kind != NULL ? kind : "sink", target != NULL ? target : "");
	char *counts = xasprintf("%s%lld delivered, %lld refused, %lld put off%s", json_is_true(json_object_get(sink, "failing")) ? "failing; " : "",
	    number_of(sink, "delivered"), number_of(sink, "refused"), number_of(sink, "temporary"), error != NULL ? ";" : "");

	put_text(to, 0, label, counts);
	if (error != NULL)
		put_text(to, 4, "", error);
	if (hint != NULL)
		put_text(to, 4, "", hint);
	free(label);
	free(counts);
}

static void show_sinks(FILE *to, const json_t *sinks)
{
	bool all = json_array_size(sinks) <= SINKS_SHOWN;
	const json_t *sink;
	size_t i;

	json_array_foreach(sinks, i, sink)
		if (all || string_of(sink, "error") != NULL || json_is_true(json_object_get(sink, "failing")))
			show_sink(to, sink);
}

static void show_store(FILE *to, const json_t *store)
{
	const char *error = string_of(store, "error"), *hint = string_of(store, "hint");
	char age[AGE_SIZE];

	if (time_of(store, "last_commit") != 0)
		fprintf(to, "state: last written %s ago; %lld KiB in the spool\n", age_of(store, "last_commit", age),
		    number_of(store, "spool_bytes") / 1024);
	if (error != NULL)
		put_text(to, 0, "state: ", error);
	if (hint != NULL)
		put_text(to, 4, "", hint);
}

/* How many bytes the first n columns take. */
static size_t bytes_of_columns(const char *s, size_t n)
{
	size_t len = 0;

	while (s[len] != '\0' && columns(s, len + 1) <= n)
		len++;
	return len;
}

/* One that is too long for its column has a line of its own. */
static void show_address(FILE *to, const char *address)
{
	char *text = clean(address);
	size_t len = bytes_of_columns(text, COLUMNS), width = columns(text, len);

	fprintf(to, "%.*s", (int)len, text);
	if (width > ADDRESS_COLUMNS)
		fputc('\n', to);
	put_spaces(to, width > ADDRESS_COLUMNS ? ADDRESS_COLUMNS : ADDRESS_COLUMNS - width);
	free(text);
}

static void show_row(FILE *to, const json_t *mailbox)
{
	const char *hint = string_of(mailbox, "hint");
	time_t last = latest_of(mailbox, "last_delivery");
	char age[AGE_SIZE], last_age[AGE_SIZE], *state = clean(string_of(mailbox, "state"));

	show_address(to, string_of(mailbox, "address"));
	fprintf(to, " %-14.14s %6s %9lld %7lld %5lld %5lld %8s\n", state, age_of(mailbox, "since", age), sum_of(mailbox, "delivered"),
	    sum_of(mailbox, "backlog"), sum_of(mailbox, "owed"), sum_of(mailbox, "quarantined"),
	    last != 0 ? say_age((long long)(time(NULL) - last), last_age) : "-");
	free(state);
	if (!is_failing(mailbox))
		return;
	if (time_of(mailbox, "retry_at") != 0) {
		char *text = xasprintf("%s (next try in %s)", string_of(mailbox, "error"), until(mailbox, "retry_at", age));

		put_text(to, 4, "", text);
		free(text);
	} else {
		put_text(to, 4, "", string_of(mailbox, "error"));
	}
	if (hint != NULL)
		put_text(to, 4, "", hint);
}

static void show_table(FILE *to, const json_t *mailboxes)
{
	const json_t *mailbox;
	size_t i;

	if (json_array_size(mailboxes) == 0)
		return;
	fprintf(to, "\n%-*s %-14s %6s %9s %7s %5s %5s %8s\n", ADDRESS_COLUMNS, "MAILBOX", "STATE", "FOR", "DELIVERED", "BACKLOG", "OWED", "QUAR",
	    "LAST");
	for (int failing = 1; failing >= 0; failing--)
		json_array_foreach(mailboxes, i, mailbox)
			if (is_failing(mailbox) == failing)
				show_row(to, mailbox);
}

static void show_status(FILE *to, const json_t *status)
{
	show_health(to, status);
	show_totals(to, json_object_get(status, "totals"));
	show_credentials(to, json_object_get(status, "credentials"));
	show_sinks(to, json_object_get(status, "sinks"));
	show_store(to, json_object_get(status, "store"));
	show_table(to, json_object_get(status, "mailboxes"));
}

/* --- status: one mailbox --- */

static void show_time(FILE *to, const char *label, const json_t *object, const char *key)
{
	char age[AGE_SIZE];
	time_t at = time_of(object, key);

	if (at == 0)
		return;
	fprintf(to, "%s", label);
	put_clean(to, string_of(object, key));
	if (at > time(NULL))
		fprintf(to, " (in %s)\n", until(object, key, age));
	else
		fprintf(to, " (%s ago)\n", age_of(object, key, age));
}

static void show_folder(FILE *to, const json_t *folder)
{
	const json_t *rebuilt = json_object_get(folder, "rebuilt"), *given_up = json_object_get(folder, "unretrievable"), *message;
	size_t i;

	fputs("  folder ", to);
	put_clean(to, string_of(folder, "folder"));
	fprintf(to, "\n    delivered      %lld\n", number_of(folder, "delivered"));
	show_time(to, "    last delivery  ", folder, "last_delivery");
	show_time(to, "    last look      ", folder, "last_success");
	fprintf(to, "    backlog        %lld (listed by the server, not delivered yet)\n", number_of(folder, "backlog"));
	fprintf(to, "    owed           %lld (could not be had from the server)\n", number_of(folder, "owed"));
	show_time(to, "    oldest owed    ", folder, "oldest_owed_at");
	fprintf(to, "    after owed     %lld (delivered, `after` is still to be done)\n", number_of(folder, "after_owed"));
	fprintf(to, "    quarantined    %lld\n", number_of(folder, "quarantined"));
	show_time(to, "    rebuilt        ", rebuilt, "at");
	if (json_is_object(rebuilt))
		fprintf(to, "                   %lld known messages skipped, %lld fetched\n", number_of(rebuilt, "known"), number_of(rebuilt, "new"));
	json_array_foreach(given_up, i, message)
		put_text(to, 4, "unretrievable  ", string_of(message, "hint"));
}

static void show_mailbox(FILE *to, const json_t *mailbox)
{
	const json_t *folders = json_object_get(mailbox, "folders"), *folder;
	const char *error = string_of(mailbox, "error"), *hint = string_of(mailbox, "hint");
	size_t i;

	put_clean(to, string_of(mailbox, "address"));
	fputs("\n  id         ", to);
	put_clean(to, string_of(mailbox, "id"));
	fputs("\n  state      ", to);
	put_clean(to, string_of(mailbox, "state"));
	fputc('\n', to);
	show_time(to, "  since      ", mailbox, "since");
	if (error != NULL)
		put_text(to, 2, "error      ", error);
	if (hint != NULL)
		put_text(to, 2, "hint       ", hint);
	if (number_of(mailbox, "failures") > 0)
		fprintf(to, "  failures   %lld in a row\n", number_of(mailbox, "failures"));
	show_time(to, error != NULL ? "  next try   " : "  next look  ", mailbox, "retry_at");
	json_array_foreach(folders, i, folder)
		show_folder(to, folder);
}

/* --- commands --- */

static int show_reply(FILE *to, const struct options *o, const struct reply *r, const char *address)
{
	if (r->status != 200)
		return complain_refused(r);
	if (o->json) {
		json_dumpf(r->json, to, JSON_INDENT(2) | JSON_ENSURE_ASCII);
		fputc('\n', to);
	} else if (address != NULL) {
		show_mailbox(to, json_array_get(json_object_get(r->json, "mailboxes"), 0));
	} else {
		show_status(to, r->json);
	}
	return EX_OK;
}

static int status_once(FILE *to, const struct options *o, const char *address)
{
	struct reply r;
	int status = address != NULL ? ask(o, false, "/mailboxes/", address, "", &r) :
	    ask(o, false, o->failing ? "/status?failing=1" : "/status", NULL, "", &r);

	if (status != EX_OK)
		return status;
	status = show_reply(to, o, &r, address);
	reply_done(&r);
	return status;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

/* As much as the terminal holds; what fails stands first. */
static void put_page(const char *text)
{
	struct winsize window;
	size_t rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 2 ? window.ws_row - 2U : SIZE_MAX;
	const char *end = text;

	for (size_t i = 0; i < rows && *end != '\0'; i++)
		end += strcspn(end, "\n") + (end[strcspn(end, "\n")] == '\n');
	fputs("\033[H\033[2J", stdout);
	fwrite(text, 1, (size_t)(end - text), stdout);
	if (*end != '\0')
		fputs("... (`mailpollctl status` shows all of it)\n", stdout);
	fflush(stdout);
}

/* A daemon that is restarted meanwhile is waited for. */
static int status_watch(const struct options *o, const char *address)
{
	struct sigaction action = { .sa_handler = on_interrupt };	/* without SA_RESTART: sleep ends at once */
	int status = EX_OK;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	for (bool first = true; !interrupted; first = false) {
		char *text = NULL;
		size_t len = 0;
		FILE *page = open_memstream(&text, &len);

		if (page == NULL)
			return EX_OSERR;
		status = status_once(page, o, address);
		fclose(page);
		if (status == EX_OK)
			put_page(text);
		free(text);
		if (status != EX_OK && first)
			return status;
		if (!interrupted)
			sleep(WATCH_EVERY_S);
	}
	return EX_OK;
}

static int run_status(const struct options *o, const char *address)
{
	return o->watch ? status_watch(o, address) : status_once(stdout, o, address);
}

static int run_verb(const struct options *o, const char *verb, const char *address, const char *said)
{
	char *after = xasprintf("/%s", verb);
	struct reply r;
	int status = ask(o, true, "/mailboxes/", address, after, &r);

	free(after);
	if (status != EX_OK)
		return status;
	if (r.status != 200) {
		status = complain_refused(&r);
	} else if (strcmp(verb, "poll") == 0 && str_equal(string_of(r.json, "state"), "paused")) {
		put_clean(stderr, string_of(r.json, "address"));
		fputs(" is paused; `mailpollctl resume` comes first\n", stderr);
		status = EXIT_FAILURE;
	} else {
		put_clean(stdout, string_of(r.json, "address"));
		printf(" %s\n", said);
	}
	reply_done(&r);
	return status;
}

static int run_poll(const struct options *o, const char *address)
{
	return run_verb(o, "poll", address, "is being looked at");
}

static int run_pause(const struct options *o, const char *address)
{
	return run_verb(o, "pause", address, "is paused until it is resumed");
}

static int run_resume(const struct options *o, const char *address)
{
	return run_verb(o, "resume", address, "goes on");
}

static int run_resync(const struct options *o, const char *address)
{
	char *since = percent_encode(o->since, ""), *verb = xasprintf("resync?since=%s", since);
	int status = run_verb(o, verb, address, "delivers once more what came since then");

	free(since);
	free(verb);
	return status;
}

/* A verb that is not about a mailbox of the configuration. */
static int run_other_verb(const struct options *o, const char *before, const char *word, const char *said)
{
	struct reply r;
	int status = ask(o, true, before, word, "", &r);

	if (status != EX_OK)
		return status;
	if (r.status != 200) {
		status = complain_refused(&r);
	} else {
		put_clean(stdout, word);
		printf("%s\n", said);
	}
	reply_done(&r);
	return status;
}

static int run_forget(const struct options *o, const char *id)
{
	return run_other_verb(o, "/forget/", id, ": its state is removed");
}

static int run_backup(const struct options *o, const char *file)
{
	char *here = file[0] == '/' ? NULL : getcwd(NULL, 0), *path = xasprintf("%s%s%s", here != NULL ? here : "", here != NULL ? "/" : "", file);
	int status = run_other_verb(o, "/backup?file=", path, ": a copy of the state");

	free(here);
	free(path);
	return status;
}

static int run_log_level(const struct options *o, const char *level)
{
	return run_other_verb(o, "/log-level?level=", level, ": logged from now on, until the next start or reload");
}

static int complain_not_reloaded(const struct reply *r)
{
	const json_t *errors = json_object_get(r->json, "errors"), *error;
	size_t i;

	if (errors == NULL)
		return complain_refused(r);
	json_array_foreach(errors, i, error) {
		put_clean(stderr, json_string_value(error));
		fputc('\n', stderr);
	}
	fputs("mailpollctl: not reloaded; the running configuration stays\n", stderr);
	return EXIT_FAILURE;
}

static int run_reload(const struct options *o, const char *none)
{
	struct reply r;
	int status = ask(o, true, "/reload", NULL, "", &r);

	(void)none;
	if (status != EX_OK)
		return status;
	if (r.status == 200)
		printf("reloaded: %lld mailboxes added, %lld removed, %lld changed, %lld unchanged\n", number_of(r.json, "added"),
		    number_of(r.json, "removed"), number_of(r.json, "changed"), number_of(r.json, "kept"));
	else
		status = complain_not_reloaded(&r);
	reply_done(&r);
	return status;
}

/* --- arguments --- */

static const struct command commands[] = {
	{ "status", run_status, true, false, true, false },
	{ "poll", run_poll, true, true, false, false },
	{ "pause", run_pause, true, true, false, false },
	{ "resume", run_resume, true, true, false, false },
	{ "resync", run_resync, true, true, false, true },
	{ "forget", run_forget, true, true, false, false },
	{ "backup", run_backup, true, true, false, false },
	{ "log-level", run_log_level, true, true, false, false },
	{ "reload", run_reload, false, false, false, false },
};

static int usage(FILE *to, int status)
{
	fprintf(to, "usage: mailpollctl [-s SOCKET] status [ADDRESS] [--failing] [--json] [--watch]\n"
	    "       mailpollctl [-s SOCKET] poll | pause | resume ADDRESS\n"
	    "       mailpollctl [-s SOCKET] resync ADDRESS --since DATE\n"
	    "       mailpollctl [-s SOCKET] reload\n"
	    "       mailpollctl [-s SOCKET] forget ID | backup FILE | log-level LEVEL\n"
	    "       mailpollctl --version | --help\n"
	    "SOCKET is %s unless given; see mailpollctl(8).\n", DEFAULT_SOCKET);
	return status;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* arguments: the command and its address, if any. */
static int run(const struct options *o, char **arguments, int n)
{
	const struct command *command = n > 0 ? find_command(arguments[0]) : NULL;
	const char *address = n > 1 ? arguments[1] : NULL;
	bool flags = o->failing || o->json || o->watch;
	int status;

	if (command == NULL || n > 2 || (address != NULL && !command->takes_address) || (address == NULL && command->needs_address) ||
	    (flags && !command->takes_flags) || (o->failing && address != NULL) || (o->json && o->watch) ||
	    (address != NULL && *address == '\0') || command->needs_since != (o->since != NULL))
		return usage(stderr, EX_USAGE);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	status = command->run(o, address);
	curl_global_cleanup();
	if (fflush(stdout) != 0 || ferror(stdout))
		return status != EX_OK ? status : EX_IOERR;
	return status;
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "socket", required_argument, NULL, 's' }, { "failing", no_argument, NULL, 'f' }, { "json", no_argument, NULL, 'j' },
		{ "watch", no_argument, NULL, 'w' }, { "since", required_argument, NULL, 'S' }, { "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	struct options o = { .socket = DEFAULT_SOCKET };
	int option;

	while ((option = getopt_long(argc, argv, "s:hV", long_options, NULL)) != -1) {
		switch (option) {
		case 's':
			o.socket = optarg;
			break;
		case 'f':
			o.failing = true;
			break;
		case 'j':
			o.json = true;
			break;
		case 'w':
			o.watch = true;
			break;
		case 'S':
			o.since = optarg;
			break;
		case 'h':
			return usage(stdout, EX_OK);
		case 'V':
			printf("mailpollctl %s\n", MAILPOLLD_VERSION);
			return EX_OK;
		default:
			return usage(stderr, EX_USAGE);
		}
	}
	return run(&o, argv + optind, argc - optind);
}
