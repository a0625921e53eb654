#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "message.h"
#include "util.h"

#define HEADER_MAX (256 * 1024)

/* What Exchange gives in place of a message begins so; in other languages only its sender is known (exchange-online 5.8 B, 4.6). */
static const char substitute_subject[] = "Retrieval using the IMAP4 protocol failed for the following message:";
static const char substitute_body[] = "The server couldn't retrieve the following message:";
static const char substitute_from[] = "Microsoft Exchange Server", no_host[] = ".MISSING-HOST-NAME.";

static const char *const wanted[HEADER_N] = { [HEADER_MESSAGE_ID] = "message-id:", [HEADER_SUBJECT] = "subject:", [HEADER_FROM] = "from:" };

static void value_add(struct header_value *to, char c)
{
	if (c == '\r' || c == '\n' || (to->len == 0 && (c == ' ' || c == '\t')) || to->len == MESSAGE_ID_MAX)
		return;
	if (to->len == to->room) {
		to->room = to->room == 0 ? 80 : 2 * to->room;
		to->v = xreallocarray(to->v, to->room, 1);
	}
	to->v[to->len++] = c;
}

/* The first character of a line tells whether the field goes on (folded), the header ends, or a field begins. */
static void scan_line_start(struct header_scan *h, char c)
{
	if (c == ' ' || c == '\t')
		return;
	if (h->at == SCAN_VALUE)
		h->values[h->field].over = true;
	h->at = c == '\r' || c == '\n' ? SCAN_BODY : SCAN_NAME;
	h->name_len = 0;
	h->candidates = (1U << HEADER_N) - 1;
}

static void scan_name(struct header_scan *h, char c)
{
	char lower = c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
	bool blank = c == ' ' || c == '\t', moved = false;

	for (unsigned i = 0; i < HEADER_N; i++) {
		if (!(h->candidates & (1U << i)))
			continue;
		if (lower == wanted[i][h->name_len])
			moved = true;
		else if (!(blank && wanted[i][h->name_len] == ':'))	/* obsolete form: blanks before the colon */
			h->candidates &= ~(1U << i);
	}
	h->name_len += moved;
	for (unsigned i = 0; i < HEADER_N; i++)
		if ((h->candidates & (1U << i)) && wanted[i][h->name_len] == '\0') {
			h->field = (enum header_field)i;
			h->at = h->values[i].over ? SCAN_OTHER : SCAN_VALUE;
			return;
		}
	if (h->candidates == 0)
		h->at = SCAN_OTHER;
}

static void scan_body(struct header_scan *h, char c)
{
	if (h->body_len == 0 && strchr("\r\n\t ", c) != NULL && c != '\0')
		return;
	if (c == substitute_body[h->body_len] && ++h->body_len < sizeof(substitute_body) - 1)
		return;
	h->at = SCAN_OVER;
}

void header_scan(struct header_scan *h, const uint8_t *data, size_t len)
{
	if (h->seen_bytes == 0)
		h->line_start = true;
	for (size_t i = 0; i < len && h->at != SCAN_OVER; i++) {
		char c = (char)data[i];

		if (++h->seen_bytes > HEADER_MAX) {
			h->at = SCAN_OVER;
			break;
		}
		if (h->at == SCAN_BODY) {
			scan_body(h, c);
			continue;
		}
		if (h->line_start)
			scan_line_start(h, c);
		h->line_start = c == '\n';
		if (h->at == SCAN_NAME)
			scan_name(h, c);
		else if (h->at == SCAN_VALUE)
			value_add(&h->values[h->field], c);
	}
}

void header_scan_done(struct header_scan *h)
{
	for (size_t i = 0; i < HEADER_N; i++)
		free(h->values[i].v);
	*h = (struct header_scan){ 0 };
}

/* Any case, any blanks for a blank: it may be folded. A quote before it is none of it. */
static bool begins_with(const struct header_value *value, const char *text)
{
	size_t at = value->len > 0 && value->v[0] == '"';

	for (; *text != '\0'; text++) {
		size_t from = at;

		while (*text == ' ' && at < value->len && (value->v[at] == ' ' || value->v[at] == '\t'))
			at++;
		if (*text != ' ' && at < value->len && strncasecmp(value->v + at, text, 1) == 0)
			at++;
		if (at == from)
			return false;
	}
	return true;
}

/* A server's name, and nobody who could be answered. */
static bool is_from_the_server(const struct header_value *from)
{
	return begins_with(from, substitute_from) &&
	    (memchr(from->v, '@', from->len) == NULL || memmem(from->v, from->len, no_host, sizeof(no_host) - 1) != NULL);
}

bool header_is_substitute(const struct header_scan *h)
{
	bool no_id = h->values[HEADER_MESSAGE_ID].len == 0;

	if (begins_with(&h->values[HEADER_SUBJECT], substitute_subject))
		return no_id || h->body_len == sizeof(substitute_body) - 1;
	return no_id && is_from_the_server(&h->values[HEADER_FROM]);
}

char *message_key(const char *id, const char *folder, uint32_t uidvalidity, uint32_t uid)
{
	char *plain = xasprintf("%s/%s/%u/%u", id, folder, uidvalidity, uid), *key = percent_encode(plain, "");

	free(plain);
	return key;
}

void message_key_digest(const char *key, char ret_hex[static KEY_DIGEST_HEX + 1])
{
	unsigned char digest[EVP_MAX_MD_SIZE];

	EVP_Digest(key, strlen(key), digest, NULL, EVP_sha256(), NULL);
	hex_encode(digest, KEY_DIGEST_HEX / 2, ret_hex);
}

void message_hash(const char *message_id, size_t len, int64_t internaldate_s, uint8_t ret_hash[static STORE_HASH_BYTES])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	char text[MESSAGE_ID_MAX + 32];
	int n;

	while (len > 0 && (message_id[len - 1] == ' ' || message_id[len - 1] == '\t'))
		len--;
	memset(ret_hash, 0, STORE_HASH_BYTES);
	if (len == 0 || len > MESSAGE_ID_MAX)
		return;
	n = snprintf(text, 32, "%lld\n", (long long)internaldate_s);
	memcpy(text + n, message_id, len);
	EVP_Digest(text, (size_t)n + len, digest, NULL, EVP_sha256(), NULL);
	memcpy(ret_hash, digest, STORE_HASH_BYTES);
}

void message_free(struct message **message)
{
	struct message *m = *message;

	if (m == NULL)
		return;
	free(m->key);
	free(m->path);
	free(m);
	*message = NULL;
}
