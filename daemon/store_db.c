#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "clock.h"
#include "store_private.h"
#include "util.h"

#define HASHES_KEPT 5000		/* of a folder */
#define HASHES_KEPT_S (30 * 86400)
#define PRUNE_EVERY 64			/* deliveries */
#define WAL_PAGES 1000			/* of the write-ahead log: worth a checkpoint */
#define WAL_PAGES_MAX 1900		/* ... which waits for no quiet moment; below journal_size_limit */

enum statement {
	S_FIND_FOLDER, S_ADD_FOLDER, S_RESET_FOLDER, S_COUNT, S_COMPLETE,
	S_SETTLED_BELOW, S_SETTLED_DELETE, S_SETTLED_ADD, S_SETTLED_ALL, S_SETTLED_CLEAR,
	S_OWED_PUT, S_OWED_DELETE, S_OWED_DELETE_RANGE, S_OWED_ALL, S_OWED_CLEAR,
	S_AFTER_ADD, S_AFTER_DELETE, S_AFTER_ALL, S_AFTER_CLEAR,
	S_INTENT_PUT, S_INTENT_DELETE, S_INTENT_CLEAR,
	S_HASH_ADD, S_HASH_PRUNE, S_HASH_ALL, S_HASH_CLEAR,
	S_PAUSE, S_RESUME, S_PAUSED_ALL, S_RESYNC_PUT, S_RESYNC_GET, S_RESYNC_DELETE, S_RESYNC_CLEAR, S_FOLDERS_OF, S_FOLDER_DELETE,
	S_N
};
static const char *const sql[S_N] = {
	[S_FIND_FOLDER] = "SELECT ref, uidvalidity, complete, delivered, last_delivery, last_success, begun FROM folder WHERE id = ?1 AND name = ?2",
	[S_ADD_FOLDER] = "INSERT INTO folder (id, name, uidvalidity, begun) VALUES (?1, ?2, ?3, ?4)",
	[S_RESET_FOLDER] = "UPDATE folder SET uidvalidity = ?2 WHERE ref = ?1",
	[S_COUNT] = "UPDATE folder SET delivered = delivered + ?2, last_delivery = CASE WHEN ?2 THEN ?3 ELSE last_delivery END,"
	            " last_success = ?3 WHERE ref = ?1",
	[S_COMPLETE] = "UPDATE folder SET complete = 1 WHERE ref = ?1",
	[S_SETTLED_BELOW] = "SELECT lo, hi FROM settled WHERE folder = ?1 AND lo <= ?2 ORDER BY lo DESC LIMIT 1",
	[S_SETTLED_DELETE] = "DELETE FROM settled WHERE folder = ?1 AND lo = ?2",
	[S_SETTLED_ADD] = "INSERT INTO settled (folder, lo, hi) VALUES (?1, ?2, ?3)",
	[S_SETTLED_ALL] = "SELECT lo, hi FROM settled WHERE folder = ?1 ORDER BY lo",
	[S_SETTLED_CLEAR] = "DELETE FROM settled WHERE folder = ?1",
	[S_OWED_PUT] = "INSERT OR REPLACE INTO owed (folder, uid, attempts, first, next, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
	[S_OWED_DELETE] = "DELETE FROM owed WHERE folder = ?1 AND uid = ?2",
	[S_OWED_DELETE_RANGE] = "DELETE FROM owed WHERE folder = ?1 AND uid BETWEEN ?2 AND ?3",
	[S_OWED_ALL] = "SELECT uid, attempts, first, next, why FROM owed WHERE folder = ?1 ORDER BY uid",
	[S_OWED_CLEAR] = "DELETE FROM owed WHERE folder = ?1",
	[S_AFTER_ADD] = "INSERT OR IGNORE INTO after_owed (folder, uid) VALUES (?1, ?2)",
	[S_AFTER_DELETE] = "DELETE FROM after_owed WHERE folder = ?1 AND uid BETWEEN ?2 AND ?3",
	[S_AFTER_ALL] = "SELECT uid, uid FROM after_owed WHERE folder = ?1 ORDER BY uid",
	[S_AFTER_CLEAR] = "DELETE FROM after_owed WHERE folder = ?1",
	[S_INTENT_PUT] = "INSERT OR REPLACE INTO intent (folder, uid, sink, maildir, tmp_name, new_name, settle_from, hash, after_owed, boot,"
	                 " internaldate) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 || ' ' || ?12, ?11)",	/* boot: and place */
	[S_INTENT_DELETE] = "DELETE FROM intent WHERE folder = ?1 AND uid = ?2 AND sink = ?3 AND tmp_name = coalesce(?4, tmp_name)",
	[S_INTENT_CLEAR] = "DELETE FROM intent WHERE folder = ?1",
	[S_HASH_ADD] = "INSERT INTO record (folder, seq, hash, at, internaldate) VALUES"
	               " (?1, (SELECT coalesce(max(seq), 0) + 1 FROM record WHERE folder = ?1), ?2, ?3, ?4)",
	/* seq has no holes and grows with `at`: what goes is found without a look at what stays, however many those are */
	[S_HASH_PRUNE] = "DELETE FROM record WHERE folder = ?1 AND seq <= max((SELECT max(seq) FROM record WHERE folder = ?1) - ?3,"
	                 " (SELECT seq FROM record WHERE folder = ?1 AND at >= ?2 ORDER BY seq LIMIT 1) - 1)",
	[S_HASH_CLEAR] = "DELETE FROM record WHERE folder = ?1",
	[S_PAUSE] = "INSERT OR IGNORE INTO paused (id) VALUES (?1)",
	[S_RESUME] = "DELETE FROM paused WHERE id = ?1",
	[S_PAUSED_ALL] = "SELECT id FROM paused",
	[S_RESYNC_PUT] = "INSERT OR REPLACE INTO resync (id, name, year, month, day) VALUES (?1, ?2, ?3, ?4, ?5)",
	[S_RESYNC_GET] = "SELECT year, month, day FROM resync WHERE id = ?1 AND name = ?2",
	[S_RESYNC_DELETE] = "DELETE FROM resync WHERE id = ?1 AND name = ?2 AND year = ?3 AND month = ?4 AND day = ?5",
	[S_RESYNC_CLEAR] = "DELETE FROM resync WHERE id = ?1",
	[S_FOLDERS_OF] = "SELECT ref FROM folder WHERE id = ?1",
	[S_FOLDER_DELETE] = "DELETE FROM folder WHERE ref = ?1",
	[S_HASH_ALL] = "SELECT hash, internaldate, seq FROM record WHERE folder = ?1 ORDER BY hash",
};

struct db {
	sqlite3 *sqlite;
	int lock_fd;
	sqlite3_stmt *statements[S_N];	/* made when first used */
	char instance[9], boot[64];
	struct store_found_intent *found;
	size_t n_found;
	unsigned since_pruned;
	int wal_pages;			/* since the last checkpoint, as the last commit told */
	int error;			/* SQLite's, of the transaction under way; 0: none */
	struct {			/* settlements in a row of one folder, of the transaction under way: its range and counts are written once */
		folder_ref folder;	/* 0: none */
		int64_t lo, hi, delivered;
	} run_of;
};

/* --- statements: an error stays in db->error, and what follows it does nothing --- */

static sqlite3_stmt *statement(struct db *db, enum statement which)
{
	sqlite3_stmt **s = &db->statements[which];

	if (*s == NULL && db->error == 0)
		db->error = sqlite3_prepare_v3(db->sqlite, sql[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL);
	return *s;
}

static void bind_text(sqlite3_stmt *s, int at, const char *text)
{
	sqlite3_bind_text(s, at, text, -1, SQLITE_STATIC);
}

static bool step(struct db *db, sqlite3_stmt *s)	/* true: a row */
{
	int rc = db->error == 0 ? sqlite3_step(s) : SQLITE_DONE;

	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		db->error = rc;
	return rc == SQLITE_ROW;
}

static void run(struct db *db, sqlite3_stmt *s)
{
	if (s == NULL)
		return;
	while (step(db, s))
		;
	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
}

/* For those whose parameters are numbers. */
static void run_numbers(struct db *db, enum statement which, const int64_t *numbers, int n)
{
	sqlite3_stmt *s = statement(db, which);

	if (s == NULL)
		return;
	for (int i = 0; i < n; i++)
		sqlite3_bind_int64(s, i + 1, numbers[i]);
	run(db, s);
}

#define RUN(db, which, ...) \
	run_numbers(db, which, (const int64_t[]){ __VA_ARGS__ }, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)))

/* --- the changes --- */

/* The highest stored range that begins at or below lo; false: none. */
static bool settled_below(struct db *db, folder_ref folder, int64_t lo, int64_t *ret_lo, int64_t *ret_hi)
{
	sqlite3_stmt *s = statement(db, S_SETTLED_BELOW);
	bool found;

	if (s == NULL)
		return false;
	sqlite3_bind_int64(s, 1, folder);
	sqlite3_bind_int64(s, 2, lo);
	if ((found = step(db, s))) {
		*ret_lo = sqlite3_column_int64(s, 0);
		*ret_hi = sqlite3_column_int64(s, 1);
	}
	sqlite3_reset(s);
	return found;
}

static void settle_range(struct db *db, folder_ref folder, int64_t lo, int64_t hi)
{
	int64_t there_lo, there_hi;

	while (settled_below(db, folder, hi + 1, &there_lo, &there_hi) && there_hi + 1 >= lo) {
		if (there_lo <= lo && there_hi >= hi)
			return;
		lo = there_lo < lo ? there_lo : lo;
		hi = there_hi > hi ? there_hi : hi;
		RUN(db, S_SETTLED_DELETE, folder, there_lo);
	}
	RUN(db, S_SETTLED_ADD, folder, lo, hi);
}

static void add_hash(struct db *db, const struct op *op, int64_t now_wall_s)
{
	static const uint8_t none[STORE_HASH_BYTES];
	sqlite3_stmt *s;

	if (memcmp(op->hash, none, sizeof(none)) == 0 || (s = statement(db, S_HASH_ADD)) == NULL)
		return;
	sqlite3_bind_int64(s, 1, op->folder);
	sqlite3_bind_blob(s, 2, op->hash, sizeof(op->hash), SQLITE_STATIC);
	sqlite3_bind_int64(s, 3, now_wall_s);
	sqlite3_bind_int64(s, 4, op->internaldate_s);
	run(db, s);
	if (++db->since_pruned < PRUNE_EVERY)
		return;
	db->since_pruned = 0;
	RUN(db, S_HASH_PRUNE, op->folder, now_wall_s - HASHES_KEPT_S, HASHES_KEPT);
}

/* True when there was one. */
static bool drop_intent(struct db *db, const struct op *op)
{
	sqlite3_stmt *s = statement(db, S_INTENT_DELETE);

	if (s == NULL)
		return false;
	sqlite3_bind_int64(s, 1, op->folder);
	sqlite3_bind_int64(s, 2, op->uid);
	bind_text(s, 3, op->sink);
	bind_text(s, 4, op->tmp_name);
	run(db, s);
	return sqlite3_changes(db->sqlite) > 0;
}

static void add_intent(struct db *db, const struct op *op)
{
	sqlite3_stmt *s = statement(db, S_INTENT_PUT);

	if (s == NULL)
		return;
	sqlite3_bind_int64(s, 1, op->folder);
	sqlite3_bind_int64(s, 2, op->uid);
	bind_text(s, 3, op->sink);
	bind_text(s, 4, op->maildir);
	bind_text(s, 5, op->tmp_name);
	bind_text(s, 6, op->new_name);
	sqlite3_bind_int64(s, 7, op->settle_from);
	sqlite3_bind_blob(s, 8, op->hash, sizeof(op->hash), SQLITE_STATIC);
	sqlite3_bind_int(s, 9, op->after_owed);
	bind_text(s, 10, db->boot);
	sqlite3_bind_int64(s, 11, op->internaldate_s);
	bind_text(s, 12, op->place);
	run(db, s);
}

/* What the settlements in a row come to. Before anything reads or changes the folder otherwise, and before the commit. */
static void end_run(struct db *db)
{
	if (db->run_of.folder == 0)
		return;
	settle_range(db, db->run_of.folder, db->run_of.lo, db->run_of.hi);
	RUN(db, S_COUNT, db->run_of.folder, db->run_of.delivered, clock_wall_s());
	db->run_of.folder = 0;
}

static void continue_run(struct db *db, const struct op *op)
{
	bool touches = op->settle_from <= db->run_of.hi + 1 && (int64_t)op->uid + 1 >= db->run_of.lo;

	if (db->run_of.folder != op->folder || !touches) {
		end_run(db);
		db->run_of.folder = op->folder;
		db->run_of.lo = op->settle_from;
		db->run_of.hi = op->uid;
		db->run_of.delivered = 0;
	}
	if (op->settle_from < db->run_of.lo)
		db->run_of.lo = op->settle_from;
	if (op->uid > db->run_of.hi)
		db->run_of.hi = op->uid;
	db->run_of.delivered += op->delivered;
}

static void settle(struct db *db, const struct op *op)
{
	int64_t now_wall_s = clock_wall_s();
	bool intended = drop_intent(db, op);

	if (op->tmp_name != NULL && !intended)
		return;
	continue_run(db, op);
	RUN(db, S_OWED_DELETE, op->folder, op->uid);
	if (op->after_owed)
		RUN(db, S_AFTER_ADD, op->folder, op->uid);
	if (op->delivered)
		add_hash(db, op, now_wall_s);
}

static void owe(struct db *db, const struct op *op)
{
	sqlite3_stmt *s;

	if (op->owed.attempts == 0) {
		RUN(db, S_OWED_DELETE, op->folder, op->owed.uid);
		return;
	}
	if ((s = statement(db, S_OWED_PUT)) == NULL)
		return;
	sqlite3_bind_int64(s, 1, op->folder);
	sqlite3_bind_int64(s, 2, op->owed.uid);
	sqlite3_bind_int64(s, 3, op->owed.attempts);
	sqlite3_bind_int64(s, 4, op->owed.first_wall_s);
	sqlite3_bind_int64(s, 5, op->owed.next_wall_s);
	bind_text(s, 6, op->owed.why != NULL ? op->owed.why : "");
	run(db, s);
}

/* --- a folder's checkpoint --- */

static bool find_folder(struct db *db, const struct op *op, struct store_folder *ret)
{
	sqlite3_stmt *s = statement(db, S_FIND_FOLDER);
	bool found;

	if (s == NULL)
		return false;
	bind_text(s, 1, op->id);
	bind_text(s, 2, op->name);
	if ((found = step(db, s))) {
		ret->ref = sqlite3_column_int64(s, 0);
		ret->uidvalidity = (uint32_t)sqlite3_column_int64(s, 1);
		ret->complete = sqlite3_column_int(s, 2) != 0;
		ret->delivered = (uint64_t)sqlite3_column_int64(s, 3);
		ret->last_delivery_wall_s = sqlite3_column_int64(s, 4);
		ret->last_success_wall_s = sqlite3_column_int64(s, 5);
		ret->begun_wall_s = sqlite3_column_int64(s, 6);
	}
	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
	return found;
}

static void read_ranges(struct db *db, enum statement which, folder_ref folder, struct ranges *ret)
{
	sqlite3_stmt *s = statement(db, which);

	if (s == NULL)
		return;
	sqlite3_bind_int64(s, 1, folder);
	while (step(db, s))
		ranges_add(ret, (uint32_t)sqlite3_column_int64(s, 0), (uint32_t)sqlite3_column_int64(s, 1));
	sqlite3_reset(s);
}

static void read_owed(struct db *db, folder_ref folder, struct store_folder *ret)
{
	sqlite3_stmt *s = statement(db, S_OWED_ALL);

	if (s == NULL)
		return;
	sqlite3_bind_int64(s, 1, folder);
	while (step(db, s)) {
		ret->owed = xreallocarray(ret->owed, ret->n_owed + 1, sizeof(*ret->owed));
		ret->owed[ret->n_owed++] = (struct store_owed){ .uid = (uint32_t)sqlite3_column_int64(s, 0),
			.attempts = (uint32_t)sqlite3_column_int64(s, 1), .first_wall_s = sqlite3_column_int64(s, 2),
			.next_wall_s = sqlite3_column_int64(s, 3), .why = xstrdup((const char *)sqlite3_column_text(s, 4)) };
	}
	sqlite3_reset(s);
}

static void read_resync(struct db *db, const struct op *op, struct store_day *ret)
{
	sqlite3_stmt *s = statement(db, S_RESYNC_GET);

	if (s == NULL)
		return;
	bind_text(s, 1, op->id);
	bind_text(s, 2, op->name);
	if (step(db, s))
		*ret = (struct store_day){ sqlite3_column_int(s, 0), sqlite3_column_int(s, 1), sqlite3_column_int(s, 2) };
	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
}

static void change_resync(struct db *db, enum statement which, const struct op *op)
{
	sqlite3_stmt *s = statement(db, which);

	if (s == NULL)
		return;
	bind_text(s, 1, op->id);
	bind_text(s, 2, op->name);
	sqlite3_bind_int(s, 3, op->day.year);
	sqlite3_bind_int(s, 4, op->day.month);
	sqlite3_bind_int(s, 5, op->day.day);
	run(db, s);
}

static void load(struct db *db, struct op *op)
{
	read_resync(db, op, &op->answer.resync);
	if (!find_folder(db, op, &op->answer))
		return;
	read_ranges(db, S_SETTLED_ALL, op->answer.ref, &op->answer.settled);
	read_ranges(db, S_AFTER_ALL, op->answer.ref, &op->answer.after_owed);
	read_owed(db, op->answer.ref, &op->answer);
}

static void begin(struct db *db, struct op *op)
{
	struct store_folder there = { 0 };
	sqlite3_stmt *s;

	if (!find_folder(db, op, &there)) {
		if ((s = statement(db, S_ADD_FOLDER)) == NULL)
			return;
		bind_text(s, 1, op->id);
		bind_text(s, 2, op->name);
		sqlite3_bind_int64(s, 3, op->uidvalidity);
		sqlite3_bind_int64(s, 4, clock_wall_s());
		run(db, s);
		there.ref = sqlite3_last_insert_rowid(db->sqlite);
	} else {
		RUN(db, S_RESET_FOLDER, there.ref, op->uidvalidity);
		RUN(db, S_SETTLED_CLEAR, there.ref);
		RUN(db, S_OWED_CLEAR, there.ref);
		RUN(db, S_AFTER_CLEAR, there.ref);
		RUN(db, S_INTENT_CLEAR, there.ref);
	}
	for (size_t i = 0; i < op->ranges.n; i++)
		RUN(db, S_SETTLED_ADD, there.ref, op->ranges.v[i].lo, op->ranges.v[i].hi);
	for (size_t i = 0; i < op->after.n; i++)
		for (int64_t uid = op->after.v[i].lo; uid <= op->after.v[i].hi; uid++)
			RUN(db, S_AFTER_ADD, there.ref, uid);
	load(db, op);
}

/* What is in the record without a date (of before it was kept) does not count as the oldest. */
static void read_known(struct db *db, struct op *op)
{
	sqlite3_stmt *s = statement(db, S_HASH_ALL);
	size_t room = 0;

	if (s == NULL)
		return;
	sqlite3_bind_int64(s, 1, op->folder);
	while (step(db, s)) {
		bool first = sqlite3_column_int64(s, 2) == 1;
		int64_t internaldate_s = sqlite3_column_int64(s, 1);

		if (sqlite3_column_bytes(s, 0) != STORE_HASH_BYTES)
			continue;
		if (op->known.n == room) {
			room = room == 0 ? 64 : 2 * room;
			op->known.hashes = xreallocarray(op->known.hashes, room, STORE_HASH_BYTES);
		}
		memcpy(op->known.hashes[op->known.n++], sqlite3_column_blob(s, 0), STORE_HASH_BYTES);
		op->known.whole = op->known.whole || first;	/* what is forgotten goes from there on */
		if (internaldate_s != 0 && (op->known.oldest_internaldate_s == 0 || internaldate_s < op->known.oldest_internaldate_s))
			op->known.oldest_internaldate_s = internaldate_s;
	}
	if (op->known.n == 0)
		op->known.whole = true;
	sqlite3_reset(s);
}

static void unsettle(struct db *db, struct op *op)
{
	struct store_folder there = { 0 };

	load(db, op);
	there = op->answer;
	op->answer = (struct store_folder){ 0 };
	ranges_remove_all(&there.settled, &op->ranges);
	RUN(db, S_SETTLED_CLEAR, there.ref);
	for (size_t i = 0; i < there.settled.n; i++)
		RUN(db, S_SETTLED_ADD, there.ref, there.settled.v[i].lo, there.settled.v[i].hi);
	for (size_t i = 0; i < op->ranges.n; i++) {
		RUN(db, S_OWED_DELETE_RANGE, there.ref, op->ranges.v[i].lo, op->ranges.v[i].hi);
		RUN(db, S_AFTER_DELETE, there.ref, op->ranges.v[i].lo, op->ranges.v[i].hi);
	}
	store_folder_done(&there);
	change_resync(db, S_RESYNC_DELETE, op);
	load(db, op);
}

static void run_text(struct db *db, enum statement which, const char *text)
{
	sqlite3_stmt *s = statement(db, which);

	if (s == NULL)
		return;
	bind_text(s, 1, text);
	run(db, s);
}

static void forget(struct db *db, struct op *op)
{
	static const enum statement clear[] = { S_SETTLED_CLEAR, S_OWED_CLEAR, S_AFTER_CLEAR, S_INTENT_CLEAR, S_HASH_CLEAR, S_FOLDER_DELETE };
	folder_ref refs[256];
	sqlite3_stmt *s;
	size_t n;

	op->n = 0;
	do {			/* some at a time: what is deleted must not be walked over */
		if ((s = statement(db, S_FOLDERS_OF)) == NULL)
			return;
		bind_text(s, 1, op->id);
		for (n = 0; n < ARRAY_LEN(refs) && step(db, s); n++)
			refs[n] = sqlite3_column_int64(s, 0);
		sqlite3_reset(s);
		sqlite3_clear_bindings(s);
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < ARRAY_LEN(clear); j++)
				RUN(db, clear[j], refs[i]);
		op->n += n;
	} while (n > 0 && db->error == 0);
	run_text(db, S_RESUME, op->id);
	run_text(db, S_RESYNC_CLEAR, op->id);
}

static void apply_one(struct db *db, struct op *op)
{
	if (op->kind != OP_SETTLE && op->kind != OP_ADD_INTENT && op->kind != OP_DROP_INTENT)
		end_run(db);
	switch (op->kind) {
	case OP_LOAD:
		load(db, op);
		break;
	case OP_BEGIN:
		begin(db, op);
		break;
	case OP_ADD_INTENT:
		add_intent(db, op);
		break;
	case OP_DROP_INTENT:
		drop_intent(db, op);
		break;
	case OP_SETTLE:
		settle(db, op);
		break;
	case OP_OWE:
		owe(db, op);
		break;
	case OP_AFTER_DONE:
		for (size_t i = 0; i < op->ranges.n; i++)
			RUN(db, S_AFTER_DELETE, op->folder, op->ranges.v[i].lo, op->ranges.v[i].hi);
		break;
	case OP_COMPLETE:
		RUN(db, S_COMPLETE, op->folder);
		break;
	case OP_READ_KNOWN:
		read_known(db, op);
		break;
	case OP_PAUSE:
		run_text(db, op->paused ? S_PAUSE : S_RESUME, op->id);
		break;
	case OP_FORGET:
		forget(db, op);
		break;
	case OP_WANT_RESYNC:
		change_resync(db, S_RESYNC_PUT, op);
		break;
	case OP_DROP_RESYNC:
		change_resync(db, S_RESYNC_DELETE, op);
		break;
	case OP_UNSETTLE:
		unsettle(db, op);
		break;
	}
}

static int exec(struct db *db, const char *text)
{
	return sqlite3_exec(db->sqlite, text, NULL, NULL, NULL);
}

static int on_wal(void *arg, sqlite3 *sqlite, const char *name, int pages)
{
	struct db *db = arg;

	(void)sqlite, (void)name;
	db->wal_pages = pages;
	return SQLITE_OK;
}

bool db_wants_checkpoint(const struct db *db)
{
	return db->wal_pages >= WAL_PAGES;
}

/* An error is the next commit's to find; while a backup reads, part of the log stays for the next one. */
void db_checkpoint(struct db *db)
{
	db->wal_pages = 0;
	sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

int db_apply(struct db *db, struct op *ops, char *ret_error, size_t size)
{
	db->error = exec(db, "BEGIN");
	for (struct op *op = ops; op != NULL && db->error == 0; op = op->next) {
		store_folder_done(&op->answer);		/* of an attempt before */
		store_known_done(&op->known);
		apply_one(db, op);
	}
	end_run(db);
	if (db->error == 0)
		db->error = exec(db, "COMMIT");
	if (db->error == 0) {
		if (db->wal_pages >= WAL_PAGES_MAX)
			db_checkpoint(db);
		return 0;
	}
	snprintf(ret_error, size, "%s (%s)", sqlite3_errstr(db->error), sqlite3_errmsg(db->sqlite));
	if (!sqlite3_get_autocommit(db->sqlite))
		exec(db, "ROLLBACK");
	return db->error & 0xff;
}

char **db_paused(struct db *db, size_t *ret_n)
{
	sqlite3_stmt *s = statement(db, S_PAUSED_ALL);
	char **v = NULL;

	*ret_n = 0;
	while (s != NULL && step(db, s)) {
		v = xreallocarray(v, *ret_n + 1, sizeof(*v));
		v[(*ret_n)++] = xstrdup((const char *)sqlite3_column_text(s, 0));
	}
	sqlite3_reset(s);
	return v;
}

/* --- opening --- */

/* The kernel's, or where the unit hides that from us what systemd says it is: hex digits, written without dashes. */
static void read_boot_id(char *ret_id, size_t size)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	const char *told = getenv("MAILPOLLD_BOOT_ID");
	char text[64] = "";
	size_t n = 0;

	if (f != NULL && fgets(text, sizeof(text), f) == NULL)
		text[0] = '\0';
	if (f != NULL)
		fclose(f);
	for (const char *s = text[0] != '\0' ? text : told != NULL ? told : ""; *s != '\0' && n + 1 < size; s++)
		if (strchr("0123456789abcdef", *s) != NULL)
			ret_id[n++] = *s;
	ret_id[n] = '\0';
}

static int read_instance(struct db *db)
{
	char *text = db_first_text(db->sqlite, "INSERT OR IGNORE INTO meta VALUES ('instance', lower(hex(randomblob(4))))");

	free(text);
	text = db_first_text(db->sqlite, "SELECT value FROM meta WHERE name = 'instance'");
	snprintf(db->instance, sizeof(db->instance), "%s", text != NULL ? text : "");
	free(text);
	return strlen(db->instance) == 8 ? 0 : -1;
}

static char *column_copy(sqlite3_stmt *s, int i)
{
	return xstrdup((const char *)sqlite3_column_text(s, i));
}

static int read_intents(struct db *db)
{
	sqlite3_stmt *s = NULL;
	int rc = sqlite3_prepare_v2(db->sqlite, "SELECT folder, uid, sink, maildir, tmp_name, new_name, settle_from, after_owed, boot, hash,"
	    " internaldate FROM intent ORDER BY folder, uid", -1, &s, NULL);

	while (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
		struct store_found_intent *i;
		const char *boot = (const char *)sqlite3_column_text(s, 8), *place = boot + strcspn(boot, " ");

		rc = SQLITE_OK;
		db->found = xreallocarray(db->found, db->n_found + 1, sizeof(*i));
		i = &db->found[db->n_found++];
		*i = (struct store_found_intent){ .folder = sqlite3_column_int64(s, 0), .uid = (uint32_t)sqlite3_column_int64(s, 1),
			.sink = column_copy(s, 2), .maildir = column_copy(s, 3), .tmp_name = column_copy(s, 4), .new_name = column_copy(s, 5),
			.settle_from = (uint32_t)sqlite3_column_int64(s, 6), .after_owed = sqlite3_column_int(s, 7) != 0, .internaldate_s = sqlite3_column_int64(s, 10),
			.this_boot = place > boot && strlen(db->boot) == (size_t)(place - boot) && strncmp(boot, db->boot, strlen(db->boot)) == 0,
			.place = xstrdup(*place != '\0' ? place + 1 : place) };
		if (sqlite3_column_bytes(s, 9) == STORE_HASH_BYTES)
			memcpy(i->hash, sqlite3_column_blob(s, 9), STORE_HASH_BYTES);
	}
	sqlite3_finalize(s);
	return rc == SQLITE_DONE ? 0 : -1;
}

struct db *db_open(const char *state_dir, char *ret_error, size_t size)
{
	struct db *db = xcalloc(1, sizeof(*db));
	char *path = xasprintf("%s/state.db", state_dir);
	bool good = false;

	read_boot_id(db->boot, sizeof(db->boot));
	db->lock_fd = db_lock(state_dir, ret_error, size);
	if (db->lock_fd >= 0)
		db->sqlite = db_open_file(path, ret_error, size);
	if (db->sqlite != NULL) {
		sqlite3_wal_hook(db->sqlite, on_wal, db);	/* instead of SQLite's, which makes a commit wait for its checkpoint */
		good = read_instance(db) == 0 && read_intents(db) == 0;
		if (!good)
			snprintf(ret_error, size, "cannot read the state %s: %s", path, sqlite3_errmsg(db->sqlite));
	}
	free(path);
	if (!good)
		db_close(&db);
	return db;
}

void db_close(struct db **database)
{
	struct db *db = *database;

	if (db == NULL)
		return;
	for (size_t i = 0; i < S_N; i++)
		sqlite3_finalize(db->statements[i]);
	sqlite3_close(db->sqlite);
	if (db->lock_fd >= 0)
		close(db->lock_fd);
	for (size_t i = 0; i < db->n_found; i++) {
		free(db->found[i].sink);
		free(db->found[i].maildir);
		free(db->found[i].tmp_name);
		free(db->found[i].new_name);
		free(db->found[i].place);
	}
	free(db->found);
	free(db);
	*database = NULL;
}

const char *db_instance(const struct db *db)
{
	return db->instance;
}

const struct store_found_intent *db_found_intents(const struct db *db, size_t *ret_n)
{
	*ret_n = db->n_found;
	return db->found;
}
