#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "util.h"

static void test_url_host(void **state)
{
	static const struct { const char *url, *host; uint16_t port; } cases[] = {
		{ "https://login.microsoftonline.com/tenant/oauth2/v2.0/token", "login.microsoftonline.com", 443 },
		{ "https://localhost:8443/token", "localhost", 8443 },
		{ "https://localhost:8443", "localhost", 8443 },
		{ "https://host", "host", 443 },
		{ "https://host?a:1", "host", 443 },
		{ "https://[::1]:8443/t", "::1", 8443 },
		{ "https://[2001:db8::1]/t", "2001:db8::1", 443 },
		{ "https://user:8080@host:99/t@x", "host", 99 },
		{ "https://host:/t", "host", 443 },
		{ "https://host:99999/t", "host", 443 },
		{ "https://", "", 443 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint16_t port = 443;
		char *host = url_host(cases[i].url, &port);

		assert_string_equal(host, cases[i].host);
		assert_int_equal(port, cases[i].port);
		free(host);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_url_host) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
