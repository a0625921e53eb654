/* clock.h for a test program, RATE times too fast: included once, it takes the place of clock.c. */
#pragma once
#include <time.h>
#include "clock.h"

#ifndef RATE
#define RATE 100			/* at most 1000 */
#endif

msec_t clock_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((msec_t)t.tv_sec * 1000000000 + t.tv_nsec) / (1000000 / RATE);
}

int64_t clock_wall_s(void)
{
	return clock_now_ms() / 1000;
}

struct timeval clock_interval(msec_t ms)
{
	return (struct timeval){ .tv_sec = ms / 1000 / RATE, .tv_usec = (ms * 1000 / RATE) % 1000000 };
}

uint64_t clock_random(uint64_t below)
{
	return below / 2;
}
