#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <cmocka.h>
#include "util.h"
#include "volume.h"

struct world {
	char dir[64];
	struct event_base *base;
	struct workers *workers;
	struct volumes *volumes;
	struct volume *volume;
	unsigned done, wanted, errors;
	int last_error;
};

/* Every file system is ext4. */
int __wrap_fstatfs(int fd, struct statfs *fs);
int __wrap_fstatfs(int fd, struct statfs *fs)
{
	(void)fd;
	fs->f_type = EXT4_SUPER_MAGIC;
	return 0;
}

static unsigned n_syncfs, n_fsync;	/* by the lane's thread, read when it has answered */

int __wrap_syncfs(int fd);
int __wrap_syncfs(int fd)
{
	assert_true(fd >= 0);
	n_syncfs++;
	return 0;
}

int __real_flush_opened(int fd);
int __wrap_flush_opened(int fd);
int __wrap_flush_opened(int fd)
{
	n_fsync++;
	return __real_flush_opened(fd);
}

static const char *not_opened;		/* by whoever wants to flush it */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	if (not_opened != NULL && strcmp(path, not_opened) == 0) {
		errno = EMFILE;
		return -1;
	}
	return __real_open(path, flags);
}

static void on_flushed(void *arg, int error)
{
	struct world *w = arg;

	w->errors += error != 0;
	w->last_error = error;
	if (++w->done == w->wanted)
		event_base_loopbreak(w->base);
}

static void wait_for(struct world *w, unsigned n)
{
	w->wanted = w->done + n;
	event_base_dispatch(w->base);
	assert_int_equal(w->done, w->wanted);
}

static char *make_file(struct world *w, const char *name)
{
	char *path = xasprintf("%s/%s", w->dir, name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs("x", f);
	fclose(f);
	return path;
}

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));
	struct stat st;

	strcpy(w->dir, "/tmp/test_volume.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_int_equal(stat(w->dir, &st), 0);
	w->base = event_base_new();
	w->workers = workers_new(w->base);
	w->volumes = volumes_new(w->workers);
	w->volume = volume_get(w->volumes, st.st_dev, w->dir);
	assert_ptr_equal(volume_get(w->volumes, st.st_dev, "/elsewhere"), w->volume);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char *command = xasprintf("rm -rf %s", w->dir);

	workers_free(&w->workers, 5000);
	volumes_free(&w->volumes);
	event_base_free(w->base);
	assert_int_equal(system(command), 0);
	free(command);
	free(w);
	return 0;
}

static void flush_some(struct world *w, unsigned n)
{
	char name[16], *path;

	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		path = make_file(w, name);
		volume_flush(w->volume, path, on_flushed, w);
		free(path);
	}
	wait_for(w, n);
}

static void test_flush_few_and_many(void **state)
{
	struct world *w = *state;

	flush_some(w, 1);
	flush_some(w, 5);
	flush_some(w, 100);
	volume_flush(w->volume, w->dir, on_flushed, w);
	wait_for(w, 1);
	assert_int_equal(w->errors, 0);
}

static void test_rename(void **state)
{
	struct world *w = *state;
	char *from = make_file(w, "from"), *to = xasprintf("%s/to", w->dir);

	volume_rename(w->volume, from, to, on_flushed, w);
	wait_for(w, 1);
	assert_int_equal(w->errors, 0);
	assert_int_equal(access(to, F_OK), 0);
	assert_int_equal(access(from, F_OK), -1);
	free(from);
	free(to);
}

/* What is wrong with one request is its own. */
static void test_errors_of_their_own(void **state)
{
	struct world *w = *state;
	char *good = make_file(w, "good"), *missing = xasprintf("%s/missing", w->dir), *target = xasprintf("%s/target", w->dir);

	for (int i = 0; i < 10; i++)
		volume_flush(w->volume, good, on_flushed, w);
	volume_rename(w->volume, missing, target, on_flushed, w);
	volume_flush(w->volume, missing, on_flushed, w);
	wait_for(w, 12);
	assert_int_equal(w->errors, 2);
	assert_int_equal(w->last_error, ENOENT);
	free(good);
	free(missing);
	free(target);
}

static void on_looked(void *arg)
{
	on_flushed(arg, 0);
}

/* What syncfs() needs is opened first on the lane that this takes. */
static void wait_until_open(struct world *w)
{
	volume_look_free(w->volume, w->dir, on_looked, w);
	wait_for(w, 1);
}

/* Batches are flushed by one syncfs(), but never by that of a file system on which they do not lie (any more). */
static void test_another_file_system_in_its_place(void **state)
{
	struct world *w = *state;
	char *file = make_file(w, "file");
	struct stat st;

	assert_int_equal(stat(file, &st), 0);		/* overlayfs, which the real fstatfs() tells, has one number for files, another one for directories */
	free(file);
	w->volume = volume_get(w->volumes, st.st_dev, w->dir);
	wait_until_open(w);
	n_syncfs = n_fsync = 0;
	flush_some(w, 50);
	assert_true(n_syncfs > 0);
	assert_true(n_fsync < 10);
	w->volume = volume_get(w->volumes, st.st_dev + 1, w->dir);
	wait_until_open(w);
	n_syncfs = n_fsync = 0;
	flush_some(w, 50);
	assert_int_equal(n_syncfs, 0);
	assert_int_equal(n_fsync, 50);
	assert_int_equal(w->errors, 0);
}

/* A directory that cannot be opened harms nobody's rename but those into it. */
static void test_directory_that_cannot_be_opened(void **state)
{
	struct world *w = *state;
	char *bad = xasprintf("%s/bad", w->dir), *from[3], *to[3];

	assert_int_equal(mkdir(bad, 0700), 0);
	for (int i = 0; i < 3; i++) {
		from[i] = xasprintf("%s/from%d", w->dir, i);
		to[i] = xasprintf(i == 1 ? "%s/bad/to%d" : "%s/to%d", w->dir, i);
		free(make_file(w, strrchr(from[i], '/') + 1));
	}
	wait_until_open(w);
	not_opened = bad;
	for (int i = 0; i < 3; i++)
		volume_rename(w->volume, from[i], to[i], on_flushed, w);
	wait_for(w, 3);
	not_opened = NULL;
	assert_int_equal(w->errors, 1);
	for (int i = 0; i < 3; i++) {
		free(from[i]);
		free(to[i]);
	}
	free(bad);
}

static void test_free_bytes(void **state)
{
	struct world *w = *state;

	assert_true(volume_free_bytes(w->volume) == UINT64_MAX);	/* not known: no reason to hold anything */
	volume_note_free(w->volume, 5);
	assert_int_equal(volume_free_bytes(w->volume), 5);
	volume_look_free(w->volume, "/nonexistent", on_looked, w);
	wait_for(w, 1);
	assert_int_equal(volume_free_bytes(w->volume), 5);
	volume_look_free(w->volume, w->dir, on_looked, w);
	wait_for(w, 1);
	assert_true(volume_free_bytes(w->volume) > 4096 && volume_free_bytes(w->volume) < UINT64_MAX);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_flush_few_and_many), TEST(test_rename), TEST(test_errors_of_their_own),
		TEST(test_another_file_system_in_its_place), TEST(test_directory_that_cannot_be_opened), TEST(test_free_bytes) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
