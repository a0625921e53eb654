#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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

static void test_glob(void **state)
{
	static const struct { const char *pattern, *s; bool fits; } cases[] = {
		{ "", "", true }, { "", "a", false }, { "*", "", true }, { "*", "a@b.example", true }, { "**", "a", true },
		{ "a", "a", true }, { "a", "A", true }, { "a", "ab", false }, { "ab", "a", false },
		{ "?", "a", true }, { "?", "", false }, { "a?c", "abc", true }, { "a?c", "ac", false },
		{ "*@contoso.com", "Support@Contoso.com", true }, { "*@contoso.com", "support@contoso.com.example", false },
		{ "box*1@*", "box0011@x", true }, { "box*1@*", "box0012@x", false }, { "a*", "ba", false }, { "*a*b*", "xxaxxbxx", true },
		{ "*a*b*", "xxbxxaxx", false }, { "*aab", "aaaaaab", true }, { "[ab]", "a", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (glob_match(cases[i].pattern, cases[i].s) != cases[i].fits)
			fail_msg("\"%s\" and \"%s\"", cases[i].pattern, cases[i].s);
}

/* The time is that of the two lengths multiplied, whatever the pattern: this one would take years otherwise */
static void test_glob_is_quick(void **state)
{
	char s[255], pattern[301];

	(void)state;
	memset(s, 'a', sizeof(s) - 1);
	s[sizeof(s) - 1] = '\0';
	for (size_t i = 0; i < 300; i += 2)
		memcpy(pattern + i, "a*", 2);
	memcpy(pattern + 298, "b", 2);
	assert_false(glob_match(pattern, s));
}

static void test_hide_long_words(void **state)
{
	static const struct { const char *s, *hidden; } cases[] = {
		{ "", "" }, { "a b  c", "a b  c" }, { "12345678901234567890", "12345678901234567890" }, { "123456789012345678901", "<21 bytes>" },
		{ "a 123456789012345678901 b", "a <21 bytes> b" }, { " 123456789012345678901  123456789012345678901", " <21 bytes>  <21 bytes>" },
	};
	char text[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		strcpy(text, cases[i].s);
		text[hide_long_words(text, strlen(text), 20)] = '\0';
		assert_string_equal(text, cases[i].hidden);
	}
}

static void test_drop_cut_character(void **state)
{
	static const struct { const char *s, *left; } cases[] = {
		{ "", "" }, { "a", "a" }, { "a\xc3", "a" }, { "\xc3", "" }, { "a\xc3\xa9", "a\xc3\xa9" }, { "a\xe2\x82", "a" }, { "a\xe2", "a" },
		{ "\xe2\x82\xac", "\xe2\x82\xac" }, { "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80" }, { "a\xf0\x9f\x98", "a" }, { "\xc3\xa9\xf0", "\xc3\xa9" },
		{ "\x80\x80\x80\x80\x80", "\x80\x80\x80\x80\x80" },	/* never was one */
	};
	char text[16];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		strcpy(text, cases[i].s);
		drop_cut_character(text);
		assert_string_equal(text, cases[i].left);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_url_host), cmocka_unit_test(test_glob), cmocka_unit_test(test_glob_is_quick),
		cmocka_unit_test(test_hide_long_words), cmocka_unit_test(test_drop_cut_character) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
