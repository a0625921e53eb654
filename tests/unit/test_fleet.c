/* The fleet's watch over its mailboxes (promise 8), and its verdict on them: real mailboxes whose tokens come at once and whose sessions,
 * of clay, never get anywhere; some do not even end when they are told to. The clock runs a thousand times too fast. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config.h"
#include "counters.h"
#include "fleet.h"
#include "imap_session.h"
#include "log.h"
#include "token_cache.h"
#include "util.h"
#include "workers.h"
#define RATE 1000
#include "fast_clock.h"

#define SIGN_IN_LIMIT_MS (5 * 60 * 1000)	/* mailbox_session.c's */
#define CHECK_MS 15000			/* fleet.c's */
#define SLACK_MS 500000			/* half a second of a busy machine */
#define TOKENS_MAX 300
#define A_WHILE_MS (30 * 60 * 1000)

static struct {
	char dir[64];
	struct event_base *base;
	struct workers *workers;
	struct fleet *fleet;
	bool stubborn;			/* the session goes on when it is abandoned */
	const struct imap_session_ops *ops;
	void *arg;			/* of ops; NULL: there is no session */
	unsigned sessions;
	bool (*awaited)(void);
	msec_t before_ms;		/* it was not so yet */
	bool dead;			/* the watchdog was not fed at some moment */
	msec_t until_ms;		/* what is awaited is that time */
	bool reloaded;
	size_t n_tokens, failed_from;	/* of the credentials the verdict sees, those from there on */
} w;

/* --- in place of token_cache.c and imap_session.c --- */

static char token_clay, session_clay;

struct asker { token_cb *cb; void *arg; };

static void give_token(evutil_socket_t fd, short what, void *arg)
{
	struct asker *a = arg;
	msec_t now_ms = clock_now_ms();
	struct token token = { .text = "t", .serial = 1, .renew_ms = now_ms + 3600000, .margin_ms = now_ms + 6900000, .expires_ms = now_ms + 7200000 };

	(void)fd, (void)what;
	a->cb(a->arg, &token, NULL);
	free(a);
}

struct token_request *__wrap_token_get(struct token_cache *cache, const char *credential, const char *subject, token_cb *cb, void *arg);
struct token_request *__wrap_token_get(struct token_cache *cache, const char *credential, const char *subject, token_cb *cb, void *arg)
{
	struct asker *a = xcalloc(1, sizeof(*a));

	(void)cache, (void)credential, (void)subject;
	*a = (struct asker){ cb, arg };
	event_base_once(w.base, -1, EV_TIMEOUT, give_token, a, NULL);
	return (struct token_request *)(void *)&token_clay;
}

void __wrap_token_cancel(struct token_request **request);
void __wrap_token_cancel(struct token_request **request)
{
	*request = NULL;
}

size_t __wrap_token_cache_snapshot(struct token_cache *cache, struct token_snapshot *ret_v, size_t room);
size_t __wrap_token_cache_snapshot(struct token_cache *cache, struct token_snapshot *ret_v, size_t room)
{
	static char names[TOKENS_MAX][24];

	(void)cache;
	for (size_t i = 0; i < w.n_tokens && i < room; i++) {
		snprintf(names[i], sizeof(names[i]), "c%zu", i);
		ret_v[i] = (struct token_snapshot){ .credential = names[i], .state = i >= w.failed_from ? TOKEN_FAILED : TOKEN_FRESH,
		    .failure = { .text = "no" } };
	}
	return w.n_tokens;
}

struct imap_session *__wrap_imap_session_new(struct event_base *base, struct dialer *dialer, struct tls *tls, const struct imap_session_conf *conf,
    const struct imap_session_ops *ops, void *arg);
struct imap_session *__wrap_imap_session_new(struct event_base *base, struct dialer *dialer, struct tls *tls, const struct imap_session_conf *conf,
    const struct imap_session_ops *ops, void *arg)
{
	(void)base, (void)dialer, (void)tls, (void)conf;
	w.ops = ops;
	w.arg = arg;
	w.sessions++;
	return (struct imap_session *)(void *)&session_clay;
}

void __wrap_imap_session_free(struct imap_session **session);
void __wrap_imap_session_free(struct imap_session **session)
{
	if (*session != NULL)
		w.arg = NULL;
	*session = NULL;
}

static void end_session(evutil_socket_t fd, short what, void *arg)
{
	static const struct failure none;

	(void)fd, (void)what, (void)arg;
	w.ops->on_end(w.arg, &none);
}

void __wrap_imap_session_abandon(struct imap_session *session);
void __wrap_imap_session_abandon(struct imap_session *session)
{
	(void)session;
	if (!w.stubborn)
		event_base_once(w.base, -1, EV_TIMEOUT, end_session, NULL, NULL);
}

/* --- the scene --- */

static void on_ready(void *arg)
{
	(void)arg;
}

static void write_config(const char *path, const char *mailboxes)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fprintf(f, "log_level: error\nstate_dir: %s\ncontrol_socket: %s/control\n"
	    "credentials: {c: {tenant: t.example, client_id: 05cd6963-0000-0000-0000-000000000000, client_secret_file: secret}}\n"
	    "defaults: {credential: c, deliver: {maildir: \"%s/mail\"}}\nmailboxes: [%s]\n", w.dir, w.dir, w.dir, mailboxes);
	fclose(f);
}

static int setup_with(const char *mailboxes)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	char path[128], error[256] = "";
	struct config *config;

	memset(&w, 0, sizeof(w));
	strcpy(w.dir, "/tmp/test_fleet.XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	snprintf(path, sizeof(path), "%s/mailpolld.yaml", w.dir);
	write_config(path, mailboxes);
	config = config_load(path, &errors, &warnings);
	assert_non_null(config);
	config->log_level = LOG_LEVEL_NONE;
	config_messages_done(&warnings);
	w.base = event_base_new();
	w.workers = workers_new(w.base);
	w.fleet = fleet_new(w.base, w.workers, config, error, sizeof(error));
	assert_string_equal(error, "");
	fleet_start(w.fleet, on_ready, NULL);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_with("a@t.example");
}

/* The first one's id is the other's address. */
static int setup_of_two(void **state)
{
	(void)state;
	return setup_with("{address: a@t.example, id: b@t.example}, {address: b@t.example, id: c}");
}

static int teardown(void **state)
{
	char *command = xasprintf("rm -rf %s", w.dir);

	(void)state;
	workers_free(&w.workers, 5000);
	fleet_free(&w.fleet);
	event_base_free(w.base);
	assert_int_equal(system(command), 0);
	free(command);
	return 0;
}

static void look(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what, (void)arg;
	w.dead = w.dead || !fleet_is_alive(w.fleet);
	if (w.awaited())
		event_base_loopbreak(w.base);
	else
		w.before_ms = clock_now_ms();
}

static void wait_until(bool (*awaited)(void))
{
	struct event *timer = event_new(w.base, -1, EV_PERSIST, look, NULL);
	struct timeval each = { 0, 1000 };

	w.awaited = awaited;
	w.before_ms = clock_now_ms();
	event_add(timer, &each);
	event_base_dispatch(w.base);
	event_free(timer);
}

static bool has_session(void)
{
	return w.arg != NULL;
}

static bool was_torn_down(void)
{
	return fleet_counters(w.fleet)->stalls > 0;
}

static bool is_alive(void)
{
	return fleet_is_alive(w.fleet);
}

static bool is_dead(void)
{
	return !is_alive();
}

static bool has_second_session(void)
{
	return w.sessions == 2;
}

static bool fails(void)
{
	return fleet_failing(w.fleet) > 0;
}

static bool does_not_fail(void)
{
	return fleet_failing(w.fleet) == 0;
}

static bool is_reloaded(void)
{
	return w.reloaded;
}

static void on_reloaded(void *arg, const struct reload_outcome *outcome)
{
	(void)arg;
	assert_true(outcome->ok);
	w.reloaded = true;
}

static void reload(const char *mailboxes)
{
	w.reloaded = false;
	write_config(fleet_config(w.fleet)->path, mailboxes);
	fleet_reload(w.fleet, on_reloaded, NULL);
	wait_until(is_reloaded);
}

static bool is_then(void)
{
	return clock_now_ms() >= w.until_ms;
}

static void wait_a_while(void)
{
	w.until_ms = clock_now_ms() + A_WHILE_MS;
	wait_until(is_then);
}

/* That all mailboxes fail is the first of the reasons: its time. */
static int64_t down_since_s(void)
{
	struct health_reason reasons[HEALTH_REASONS_MAX];
	size_t n;

	assert_int_equal(fleet_health(w.fleet, reasons, ARRAY_LEN(reasons), &n), HEALTH_DOWN);
	assert_true(n > 0);
	assert_string_equal(reasons[0].what, "mailboxes");
	return reasons[0].since_wall_s;
}

/* --- tests --- */

/* Torn down, counted, told, started anew: and the watchdog was fed all the time. */
static void test_past_its_deadline(void **state)
{
	struct mailbox_snapshot m;
	msec_t begun_ms, taken_ms;

	(void)state;
	wait_until(has_session);
	begun_ms = w.before_ms;
	wait_until(was_torn_down);
	taken_ms = clock_now_ms() - begun_ms;
	assert_in_range(taken_ms, SIGN_IN_LIMIT_MS, SIGN_IN_LIMIT_MS + CHECK_MS + SLACK_MS);
	wait_until(has_second_session);
	mailbox_snapshot(fleet_mailbox(w.fleet, 0), &m);
	assert_int_equal(m.failures, 1);
	assert_non_null(m.failure);
	assert_string_equal(m.failure->name, "stuck");
	assert_int_equal(fleet_counters(w.fleet)->stalls, 1);
	assert_false(w.dead);
}

/* Still there a minute after it was torn down: only now, and until it moves, the watchdog is not fed. */
static void test_still_there_a_minute_later(void **state)
{
	msec_t torn_ms, taken_ms;

	(void)state;
	w.stubborn = true;
	wait_until(was_torn_down);
	torn_ms = w.before_ms;
	assert_false(w.dead);
	wait_until(is_dead);
	taken_ms = clock_now_ms() - torn_ms;
	assert_in_range(taken_ms, 60000, 60000 + CHECK_MS + SLACK_MS);
	assert_int_equal(fleet_counters(w.fleet)->stalls, 1);
	assert_int_equal(w.sessions, 1);

	end_session(-1, 0, NULL);
	wait_until(is_alive);
	w.dead = false;
	wait_until(has_second_session);
	assert_false(w.dead);
}

/* Whoever asks, and when: since it began, and not before it was over the last time. */
static void test_since(void **state)
{
	int64_t first_s, second_s;
	size_t paused;

	(void)state;
	wait_until(fails);
	first_s = clock_wall_s();
	wait_a_while();
	assert_in_range(down_since_s(), first_s - SLACK_MS / 1000, first_s + (CHECK_MS + SLACK_MS) / 1000);

	assert_int_equal(fleet_pause(w.fleet, "a@t.example", &paused, NULL, NULL), 1);
	wait_a_while();
	second_s = clock_wall_s();
	assert_int_equal(fleet_resume(w.fleet, "a@t.example", &paused, NULL, NULL), 1);
	wait_until(fails);
	assert_true(down_since_s() >= second_s);
}

/* As many as there are; and what matters most is among the reasons, which are not as many. */
static void test_many_credentials(void **state)
{
	struct health_reason reasons[HEALTH_REASONS_MAX];
	bool told = false;
	size_t n;

	(void)state;
	w.n_tokens = TOKENS_MAX;
	w.failed_from = TOKENS_MAX - 1;
	assert_int_not_equal(fleet_health(w.fleet, reasons, ARRAY_LEN(reasons), &n), HEALTH_OK);
	for (size_t i = 0; i < n; i++)		/* beside a disk that is slow for this clock */
		told = told || strcmp(reasons[i].name, "c299") == 0;
	assert_true(told);
	w.failed_from = 0;
	wait_until(fails);
	assert_int_equal(fleet_health(w.fleet, reasons, ARRAY_LEN(reasons), &n), HEALTH_DOWN);
	assert_int_equal(n, HEALTH_REASONS_MAX);
	assert_string_equal(reasons[0].what, "mailboxes");
}

/* It waits for the one before it, and says so; whoever takes its place goes on waiting. */
static void test_changed_while_the_old_one_does_not_stop(void **state)
{
	struct mailbox_snapshot m;
	msec_t asked_ms;

	(void)state;
	wait_until(has_session);
	w.stubborn = true;
	reload("{address: a@t.example, interval: 8m}");
	assert_int_equal(fleet_failing(w.fleet), 0);
	asked_ms = clock_now_ms();
	reload("{address: a@t.example, interval: 7m}");
	wait_until(fails);
	assert_true(clock_now_ms() - asked_ms >= 30000);
	mailbox_snapshot(fleet_mailbox(w.fleet, 0), &m);
	assert_int_equal(m.state, MAILBOX_QUEUED);
	assert_string_equal(m.failure->name, "waits-for-old");
	assert_in_range(m.failing_since_wall_s, clock_wall_s() - (clock_now_ms() - asked_ms) / 1000 - 1, clock_wall_s() - 29);
	assert_int_equal(w.sessions, 1);

	w.stubborn = false;
	end_session(-1, 0, NULL);
	wait_until(does_not_fail);
	wait_until(has_second_session);
	assert_int_equal(fleet_failing(w.fleet), 0);
}

static void test_address_before_id(void **state)
{
	(void)state;
	assert_string_equal(mailbox_conf(fleet_find(w.fleet, "b@t.example"))->address, "b@t.example");
	assert_string_equal(mailbox_conf(fleet_find(w.fleet, "B@T.example"))->address, "b@t.example");
	assert_string_equal(mailbox_conf(fleet_find(w.fleet, "c"))->address, "b@t.example");
	assert_string_equal(mailbox_conf(fleet_find(w.fleet, "a@t.example"))->address, "a@t.example");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_past_its_deadline), TEST(test_still_there_a_minute_later), TEST(test_since), TEST(test_many_credentials),
		TEST(test_changed_while_the_old_one_does_not_stop), cmocka_unit_test_setup_teardown(test_address_before_id, setup_of_two, teardown) };

	alarm(60);			/* what is awaited may never come */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
