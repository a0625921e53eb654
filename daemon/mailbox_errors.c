/* What went wrong with a mailbox: into the log on change and then hourly, and the last of it kept for who asks. What its server wants a person
 * to be told goes into the log, too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "imap_trace.h"
#include "mailbox_private.h"
#include "util.h"

#define ERRORS_KEPT 5
#define ALERTS_KEPT 4			/* different ones; more of them are not told in an hour */
#define ALERT_AGAIN_MS (60 * 60 * 1000)	/* repeats.c's */
#define NEW_HOLD_MS (10 * 60 * 1000)	/* longer than any wait between two tries: something worked in between */

/* The newest first. Most mailboxes never fail, so room is made by the first failure. */
static void keep(struct mailbox *m, const struct failure *why)
{
	struct mailbox_error *e = m->errors;

	if (m->n_errors > 0 && strcmp(e->name, why->name) == 0 && strncmp(e->text, why->text, sizeof(e->text) - 1) == 0) {
		e->times++;
		e->last_wall_s = clock_wall_s();
		return;
	}
	if (e == NULL)
		e = m->errors = xcalloc(ERRORS_KEPT, sizeof(*e));
	if (m->n_errors < ERRORS_KEPT)
		m->n_errors++;
	memmove(e + 1, e, (m->n_errors - 1) * sizeof(*e));
	*e = (struct mailbox_error){ .name = why->name, .first_wall_s = clock_wall_s(), .last_wall_s = clock_wall_s(), .times = 1 };
	printable(e->text, sizeof(e->text), why->text, strlen(why->text));
}

const struct mailbox_error *mailbox_errors(const struct mailbox *m, size_t *ret_n)
{
	*ret_n = m->n_errors;
	return m->errors;
}

static void tell(const struct mailbox *m, enum log_event event, const char *folder, const char *sink, const struct failure *why, msec_t wait_ms,
    unsigned untold)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .credential = m->log.credential, .folder = folder, .sink = sink };
	enum log_level level = why->fail == FAIL_ADMIN || why->fail == FAIL_TOKEN ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING;
	char repeated[24], more[80] = "";
	struct log_field fields[] = { { "FAILURE", why->name }, { "HINT", why->hint[0] != '\0' ? why->hint : NULL },
		{ "REPEATED", repeats_text(untold, repeated, sizeof(repeated)) } };

	if (untold > 0)
		snprintf(more, sizeof(more), "; the same %u times since this was last logged", untold);
	log_write(level, event, &ctx, fields, ARRAY_LEN(fields), "%s (trying again in %lld s%s)%s%s", why->text, (long long)(wait_ms + 999) / 1000,
	    more, why->hint[0] != '\0' ? "; " : "", why->hint);
}

static enum log_event event_of(const struct mailbox *m, const struct failure *why)
{
	if (why->schedule == SCHEDULE_THROTTLED)
		return EVENT_THROTTLED;
	return m->opened ? EVENT_MAILBOX_STALLED : EVENT_SIGN_IN_FAILED;
}

/* What a credential's token fails for is logged once, by its owner. */
void mailbox_failed(struct mailbox *m, const struct failure *why, msec_t wait_ms, bool is_tokens)
{
	unsigned untold;

	keep(m, why);
	if (is_tokens || !repeats_tell(&m->failing, why->name, &untold))
		return;
	m->sign_in_failed = event_of(m, why) == EVENT_SIGN_IN_FAILED;
	tell(m, event_of(m, why), NULL, NULL, why, wait_ms, untold);
}

void mailbox_folder_failed(struct mailbox *m, struct folder *f, const struct failure *why, msec_t wait_ms)
{
	unsigned untold;

	keep(m, why);
	if (repeats_tell(&f->refusing, why->name, &untold))
		tell(m, EVENT_MAILBOX_STALLED, f->name, NULL, why, wait_ms, untold);
}

void mailbox_folder_recovered(struct mailbox *m, struct folder *f)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .credential = m->log.credential, .folder = f->name };

	if (repeats_over(&f->refusing))
		log_write(LOG_LEVEL_INFO, EVENT_MAILBOX_RECOVERED, &ctx, NULL, 0, "the folder can be opened again");
}

void mailbox_held(struct mailbox *m, const struct failure *why, msec_t wait_ms, const char *sink)
{
	unsigned untold;

	keep(m, why);
	if (m->holds == 0 || clock_now_ms() - m->held_last_ms > NEW_HOLD_MS)
		m->held_since_ms = clock_now_ms();
	m->held_last_ms = clock_now_ms();
	m->holds++;
	if (m->trace != NULL)
		imap_trace_told(m->trace, "held: %s", why->text);
	if (repeats_tell(&m->holding, why->name, &untold))
		tell(m, EVENT_HELD, NULL, sink, why, wait_ms, untold);
}

struct alert { char text[200]; struct repeats repeats; };	/* "": none */

/* The one with this text, or the first place for it. NULL: there is none. */
static struct alert *find_alert(struct mailbox *m, const char *text)
{
	struct alert *place = NULL;

	if (m->alerts == NULL)
		m->alerts = xcalloc(ALERTS_KEPT, sizeof(*m->alerts));
	for (struct alert *a = m->alerts; a < m->alerts + ALERTS_KEPT; a++) {
		if (strcmp(a->text, text) == 0)
			return a;
		if (place == NULL && (a->text[0] == '\0' || clock_now_ms() - a->repeats.told_ms >= ALERT_AGAIN_MS))
			place = a;
	}
	if (place != NULL) {
		place->repeats = (struct repeats){ 0 };
		snprintf(place->text, sizeof(place->text), "%s", text);
	}
	return place;
}

void mailbox_alerted(void *mailbox, const char *text)
{
	struct mailbox *m = mailbox;
	char shown[sizeof(m->alerts->text)], repeated[24], more[80] = "";
	struct log_field field = { "REPEATED", NULL };
	struct alert *a;
	unsigned untold;

	printable(shown, sizeof(shown), text, strlen(text));
	if (shown[0] == '\0' || (a = find_alert(m, shown)) == NULL || !repeats_tell(&a->repeats, a->text, &untold))
		return;
	if (untold > 0)
		snprintf(more, sizeof(more), " (the same %u times since this was last logged)", untold);
	field.value = repeats_text(untold, repeated, sizeof(repeated));
	log_write(LOG_LEVEL_WARNING, EVENT_SERVER_ALERT, &m->log, &field, 1, "the server says: %s%s", shown, more);
}

void mailbox_released(struct mailbox *m)
{
	struct log_context ctx = { .mailbox = m->log.mailbox, .credential = m->log.credential, .sink = sink_conf(m->sink)->name };

	if (repeats_over(&m->holding))
		log_write(LOG_LEVEL_INFO, EVENT_MAILBOX_RECOVERED, &ctx, NULL, 0, "the sink takes messages again after %u failures", m->holds);
	m->holds = 0;
}
