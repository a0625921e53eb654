/* The pure half of token_cache.h: a token endpoint's success answer (RFC 6749 section 5.1, exchange-online 2.5). */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "token_cache.h"
#include "util.h"

#define MAX_BODY_BYTES (256 * 1024)
#define MAX_TOKEN_BYTES (16 * 1024)
#define MAX_SECONDS (10ULL * 366 * 24 * 3600)

/* It becomes part of a SASL message, where a control character would end a field. */
static bool is_token_text(const char *s)
{
	size_t len = s != NULL ? strlen(s) : 0;

	if (len == 0 || len > MAX_TOKEN_BYTES)
		return false;
	for (size_t i = 0; i < len; i++)
		if (s[i] < 0x20 || s[i] > 0x7e)
			return false;
	return true;
}

/* A number or a decimal string; no more than ten years, and a part of a second is one. 0: not told. */
static int take_seconds(const json_t *value, uint64_t *ret_s)
{
	uint64_t s;

	if (value == NULL || json_is_null(value)) {
		s = 0;
	} else if (json_is_integer(value)) {
		if (json_integer_value(value) < 0)
			return -1;
		s = (uint64_t)json_integer_value(value);
	} else if (json_is_real(value)) {
		if (!(json_real_value(value) >= 0))
			return -1;
		s = json_real_value(value) < (double)MAX_SECONDS ? (uint64_t)json_real_value(value) : MAX_SECONDS;
		if (s == 0 && json_real_value(value) > 0)
			s = 1;
	} else if (!json_is_string(value) || parse_u64(json_string_value(value), &s) < 0) {
		return -1;
	}
	*ret_s = s > MAX_SECONDS ? MAX_SECONDS : s;
	return 0;
}

static int take_answer(const json_t *json, struct token_answer *ret_answer)
{
	const char *token = json_string_value(json_object_get(json, "access_token"));
	const json_t *type = json_object_get(json, "token_type");
	uint64_t expires_in_s, refresh_in_s;

	if (!is_token_text(token) || take_seconds(json_object_get(json, "expires_in"), &expires_in_s) < 0)
		return -1;
	if (type != NULL && (!json_is_string(type) || strcasecmp(json_string_value(type), "Bearer") != 0))
		return -1;
	if (take_seconds(json_object_get(json, "refresh_in"), &refresh_in_s) < 0)
		refresh_in_s = 0;
	*ret_answer = (struct token_answer){ xstrdup(token), expires_in_s, refresh_in_s };
	return 0;
}

static void wipe_token(const json_t *json)
{
	const char *token = json_string_value(json_object_get(json, "access_token"));

	if (token != NULL)
		explicit_bzero((char *)(uintptr_t)token, strlen(token));
}

int token_answer_parse(const char *body, size_t len, struct token_answer *ret_answer)
{
	json_t *json = len <= MAX_BODY_BYTES ? json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
	int result = json != NULL ? take_answer(json, ret_answer) : -1;

	wipe_token(json);
	json_decref(json);
	return result;
}

void token_answer_done(struct token_answer *answer)
{
	secret_free(&answer->access_token);
	*answer = (struct token_answer){ 0 };
}
