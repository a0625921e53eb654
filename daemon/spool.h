/* spool.h - messages streaming into files, and how much room they all take. Bytes are moved, and only a few at a time copied,
 * from the session's buffer; they are written in order on the volume's lane. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "clock.h"
#include "util.h"

struct evbuffer; struct volume;
struct spool;				/* the account of all of them */
struct spool_file;

/* state: the volume of state_dir, lent: below min_free there nothing has room, wherever it goes. */
struct spool *spool_new(uint64_t limit_bytes, uint64_t min_free_bytes, const struct volume *state);
void spool_free(struct spool **);
void spool_set_limits(struct spool *, uint64_t limit_bytes, uint64_t min_free_bytes);
/* Why there is no room for about that many bytes more on this volume, for a person; NULL: there is. An empty spool always takes one message. */
const char *spool_no_room(const struct spool *, const struct volume *, uint64_t bytes);
uint64_t spool_room_bytes(const struct spool *);		/* below the limit, whatever the volume */
uint64_t spool_bytes(const struct spool *);
size_t spool_files(const struct spool *);
void spool_release(struct spool *, uint64_t bytes);	/* a finished file has left the spool */

struct spool_place { const char *dir; struct volume *volume; ino_t inode /* of dir */; mode_t mode; gid_t gid; };	/* lent for the call; gid -1: as is */
struct spool_file_ops {
	void (*on_room)(void *arg);		/* it does not lag any more */
	/* The end, exactly once after spool_file_finish() and from the loop: all written and closed, or errno. The file
	 * object is gone; after an error the file is, too. */
	void (*on_done)(void *arg, int error, uint64_t size_bytes);
};
/* Makes dir/name, not before its first byte is written. */
struct spool_file *spool_file_new(struct spool *, const struct spool_place *, const char *name, const struct spool_file_ops *, void *arg);
void spool_file_take(struct spool_file *, struct evbuffer *from, size_t len);	/* takes exactly len bytes out of it */
bool spool_file_lags(struct spool_file *);	/* read no more until on_room */
void spool_file_finish(struct spool_file *);
void spool_file_abort(struct spool_file **);		/* removes the file; no callback comes. NULL inside is fine */

/* On a lane. Gives an open file or directory its mode and (unless -1) its group; errno. A user who may not give files away, or a
 * sandbox without chown, makes it an access control list, with which the group may do the same. */
int spool_share(int fd, mode_t mode, gid_t gid) MUST_CHECK;

/* Removes a file on the volume's lane; nobody waits for it. */
void spool_remove(struct volume *, const char *path);
