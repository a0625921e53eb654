/* log.h - log lines, to the journal with fields or to standard error as key=value.
 *
 * A call never blocks: lines go through a bounded queue to a thread of their own; when it is full they are
 * dropped, counted, and the count is logged when there is room again. Safe from any thread.
 * info: what an operator acts on or would tell a colleague. warning: we cope, the text says how. error: somebody
 * must act, the hint says what. debug: phase changes and protocol steps. Never a secret, token or body. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "util.h"

enum log_level { LOG_LEVEL_NONE = -1 /* nothing is logged */, LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Each kind of event an operator acts on has one fixed MESSAGE_ID= (the table is in log.c and mailpolld(8)). */
enum log_event {
	EVENT_NONE,
	EVENT_STARTED, EVENT_START_FAILED, EVENT_STOPPED,
	EVENT_SIGN_IN_FAILED, EVENT_SIGN_IN_RECOVERED,
	EVENT_MAILBOX_STALLED, EVENT_MAILBOX_RECOVERED,
	EVENT_THROTTLED,
	EVENT_DELIVERED, EVENT_QUARANTINED, EVENT_HELD, EVENT_SINK_FAILING,
	EVENT_TOKEN_REFRESHED, EVENT_TOKEN_FAILED, EVENT_TOKEN_DOUBTFUL,
	EVENT_RELOADED, EVENT_RELOAD_FAILED, EVENT_CONFIG_DOUBTFUL,
	EVENT_UIDVALIDITY_CHANGED, EVENT_OWED, EVENT_UNRETRIEVABLE, EVENT_AFTER_REFUSED, EVENT_SERVER_LACKS, EVENT_IDLE_CUT, EVENT_SERVER_ALERT,
	EVENT_STORE_FAILED, EVENT_STORE_RECOVERED,
	EVENT_AUDIT_FAILED, EVENT_AUDIT_RECOVERED, EVENT_WATCHDOG, EVENT_WATCHDOG_WITHHELD,
	EVENT_VERB,
};

/* What the line is about; members that are NULL are left out. Lent for the call. */
struct log_context {
	const char *mailbox, *folder, *credential, *sink;
};

struct log_field { const char *name; const char *value; };	/* journal style: upper case name */

enum log_target { LOG_TO_STDERR, LOG_TO_JOURNAL };

/* Before log_start(), and after log_stop(), lines are written at once. */
enum log_target log_detect_target(void);	/* the journal when standard error is connected to it */
void log_set_target(enum log_target);		/* standard error until then; not while the thread runs */
void log_start(void);
void log_stop(void);				/* writes what is queued, for at most one second */
void log_set_level(enum log_level);
bool log_level_parse(const char *word, enum log_level *ret_level);
const char *log_level_name(enum log_level);
uint64_t log_dropped(void);			/* lines dropped since the start */

const char *log_event_name(enum log_event);	/* "sign-in-failed" */
const char *log_event_id(enum log_event);	/* 32 hex digits */

void log_write(enum log_level, enum log_event, const struct log_context *, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...) PRINTF_LIKE(6, 7);
bool log_enabled(enum log_level);
/* The line as standard error would get it, whatever the level. Caller frees. */
char *log_line(enum log_level, enum log_event, const struct log_context *, const struct log_field *fields, size_t n_fields, const char *text);

#define log_error(ctx, ...) log_write(LOG_LEVEL_ERROR, EVENT_NONE, (ctx), NULL, 0, __VA_ARGS__)
#define log_warning(ctx, ...) log_write(LOG_LEVEL_WARNING, EVENT_NONE, (ctx), NULL, 0, __VA_ARGS__)
#define log_info(ctx, ...) log_write(LOG_LEVEL_INFO, EVENT_NONE, (ctx), NULL, 0, __VA_ARGS__)
#define log_debug(ctx, ...) \
	do { \
		if (log_enabled(LOG_LEVEL_DEBUG)) \
			log_write(LOG_LEVEL_DEBUG, EVENT_NONE, (ctx), NULL, 0, __VA_ARGS__); \
	} while (0)
