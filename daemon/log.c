/* Callers format a line and put it into a queue; one thread writes. Only that thread ever waits for the journal or for
 * whoever reads standard error. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#include "clock.h"
#include "log.h"

#define TEXT_MAX 2048			/* of one message */
#define FIELDS_MAX 16
#define QUEUE_LINES 4096
#define QUEUE_BYTES (2 * 1024 * 1024)
#define STOP_MS 1000

static const struct { const char *name, *id; } events[] = {
	[EVENT_NONE] = { "", "" },
	[EVENT_STARTED] = { "started", "ace3729be1764a82ade9ab55f118798a" },
	[EVENT_STOPPED] = { "stopped", "ad97cafb4a5e428e905759ce2c211a2c" },
	[EVENT_SIGN_IN_FAILED] = { "sign-in-failed", "f4bdd78673c7419189f009512abbd9d6" },
	[EVENT_SIGN_IN_RECOVERED] = { "sign-in-recovered", "2a0f5ef4a0344ddab56ce53f4fe516ab" },
	[EVENT_MAILBOX_STALLED] = { "mailbox-stalled", "6ab7f10765574b92ab9d92b06f38b44f" },
	[EVENT_MAILBOX_RECOVERED] = { "mailbox-recovered", "0d6254ab0b354fc191ac94eb8d39c301" },
	[EVENT_THROTTLED] = { "throttled", "e63fe4aa952e474692b46a62e675acdf" },
	[EVENT_DELIVERED] = { "delivered", "49d26d29513b4a3b900f5239d84cfdbb" },
	[EVENT_QUARANTINED] = { "quarantined", "33465673d5c2494ba5f1ded7332ca77d" },
	[EVENT_HELD] = { "held", "9aed27fbab7b48ba9d94a4240be16a58" },
	[EVENT_TOKEN_REFRESHED] = { "token-refreshed", "d31ab14d23774c0f8ffef019d0676c7e" },
	[EVENT_TOKEN_FAILED] = { "token-failed", "38cbf134494545abac063808970acf66" },
	[EVENT_RELOADED] = { "reloaded", "a792d890f4a5491b8e88b6a1474aacf3" },
	[EVENT_RELOAD_FAILED] = { "reload-failed", "e40030939b004434a5fbd3e04a1ba522" },
	[EVENT_CONFIG_DOUBTFUL] = { "config-doubtful", "4ee209452e2d4930b685337dbacfe39f" },
	[EVENT_UIDVALIDITY_CHANGED] = { "uidvalidity-changed", "ebdc1c76766d48699bd2959526fb194a" },
	[EVENT_UNRETRIEVABLE] = { "unretrievable", "724e396d66c245b99be16ca7a5d6aba1" },
	[EVENT_STORE_FAILED] = { "store-failed", "39f479e922834087b692298d9892d612" },
	[EVENT_STORE_RECOVERED] = { "store-recovered", "cd7dc909d99f41329d18769f039eb9cd" },
	[EVENT_SINK_FAILING] = { "sink-failing", "d893a33d8a3d437a94b889e6bd859964" },
	[EVENT_AFTER_REFUSED] = { "after-refused", "875118c6427a4e0c9ed962635af635d4" },
	[EVENT_SERVER_LACKS] = { "server-lacks", "44cb019398c743e0a4391d4afec92623" },
	[EVENT_IDLE_CUT] = { "idle-cut", "9266d4b966f24c2983a6efa3ce481a1b" },
	[EVENT_SERVER_ALERT] = { "server-alert", "cd47bdfdbd254a698c79756ce9e825ed" },
	[EVENT_OWED] = { "owed", "da5ed6b4a0014e6e8b5ac9fa5e5741b0" },
	[EVENT_AUDIT_FAILED] = { "audit-failed", "2b6da4911dc94d6f8a1248352bd4a80a" },
	[EVENT_AUDIT_RECOVERED] = { "audit-recovered", "71875c1f995d42debd7d5520896520a3" },
	[EVENT_WATCHDOG] = { "watchdog", "a9629c0447d847339bce864ba02185de" },
	[EVENT_START_FAILED] = { "start-failed", "a5b6dc77303b4de8a1629cb261e99840" },
	[EVENT_WATCHDOG_WITHHELD] = { "watchdog-withheld", "2c4a2522e1504f7b849f4047c1e9eb2c" },
	[EVENT_TOKEN_DOUBTFUL] = { "token-doubtful", "ba27498b5c4d41d796f53c4d24c13038" },
	[EVENT_VERB] = { "verb", "ff1cb9ab4e904d4b8c6b266d2a77dfd6" },
};
static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error", [LOG_LEVEL_WARNING] = "warning", [LOG_LEVEL_INFO] = "info", [LOG_LEVEL_DEBUG] = "debug",
};
static const char priorities[] = { [LOG_LEVEL_ERROR] = '3', [LOG_LEVEL_WARNING] = '4', [LOG_LEVEL_INFO] = '6', [LOG_LEVEL_DEBUG] = '7' };

/* For the journal, fields each ended by a newline; for standard error, one line with its newline. */
struct entry { STAILQ_ENTRY(entry) link; size_t len; char text[]; };

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t wanted, empty;
	STAILQ_HEAD(, entry) queue;
	size_t n, bytes;
	bool running, writing, stopping;
	bool stuck;			/* what reads us did not in time: nothing more is written */
	enum log_target target;
	uint64_t dropped, dropped_told;
} queue = { .mutex = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER, .queue = STAILQ_HEAD_INITIALIZER(queue.queue) };
static atomic_int max_level = LOG_LEVEL_INFO;

/* --- names --- */

const char *log_event_name(enum log_event event)
{
	return events[event].name;
}

const char *log_event_id(enum log_event event)
{
	return events[event].id;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

bool log_level_parse(const char *word, enum log_level *ret_level)
{
	for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
		if (strcmp(word, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return true;
		}
	return false;
}

void log_set_level(enum log_level level)
{
	atomic_store(&max_level, (int)level);
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load(&max_level);
}

/* JOURNAL_STREAM names the device and inode of what systemd connected (systemd.exec(5)). */
enum log_target log_detect_target(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (stream != NULL && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev &&
	    st.st_ino == ino)
		return LOG_TO_JOURNAL;
	return LOG_TO_STDERR;
}

/* --- making an entry --- */

struct line { const char *name, *value; };

static void put_logfmt(FILE *out, const char *name, const char *value)
{
	char shown[TEXT_MAX];

	printable(shown, sizeof(shown), value, strlen(value));
	for (const char *c = name; *c != '\0'; c++)
		fputc(*c >= 'A' && *c <= 'Z' ? *c + 'a' - 'A' : *c, out);
	fputc('=', out);
	if (shown[0] != '\0' && strpbrk(shown, " \"=\\") == NULL) {
		fputs(shown, out);
		return;
	}
	fputc('"', out);
	for (const char *c = shown; *c != '\0'; c++) {
		if (*c == '"' || *c == '\\')
			fputc('\\', out);
		fputc(*c, out);
	}
	fputc('"', out);
}

static void put_journal(FILE *out, const char *name, const char *value)
{
	char shown[TEXT_MAX];

	printable(shown, sizeof(shown), value, strlen(value));
	fprintf(out, "%s=%s\n", name, shown);
}

static struct entry *make_entry(enum log_target target, enum log_level level, enum log_event event, const struct line *lines, size_t n,
    const char *text)
{
	char *made = NULL, time[RFC3339_SIZE], priority[2] = { priorities[level], '\0' };
	size_t len = 0;
	FILE *out = open_memstream(&made, &len);
	struct entry *e;

	if (out == NULL)
		abort();
	if (target == LOG_TO_JOURNAL) {
		put_journal(out, "MESSAGE", text);
		put_journal(out, "PRIORITY", priority);
		put_journal(out, "SYSLOG_IDENTIFIER", "mailpolld");
		if (event != EVENT_NONE)
			put_journal(out, "MESSAGE_ID", events[event].id);
		for (size_t i = 0; i < n; i++)
			put_journal(out, lines[i].name, lines[i].value);
	} else {
		fprintf(out, "%s level=%s ", rfc3339(clock_wall_s(), time), level_names[level]);
		if (event != EVENT_NONE)
			fprintf(out, "event=%s ", events[event].name);
		for (size_t i = 0; i < n; i++) {
			put_logfmt(out, lines[i].name, lines[i].value);
			fputc(' ', out);
		}
		put_logfmt(out, "msg", text);
		fputc('\n', out);
	}
	fclose(out);
	e = xmalloc(sizeof(*e) + len);
	e->len = len;
	memcpy(e->text, made, len);
	free(made);
	return e;
}

/* --- writing --- */

static void write_stderr(const char *text, size_t len)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	while (len > 0) {
		ssize_t n = write(STDERR_FILENO, text, len);

		if (n >= 0) {
			text += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			return;
		}
	}
}

static void write_entry(enum log_target target, struct entry *e)
{
	struct iovec fields[FIELDS_MAX + 4];
	int n = 0;

	if (target == LOG_TO_STDERR) {
		write_stderr(e->text, e->len);
		return;
	}
	for (char *at = e->text, *end = e->text + e->len; at < end && n < (int)ARRAY_LEN(fields); n++) {
		char *newline = memchr(at, '\n', (size_t)(end - at));

		fields[n] = (struct iovec){ .iov_base = at, .iov_len = (size_t)(newline - at) };
		at = newline + 1;
	}
	sd_journal_sendv(fields, n);
}

static void *thread_main(void *arg)
{
	struct entry *e;

	(void)arg;
	pthread_setname_np(pthread_self(), "log");
	pthread_mutex_lock(&queue.mutex);
	for (;;) {
		while ((e = STAILQ_FIRST(&queue.queue)) == NULL) {
			pthread_cond_broadcast(&queue.empty);
			if (queue.stopping)
				break;
			pthread_cond_wait(&queue.wanted, &queue.mutex);
		}
		if (e == NULL)
			break;
		STAILQ_REMOVE_HEAD(&queue.queue, link);
		queue.n--;
		queue.bytes -= e->len;
		queue.writing = true;
		pthread_mutex_unlock(&queue.mutex);
		write_entry(queue.target, e);
		free(e);
		pthread_mutex_lock(&queue.mutex);
		queue.writing = false;
	}
	pthread_mutex_unlock(&queue.mutex);
	return NULL;
}

static bool enqueue(struct entry *e)		/* with the mutex held */
{
	if (queue.n >= QUEUE_LINES || queue.bytes + e->len > QUEUE_BYTES)
		return false;
	STAILQ_INSERT_TAIL(&queue.queue, e, link);
	queue.n++;
	queue.bytes += e->len;
	return true;
}

/* There was no room for some lines, and there is now. */
static void tell_dropped(void)			/* with the mutex held */
{
	char text[96];
	struct entry *e;
	uint64_t n = queue.dropped - queue.dropped_told;

	if (n == 0)
		return;
	snprintf(text, sizeof(text), "%llu log lines were dropped: whoever reads the log is too slow", (unsigned long long)n);
	e = make_entry(queue.target, LOG_LEVEL_WARNING, EVENT_NONE, NULL, 0, text);
	if (enqueue(e))
		queue.dropped_told = queue.dropped;
	else
		free(e);
}

static void submit(struct entry *e)
{
	bool taken = false, at_once, running;

	pthread_mutex_lock(&queue.mutex);
	at_once = !queue.running && !queue.stuck;
	running = queue.running;
	if (running) {
		tell_dropped();
		taken = enqueue(e);
	}
	if (!taken && !at_once)
		queue.dropped++;
	pthread_mutex_unlock(&queue.mutex);
	if (running)
		pthread_cond_signal(&queue.wanted);	/* without the mutex held, or it would wait for that at once */
	if (at_once)
		write_entry(queue.target, e);
	if (!taken)
		free(e);
}

void log_set_target(enum log_target target)
{
	queue.target = target;
}

void log_start(void)
{
	pthread_condattr_t monotonic;
	sigset_t all, before;
	pthread_t id;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&queue.empty, &monotonic);
	pthread_condattr_destroy(&monotonic);
	queue.stopping = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&id, NULL, thread_main, NULL) == 0) {
		pthread_detach(id);
		queue.running = true;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void log_stop(void)
{
	struct timespec until;
	int error = 0;

	pthread_mutex_lock(&queue.mutex);
	if (queue.running) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += STOP_MS / 1000;
		queue.running = false;
		queue.stopping = true;
		pthread_cond_signal(&queue.wanted);
		while ((queue.n > 0 || queue.writing) && error == 0)
			error = pthread_cond_timedwait(&queue.empty, &queue.mutex, &until);
		queue.stuck = error != 0;
	}
	pthread_mutex_unlock(&queue.mutex);
}

uint64_t log_dropped(void)
{
	uint64_t n;

	pthread_mutex_lock(&queue.mutex);
	n = queue.dropped;
	pthread_mutex_unlock(&queue.mutex);
	return n;
}

/* --- the call --- */

static void add_line(struct line *lines, size_t *n, const char *name, const char *value)
{
	if (value != NULL && *n < FIELDS_MAX)
		lines[(*n)++] = (struct line){ name, value };
}

static size_t gather(struct line lines[static FIELDS_MAX], const struct log_context *about, const struct log_field *fields, size_t n_fields)
{
	size_t n = 0;

	if (about != NULL) {
		add_line(lines, &n, "MAILBOX", about->mailbox);
		add_line(lines, &n, "FOLDER", about->folder);
		add_line(lines, &n, "CREDENTIAL", about->credential);
		add_line(lines, &n, "SINK", about->sink);
	}
	for (size_t i = 0; i < n_fields; i++)
		add_line(lines, &n, fields[i].name, fields[i].value);
	return n;
}

char *log_line(enum log_level level, enum log_event event, const struct log_context *about, const struct log_field *fields, size_t n_fields,
    const char *text)
{
	struct line lines[FIELDS_MAX];
	struct entry *e = make_entry(LOG_TO_STDERR, level, event, lines, gather(lines, about, fields, n_fields), text);
	char *line = xstrndup(e->text, e->len);

	free(e);
	return line;
}

void log_write(enum log_level level, enum log_event event, const struct log_context *about, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...)
{
	struct line lines[FIELDS_MAX];
	char text[TEXT_MAX];
	va_list args;

	if (!log_enabled(level))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	submit(make_entry(queue.target, level, event, lines,
	    gather(lines, about, fields, n_fields), text));
}
