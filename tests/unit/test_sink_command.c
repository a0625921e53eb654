/* Programs whose end is out of the ordinary. They are real, but not every signal reaches them, nor what waits for them. The clock runs
 * a hundred times too fast. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "config.h"
#include "counters.h"
#include "log.h"
#include "message.h"
#include "sink.h"
#include "util.h"
#include "workers.h"
#include "fast_clock.h"

#define UNTIL_MS (20 * 1000 * RATE)	/* of a busy machine */

static struct {
	char dir[64], file[80];
	struct event_base *base;
	struct workers *workers;
	struct counters counters;
	struct sinks *sinks;
	struct sink *sink;
	bool deaf;			/* no signal reaches the program */
	int waitid_error;
	atomic_uint n_begun;		/* on a thread */
	unsigned n_kills, n_told, n_answers, n_refused;
	enum sink_answer answer;
	struct failure why;
	bool (*awaited)(void);
	msec_t until_ms;
} w;

/* --- in place of the kernel and log.c --- */

int __real_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *files, const posix_spawnattr_t *attr, char *const argv[],
    char *const env[]);
int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *files, const posix_spawnattr_t *attr, char *const argv[],
    char *const env[]);
int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *files, const posix_spawnattr_t *attr, char *const argv[],
    char *const env[])
{
	w.n_begun++;
	return __real_posix_spawn(pid, path, files, attr, argv, env);
}

int __real_kill(pid_t pid, int sig);
int __wrap_kill(pid_t pid, int sig);
int __wrap_kill(pid_t pid, int sig)
{
	w.n_kills += sig == SIGKILL;
	return w.deaf ? 0 : __real_kill(pid, sig);
}

int __real_waitid(idtype_t type, id_t id, siginfo_t *info, int options);
int __wrap_waitid(idtype_t type, id_t id, siginfo_t *info, int options);
int __wrap_waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	errno = w.waitid_error;
	return w.waitid_error != 0 ? -1 : __real_waitid(type, id, info, options);
}

void __wrap_log_write(enum log_level level, enum log_event event, const struct log_context *ctx, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...) PRINTF_LIKE(6, 7);
void __wrap_log_write(enum log_level level, enum log_event event, const struct log_context *ctx, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...)
{
	(void)level, (void)ctx, (void)fields, (void)n_fields, (void)fmt;
	w.n_told += event == EVENT_SINK_FAILING;
}

/* --- the scene --- */

static struct mailbox_conf mailbox = { .id = (char[]){ "a" }, .address = (char[]){ "a@b" } };
static char key[] = "a%2FINBOX%2F1%2F1";

static int setup(void **state)
{
	char *command[] = { (char[]){ "/bin/sh" }, (char[]){ "-c" }, (char[]){ "[ $MAILPOLLD_UID = 1 ] && exec sleep 600; exit 0" }, NULL };
	struct sink_conf conf = { .name = (char[]){ "command" }, .kind = SINK_COMMAND, .command = command, .timeout_ms = 60000, .at_once = 3 };
	struct sink_env env = { .counters = &w.counters, .state_dir = w.dir };
	FILE *f;

	(void)state;
	memset(&w, 0, sizeof(w));
	strcpy(w.dir, "/tmp/test_sink_command.XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	snprintf(w.file, sizeof(w.file), "%s/message", w.dir);
	f = fopen(w.file, "w");
	assert_non_null(f);
	fclose(f);
	counters_init(&w.counters);
	env.base = w.base = event_base_new();
	env.workers = w.workers = workers_new(w.base);
	env.spawn_lane = lane_new(w.workers, "spawn", LANE_DISK, 1);
	w.sinks = sinks_new(&env);
	w.sink = sink_get(w.sinks, &conf);
	return 0;
}

static int teardown(void **state)
{
	char *command = xasprintf("rm -r %s", w.dir);

	(void)state;
	workers_free(&w.workers, 5000);
	sinks_free(&w.sinks);
	event_base_free(w.base);
	assert_int_equal(system(command), 0);
	free(command);
	return 0;
}

static void on_answer(void *arg, struct message *m, enum sink_answer answer, const struct failure *why)
{
	(void)arg, (void)m;
	w.n_answers++;
	w.n_refused += why != NULL && strstr(why->text, "is not begun any more") != NULL;
	w.answer = answer;
	if (why != NULL)
		w.why = *why;
}

/* UID 1 is one whose program sleeps. */
static void deliver(struct message *m, uint32_t uid)
{
	*m = (struct message){ .mailbox = &mailbox, .folder = "INBOX", .key = key, .uid = uid, .uidvalidity = 1, .path = w.file };
	w.n_answers = 0;
	sink_deliver(w.sink, m, on_answer, NULL);
}

static void look(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what, (void)arg;
	if (w.awaited() || clock_now_ms() > w.until_ms)
		event_base_loopbreak(w.base);
}

static void wait_until(bool (*awaited)(void))
{
	struct event *timer = event_new(w.base, -1, EV_PERSIST, look, NULL);
	struct timeval each = { 0, 1000 };

	w.awaited = awaited;
	w.until_ms = clock_now_ms() + UNTIL_MS;
	event_add(timer, &each);
	event_base_dispatch(w.base);
	event_free(timer);
	assert_true(awaited());
}

static bool were_killed_twice(void)
{
	return w.n_kills >= 4;
}

static bool were_killed_often(void)
{
	return w.n_kills >= 10;
}

static bool is_answered(void)
{
	return w.n_answers == 1;
}

static bool are_two_answered(void)
{
	return w.n_answers == 2;
}

static bool are_three_begun(void)
{
	return w.n_begun == 3;
}

static bool are_four_answered(void)
{
	return w.n_answers == 4;
}

/* What has had its turn is ended, nothing else begins; nor what comes late. */
static void test_stop(void **state)
{
	struct message m[4], late;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(m); i++)
		deliver(&m[i], 1);
	wait_until(are_three_begun);
	sinks_hurry(w.sinks);
	assert_int_equal(w.n_answers, 0);
	wait_until(are_four_answered);
	assert_int_equal(w.n_refused, 1);
	deliver(&late, 2);
	assert_int_equal(w.n_answers, 0);
	wait_until(is_answered);
	assert_int_equal(w.answer, SINK_AGAIN);
	assert_int_equal(w.n_refused, 2);
	assert_int_equal(w.n_begun, 3);
}

static const struct failure *failure(void)
{
	return &sink_counts(w.sink)->failure;
}

/* It waits in the kernel: told once, while it does, whatever becomes of others. */
static void test_what_does_not_end_though_killed(void **state)
{
	struct message hangs[2], other;

	(void)state;
	w.deaf = true;
	deliver(&hangs[0], 1);
	deliver(&hangs[1], 1);
	wait_until(were_killed_twice);
	assert_string_equal(failure()->name, "command-stuck");
	assert_non_null(strstr(failure()->text, "/bin/sh does not end though killed"));
	assert_int_equal(w.n_answers, 0);
	deliver(&other, 2);
	wait_until(is_answered);
	assert_int_equal(w.answer, SINK_TAKEN);
	assert_string_equal(failure()->name, "command-stuck");
	assert_int_equal(failure()->fail, FAIL_WAIT);
	w.n_answers = 0;
	wait_until(were_killed_often);
	assert_int_equal(w.n_told, 1);
	assert_int_equal(w.n_answers, 0);
	w.deaf = false;
	wait_until(are_two_answered);
	assert_int_equal(w.answer, SINK_AGAIN);
	assert_string_equal(failure()->name, "command");
	deliver(&other, 2);
	wait_until(is_answered);
	assert_int_equal(failure()->fail, FAIL_NONE);
}

/* It has been waited for by somebody else. */
static void test_exit_that_nobody_knows(void **state)
{
	struct message m;

	(void)state;
	w.waitid_error = ECHILD;
	deliver(&m, 2);
	wait_until(is_answered);
	assert_int_equal(w.answer, SINK_AGAIN);
	assert_string_equal(w.why.text, "/bin/sh has ended, nobody knows how: No child processes");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_stop), TEST(test_what_does_not_end_though_killed), TEST(test_exit_that_nobody_knows) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
