#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "imap_trace.h"

#define OUT_BYTES (2 * IMAP_TRACE_LINE)

struct imap_trace {
	void (*line)(void *arg, const char *text);
	void *arg;
	char received[IMAP_TRACE_LINE];	/* of a line that is still coming */
	size_t len;
	uint64_t total;			/* its bytes, kept or not */
	uint64_t body;			/* bytes that have come and were not told yet */
	bool distrusts;
};

struct imap_trace *imap_trace_new(void (*line)(void *arg, const char *text), void *arg)
{
	struct imap_trace *t = xcalloc(1, sizeof(*t));

	t->line = line;
	t->arg = arg;
	return t;
}

void imap_trace_free(struct imap_trace **trace)
{
	free(*trace);
	*trace = NULL;
}

static void tell(struct imap_trace *t, const char *what, const char *text, size_t len, const char *after)
{
	char shown[IMAP_TRACE_LINE + 1], out[OUT_BYTES];

	printable(shown, sizeof(shown), text, len);
	snprintf(out, sizeof(out), "%s%s%s", what, shown, after);
	t->line(t->arg, out);
}

static void tell_formatted(struct imap_trace *t, const char *what, const char *fmt, va_list args) PRINTF_LIKE(3, 0);
static void tell_formatted(struct imap_trace *t, const char *what, const char *fmt, va_list args)
{
	char text[IMAP_TRACE_LINE], after[48] = "";
	int n = vsnprintf(text, sizeof(text), fmt, args);

	if ((size_t)n >= sizeof(text))
		snprintf(after, sizeof(after), "... (%d bytes)", n);
	tell(t, what, text, strlen(text), after);
}

void imap_trace_told(struct imap_trace *t, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	tell_formatted(t, "-- ", fmt, args);
	va_end(args);
}

void imap_trace_sent(struct imap_trace *t, unsigned tag, const char *fmt, va_list args)
{
	char what[24] = "C: ";

	if (tag != 0)
		snprintf(what, sizeof(what), "C: A%u ", tag);
	tell_formatted(t, what, fmt, args);
}

void imap_trace_sent_secret(struct imap_trace *t, const char *before)
{
	tell(t, "C: ", before, strlen(before), "<secret>");
}

/* --- what the server sends --- */

static void tell_body(struct imap_trace *t)
{
	char text[48];

	if (t->body == 0)
		return;
	snprintf(text, sizeof(text), "<%llu bytes>", (unsigned long long)t->body);
	tell(t, "S: ", text, strlen(text), "");
	t->body = 0;
}

static void tell_line(struct imap_trace *t)
{
	char after[48] = "";

	if (t->total > t->len)
		snprintf(after, sizeof(after), "... (%llu bytes)", (unsigned long long)t->total);
	if (t->distrusts)
		t->len = hide_long_words(t->received, t->len, IMAP_TRACE_WORD);
	tell(t, "S: ", t->received, t->len, after);
	t->len = 0;
	t->total = 0;
}

void imap_trace_received(struct imap_trace *t, const void *data, size_t len)
{
	const char *bytes = data;

	if (len > 0)
		tell_body(t);
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] == '\n') {
			tell_line(t);
		} else if (bytes[i] != '\r') {
			if (t->len < sizeof(t->received))
				t->received[t->len++] = bytes[i];
			t->total++;
		}
	}
}

void imap_trace_body(struct imap_trace *t, size_t len)
{
	t->body += len;
}

void imap_trace_was_body(struct imap_trace *t, size_t len)
{
	char text[48];
	size_t n = (size_t)snprintf(text, sizeof(text), "<%zu bytes>", len);

	t->total -= len < t->total ? len : t->total;
	if (t->len > t->total)
		t->len = (size_t)t->total;
	imap_trace_received(t, text, n);
}

void imap_trace_distrust(struct imap_trace *t, bool distrusts)
{
	t->distrusts = distrusts;
}
