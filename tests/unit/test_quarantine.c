/* What is left when a step of putting a refused message away fails; the disk is real, but for its errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "config.h"
#include "quarantine.h"
#include "util.h"
#include "workers.h"

static struct {
	char dir[64];
	int flush_error, directory_error, told;
	struct quarantine_counts *counts;
} w;

int __wrap_flush_file(const char *path);
int __wrap_flush_file(const char *path)
{
	(void)path;
	return w.flush_error;
}

int __wrap_flush_directory(const char *path);
int __wrap_flush_directory(const char *path)
{
	(void)path;
	return w.directory_error;
}

struct lane *__wrap_volume_lane(struct volume *v);
struct lane *__wrap_volume_lane(struct volume *v)
{
	(void)v;
	return NULL;
}

void __wrap_lane_submit(struct lane *lane, struct job *job);
void __wrap_lane_submit(struct lane *lane, struct job *job)
{
	(void)lane;
	job->work(job);
	job->done(job);
}

static void on_done(void *arg, int error)
{
	(void)arg;
	w.told = error;
}

static char *path_of(const char *name)
{
	return xasprintf("%s/%s", w.dir, name);
}

static bool is_there(const char *name)
{
	char *path = path_of(name);
	bool there = access(path, F_OK) == 0;

	free(path);
	return there;
}

static void write_file(const char *name)
{
	char *path = path_of(name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs("x", f);
	fclose(f);
	free(path);
}

static void refuse(const char *reason)
{
	struct mailbox_conf mailbox = { .id = (char[]){ "a" }, .address = (char[]){ "a@b" } };
	struct sink_env env = { .state_dir = w.dir, .quarantined = w.counts };
	char *path = path_of("message");
	struct message m = { .mailbox = &mailbox, .folder = "INBOX", .key = (char[]){ "a%2FINBOX%2F1%2F5" }, .uid = 5, .uidvalidity = 1, .path = path };

	write_file("message");
	quarantine_add(&env, &m, "command", reason, on_done, NULL);
	free(path);
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	strcpy(w.dir, "/tmp/test_quarantine.XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	w.counts = quarantine_scan(w.dir);
	return 0;
}

static int teardown(void **state)
{
	char *command = xasprintf("rm -r %s", w.dir);

	(void)state;
	quarantine_counts_free(&w.counts);
	assert_int_equal(system(command), 0);
	free(command);
	return 0;
}

static void test_put_away(void **state)
{
	(void)state;
	refuse("no");
	assert_int_equal(w.told, 0);
	assert_true(is_there("quarantine/a%2FINBOX%2F1%2F5.eml") && is_there("quarantine/a%2FINBOX%2F1%2F5.json"));
	assert_false(is_there("message") || is_there("quarantine/a%2FINBOX%2F1%2F5.json.new"));
}

/* It may be anything after that, so it is nobody's message any more. */
static void test_file_that_cannot_be_flushed(void **state)
{
	(void)state;
	w.flush_error = EIO;
	refuse("no");
	assert_int_equal(w.told, QUARANTINE_FILE_LOST);
	assert_false(is_there("quarantine/a%2FINBOX%2F1%2F5.eml"));
}

/* Without its reason a message on the shelf is not found. */
static void test_reason_that_cannot_be_written_anew(void **state)
{
	char *fresh, *json;
	struct stat before, after;

	(void)state;
	refuse("no");
	json = path_of("quarantine/a%2FINBOX%2F1%2F5.json");
	fresh = path_of("quarantine/a%2FINBOX%2F1%2F5.json.new");
	assert_int_equal(stat(json, &before), 0);
	assert_int_equal(mkdir(fresh, 0700), 0);
	refuse("no, for a reason that is longer");
	assert_int_equal(w.told, EISDIR);
	assert_int_equal(stat(json, &after), 0);
	assert_int_equal(after.st_size, before.st_size);
	assert_true(is_there("message"));
	free(fresh);
	free(json);
}

/* After a crash before it was settled, and after a resync: it takes its own place. */
static void test_refused_anew(void **state)
{
	(void)state;
	refuse("no");
	refuse("no again");
	assert_int_equal(w.told, 0);
	assert_int_equal(quarantine_count(w.counts, "a", "INBOX"), 1);
	w.directory_error = EIO;
	refuse("no");				/* back where it came from, and nothing is left */
	assert_int_equal(w.told, EIO);
	assert_false(is_there("quarantine/a%2FINBOX%2F1%2F5.eml"));
	assert_int_equal(quarantine_count(w.counts, "a", "INBOX"), 0);
}

/* Whatever a reason is made of, it is told, and the message is found by its id. */
static void test_reason_that_is_not_utf8(void **state)
{
	char *path = path_of("quarantine/a%2FINBOX%2F1%2F5.json");
	json_t *json;

	(void)state;
	refuse("no \xe9t\xc3\xa9 \xc3");
	assert_int_equal(w.told, 0);
	json = json_load_file(path, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json, "reason")), "no ?t\xc3\xa9 ?");
	assert_string_equal(json_string_value(json_object_get(json, "id")), "a");
	json_decref(json);
	free(path);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_put_away), TEST(test_file_that_cannot_be_flushed), TEST(test_reason_that_cannot_be_written_anew),
		TEST(test_refused_anew), TEST(test_reason_that_is_not_utf8) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
