/* health.h - what systemd hears from us (sd_notify); all calls do nothing without NOTIFY_SOCKET. Notifications leave from
 * a lane of their own, so a service manager that does not read cannot block the loop. WATCHDOG=1 goes out at half
 * the unit's interval and only while alive() agrees (promise 8): a loop that turns but serves nobody is restarted
 * too. Also measures the loop's lag. */
#pragma once
#include <stdbool.h>
#include "clock.h"
#include "util.h"

struct event_base; struct workers;
struct health; struct counters;

struct health *health_new(struct event_base *, struct workers *, bool (*alive)(void *arg), void *arg);
void health_free(struct health **);		/* what waits, STOPPING=1 above all, still leaves as long as workers_free() waits */
void health_ready(struct health *);		/* configuration read, state open, loop turning; again after a reload */
void health_reloading(struct health *);		/* RELOADING=1 with MONOTONIC_USEC= */
void health_stopping(struct health *);
void health_status(struct health *, const char *fmt, ...) PRINTF_LIKE(2, 3);	/* sent when it changed, at most once a second */
void health_set_counters(struct health *, struct counters *);	/* lent: gets the loop's lag */
msec_t health_lag_max_ms(struct health *);	/* how late the loop's timers came at worst since the last call */
