/* A copy of the state, made while the writer goes on. */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store_private.h"
#include "util.h"

static int vacuum_into(const char *state_dir, const char *copy, char *ret_error, size_t size)
{
	char *from = xasprintf("%s/state.db", state_dir), *text = sqlite3_mprintf("VACUUM INTO %Q", copy);
	sqlite3 *sqlite = NULL;
	int rc = sqlite3_open_v2(from, &sqlite, SQLITE_OPEN_READWRITE, NULL);

	sqlite3_busy_timeout(sqlite, DB_BUSY_MS);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(sqlite, text, NULL, NULL, NULL);
	if (rc != SQLITE_OK)
		snprintf(ret_error, size, "%s", sqlite3_errmsg(sqlite));
	sqlite3_close(sqlite);
	sqlite3_free(text);
	free(from);
	return rc == SQLITE_OK ? 0 : -1;
}

/* 0, or errno. */
static int copy_bytes(int from, int to)
{
	char buf[65536];
	ssize_t n, written;

	while ((n = read(from, buf, sizeof(buf))) > 0)
		for (ssize_t done = 0; done < n; done += written)
			if ((written = write(to, buf + done, (size_t)(n - done))) < 0)
				return errno;
	if (n < 0 || fsync(to) < 0)
		return errno;
	return 0;
}

static int copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out, error;

	if (in < 0)
		return errno;
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	error = out < 0 ? errno : copy_bytes(in, out);
	close(in);
	if (out < 0)
		return error;
	if (close(out) < 0 && error == 0)
		error = errno;
	if (error == 0)
		error = flush_directory_of(to);
	if (error != 0)
		unlink(to);
	return error;
}

/* First beside the state: while the database is read its log grows, so that must not wait for a slow place. */
int db_backup(const char *state_dir, const char *path, char *ret_error, size_t size)
{
	char *copy = xasprintf("%s/backup.tmp", state_dir);
	int error = 0, result;

	unlink(copy);			/* of a run that was cut short */
	result = vacuum_into(state_dir, copy, ret_error, size);
	if (result == 0 && (error = copy_file(copy, path)) != 0) {
		snprintf(ret_error, size, "%s", strerror(error));
		result = -1;
	}
	unlink(copy);
	free(copy);
	return result;
}
