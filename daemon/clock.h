/* clock.h - the one clock. Every duration and every reading of the time goes through here, so that a test build
 * (clock_scaled.c in place of clock.c) can run an hour in a minute. Not for peers' dates, which are data. */
#pragma once
#include <stdint.h>
#include <sys/time.h>

typedef int64_t msec_t;			/* monotonic milliseconds */

msec_t clock_now_ms(void);
int64_t clock_wall_s(void);		/* seconds since 1970; for logs, status, the store and peers only */
int64_t clock_wall_ms(void);		/* the same in milliseconds, where lines follow each other fast */
/* How long libevent must really wait for ms of this clock to pass. Negative counts as 0. */
struct timeval clock_interval(msec_t ms);
/* A random number, evenly distributed over [0, below); 0 when below is 0. For jitter, not for secrets. */
uint64_t clock_random(uint64_t below);
