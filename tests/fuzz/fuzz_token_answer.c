/* What the token endpoint sends: its answer's JSON, and the payload of the token in it. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "token_cache.h"
#include "token_payload.h"
#include "util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_payload(const char *token)
{
	struct token_payload payload;

	token_payload_read(token, &payload);
	assert(payload.object_id == NULL || strlen(payload.object_id) <= 64);
	token_payload_done(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct token_answer answer;
	char *token = xstrndup((const char *)data, size);

	read_payload(token);
	secret_free(&token);
	if (token_answer_parse((const char *)data, size, &answer) < 0)
		return 0;
	assert(strlen(answer.access_token) > 0 && strlen(answer.access_token) <= 16384);
	assert(strpbrk(answer.access_token, "\001\r\n") == NULL);
	assert(answer.expires_in_s <= 10ULL * 366 * 24 * 3600 && answer.refresh_in_s <= 10ULL * 366 * 24 * 3600);
	read_payload(answer.access_token);
	token_answer_done(&answer);
	return 0;
}
