/* What a person sees of a status: a table of all mailboxes, those that fail first, or everything about one. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "mailpollctl_private.h"
#include "util.h"

#define COLUMNS 100
#define ADDRESS_COLUMNS 37
#define PROBLEM_COLUMNS 18
#define KINDS_SHOWN 12			/* of failures, each with what to do */
#define SINKS_SHOWN 8			/* more of them: only those that fail */
#define AGE_SIZE 32

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

void put_clean(FILE *to, const char *s)
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
void put_text(FILE *to, size_t indent, const char *label, const char *text)
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

const char *string_of(const json_t *object, const char *key)	/* NULL: null or absent */
{
	return json_string_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)	/* "": null or absent */
{
	const char *text = string_of(object, key);

	return text != NULL ? text : "";
}

long long number_of(const json_t *object, const char *key)
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
	char *text = NULL;
	size_t len;
	FILE *line = open_memstream(&text, &len);

	if (line == NULL)
		abort();
	fprintf(line, "%lld mailboxes", number_of(totals, "mailboxes"));
	json_object_foreach(totals, key, value) {
		bool is_state = true;

		for (size_t i = 0; i < ARRAY_LEN(not_states); i++)
			is_state = is_state && strcmp(key, not_states[i]) != 0;
		if (!is_state || json_integer_value(value) == 0)
			continue;
		fprintf(line, "%s%lld %s", separator, (long long)json_integer_value(value), key);
		separator = ", ";
	}
	fprintf(line, "; %lld failing; %lld delivered since the start", number_of(totals, "failing"), number_of(totals, "delivered"));
	fclose(line);
	put_text(to, 0, "", text);
	free(text);
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

/* --- status: the table --- */

/* How many bytes the first n columns take. */
static size_t bytes_of_columns(const char *s, size_t n)
{
	size_t len = 0;

	while (s[len] != '\0' && columns(s, len + 1) <= n)
		len++;
	return len;
}

/* Just so many columns: what is longer loses its middle, so that mailbox and domain are still known by their ends. */
static void put_column(FILE *to, const char *value, size_t width)
{
	char *text = clean(value);
	size_t len = strlen(text), wide = columns(text, len), front, back;

	if (wide <= width) {
		fprintf(to, "%s", text);
		put_spaces(to, width - wide);
	} else {
		front = bytes_of_columns(text, (width - 1) / 2);
		back = bytes_of_columns(text, wide - (width - 1 - (width - 1) / 2));
		fprintf(to, "%.*s~%s", (int)front, text, text + back);
	}
	free(text);
}

/* The end of its line: why it fails, what it owes, what was refused, in a word each, as far as they fit. */
static void put_problem(FILE *to, const json_t *mailbox)
{
	static const struct { const char *key, *word; } counts[] = { { "owed", "owed" }, { "quarantined", "refused" }, { "after_owed", "after" } };
	const char *failure = string_of(mailbox, "failure");
	char *text = failure != NULL ? clean(failure) : xstrdup("");

	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		long long n = sum_of(mailbox, counts[i].key);
		char *longer;

		if (n == 0)
			continue;
		longer = xasprintf("%s%s%lld %s", text, text[0] != '\0' ? ", " : "", n, counts[i].word);
		free(text);
		text = longer;
	}
	if (columns(text, strlen(text)) > PROBLEM_COLUMNS)
		fprintf(to, " %.*s~\n", (int)bytes_of_columns(text, PROBLEM_COLUMNS - 1), text);
	else
		fprintf(to, "%s%s\n", text[0] != '\0' ? " " : "", text);
	free(text);
}

static void show_row(FILE *to, const json_t *mailbox)
{
	time_t last = latest_of(mailbox, "last_delivery");
	const char *since = string_of(mailbox, "failing_since") != NULL ? "failing_since" : "since";	/* its state changes with each try */
	char age[AGE_SIZE], last_age[AGE_SIZE], *state = clean(string_of(mailbox, "state"));

	put_column(to, string_of(mailbox, "address"), ADDRESS_COLUMNS);
	fprintf(to, " %-14.14s %5s %9lld %7lld %4s", state, age_of(mailbox, since, age), sum_of(mailbox, "delivered"), sum_of(mailbox, "backlog"),
	    last != 0 ? say_age((long long)(time(NULL) - last), last_age) : "-");
	put_problem(to, mailbox);
	free(state);
}

static void show_table(FILE *to, const json_t *mailboxes)
{
	const json_t *mailbox;
	size_t i;

	if (json_array_size(mailboxes) == 0)
		return;
	fprintf(to, "\n%-*s %-14s %5s %9s %7s %4s %s\n", ADDRESS_COLUMNS, "MAILBOX", "STATE", "FOR", "DELIVERED", "BACKLOG", "LAST", "PROBLEM");
	for (int failing = 1; failing >= 0; failing--)
		json_array_foreach(mailboxes, i, mailbox)
			if (is_failing(mailbox) == failing)
				show_row(to, mailbox);
}

/* --- status: what fails, each kind once, with one mailbox as its example --- */

struct kind { const char *failure; const json_t *example; size_t n; };

static size_t gather_kinds(const json_t *mailboxes, struct kind kinds[static KINDS_SHOWN])
{
	const json_t *mailbox;
	size_t i, n = 0, k;

	json_array_foreach(mailboxes, i, mailbox) {
		const char *failure = string_of(mailbox, "failure");

		for (k = 0; failure != NULL && k < n && strcmp(kinds[k].failure, failure) != 0; k++)
			;
		if (failure == NULL || k == KINDS_SHOWN)
			continue;
		if (k == n)
			kinds[n++] = (struct kind){ .failure = failure, .example = mailbox };
		kinds[k].n++;
	}
	return n;
}

static void show_kind(FILE *to, const struct kind *kind)
{
	const char *error = text_of(kind->example, "error"), *hint = string_of(kind->example, "hint"), *address = text_of(kind->example, "address");
	char age[AGE_SIZE], *label, *when;

	label = kind->n == 1 ? xasprintf("%s: %s: ", kind->failure, address) : xasprintf("%s: %zu mailboxes, such as %s: ", kind->failure, kind->n, address);
	when = time_of(kind->example, "retry_at") != 0 ? xasprintf("%s (next try in %s)", error, until(kind->example, "retry_at", age)) : xstrdup(error);
	put_text(to, 0, label, when);
	if (hint != NULL)
		put_text(to, 4, "", hint);
	free(label);
	free(when);
}

static void show_kinds(FILE *to, const json_t *mailboxes)
{
	struct kind kinds[KINDS_SHOWN];
	size_t n = gather_kinds(mailboxes, kinds);

	if (n > 0)
		fputc('\n', to);
	for (size_t i = 0; i < n; i++)
		show_kind(to, &kinds[i]);
}

void show_status(FILE *to, const json_t *status)
{
	show_health(to, status);
	show_totals(to, json_object_get(status, "totals"));
	show_credentials(to, json_object_get(status, "credentials"));
	show_sinks(to, json_object_get(status, "sinks"));
	show_store(to, json_object_get(status, "store"));
	show_kinds(to, json_object_get(status, "mailboxes"));
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

static void show_settings(FILE *to, const json_t *settings)
{
	const json_t *deliver = json_object_get(settings, "deliver");
	const char *maildir = string_of(deliver, "maildir"), *folder = string_of(settings, "after_folder");
	char *lines[] = {
		xasprintf("credential %s, %s port %lld", text_of(settings, "credential"), text_of(settings, "host"), number_of(settings, "port")),
		xasprintf("%s, a look every %lld s%s", text_of(settings, "watch"), number_of(settings, "interval_s"),
		    str_equal(string_of(settings, "watch"), "idle") ? " at the latest" : ""),
		xasprintf("%s %s", maildir != NULL ? "maildir" : "command", maildir != NULL ? maildir : text_of(deliver, "command")),
		xasprintf("%s%s%s", text_of(settings, "after"), folder != NULL ? " to " : "", folder != NULL ? folder : ""),
	};
	static const char *const labels[] = { "signs in   ", "watch      ", "deliver    ", "after      " };

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		put_text(to, 2, labels[i], lines[i]);
		free(lines[i]);
	}
}

static void show_errors(FILE *to, const json_t *errors)
{
	const json_t *error;
	size_t i;

	if (json_array_size(errors) > 0)
		fputs("  last errors\n", to);
	json_array_foreach(errors, i, error) {
		char age[AGE_SIZE], times[48] = "", *label;

		if (number_of(error, "times") > 1)
			snprintf(times, sizeof(times), ", %lld times", number_of(error, "times"));
		label = xasprintf("%s (%s ago)  %s%s: ", text_of(error, "last_at"), age_of(error, "last_at", age), text_of(error, "failure"), times);
		put_text(to, 4, label, text_of(error, "error"));
		free(label);
	}
}

void show_mailbox(FILE *to, const json_t *mailbox)
{
	const json_t *folders = json_object_get(mailbox, "folders"), *folder;
	const char *failure = string_of(mailbox, "failure"), *hint = string_of(mailbox, "hint");
	size_t i;

	put_clean(to, string_of(mailbox, "address"));
	fputs("\n  id         ", to);
	put_clean(to, string_of(mailbox, "id"));
	fputs("\n  state      ", to);
	put_clean(to, string_of(mailbox, "state"));
	fputc('\n', to);
	show_time(to, "  since      ", mailbox, "since");
	show_time(to, "  failing    ", mailbox, "failing_since");
	if (failure != NULL) {
		char *error = xasprintf("%s: %s", failure, text_of(mailbox, "error"));

		put_text(to, 2, "error      ", error);
		free(error);
	}
	if (hint != NULL)
		put_text(to, 2, "hint       ", hint);
	if (number_of(mailbox, "failures") > 0)
		fprintf(to, "  failures   %lld in a row\n", number_of(mailbox, "failures"));
	show_time(to, failure != NULL ? "  next try   " : "  next look  ", mailbox, "retry_at");
	show_settings(to, json_object_get(mailbox, "settings"));
	show_errors(to, json_object_get(mailbox, "errors"));
	json_array_foreach(folders, i, folder)
		show_folder(to, folder);
}
