/* metrics.h - numbers for Prometheus over HTTP, on the address that metrics_listen names: GET /metrics and GET /healthz (200 while
 * mail moves, 503 when health is down), nothing else. The port has no authentication, so there is no name of a mailbox in it unless
 * metrics_per_mailbox is on. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base; struct fleet; struct config;
struct metrics;

/* by_watchdog: that ended the last run. NULL: ret_error says why the configured address cannot be listened on. Without an address nothing listens. */
struct metrics *metrics_new(struct event_base *, struct fleet *, bool by_watchdog, char *ret_error, size_t size);
void metrics_free(struct metrics **);
bool metrics_follow(struct metrics *, const struct config *, char *ret_error, size_t size);	/* listens where it says from now on; false: it cannot */
