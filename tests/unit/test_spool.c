#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "spool.h"
#include "util.h"
#include "volume.h"

#define RECORD_BYTES (16 * 1024 - 48)	/* what tls_stream makes room for, however little comes */

struct world {
	char dir[64];
	struct event_base *base;
	struct workers *workers;
	struct volumes *volumes;
	struct spool *spool;
	struct spool_place place;
	bool done;
	int error;
	uint64_t size_bytes;
};

static void on_room(void *arg)
{
	(void)arg;
}

static void on_done(void *arg, int error, uint64_t size_bytes)
{
	struct world *w = arg;

	w->done = true;
	w->error = error;
	w->size_bytes = size_bytes;
}

static const struct spool_file_ops ops = { on_room, on_done };

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));
	struct stat st;

	strcpy(w->dir, "/tmp/test_spool.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_int_equal(stat(w->dir, &st), 0);
	w->base = event_base_new();
	w->workers = workers_new(w->base);
	w->volumes = volumes_new(w->workers);
	w->place = (struct spool_place){ .dir = w->dir, .volume = volume_get(w->volumes, st.st_dev, w->dir), .inode = st.st_ino, .mode = 0600,
	    .gid = (gid_t)-1 };
	w->spool = spool_new(1 << 20, 0, w->place.volume);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	workers_free(&w->workers, 5000);
	volumes_free(&w->volumes);
	spool_free(&w->spool);
	event_base_free(w->base);
	assert_int_equal(rmdir(w->dir), 0);
	free(w);
	return 0;
}

/* As one small record of TLS gives them. */
static void take(struct spool_file *f, const char *bytes, size_t len)
{
	struct evbuffer *record = evbuffer_new();
	struct evbuffer_iovec space;

	assert_int_equal(evbuffer_reserve_space(record, RECORD_BYTES, &space, 1), 1);
	memcpy(space.iov_base, bytes, len);
	space.iov_len = len;
	assert_int_equal(evbuffer_commit_space(record, &space, 1), 0);
	spool_file_take(f, record, len);
	assert_int_equal(evbuffer_get_length(record), 0);
	evbuffer_free(record);
}

static void wait_for_room(struct world *w)
{
	struct timeval limit = { .tv_sec = 20 };

	event_base_loopexit(w->base, &limit);
	while (spool_bytes(w->spool) > 0 && !event_base_got_exit(w->base))
		event_base_loop(w->base, EVLOOP_ONCE);
	assert_int_equal(spool_bytes(w->spool), 0);
}

static void finish(struct world *w, struct spool_file *f)
{
	spool_file_finish(f);
	while (!w->done)
		event_base_loop(w->base, EVLOOP_ONCE);
}

static void test_small_records_take_little_memory(void **state)
{
	struct world *w = *state;
	struct spool_file *f = spool_file_new(w->spool, &w->place, "one", &ops, w);
	size_t before = mallinfo2().uordblks;
	char *path = xasprintf("%s/one", w->dir), got[101];
	FILE *file;

	for (int i = 0; i < 1000; i++)
		take(f, &"0123456789"[i % 10], 1);
	assert_true(mallinfo2().uordblks - before < 64 * 1024);
	finish(w, f);
	assert_int_equal(w->error, 0);
	assert_int_equal(w->size_bytes, 1000);
	assert_int_equal(spool_bytes(w->spool), 1000);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(got, 1, 100, file), 100);
	assert_memory_equal(got + 95, "56789", 5);
	fclose(file);
	unlink(path);
	free(path);
	spool_release(w->spool, 1000);
}

/* A message may go on for long after a write has failed: what it does not take is others'. */
static void test_what_cannot_be_written_takes_no_room(void **state)
{
	struct world *w = *state;
	struct spool_place nowhere = w->place;
	struct spool_file *f;
	char *dir = xasprintf("%s/missing", w->dir), *some = memset(xmalloc(10 * 1024), 'x', 10 * 1024);

	nowhere.dir = dir;
	f = spool_file_new(w->spool, &nowhere, "one", &ops, w);
	for (int i = 0; i < 8; i++)
		take(f, some, 10 * 1024);
	assert_int_equal(spool_bytes(w->spool), 80 * 1024);
	take(f, some, 1);
	wait_for_room(w);
	take(f, some, 5);
	assert_int_equal(spool_bytes(w->spool), 0);
	assert_int_equal(spool_files(w->spool), 1);
	finish(w, f);
	assert_int_equal(w->error, ENOENT);
	assert_int_equal(spool_bytes(w->spool), 0);
	assert_int_equal(spool_files(w->spool), 0);
	free(dir);
	free(some);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_small_records_take_little_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_cannot_be_written_takes_no_room, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
