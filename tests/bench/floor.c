/* floor - what a workload costs at least, with plain libevent and OpenSSL:
 *
 *   floor fetch PORT CA TOKENFILE USER               FETCH every message of INBOX to nowhere
 *   floor copy  PORT CA TOKENFILE USER DIR           the same into files, written and flushed in batches
 *   floor write DIR N BYTES                          the files alone
 *   floor poll  PORT CA TOKENFILE USERS N AT_ONCE    N mailboxes (USERS is a format with one %u): sign in, STATUS, LOGOUT; twice,
 *                                                    the second time with resumed TLS sessions
 *   floor idle  PORT CA TOKENFILE USERS N            N mailboxes in IDLE until SIGTERM; a line for each EXISTS, and for each
 *                                                    connection that was lost, which is opened again
 *
 * Results are lines of words on standard output; CPU is user and system time of this process in seconds. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "client.h"
#include "disk.h"

#define BATCH_FILES 100
#define BATCH_BYTES (32 * 1024 * 1024)

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static const char *read_token(const char *path)
{
	static char token[8192];
	FILE *f = fopen(path, "re");

	if (f == NULL || fgets(token, sizeof(token), f) == NULL)
		die("%s: no token", path);
	fclose(f);
	token[strcspn(token, "\r\n")] = '\0';
	return token;
}

static struct server make_server(char **argv)
{
	return (struct server){ .port = argv[0], .tls = client_tls(argv[1]), .token = read_token(argv[2]), .base = event_base_new() };
}

/* --- fetch, copy --- */

struct fetch {
	struct disk *disk;		/* NULL: to nowhere */
	int fd;				/* of the message that comes; -1: none */
	uint64_t messages, bytes, this_bytes;
};

static const char *fetch_command(struct client *c, unsigned n)
{
	static const char *const commands[] = { "SELECT INBOX", "UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])" };

	(void)c;
	return n < 2 ? commands[n] : NULL;
}

static void fetch_literal(struct client *c, struct evbuffer *in, size_t len, bool last)
{
	struct fetch *f = c->arg;
	ev_ssize_t n;

	f->bytes += len;
	f->this_bytes += len;
	f->messages += last;
	if (f->disk == NULL) {
		evbuffer_drain(in, len);
		return;
	}
	if (f->fd < 0)
		f->fd = disk_open(f->disk);
	for (; len > 0; len -= (size_t)n)
		if ((n = evbuffer_write_atmost(in, f->fd, (ev_ssize_t)len)) <= 0)
			die("cannot write");
	if (last) {
		disk_close(f->disk, f->fd, f->this_bytes);
		f->fd = -1;
		f->this_bytes = 0;
	}
}

static void fetch_over(struct client *c)
{
	event_base_loopbreak(c->server->base);
}

static void run_fetch(char **argv, const char *dir)
{
	static const struct client_ops ops = { .command = fetch_command, .literal = fetch_literal, .over = fetch_over };
	struct server server = make_server(argv);
	struct fetch f = { .fd = -1, .disk = dir != NULL ? disk_new(dir, BATCH_FILES, BATCH_BYTES) : NULL };
	struct client c = { .ops = &ops, .arg = &f };

	client_open(&c, &server, argv[3]);
	event_base_dispatch(server.base);
	if (f.disk != NULL)
		disk_free(&f.disk);
	printf("messages %llu bytes %llu\n", (unsigned long long)f.messages, (unsigned long long)f.bytes);
}

static void run_write(const char *dir, unsigned n, size_t size)
{
	struct disk *disk = disk_new(dir, BATCH_FILES, BATCH_BYTES);
	char *block = malloc(size);

	if (block == NULL)
		die("no memory");
	memset(block, 'x', size);
	for (unsigned i = 0; i < n; i++) {
		int fd = disk_open(disk);

		if (write(fd, block, size) != (ssize_t)size)
			die("cannot write");
		disk_close(disk, fd, size);
	}
	disk_free(&disk);
	free(block);
}

/* --- many: poll, idle --- */

struct many {
	struct server server;
	struct client *clients;
	char (*users)[96];
	unsigned n, next, done;
	bool *idling, all_idled;	/* idle: which are; once all were */
	unsigned lost;
};

static void many_init(struct many *m, char **argv, const struct client_ops *ops)
{
	m->server = make_server(argv);
	m->n = (unsigned)atoi(argv[4]);
	m->clients = calloc(m->n, sizeof(*m->clients));
	m->users = calloc(m->n, sizeof(*m->users));
	m->idling = calloc(m->n, sizeof(*m->idling));
	if (m->clients == NULL || m->users == NULL || m->idling == NULL)
		die("no memory");
	for (unsigned i = 0; i < m->n; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(m->users[i], sizeof(m->users[i]), argv[3], i);
#pragma GCC diagnostic pop
		m->clients[i].ops = ops;
		m->clients[i].arg = m;
		m->clients[i].index = i;
	}
}

static void many_next(struct many *m)
{
	client_open(&m->clients[m->next], &m->server, m->users[m->next]);
	m->next++;
}

static const char *poll_command(struct client *c, unsigned n)
{
	(void)c;
	return n == 0 ? "STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)" : NULL;
}

static void poll_over(struct client *c)
{
	struct many *m = c->arg;

	if (m->next < m->n)
		many_next(m);
	if (++m->done == m->n)
		event_base_loopbreak(m->server.base);
}

static void run_poll(char **argv, unsigned at_once)
{
	static const struct client_ops ops = { .command = poll_command, .over = poll_over };
	struct many m = { 0 };
	unsigned resumed;

	many_init(&m, argv, &ops);
	for (unsigned round = 0; round < 2; round++) {
		double begun_s = now_s(), cpu_begun_s = cpu_s();

		m.next = m.done = resumed = 0;
		while (m.next < m.n && m.next < at_once)
			many_next(&m);
		event_base_dispatch(m.server.base);
		for (unsigned i = 0; i < m.n; i++)
			resumed += m.clients[i].resumed;
		printf("mailboxes %u resumed %u wall %.6f cpu %.6f\n", m.n, resumed, now_s() - begun_s, cpu_s() - cpu_begun_s);
	}
}

static const char *idle_command(struct client *c, unsigned n)
{
	(void)c;
	return n == 0 ? "SELECT INBOX" : "IDLE";
}

static void idle_line(struct client *c, const char *line)
{
	struct many *m = c->arg;
	const char *exists = strstr(line, " EXISTS");

	if (line[0] == '+') {
		m->idling[c->index] = true;
		if (++m->done == m->n && !m->all_idled) {
			printf("idle %u cpu %.6f\n", m->n, cpu_s());
			m->all_idled = true;
		}
	} else if (m->all_idled && m->idling[c->index] && line[0] == '*' && exists != NULL) {
		printf("exists %u %.6f\n", c->index, now_s());
	} else if (strncmp(line, "* BYE", 5) == 0) {
		fprintf(stderr, "%s: %s\n", m->users[c->index], line);
	}
}

static void open_again(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	struct many *m = c->arg;

	(void)fd, (void)what;
	client_open(c, &m->server, m->users[c->index]);
}

/* A server with thousands of sessions loses one now and then; who measures is told. */
static void idle_lost(struct client *c)
{
	static const struct timeval soon = { .tv_usec = 100000 };
	struct many *m = c->arg;

	if (m->lost++ == m->n)
		die("too many connections lost");
	printf("lost %u %.6f\n", c->index, now_s());
	m->done -= m->idling[c->index];
	m->idling[c->index] = false;
	event_base_once(m->server.base, -1, EV_TIMEOUT, open_again, c, &soon);
}

static void on_term(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	event_base_loopbreak(arg);
}

static void run_idle(char **argv)
{
	static const struct client_ops ops = { .command = idle_command, .line = idle_line, .lost = idle_lost };
	struct many m = { 0 };
	struct event *term;

	setvbuf(stdout, NULL, _IOLBF, 0);
	many_init(&m, argv, &ops);
	term = evsignal_new(m.server.base, SIGTERM, on_term, m.server.base);
	event_add(term, NULL);
	printf("ready\n");		/* nothing is connected yet: whoever measures memory takes its base now */
	if (getchar() == EOF)
		die("nobody is there");
	while (m.next < m.n)
		many_next(&m);
	event_base_dispatch(m.server.base);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	signal(SIGPIPE, SIG_IGN);
	if (strcmp(what, "fetch") == 0 && argc == 6)
		run_fetch(argv + 2, NULL);
	else if (strcmp(what, "copy") == 0 && argc == 7)
		run_fetch(argv + 2, argv[6]);
	else if (strcmp(what, "write") == 0 && argc == 5)
		run_write(argv[2], (unsigned)atoi(argv[3]), (size_t)atol(argv[4]));
	else if (strcmp(what, "poll") == 0 && argc == 8)
		run_poll(argv + 2, (unsigned)atoi(argv[7]));
	else if (strcmp(what, "idle") == 0 && argc == 7)
		run_idle(argv + 2);
	else
		die("floor.c says how");
	return 0;
}
