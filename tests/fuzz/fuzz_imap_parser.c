/* Bytes read whole must give the same events as the same bytes cut in pieces; no length may matter to memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "imap_parser.h"
#include "util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t mix(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3ULL;
	return h;
}

static uint64_t mix_text(uint64_t h, const char *s)
{
	return s != NULL ? mix(h, s, strlen(s) + 1) : mix(h, "-", 1);
}

static uint64_t mix_event(uint64_t h, const struct imap_event *ev)
{
	const struct imap_response *r = ev->response;

	if (ev->what == IMAP_MORE)
		return h;
	if (ev->what == IMAP_BODY)		/* slices differ, their bytes do not */
		return mix(h, ev->body, ev->body_len);
	h = mix(h, &ev->what, sizeof(ev->what));
	h = mix(h, &ev->lo, sizeof(ev->lo));
	h = mix(h, &ev->hi, sizeof(ev->hi));
	h = mix(h, &ev->size_bytes, sizeof(ev->size_bytes));
	h = mix_text(mix_text(h, ev->section), ev->error);
	if (r != NULL) {
		h = mix(h, &r->kind, sizeof(r->kind));
		h = mix(h, &r->number, sizeof(r->number));
		h = mix(h, &r->fetch.uid, sizeof(r->fetch.uid));
		h = mix_text(mix_text(mix_text(h, r->text), r->code), r->code_args);
		h = mix_text(h, r->tag);
	}
	return h;
}

static uint64_t read_in_pieces(const uint8_t *data, size_t size, size_t piece)
{
	struct imap_parser *p = imap_parser_new();
	struct imap_event ev = { .what = IMAP_MORE };
	uint64_t h = 0xcbf29ce484222325ULL;
	size_t at = 0;

	while ((at < size || ev.what != IMAP_MORE) && ev.what != IMAP_BROKEN) {
		size_t len = size - at < piece ? size - at : piece, used = imap_parser_push(p, data + at, len, &ev);

		if (used > len || (used == 0 && len > 0 && ev.what == IMAP_MORE))
			abort();
		at += used;
		h = mix_event(h, &ev);
	}
	imap_parser_free(&p);
	return h;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t whole = read_in_pieces(data, size, size > 0 ? size : 1);
	char *text = xstrndup((const char *)data, size), *quoted;
	int64_t s;

	if (read_in_pieces(data, size, 1) != whole || read_in_pieces(data, size, 7) != whole)
		abort();
	if (imap_parse_internaldate(text, &s) == 0 && strlen(text) > 27)
		abort();
	quoted = imap_quote_mailbox(text);
	imap_capability_has(text, "IDLE");
	free(quoted);
	free(text);
	return 0;
}
