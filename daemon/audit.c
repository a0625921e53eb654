#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "audit.h"
#include "clock.h"
#include "log.h"
#include "repeats.h"
#include "util.h"
#include "workers.h"

#define WAITING_BYTES (4 * 1024 * 1024)
#define RETRY_MS 5000

struct audit_job {
	struct job job;
	struct audit *audit;		/* the loop's; NULL: it is gone */
	char *path, *text;
	size_t len, written;
	int fd;				/* -1: to be opened; given back in done() */
	int error;
};
struct audit {
	struct lane *lane;
	char *path;			/* NULL: there was none yet */
	bool off;			/* nothing more comes; what waits is tried once more */
	int fd;				/* the job's while one runs */
	char *text;			/* what waits */
	size_t len, room;
	struct audit_job *job;
	struct event *retry;
	bool reopen;			/* before the next line */
	bool failing;
	struct repeats repeats;
	uint64_t dropped;
};

/* For the daemon's group, whatever the unit's UMask; one that is there keeps its mode. */
static int open_file(const char *path)
{
	const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY;
	int fd = open(path, flags | O_CREAT | O_EXCL, 0640);

	if (fd >= 0)
		fchmod(fd, 0640);
	else if (errno == EEXIST)
		fd = open(path, flags);
	return fd;
}

static void work_audit(struct job *job)
{
	struct audit_job *j = (struct audit_job *)job;

	if (j->fd < 0 && (j->fd = open_file(j->path)) < 0) {
		j->error = errno;
		return;
	}
	while (j->written < j->len) {
		ssize_t n = write(j->fd, j->text + j->written, j->len - j->written);

		if (n >= 0) {
			j->written += (size_t)n;
		} else if (errno != EINTR) {
			j->error = errno;
			return;
		}
	}
}

static void audit_next(struct audit *a);

static void job_free(struct audit_job *j)
{
	free(j->path);
	free(j->text);
	free(j);
}

static void note_outcome(struct audit *a, const struct audit_job *j)
{
	static const char hint[] = "Use a directory that the daemon's user may write to, as the unit's own (/var/log/mailpolld), or make room there; the lines wait.";
	unsigned untold;
	char repeated[16];

	a->failing = j->error != 0;
	if (a->failing && repeats_tell(&a->repeats, "audit", &untold)) {
		log_write(LOG_LEVEL_ERROR, EVENT_AUDIT_FAILED, NULL, (struct log_field[]){ { "FAILURE", "audit" }, { "HINT", hint },
		    { "REPEATED", repeats_text(untold, repeated, sizeof(repeated)) } }, 3,
		    "the audit cannot be written into %s: %s; its lines wait, %llu were dropped. %s", j->path, strerror(j->error),
		    (unsigned long long)a->dropped, hint);
	} else if (!a->failing) {
		if (repeats_over(&a->repeats) || a->dropped > 0)	/* a disk that is only slow loses lines, too */
			log_write(LOG_LEVEL_WARNING, EVENT_AUDIT_RECOVERED, NULL, NULL, 0, "the audit is written into %s again; %llu lines were dropped",
			    j->path, (unsigned long long)a->dropped);
		a->dropped = 0;
	}
}

/* What was not written goes before what came meanwhile. */
static void put_back(struct audit *a, const struct audit_job *j)
{
	size_t left = j->len - j->written;

	if (left == 0)
		return;
	if (a->len + left > a->room) {
		a->room = a->len + left;
		a->text = xreallocarray(a->text, a->room, 1);
	}
	memmove(a->text + left, a->text, a->len);
	memcpy(a->text, j->text + j->written, left);
	a->len += left;
}

static void drop_waiting(struct audit *a)
{
	for (size_t i = 0; i < a->len; i++)
		a->dropped += a->text[i] == '\n';
	a->len = 0;
	if (a->dropped > 0)
		log_write(LOG_LEVEL_ERROR, EVENT_AUDIT_FAILED, NULL, NULL, 0, "the audit is not written into %s any more: %llu lines were dropped",
		    a->path, (unsigned long long)a->dropped);
	a->dropped = 0;
}

static void done_audit(struct job *job)
{
	struct audit_job *j = (struct audit_job *)job;
	struct audit *a = j->audit;
	struct timeval wait = clock_interval(RETRY_MS);

	if (a == NULL) {
		if (j->fd >= 0)
			close(j->fd);
	} else {
		a->job = NULL;
		a->fd = j->fd;
		note_outcome(a, j);
		put_back(a, j);
		if (j->error != 0 && a->off)
			drop_waiting(a);
		else if (j->error != 0)
			event_add(a->retry, &wait);
		audit_next(a);
	}
	job_free(j);
}

/* All that waits. */
static void submit(struct audit *a, bool is_last)
{
	struct audit_job *j = xcalloc(1, sizeof(*j));

	*j = (struct audit_job){ .job = { .work = work_audit, .done = done_audit }, .audit = is_last ? NULL : a, .path = xstrdup(a->path), .text = a->text,
	    .len = a->len, .fd = a->fd };
	a->text = NULL;
	a->len = a->room = 0;
	a->fd = -1;
	if (!is_last)
		a->job = j;
	lane_submit(a->lane, &j->job);
}

static void close_old(struct audit *a)
{
	if (a->reopen && a->fd >= 0) {
		close(a->fd);
		a->fd = -1;
	}
	a->reopen = false;
}

static void audit_next(struct audit *a)
{
	if (a->job != NULL || event_pending(a->retry, EV_TIMEOUT, NULL))
		return;
	close_old(a);
	if (a->path != NULL && a->len > 0)
		submit(a, false);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	audit_next(arg);
}

struct audit *audit_new(struct event_base *base, struct workers *workers)
{
	struct audit *a = xcalloc(1, sizeof(*a));

	a->lane = lane_new(workers, "audit", LANE_DISK, 1);
	a->retry = evtimer_new(base, on_retry, a);
	a->fd = -1;
	return a;
}

/* What came while a job runs follows it on the lane, which has one thread. */
void audit_finish(struct audit *a)
{
	if (a->dropped > 0)
		log_write(LOG_LEVEL_ERROR, EVENT_AUDIT_FAILED, NULL, NULL, 0, "%llu lines of the audit were dropped", (unsigned long long)a->dropped);
	close_old(a);			/* a retry may be waited for since */
	if (a->path != NULL && a->len > 0)
		submit(a, true);
}

void audit_free(struct audit **audit)
{
	struct audit *a = *audit;

	if (a == NULL)
		return;
	if (a->job != NULL)
		a->job->audit = NULL;
	if (a->fd >= 0)
		close(a->fd);
	event_free(a->retry);
	free(a->path);
	free(a->text);
	free(a);
	*audit = NULL;
}

void audit_set_file(struct audit *a, const char *path)
{
	a->off = path == NULL;
	if (!a->off) {
		free(a->path);
		a->path = xstrdup(path);
	} else if (event_pending(a->retry, EV_TIMEOUT, NULL)) {
		event_del(a->retry);
		drop_waiting(a);
	}
	a->reopen = true;
	audit_next(a);
}

void audit_line(struct audit *a, const char *line)
{
	size_t len = strlen(line), in_job = a->job != NULL ? a->job->len : 0;	/* it may come back */

	if (in_job + a->len + len > WAITING_BYTES) {
		a->dropped++;
		return;
	}
	if (a->len + len > a->room) {
		a->room = a->room == 0 ? 4096 : 2 * a->room;
		if (a->room < a->len + len)
			a->room = a->len + len;
		a->text = xreallocarray(a->text, a->room, 1);
	}
	memcpy(a->text + a->len, line, len);
	a->len += len;
	audit_next(a);
}
