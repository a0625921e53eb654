#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "message.h"
#include "util.h"

static void expect_id(const char *header, size_t len, const char *id)
{
	for (size_t cut = 0; cut <= len; cut++) {
		struct header_scan h = { 0 };

		header_scan(&h, (const uint8_t *)header, cut);
		header_scan(&h, (const uint8_t *)header + cut, len - cut);
		assert_int_equal(h.values[HEADER_MESSAGE_ID].len, strlen(id));
		assert_memory_equal(strlen(id) > 0 ? h.values[HEADER_MESSAGE_ID].v : "", id, strlen(id));
		header_scan_done(&h);
	}
}

#define EXPECT_ID(header, id) expect_id(header, sizeof(header) - 1, id)

static void test_message_id(void **state)
{
	(void)state;
	EXPECT_ID("Message-ID: <a@b>\r\nSubject: x\r\n\r\n", "<a@b>");
	EXPECT_ID("Subject: x\r\nmessage-id:<a@b>\r\n\r\n", "<a@b>");
	EXPECT_ID("Subject: x\nMESSAGE-Id \t: \t<a@b>\n\n", "<a@b>");
	EXPECT_ID("Message-ID:\r\n <a@b>\r\n\r\n", "<a@b>");			/* folded */
	EXPECT_ID("X-Message-ID: <no>\r\nMessage-ID-X: <no>\r\n\r\nMessage-ID: <body>\r\n", "");
	EXPECT_ID("Subject: a\r\n Message-ID: <folded>\r\n\r\n", "");
	EXPECT_ID("Message-ID: <first>\r\nMessage-ID: <second>\r\n\r\n", "<first>");
	EXPECT_ID("", "");
}

static void test_bounds(void **state)
{
	struct header_scan h = { 0 };
	char line[1024];

	(void)state;
	memset(line, 'x', sizeof(line));
	header_scan(&h, (const uint8_t *)"Message-ID: ", 12);
	for (int i = 0; i < 400; i++)
		header_scan(&h, (const uint8_t *)line, sizeof(line));
	assert_int_equal(h.values[HEADER_MESSAGE_ID].len, MESSAGE_ID_MAX);
	header_scan_done(&h);
}

static bool is_substitute(const char *header)
{
	struct header_scan h = { 0 };
	bool result;

	header_scan(&h, (const uint8_t *)header, strlen(header));
	result = header_is_substitute(&h);
	header_scan_done(&h);
	return result;
}

/* exchange-online 5.8 B: the subject, and no Message-ID */
static void test_substitute(void **state)
{
	(void)state;
	assert_true(is_substitute("From: \"Microsoft Exchange Server\"\r\nSubject: Retrieval using the IMAP4 protocol failed for the following "
	    "message:\r\n 20004\r\n\r\nThe server couldn't retrieve the following message:\r\n"));
	assert_true(is_substitute("subject: Retrieval using the IMAP4 protocol failed for the\r\n following message: 5\r\n\r\n"));
	assert_true(is_substitute("Subject:  retrieval using\r\n\tthe IMAP4  protocol failed for the following\n message:\r\n\t5\r\n\r\n"));
	/* with a Message-ID its body tells */
	assert_true(is_substitute("Message-ID: <a@b>\r\nSubject: Retrieval using the IMAP4 protocol failed for the following message: 5\r\n\r\n"
	    "\r\nThe server couldn't retrieve the following message:\r\n"));
	assert_false(is_substitute("Message-ID: <a@b>\r\nSubject: Retrieval using the IMAP4 protocol failed for the following message: 5\r\n\r\n"
	    "Somebody asks: what is\r\nThe server couldn't retrieve the following message:\r\n"));
	assert_false(is_substitute("Message-ID: <a@b>\r\nSubject: Fwd\r\n\r\nThe server couldn't retrieve the following message:\r\n"));
	assert_false(is_substitute("Message-ID: <a@b>\r\nSubject: Retrieval using the IMAP4 protocol failed for the following message: 5\r\n\r\n"));
	assert_false(is_substitute("Subject: Re: Retrieval using the IMAP4 protocol failed for the following message: 5\r\n\r\n"));
	assert_false(is_substitute("Subject: Retrieval using\r\n\r\nfailed"));
	/* in another language, or encoded: its sender tells, who has no address */
	assert_true(is_substitute("From: \"Microsoft Exchange Server\"\r\nSubject: =?utf-8?B?RGVyIEFicnVm?=\r\n\r\nDie Nachricht"));
	assert_true(is_substitute("Subject: Der Abruf mit IMAP4 ist fehlgeschlagen: 5\r\nFrom: Microsoft Exchange Server 2010\r\n\r\n"));
	assert_true(is_substitute("From: \"Microsoft Exchange Server\" <@.MISSING-HOST-NAME.>\r\nSubject: x\r\n\r\n"));
	assert_false(is_substitute("From: \"Microsoft Exchange Server\" <alerts@contoso.example>\r\nSubject: Disk full\r\n\r\n"));
	assert_false(is_substitute("From: \"Microsoft Exchange Server\"\r\nMessage-ID: <a@b>\r\nSubject: x\r\n\r\n"));
	assert_false(is_substitute("From: Exchange\r\nSubject: x\r\n\r\n"));
	assert_false(is_substitute(""));
}

static void test_key(void **state)
{
	char *key = message_key("sales@contoso.com", "A/B \xc3\xbc", 14, 4294967295U), digest[KEY_DIGEST_HEX + 1];

	(void)state;
	assert_string_equal(key, "sales@contoso.com%2FA%2FB%20%C3%BC%2F14%2F4294967295");
	message_key_digest(key, digest);
	assert_int_equal(strlen(digest), 24);
	free(key);
	message_key_digest("abc", digest);
	assert_string_equal(digest, "ba7816bf8f01cfea414140de");	/* SHA-256("abc") */
}

static void test_hash(void **state)
{
	static const uint8_t none[STORE_HASH_BYTES];
	uint8_t a[STORE_HASH_BYTES], b[STORE_HASH_BYTES];

	(void)state;
	message_hash("<a@b>", 5, 100, a);
	message_hash("<a@b> \t", 7, 100, b);
	assert_memory_equal(a, b, sizeof(a));
	message_hash("<a@b>", 5, 101, b);
	assert_memory_not_equal(a, b, sizeof(a));
	message_hash("<a@c>", 5, 100, b);
	assert_memory_not_equal(a, b, sizeof(a));
	message_hash(" ", 1, 100, b);
	assert_memory_equal(b, none, sizeof(b));	/* without an ID there is none */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_id), cmocka_unit_test(test_bounds), cmocka_unit_test(test_substitute), cmocka_unit_test(test_key), cmocka_unit_test(test_hash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
