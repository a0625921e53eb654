/* The state's file: its lock, whether it is sound and ours, and its schema. What is in it is read and written in store_db.c. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store_private.h"
#include "util.h"

#define APPLICATION_ID 0x6d706c64	/* "mpld" */

static const char *const schema_steps[] = {
	"CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE folder (ref INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, uidvalidity INTEGER NOT NULL,"
	" complete INTEGER NOT NULL DEFAULT 0, delivered INTEGER NOT NULL DEFAULT 0, last_delivery INTEGER NOT NULL DEFAULT 0,"
	" last_success INTEGER NOT NULL DEFAULT 0, UNIQUE (id, name));"
	/* disjoint, not adjacent: a mailbox of a million settled UIDs is one row */
	"CREATE TABLE settled (folder INTEGER NOT NULL, lo INTEGER NOT NULL, hi INTEGER NOT NULL, PRIMARY KEY (folder, lo)) WITHOUT ROWID;"
	"CREATE TABLE owed (folder INTEGER NOT NULL, uid INTEGER NOT NULL, attempts INTEGER NOT NULL, first INTEGER NOT NULL,"
	" next INTEGER NOT NULL, why TEXT NOT NULL, PRIMARY KEY (folder, uid)) WITHOUT ROWID;"
	"CREATE TABLE after_owed (folder INTEGER NOT NULL, uid INTEGER NOT NULL, PRIMARY KEY (folder, uid)) WITHOUT ROWID;"
	"CREATE TABLE intent (folder INTEGER NOT NULL, uid INTEGER NOT NULL, sink TEXT NOT NULL, maildir TEXT NOT NULL,"
	" tmp_name TEXT NOT NULL, new_name TEXT NOT NULL, settle_from INTEGER NOT NULL, hash BLOB NOT NULL, after_owed INTEGER NOT NULL,"
	" boot TEXT NOT NULL, PRIMARY KEY (folder, uid, sink)) WITHOUT ROWID;"
	"CREATE TABLE delivered (seq INTEGER PRIMARY KEY, folder INTEGER NOT NULL, hash BLOB NOT NULL, at INTEGER NOT NULL,"
	" UNIQUE (folder, hash));"
	"CREATE INDEX delivered_age ON delivered (folder, seq);",
	"ALTER TABLE folder ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE delivered ADD COLUMN internaldate INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE intent ADD COLUMN internaldate INTEGER NOT NULL DEFAULT 0;"
	"CREATE TABLE paused (id TEXT PRIMARY KEY) WITHOUT ROWID;",
	/* one tree instead of three, so one page for a delivery: the hashes are read all at once or not at all */
	"CREATE TABLE record (folder INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, at INTEGER NOT NULL,"
	" internaldate INTEGER NOT NULL, PRIMARY KEY (folder, seq)) WITHOUT ROWID;"
	"INSERT INTO record SELECT folder, seq, hash, at, internaldate FROM delivered;"
	"DROP TABLE delivered;",
	"CREATE TABLE resync (id TEXT NOT NULL, name TEXT NOT NULL, year INTEGER NOT NULL, month INTEGER NOT NULL, day INTEGER NOT NULL,"
	" PRIMARY KEY (id, name)) WITHOUT ROWID;"
	/* INBOX has one name (config.c), and each folder counts its own deliveries, without holes; from 2 on, since more of them may have been
	 * forgotten */
	"UPDATE OR IGNORE folder SET name = 'INBOX' WHERE name = 'INBOX' COLLATE NOCASE;"
	"CREATE TABLE counted AS SELECT folder, 1 + row_number() OVER (PARTITION BY folder ORDER BY seq) AS seq, hash, at, internaldate FROM record;"
	"DELETE FROM record;"
	"INSERT INTO record SELECT folder, seq, hash, at, internaldate FROM counted;"
	"DROP TABLE counted;",
};
#define SCHEMA ((int)ARRAY_LEN(schema_steps))

static int64_t pragma_number(sqlite3 *sqlite, const char *pragma)
{
	sqlite3_stmt *s = NULL;
	int64_t n = -1;

	if (sqlite3_prepare_v2(sqlite, pragma, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
		n = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return n;
}

char *db_first_text(sqlite3 *sqlite, const char *pragma)
{
	sqlite3_stmt *s = NULL;
	char *text = NULL;

	if (sqlite3_prepare_v2(sqlite, pragma, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
		text = xstrdup((const char *)sqlite3_column_text(s, 0));
	sqlite3_finalize(s);
	return text;
}

static int keep_copy(sqlite3 *sqlite, const char *path, int64_t version, char *ret_error, size_t size)
{
	char *copy = xasprintf("%s.schema-%lld", path, (long long)version);
	char *statement_text = sqlite3_mprintf("VACUUM INTO %Q", copy);
	int rc;

	unlink(copy);			/* of a migration that was cut short */
	rc = sqlite3_exec(sqlite, statement_text, NULL, NULL, NULL);
	if (rc != SQLITE_OK)
		snprintf(ret_error, size, "cannot keep a copy of the state as %s: %s", copy, sqlite3_errmsg(sqlite));
	sqlite3_free(statement_text);
	free(copy);
	return rc == SQLITE_OK ? 0 : -1;
}

int db_migrate(sqlite3 *sqlite, const char *path, const char *const *steps, int n_steps, char *ret_error, size_t size)
{
	int64_t version = pragma_number(sqlite, "PRAGMA user_version");
	char number[48];
	int rc;

	if (version == n_steps)
		return 0;
	if (version < 0 || version > n_steps) {
		char *copy = xasprintf("%s.schema-%d", path, n_steps);

		snprintf(ret_error, size, "%s was written by a newer mailpolld (schema %lld, this one knows %d): run that one, or put back the "
		    "copy %s%s", path, (long long)version, n_steps, copy, access(copy, F_OK) == 0 ? "" : " (which is not there)");
		free(copy);
		return -1;
	}
	if (version > 0 && keep_copy(sqlite, path, version, ret_error, size) < 0)
		return -1;
	rc = sqlite3_exec(sqlite, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	for (int64_t i = version; i < n_steps && rc == SQLITE_OK; i++)
		rc = sqlite3_exec(sqlite, steps[i], NULL, NULL, NULL);
	snprintf(number, sizeof(number), "PRAGMA user_version = %d", n_steps);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sqlite, number, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sqlite, "COMMIT", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		return 0;
	snprintf(ret_error, size, "cannot bring %s from schema %lld to %d: %s", path, (long long)version, n_steps, sqlite3_errmsg(sqlite));
	sqlite3_exec(sqlite, "ROLLBACK", NULL, NULL, NULL);
	return -1;
}

/* What root made in another user's directory would be closed to that user, and end each start of the service. */
static int check_owner(const char *state_dir, char *ret_error, size_t size)
{
	const struct passwd *owner;
	struct stat st;

	if (geteuid() != 0 || stat(state_dir, &st) < 0 || st.st_uid == 0)
		return 0;
	owner = getpwuid(st.st_uid);
	snprintf(ret_error, size, "state_dir %s belongs to user %s: start mailpolld as that user (systemctl start mailpolld; by hand with runuser -u)",
	    state_dir, owner != NULL ? owner->pw_name : "unknown");
	return -1;
}

int db_lock(const char *state_dir, char *ret_error, size_t size)
{
	char *path = xasprintf("%s/lock", state_dir);
	int fd = -1, error = 0;

	if (check_owner(state_dir, ret_error, size) < 0)
		goto out;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		error = errno;
	if (error == EWOULDBLOCK)
		snprintf(ret_error, size, "another mailpolld is running with state_dir %s: stop that one, or give this one its own", state_dir);
	else if (error != 0)
		snprintf(ret_error, size, "cannot lock %s: %s", path, strerror(error));
	if (error != 0 && fd >= 0) {
		close(fd);
		fd = -1;
	}
out:
	free(path);
	return fd;
}

/* Who writes to whom is nobody else's: the log and its index get the same mode from SQLite. */
static void make_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
}

/* Damaged, somebody else's, or not to be written: -1. */
static int check_file(sqlite3 *sqlite, const char *path, char *ret_error, size_t size)
{
	char *mode = db_first_text(sqlite, "PRAGMA journal_mode = WAL"), *sound = NULL;
	int64_t id = pragma_number(sqlite, "PRAGMA application_id"), version = pragma_number(sqlite, "PRAGMA user_version");
	int64_t tables = pragma_number(sqlite, "SELECT count(*) FROM sqlite_schema");
	int result = -1;

	if (tables > 0 && mode != NULL)
		sound = db_first_text(sqlite, "PRAGMA quick_check(1)");
	if (id < 0 || version < 0 || tables < 0 || mode == NULL || (tables > 0 && (sound == NULL || strcmp(sound, "ok") != 0)))
		snprintf(ret_error, size, "the state %s cannot be read (%s): it is not replaced; put back a copy, or move it away to begin anew",
		    path, sound != NULL ? sound : sqlite3_errmsg(sqlite));
	else if (tables > 0 && id != APPLICATION_ID)
		snprintf(ret_error, size, "%s is not a state of mailpolld: move it away", path);
	else if (strcmp(mode, "wal") != 0)
		snprintf(ret_error, size, "%s cannot use a write-ahead log (%s): state_dir must be on a local file system", path, mode);
	else
		result = 0;
	free(mode);
	free(sound);
	return result;
}

static int prepare_file(sqlite3 *sqlite, const char *path, char *ret_error, size_t size)
{
	char *made;

	if (check_file(sqlite, path, ret_error, size) < 0)
		return -1;
	made = xasprintf("PRAGMA synchronous = FULL; PRAGMA cache_size = -2048; PRAGMA temp_store = MEMORY;"
	    "PRAGMA journal_size_limit = 8388608; PRAGMA application_id = %d;", APPLICATION_ID);
	if (sqlite3_exec(sqlite, made, NULL, NULL, NULL) != SQLITE_OK) {
		snprintf(ret_error, size, "cannot write %s: %s", path, sqlite3_errmsg(sqlite));
		free(made);
		return -1;
	}
	free(made);
	return db_migrate(sqlite, path, schema_steps, SCHEMA, ret_error, size);
}

sqlite3 *db_open_file(const char *path, char *ret_error, size_t size)
{
	sqlite3 *sqlite = NULL;

	make_file(path);
	if (sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		snprintf(ret_error, size, "cannot open the state %s: %s", path, sqlite3_errmsg(sqlite));
	else if (sqlite3_busy_timeout(sqlite, DB_BUSY_MS) == SQLITE_OK && prepare_file(sqlite, path, ret_error, size) == 0)
		return sqlite;
	sqlite3_close(sqlite);
	return NULL;
}
