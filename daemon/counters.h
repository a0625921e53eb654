/* counters.h - what has happened since the start, for metrics: plain numbers that the loop alone writes. Pure. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 14
struct histogram {			/* of seconds */
	const double *bounds;		/* HISTOGRAM_BUCKETS of them, ascending; static */
	uint64_t counts[HISTOGRAM_BUCKETS + 1];	/* the last one: above all bounds */
	double sum;
};
#define REASONS_COUNTED 96		/* the failure table has fewer rows */
struct counters {
	uint64_t sessions_opened;	/* signed in */
	struct { const char *reason; uint64_t n; } ended[REASONS_COUNTED]; size_t n_ended;	/* sessions, by failure name or "planned" */
	uint64_t delivered, refused, temporary;	/* attempts of all sinks, by outcome */
	uint64_t delivered_bytes;
	uint64_t throttled_ms;		/* asked for by servers */
	uint64_t stalls;		/* sessions torn down for being past their deadline */
	struct histogram loop_lag, delivery_lag, sink_duration;
};

void counters_init(struct counters *);
void counters_session_ended(struct counters *, const char *reason);	/* static text */
void histogram_note(struct histogram *, double seconds);		/* below 0 counts as 0 */
uint64_t histogram_count(const struct histogram *);
