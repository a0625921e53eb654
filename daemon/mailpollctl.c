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
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include "mailpollctl_private.h"
#include "util.h"

#define DEFAULT_SOCKET "/run/mailpolld/control"
#define WATCH_EVERY_S 2

struct command {
	const char *name;
	int (*run)(const struct options *, const char *address);
	bool takes_address, needs_address, takes_flags, needs_since;
};

/* --- commands --- */

/* Stands for several? No address has these. */
static bool is_pattern(const char *address)
{
	return address != NULL && strpbrk(address, "*?") != NULL;
}

static int show_reply(FILE *to, const struct options *o, const struct reply *r, const char *address)
{
	const json_t *mailboxes = json_object_get(r->json, "mailboxes");

	if (r->status != 200)
		return complain_refused(o, NULL, r);
	if (is_pattern(address) && !o->failing && json_array_size(mailboxes) == 0) {
		fprintf(o->complaints, "mailpollctl: no mailbox is like %s\n", address);
		return EX_NOUSER;
	}
	if (o->json) {
		json_dumpf(r->json, to, JSON_INDENT(2) | JSON_ENSURE_ASCII);
		fputc('\n', to);
	} else if (address != NULL && !is_pattern(address)) {
		show_mailbox(to, json_array_get(mailboxes, 0));
	} else {
		show_status(to, r->json);
		if (o->failing && json_array_size(mailboxes) == 0)
			fputs("\nno mailbox fails\n", to);
	}
	return EX_OK;
}

static int status_once(FILE *to, const struct options *o, const char *address)
{
	const char *failing = o->failing ? "&failing=1" : "";
	struct reply r;
	int status = address != NULL && !is_pattern(address) ? ask(o, false, "/mailboxes/", address, "", &r) :
	    ask(o, false, "/status?match=", address != NULL ? address : "*", failing, &r);

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

/* Over the page before, as much as the terminal holds; what fails stands first. Lines longer than the terminal is wide are cut by it. */
static void put_page(const char *text)
{
	struct winsize window;
	size_t rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 2 ? window.ws_row - 2U : SIZE_MAX;

	fputs("\033[?7l\033[H", stdout);
	for (size_t i = 0; i < rows && *text != '\0'; i++) {
		size_t len = strcspn(text, "\n");

		printf("%.*s\033[K\n", (int)len, text);
		text += len + (text[len] == '\n');
	}
	printf("%s\033[J\033[?7h", *text != '\0' ? "... (`mailpollctl status` shows all of it)" : "");
}

/* A daemon that is restarted meanwhile is waited for. */
static int status_watch(const struct options *given, const char *address)
{
	struct sigaction action = { .sa_handler = on_interrupt };	/* without SA_RESTART: sleep ends at once */
	struct options o = *given;
	bool is_terminal = isatty(STDOUT_FILENO) == 1;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	for (bool first = true; !interrupted; first = false) {
		char *text = NULL;
		size_t len = 0;
		FILE *page = open_memstream(&text, &len);
		int status;

		if (page == NULL)
			abort();		/* no memory, as everywhere */
		o.complaints = first ? stderr : page;
		status = status_once(page, &o, address);
		fclose(page);
		if (status != EX_OK && first) {
			free(text);
			return status;
		}
		if (is_terminal)
			put_page(text);
		else
			printf("%s\n", text);
		free(text);
		if (fflush(stdout) != 0)
			return EX_IOERR;
		if (!interrupted)
			sleep(WATCH_EVERY_S);
	}
	if (is_terminal)
		fputc('\n', stdout);
	return EX_OK;
}

static int run_status(const struct options *o, const char *address)
{
	return o->watch ? status_watch(o, address) : status_once(stdout, o, address);
}

/* A verb for one mailbox, or for all like a pattern. */
struct verb { const char *name, *said /* of one */, *said_of_many; bool needs_session; };

static int say_paused(const char *who, const char *are)
{
	put_clean(stderr, who);
	fprintf(stderr, " %s paused; `mailpollctl resume` comes first\n", are);
	return EXIT_FAILURE;
}

static int say_done_to_one(const struct verb *verb, json_t *answer)
{
	const char *address = string_of(answer, "address");

	if (verb->needs_session && json_is_true(json_object_get(answer, "paused")))
		return say_paused(address, "is");
	put_clean(stdout, address);
	printf(" %s\n", verb->said);
	return EX_OK;
}

static int say_done_to_many(const struct verb *verb, json_t *answer, const char *pattern)
{
	long long paused = verb->needs_session ? number_of(answer, "paused") : 0, n = number_of(answer, "mailboxes") - paused;

	if (n == 0)
		return say_paused(pattern, "are all");
	printf("%lld mailbox%s %s%s\n", n, n == 1 ? "" : "es", n == 1 ? verb->said : verb->said_of_many, paused > 0 ? "; the others are paused" : "");
	return EX_OK;
}

static int run_verb(const struct options *o, const struct verb *verb, const char *who)
{
	char *after = xasprintf("/%s", verb->name);
	struct reply r;
	int status = ask(o, true, "/mailboxes/", who, after, &r);

	free(after);
	if (status != EX_OK)
		return status;
	if (r.status != 200)
		status = complain_refused(o, NULL, &r);
	else if (json_object_get(r.json, "address") != NULL)
		status = say_done_to_one(verb, r.json);
	else
		status = say_done_to_many(verb, r.json, who);
	reply_done(&r);
	return status;
}

static int run_poll(const struct options *o, const char *who)
{
	static const struct verb verb = { "poll", "is being looked at", "are being looked at", true };

	return run_verb(o, &verb, who);
}

static int run_pause(const struct options *o, const char *who)
{
	static const struct verb verb = { "pause", "is paused until it is resumed", "are paused until they are resumed", false };

	return run_verb(o, &verb, who);
}

static int run_resume(const struct options *o, const char *who)
{
	static const struct verb verb = { "resume", "goes on", "go on", false };

	return run_verb(o, &verb, who);
}

static int run_resync(const struct options *o, const char *address)
{
	char *since = percent_encode(o->since, ""), *name = xasprintf("resync?since=%s", since);
	struct verb verb = { name, "delivers once more what came since then", NULL, false };
	int status = run_verb(o, &verb, address);

	free(since);
	free(name);
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
		status = complain_refused(o, NULL, &r);
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

	if (status == EX_OK && access(path, F_OK) < 0 && errno == ENOENT) {	/* PrivateTmp= of the unit: it goes when the daemon stops */
		fflush(stdout);
		fputs("mailpollctl: but it is not to be seen from here: the daemon has another directory of that name (/tmp and /var/tmp are its own); "
		    "name another place, such as one in its state directory\n", stderr);
		status = EX_CANTCREAT;
	}
	free(here);
	free(path);
	return status;
}

static int run_log_level(const struct options *o, const char *level)
{
	return run_other_verb(o, "/log-level?level=", level, ": logged from now on, until the next start or reload");
}

static void put_lines(FILE *to, const char *before, const json_t *lines)
{
	const json_t *line;
	size_t i;

	json_array_foreach(lines, i, line) {
		fputs(before, to);
		put_clean(to, json_string_value(line));
		fputc('\n', to);
	}
}

static int complain_not_reloaded(const struct options *o, const struct reply *r)
{
	const json_t *errors = json_object_get(r->json, "errors");

	if (errors == NULL)
		return complain_refused(o, NULL, r);
	put_lines(stderr, "", errors);
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
	if (r.status == 200) {
		put_lines(stderr, "warning: ", json_object_get(r.json, "warnings"));
		printf("reloaded: %lld mailboxes added, %lld removed, %lld changed, %lld unchanged\n", number_of(r.json, "added"),
		    number_of(r.json, "removed"), number_of(r.json, "changed"), number_of(r.json, "kept"));
	} else {
		status = complain_not_reloaded(o, &r);
	}
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
	{ "trace", run_trace, true, true, false, false },
	{ "reload", run_reload, false, false, false, false },
};

static int usage(FILE *to, int status)
{
	fprintf(to, "usage: mailpollctl [-s SOCKET] status [ADDRESS | [PATTERN] [--failing]] [--json | --watch]\n"
	    "       mailpollctl [-s SOCKET] poll | pause | resume ADDRESS | PATTERN\n"
	    "       mailpollctl [-s SOCKET] trace ADDRESS\n"
	    "       mailpollctl [-s SOCKET] resync ADDRESS --since DATE\n"
	    "       mailpollctl [-s SOCKET] reload\n"
	    "       mailpollctl [-s SOCKET] forget ID | backup FILE | log-level LEVEL\n"
	    "       mailpollctl [-s SOCKET] quarantine list [--json] | show KEY | retry KEY... | drop KEY... | drop --older-than DURATION\n"
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

	if (n > 1 && strcmp(arguments[0], "quarantine") == 0 && !o->failing && !o->watch && o->since == NULL) {
		status = run_quarantine(o, arguments + 1, n - 1);
		return status < 0 ? usage(stderr, EX_USAGE) : status;
	}
	if (command == NULL || n > 2 || o->older_than != NULL || (address != NULL && !command->takes_address) || (address == NULL && command->needs_address) ||
	    (flags && !command->takes_flags) || (o->failing && address != NULL && !is_pattern(address)) || (o->json && o->watch) ||
	    (address != NULL && *address == '\0') || command->needs_since != (o->since != NULL))
		return usage(stderr, EX_USAGE);
	return command->run(o, address);
}

/* What was not written has not been said. */
static int finish(int status)
{
	bool written = fflush(stdout) == 0 && !ferror(stdout);

	return written || status != EX_OK ? status : EX_IOERR;
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "socket", required_argument, NULL, 's' }, { "failing", no_argument, NULL, 'f' }, { "json", no_argument, NULL, 'j' },
		{ "watch", no_argument, NULL, 'w' }, { "since", required_argument, NULL, 'S' },
		{ "older-than", required_argument, NULL, 'o' }, { "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	struct options o = { .socket = DEFAULT_SOCKET, .complaints = stderr };
	int option, status;

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
		case 'o':
			o.older_than = optarg;
			break;
		case 'S':
			o.since = optarg;
			break;
		case 'h':
			return finish(usage(stdout, EX_OK));
		case 'V':
			printf("mailpollctl %s\n", MAILPOLLD_VERSION);
			return finish(EX_OK);
		default:
			return usage(stderr, EX_USAGE);
		}
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);
	status = run(&o, argv + optind, argc - optind);
	curl_global_cleanup();
	return finish(status);
}
