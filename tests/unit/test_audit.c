/* What the audit keeps, drops and tells; its lane is of clay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "audit.h"
#include "log.h"
#include "util.h"
#include "workers.h"

#define MIB (1024 * 1024)

static struct {
	struct event_base *base;
	struct workers *workers;
	struct audit *audit;
	struct job *job;		/* runs */
	char path[64], line[MIB + 1], told[256];
} w;

void __wrap_lane_submit(struct lane *lane, struct job *job);
void __wrap_lane_submit(struct lane *lane, struct job *job)
{
	(void)lane;
	assert_null(w.job);
	w.job = job;
}

void __wrap_log_write(enum log_level level, enum log_event event, const struct log_context *ctx, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...) PRINTF_LIKE(6, 7);
void __wrap_log_write(enum log_level level, enum log_event event, const struct log_context *ctx, const struct log_field *fields, size_t n_fields,
    const char *fmt, ...)
{
	va_list ap;

	(void)level, (void)ctx, (void)fields, (void)n_fields;
	assert_true(event == EVENT_AUDIT_FAILED || event == EVENT_AUDIT_RECOVERED);
	va_start(ap, fmt);
	vsnprintf(w.told, sizeof(w.told), fmt, ap);
	va_end(ap);
}

static void run(void)
{
	struct job *job = w.job;

	assert_non_null(job);
	w.job = NULL;
	job->work(job);
	job->done(job);
}

static void add(unsigned n)
{
	for (; n > 0; n--)
		audit_line(w.audit, w.line);
}

static long written(void)
{
	struct stat st;

	assert_int_equal(stat(w.path, &st), 0);
	return (long)st.st_size;
}

static int setup(void **state)
{
	int fd;

	(void)state;
	memset(&w, 0, sizeof(w));
	strcpy(w.path, "/tmp/test_audit.XXXXXX");
	assert_true((fd = mkstemp(w.path)) >= 0);
	close(fd);
	memset(w.line, 'x', MIB - 1);
	w.line[MIB - 1] = '\n';
	w.base = event_base_new();
	w.workers = workers_new(w.base);
	w.audit = audit_new(w.base, w.workers);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_null(w.job);
	audit_free(&w.audit);
	assert_true(workers_free(&w.workers, 0));
	event_base_free(w.base);
	unlink(w.path);
	return 0;
}

/* A disk that only takes its time: what was dropped meanwhile is told all the same. */
static void test_slow(void **state)
{
	(void)state;
	audit_set_file(w.audit, w.path);
	add(1);
	add(6);
	assert_string_equal(w.told, "");
	run();
	assert_non_null(strstr(w.told, "is written into /tmp/test_audit."));
	assert_non_null(strstr(w.told, "; 3 lines were dropped"));
	w.told[0] = '\0';
	run();
	assert_string_equal(w.told, "");
	assert_int_equal(written(), 4 * MIB);
}

/* What is being written counts, too: it may come back. */
static void test_slow_and_failing(void **state)
{
	(void)state;
	audit_set_file(w.audit, "/dev/full");
	add(1);
	add(6);
	run();
	assert_non_null(strstr(w.told, "cannot be written into /dev/full: No space left on device; its lines wait, 3 were dropped"));
	add(1);
	audit_finish(w.audit);
	assert_string_equal(w.told, "4 lines of the audit were dropped");
	run();
}

/* The last lines go where a reload has said, also while a retry is waited for. */
static void test_other_file_and_stop(void **state)
{
	(void)state;
	audit_set_file(w.audit, "/dev/full");
	add(1);
	run();
	audit_set_file(w.audit, w.path);
	audit_finish(w.audit);
	run();
	assert_int_equal(written(), MIB);
}

/* It is switched off: what waits is still written, or counted. */
static void test_off_while_it_is_slow(void **state)
{
	(void)state;
	audit_set_file(w.audit, w.path);
	add(2);
	audit_set_file(w.audit, NULL);
	run();
	run();
	assert_int_equal(written(), 2 * MIB);
	assert_string_equal(w.told, "");
}

static void test_off_while_it_fails(void **state)
{
	(void)state;
	audit_set_file(w.audit, "/dev/full");
	add(1);
	run();
	add(1);
	audit_set_file(w.audit, NULL);
	assert_string_equal(w.told, "the audit is not written into /dev/full any more: 2 lines were dropped");
	audit_set_file(w.audit, w.path);
	add(1);
	run();
	assert_int_equal(written(), MIB);
}

static void test_off_and_then_it_fails(void **state)
{
	(void)state;
	audit_set_file(w.audit, "/dev/full");
	add(3);
	audit_set_file(w.audit, NULL);
	run();
	assert_string_equal(w.told, "the audit is not written into /dev/full any more: 3 lines were dropped");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_slow), TEST(test_slow_and_failing), TEST(test_other_file_and_stop),
		TEST(test_off_while_it_is_slow), TEST(test_off_while_it_fails), TEST(test_off_and_then_it_fails) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
