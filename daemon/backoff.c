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

void backoff_describe(enum schedule schedule, char *ret_text, size_t size)
{
	const struct steps *s = &schedules[schedule];
	size_t at = 0;

	ret_text[0] = '\0';
	for (unsigned i = 0; i < s->n && at < size; i++) {
		unsigned seconds = s->seconds[i];
		bool minutes = seconds >= 60 && seconds % 60 == 0;

		at += (size_t)snprintf(ret_text + at, size - at, "%s%u %s", i == 0 ? "" : i + 1U == s->n ? ", then every " : ", ",
		    minutes ? seconds / 60 : seconds, minutes ? "min" : "s");
	}
}
