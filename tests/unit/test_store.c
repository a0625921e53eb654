#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <event2/event.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "clock.h"
#include "log.h"
#include "store_private.h"
#include "util.h"
#include "workers.h"

struct world {
	char dir[64];
	struct event_base *base;
	struct workers *workers;
	struct store *store;
	unsigned answers, wanted;
	bool may_wait;			/* what is settled */
	struct store_folder folder;	/* the last one answered */
};

static void open_store(struct world *w)
{
	char error[512] = "";

	w->base = event_base_new();
	w->workers = workers_new(w->base);
	w->store = store_open(w->base, w->workers, w->dir, error, sizeof(error));
	if (w->store == NULL)
		fail_msg("%s", error);
}

static void close_store(struct world *w)
{
	workers_free(&w->workers, 10000);
	store_close(&w->store);
	event_base_free(w->base);
	store_folder_done(&w->folder);
}

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));

	strcpy(w->dir, "/tmp/test_store.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	open_store(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char *command = xasprintf("rm -rf %s", w->dir);

	if (w->store != NULL)
		close_store(w);
	assert_int_equal(system(command), 0);
	free(command);
	free(w);
	return 0;
}

static void answered(struct world *w)
{
	if (++w->answers == w->wanted)
		event_base_loopbreak(w->base);
}

static void on_done(void *arg, enum store_result result)
{
	assert_int_equal(result, STORE_OK);
	answered(arg);
}

static void on_folder(void *arg, enum store_result result, struct store_folder *f)
{
	struct world *w = arg;

	assert_int_equal(result, STORE_OK);
	store_folder_done(&w->folder);
	w->folder = *f;
	answered(w);
}

static void wait_for(struct world *w, unsigned n)
{
	w->wanted = w->answers + n;
	event_base_dispatch(w->base);
	assert_int_equal(w->answers, w->wanted);
}

static void load(struct world *w)
{
	store_load(w->store, "box", "INBOX", on_folder, w);
	wait_for(w, 1);
}

static void begin(struct world *w, uint32_t uidvalidity, const char *settled)
{
	struct ranges set = { 0 };

	if (settled != NULL)
		assert_int_equal(ranges_parse(&set, settled), 0);
	store_begin(w->store, "box", "INBOX", uidvalidity, &set, NULL, on_folder, w);
	ranges_done(&set);
	wait_for(w, 1);
}

static void reopen(struct world *w)
{
	close_store(w);
	open_store(w);
}

static void expect_ranges(const struct ranges *set, const char *text)
{
	char got[512];

	ranges_format(set, got, sizeof(got));
	assert_string_equal(got, text);
}

static void settle(struct world *w, uint32_t from, uint32_t uid, bool after_owed)
{
	struct store_settlement s = { .folder = w->folder.ref, .uid = uid, .settle_from = from, .sink = "maildir", .delivered = true,
	    .after_owed = after_owed, .may_wait = w->may_wait, .hash = { 1 }, .internaldate_s = 1000000 + uid };

	memcpy(s.hash + 1, &uid, sizeof(uid));
	store_settle(w->store, &s, on_done, w);
}

static void expect_private(struct world *w, const char *name)
{
	char *path = xasprintf("%s/%s", w->dir, name);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	free(path);
}

static void test_unknown_folder(void **state)
{
	struct world *w = *state;

	load(w);
	assert_int_equal(w->folder.ref, 0);
	assert_int_equal(strlen(store_instance(w->store)), 8);
	expect_private(w, "state.db");
	expect_private(w, "state.db-wal");
}

static void test_settled_ranges(void **state)
{
	static const uint32_t order[][2] = { { 5, 5 }, { 7, 9 }, { 6, 6 }, { 1, 2 }, { 20, 30 }, { 3, 4 }, { 25, 26 }, { 28, 40 }, { 10, 19 },
		{ 4294967295, 4294967295 } };
	struct world *w = *state;

	begin(w, 14, NULL);
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		settle(w, order[i][0], order[i][1], false);
	wait_for(w, ARRAY_LEN(order));
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "1:40,4294967295");
	assert_int_equal(w->folder.uidvalidity, 14);
	assert_int_equal(w->folder.delivered, ARRAY_LEN(order));
	assert_true(w->folder.last_delivery_wall_s > 0);
}

static void test_commits_are_grouped(void **state)
{
	struct world *w = *state;
	uint64_t before;

	begin(w, 14, NULL);
	before = store_commits(w->store);
	for (uint32_t uid = 1; uid <= 2000; uid += 2)
		settle(w, uid, uid, true);
	wait_for(w, 1000);
	assert_true(store_commits(w->store) - before < 100);
	load(w);
	assert_int_equal(w->folder.settled.n, 1000);
	assert_int_equal(ranges_count(&w->folder.after_owed), 1000);
}

/* What may wait begins no transaction, until somebody else does, its time is over, or enough of it waits. */
static void test_settlements_wait_for_company(void **state)
{
	struct world *w = *state;
	struct store_intent intent = { .sink = "maildir", .maildir = "/m", .tmp_name = "t", .new_name = "n", .place = "801.2a" };
	uint64_t before;

	begin(w, 14, NULL);
	w->may_wait = true;
	before = store_commits(w->store);
	settle(w, 1, 1, false);
	wait_for(w, 1);			/* nobody comes */
	assert_int_equal(store_commits(w->store) - before, 1);
	settle(w, 2, 2, false);
	settle(w, 3, 3, false);
	intent.folder = w->folder.ref;
	intent.uid = 4;
	store_add_intent(w->store, &intent, on_done, w);
	wait_for(w, 3);
	assert_int_equal(store_commits(w->store) - before, 2);
	for (uint32_t uid = 5; uid <= 14; uid++)		/* eight at once, two when their time is over */
		settle(w, uid, uid, false);
	wait_for(w, 10);
	assert_int_equal(store_commits(w->store) - before, 4);
	settle(w, 15, 15, false);
	store_load(w->store, "box", "INBOX", on_folder, w);
	wait_for(w, 2);
	expect_ranges(&w->folder.settled, "1:3,5:15");	/* all, in their order */
	assert_int_equal(store_commits(w->store) - before, 5);
}

/* Thousands come when a fleet starts for the first time. */
static void test_first_contacts_wait_for_company(void **state)
{
	struct world *w = *state;
	const struct ranges none = { 0 };
	uint64_t before = store_commits(w->store);
	char id[16];

	for (unsigned i = 0; i < 8; i++) {
		snprintf(id, sizeof(id), "box%u", i);
		store_begin(w->store, id, "INBOX", 14, &none, NULL, on_folder, w);
	}
	wait_for(w, 8);
	assert_int_equal(store_commits(w->store) - before, 1);
	for (unsigned i = 0; i < 8; i++)
		store_complete(w->store, w->folder.ref, on_done, w);
	wait_for(w, 8);
	assert_int_equal(store_commits(w->store) - before, 2);
}

static int64_t file_bytes(struct world *w, const char *name)
{
	char *path = xasprintf("%s/%s", w->dir, name);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	free(path);
	return (int64_t)st.st_size;
}

static void settle_singly(struct world *w, uint32_t from, uint32_t to)
{
	for (uint32_t uid = from; uid <= to; uid++) {
		settle(w, uid, uid, false);
		wait_for(w, 1);
	}
}

/* The write-ahead log goes into the file when there is a quiet moment, or when it is too long. */
static void test_checkpoints(void **state)
{
	struct world *w = *state;
	struct timeval soon = { .tv_usec = 20000 };
	int64_t before;

	begin(w, 1, NULL);
	settle_singly(w, 1, 450);
	before = file_bytes(w, "state.db");
	for (unsigned i = 0; i < 500 && file_bytes(w, "state.db") == before; i++) {
		event_base_loopexit(w->base, &soon);
		event_base_dispatch(w->base);
	}
	assert_true(file_bytes(w, "state.db") > before);
	settle_singly(w, 451, 900);
	assert_true(file_bytes(w, "state.db-wal") < 9 * 1024 * 1024);
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "1:900");
	assert_int_equal(w->folder.delivered, 900);
}

static void test_after_and_owed(void **state)
{
	struct world *w = *state;
	struct store_owed owed = { .uid = 8, .attempts = 2, .first_wall_s = 100, .next_wall_s = 200, .why = (char[]){ "nothing came" } };
	struct ranges done = { 0 };

	begin(w, 14, "1:7");
	settle(w, 9, 12, true);
	store_owe(w->store, w->folder.ref, &owed, on_done, w);
	settle(w, 13, 13, true);
	ranges_add(&done, 1, 12);
	store_after_done(w->store, w->folder.ref, &done, on_done, w);
	store_complete(w->store, w->folder.ref, on_done, w);
	wait_for(w, 5);
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "1:7,9:13");
	expect_ranges(&w->folder.after_owed, "13");
	assert_true(w->folder.complete);
	assert_int_equal(w->folder.n_owed, 1);
	assert_int_equal(w->folder.owed[0].uid, 8);
	assert_int_equal(w->folder.owed[0].attempts, 2);
	assert_int_equal(w->folder.owed[0].next_wall_s, 200);
	assert_string_equal(w->folder.owed[0].why, "nothing came");
	settle(w, 8, 8, false);		/* it could be had after all */
	wait_for(w, 1);
	load(w);
	assert_int_equal(w->folder.n_owed, 0);
	expect_ranges(&w->folder.settled, "1:13");
	ranges_done(&done);
}

static void add_intent(struct world *w, uint32_t uid)
{
	struct store_intent i = { .folder = w->folder.ref, .uid = uid, .sink = "maildir", .maildir = "/m", .tmp_name = "t", .new_name = "n", .place = "801.2a",
	    .settle_from = uid - 1, .hash = { 7 }, .after_owed = true };

	store_add_intent(w->store, &i, on_done, w);
}

static void test_intents(void **state)
{
	const struct store_found_intent *found;
	struct world *w = *state;
	size_t n;

	begin(w, 14, NULL);
	for (uint32_t uid = 2; uid <= 4; uid++)
		add_intent(w, uid);
	wait_for(w, 3);
	settle(w, 2, 2, false);		/* its intent goes with it */
	store_drop_intent(w->store, w->folder.ref, 3, "maildir", "t", on_done, w);
	wait_for(w, 2);
	reopen(w);
	found = store_found_intents(w->store, &n);
	assert_int_equal(n, 1);
	assert_int_equal(found[0].uid, 4);
	assert_int_equal(found[0].settle_from, 3);
	assert_string_equal(found[0].maildir, "/m");
	assert_string_equal(found[0].tmp_name, "t");
	assert_string_equal(found[0].new_name, "n");
	assert_string_equal(found[0].place, "801.2a");
	assert_true(found[0].after_owed);
	assert_true(found[0].this_boot);
	assert_int_equal(found[0].hash[0], 7);
}

/* What the last run had under way is settled only as long as nothing else has become of it: its UID may be another message's now. */
static void test_recovered_intents(void **state)
{
	struct world *w = *state;
	struct store_settlement s = { .uid = 4, .settle_from = 3, .sink = "maildir", .delivered = true, .after_owed = true, .hash = { 1 } };

	begin(w, 14, NULL);
	s.folder = w->folder.ref;
	add_intent(w, 4);
	s.found_tmp_name = "of another file";
	store_settle(w->store, &s, on_done, w);
	store_drop_intent(w->store, w->folder.ref, 4, "maildir", "of another file", on_done, w);
	wait_for(w, 3);
	load(w);
	expect_ranges(&w->folder.settled, "");
	expect_ranges(&w->folder.after_owed, "");
	assert_int_equal(w->folder.delivered, 0);
	s.found_tmp_name = "t";
	store_settle(w->store, &s, on_done, w);
	store_settle(w->store, &s, on_done, w);
	wait_for(w, 2);
	load(w);
	expect_ranges(&w->folder.settled, "3:4");
	expect_ranges(&w->folder.after_owed, "4");
	assert_int_equal(w->folder.delivered, 1);
}

/* Settlements in a row of one folder are written as one range; what stands between them in the same transaction sees, or
 * resets, what came before it. */
static void test_settled_in_one_commit(void **state)
{
	static const struct ranges nothing;
	struct world *w = *state;
	uint64_t before;

	begin(w, 14, "1:3");
	before = store_commits(w->store);
	store_load(w->store, "box", "INBOX", on_folder, w);	/* while it is under way the rest waits, so shares one transaction */
	settle(w, 4, 4, false);
	add_intent(w, 9);
	settle(w, 5, 7, true);
	settle(w, 20, 20, false);
	settle(w, 8, 8, false);
	store_load(w->store, "box", "INBOX", on_folder, w);
	settle(w, 9, 9, false);
	wait_for(w, 8);
	assert_int_equal(store_commits(w->store) - before, 2);
	expect_ranges(&w->folder.settled, "1:8,20");
	assert_int_equal(w->folder.delivered, 4);
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "1:9,20");
	assert_int_equal(w->folder.delivered, 5);
	settle(w, 10, 10, false);
	store_begin(w->store, "box", "INBOX", 15, &nothing, NULL, on_folder, w);	/* its UIDs are others now */
	wait_for(w, 2);
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "");
}

static void test_new_uidvalidity(void **state)
{
	struct world *w = *state;
	folder_ref ref;
	size_t n;

	begin(w, 14, "1:5");
	ref = w->folder.ref;
	settle(w, 6, 6, true);
	add_intent(w, 9);
	wait_for(w, 2);
	begin(w, 15, "1:2");
	assert_int_equal(w->folder.ref, ref);
	assert_int_equal(w->folder.uidvalidity, 15);
	expect_ranges(&w->folder.settled, "1:2");
	assert_int_equal(w->folder.after_owed.n, 0);
	assert_int_equal(w->folder.delivered, 1);
	store_begin(w->store, "box", "INBOX", 16, &(struct ranges){ .v = &(struct range){ 1, 9 }, .n = 1 },
	    &(struct ranges){ .v = &(struct range){ 4, 6 }, .n = 1 }, on_folder, w);	/* of some `after` is owed still */
	wait_for(w, 1);
	expect_ranges(&w->folder.settled, "1:9");
	expect_ranges(&w->folder.after_owed, "4:6");
	begin(w, 15, "1:2");
	reopen(w);
	store_found_intents(w->store, &n);
	assert_int_equal(n, 0);
}

static int64_t ask(const char *dir, const char *sql)
{
	char *path = xasprintf("%s/state.db", dir);
	sqlite3_stmt *s = NULL;
	sqlite3 *db;
	int64_t n = -1;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
		n = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	sqlite3_close(db);
	free(path);
	return n;
}

static void test_hashes_are_bounded(void **state)
{
	struct world *w = *state;

	begin(w, 14, NULL);
	for (uint32_t uid = 1; uid <= 5300; uid++)
		settle(w, uid, uid, false);
	wait_for(w, 5300);
	workers_free(&w->workers, 10000);
	assert_in_range(ask(w->dir, "SELECT count(*) FROM record"), 5000, 5100);
	assert_int_equal(ask(w->dir, "SELECT count(*) FROM record WHERE seq <= 200"), 0);	/* the oldest went */
}

static void on_known_in_part(void *arg, enum store_result result, struct store_known *known)
{
	struct world *w = arg;

	assert_int_equal(result, STORE_OK);
	assert_int_equal(known->n, 124);
	assert_false(known->whole);
	store_known_done(known);
	answered(w);
}

static void test_old_hashes_go(void **state)
{
	struct world *w = *state;

	begin(w, 14, NULL);
	for (uint32_t uid = 1; uid <= 100; uid++)
		settle(w, uid, uid, false);
	wait_for(w, 100);
	close_store(w);
	ask(w->dir, "UPDATE record SET at = at - 31 * 86400 WHERE seq <= 40");
	open_store(w);
	load(w);
	for (uint32_t uid = 101; uid <= 164; uid++)
		settle(w, uid, uid, false);
	wait_for(w, 64);
	store_read_known(w->store, w->folder.ref, on_known_in_part, w);
	wait_for(w, 1);
	workers_free(&w->workers, 10000);
	assert_int_equal(ask(w->dir, "SELECT min(seq) FROM record"), 41);
	assert_int_equal(ask(w->dir, "SELECT count(*) FROM record"), 124);
}

static void on_known(void *arg, enum store_result result, struct store_known *known)
{
	struct world *w = arg;
	uint8_t hash[STORE_HASH_BYTES] = { 1, 20 }, other[STORE_HASH_BYTES] = { 1, 21 }, none[STORE_HASH_BYTES] = { 0 };

	assert_int_equal(result, STORE_OK);
	assert_int_equal(known->n, 11);
	assert_int_equal(known->oldest_internaldate_s, 1000010);
	assert_true(known->whole);
	assert_true(store_known_has(known, hash));
	assert_false(store_known_has(known, other));
	assert_false(store_known_has(known, none));
	store_known_done(known);
	answered(w);
}

/* exchange-online 5.12: the record of what was delivered outlives the UIDs. */
static void test_known_messages(void **state)
{
	struct world *w = *state;

	begin(w, 14, NULL);
	assert_true(w->folder.begun_wall_s > 0);
	for (uint32_t uid = 20; uid >= 10; uid--)
		settle(w, uid, uid, false);
	wait_for(w, 11);
	begin(w, 15, "1:3");
	store_read_known(w->store, w->folder.ref, on_known, w);
	wait_for(w, 1);
}

static void test_unsettle(void **state)
{
	struct world *w = *state;
	struct store_owed owed = { .uid = 50, .attempts = 4, .first_wall_s = 5, .why = (char[]){ "x" } };
	struct ranges uids = { 0 };

	begin(w, 14, "1:49");
	settle(w, 30, 30, true);
	store_owe(w->store, w->folder.ref, &owed, on_done, w);
	wait_for(w, 2);
	assert_int_equal(ranges_parse(&uids, "20:30,50"), 0);
	store_unsettle(w->store, "box", "INBOX", &uids, &(struct store_day){ 2026, 1, 31 }, on_folder, w);
	ranges_done(&uids);
	wait_for(w, 1);
	reopen(w);
	load(w);
	expect_ranges(&w->folder.settled, "1:19,31:49");
	assert_int_equal(w->folder.n_owed, 0);
	assert_int_equal(w->folder.after_owed.n, 0);
}

static void expect_resync(struct world *w, int year, int month, int day)
{
	assert_int_equal(w->folder.resync.year, year);
	assert_int_equal(w->folder.resync.month, month);
	assert_int_equal(w->folder.resync.day, day);
}

/* An operator's wish: of a folder that is not known yet, too; until it is done, and the latest only. */
static void test_resync(void **state)
{
	static const struct store_day first = { 2026, 1, 31 }, second = { 2026, 3, 1 };
	struct world *w = *state;
	struct ranges uids = { 0 };

	store_want_resync(w->store, "box", "INBOX", &first, on_done, w);
	store_want_resync(w->store, "box", "Archive", &second, on_done, w);
	wait_for(w, 2);
	reopen(w);
	load(w);
	assert_int_equal(w->folder.ref, 0);
	expect_resync(w, 2026, 1, 31);
	begin(w, 14, "1:49");
	store_want_resync(w->store, "box", "INBOX", &second, on_done, w);
	wait_for(w, 1);
	assert_int_equal(ranges_parse(&uids, "20:30"), 0);
	store_unsettle(w->store, "box", "INBOX", &uids, &first, on_folder, w);
	wait_for(w, 1);
	expect_resync(w, 2026, 3, 1);
	store_unsettle(w->store, "box", "INBOX", &uids, &second, on_folder, w);
	ranges_done(&uids);
	wait_for(w, 1);
	expect_resync(w, 0, 0, 0);
	reopen(w);
	load(w);
	expect_resync(w, 0, 0, 0);
	store_forget(w->store, "box", NULL, NULL);
	store_load(w->store, "box", "Archive", on_folder, w);
	wait_for(w, 1);
	expect_resync(w, 0, 0, 0);
}

static void on_refused_timer(evutil_socket_t fd, short what, void *arg)
{
	struct world *w = arg;
	const struct failure *why = store_failure(w->store);
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	struct timeval soon = { .tv_usec = 20000 };

	(void)fd, (void)what;
	assert_int_equal(w->answers, 1);	/* begin's only: nothing is acknowledged that is not on disk */
	if (why == NULL) {
		event_base_once(w->base, -1, EV_TIMEOUT, on_refused_timer, w, &soon);
		return;
	}
	assert_int_equal(why->fail, FAIL_WAIT);
	assert_non_null(strstr(why->text, w->dir));
	assert_non_null(strstr(why->hint, "goes on by itself, unless it was mounted anew"));
	setrlimit(RLIMIT_FSIZE, &limit);	/* mended */
}

/* The disk takes no more: nothing is given up, and nothing acknowledged, until it does. */
static void test_disk_that_refuses(void **state)
{
	struct world *w = *state;
	struct rlimit limit = { 4096, RLIM_INFINITY };
	struct timeval soon = { .tv_usec = 20000 };

	begin(w, 14, NULL);
	signal(SIGXFSZ, SIG_IGN);
	log_set_level(LOG_LEVEL_ERROR);
	setrlimit(RLIMIT_FSIZE, &limit);
	for (uint32_t uid = 1; uid <= 50; uid++)
		settle(w, uid, uid, true);
	event_base_once(w->base, -1, EV_TIMEOUT, on_refused_timer, w, &soon);
	store_set_paused(w->store, "box", true, on_done, w);
	wait_for(w, 51);
	assert_null(store_failure(w->store));
	reopen(w);
	assert_true(store_is_paused(w->store, "box"));
	load(w);
	expect_ranges(&w->folder.settled, "1:50");
	assert_int_equal(w->folder.delivered, 50);	/* once each */
}

static void on_damaged_timer(evutil_socket_t fd, short what, void *arg)
{
	struct world *w = arg;
	const struct failure *why = store_failure(w->store);
	struct timeval soon = { .tv_usec = 20000 };

	(void)fd, (void)what;
	if (why == NULL) {
		event_base_once(w->base, -1, EV_TIMEOUT, on_damaged_timer, w, &soon);
		return;
	}
	assert_non_null(strstr(why->hint, "does not mend itself"));
	assert_null(strstr(why->hint, "goes on by itself"));
	event_base_loopbreak(w->base);
}

/* Found while it is used: to wait for that to go away is no use. */
static void test_state_that_is_damaged_meanwhile(void **state)
{
	struct world *w = *state;
	struct timeval soon = { .tv_usec = 20000 };
	char *path = xasprintf("%s/state.db", w->dir);
	sqlite3 *other;

	begin(w, 14, NULL);
	log_set_level(LOG_LEVEL_NONE);
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 'settled';"
	    "PRAGMA schema_version = 999", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	settle(w, 1, 1, false);
	event_base_once(w->base, -1, EV_TIMEOUT, on_damaged_timer, w, &soon);
	event_base_dispatch(w->base);
	assert_int_equal(w->answers, 1);
	free(path);
}

static void expect_refused(struct world *w, const char *part)
{
	char error[512] = "";

	assert_null(store_open(w->base, w->workers, w->dir, error, sizeof(error)));
	if (strstr(error, part) == NULL)
		fail_msg("\"%s\" has no \"%s\"", error, part);
}

static void test_second_daemon(void **state)
{
	struct world *w = *state;

	expect_refused(w, "another mailpolld is running");
	reopen(w);			/* the first one's lock ends with it */
}

static void change_file(struct world *w, const char *sql)
{
	close_store(w);
	ask(w->dir, sql);
	w->base = event_base_new();
	w->workers = workers_new(w->base);
}

static void end_refused(struct world *w)
{
	workers_free(&w->workers, 1000);
	event_base_free(w->base);
}

static void test_newer_state(void **state)
{
	struct world *w = *state;

	change_file(w, "PRAGMA user_version = 99");
	expect_refused(w, "newer mailpolld (schema 99");
	expect_refused(w, "state.db.schema-4");
	assert_int_equal(ask(w->dir, "PRAGMA user_version"), 99);
	end_refused(w);
}

static void test_foreign_file(void **state)
{
	struct world *w = *state;

	change_file(w, "PRAGMA application_id = 5");
	expect_refused(w, "is not a state of mailpolld");
	end_refused(w);
}

static void test_damaged_state(void **state)
{
	struct world *w = *state;
	char *path = xasprintf("%s/state.db", w->dir);
	struct stat before, after;
	FILE *f;

	close_store(w);
	f = fopen(path, "r+");
	assert_non_null(f);
	fseek(f, 4096, SEEK_SET);
	for (int i = 0; i < 8192; i++)
		fputc('x', f);
	fclose(f);
	assert_int_equal(stat(path, &before), 0);
	w->base = event_base_new();
	w->workers = workers_new(w->base);
	expect_refused(w, "cannot be read");
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
	end_refused(w);
	free(path);
}

/* The record of deliveries as schema 2 had it. */
static void test_record_of_an_older_schema(void **state)
{
	struct world *w = *state;
	char *path = xasprintf("%s/state.db", w->dir), *error = NULL;
	sqlite3 *db;

	begin(w, 14, NULL);
	close_store(w);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "DROP TABLE record; DROP TABLE resync; PRAGMA user_version = 2;"
	    "CREATE TABLE delivered (seq INTEGER PRIMARY KEY, folder INTEGER NOT NULL, hash BLOB NOT NULL, at INTEGER NOT NULL,"
	    " internaldate INTEGER NOT NULL DEFAULT 0, UNIQUE (folder, hash)); CREATE INDEX delivered_age ON delivered (folder, seq);"
	    "UPDATE folder SET name = 'Inbox';"
	    "INSERT INTO delivered VALUES (7, 1, x'01140000000000000000000000000000', 1, 2), (9, 1, x'02', 3, 4)", NULL, NULL, &error), SQLITE_OK);
	sqlite3_close(db);
	open_store(w);
	load(w);
	settle(w, 3, 3, false);
	wait_for(w, 1);
	close_store(w);
	w->store = NULL;
	assert_int_equal(ask(w->dir, "SELECT count(*) FROM record WHERE folder = 1"), 3);
	assert_int_equal(ask(w->dir, "SELECT seq FROM record WHERE hash = x'01140000000000000000000000000000' AND at = 1 AND internaldate = 2"), 2);	/* perhaps not the first */
	assert_int_equal(ask(w->dir, "SELECT max(seq) FROM record"), 4);	/* counted anew: the old ones were of all folders */
	assert_int_equal(ask(w->dir, "SELECT count(*) FROM folder WHERE name = 'INBOX'"), 1);
	assert_int_equal(ask(w->dir, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'delivered%'"), 0);
	free(path);
}

/* The seam for schemas to come. */
static void test_migration(void **state)
{
	static const char *const steps[] = { "CREATE TABLE a (x)", "INSERT INTO a VALUES (5)" };
	static const char *const broken[] = { "", "", "INSERT INTO a VALUES (6); INSERT INTO nowhere VALUES (1)" };
	struct world *w = *state;
	char *path = xasprintf("%s/other.db", w->dir), *copy = xasprintf("%s.schema-1", path), *second = xasprintf("%s.schema-2", path);
	char error[512];
	sqlite3 *db;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(db_migrate(db, path, steps, 1, error, sizeof(error)), 0);
	assert_int_equal(access(copy, F_OK), -1);	/* there was nothing to keep */
	assert_int_equal(db_migrate(db, path, steps, 2, error, sizeof(error)), 0);
	assert_int_equal(access(copy, F_OK), 0);
	assert_int_equal(db_migrate(db, path, steps, 2, error, sizeof(error)), 0);	/* nothing to do */
	assert_int_equal(db_migrate(db, path, broken, 3, error, sizeof(error)), -1);	/* all or nothing */
	assert_int_equal(access(second, F_OK), 0);
	assert_int_equal(sqlite3_exec(db, "INSERT INTO a SELECT count(*) FROM a", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_stmt *s;
	assert_int_equal(sqlite3_prepare_v2(db, "SELECT group_concat(x) FROM a", -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	assert_string_equal((const char *)sqlite3_column_text(s, 0), "5,1");
	sqlite3_finalize(s);
	sqlite3_close(db);
	free(path);
	free(copy);
	free(second);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_unknown_folder), TEST(test_settled_ranges), TEST(test_commits_are_grouped), TEST(test_settlements_wait_for_company), TEST(test_first_contacts_wait_for_company), TEST(test_checkpoints), TEST(test_after_and_owed), TEST(test_intents), TEST(test_recovered_intents),
		TEST(test_settled_in_one_commit),
		TEST(test_new_uidvalidity), TEST(test_hashes_are_bounded), TEST(test_old_hashes_go), TEST(test_known_messages), TEST(test_unsettle), TEST(test_resync), TEST(test_disk_that_refuses), TEST(test_state_that_is_damaged_meanwhile), TEST(test_second_daemon),
		TEST(test_newer_state), TEST(test_foreign_file), TEST(test_damaged_state), TEST(test_record_of_an_older_schema), TEST(test_migration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
