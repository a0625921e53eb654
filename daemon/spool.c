#include <endian.h>
#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "spool.h"
#include "util.h"
#include "volume.h"

#define ACL_XATTR "system.posix_acl_access"
#define CHUNK_BYTES (64 * 1024)		/* written at a time */
#define COPIED_BYTES 4096		/* less is copied: what brings it is a chain of libevent's with 16 KiB, however little a record has */
#define LAG_HIGH_BYTES (256 * 1024)	/* waiting: stop reading */
#define LAG_LOW_BYTES (64 * 1024)	/* waiting: go on */

struct spool {
	uint64_t bytes, limit_bytes, min_free_bytes;
	const struct volume *state;	/* lent */
	size_t files;
};
struct spool_file {
	struct spool *spool;		/* lent */
	struct volume *volume;		/* lent */
	const struct spool_file_ops *ops;
	void *arg;
	char *path;
	mode_t mode;
	gid_t gid;
	struct evbuffer *pending;	/* taken, not yet given to a job */
	size_t writing_bytes;		/* in the job */
	uint64_t size_bytes;
	int fd;				/* the job's while one runs; -1 before the first */
	int error;
	bool busy, lagging, finishing, aborted;
};

/* --- on the lane --- */

struct write_job {
	struct job job;
	struct spool_file *file;	/* for done() only */
	char *path;			/* to be made first; NULL: fd is open */
	mode_t mode;
	gid_t gid;
	int fd, error;
	struct evbuffer *data;
	bool last, remove;		/* close after this one; remove it */
	bool has_free;
	uint64_t free_bytes;
};

/* As if the file's group were gid: what mode gives the group is that group's, and the file's own is among the others. */
static int set_acl(int fd, mode_t mode, gid_t gid)
{
	unsigned owner = mode >> 6 & 7, group = mode >> 3 & 7, others = mode & 7;
	struct { struct posix_acl_xattr_header header; struct posix_acl_xattr_entry v[5]; } acl = {
		{ htole32(POSIX_ACL_XATTR_VERSION) }, {
			{ htole16(ACL_USER_OBJ), htole16(owner), htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_GROUP_OBJ), htole16(others), htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_GROUP), htole16(group), htole32(gid) },
			{ htole16(ACL_MASK), htole16(group | others), htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_OTHER), htole16(others), htole32(ACL_UNDEFINED_ID) },
		} };

	return fsetxattr(fd, ACL_XATTR, &acl, sizeof(acl), 0);
}

int spool_share(int fd, mode_t mode, gid_t gid)
{
	struct stat st;

	if (gid != (gid_t)-1 && fstat(fd, &st) == 0 && st.st_gid != gid && fchown(fd, (uid_t)-1, gid) < 0) {
		if (errno != EPERM || set_acl(fd, mode, gid) < 0)
			return errno;
		return 0;
	}
	return fchmod(fd, mode) < 0 ? errno : 0;
}

static int make_file(const char *path, mode_t mode, gid_t gid)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600), error;

	if (fd < 0 || (error = spool_share(fd, mode, gid)) == 0)
		return fd;
	close(fd);
	unlink(path);
	errno = error;
	return -1;
}

static int write_out(int fd, struct evbuffer *data)
{
	while (evbuffer_get_length(data) > 0)
		if (evbuffer_write(data, fd) < 0 && errno != EINTR)
			return errno;
	return 0;
}

static void work_write(struct job *job)
{
	struct write_job *w = (struct write_job *)job;
	struct statvfs vfs;

	if (w->fd < 0 && !w->remove && (w->fd = make_file(w->path, w->mode, w->gid)) < 0)
		w->error = errno;
	if (w->error == 0 && !w->remove)
		w->error = write_out(w->fd, w->data);
	if (w->fd >= 0 && (w->has_free = fstatvfs(w->fd, &vfs) == 0))
		w->free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (w->fd >= 0 && (w->last || w->error != 0)) {
		if (close(w->fd) < 0 && w->error == 0)
			w->error = errno;
		w->fd = -1;
	}
	if (w->remove || w->error != 0)
		unlink(w->path);
}

/* --- on the loop --- */

static void done_write(struct job *job);

static void submit(struct spool_file *f, bool remove)
{
	struct write_job *w = xcalloc(1, sizeof(*w));

	w->job.work = work_write;
	w->job.done = done_write;
	w->file = f;
	w->path = xstrdup(f->path);
	w->mode = f->mode;
	w->gid = f->gid;
	w->fd = f->fd;
	w->data = f->pending;
	w->remove = remove;
	f->pending = evbuffer_new();
	f->writing_bytes = evbuffer_get_length(w->data);
	w->last = f->finishing || remove;
	f->busy = true;
	lane_submit(volume_lane(f->volume), &w->job);
}

static void file_next(struct spool_file *f)
{
	if (f->busy)
		return;
	if (f->aborted || (f->error != 0 && f->finishing))
		submit(f, true);
	else if (f->error == 0 && (f->finishing || evbuffer_get_length(f->pending) >= CHUNK_BYTES))
		submit(f, false);
}

/* The file object's end: it is whole, or it is gone from the disk. */
static void file_over(struct spool_file *f, bool whole)
{
	const struct spool_file_ops *ops = f->aborted ? NULL : f->ops;
	void *arg = f->arg;
	uint64_t size = whole ? f->size_bytes : 0;
	int error = f->error;

	if (!whole)
		spool_release(f->spool, f->size_bytes);
	evbuffer_free(f->pending);
	free(f->path);
	free(f);
	if (ops != NULL)
		ops->on_done(arg, error, size);
}

/* It is gone from the disk. More of it may come for long, and others need the room. */
static void file_failed(struct spool_file *f, int error)
{
	if (f->error == 0)
		f->error = error;
	f->spool->bytes -= f->size_bytes;
	f->size_bytes = 0;
	evbuffer_drain(f->pending, evbuffer_get_length(f->pending));
}

static void done_write(struct job *job)
{
	struct write_job *w = (struct write_job *)job;
	struct spool_file *f = w->file;

	f->busy = false;
	f->writing_bytes = 0;
	f->fd = w->fd;
	if (w->error != 0)
		file_failed(f, w->error);
	if (w->has_free)
		volume_note_free(f->volume, w->free_bytes);
	if (w->remove) {
		file_over(f, false);
	} else if (w->last && w->error == 0 && !f->aborted) {
		file_over(f, true);
	} else {
		if (f->lagging && !f->aborted && (f->error != 0 || evbuffer_get_length(f->pending) < LAG_LOW_BYTES)) {
			f->lagging = false;
			f->ops->on_room(f->arg);
		}
		file_next(f);
	}
	evbuffer_free(w->data);
	free(w->path);
	free(w);
}

struct spool_file *spool_file_new(struct spool *spool, const struct spool_place *place, const char *name,
    const struct spool_file_ops *ops, void *arg)
{
	struct spool_file *f = xcalloc(1, sizeof(*f));

	f->spool = spool;
	spool->files++;
	f->volume = place->volume;
	f->ops = ops;
	f->arg = arg;
	f->path = xasprintf("%s/%s", place->dir, name);
	f->mode = place->mode;
	f->gid = place->gid;
	f->pending = evbuffer_new();
	f->fd = -1;
	return f;
}

void spool_file_take(struct spool_file *f, struct evbuffer *from, size_t len)
{
	char few[COPIED_BYTES];

	if (f->error != 0) {		/* on_done will tell; the rest has nowhere to go */
		evbuffer_drain(from, len);
		return;
	}
	f->size_bytes += len;
	f->spool->bytes += len;
	if (len < sizeof(few)) {
		evbuffer_remove(from, few, len);
		evbuffer_add(f->pending, few, len);
	} else {
		evbuffer_remove_buffer(from, f->pending, len);
	}
	file_next(f);
}

bool spool_file_lags(struct spool_file *f)
{
	if (f->busy && f->writing_bytes + evbuffer_get_length(f->pending) > LAG_HIGH_BYTES)
		f->lagging = true;	/* on_room will come */
	return f->lagging;
}

void spool_file_finish(struct spool_file *f)
{
	f->finishing = true;
	file_next(f);
}

void spool_file_abort(struct spool_file **file)
{
	struct spool_file *f = *file;

	*file = NULL;
	if (f == NULL)
		return;
	f->aborted = true;
	file_next(f);
}

struct remove_job {
	struct job job;
	char path[];
};

static void work_remove(struct job *job)
{
	unlink(((struct remove_job *)job)->path);
}

static void done_remove(struct job *job)
{
	free(job);
}

void spool_remove(struct volume *volume, const char *path)
{
	struct remove_job *r = xcalloc(1, sizeof(*r) + strlen(path) + 1);

	r->job.work = work_remove;
	r->job.done = done_remove;
	strcpy(r->path, path);
	lane_submit(volume_lane(volume), &r->job);
}

/* --- the account --- */

struct spool *spool_new(uint64_t limit_bytes, uint64_t min_free_bytes, const struct volume *state)
{
	struct spool *s = xcalloc(1, sizeof(*s));

	s->state = state;
	spool_set_limits(s, limit_bytes, min_free_bytes);
	return s;
}

void spool_free(struct spool **spool)
{
	free(*spool);
	*spool = NULL;
}

void spool_set_limits(struct spool *s, uint64_t limit_bytes, uint64_t min_free_bytes)
{
	s->limit_bytes = limit_bytes;
	s->min_free_bytes = min_free_bytes;
}

uint64_t spool_room_bytes(const struct spool *s)
{
	return s->bytes < s->limit_bytes ? s->limit_bytes - s->bytes : 0;
}

static bool is_at_limit(const struct spool *s, uint64_t bytes)
{
	return s->bytes > 0 && (s->bytes >= s->limit_bytes || spool_room_bytes(s) < bytes);
}

const char *spool_no_room(const struct spool *s, const struct volume *volume, uint64_t bytes)
{
	uint64_t free_bytes = volume_free_bytes(volume);

	if (free_bytes < s->min_free_bytes || free_bytes - s->min_free_bytes < bytes)
		return "its file system is at min_free";
	if (volume_free_bytes(s->state) < s->min_free_bytes)
		return "the file system of state_dir is at min_free";
	return is_at_limit(s, bytes) ? "the spool is at spool_limit" : NULL;
}

uint64_t spool_bytes(const struct spool *s)
{
	return s->bytes;
}

size_t spool_files(const struct spool *s)
{
	return s->files;
}

void spool_release(struct spool *s, uint64_t bytes)
{
	s->bytes -= bytes;
	s->files--;
}
