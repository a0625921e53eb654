/* The clock of the test build: MAILPOLLD_CLOCK_RATE seconds pass in each real one. */
#include <stdlib.h>
#include <time.h>
#include "clock.h"

static double rate(void)
{
	static double value;

	if (value == 0) {
		const char *text = getenv("MAILPOLLD_CLOCK_RATE");

		value = text != NULL ? strtod(text, NULL) : 1;
		if (!(value >= 0.001 && value <= 100000))
			value = 1;
	}
	return value;
}

/* Both readings start at the real time and run from there. */
static double since_start_s(double *ret_start_wall_s, double *ret_start_mono_s)
{
	static double start_wall_s, start_mono_s;
	struct timespec ts;
	double now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
	if (start_mono_s == 0) {
		start_mono_s = now;
		start_wall_s = (double)time(NULL);
	}
	*ret_start_wall_s = start_wall_s;
	*ret_start_mono_s = start_mono_s;
	return (now - start_mono_s) * rate();
}

msec_t clock_now_ms(void)
{
	double wall, mono, passed = since_start_s(&wall, &mono);

	return (msec_t)((mono + passed) * 1000);
}

int64_t clock_wall_ms(void)
{
	double wall, mono, passed = since_start_s(&wall, &mono);

	return (int64_t)((wall + passed) * 1000);
}

int64_t clock_wall_s(void)
{
	return clock_wall_ms() / 1000;
}

struct timeval clock_interval(msec_t ms)
{
	double real_us = ms < 0 ? 0 : (double)ms * 1000 / rate();

	return (struct timeval){ .tv_sec = (time_t)(real_us / 1e6), .tv_usec = (suseconds_t)((int64_t)real_us % 1000000) };
}

uint64_t clock_random(uint64_t below)
{
	uint64_t r = (uint64_t)arc4random() << 32 | arc4random();

	return below == 0 ? 0 : r % below;
}
