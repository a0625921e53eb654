#include <stdio.h>
#include <string.h>
#include "backoff.h"
#include "util.h"

#define ASKED_MIN_MS 1000
#define ASKED_MAX_MS (3600 * 1000)

struct steps { uint8_t n; uint16_t seconds[10]; };	/* the last one stays */

static const struct steps schedules[SCHEDULE_N] = {
	[SCHEDULE_NETWORK] = { 9, { 2, 4, 8, 16, 32, 64, 128, 256, 300 } },
	[SCHEDULE_UNAVAILABLE] = { 4, { 5, 15, 60, 300 } },
	[SCHEDULE_REFUSED] = { 4, { 60, 300, 900, 1800 } },
	[SCHEDULE_NO_ACCESS] = { 3, { 300, 900, 1800 } },
	[SCHEDULE_LOST_ACCESS] = { 4, { 60, 120, 300, 900 } },
	[SCHEDULE_TOKEN] = { 10, { 1, 2, 4, 8, 16, 32, 64, 128, 256, 300 } },
	[SCHEDULE_TOKEN_ADMIN] = { 2, { 900, 1800 } },
	[SCHEDULE_THROTTLED] = { 1, { 300 } },
	[SCHEDULE_SINK] = { 7, { 5, 10, 20, 40, 80, 160, 300 } },
};

static msec_t scaled(msec_t ms, uint32_t random)	/* a part of ms, evenly in [0, ms] */
{
	return (msec_t)((uint64_t)ms * random / UINT32_MAX);
}

msec_t backoff_wait_ms(enum schedule schedule, unsigned attempt, msec_t asked_wait_ms, uint32_t random)
{
	const struct steps *s = &schedules[schedule];
	unsigned step = attempt < 1 ? 1 : attempt > s->n ? s->n : attempt;
	msec_t step_ms = (msec_t)s->seconds[step - 1] * 1000;
	msec_t wait_ms = step_ms / 10 + scaled(step_ms - step_ms / 10, random);

	if (asked_wait_ms > 0) {
		if (asked_wait_ms < ASKED_MIN_MS)
			asked_wait_ms = ASKED_MIN_MS;
		if (asked_wait_ms > ASKED_MAX_MS)
			asked_wait_ms = ASKED_MAX_MS;
	} else if (schedule == SCHEDULE_THROTTLED) {
		asked_wait_ms = step_ms;		/* not said how long: all of it (exchange-online 5.6) */
	}
	if (asked_wait_ms > 0) {
		asked_wait_ms += scaled(asked_wait_ms / 10, random);
		if (wait_ms < asked_wait_ms || schedule == SCHEDULE_THROTTLED)
			wait_ms = asked_wait_ms;
	}
	return wait_ms;
}

msec_t backoff_next_ms(struct backoff *b, const struct failure *why, uint32_t random)
{
	uint8_t *attempts = &b->attempts[why->schedule];

	if (*attempts < UINT8_MAX)
		++*attempts;
	return backoff_wait_ms(why->schedule, *attempts, why->asked_wait_ms, random);
}

static size_t put_time(char *to, size_t size, const char *before, unsigned seconds)
{
	bool minutes = seconds >= 60 && seconds % 60 == 0;
	int len = snprintf(to, size, "%s%u %s", before, minutes ? seconds / 60 : seconds, minutes ? "min" : "s");

	return (size_t)len < size ? (size_t)len : size - 1;
}

void backoff_describe(enum schedule schedule, msec_t asked_wait_ms, char *ret_text, size_t size)
{
	const struct steps *s = &schedules[schedule];
	size_t at = 0;

	if (schedule == SCHEDULE_THROTTLED) {
		put_time(ret_text, size, "as long as the server asks; when it does not say, ", s->seconds[0]);
		return;
	}
	for (unsigned i = 0; i < s->n; i++)
		at += put_time(ret_text + at, size - at, i == 0 ? "" : i + 1U == s->n ? ", then every " : ", ", s->seconds[i]);
	if (asked_wait_ms > 0)
		put_time(ret_text + at, size - at, "; at least ", (unsigned)(asked_wait_ms / 1000));
}
