/* Standard error is a pipe here; the test reads what comes out of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "log.h"

static int read_fd, saved_stderr;

static int setup(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	read_fd = fds[0];
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(read_fd);
	return 0;
}

/* One line without the time in front of it. */
static void expect_line(const char *expected)
{
	char line[4096];
	size_t len = 0;

	while (len < sizeof(line) - 1 && read(read_fd, line + len, 1) == 1 && line[len] != '\n')
		len++;
	line[len] = '\0';
	assert_true(len > sizeof("2026-01-31T23:59:59Z"));
	assert_string_equal(line + sizeof("2026-01-31T23:59:59Z"), expected);
}

static void test_lines(void **state)
{
	struct log_context about = { .mailbox = "a@b", .folder = "Sent Items" };
	struct log_field fields[] = { { "UID", "5" }, { "HINT", "say \"x\\y\"" } };

	(void)state;
	log_info(NULL, "before the start %d", 1);
	expect_line("level=info msg=\"before the start 1\"");
	log_start();
	log_write(LOG_LEVEL_WARNING, EVENT_DELIVERED, &about, fields, 2, "two\nlines\x01 and =");
	expect_line("level=warning event=delivered mailbox=a@b folder=\"Sent Items\" uid=5 hint=\"say \\\"x\\\\y\\\"\" msg=\"two?lines? and =\"");
	log_debug(NULL, "not at this level");
	log_error(NULL, "word");
	expect_line("level=error msg=word");
	log_stop();
	log_info(NULL, "after");
	expect_line("level=info msg=after");
}

static void test_events(void **state)
{
	enum log_level level;

	(void)state;
	for (int i = EVENT_STARTED; i <= EVENT_VERB; i++) {
		assert_int_equal(strlen(log_event_id((enum log_event)i)), 32);
		for (int j = EVENT_STARTED; j < i; j++)
			assert_string_not_equal(log_event_id((enum log_event)i), log_event_id((enum log_event)j));
	}
	assert_string_equal(log_event_name(EVENT_SIGN_IN_FAILED), "sign-in-failed");
	assert_true(log_level_parse("debug", &level));
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_false(log_level_parse("loud", &level));
}

/* Nobody reads: calls return all the same, lines are dropped and counted; log_stop() gives up in time. The last test, since
 * afterwards nothing is written any more. */
static void test_nobody_reads(void **state)
{
	char text[1024];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_start();
	for (int i = 0; i < 20000; i++)
		log_info(NULL, "%s", text);
	assert_true(log_dropped() > 10000);
	log_stop();
	log_info(NULL, "goes nowhere");
	close(saved_stderr);		/* what is still queued is for nobody */
	saved_stderr = open("/dev/null", O_WRONLY);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_lines), TEST(test_events), TEST(test_nobody_reads) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
