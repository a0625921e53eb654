/* Every transcript here is read whole, byte by byte, and cut in two at every byte: the events must be the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "imap_parser.h"
#include "util.h"

/* --- a trace of events as text --- */

struct trace { char *v; size_t len; bool broken; bool in_body; };

static void put(struct trace *t, const char *s, size_t len)
{
	t->v = xreallocarray(t->v, t->len + len + 1, 1);
	memcpy(t->v + t->len, s, len);
	t->len += len;
	t->v[t->len] = '\0';
}

static void putf(struct trace *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void putf(struct trace *t, const char *fmt, ...)
{
	char *s;
	va_list args;

	va_start(args, fmt);
	assert_true(vasprintf(&s, fmt, args) >= 0);
	va_end(args);
	put(t, s, strlen(s));
	free(s);
}

static void put_response(struct trace *t, const struct imap_response *r)
{
	static const char *const kinds[] = { "tagged", "continue", "status", "capability", "exists", "recent", "expunge", "fetch", "search",
		"mailbox", "other", "stray" };
	static const char *const statuses[] = { "OK", "NO", "BAD", "BYE", "PREAUTH" };

	putf(t, "%s", kinds[r->kind]);
	if (r->kind == IMAP_TAGGED)
		putf(t, " %s", r->tag);
	if (r->kind == IMAP_TAGGED || r->kind == IMAP_STATUS_LINE)
		putf(t, " %s", statuses[r->status]);
	if (r->code != NULL)
		putf(t, " [%s|%s]", r->code, r->code_args);
	if (r->has_code_number)
		putf(t, " code=%u", r->code_number);
	if (r->kind == IMAP_EXISTS || r->kind == IMAP_RECENT || r->kind == IMAP_EXPUNGE || r->kind == IMAP_FETCH)
		putf(t, " %u", r->number);
	if (r->kind == IMAP_FETCH) {
		putf(t, " uid=%u", r->fetch.uid);
		if (r->fetch.has_flags)
			putf(t, " flags=%s%s", r->fetch.seen ? "S" : "", r->fetch.deleted ? "D" : "");
		if (r->fetch.has_internaldate)
			putf(t, " date=%lld", (long long)r->fetch.internaldate_s);
		if (r->fetch.has_size)
			putf(t, " size=%llu", (unsigned long long)r->fetch.rfc822_size_bytes);
		putf(t, " bodies=%u", r->fetch.n_bodies);
	}
	if (r->kind == IMAP_MAILBOX_STATUS) {
		if (r->mailbox.has_messages)
			putf(t, " messages=%u", r->mailbox.messages);
		if (r->mailbox.has_uidnext)
			putf(t, " uidnext=%u", r->mailbox.uidnext);
		if (r->mailbox.has_uidvalidity)
			putf(t, " uidvalidity=%u", r->mailbox.uidvalidity);
	}
	putf(t, " '%s'\n", r->text);
}

static void put_event(struct trace *t, const struct imap_event *ev)
{
	switch (ev->what) {
	case IMAP_MORE:
		break;
	case IMAP_RESPONSE:
		put_response(t, ev->response);
		break;
	case IMAP_NUMBERS:
		putf(t, "numbers %u-%u\n", ev->lo, ev->hi);
		break;
	case IMAP_BODY_START:
		assert_false(t->in_body);
		t->in_body = true;
		putf(t, "body '%s' uid=%u size=%llu%s <", ev->section, ev->uid, (unsigned long long)ev->size_bytes, ev->is_nil ? " nil" : "");
		break;
	case IMAP_BODY:
		assert_true(t->in_body);
		assert_true(ev->body_len > 0);
		put(t, (const char *)ev->body, ev->body_len);
		break;
	case IMAP_BODY_END:
		assert_true(t->in_body);
		t->in_body = false;
		putf(t, ">\n");
		break;
	case IMAP_BROKEN:
		putf(t, "broken: %s\n", ev->error);
		t->broken = true;
		break;
	}
}

static void push_all(struct imap_parser *p, struct trace *t, const char *bytes, size_t len)
{
	struct imap_event ev;
	size_t used;

	/* every push gets memory of its own, so that reading past its end is found by the sanitizers */
	do {
		uint8_t *copy = xmalloc(len > 0 ? len : 1);

		memcpy(copy, bytes, len);
		used = imap_parser_push(p, copy, len, &ev);
		assert_true(used <= len);
		if (ev.what == IMAP_BODY && ev.body_in_place) {
			assert_ptr_equal(ev.body, copy);
			assert_int_equal(used, ev.body_len);
		}
		put_event(t, &ev);
		bytes += used;
		len -= used;
		free(copy);
	} while (!t->broken && (ev.what != IMAP_MORE || len > 0));
}

static struct trace read_cut(const char *bytes, size_t len, size_t cut)
{
	struct imap_parser *p = imap_parser_new();
	struct trace t = { 0 };

	put(&t, "", 0);
	push_all(p, &t, bytes, cut);
	if (!t.broken)
		push_all(p, &t, bytes + cut, len - cut);
	imap_parser_free(&p);
	return t;
}

static struct trace read_bytewise(const char *bytes, size_t len)
{
	struct imap_parser *p = imap_parser_new();
	struct trace t = { 0 };

	put(&t, "", 0);
	for (size_t i = 0; i < len && !t.broken; i++)
		push_all(p, &t, bytes + i, 1);
	imap_parser_free(&p);
	return t;
}

static void same(const struct trace *a, const struct trace *b)
{
	assert_int_equal(a->len, b->len);
	assert_memory_equal(a->v, b->v, a->len);
}

static void expect_len(const char *bytes, size_t len, const char *expected, size_t expected_len)
{
	struct trace whole = read_cut(bytes, len, len), other = read_bytewise(bytes, len);

	if (whole.len != expected_len || memcmp(whole.v, expected, expected_len) != 0)
		fail_msg("got:\n%s\nnot:\n%s", whole.v, expected);
	same(&whole, &other);
	free(other.v);
	for (size_t cut = 0; cut < len && len < 20000; cut++) {
		other = read_cut(bytes, len, cut);
		same(&whole, &other);
		free(other.v);
	}
	free(whole.v);
}

#define EXPECT(bytes, expected) expect_len(bytes, sizeof(bytes) - 1, expected, sizeof(expected) - 1)

/* --- the tests --- */

static void test_greeting_and_capabilities(void **state)
{
	(void)state;
	/* exchange-online 4.1: the bracket at the end of a greeting is no response code */
	EXPECT("* OK The Microsoft Exchange IMAP4 service is ready. [UwBJADIA]\r\n",
	    "status OK 'The Microsoft Exchange IMAP4 service is ready. [UwBJADIA]'\n");
	EXPECT("* CAPABILITY IMAP4 IMAP4rev1 AUTH=XOAUTH2 SASL-IR\r\nA1 OK CAPABILITY completed.\r\n",
	    "capability 'IMAP4 IMAP4rev1 AUTH=XOAUTH2 SASL-IR'\ntagged A1 OK 'CAPABILITY completed.'\n");
	EXPECT("* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n", "status OK [CAPABILITY|IMAP4rev1 IDLE] 'ready'\n");
	EXPECT("+ eyJzdGF0dXMiOiI0MDEifQ==\r\n+\r\n+ \r\n", "continue 'eyJzdGF0dXMiOiI0MDEifQ=='\ncontinue ''\ncontinue ''\n");
	EXPECT("* BYE Session invalidated - AccessTokenExpired\r\n", "status BYE 'Session invalidated - AccessTokenExpired'\n");
	EXPECT("* PREAUTH hello\r\n", "status PREAUTH 'hello'\n");
}

static void test_select(void **state)
{
	(void)state;
	/* exchange-online 4.4 */
	EXPECT("* 2556 EXISTS\r\n* 0 RECENT\r\n* FLAGS (\\Seen \\Answered $MDNSent)\r\n"
	    "* OK [PERMANENTFLAGS (\\Seen \\Deleted)] Permanent flags\r\n* OK [UIDVALIDITY 14] UIDVALIDITY value\r\n"
	    "* OK [UIDNEXT 23072] The next unique identifier value\r\nA5 OK [READ-WRITE] SELECT completed.\r\n",
	    "exists 2556 ''\nrecent 0 ''\nother 'FLAGS (\\Seen \\Answered $MDNSent)'\n"
	    "status OK [PERMANENTFLAGS|(\\Seen \\Deleted)] 'Permanent flags'\nstatus OK [UIDVALIDITY|14] code=14 'UIDVALIDITY value'\n"
	    "status OK [UIDNEXT|23072] code=23072 'The next unique identifier value'\ntagged A5 OK [READ-WRITE|] 'SELECT completed.'\n");
	EXPECT("A2 NO [nonexistent] no\r\nA3 BAD Command Error. 10\r\n", "tagged A2 NO [NONEXISTENT|] 'no'\ntagged A3 BAD 'Command Error. 10'\n");
	EXPECT("* OK [UIDNEXT 4294967296] x\r\n", "status OK [UIDNEXT|4294967296] 'x'\n");
	EXPECT("* 99999999999 EXISTS\r\n", "exists 4294967295 ''\n");
	EXPECT("* 5 EXPUNGE\n", "expunge 5 ''\n");
}

static void test_status(void **state)
{
	(void)state;
	EXPECT("* STATUS INBOX (MESSAGES 12 UIDNEXT 99 UIDVALIDITY 14)\r\n", "mailbox messages=12 uidnext=99 uidvalidity=14 "
	    "'STATUS INBOX (MESSAGES 12 UIDNEXT 99 UIDVALIDITY 14)'\n");
	EXPECT("* STATUS {7}\r\na (b\r\nc (uidnext 5 HIGHESTMODSEQ 99999999999999)\r\n",
	    "mailbox uidnext=5 'STATUS a (b??c (uidnext 5 HIGHESTMODSEQ 99999999999999)'\n");
	EXPECT("* STATUS {0}\r\n (UIDNEXT 5)\r\n", "mailbox uidnext=5 'STATUS  (UIDNEXT 5)'\n");
	EXPECT("* OK see {5}\r\n", "status OK 'see {5}'\n");
}

static void test_search(void **state)
{
	(void)state;
	/* exchange-online 4.5 */
	EXPECT("* SEARCH 23072 23073\r\nA8 OK SEARCH completed.\r\n",
	    "numbers 23072-23072\nnumbers 23073-23073\nsearch ''\ntagged A8 OK 'SEARCH completed.'\n");
	EXPECT("* SEARCH\r\n", "search ''\n");
	EXPECT("* SEARCH \r\n", "search ''\n");
	EXPECT("* search 4294967295 (MODSEQ 99999999999999)\r\n", "numbers 4294967295-4294967295\nsearch ''\n");
	EXPECT("* ESEARCH (TAG \"A8\") UID ALL 1:5,7,4294967295:9\r\n",
	    "numbers 1-5\nnumbers 7-7\nnumbers 9-4294967295\nsearch ''\n");
	EXPECT("* ESEARCH (TAG \"A8\") UID ALL 3 COUNT 1\r\n* SEARCH 2\r\n", "numbers 3-3\nsearch ''\nnumbers 2-2\nsearch ''\n");
	EXPECT("* ESEARCH (TAG \"A8\") UID\r\n", "search ''\n");
	EXPECT("* SEARCH 1 4294967296\r\n", "numbers 1-1\nbroken: a number in SEARCH is too large\n");
	EXPECT("* SEARCH 0\r\n", "broken: SEARCH gave something that is no number\n");
	EXPECT("* SEARCH 1 x\r\n", "numbers 1-1\nbroken: SEARCH gave something that is no number\n");
}

static void test_search_of_any_length(void **state)
{
	struct imap_parser *p = imap_parser_new();
	struct trace t = { 0 };
	struct imap_event ev;
	char number[16];
	uint32_t seen = 0;

	(void)state;
	push_all(p, &t, "* SEARCH", 8);
	for (uint32_t uid = 1; uid <= 300000; uid++) {
		size_t len = (size_t)snprintf(number, sizeof(number), " %u", uid), used = 0;

		while (used < len) {
			used += imap_parser_push(p, number + used, len - used, &ev);
			if (ev.what == IMAP_NUMBERS)
				assert_int_equal(ev.lo, ++seen);
			else
				assert_int_equal(ev.what, IMAP_MORE);
		}
	}
	push_all(p, &t, "\r\n", 2);
	assert_int_equal(seen, 299999);
	assert_string_equal(t.v, "numbers 300000-300000\nsearch ''\n");
	assert_true(imap_parser_at_rest(p));
	imap_parser_free(&p);
	free(t.v);
}

static void test_fetch(void **state)
{
	(void)state;
	/* exchange-online 4.6 */
	EXPECT("* 2557 FETCH (UID 23072 FLAGS () INTERNALDATE \"09-Jan-2026 02:02:12 +0000\" RFC822.SIZE 5120 BODY[] {5}\r\na\r\n)b)\r\n",
	    "body '' uid=23072 size=5 <a\r\n)b>\nfetch 2557 uid=23072 flags= date=1767924132 size=5120 bodies=1 ''\n");
	/* the UID may come after the literal, in any case and order, with items nobody asked for */
	EXPECT("* 1 FETCH (body[] {3+}\r\nabc uid 7 flags (\\SEEN \\Deleted $x) MODSEQ (12) ENVELOPE (\"a)\\\"\" {2}\r\n)( NIL) X NIL)\r\n",
	    "body '' uid=0 size=3 <abc>\nfetch 1 uid=7 flags=SD bodies=1 ''\n");
	EXPECT("* 3 FETCH (FLAGS (\\Seen) UID 23072)\r\n", "fetch 3 uid=23072 flags=S bodies=0 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[header.fields (message-id)] {2}\r\nab BODY[TEXT]<0> {1}\r\nc)\r\n",
	    "body 'HEADER.FIELDS (MESSAGE-ID)' uid=7 size=2 <ab>\nbody 'TEXT' uid=7 size=1 <c>\nfetch 1 uid=7 bodies=2 ''\n");
	/* what begins elsewhere is not the whole */
	EXPECT("* 1 FETCH (UID 7 BODY[]<4096> {1}\r\na BODY[TEXT]<12> {1}\r\nb BODY[]<0> {1}\r\nc)\r\n",
	    "body '<4096>' uid=7 size=1 <a>\nbody 'TEXT<12>' uid=7 size=1 <b>\nbody '' uid=7 size=1 <c>\nfetch 1 uid=7 bodies=3 ''\n");
	EXPECT("* 1 FETCH ()\r\n", "fetch 1 uid=0 bodies=0 ''\n");
	EXPECT("* 5000000000 FETCH (UID 4294967295)\n", "fetch 4294967295 uid=4294967295 bodies=0 ''\n");
}

static void test_empty_and_quoted_bodies(void **state)
{
	(void)state;
	/* exchange-online 5.9 */
	EXPECT("* 1 FETCH (BODY[] NIL UID 7)\r\n", "body '' uid=0 size=0 nil <>\nfetch 1 uid=7 bodies=1 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[] NIL)\r\n", "body '' uid=7 size=0 nil <>\nfetch 1 uid=7 bodies=1 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[] \"\")\r\n", "body '' uid=7 size=0 <>\nfetch 1 uid=7 bodies=1 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[] {0}\r\n)\r\n", "body '' uid=7 size=0 <>\nfetch 1 uid=7 bodies=1 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[] \"a\\\"b\\\\)\")\r\n", "body '' uid=7 size=5 <a\"b\\)>\nfetch 1 uid=7 bodies=1 ''\n");
	EXPECT("* 1 FETCH (UID 7 BODY[] {4}\r\n\0\0)\n)\r\n", "body '' uid=7 size=4 <\0\0)\n>\nfetch 1 uid=7 bodies=1 ''\n");
}

static void test_odd_lines(void **state)
{
	(void)state;
	/* exchange-online 5.4, 4.7, 5.9 */
	EXPECT("Server Unavailable. 15\r\n", "stray 'Server Unavailable. 15'\n");
	EXPECT("[COPYUID 55 31 6]\r\n* OK [COPYUID 14  ]\r\n", "stray '[COPYUID 55 31 6]'\nstatus OK [COPYUID|14  ] ''\n");
	EXPECT("\0\0* 1 EXISTS\r\n\r\n\0* 2 EXISTS\n", "exists 1 ''\nexists 2 ''\n");
	EXPECT("* LIST (\\Noselect) \"/\" {3}\r\na\0b\r\n", "other 'LIST (\\Noselect) \"/\" a?b'\n");
	EXPECT("A1 BYE x\r\nA12345678901 OK x\r\nB1 OK x\r\nA OK x\r\n", "stray 'A1 BYE x'\nstray 'A12345678901 OK x'\ntagged B1 OK 'x'\nstray 'A OK x'\n");
	EXPECT("* FETCH (UID 5)\r\n* 5 FETCHED (x)\r\n*\r\n", "other 'FETCH (UID 5)'\nother '5 FETCHED (x)'\nother ''\n");
	EXPECT("* OK [] x\r\n* OK [UID\r\n* OK [a b\r\n", "status OK '[] x'\nstatus OK '[UID'\nstatus OK '[a b'\n");
}

static void test_odd_flags(void **state)
{
	(void)state;
	EXPECT("* 1 FETCH (FLAGS ($MDNSent \\* we]ird {3 {x} \\X-a'b \xe9 [x NIL) UID 5)\r\n* 2 EXISTS\r\n", "fetch 1 uid=5 flags= bodies=0 ''\nexists 2 ''\n");
	EXPECT("* 1 FETCH (FLAGS ({3) UID 5)\r\n", "fetch 1 uid=5 flags= bodies=0 ''\n");
}

static void test_broken_fetch(void **state)
{
	(void)state;
	EXPECT("* 1 FETCH (UID\r\n", "broken: a FETCH response ends too early\n");
	EXPECT("* 1 FETCH (UID 0)\r\n", "broken: FETCH gave a UID that is none\n");
	EXPECT("* 1 FETCH (UID 4294967296)\r\n", "broken: FETCH gave a UID that is none\n");
	EXPECT("* 1 FETCH (UID 5\r\n", "broken: a FETCH response ends too early\n");
	EXPECT("* 1 FETCH (UID)\r\n", "broken: FETCH gave an item without a value\n");
	EXPECT("* 1 FETCH (UID )\r\n", "broken: a FETCH response ends too early\n");
	EXPECT("* 1 FETCH ({5}\r\n", "broken: FETCH gave a value without a name\n");
	EXPECT("* 1 FETCH (BODY[] {}\r\n", "broken: the length of a literal is no number\n");
	EXPECT("* 1 FETCH (BODY[] {99999999999999999999}\r\n", "broken: the length of a literal is too large\n");
	EXPECT("* 1 FETCH (BODY[] {5} x", "broken: a literal does not begin with a new line\n");
	EXPECT("* 1 FETCH (BODY[] \"a\r\n", "broken: a quoted string ends too early\n");
	EXPECT("* 1 FETCH (BODY[] 5)\r\n", "broken: FETCH gave a body that is no string\n");
	EXPECT("* 1 FETCH (BODY[] (a))\r\n", "broken: FETCH gave a body that is no string\n");
	EXPECT("* 1 FETCH (X (((((((((((((((((", "broken: lists are nested too deep\n");
}

static void expect_too_long(const char *start, char fill)
{
	size_t len = strlen(start), total = len + 2 * IMAP_LINE_MAX;
	char *bytes = xmalloc(total);
	struct trace t;

	memcpy(bytes, start, len);
	memset(bytes + len, fill, total - len);
	t = read_cut(bytes, total, total);
	assert_string_equal(t.v, "broken: a line is too long\n");
	free(t.v);
	t = read_bytewise(bytes, total);
	assert_string_equal(t.v, "broken: a line is too long\n");
	free(t.v);
	free(bytes);
}

static void test_lengths_are_bounded(void **state)
{
	static const char *const starts[] = { "* OK ", "", "* 1 FETCH (", "* 1 FETCH (X ", "* 1 FETCH (X \"", "* 1 FETCH (X (", "* 1 FETCH (X {900000}\r\n",
		"* 1 FETCH (BODY[] \"", "* LIST {900000}\r\n", "* 1 FETCH (BODY[" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(starts); i++)
		expect_too_long(starts[i], 'x');
	expect_too_long("* SEARCH ", ' ');
	expect_too_long("* 1 FETCH (X ", ' ');
}

/* Lines of blanks and parentheses, 1,000 of each: what is looked at again and again with each byte would take hours. */
static void test_long_lines_take_no_longer_for_each_byte(void **state)
{
	enum { LEN = 60 * 1024 };
	static const char fills[] = { ' ', '(' };
	char *bytes = xmalloc(LEN);

	(void)state;
	for (size_t i = 0; i < 2 * 1000; i++) {
		struct imap_parser *p = imap_parser_new();
		struct imap_event ev;

		memset(bytes, ' ', LEN);
		memcpy(bytes, "* 1", 3);
		bytes[1] = ' ';
		memset(bytes + LEN / 2, fills[i % 2], LEN / 2);
		assert_int_equal(imap_parser_push(p, bytes, LEN, &ev), LEN);
		assert_int_equal(ev.what, IMAP_MORE);
		imap_parser_free(&p);
	}
	free(bytes);
}

static void test_rest(void **state)
{
	struct imap_parser *p = imap_parser_new();
	struct trace t = { 0 };

	(void)state;
	assert_true(imap_parser_at_rest(p));
	push_all(p, &t, "* 1 EX", 6);
	assert_false(imap_parser_at_rest(p));
	push_all(p, &t, "ISTS\r\n", 6);
	assert_true(imap_parser_at_rest(p));
	push_all(p, &t, "* 1 FETCH (BODY[] {5}\r\nab", 25);
	assert_false(imap_parser_at_rest(p));
	imap_parser_free(&p);
	assert_null(p);
	free(t.v);
}

static void test_internaldate(void **state)
{
	static const char *const bad[] = { "", " ", "5", "32-Jan-2026 02:02:12 +0000", "05-Foo-2026 02:02:12 +0000", "05-Jan-2026 24:02:12 +0000",
		"05-Jan-2026 02:02:12 0000", "05-Jan-2026 02:02:12 +000", "05-Jan-26 02:02:12 +0000", "05-Jan-2026 02:02:12 +0000 ",
		"05-Jan-2026 02:60:12 +0000", "05-Jan-2026 02:02:12 +9900", "-1-Jan-2026 02:02:12 +0000" };
	int64_t s;

	(void)state;
	assert_int_equal(imap_parse_internaldate("09-Jan-2026 02:02:12 +0000", &s), 0);
	assert_int_equal(s, 1767924132);
	assert_int_equal(imap_parse_internaldate("09-Jan-2026 02:02:12 +0130", &s), 0);
	assert_int_equal(s, 1767924132 - 5400);
	assert_int_equal(imap_parse_internaldate(" 9-jan-2026 02:02:12 -0100", &s), 0);
	assert_int_equal(s, 1767924132 + 3600);
	assert_int_equal(imap_parse_internaldate("9-Jan-2026 02:02:12 +0000", &s), 0);
	assert_int_equal(s, 1767924132);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (imap_parse_internaldate(bad[i], &s) == 0)
			fail_msg("accepted: %s", bad[i]);
}

static void test_capability_has(void **state)
{
	(void)state;
	assert_true(imap_capability_has("IMAP4 idle  MOVE", "IDLE"));
	assert_true(imap_capability_has("IMAP4 IDLE", "IMAP4"));
	assert_false(imap_capability_has("IMAP4rev1 IDLEX", "IDLE"));
	assert_false(imap_capability_has("", "IDLE"));
}

static void quoted(const char *utf8, const char *expected)
{
	char *q = imap_quote_mailbox(utf8);

	if (expected == NULL)
		assert_null(q);
	else
		assert_string_equal(q, expected);
	free(q);
}

static void test_quote_mailbox(void **state)
{
	(void)state;
	quoted("INBOX", "\"INBOX\"");
	quoted("Sales & \"Co\\\"", "\"Sales &- \\\"Co\\\\\\\"\"");
	/* RFC 3501 5.1.3's examples */
	quoted("~peter/mail/\xe5\x8f\xb0\xe5\x8c\x97/\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", "\"~peter/mail/&U,BTFw-/&ZeVnLIqe-\"");
	quoted("Entw\xc3\xbcrfe", "\"Entw&APw-rfe\"");
	quoted("\xf0\x9f\x93\xa7", "\"&2D3c5w-\"");
	quoted("", "\"\"");
	quoted("a\nb", NULL);
	quoted("a\x7f", NULL);
	quoted("\xff", NULL);
	quoted("\xc3", NULL);
	quoted("\xc0\xaf", NULL);
	quoted("\xed\xa0\x80", NULL);
	quoted("\xf4\x90\x80\x80", NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greeting_and_capabilities), cmocka_unit_test(test_select), cmocka_unit_test(test_status),
		cmocka_unit_test(test_search), cmocka_unit_test(test_search_of_any_length), cmocka_unit_test(test_fetch),
		cmocka_unit_test(test_empty_and_quoted_bodies), cmocka_unit_test(test_odd_lines), cmocka_unit_test(test_odd_flags), cmocka_unit_test(test_broken_fetch),
		cmocka_unit_test(test_lengths_are_bounded), cmocka_unit_test(test_long_lines_take_no_longer_for_each_byte), cmocka_unit_test(test_rest), cmocka_unit_test(test_internaldate),
		cmocka_unit_test(test_capability_has), cmocka_unit_test(test_quote_mailbox),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
