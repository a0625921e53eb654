/* imap_trace.h - an IMAP connection as lines a person reads: "C: " what we sent, "S: " what the server sent, "-- " what happened. Bodies are
 * shown as their sizes, a secret as <secret>, what is not printable as ?, and of a long line only its beginning. Pure: bytes in, lines out. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include "util.h"

#define IMAP_TRACE_LINE 1000		/* bytes of a line that are shown */
#define IMAP_TRACE_WORD 40		/* a SASL response with a token in it is longer */

struct imap_trace;
struct imap_trace *imap_trace_new(void (*line)(void *arg, const char *text), void *arg);	/* line must not free the trace */
void imap_trace_free(struct imap_trace **);

void imap_trace_told(struct imap_trace *, const char *fmt, ...) PRINTF_LIKE(2, 3);
void imap_trace_sent(struct imap_trace *, unsigned tag, const char *fmt, va_list) PRINTF_LIKE(3, 0);	/* a line; tag 0: without one */
void imap_trace_sent_secret(struct imap_trace *, const char *before);	/* a line whose rest is a secret */

void imap_trace_received(struct imap_trace *, const void *data, size_t len);	/* cut anywhere */
void imap_trace_body(struct imap_trace *, size_t len);		/* in place of so many bytes that have come */
void imap_trace_was_body(struct imap_trace *, size_t len);	/* the last so many bytes received were a body */
/* While a server is told a secret it might repeat it: long words of what it says are shown as their sizes, too. */
void imap_trace_distrust(struct imap_trace *, bool);
