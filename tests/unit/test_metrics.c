/* What Prometheus reads of a fleet made of tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "admission.h"
#include "config.h"
#include "counters.h"
#include "fleet.h"
#include "metrics_private.h"
#include "token_cache.h"
#include "util.h"

#define OWED 50000			/* of each folder; all but the last one are given up */

struct mailbox { size_t n_folders; };
struct fleet { struct counters counters; };

static const struct mailbox mailboxes[] = { { 2 }, { 1 } };
static size_t asked_one_by_one;

/* --- the mailboxes --- */

const char *mailbox_state_name(enum mailbox_state state)
{
	return state == MAILBOX_WATCHING ? "watching" : "?";
}

bool mailbox_is_failing(const struct mailbox *m, msec_t *ret_since_ms)
{
	(void)m;
	*ret_since_ms = 0;
	return false;
}

void mailbox_snapshot(const struct mailbox *m, struct mailbox_snapshot *ret)
{
	*ret = (struct mailbox_snapshot){ .n_folders = m->n_folders };
}

void mailbox_folder_snapshot(const struct mailbox *m, size_t i, struct folder_snapshot *ret)
{
	assert_true(i < m->n_folders);
	*ret = (struct folder_snapshot){ .owed = OWED, .given_up = OWED - 1, .backlog = 3, .after_owed = 2, .quarantined = 1 };
}

int64_t mailbox_undelivered_since_wall_s(const struct mailbox *m)
{
	(void)m;
	return 0;
}

bool mailbox_given_up(const struct mailbox *m, size_t i, size_t n, uint32_t *ret_uid, int64_t *ret_since_wall_s, struct failure *ret_why)
{
	asked_one_by_one++;
	*ret_uid = 7;
	*ret_since_wall_s = 0;
	*ret_why = (struct failure){ .fail = FAIL_NONE };
	return i < m->n_folders && n < OWED - 1;
}

/* --- the fleet --- */

size_t fleet_size(const struct fleet *f)
{
	(void)f;
	return ARRAY_LEN(mailboxes);
}

const struct mailbox *fleet_mailbox(const struct fleet *f, size_t i)
{
	(void)f;
	assert_true(i < ARRAY_LEN(mailboxes));
	return &mailboxes[i];
}

size_t fleet_count(const struct fleet *f, enum mailbox_state state)
{
	(void)f;
	return state == MAILBOX_WATCHING ? 2 : 0;
}

size_t fleet_failing(struct fleet *f)
{
	(void)f;
	return 0;
}

uint64_t fleet_quarantined(const struct fleet *f)	/* more than those of its mailboxes */
{
	(void)f;
	return 7;
}

const char *fleet_config_error(const struct fleet *f)
{
	(void)f;
	return NULL;
}

const struct config *fleet_config(const struct fleet *f)
{
	static const struct config config;

	(void)f;
	return &config;
}

enum health_level fleet_health(struct fleet *f, struct health_reason *ret_v, size_t room, size_t *ret_n)
{
	(void)f;
	(void)ret_v;
	(void)room;
	*ret_n = 0;
	return HEALTH_OK;
}

size_t fleet_sinks(const struct fleet *f, struct sink_snapshot *ret_v, size_t room)
{
	(void)f;
	(void)ret_v;
	(void)room;
	return 0;
}

struct counters *fleet_counters(struct fleet *f)
{
	return &f->counters;
}

void fleet_admission(const struct fleet *f, const char *credential, struct gate_snapshot *ret)
{
	(void)f;
	(void)credential;
	*ret = (struct gate_snapshot){ 0 };
}

size_t fleet_tokens(struct fleet *f, struct token_snapshot *ret_v, size_t room)
{
	static const struct token_snapshot tokens[] = {
		{ .credential = "used", .state = TOKEN_FRESH, .expires_wall_s = 1800003600, .refresh_wall_s = 1800001800 }, { .credential = "unused" },
	};

	(void)f;
	for (size_t i = 0; i < room && i < ARRAY_LEN(tokens); i++)
		ret_v[i] = tokens[i];
	return ARRAY_LEN(tokens);
}

void fleet_store(const struct fleet *f, struct store_snapshot *ret)
{
	(void)f;
	*ret = (struct store_snapshot){ 0 };
}

/* --- tests --- */

static void assert_line(const char *text, const char *line)
{
	const char *found = strstr(text, line);

	if (found == NULL || (found != text && found[-1] != '\n') || found[strlen(line)] != '\n')
		fail_msg("no line %s in:\n%s", line, text);
}

/* There may be as many as the server has messages, and the loop counts them: what each one's failure is called is not asked. */
static void test_messages_are_counted_by_folder(void **state)
{
	struct fleet fleet;
	char *text;

	(void)state;
	counters_init(&fleet.counters);
	text = metrics_text(&fleet, 0, false);
	assert_line(text, "mailpolld_messages_owed 150000");
	assert_line(text, "mailpolld_messages_unretrievable 149997");
	assert_line(text, "mailpolld_messages_backlog 9");
	assert_line(text, "mailpolld_messages_after_owed 6");
	assert_line(text, "mailpolld_messages_quarantined 7");
	assert_int_equal(asked_one_by_one, 0);
	free(text);
}

static void test_times_of_a_token(void **state)
{
	struct fleet fleet;
	char *text;

	(void)state;
	counters_init(&fleet.counters);
	text = metrics_text(&fleet, 0, false);
	assert_line(text, "mailpolld_token_expiry_time_seconds{credential=\"used\"} 1800003600");
	assert_line(text, "mailpolld_token_refresh_time_seconds{credential=\"used\"} 1800001800");
	assert_line(text, "mailpolld_token_refresh_time_seconds{credential=\"unused\"} 0");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_times_of_a_token),
		cmocka_unit_test(test_messages_are_counted_by_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
