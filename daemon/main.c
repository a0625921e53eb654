/* main.c - reads the arguments, builds the modules bottom up, runs, takes them down top down. */
#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include "config.h"
#include "control.h"
#include "doctor.h"
#include "fleet.h"
#include "health.h"
#include "log.h"
#include "metrics.h"
#include "token_cache.h"
#include "util.h"
#include "workers.h"

/* What bodies on their way to a file take of the heap comes and goes: giving it back each time costs a page fault for each of their
 * pages, more than all else that is done with them. */
#define HEAP_KEPT_BYTES (2 * 1024 * 1024)
#define STOP_AT_MOST_MS 9000		/* of the 10 s promised */

struct daemon {
	struct event_base *base;
	struct workers *workers;
	struct fleet *fleet;
	struct health *health;
	struct control *control;
	struct metrics *metrics;
	struct event *signals[3], *status_timer;
};

/* --- what systemd reads --- */

static void describe_tokens(struct fleet *fleet, char *text, size_t size)
{
	struct token_snapshot v[4];
	size_t n = fleet_tokens(fleet, v, ARRAY_LEN(v)), len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < n && i < ARRAY_LEN(v) && len < size; i++) {
		long long min = v[i].expires_wall_s != 0 ? (long long)(v[i].expires_wall_s - clock_wall_s()) / 60 : 0;

		if (v[i].state == TOKEN_FRESH || v[i].state == TOKEN_STALE)
			len += (size_t)snprintf(text + len, size - len, "; token %s %s for %lld min", v[i].credential, token_state_name(v[i].state), min);
		else if (v[i].state == TOKEN_FAILED)
			len += (size_t)snprintf(text + len, size - len, "; token %s failed", v[i].credential);
	}
}

static void tell_status(struct daemon *d)
{
	size_t watching = fleet_count(d->fleet, MAILBOX_WATCHING) + fleet_count(d->fleet, MAILBOX_SLEEPING);
	char tokens[256];

	describe_tokens(d->fleet, tokens, sizeof(tokens));
	health_status(d->health, "%zu mailboxes: %zu watching, %zu failing%s; %llu delivered", fleet_size(d->fleet), watching,
	    fleet_failing(d->fleet), tokens, (unsigned long long)fleet_delivered(d->fleet));
}

static void on_status_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	tell_status(arg);
}

/* --- events --- */

static void on_ready(void *arg)
{
	struct daemon *d = arg;
	struct timeval every = clock_interval(1000);

	log_write(LOG_LEVEL_INFO, EVENT_STARTED, NULL, NULL, 0, "mailpolld %s started with %zu mailboxes", MAILPOLLD_VERSION, fleet_size(d->fleet));
	health_ready(d->health);
	event_add(d->status_timer, &every);
}

static bool is_alive(void *arg)
{
	return fleet_is_alive(((struct daemon *)arg)->fleet);
}

static void on_stopped(void *arg)
{
	static const struct timeval soon = { 0, 50000 };	/* not at once: what was answered last still goes out, also on a busy machine */

	event_base_loopexit(((struct daemon *)arg)->base, &soon);
}

static void on_stop_signal(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;

	(void)what;
	log_info(NULL, "signal %d: stopping", (int)fd);
	event_del(d->status_timer);		/* mailboxes that stop are none of those it counts */
	health_stopping(d->health);
	fleet_stop(d->fleet, STOP_AT_MOST_MS, on_stopped, d);
}

static bool take_config(void *arg, const struct config *config, char *ret_error, size_t size)
{
	return metrics_follow(((struct daemon *)arg)->metrics, config, ret_error, size);
}

static void on_hangup(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	control_reload(((struct daemon *)arg)->control);
}

/* --- life --- */

static void add_signal(struct daemon *d, size_t i, int signal, event_callback_fn callback)
{
	d->signals[i] = evsignal_new(d->base, signal, callback, d);
	event_add(d->signals[i], NULL);
}

/* Until its handler is there, which may be minutes after the first line of the configuration was read, a wish for a reload would end the
 * process: it waits. Who is started meanwhile has a mask of its own (workers.c, log.c, sink_command.c). */
static void let_hangups_wait(bool wait)
{
	sigset_t hangup;

	sigemptyset(&hangup);
	sigaddset(&hangup, SIGHUP);
	pthread_sigmask(wait ? SIG_BLOCK : SIG_UNBLOCK, &hangup, NULL);
}

/* As many connections as the unit allows. */
static void limit_process(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	signal(SIGPIPE, SIG_IGN);
}

/* The unit leaves a mark when its watchdog has ended the daemon (ExecStopPost=). */
static bool was_ended_by_watchdog(void)
{
	const char *dir = getenv("STATE_DIRECTORY");
	char *mark = dir != NULL ? xasprintf("%s/ended-by-watchdog", dir) : NULL;
	bool was = mark != NULL && unlink(mark) == 0;

	free(mark);
	if (was)
		log_write(LOG_LEVEL_WARNING, EVENT_WATCHDOG, NULL, NULL, 0, "the watchdog has ended the run before this one: it stood still, or a disk did");
	return was;
}

static int daemon_init(struct daemon *d, struct config *config)
{
	char error[512];
	char *socket_path = xstrdup(config->control_socket);

	d->base = event_base_new();
	d->workers = workers_new(d->base);
	d->fleet = fleet_new(d->base, d->workers, config, error, sizeof(error));
	if (d->fleet != NULL) {
		d->health = health_new(d->base, d->workers, is_alive, d);
		health_set_counters(d->health, fleet_counters(d->fleet));
		d->control = control_new(d->base, d->fleet, d->health, socket_path, error, sizeof(error));
	}
	free(socket_path);
	if (d->control != NULL)
		d->metrics = metrics_new(d->base, d->fleet, was_ended_by_watchdog(), error, sizeof(error));
	if (d->metrics == NULL) {
		log_write(LOG_LEVEL_ERROR, EVENT_START_FAILED, NULL, NULL, 0, "cannot start: %s", error);
		return -1;
	}
	fleet_set_taker(d->fleet, take_config, d);
	add_signal(d, 0, SIGTERM, on_stop_signal);
	add_signal(d, 1, SIGINT, on_stop_signal);
	add_signal(d, 2, SIGHUP, on_hangup);
	let_hangups_wait(false);
	d->status_timer = event_new(d->base, -1, EV_PERSIST, on_status_timer, d);
	return 0;
}

static void daemon_done(struct daemon *d)
{
	for (size_t i = 0; i < ARRAY_LEN(d->signals); i++)
		if (d->signals[i] != NULL)
			event_free(d->signals[i]);
	if (d->status_timer != NULL)
		event_free(d->status_timer);
	metrics_free(&d->metrics);
	control_free(&d->control);
	health_free(&d->health);
	if (workers_free(&d->workers, 500))	/* else what a job that is stuck still uses goes with the process */
		fleet_free(&d->fleet);
	event_base_free(d->base);
}

static int run(struct config *config)
{
	static struct daemon d;
	int status = EX_OSERR;

	limit_process();
	log_set_level(config->log_level);
	log_start();
	curl_global_init(CURL_GLOBAL_DEFAULT);
	if (daemon_init(&d, config) == 0) {
		fleet_start(d.fleet, on_ready, &d);
		event_base_dispatch(d.base);
		log_write(LOG_LEVEL_INFO, EVENT_STOPPED, NULL, NULL, 0, "mailpolld stopped");
		status = EX_OK;
	}
	daemon_done(&d);
	curl_global_cleanup();
	log_stop();
	return status;
}

/* --- arguments --- */

static void usage(FILE *to)
{
	fprintf(to, "usage: mailpolld [-c FILE]\n"
	    "       mailpolld [-c FILE] check [--strict]\n"
	    "       mailpolld [-c FILE] doctor [--json] [ADDRESS...]\n"
	    "       mailpolld --version | --help\n"
	    "FILE is %s unless given; see mailpolld(8) and mailpolld.yaml(5).\n", CONFIG_DEFAULT_FILE);
}

static void print_messages(const char *kind, const struct config_messages *messages)
{
	for (size_t i = 0; i < messages->n; i++)
		fprintf(stderr, "%s%s\n", kind, messages->v[i]);
}

static int check(const char *path, bool strict)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *config;
	bool good;

	if (strcmp(path, CONFIG_DEFAULT_FILE) == 0)
		config_assume_unit();
	config = config_load(path, &errors, &warnings);
	good = config != NULL && !(strict && warnings.n > 0);

	print_messages("", &errors);
	print_messages(strict ? "" : "warning: ", &warnings);
	for (size_t i = 0; good && i < config->n_credentials; i++)
		printf("credential %s: a restart reaches the last mailbox after about %lld s\n", config->credentials[i]->name,
		    (long long)config_restart_ms(config, config->credentials[i]) / 1000);
	if (good)
		printf("%s: good; %zu mailboxes, %zu credentials\n", path, config->n_mailboxes, config->n_credentials);
	else
		fprintf(stderr, "%s: %zu errors\n", path, errors.n + (strict ? warnings.n : 0));
	config_messages_done(&errors);
	config_messages_done(&warnings);
	config_free(&config);
	return good ? EX_OK : EX_CONFIG;
}

/* The journal looks at who wrote a line when it reads it: of one who is gone by then it does not know the unit, so journalctl -u would
 * not say why the daemon does not start. */
static int not_started(int status)
{
	static const struct timespec second = { 1, 0 };

	if (log_detect_target() == LOG_TO_JOURNAL)
		nanosleep(&second, NULL);
	return status;
}

static int load_and_run(const char *path)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *config;
	int status;

	let_hangups_wait(true);
	config = config_load(path, &errors, &warnings);
	status = config_may_pass(&errors) ? EX_OSERR : EX_CONFIG;	/* after EX_CONFIG the unit lets it rest */
	log_set_target(log_detect_target());
	for (size_t i = 0; i < errors.n; i++)
		log_write(LOG_LEVEL_ERROR, EVENT_START_FAILED, NULL, NULL, 0, "%s", errors.v[i]);
	for (size_t i = 0; i < warnings.n; i++)
		log_write(LOG_LEVEL_WARNING, EVENT_CONFIG_DOUBTFUL, NULL, NULL, 0, "%s", warnings.v[i]);
	config_messages_done(&errors);
	config_messages_done(&warnings);
	if (config != NULL)
		status = run(config);
	return status == EX_OK ? status : not_started(status);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' }, { "strict", no_argument, NULL, 's' }, { "json", no_argument, NULL, 'j' }, { "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' }, { NULL, 0, NULL, 0 },
	};
	const char *path = CONFIG_DEFAULT_FILE;
	bool strict = false, json = false;
	int option;

	while ((option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			path = optarg;
			break;
		case 's':
			strict = true;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			usage(stdout);
			return EX_OK;
		case 'V':
			printf("mailpolld %s\n", MAILPOLLD_VERSION);
			return EX_OK;
		default:
			usage(stderr);
			return EX_USAGE;
		}
	}
	prctl(PR_SET_DUMPABLE, 0);		/* no secret in a core file */
	signal(SIGCHLD, SIG_DFL);		/* a parent may hand it on ignored: then nobody is told how children end */
	mallopt(M_TRIM_THRESHOLD, HEAP_KEPT_BYTES);
	if (optind == argc && !strict && !json)
		return load_and_run(path);
	if (optind == argc - 1 && strcmp(argv[optind], "check") == 0 && !json)
		return check(path, strict);
	if (optind < argc && strcmp(argv[optind], "doctor") == 0 && !strict)
		return doctor_run(&(struct doctor_options){ .path = path, .json = json, .addresses = argv + optind + 1,
		    .n_addresses = (size_t)(argc - optind - 1) });
	usage(stderr);
	return EX_USAGE;
}
