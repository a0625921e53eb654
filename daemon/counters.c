#include <string.h>
#include "counters.h"

/* from 1 ms, which nobody notices, to the 10 s after which an operator does */
static const double short_bounds[HISTOGRAM_BUCKETS] = { 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30 };
/* from a second to a day: mail that waited while something was down */
static const double long_bounds[HISTOGRAM_BUCKETS] = { 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 43200, 86400 };

void counters_init(struct counters *c)
{
	*c = (struct counters){ .loop_lag.bounds = short_bounds, .sink_duration.bounds = short_bounds, .delivery_lag.bounds = long_bounds };
}

void counters_session_ended(struct counters *c, const char *reason)
{
	size_t i;

	for (i = 0; i < c->n_ended; i++)
		if (strcmp(c->ended[i].reason, reason) == 0)
			break;
	if (i == REASONS_COUNTED)
		return;
	if (i == c->n_ended)
		c->ended[c->n_ended++].reason = reason;
	c->ended[i].n++;
}

void histogram_note(struct histogram *h, double seconds)
{
	size_t i = 0;

	if (!(seconds > 0))
		seconds = 0;
	while (i < HISTOGRAM_BUCKETS && seconds > h->bounds[i])
		i++;
	h->counts[i]++;
	h->sum += seconds;
}

uint64_t histogram_count(const struct histogram *h)
{
	uint64_t n = 0;

	for (size_t i = 0; i <= HISTOGRAM_BUCKETS; i++)
		n += h->counts[i];
	return n;
}
