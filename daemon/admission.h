/* admission.h - who may go first: per credential, how many sessions start in a second and at a time, the mailbox longest
 * without a look first; how many fetch at a time, in turn. So that a restart with thousands of mailboxes is no login
 * storm and a full mailbox does not starve the others. When the server throttles several mailboxes of a credential within
 * a minute, all of the credential slows down: half of its sessions per second, again half with each further such minute;
 * each minute without one doubles them until they are what the configuration says. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include "clock.h"

struct event_base; struct config;
struct admission;
struct gate;				/* one credential's */

struct seat_ops {			/* arg is the seat's */
	void (*admit)(void *arg);
	void (*fetch_admit)(void *arg);
	msec_t (*last_turn_ms)(const void *arg);	/* 0: never */
};
struct seat {				/* a mailbox's; the caller's, zeroed; private */
	const struct seat_ops *ops;
	void *arg;
	struct gate *gate;
	bool waiting, starting, fetch_waiting, fetching;
	msec_t turn_ms; uint64_t asked; size_t place;		/* while waiting: in the gate's order */
	TAILQ_ENTRY(seat) fetch_link;
};

struct admission *admission_new(struct event_base *);
void admission_free(struct admission **);	/* after every seat has been left */
void admission_configure(struct admission *, const struct config *);

void seat_take(struct admission *, struct seat *, const char *credential, const struct seat_ops *, void *arg);
void seat_leave(struct seat *);
void seat_want_session(struct seat *);		/* admit() follows, from the loop */
void seat_started(struct seat *);
void seat_want_fetch(struct seat *);		/* fetch_admit() follows, perhaps at once */
void seat_fetch_over(struct seat *);		/* also for one that still waits */
void seat_throttled(struct seat *);		/* the server asked this mailbox to wait */

struct gate_snapshot {
	size_t seats, waiting, starting, fetching;
	double sessions_per_second;	/* now; 0: no limit */
	bool slowed;			/* because the server throttles */
};
/* Zeroes for a credential without mailboxes. */
void admission_snapshot(const struct admission *, const char *credential, struct gate_snapshot *ret);
