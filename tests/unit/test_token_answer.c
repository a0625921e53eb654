#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "token_cache.h"
#include "util.h"

static void expect(const char *body, uint64_t expires_in_s, uint64_t refresh_in_s)
{
	struct token_answer a;

	assert_int_equal(token_answer_parse(body, strlen(body), &a), 0);
	assert_string_equal(a.access_token, "ey.j");
	assert_int_equal(a.expires_in_s, expires_in_s);
	assert_int_equal(a.refresh_in_s, refresh_in_s);
	token_answer_done(&a);
	assert_null(a.access_token);
}

/* exchange-online 2.4, 2.5: numbers as numbers and as strings, ext_expires_in ignored */
static void test_good(void **state)
{
	(void)state;
	expect("{\"token_type\":\"Bearer\",\"expires_in\":3899,\"ext_expires_in\":9999,\"access_token\":\"ey.j\"}", 3899, 0);
	expect("{\"token_type\":\"bearer\",\"expires_in\":\"3599\",\"refresh_in\":\"1800\",\"access_token\":\"ey.j\"}", 3599, 1800);
	expect("{\"expires_in\":86399.9,\"refresh_in\":43199,\"access_token\":\"ey.j\"}", 86399, 43199);
	expect("{\"expires_in\":1,\"refresh_in\":[],\"access_token\":\"ey.j\"}", 1, 0);
	expect("{\"expires_in\":0.9,\"refresh_in\":0.1,\"access_token\":\"ey.j\"}", 1, 1);
	expect("{\"expires_in\":\"18446744073709551615\",\"access_token\":\"ey.j\"}", 316224000, 0);
}

/* RFC 6749 5.1: expires_in is but recommended */
static void test_life_that_is_not_told(void **state)
{
	(void)state;
	expect("{\"access_token\":\"ey.j\"}", 0, 0);
	expect("{\"refresh_in\":1800,\"access_token\":\"ey.j\",\"token_type\":\"Bearer\"}", 0, 1800);
	expect("{\"expires_in\":null,\"access_token\":\"ey.j\"}", 0, 0);
	expect("{\"expires_in\":0,\"refresh_in\":0,\"access_token\":\"ey.j\"}", 0, 0);
	expect("{\"expires_in\":\"0\",\"access_token\":\"ey.j\"}", 0, 0);
	expect("{\"expires_in\":0.0,\"access_token\":\"ey.j\"}", 0, 0);
}

static void test_bad(void **state)
{
	static const char *const bodies[] = { "", "null", "[]", "{}", "<html>", "{\"expires_in\":5}",
		"{\"expires_in\":\"\",\"access_token\":\"ey.j\"}", "{\"expires_in\":[],\"access_token\":\"ey.j\"}", "{\"expires_in\":-0.5,\"access_token\":\"ey.j\"}",
		"{\"expires_in\":-5,\"access_token\":\"ey.j\"}", "{\"expires_in\":\"5s\",\"access_token\":\"ey.j\"}",
		"{\"expires_in\":5,\"access_token\":\"\"}", "{\"expires_in\":5,\"access_token\":5}", "{\"expires_in\":5,\"access_token\":\"a\\u0001b\"}",
		"{\"expires_in\":5,\"access_token\":\"a\\u00e4\"}", "{\"expires_in\":5,\"access_token\":\"ey.j\",\"token_type\":\"pop\"}",
		"{\"expires_in\":5,\"access_token\":\"ey.j\"", "{\"expires_in\":5,\"expires_in\":6,\"access_token\":\"ey.j\"}" };
	struct token_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++)
		if (token_answer_parse(bodies[i], strlen(bodies[i]), &a) == 0)
			fail_msg("accepted: %s", bodies[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_good), cmocka_unit_test(test_life_that_is_not_told), cmocka_unit_test(test_bad) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
