/* store_private.h - what the files of the store share: store.c (the queue, on the loop), store_db.c (changes and questions
 * as SQL, on the writer's thread), store_file.c (the file they are in) and store_backup.c (a copy of it). Nobody else
 * includes it, but for the store's own test. */
#pragma once
#include "store.h"

struct sqlite3;
struct db;

enum op_kind { OP_LOAD, OP_BEGIN, OP_ADD_INTENT, OP_DROP_INTENT, OP_SETTLE, OP_OWE, OP_AFTER_DONE, OP_COMPLETE, OP_READ_KNOWN, OP_WANT_RESYNC, OP_DROP_RESYNC,
	OP_UNSETTLE, OP_PAUSE, OP_FORGET };
struct op {				/* one change or question, with copies of all it needs */
	struct op *next;
	enum op_kind kind;
	folder_ref folder;
	uint32_t uid, settle_from, uidvalidity;
	char *id, *name, *sink, *maildir, *tmp_name, *new_name, *place;
	uint8_t hash[STORE_HASH_BYTES];
	int64_t internaldate_s;
	bool delivered, after_owed;
	struct ranges ranges, after;	/* after: BEGIN */
	struct store_owed owed;
	struct store_folder answer;	/* LOAD, BEGIN, UNSETTLE */
	struct store_known known;	/* READ_KNOWN */
	bool paused;			/* PAUSE */
	struct store_day day;		/* WANT_RESYNC, DROP_RESYNC, UNSETTLE */
	uint64_t n;			/* FORGET: folders */
	store_cb *cb;
	store_folder_cb *folder_cb;
	store_known_cb *known_cb;
	store_count_cb *count_cb;
	void *arg;
};

/* All four block. NULL: ret_error says why not. */
struct db *db_open(const char *state_dir, char *ret_error, size_t size);
void db_close(struct db **);
/* Does the ops in one transaction: all (0) or, when the disk refuses, none (SQLite's primary code, ret_error). */
int db_apply(struct db *, struct op *ops, char *ret_error, size_t size);
/* What the write-ahead log holds, into the file it belongs to: for a moment when nobody waits for a commit. */
void db_checkpoint(struct db *);
bool db_wants_checkpoint(const struct db *);
#define DB_BUSY_MS 5000			/* the writer and a backup meet for moments only */
/* store_backup.c. Beside the writer, by a connection of its own; path must not be there yet, is durable when it returns. -1: ret_error. */
int db_backup(const char *state_dir, const char *path, char *ret_error, size_t size);
/* The ids that are paused; the caller frees the texts and the array. */
char **db_paused(struct db *, size_t *ret_n);
const char *db_instance(const struct db *);
const struct store_found_intent *db_found_intents(const struct db *, size_t *ret_n);

/* --- store_file.c: blocks; -1 or NULL: ret_error says why not --- */

int db_lock(const char *state_dir, char *ret_error, size_t size);	/* the file that is locked as long as it is open */
struct sqlite3 *db_open_file(const char *path, char *ret_error, size_t size);	/* checked, with this schema */
char *db_first_text(struct sqlite3 *, const char *question);	/* of its first row; the caller frees; NULL: none */

/* The migration seam: steps[i] brings schema i to i + 1; steps[0] makes it. Before a migration of an older state its copy
 * is kept as PATH.schema-N. -1: ret_error; the state is as it was. */
int db_migrate(struct sqlite3 *, const char *path, const char *const *steps, int n_steps, char *ret_error, size_t size);
