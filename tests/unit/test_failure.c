#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "failure.h"

static const struct failure_subject subject = {
	.mailbox = "invoices@contoso.example", .folder = "INBOX", .client_id = "APP", .tenant = "TENANT",
	.token_host = "login.example", .object_id = "OID", .token_finding = "FINDING.", .host = "imap.example",
};

static struct failure imap(enum failure_phase phase, enum failure_answer answer, const char *code, const char *text)
{
	struct failure f;

	failure_from_imap(&f, phase, answer, code, text, &subject);
	return f;
}

static void expect(const struct failure *f, const char *name, enum fail fail, enum schedule schedule)
{
	assert_string_equal(f->name, name);
	assert_int_equal(f->fail, fail);
	assert_int_equal(f->schedule, schedule);
	assert_null(strchr(f->hint, '{'));
}

static void expect_hint(const struct failure *f, const char *part)
{
	if (strstr(f->hint, part) == NULL)
		fail_msg("hint \"%s\" has no \"%s\"", f->hint, part);
}

static void test_no_access(void **state)
{
	struct failure_subject worked = subject;
	struct failure f = imap(PHASE_OPEN, ANSWER_BAD, NULL, "User is authenticated but not connected.");

	(void)state;
	/* exchange-online 5.1 */
	expect(&f, "no-access", FAIL_ADMIN, SCHEDULE_NO_ACCESS);
	expect_hint(&f, "Add-MailboxPermission invoices@contoso.example");
	expect_hint(&f, "Set-CASMailbox invoices@contoso.example -ImapEnabled $true");
	assert_string_equal(f.text, "opening: BAD User is authenticated but not connected.");
	worked.worked_before = true;
	failure_from_imap(&f, PHASE_OPEN, ANSWER_BAD, NULL, "User is authenticated but not connected.", &worked);
	expect(&f, "no-access", FAIL_WAIT, SCHEDULE_LOST_ACCESS);
}

static void test_sign_in(void **state)
{
	struct failure f = imap(PHASE_AUTHENTICATE, ANSWER_NO, NULL, "AUTHENTICATE failed.");

	(void)state;
	/* exchange-online 5.2 */
	expect(&f, "sign-in-refused", FAIL_TOKEN, SCHEDULE_REFUSED);
	expect_hint(&f, "(this app's is OID): New-ServicePrincipal -AppId APP -ObjectId OID");
	expect_hint(&f, "FINDING.");
	f = imap(PHASE_AUTHENTICATE, ANSWER_NO, "UNAVAILABLE", "later");
	expect(&f, "unavailable", FAIL_WAIT, SCHEDULE_UNAVAILABLE);
	f = imap(PHASE_AUTHENTICATE, ANSWER_BYE, NULL, "Connection is closed.");
	expect(&f, "sign-in-closed", FAIL_WAIT, SCHEDULE_REFUSED);
}

static void test_ends(void **state)
{
	struct failure f = imap(PHASE_IDLE, ANSWER_BYE, NULL, "Session invalidated - AccessTokenExpired");

	(void)state;
	/* exchange-online 5.3 */
	expect(&f, "token-expired", FAIL_EXPECTED, SCHEDULE_NETWORK);
	f = imap(PHASE_FETCH, ANSWER_BYE, NULL, "Session invalidated - AccessTokenExpired");
	expect(&f, "token-expired", FAIL_EXPECTED, SCHEDULE_NETWORK);
	f = imap(PHASE_IDLE, ANSWER_BYE, NULL, "Connection closed.");
	expect(&f, "closed-while-idle", FAIL_EXPECTED, SCHEDULE_NETWORK);
	/* 5.5: at least 30 s */
	f = imap(PHASE_IDLE, ANSWER_BYE, NULL, "Connection closed. 14");
	expect(&f, "closed-number", FAIL_WAIT, SCHEDULE_NETWORK);
	f = imap(PHASE_OTHER, ANSWER_BYE, NULL, "Connection closed. 14");
	expect(&f, "closed-number", FAIL_WAIT, SCHEDULE_NETWORK);
	assert_int_equal(f.asked_wait_ms, 30000);
}

static void test_unavailable(void **state)
{
	struct failure f;

	(void)state;
	/* exchange-online 5.4: as an answer, and as a line with neither tag nor star */
	f = imap(PHASE_OPEN, ANSWER_NO, NULL, "Server Unavailable. 15");
	expect(&f, "unavailable", FAIL_WAIT, SCHEDULE_UNAVAILABLE);
	f = imap(PHASE_IDLE, ANSWER_STRAY, NULL, "Server Unavailable. 15");
	expect(&f, "unavailable", FAIL_WAIT, SCHEDULE_UNAVAILABLE);
	f = imap(PHASE_OTHER, ANSWER_STRAY, NULL, "[COPYUID 55 31 6]");
	assert_int_equal(f.fail, FAIL_NONE);
}

static void test_throttled(void **state)
{
	struct failure f;

	(void)state;
	/* exchange-online 5.6 */
	f = imap(PHASE_FETCH, ANSWER_NO, NULL, "Request is throttled. Suggested Backoff Time: 299910 milliseconds");
	expect(&f, "throttled", FAIL_WAIT, SCHEDULE_THROTTLED);
	assert_int_equal(f.asked_wait_ms, 299910);
	expect_hint(&f, "for 300 seconds");
	f = imap(PHASE_FETCH, ANSWER_NO, NULL, "Request is throttled. Suggested Backoff Time: 0 milliseconds");
	assert_true(f.asked_wait_ms > 0 && f.asked_wait_ms <= 1000);	/* a second, not "not said" */
	f = imap(PHASE_FETCH, ANSWER_NO, NULL, "Request is throttled. Suggested Backoff Time: soon");
	assert_int_equal(f.asked_wait_ms, 300000);
	f = imap(PHASE_AUTHENTICATE, ANSWER_BAD, NULL, "Request is throttled. Suggested Backoff Time: 99999999999999999999 milliseconds");
	expect(&f, "throttled", FAIL_WAIT, SCHEDULE_THROTTLED);
	assert_true(f.asked_wait_ms >= 1000000000);
	f = imap(PHASE_FETCH, ANSWER_BYE, NULL, "Request is throttled.");
	assert_int_equal(f.asked_wait_ms, 300000);
}

static void test_opening_and_other_answers(void **state)
{
	struct failure f;

	(void)state;
	f = imap(PHASE_OPEN, ANSWER_NO, NULL, "SELECT failed.");
	expect(&f, "folder-refused", FAIL_ADMIN, SCHEDULE_NO_ACCESS);
	expect_hint(&f, "Folder INBOX of invoices@contoso.example");
	f = imap(PHASE_OPEN, ANSWER_NO, "NONEXISTENT", "gone");
	expect(&f, "no-folder", FAIL_ADMIN, SCHEDULE_NO_ACCESS);
	f = imap(PHASE_OTHER, ANSWER_NO, "TRYCREATE", "no such folder");
	expect(&f, "no-target", FAIL_ADMIN, SCHEDULE_LOST_ACCESS);
	/* of one message, not of the mailbox: the session goes on (exchange-online 5.8 C) */
	f = imap(PHASE_FETCH, ANSWER_NO, NULL, "The specified message set is invalid.");
	expect(&f, "fetch-refused", FAIL_WAIT, SCHEDULE_NETWORK);
	/* exchange-online 5.7 */
	f = imap(PHASE_OTHER, ANSWER_BAD, NULL, "Command Error. 10");
	expect(&f, "command-refused", FAIL_WAIT, SCHEDULE_REFUSED);
	f = imap(PHASE_OTHER, ANSWER_BAD, NULL, "Command Argument Error. 11");
	expect(&f, "argument-refused", FAIL_WAIT, SCHEDULE_REFUSED);
	f = imap(PHASE_OTHER, ANSWER_NO, "\x01odd", "line \x02 with\tcontrols");
	assert_null(strpbrk(f.text, "\x02\t"));
}

static void test_network(void **state)
{
	struct failure f;

	(void)state;
	failure_from_network(&f, PHASE_CONNECT, false, "connection refused", &subject);
	expect(&f, "connect", FAIL_WAIT, SCHEDULE_NETWORK);
	assert_string_equal(f.text, "connecting: connection refused");
	expect_hint(&f, "Cannot reach imap.example");
	failure_from_network(&f, PHASE_TLS, true, "self-signed certificate", &subject);
	expect(&f, "certificate", FAIL_ADMIN, SCHEDULE_UNAVAILABLE);
	failure_from_network(&f, PHASE_RESOLVE, false, "not found", NULL);
	expect(&f, "resolve", FAIL_WAIT, SCHEDULE_NETWORK);
	failure_from_network(&f, PHASE_FETCH, false, "timed out", &subject);
	expect(&f, "network", FAIL_WAIT, SCHEDULE_NETWORK);
	/* exchange-online 5.3, 5.11: that is how most sessions that idle end */
	failure_from_network(&f, PHASE_IDLE, false, "connection closed by the server", &subject);
	expect(&f, "dropped-while-idle", FAIL_EXPECTED, SCHEDULE_NETWORK);
}

static struct failure token(long status, const char *body, unsigned retry_after_s)
{
	struct failure f;

	failure_from_token_answer(&f, status, body, strlen(body), retry_after_s, &subject);
	return f;
}

static void test_token_answers(void **state)
{
	struct failure f;

	(void)state;
	/* exchange-online 3.1, 3.2 */
	f = token(401, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: Invalid client secret provided. Ensure it.\\r\\n"
	    "Trace ID: 0000aaaa\\r\\nTimestamp: 2026\",\"error_codes\":[7000215],\"trace_id\":\"0000aaaa-11bb\",\"correlation_id\":\"22cc\",\"timestamp\":\"2026-09-01 10:00:00Z\"}", 0);
	expect(&f, "secret-wrong", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	expect_hint(&f, "copy its Value column, not its Secret ID");
	assert_string_equal(f.text, "token endpoint: HTTP 401 invalid_client: AADSTS7000215: Invalid client secret provided. Ensure it. "
	    "(trace ID 0000aaaa-11bb) (correlation ID 22cc) (timestamp 2026-09-01 10:00:00Z)");
	f = token(401, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000222: expired Trace ID: x\"}", 0);
	expect(&f, "secret-expired", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	assert_null(strstr(f.text, "Trace ID"));
	f = token(400, "{\"error\":\"unauthorized_client\",\"error_codes\":[700016]}", 0);
	expect(&f, "app-unknown", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	f = token(401, "{\"error\":\"invalid_client\"}", 0);
	expect(&f, "client-refused", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	f = token(400, "{\"error\":\"invalid_grant\",\"error_codes\":[1]}", 0);
	expect(&f, "token-refused", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	f = token(400, "{\"error\":\"temporarily_unavailable\"}", 0);
	expect(&f, "token-unavailable", FAIL_WAIT, SCHEDULE_TOKEN);
}

static void test_token_status(void **state)
{
	struct failure f;

	(void)state;
	/* exchange-online 3.3: the status class counts first, the body may be anything */
	f = token(429, "", 60);
	expect(&f, "token-throttled", FAIL_WAIT, SCHEDULE_TOKEN);
	assert_int_equal(f.asked_wait_ms, 60000);
	f = token(503, "<html>Service Unavailable</html>", 0);
	expect(&f, "token-unavailable", FAIL_WAIT, SCHEDULE_TOKEN);
	f = token(500, "{\"error\":\"invalid_client\",\"error_codes\":[7000215]}", 0);
	expect(&f, "token-unavailable", FAIL_WAIT, SCHEDULE_TOKEN);
	f = token(302, "", 0);
	expect(&f, "token-url", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	f = token(404, "not found", 0);
	expect(&f, "token-url", FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN);
	f = token(204, "", 0);
	expect(&f, "token-answer", FAIL_WAIT, SCHEDULE_TOKEN);
	f = token(7, "{\"error\":5,\"error_codes\":\"x\",\"error_description\":[]}", 0);
	expect(&f, "token-answer", FAIL_WAIT, SCHEDULE_TOKEN);
}

static void test_rows(void **state)
{
	struct failure_row row;
	size_t n = 0;

	(void)state;
	for (; failure_row(n, &row); n++) {
		assert_true(strlen(row.name) > 0 && strlen(row.seen) > 0);
		/* a person is told what to do, if anything, and with what: mailbox, application, tenant or host */
		if (row.fail == FAIL_EXPECTED)
			assert_string_equal(row.hint, "");
		else if (strcmp(row.name, "clock-wrong") != 0 && strcmp(row.name, "no-credential") != 0)
			assert_non_null(strchr(row.hint, '{'));
	}
	assert_true(n > 40);
}

static void test_own(void **state)
{
	const struct failure_subject who = { .mailbox = "a@b", .folder = "INBOX", .uid = 4294967295 };
	struct failure f;

	(void)state;
	failure_own(&f, "unretrievable", &who, "message UID %d", 7);
	expect(&f, "unretrievable", FAIL_ADMIN, SCHEDULE_NETWORK);
	assert_string_equal(f.text, "message UID 7");
	assert_string_equal(f.hint, "Message UID 4294967295 in INBOX of a@b cannot be read over IMAP: open it in Outlook on the web, then "
	    "forward or re-save it.");
}

/* The longest hint is not cut. */
static void test_room_for_a_hint(void **state)
{
	const struct failure_subject who = {
		.mailbox = "a-mailbox-with-a-long-name@subsidiary.contoso.example", .folder = "INBOX", .client_id = "05cd6963-0000-0000-0000-000000000000",
		.object_id = "0a1b2c3d-0000-0000-0000-0000000000ff", .host = "outlook.office365.com",
		.token_finding = "Add the application permission IMAP.AccessAsApp (Office 365 Exchange Online) and grant admin consent.",
	};
	struct failure f;

	(void)state;
	failure_from_imap(&f, PHASE_AUTHENTICATE, ANSWER_NO, NULL, "AUTHENTICATE failed.", &who);
	expect_hint(&f, who.token_finding);
	failure_from_imap(&f, PHASE_OPEN, ANSWER_BAD, NULL, "User is authenticated but not connected.", &who);
	expect_hint(&f, "then wait up to an hour.");
	failure_from_imap(&f, PHASE_OPEN, ANSWER_NO, NULL, "SELECT failed.", &who);
	expect_hint(&f, "when a mailbox is being moved.");
}

static void test_set(void **state)
{
	struct failure f;

	(void)state;
	failure_set(&f, FAIL_WAIT, SCHEDULE_SINK, "disk", NULL, "%s is %d", "x", 5);
	expect(&f, "disk", FAIL_WAIT, SCHEDULE_SINK);
	assert_string_equal(f.text, "x is 5");
	assert_string_equal(f.hint, "");
}

/* A daemon that began before its unit was told of a place cannot write there, whoever owns it. */
static void test_disk(void **state)
{
	struct failure f;

	(void)state;
	failure_from_disk(&f, "maildir", "cannot make", "/data/mail", EROFS);
	expect(&f, "maildir", FAIL_WAIT, SCHEDULE_SINK);
	assert_string_equal(f.text, "cannot make /data/mail: Read-only file system");
	expect_hint(&f, "/data/mail is read-only for the daemon: name it in the unit's RequiresMountsFor= and ReadWritePaths=");
	expect_hint(&f, "then systemctl restart mailpolld");
	failure_from_disk(&f, "disk", "cannot write into", "/data/mail", ENOSPC);
	expect(&f, "disk", FAIL_WAIT, SCHEDULE_SINK);
	assert_string_equal(f.hint, "Make /data/mail writable for the daemon's user, with free space.");
}

/* At whichever byte of a character the room ends. */
static void test_cut_texts(void **state)
{
	char long_text[1024], hint[1024];
	struct failure f;

	(void)state;
	for (size_t i = 0; i + 2 < sizeof(long_text); i += 2)
		memcpy(long_text + i, "\xc3\xa9", 3);
	for (int before = 0; before < 2; before++) {
		snprintf(hint, sizeof(hint), "%.*s%.900s", before, "x", long_text);
		failure_set(&f, FAIL_WAIT, SCHEDULE_SINK, "command", hint, "%.*s%s", before, "x", long_text);
		assert_int_equal(strlen(f.text), sizeof(f.text) - 2 + (size_t)before);
		assert_int_equal(strlen(f.hint), sizeof(f.hint) - 2 + (size_t)before);
		assert_string_equal(f.text + strlen(f.text) - 2, "\xc3\xa9");
		assert_string_equal(f.hint + strlen(f.hint) - 2, "\xc3\xa9");
		failure_own(&f, "unretrievable", &subject, "%.*s%s", before, "x", long_text);
		assert_int_equal(strlen(f.text), sizeof(f.text) - 2 + (size_t)before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_access), cmocka_unit_test(test_sign_in), cmocka_unit_test(test_ends), cmocka_unit_test(test_unavailable),
		cmocka_unit_test(test_throttled), cmocka_unit_test(test_opening_and_other_answers), cmocka_unit_test(test_network),
		cmocka_unit_test(test_token_answers), cmocka_unit_test(test_token_status), cmocka_unit_test(test_rows), cmocka_unit_test(test_own), cmocka_unit_test(test_set), cmocka_unit_test(test_disk),
		cmocka_unit_test(test_room_for_a_hint), cmocka_unit_test(test_cut_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
