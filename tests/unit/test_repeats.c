#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "repeats.h"

static msec_t now_ms = 1000000;

msec_t clock_now_ms(void)	/* takes the place of clock.c */
{
	return now_ms;
}

static void test_change_then_hourly(void **state)
{
	struct repeats r = { 0 };
	unsigned untold = 99;
	char text[16];

	(void)state;
	assert_false(repeats_over(&r));
	assert_true(repeats_tell(&r, "network", &untold));
	assert_int_equal(untold, 0);
	for (int i = 0; i < 59; i++) {
		now_ms += 60000;
		assert_false(repeats_tell(&r, "network", &untold));
	}
	now_ms += 60000;
	assert_true(repeats_tell(&r, "network", &untold));
	assert_int_equal(untold, 59);
	assert_false(repeats_tell(&r, "network", &untold));
	assert_true(repeats_tell(&r, "tls", &untold));
	assert_int_equal(untold, 0);
	assert_true(repeats_tell(&r, "network", &untold));
	assert_int_equal(untold, 0);
	assert_true(repeats_over(&r));
	assert_true(repeats_tell(&r, "network", &untold));
	assert_null(repeats_text(0, text, sizeof(text)));
	assert_string_equal(repeats_text(59, text, sizeof(text)), "59");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_change_then_hourly) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
