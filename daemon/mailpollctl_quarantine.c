/* mailpollctl quarantine: refused messages. */
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include "mailpollctl_private.h"
#include "util.h"

static int ask_list(const struct options *o, struct reply *ret_reply)
{
	int status = ask(o, false, "/quarantine", NULL, "", ret_reply);

	if (status == EX_OK && ret_reply->status != 200) {
		status = complain_refused(o, NULL, ret_reply);
		reply_done(ret_reply);
	}
	return status;
}

static int list(const struct options *o)
{
	const json_t *messages, *message;
	struct reply r;
	size_t i;
	int status = ask_list(o, &r);

	if (status != EX_OK)
		return status;
	if (o->json) {
		json_dumpf(r.json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
		fputc('\n', stdout);
		reply_done(&r);
		return EX_OK;
	}
	messages = json_object_get(r.json, "messages");
	json_array_foreach(messages, i, message) {
		put_clean(stdout, string_of(message, "key"));
		fputs("\n  ", stdout);
		put_clean(stdout, string_of(message, "address"));
		printf(", %lld bytes, refused ", number_of(message, "size"));
		put_clean(stdout, string_of(message, "quarantined_at"));
		fputs(" by ", stdout);
		put_clean(stdout, string_of(message, "sink"));
		fputs(":\n", stdout);
		put_text(stdout, 2, "", string_of(message, "reason"));
	}
	printf("%zu messages in quarantine\n", json_array_size(messages));
	reply_done(&r);
	return EX_OK;
}

static int show(const struct options *o, const char *key)
{
	const json_t *message;
	struct reply r;
	size_t i;
	int status = ask_list(o, &r);

	if (status != EX_OK)
		return status;
	status = EX_NOUSER;
	json_array_foreach(json_object_get(r.json, "messages"), i, message) {
		if (!str_equal(string_of(message, "key"), key))
			continue;
		json_dumpf(message, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
		fputc('\n', stdout);
		status = EX_OK;
	}
	if (status != EX_OK)
		fputs("mailpollctl: there is no such message in quarantine\n", stderr);
	reply_done(&r);
	return status;
}

static int act(const struct options *o, const char *verb, const char *key, const char *said)
{
	char *after = xasprintf("/%s", verb);
	struct reply r;
	int status = ask(o, true, "/quarantine/", key, after, &r);

	free(after);
	if (status != EX_OK)
		return status;
	if (r.status == 200) {
		put_clean(stdout, key);
		printf(" %s\n", said);
	} else {
		status = complain_refused(o, key, &r);
	}
	reply_done(&r);
	return status;
}

static int act_on_all(const struct options *o, const char *verb, char **keys, int n, const char *said)
{
	int worst = EX_OK;

	for (int i = 0; i < n; i++) {
		int status = act(o, verb, keys[i], said);

		if (status == EX_UNAVAILABLE)
			return status;
		if (status != EX_OK)
			worst = status;
	}
	return worst;
}

/* 30d, 12h, 90m; -1: not a duration. */
static long long seconds_of(const char *text)
{
	static const struct { char unit; long long seconds; } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	size_t len = strlen(text);
	char *digits = len > 1 ? xstrndup(text, len - 1) : NULL;
	uint32_t n;
	long long seconds = -1;

	for (size_t i = 0; digits != NULL && i < ARRAY_LEN(units); i++)
		if (text[len - 1] == units[i].unit && parse_u32(digits, &n) == 0)
			seconds = (long long)n * units[i].seconds;
	free(digits);
	return seconds;
}

static int drop_old(const struct options *o)
{
	long long older_s = seconds_of(o->older_than);
	const json_t *message;
	struct reply r;
	char **keys;
	size_t i;
	int status, n = 0;

	if (older_s < 0) {
		fputs("mailpollctl: --older-than takes a duration such as 30d or 12h\n", stderr);
		return EX_USAGE;
	}
	if ((status = ask_list(o, &r)) != EX_OK)
		return status;
	keys = xcalloc(json_array_size(json_object_get(r.json, "messages")), sizeof(*keys));
	json_array_foreach(json_object_get(r.json, "messages"), i, message) {
		const char *at = string_of(message, "quarantined_at"), *key = string_of(message, "key");
		struct tm tm = { 0 };

		if (at == NULL || key == NULL || strptime(at, "%Y-%m-%dT%H:%M:%SZ", &tm) == NULL || time(NULL) - timegm(&tm) < older_s)
			continue;
		keys[n++] = xstrdup(key);
	}
	reply_done(&r);
	if (n == 0)
		puts("nothing in quarantine is that old");
	status = act_on_all(o, "drop", keys, n, "is dropped");
	while (n > 0)
		free(keys[--n]);
	free(keys);
	return status;
}

int run_quarantine(const struct options *o, char **arguments, int n)
{
	const char *verb = arguments[0];

	if (o->json && strcmp(verb, "list") != 0)
		return -1;
	if (o->older_than != NULL)
		return strcmp(verb, "drop") == 0 && n == 1 ? drop_old(o) : -1;
	if (strcmp(verb, "list") == 0 && n == 1)
		return list(o);
	if (strcmp(verb, "show") == 0 && n == 2)
		return show(o, arguments[1]);
	if (strcmp(verb, "retry") == 0 && n > 1)
		return act_on_all(o, "retry", arguments + 1, n - 1, "is delivered");
	if (strcmp(verb, "drop") == 0 && n > 1)
		return act_on_all(o, "drop", arguments + 1, n - 1, "is dropped");
	return -1;
}
