/* backoff.h - how long to wait before the next attempt. Pure: (schedule, attempt, what was asked, random) -> wait. */
#pragma once
#include "clock.h"
#include "failure.h"

/* attempt counts from 1: the first failure in a row. Full jitter over the schedule's step (never under a tenth
 * of it); never less than what was asked, which is clamped to 1 s .. 1 h and gets 0 to 10 % on top. random: any
 * 32 bits. */
msec_t backoff_wait_ms(enum schedule, unsigned attempt, msec_t asked_wait_ms, uint32_t random);

/* How often in a row, on each schedule: who fails now so, now otherwise, is not tried as if it were the first time. The owner zeroes it
 * at first and after a success. */
struct backoff { uint8_t attempts[SCHEDULE_N]; };
msec_t backoff_next_ms(struct backoff *, const struct failure *, uint32_t random);	/* counts it; the wait */

/* The schedule in words: "5 min, 15 min, then every 30 min". asked_wait_ms: what counts as asked for when the server says nothing. */
void backoff_describe(enum schedule, msec_t asked_wait_ms, char *ret_text, size_t size);
