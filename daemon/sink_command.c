#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
#include "config.h"
#include "sink_command.h"
#include "util.h"
#include "volume.h"
#include "workers.h"

#define KILL_AFTER_MS 5000		/* SIGTERM, then SIGKILL */
#define HURRIED_KILL_AFTER_MS 1500	/* the same when the daemon stops */
#define SIGNALS_STUCK 3			/* the second SIGKILL: the first has not ended it */
#define SAID_MAX 512			/* of what it printed, kept for the failure's text */
#define SAID_AT_ONCE (64 * 1024)	/* read in one go, however fast it prints */

struct child;
struct sink_command {
	const struct sink_env *env;
	const struct sink_conf *conf;	/* lent */
	char *spool_dir;
	struct child *waiting, **waiting_end;	/* in the order of arrival */
	unsigned n_waiting;
	struct child *running;			/* the one that is being started is among them */
	unsigned n_running;
	bool starting;				/* one at a time: a program whose disk hangs takes one thread, not all */
	bool hurried;
	struct event *refuse_ev;		/* active: hurried, and some wait */
};
struct child {				/* one attempt; freed with its answer */
	struct child *next;
	struct sink_command *sink;
	struct message *message;
	sink_done_cb *cb;
	void *arg;
	pid_t pid;
	int pidfd, said_fd;		/* -1: it has not been started */
	struct event *exit_ev, *said_ev, *timer;
	bool timed_out;
	unsigned n_signals;		/* that were to end it */
	char said[SAID_MAX];
	size_t said_len;
};

static void on_refuse(evutil_socket_t fd, short what, void *arg);

static void *command_open(const struct sink_env *env, const struct sink_conf *conf)
{
	struct sink_command *s = xcalloc(1, sizeof(*s));

	s->env = env;
	s->conf = conf;
	s->spool_dir = xasprintf("%s/spool", env->state_dir);
	s->waiting_end = &s->waiting;
	s->refuse_ev = event_new(env->base, -1, 0, on_refuse, s);
	return s;
}

static void command_close(void *self)
{
	struct sink_command *s = self;

	event_free(s->refuse_ev);
	free(s->spool_dir);
	free(s);
}

struct place_answer { struct sink_command *sink; sink_place_cb *cb; void *arg; };

static void on_place(void *arg)
{
	struct place_answer *a = arg;
	struct spool_place place = { .dir = a->sink->spool_dir, .volume = a->sink->env->state_volume, .mode = 0600, .gid = (gid_t)-1 };

	a->cb(a->arg, &place, NULL);
	free(a);
}

/* Who finds too little room there writes nothing, and so nobody else would see that there is some again. */
static void command_prepare(void *self, const struct mailbox_conf *mailbox, const char *folder, sink_place_cb *cb, void *arg)
{
	struct place_answer *a = xcalloc(1, sizeof(*a));

	(void)mailbox, (void)folder;
	*a = (struct place_answer){ .sink = self, .cb = cb, .arg = arg };
	volume_look_free(a->sink->env->state_volume, a->sink->spool_dir, on_place, a);
}

/* --- one child --- */

static void start_waiting(struct sink_command *s);

static void child_free(struct child *c)
{
	if (c->exit_ev != NULL)
		event_free(c->exit_ev);
	if (c->said_ev != NULL)
		event_free(c->said_ev);
	if (c->timer != NULL)
		event_free(c->timer);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->said_fd >= 0)
		close(c->said_fd);
	free(c);
}

static void answer(struct child *c, enum sink_outcome outcome, const struct failure *why)
{
	struct sink_command *s = c->sink;
	struct message *message = c->message;
	sink_done_cb *cb = c->cb;
	void *arg = c->arg;

	for (struct child **p = &s->running; *p != NULL; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			s->n_running--;
			break;
		}
	}
	child_free(c);
	start_waiting(s);
	cb(arg, message, outcome, why);		/* the last: it may let go of the sink */
}

/* False: its last writer is gone. */
static bool read_said(struct child *c)
{
	char rest[4096];
	ssize_t n = -1;

	for (size_t all = 0; all < SAID_AT_ONCE && (n = read(c->said_fd, rest, sizeof(rest))) > 0; all += (size_t)n) {
		size_t room = sizeof(c->said) - 1 - c->said_len, take = (size_t)n < room ? (size_t)n : room;

		memcpy(c->said + c->said_len, rest, take);	/* what is over the bound is read and dropped */
		c->said_len += take;
	}
	return n != 0;
}

static void on_said(evutil_socket_t fd, short what, void *arg)
{
	struct child *c = arg;

	(void)fd, (void)what;
	if (!read_said(c))
		event_del(c->said_ev);
}

static void set_timer(struct child *c, msec_t ms)
{
	struct timeval tv = clock_interval(ms);

	event_add(c->timer, &tv);
}

/* It waits in the kernel. So does its message: two at a time would be worse than none. */
static void tell_stuck(const struct child *c)
{
	const char *program = c->sink->conf->command[0];
	struct failure why;
	char hint[200];

	snprintf(hint, sizeof(hint), "Look at the kernel's log: process %d waits for a disk or a network file system, and its message waits for it.",
	    (int)c->pid);
	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "command-stuck", hint, "%s does not end though killed", program);
	c->cb(c->arg, c->message, SINK_STUCK, &why);
}

static void on_child_timer(evutil_socket_t fd, short what, void *arg)
{
	struct child *c = arg;

	(void)fd, (void)what;
	kill(-c->pid, c->n_signals == 0 ? SIGTERM : SIGKILL);
	if (!c->sink->hurried)		/* a stop is not its fault: what it ends with counts */
		c->timed_out = true;
	if (++c->n_signals == SIGNALS_STUCK)
		tell_stuck(c);
	set_timer(c, c->sink->hurried ? HURRIED_KILL_AFTER_MS : KILL_AFTER_MS);
}

static void describe(const struct child *c, const siginfo_t *info, struct failure *why)
{
	char said[200], what[64], hint[200];
	size_t len = c->said_len;

	while (len > 0 && (c->said[len - 1] == '\n' || c->said[len - 1] == '\r'))
		len--;
	printable(said, sizeof(said), c->said, len);
	if (c->timed_out)
		snprintf(what, sizeof(what), "time limit of %lld s passed", (long long)(c->sink->conf->timeout_ms / 1000));
	else if (info->si_code == CLD_EXITED)
		snprintf(what, sizeof(what), "exit status %d", info->si_status);
	else
		snprintf(what, sizeof(what), "ended by signal %d", info->si_status);
	snprintf(hint, sizeof(hint), "See why %s fails; it is tried again with the same message.", c->sink->conf->command[0]);
	failure_set(why, FAIL_WAIT, SCHEDULE_SINK, "command", hint, "%s: %s%s%s", c->sink->conf->command[0], what,
	    said[0] != '\0' ? ": " : "", said);
}

/* The pidfd would stay readable for ever. */
static void ended_unseen(struct child *c, int error)
{
	struct failure why;

	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "command", "The message is tried again; if it stays so, please report the log line.",
	    "%s has ended, nobody knows how: %s", c->sink->conf->command[0], strerror(error));
	answer(c, SINK_TEMPORARY, &why);
}

static void on_exit_event(evutil_socket_t fd, short what, void *arg)
{
	struct child *c = arg;
	siginfo_t info = { 0 };
	struct failure why;

	(void)fd, (void)what;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0) {
		ended_unseen(c, errno);
		return;
	}
	if (info.si_pid == 0)
		return;
	read_said(c);
	if (info.si_code == CLD_EXITED && info.si_status == 0 && !c->timed_out) {
		answer(c, SINK_DELIVERED, NULL);
		return;
	}
	describe(c, &info, &why);
	answer(c, info.si_code == CLD_EXITED && info.si_status == EX_DATAERR && !c->timed_out ? SINK_REFUSED : SINK_TEMPORARY, &why);
}

/* --- its birth --- */

/* On a lane: a program's file may lie on a disk that hangs, and exec() waits for it. */
struct spawn_job {
	struct job job;
	struct child *child;		/* the loop's; it waits for this */
	char *path, **argv, **env;
	pid_t pid;
	int pidfd, said_fd;
	int file_error, error;		/* errno: of the message's file; of the program's start. Both 0: it runs */
};

#define N_ENV 10

static char **make_environment(const struct message *m)
{
	char **env = xcalloc(N_ENV + 1, sizeof(*env));
	const char *path = getenv("PATH"), *lang = getenv("LANG");
	char date[RFC3339_SIZE];

	env[0] = xasprintf("PATH=%s", path != NULL ? path : "/usr/local/bin:/usr/bin:/bin");
	env[1] = xasprintf("LANG=%s", lang != NULL ? lang : "C.UTF-8");
	env[2] = xasprintf("MAILPOLLD_ADDRESS=%s", m->mailbox->address);
	env[3] = xasprintf("MAILPOLLD_ID=%s", m->mailbox->id);
	env[4] = xasprintf("MAILPOLLD_FOLDER=%s", m->folder);
	env[5] = xasprintf("MAILPOLLD_UID=%u", m->uid);
	env[6] = xasprintf("MAILPOLLD_UIDVALIDITY=%u", m->uidvalidity);
	env[7] = xasprintf("MAILPOLLD_KEY=%s", m->key);
	env[8] = xasprintf("MAILPOLLD_SIZE=%llu", (unsigned long long)m->size_bytes);
	env[9] = xasprintf("MAILPOLLD_INTERNALDATE=%s", rfc3339(m->internaldate_s, date));
	return env;
}

static char **make_arguments(const struct sink_conf *conf, const struct message *m)
{
	size_t n = 0;
	char **argv;
	const char *why;

	while (conf->command[n] != NULL)
		n++;
	argv = xcalloc(n + 1, sizeof(*argv));
	argv[0] = xstrdup(conf->command[0]);
	for (size_t i = 1; i < n; i++) {
		argv[i] = config_expand(conf->command[i], m->mailbox, m->folder, &why);
		if (argv[i] == NULL)	/* the configuration was checked; never a shorter command than written */
			argv[i] = xstrdup("");
	}
	return argv;
}

static int spawn(struct spawn_job *j, int message_fd, int said_fd)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int error;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, message_fd, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&files, said_fd, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, said_fd, STDERR_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);	/* also what a library opened without O_CLOEXEC */
	posix_spawn_file_actions_addchdir_np(&files, "/");
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	error = posix_spawn(&j->pid, j->argv[0], &files, &attr, j->argv, j->env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

static void work_spawn(struct job *job)
{
	struct spawn_job *j = (struct spawn_job *)job;
	int message_fd = open(j->path, O_RDONLY | O_CLOEXEC), said[2];

	if (message_fd < 0) {
		j->file_error = errno;
		return;
	}
	if (pipe2(said, O_CLOEXEC) < 0) {	/* a pipe, which a script can open by its name: > /dev/stderr */
		j->error = errno;
		close(message_fd);
		return;
	}
	j->error = spawn(j, message_fd, said[1]);
	close(message_fd);
	close(said[1]);
	j->said_fd = said[0];
	fcntl(j->said_fd, F_SETFL, O_NONBLOCK);
	if (j->error == 0 && (j->pidfd = pidfd_open(j->pid, 0)) < 0) {
		j->error = errno;
		kill(-j->pid, SIGKILL);
		waitpid(j->pid, NULL, 0);
	}
}

static void not_started(struct child *c, const struct spawn_job *j)
{
	const char *program = c->sink->conf->command[0];
	struct failure why;
	char hint[200];

	if (j->file_error != 0) {
		failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "disk", j->file_error == ENOENT ?
		    "Nobody but mailpolld may remove files from the spool; the message is fetched again." : "Look at the disk that state_dir is on.",
		    "cannot open %s: %s", j->path, strerror(j->file_error));
		answer(c, j->file_error == ENOENT ? SINK_LOST : SINK_TEMPORARY, &why);
		return;
	}
	snprintf(hint, sizeof(hint), "Check that %s exists and the daemon's user may run it.", program);
	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "command", hint, "cannot run %s: %s", program, strerror(j->error));
	answer(c, SINK_TEMPORARY, &why);
}

static void child_started(struct child *c, const struct spawn_job *j)
{
	struct event_base *base = c->sink->env->base;

	c->pid = j->pid;
	c->pidfd = j->pidfd;
	c->exit_ev = event_new(base, c->pidfd, EV_READ | EV_PERSIST, on_exit_event, c);
	c->said_ev = event_new(base, c->said_fd, EV_READ | EV_PERSIST, on_said, c);
	c->timer = evtimer_new(base, on_child_timer, c);
	event_add(c->exit_ev, NULL);
	event_add(c->said_ev, NULL);
	set_timer(c, c->sink->hurried ? 0 : c->sink->conf->timeout_ms);
}

static void strings_free(char **v)
{
	for (size_t i = 0; v[i] != NULL; i++)
		free(v[i]);
	free(v);
}

static void done_spawn(struct job *job)
{
	struct spawn_job *j = (struct spawn_job *)job;
	struct child *c = j->child;

	c->sink->starting = false;
	c->said_fd = j->said_fd;
	if (j->file_error == 0 && j->error == 0) {
		child_started(c, j);
		start_waiting(c->sink);
	} else {
		not_started(c, j);
	}
	strings_free(j->argv);
	strings_free(j->env);
	free(j->path);
	free(j);
}

static void child_start(struct child *c)
{
	struct spawn_job *j = xcalloc(1, sizeof(*j));

	*j = (struct spawn_job){ .job = { .work = work_spawn, .done = done_spawn }, .child = c, .path = xstrdup(c->message->path),
	    .argv = make_arguments(c->sink->conf, c->message), .env = make_environment(c->message), .pidfd = -1, .said_fd = -1 };
	c->sink->starting = true;
	lane_submit(c->sink->env->spawn_lane, &j->job);
}

static void start_waiting(struct sink_command *s)
{
	struct child *c = s->waiting;

	if (c == NULL || s->hurried || s->starting || s->n_running >= s->conf->at_once)
		return;
	s->waiting = c->next;
	if (s->waiting == NULL)
		s->waiting_end = &s->waiting;
	s->n_waiting--;
	c->next = s->running;
	s->running = c;
	s->n_running++;
	child_start(c);
}

static void command_deliver(void *self, struct message *m, sink_done_cb *cb, void *arg)
{
	struct sink_command *s = self;
	struct child *c = xcalloc(1, sizeof(*c));

	*c = (struct child){ .sink = s, .message = m, .cb = cb, .arg = arg, .pidfd = -1, .said_fd = -1 };
	*s->waiting_end = c;
	s->waiting_end = &c->next;
	s->n_waiting++;
	if (s->hurried)
		event_active(s->refuse_ev, 0, 0);
	else
		start_waiting(s);
}

/* What is begun now would be ended in its midst. The last answer may let go of the sink. */
static void on_refuse(evutil_socket_t fd, short what, void *arg)
{
	struct sink_command *s = arg;
	struct child *c = s->waiting, *next;
	struct failure why;

	(void)fd, (void)what;
	failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "command", NULL, "%s is not begun any more: mailpolld stops", s->conf->command[0]);
	s->waiting = NULL;
	s->waiting_end = &s->waiting;
	s->n_waiting = 0;
	for (; c != NULL; c = next) {
		next = c->next;
		answer(c, SINK_TEMPORARY, &why);
	}
}

static void command_hurry(void *self)
{
	struct sink_command *s = self;

	s->hurried = true;
	event_active(s->refuse_ev, 0, 0);
	for (struct child *c = s->running; c != NULL; c = c->next)
		if (c->pidfd >= 0)
			set_timer(c, 0);
}

static unsigned command_waiting(const void *self)
{
	return ((const struct sink_command *)self)->n_waiting;
}

const struct sink_driver sink_command_driver = {
	.many_at_once = false,
	.open = command_open,
	.close = command_close,
	.prepare = command_prepare,
	.deliver = command_deliver,
	.hurry = command_hurry,
	.waiting = command_waiting,
};
