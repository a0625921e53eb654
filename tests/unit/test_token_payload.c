#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "token_payload.h"
#include "util.h"

#define OID "66666666-7777-8888-9999-000000000000"
#define ISS "\"iss\":\"https://sts.windows.net/11111111-2222-3333-4444-555555555555/\""
#define AUD "\"aud\":\"https://outlook.office365.com\""
#define ROLES "\"roles\":[\"Mail.Read\",\"IMAP.AccessAsApp\"]"
#define NO_ROLE "Add the application permission IMAP.AccessAsApp (Office 365 Exchange Online) and grant admin consent."
#define USER_TOKEN "The token is for a user; use the client-credentials flow."
#define WRONG_SCOPE "Set the scope to https://outlook.office365.com/.default; in a national cloud leave it out, and `cloud` decides."

static char *base64url(const char *text)
{
	size_t len = strlen(text);
	char *out = xmalloc(len * 2 + 8), *end;

	EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text, (int)len);
	for (char *p = out; *p != '\0'; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
	if ((end = strchr(out, '=')) != NULL)
		*end = '\0';
	return out;
}

static void read_json(const char *json, struct token_payload *ret_payload)
{
	char *middle = base64url(json), *token = xasprintf("eyJhbGciOiJSUzI1NiJ9.%s.c2ln", middle);

	token_payload_read(token, ret_payload);
	free(token);
	free(middle);
}

static void test_findings(void **state)
{
	static const struct { const char *json, *finding; } rows[] = {
		{ "{" ISS "," AUD "," ROLES "}", NULL },
		{ "{" ISS "," AUD "}", NO_ROLE },
		{ "{" ISS "," AUD ",\"roles\":[]}", NO_ROLE },
		{ "{" ISS "," AUD ",\"roles\":\"IMAP.AccessAsApp\"}", NO_ROLE },
		{ "{" ISS "," AUD ",\"roles\":[1,null,\"POP.AccessAsApp\"]}", NO_ROLE },
		{ "{" ISS "," AUD "," ROLES ",\"scp\":\"IMAP.AccessAsUser.All\"}", USER_TOKEN },
		{ "{" ISS "," AUD ",\"upn\":\"jo@contoso.example\"}", USER_TOKEN },
		{ "{" ISS ",\"aud\":\"https://graph.microsoft.com\"," ROLES "}", WRONG_SCOPE },
		{ "{" ISS ",\"aud\":\"https://graph.microsoft.com/\"}", WRONG_SCOPE },
		{ "{" ISS ",\"aud\":\"00000003-0000-0000-c000-000000000000\"}", WRONG_SCOPE },
		{ "{" ISS ",\"aud\":\"https://ps.outlook.com\"," ROLES "}", WRONG_SCOPE },
		{ "{\"iss\":\"https://login.microsoftonline.us/t/v2.0\"," AUD "}", NO_ROLE },
		{ "{\"iss\":\"https://sso.example.net/\"," AUD "}", NULL },	/* not Entra's: nothing to say */
		{ "{" AUD "}", NULL },
		{ "{\"iss\":17}", NULL },
	};
	struct token_payload payload;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		read_json(rows[i].json, &payload);
		if (!str_equal(payload.finding, rows[i].finding))
			fail_msg("%s: %s", rows[i].json, payload.finding != NULL ? payload.finding : "nothing");
		token_payload_done(&payload);
	}
}

static void test_object_id(void **state)
{
	static const struct { const char *json, *oid; } rows[] = {
		{ "{\"oid\":\"" OID "\"}", OID },
		{ "{\"oid\":\"" OID "\",\"x\":\"\xc3\xbf\xc3\xbe~~~???\"}", OID },	/* gives - and _ */
		{ "{\"oid\":\"\"}", NULL },
		{ "{\"oid\":7}", NULL },
		{ "{\"oid\":\"a b\"}", NULL },
		{ "{\"oid\":\"66\\n77\"}", NULL },
		{ "{\"oid\":\"00000000000000000000000000000000000000000000000000000000000000000\"}", NULL },
		{ "{\"sub\":\"" OID "\"}", NULL },
	};
	struct token_payload payload;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		read_json(rows[i].json, &payload);
		if (!str_equal(payload.object_id, rows[i].oid))
			fail_msg("%s: %s", rows[i].json, payload.object_id != NULL ? payload.object_id : "nothing");
		token_payload_done(&payload);
		assert_null(payload.object_id);
	}
}

/* Each length's last quantum: no padding is sent, one, two and three characters are in it. */
static void test_every_length(void **state)
{
	struct token_payload payload;
	char json[160];

	(void)state;
	for (int fill = 0; fill < 12; fill++) {
		snprintf(json, sizeof(json), "{\"oid\":\"" OID "\",\"x\":\"%.*s\"}", fill, "????????????");
		read_json(json, &payload);
		assert_string_equal(payload.object_id, OID);
		token_payload_done(&payload);
	}
}

static void test_silence(void **state)
{
	static const char *const tokens[] = { "", ".", "..", "...", "opaque", "a.b", "a.b.c", "a..c", "a.e30.c", "a.W10.c",
		"a.eyJ.c", "a.e30=.c", "a.e3 0.c", "a.e30\n.c", "a.+/+/.c", "a.eyJvaWQiOiI2Ni.c", "a.bnVsbA.c", "a.NQ.c" };
	struct token_payload payload;
	char *token;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
		token_payload_read(tokens[i], &payload);
		assert_null(payload.object_id);
		assert_null(payload.finding);
		token_payload_done(&payload);
	}
	token = xmalloc(40001);
	memset(token, 'e', 40000);
	token[40000] = '\0';
	token[1] = token[39000] = '.';
	token_payload_read(token, &payload);
	assert_null(payload.object_id);
	token_payload_done(&payload);
	free(token);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_findings),
		cmocka_unit_test(test_object_id),
		cmocka_unit_test(test_every_length),
		cmocka_unit_test(test_silence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
