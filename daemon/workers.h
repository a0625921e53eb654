/* workers.h - threads for what may wait: disks, SQLite, getaddrinfo, the service manager, a program's start.
 *
 * A lane has its own queue and threads; jobs of a lane with one thread keep their order. work() runs on a thread
 * and touches its job only: no libevent, no other module but log and util. done() then runs on the loop, exactly
 * once, also after the owner lost interest; it frees the job. A job owns or has copied all it uses. */
#pragma once
#include <stdbool.h>
#include "clock.h"

struct event_base;
struct workers;
struct lane;

struct job {				/* first member of the caller's own struct; zero it */
	void (*work)(struct job *);
	void (*done)(struct job *);
	struct job *next;		/* private */
	struct lane *lane;		/* private */
	msec_t started_ms;		/* private */
};

enum lane_kind {
	LANE_DISK,			/* watched: a job of more than 20 s is told, one of more than 180 s withholds the watchdog's ping */
	LANE_REMOTE,			/* waits for others (DNS, a directory service, the service manager, the place a backup goes to): not watched */
};

struct workers *workers_new(struct event_base *);
/* Lets what is queued and running finish, at most wait_ms; no done() comes any more. A thread that is stuck is left. */
bool workers_free(struct workers **, msec_t wait_ms);	/* false: a job still runs, what it uses must stay */
/* Lanes live as long as workers. name is static, for logs and thread names (15 characters at most). */
struct lane *lane_new(struct workers *, const char *name, enum lane_kind, unsigned threads);
void lane_submit(struct lane *, struct job *);
/* For how long the oldest job of all LANE_DISK lanes has been in work(); 0: none is. What waits behind it is not asked: a disk that is
 * busy answers one after the other, one that is stuck does not. */
msec_t workers_oldest_ms(struct workers *);
