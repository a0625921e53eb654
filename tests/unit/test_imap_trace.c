#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "imap_trace.h"

static char told[8192];

static void on_line(void *arg, const char *text)
{
	size_t len = strlen(told);

	(void)arg;
	snprintf(told + len, sizeof(told) - len, "%s\n", text);
}

static void expect(const char *text)
{
	assert_string_equal(told, text);
	told[0] = '\0';
}

static void sent(struct imap_trace *t, unsigned tag, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void sent(struct imap_trace *t, unsigned tag, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	imap_trace_sent(t, tag, fmt, args);
	va_end(args);
}

static void received(struct imap_trace *t, const char *text)
{
	imap_trace_received(t, text, strlen(text));
}

static void test_lines(void **state)
{
	struct imap_trace *t = imap_trace_new(on_line, NULL);

	(void)state;
	imap_trace_told(t, "connecting to %s", "localhost");
	sent(t, 7, "UID SEARCH UID %u:*", 6);
	sent(t, 0, "DONE");
	imap_trace_sent_secret(t, "A2 AUTHENTICATE XOAUTH2 ");
	expect("-- connecting to localhost\nC: A7 UID SEARCH UID 6:*\nC: DONE\nC: A2 AUTHENTICATE XOAUTH2 <secret>\n");
	received(t, "* 5 EX");
	received(t, "ISTS\r\n* 6 EXPUNGE\n+ \x1b[31mred\x07\r\n");
	expect("S: * 5 EXISTS\nS: * 6 EXPUNGE\nS: + ?[31mred?\n");
	imap_trace_free(&t);
}

static void test_bodies(void **state)
{
	struct imap_trace *t = imap_trace_new(on_line, NULL);

	(void)state;
	received(t, "* 1 FETCH (UID 1 BODY[] {12}\r\n");
	imap_trace_body(t, 5);
	imap_trace_body(t, 7);
	received(t, ")\r\n");
	expect("S: * 1 FETCH (UID 1 BODY[] {12}\nS: <12 bytes>\nS: )\n");
	received(t, "* 2 FETCH (BODY[] \"a \\\"b\"");
	imap_trace_was_body(t, 7);
	received(t, " UID 2)\r\n");
	expect("S: * 2 FETCH (BODY[] <7 bytes> UID 2)\n");
	imap_trace_free(&t);
}

static void test_long_lines(void **state)
{
	struct imap_trace *t = imap_trace_new(on_line, NULL);
	char *expected;

	(void)state;
	for (int i = 0; i < 3000; i++)
		received(t, "12345678 ");
	received(t, "\"secret\"");
	imap_trace_was_body(t, 8);		/* it is beyond what is shown */
	received(t, "\r\n");
	assert_int_equal(strlen(told), strlen("S: ... (27009 bytes)\n") + IMAP_TRACE_LINE);
	assert_null(strstr(told, "secret"));
	expected = strstr(told, "... (27009 bytes)\n");
	assert_non_null(expected);
	told[0] = '\0';
	sent(t, 3, "UID FETCH %s (UID)", "1234567890 1234567890 1234567890");
	expect("C: A3 UID FETCH 1234567890 1234567890 1234567890 (UID)\n");
	imap_trace_free(&t);
}

/* What a server repeats of a SASL response has no spaces and is long */
static void test_a_server_that_repeats_a_secret(void **state)
{
	static const char secret[] = "dXNlcj1zdXBwb3J0QGNvbnRvc28uY29tAWF1dGg9QmVhcmVyIGV5SjBlWEFpT2lKS1YxUWlMQ0p1YjI1";
	struct imap_trace *t = imap_trace_new(on_line, NULL);
	char line[200];

	(void)state;
	snprintf(line, sizeof(line), "A2 BAD AUTHENTICATE XOAUTH2 %s is no command\r\n", secret);
	imap_trace_distrust(t, true);
	received(t, line);
	received(t, secret);
	received(t, "\r\nA2 OK short words stay\r\n");
	expect("S: A2 BAD AUTHENTICATE XOAUTH2 <80 bytes> is no command\nS: <80 bytes>\nS: A2 OK short words stay\n");
	imap_trace_distrust(t, false);
	received(t, "* CAPABILITY AVERYLONGWORDTHATISACAPABILITYANDSHOWNASITIS=YES\r\n");
	expect("S: * CAPABILITY AVERYLONGWORDTHATISACAPABILITYANDSHOWNASITIS=YES\n");
	imap_trace_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_lines), cmocka_unit_test(test_bodies), cmocka_unit_test(test_long_lines),
		cmocka_unit_test(test_a_server_that_repeats_a_secret) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
