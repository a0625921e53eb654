/* A fleet made of tables; what /status would say of it is read back with Jansson. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "admission.h"
#include "config.h"
#include "fleet.h"
#include "status_json.h"
#include "token_cache.h"
#include "util.h"

#define T0 1769853600			/* 2026-01-31T10:00:00Z */

struct mailbox {
	struct mailbox_snapshot now;
	const struct folder_snapshot *folders;
};
struct fleet {
	const char *config_error;
	enum health_level health;
	size_t n_reasons, n_sinks, n_tokens;
};

static const struct failure no_access = { .fail = FAIL_ADMIN, .name = "no-access", .text = "User is authenticated but not connected.",
	.hint = "Grant the application access to the mailbox." };
static const struct failure nameless = { .fail = FAIL_WAIT, .name = "odd" };

/* --- the fleet --- */

size_t fleet_size(const struct fleet *f)
{
	(void)f;
	return 1240;
}

size_t fleet_count(const struct fleet *f, enum mailbox_state state)
{
	(void)f;
	return state == MAILBOX_WATCHING ? 1238 : state == MAILBOX_BACKING_OFF ? 2 : 0;
}

uint64_t fleet_delivered(const struct fleet *f)
{
	(void)f;
	return 12034;
}

size_t fleet_failing(struct fleet *f)
{
	(void)f;
	return 2;
}

int64_t fleet_config_loaded_wall_s(const struct fleet *f)
{
	(void)f;
	return T0 + 1;
}

const char *fleet_config_error(const struct fleet *f)
{
	return f->config_error;
}

const char *health_name(enum health_level health)
{
	return health == HEALTH_DEGRADED ? "degraded" : "ok";
}

enum health_level fleet_health(struct fleet *f, struct health_reason *ret_v, size_t room, size_t *ret_n)
{
	for (size_t i = 0; i < f->n_reasons && i < room; i++)
		ret_v[i] = (struct health_reason){ "credential", "contoso", T0, "The secret has expired." };
	*ret_n = f->n_reasons;
	return f->health;
}

size_t fleet_sinks(const struct fleet *f, struct sink_snapshot *ret_v, size_t room)
{
	for (size_t i = 0; i < f->n_sinks && i < room; i++)
		ret_v[i] = (struct sink_snapshot){ .name = "maildir", .kind = "maildir", .target = "/srv/\xff%{address}", .delivered = UINT64_MAX,
			.failing = i == 1, .failure = i == 1 ? &no_access : NULL };
	return f->n_sinks;
}

void fleet_admission(const struct fleet *f, const char *credential, struct gate_snapshot *ret)
{
	(void)f;
	assert_string_equal(credential, "contoso");
	*ret = (struct gate_snapshot){ .seats = 20000, .waiting = 3, .sessions_per_second = 2.5, .slowed = true };
}

size_t fleet_tokens(struct fleet *f, struct token_snapshot *ret_v, size_t room)
{
	for (size_t i = 0; i < f->n_tokens && i < room; i++)
		ret_v[i] = (struct token_snapshot){ .credential = "contoso", .state = TOKEN_FRESH, .expires_wall_s = T0 + 3600, .refresh_wall_s = T0 + 1800, .requests = 3 };
	return f->n_tokens;
}

bool fleet_relogin_is_tight(const struct fleet *f, const struct token_snapshot *token, char *ret_hint, size_t size)
{
	(void)f;
	snprintf(ret_hint, size, "%s is tight", token->credential);
	return true;
}

const char *token_state_name(enum token_state state)
{
	return state == TOKEN_FRESH ? "fresh" : "?";
}

void fleet_store(const struct fleet *f, struct store_snapshot *ret)
{
	(void)f;
	*ret = (struct store_snapshot){ .last_commit_wall_s = T0 + 2, .spool_bytes = 4096 };
}

const char *mailbox_state_name(enum mailbox_state state)
{
	static const char *const names[MAILBOX_STATE_N] = { "queued", "waiting-token", "connecting", "authenticating", "syncing", "watching",
		"sleeping", "held", "backing-off", "paused" };

	return names[state];
}

void mailbox_snapshot(const struct mailbox *m, struct mailbox_snapshot *ret)
{
	*ret = m->now;
}

bool mailbox_given_up(const struct mailbox *m, size_t i, size_t n, uint32_t *ret_uid, int64_t *ret_since_wall_s, struct failure *ret_why)
{
	if (i != 0 || n >= m->folders[0].owed)
		return false;
	*ret_uid = 7;
	*ret_since_wall_s = T0;
	*ret_why = no_access;
	return true;
}

void mailbox_folder_snapshot(const struct mailbox *m, size_t i, struct folder_snapshot *ret)
{
	*ret = m->folders[i];
}

const struct mailbox_conf *mailbox_conf(const struct mailbox *m)
{
	static char name[] = "contoso", host[] = "imap.example", take[] = "/bin/take", key[] = "--key=x", done[] = "Done";
	static char *command[] = { take, key, NULL };
	static const struct credential_conf credential = { .name = name };
	static const struct sink_conf sink = { .kind = SINK_COMMAND, .command = command };
	static const struct mailbox_conf conf = { .credential = &credential, .host = host, .port = 993, .watch = WATCH_POLL,
		.interval_ms = 300000, .deliver = &sink, .after = AFTER_MOVE, .after_folder = done };

	(void)m;
	return &conf;
}

bool mailbox_is_paused(const struct mailbox *m)
{
	(void)m;
	return false;
}

const struct mailbox_error *mailbox_errors(const struct mailbox *m, size_t *ret_n)
{
	static const struct mailbox_error errors[] = { { "throttled", T0 + 5, T0 + 5, 1, "slow \"down\"" }, { "no-access", T0, T0 + 3, 4, "no" } };

	(void)m;
	*ret_n = 2;
	return errors;
}

/* --- the tests --- */

static json_t *parse(char *text)	/* takes text */
{
	json_error_t error;
	json_t *value = json_loads(text, JSON_REJECT_DUPLICATES, &error);

	if (value == NULL)
		fail_msg("%s in %s", error.text, text);
	free(text);
	return value;
}

static json_t *whole(struct fleet *f)
{
	char *opening = status_json_opening(f, "0.1.0", T0), *closing = status_json_closing(f, 7, 8);
	char *text = xasprintf("%s,\"mailboxes\":[],%s", opening, closing);

	free(opening);
	free(closing);
	return parse(text);
}

static const json_t *at(const json_t *value, const char *path)	/* "totals/failing", "sinks/0/name" */
{
	char *copy = xstrdup(path), *rest = copy, *key;
	uint32_t i;

	while ((key = strsep(&rest, "/")) != NULL)
		value = json_is_array(value) && parse_u32(key, &i) == 0 ? json_array_get(value, i) : json_object_get(value, key);
	free(copy);
	return value;
}

static void assert_text(const json_t *value, const char *path, const char *expected)
{
	if (expected == NULL)
		assert_true(json_is_null(at(value, path)));
	else
		assert_string_equal(json_string_value(at(value, path)), expected);
}

static void assert_number(const json_t *value, const char *path, long long expected)
{
	assert_true(json_is_integer(at(value, path)));
	assert_int_equal(json_integer_value(at(value, path)), expected);
}

static void test_whole(void **state)
{
	struct fleet f = { .health = HEALTH_DEGRADED, .n_reasons = 1, .n_sinks = 2, .n_tokens = 1 };
	json_t *status = whole(&f);

	(void)state;
	assert_number(status, "schema", 1);
	assert_text(status, "version", "0.1.0");
	assert_text(status, "started_at", "2026-01-31T10:00:00Z");
	assert_text(status, "config/loaded_at", "2026-01-31T10:00:01Z");
	assert_text(status, "config/error", NULL);
	assert_text(status, "health", "degraded");
	assert_text(status, "reasons/0/what", "credential");
	assert_text(status, "reasons/0/since", "2026-01-31T10:00:00Z");
	assert_text(status, "reasons/0/hint", "The secret has expired.");
	assert_number(status, "totals/watching", 1238);
	assert_number(status, "totals/backing-off", 2);
	assert_number(status, "totals/paused", 0);
	assert_number(status, "totals/failing", 2);
	assert_number(status, "totals/mailboxes", 1240);
	assert_text(status, "credentials/0/state", "fresh");
	assert_text(status, "credentials/0/expires_at", "2026-01-31T11:00:00Z");
	assert_text(status, "credentials/0/refresh_at", "2026-01-31T10:30:00Z");
	assert_number(status, "credentials/0/admission/waiting", 3);
	assert_text(status, "credentials/0/admission/hint", "contoso is tight");
	assert_true(json_is_true(at(status, "credentials/0/admission/slowed")));
	assert_text(status, "credentials/0/error", NULL);
	assert_text(status, "store/last_commit", "2026-01-31T10:00:02Z");
	assert_number(status, "store/spool_bytes", 4096);
	assert_number(status, "loop/lag_max_ms", 7);
	assert_number(status, "log_dropped", 8);
	json_decref(status);
}

static void test_every_state_is_counted(void **state)
{
	struct fleet f = { 0 };
	json_t *status = whole(&f);

	(void)state;
	for (int i = 0; i < MAILBOX_STATE_N; i++)
		assert_true(json_is_integer(json_object_get(at(status, "totals"), mailbox_state_name((enum mailbox_state)i))));
	assert_int_equal(json_array_size(at(status, "reasons")), 0);
	assert_int_equal(json_array_size(at(status, "sinks")), 0);
	assert_int_equal(json_array_size(at(status, "credentials")), 0);
	json_decref(status);
}

static void test_what_json_cannot_hold(void **state)
{
	struct fleet f = { .config_error = "a.yaml:1:1: no \xc3\x28 \"\n\tb", .n_sinks = 2 };
	json_t *status = whole(&f);

	(void)state;
	assert_text(status, "config/error", "a.yaml:1:1: no ?( \"??b");	/* not UTF-8: made printable as a whole */
	assert_text(status, "sinks/0/target", "/srv/?%{address}");
	assert_number(status, "sinks/0/delivered", INT64_MAX);
	assert_text(status, "sinks/0/error", NULL);
	assert_true(json_is_true(at(status, "sinks/1/failing")));
	assert_text(status, "sinks/1/hint", "Grant the application access to the mailbox.");
	json_decref(status);
}

static void test_more_reasons_than_room(void **state)
{
	struct fleet f = { .n_reasons = 1000 };
	json_t *status = whole(&f);

	(void)state;
	assert_int_equal(json_array_size(at(status, "reasons")), 64);
	json_decref(status);
}

static void test_mailbox(void **state)
{
	const struct folder_snapshot folders[] = {
		{ .name = "INBOX", .delivered = 5, .owed = 1, .after_owed = 2, .backlog = 3, .quarantined = 4, .oldest_owed_wall_s = T0,
		    .last_success_wall_s = T0 + 1, .last_delivery_wall_s = T0 + 2, .rebuilt_wall_s = T0, .rebuilt_known = 8, .rebuilt_new = 9 },
		{ .name = "Gel\xc3\xb6scht" },
	};
	struct mailbox m = { { .address = "a+b@contoso.com", .id = "a", .state = MAILBOX_BACKING_OFF, .since_wall_s = T0, .retry_at_wall_s = T0 + 60,
		.failure = &no_access, .failures = 7, .n_folders = 2 }, folders };
	json_t *mailbox = parse(status_json_mailbox(&m));

	(void)state;
	assert_text(mailbox, "address", "a+b@contoso.com");
	assert_text(mailbox, "id", "a");
	assert_text(mailbox, "state", "backing-off");
	assert_text(mailbox, "since", "2026-01-31T10:00:00Z");
	assert_text(mailbox, "failure", "no-access");
	assert_text(mailbox, "error", no_access.text);
	assert_text(mailbox, "hint", no_access.hint);
	assert_text(mailbox, "retry_at", "2026-01-31T10:01:00Z");
	assert_number(mailbox, "failures", 7);
	assert_text(mailbox, "folders/0/folder", "INBOX");
	assert_number(mailbox, "folders/0/delivered", 5);
	assert_number(mailbox, "folders/0/owed", 1);
	assert_number(mailbox, "folders/0/after_owed", 2);
	assert_number(mailbox, "folders/0/backlog", 3);
	assert_number(mailbox, "folders/0/quarantined", 4);
	assert_text(mailbox, "folders/0/oldest_owed_at", "2026-01-31T10:00:00Z");
	assert_text(mailbox, "folders/0/last_success", "2026-01-31T10:00:01Z");
	assert_text(mailbox, "folders/0/last_delivery", "2026-01-31T10:00:02Z");
	assert_text(mailbox, "folders/1/folder", "Gel\xc3\xb6scht");
	assert_text(mailbox, "folders/1/last_delivery", NULL);
	assert_number(mailbox, "folders/0/rebuilt/known", 8);
	assert_number(mailbox, "folders/0/rebuilt/new", 9);
	assert_true(json_is_null(at(mailbox, "folders/1/rebuilt")));
	assert_number(mailbox, "folders/0/unretrievable/0/uid", 7);
	assert_text(mailbox, "folders/0/unretrievable/0/hint", no_access.hint);
	assert_int_equal(json_array_size(at(mailbox, "folders/1/unretrievable")), 0);
	json_decref(mailbox);
}

static void test_whole_mailbox(void **state)
{
	struct mailbox m = { { .address = "a@b", .id = "a@b", .state = MAILBOX_WATCHING, .since_wall_s = T0 }, NULL };
	json_t *mailbox = parse(status_json_mailbox_whole(&m));

	(void)state;
	assert_text(mailbox, "address", "a@b");
	assert_text(mailbox, "settings/credential", "contoso");
	assert_text(mailbox, "settings/host", "imap.example");
	assert_number(mailbox, "settings/port", 993);
	assert_text(mailbox, "settings/watch", "poll");
	assert_number(mailbox, "settings/interval_s", 300);
	assert_text(mailbox, "settings/deliver/command", "/bin/take");	/* without arguments: one may be a secret */
	assert_text(mailbox, "settings/after", "move");
	assert_text(mailbox, "settings/after_folder", "Done");
	assert_int_equal(json_array_size(at(mailbox, "errors")), 2);
	assert_text(mailbox, "errors/0/failure", "throttled");
	assert_text(mailbox, "errors/0/error", "slow \"down\"");
	assert_text(mailbox, "errors/1/first_at", "2026-01-31T10:00:00Z");
	assert_text(mailbox, "errors/1/last_at", "2026-01-31T10:00:03Z");
	assert_number(mailbox, "errors/1/times", 4);
	json_decref(mailbox);
}

static void test_mailbox_without_failure(void **state)
{
	struct mailbox m = { { .address = "a@b", .id = "a@b", .state = MAILBOX_WATCHING, .since_wall_s = T0 }, NULL };
	json_t *mailbox = parse(status_json_mailbox(&m));

	(void)state;
	assert_text(mailbox, "error", NULL);
	assert_text(mailbox, "hint", NULL);
	assert_text(mailbox, "retry_at", NULL);
	assert_int_equal(json_array_size(at(mailbox, "folders")), 0);
	json_decref(mailbox);
}

static void test_a_failure_without_text_still_shows(void **state)
{
	struct mailbox m = { { .address = "a@b", .id = "a@b", .state = MAILBOX_BACKING_OFF, .failure = &nameless }, NULL };
	json_t *mailbox = parse(status_json_mailbox(&m));

	(void)state;
	assert_text(mailbox, "error", "odd");
	assert_text(mailbox, "hint", NULL);
	json_decref(mailbox);
}

static void test_answers_of_verbs(void **state)
{
	const struct reload_outcome good = { .ok = true, .added = 1, .removed = 2, .changed = 3, .kept = 4, .warnings = "a.yaml:5:6: z" };
	const struct reload_outcome bad = { .errors = "a.yaml:1:2: x\n\na.yaml:3:4: \"y\"\n" }, silent = { 0 };
	struct mailbox m = { { .address = "a@b", .id = "a", .state = MAILBOX_PAUSED }, NULL };
	json_t *answers[] = { parse(status_json_reload(&good)), parse(status_json_reload(&bad)), parse(status_json_reload(&silent)),
		parse(status_json_done(&m)), parse(status_json_error("No \"x\".")) };

	(void)state;
	assert_true(json_is_true(at(answers[0], "ok")));
	assert_number(answers[0], "added", 1);
	assert_number(answers[0], "removed", 2);
	assert_number(answers[0], "changed", 3);
	assert_number(answers[0], "kept", 4);
	assert_text(answers[0], "warnings/0", "a.yaml:5:6: z");
	assert_true(json_is_false(at(answers[1], "ok")));
	assert_int_equal(json_array_size(at(answers[1], "errors")), 2);
	assert_text(answers[1], "errors/1", "a.yaml:3:4: \"y\"");
	assert_int_equal(json_array_size(at(answers[2], "errors")), 0);
	assert_text(answers[3], "state", "paused");
	assert_text(answers[4], "error", "No \"x\".");
	for (size_t i = 0; i < ARRAY_LEN(answers); i++)
		json_decref(answers[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_every_state_is_counted),
		cmocka_unit_test(test_what_json_cannot_hold),
		cmocka_unit_test(test_more_reasons_than_room),
		cmocka_unit_test(test_mailbox),
		cmocka_unit_test(test_whole_mailbox),
		cmocka_unit_test(test_mailbox_without_failure),
		cmocka_unit_test(test_a_failure_without_text_still_shows),
		cmocka_unit_test(test_answers_of_verbs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
