#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "backoff.h"
#include "util.h"

static void expect_steps(enum schedule schedule, const unsigned *seconds, size_t n)
{
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(backoff_wait_ms(schedule, i + 1, 0, UINT32_MAX), seconds[i] * 1000);
		assert_int_equal(backoff_wait_ms(schedule, i + 1, 0, 0), seconds[i] * 100);	/* never under a tenth */
	}
	assert_int_equal(backoff_wait_ms(schedule, (unsigned)n + 50, 0, UINT32_MAX), seconds[n - 1] * 1000);
	assert_int_equal(backoff_wait_ms(schedule, 0, 0, UINT32_MAX), seconds[0] * 1000);
}

#define EXPECT_STEPS(schedule, ...) \
	expect_steps(schedule, (const unsigned[]){ __VA_ARGS__ }, sizeof((const unsigned[]){ __VA_ARGS__ }) / sizeof(unsigned))

static void test_schedules(void **state)
{
	(void)state;
	EXPECT_STEPS(SCHEDULE_NETWORK, 2, 4, 8, 16, 32, 64, 128, 256, 300);
	EXPECT_STEPS(SCHEDULE_UNAVAILABLE, 5, 15, 60, 300);		/* exchange-online 5.4 */
	EXPECT_STEPS(SCHEDULE_REFUSED, 60, 300, 900, 1800);		/* 5.2 */
	EXPECT_STEPS(SCHEDULE_NO_ACCESS, 300, 900, 1800);		/* 5.1 */
	EXPECT_STEPS(SCHEDULE_LOST_ACCESS, 60, 120, 300, 900);		/* 5.1 */
	EXPECT_STEPS(SCHEDULE_TOKEN, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300);	/* 3.3 */
	EXPECT_STEPS(SCHEDULE_TOKEN_ADMIN, 900, 1800);			/* 3.2 */
	EXPECT_STEPS(SCHEDULE_SINK, 5, 10, 20, 40, 80, 160, 300);
}

static void test_failing_now_so_now_otherwise(void **state)
{
	struct backoff b = { 0 };
	const struct failure network = { .schedule = SCHEDULE_NETWORK }, unavailable = { .schedule = SCHEDULE_UNAVAILABLE };

	(void)state;
	assert_int_equal(backoff_next_ms(&b, &network, UINT32_MAX), 2000);
	assert_int_equal(backoff_next_ms(&b, &unavailable, UINT32_MAX), 5000);
	assert_int_equal(backoff_next_ms(&b, &network, UINT32_MAX), 4000);
	assert_int_equal(backoff_next_ms(&b, &unavailable, UINT32_MAX), 15000);
	for (int i = 0; i < 300; i++)
		backoff_next_ms(&b, &network, 0);
	assert_int_equal(backoff_next_ms(&b, &network, UINT32_MAX), 300000);
}

static void test_what_was_asked(void **state)
{
	(void)state;
	/* never less than asked, up to a tenth more */
	assert_int_equal(backoff_wait_ms(SCHEDULE_NETWORK, 1, 30000, 0), 30000);
	assert_int_equal(backoff_wait_ms(SCHEDULE_NETWORK, 1, 30000, UINT32_MAX), 33000);
	assert_int_equal(backoff_wait_ms(SCHEDULE_NETWORK, 9, 30000, UINT32_MAX), 300000);
	/* clamped to 1 s .. 1 h (exchange-online 5.6) */
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 1, 1, 0), 1000);
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 1, INT64_MAX, 0), 3600000);
}

static void test_throttled(void **state)
{
	(void)state;
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 1, 92415, 0), 92415);
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 7, 92415, UINT32_MAX), 92415 + 9241);
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 1, 0, 0), 300000);	/* not said how long */
	assert_int_equal(backoff_wait_ms(SCHEDULE_THROTTLED, 1, 0, UINT32_MAX), 330000);
}

static void test_in_words(void **state)
{
	char text[200];

	(void)state;
	backoff_describe(SCHEDULE_NO_ACCESS, 0, text, sizeof(text));
	assert_string_equal(text, "5 min, 15 min, then every 30 min");
	backoff_describe(SCHEDULE_UNAVAILABLE, 0, text, sizeof(text));
	assert_string_equal(text, "5 s, 15 s, 1 min, then every 5 min");
	backoff_describe(SCHEDULE_REFUSED, 30000, text, sizeof(text));
	assert_string_equal(text, "1 min, 5 min, 15 min, then every 30 min; at least 30 s");
	backoff_describe(SCHEDULE_THROTTLED, 300000, text, sizeof(text));
	assert_string_equal(text, "as long as the server asks; when it does not say, 5 min");
	backoff_describe(SCHEDULE_TOKEN, 30000, text, 20);		/* cut, not overrun */
	assert_string_equal(text, "1 s, 2 s, 4 s, 8 s,");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_words),
		cmocka_unit_test(test_schedules), cmocka_unit_test(test_what_was_asked), cmocka_unit_test(test_failing_now_so_now_otherwise),
		cmocka_unit_test(test_throttled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
