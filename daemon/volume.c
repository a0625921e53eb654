#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "util.h"
#include "volume.h"

#define SYNCFS_FROM 8			/* fewer files than that are flushed one by one */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

struct request {
	STAILQ_ENTRY(request) link;
	char *path, *rename_from;
	volume_flushed_cb *cb;
	void *arg;
	int error;			/* its own: the rename's */
};
STAILQ_HEAD(requests, request);

struct volume {
	SLIST_ENTRY(volume) link;
	dev_t dev;
	struct lane *write_lane, *flush_lane;
	int sync_fd;			/* for syncfs(); -1: not one where it reports errors */
	struct requests waiting;
	size_t n_waiting;
	bool flushing;
	uint64_t free_bytes;
};

struct volumes {
	struct workers *workers;
	SLIST_HEAD(, volume) list;
};

/* --- on the lanes --- */

struct open_job { struct job job; struct volume *volume; char *path; int fd; };

static bool kernel_reports_syncfs_errors(void)
{
	struct utsname name;
	unsigned major, minor;

	return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 && (major > 5 || (major == 5 && minor >= 8));
}

/* On the write lane, so before everything that is written there: syncfs() reports the errors that came after open(). */
static void work_open(struct job *job)
{
	struct open_job *o = (struct open_job *)job;
	struct statfs fs;

	if (!kernel_reports_syncfs_errors())
		return;
	o->fd = open(o->path, O_RDONLY | O_CLOEXEC);
	if (o->fd < 0)
		return;
	if (fstatfs(o->fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == BTRFS_SUPER_MAGIC))
		return;
	close(o->fd);
	o->fd = -1;
}

struct flush_job { struct job job; struct volume *volume; struct requests requests; size_t n; dev_t dev; int sync_fd; int error; };

static size_t directory_length(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
}

static bool same_directory(const struct request *a, const struct request *b)
{
	size_t len = directory_length(a->path);

	return b->rename_from != NULL && directory_length(b->path) == len && strncmp(a->path, b->path, len) == 0;
}

/* Whether an earlier request of this flush has the same directory to be flushed. */
static bool directory_done(struct requests *requests, const struct request *r)
{
	struct request *before;

	STAILQ_FOREACH(before, requests, link) {
		if (before == r)
			return false;
		if (before->error == 0 && same_directory(r, before))
			return true;
	}
	return false;
}

static int open_to_flush(const struct request *r)
{
	char *dir;
	int fd;

	if (r->rename_from == NULL)
		return open(r->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	dir = directory_of(r->path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	return fd;
}

static int flush_each(struct requests *requests)
{
	struct request *r;
	int fd, error = 0;

	STAILQ_FOREACH(r, requests, link) {
		if (r->error != 0 || (r->rename_from != NULL && directory_done(requests, r)))
			continue;
		if ((fd = open_to_flush(r)) < 0)
			r->error = errno;	/* its own: somebody took it away, perhaps, and no flush has failed */
		else if ((error = flush_opened(fd)) != 0)
			break;
	}
	return error;
}

static void work_flush(struct job *job)
{
	struct flush_job *f = (struct flush_job *)job;
	struct request *r;
	struct stat st;
	bool here = true;		/* all of it: else a mount, or a link, has put another file system in the place of this one */

	STAILQ_FOREACH(r, &f->requests, link) {
		if (lstat(r->rename_from != NULL ? r->rename_from : r->path, &st) < 0)
			r->error = errno;
		else if (r->rename_from != NULL && rename(r->rename_from, r->path) < 0)
			r->error = errno;
		else
			here = here && st.st_dev == f->dev;
	}
	if (f->sync_fd >= 0 && f->n >= SYNCFS_FROM && here)
		f->error = syncfs(f->sync_fd) < 0 ? errno : 0;
	else
		f->error = flush_each(&f->requests);
}

struct free_job { struct job job; struct volume *volume; char *path; void (*done)(void *arg); void *arg; bool has_free; uint64_t free_bytes; };

static void work_free(struct job *job)
{
	struct free_job *f = (struct free_job *)job;
	struct statvfs vfs;

	if ((f->has_free = statvfs(f->path, &vfs) == 0))
		f->free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* --- on the loop --- */

static void done_open(struct job *job)
{
	struct open_job *o = (struct open_job *)job;

	o->volume->sync_fd = o->fd;
	free(o->path);
	free(o);
}

static void flush_next(struct volume *v);

static void done_flush(struct job *job)
{
	struct flush_job *f = (struct flush_job *)job;
	struct volume *v = f->volume;
	struct request *r;

	v->flushing = false;
	flush_next(v);			/* what arrived meanwhile need not wait for the callbacks */
	while ((r = STAILQ_FIRST(&f->requests)) != NULL) {
		STAILQ_REMOVE_HEAD(&f->requests, link);
		r->cb(r->arg, f->error != 0 ? f->error : r->error);
		free(r->path);
		free(r->rename_from);
		free(r);
	}
	free(f);
}

static void flush_next(struct volume *v)
{
	struct flush_job *f;

	if (v->flushing || STAILQ_EMPTY(&v->waiting))
		return;
	f = xcalloc(1, sizeof(*f));
	f->job.work = work_flush;
	f->job.done = done_flush;
	f->volume = v;
	f->n = v->n_waiting;
	f->dev = v->dev;
	f->sync_fd = v->sync_fd;
	STAILQ_INIT(&f->requests);
	STAILQ_CONCAT(&f->requests, &v->waiting);
	v->n_waiting = 0;
	v->flushing = true;
	lane_submit(v->flush_lane, &f->job);
}

void volume_rename(struct volume *v, const char *rename_from, const char *path, volume_flushed_cb *cb, void *arg)
{
	struct request *r = xcalloc(1, sizeof(*r));

	r->path = xstrdup(path);
	r->rename_from = xstrdup(rename_from);
	r->cb = cb;
	r->arg = arg;
	STAILQ_INSERT_TAIL(&v->waiting, r, link);
	v->n_waiting++;
	flush_next(v);
}

void volume_flush(struct volume *v, const char *path, volume_flushed_cb *cb, void *arg)
{
	volume_rename(v, NULL, path, cb, arg);
}

struct volumes *volumes_new(struct workers *workers)
{
	struct volumes *vs = xcalloc(1, sizeof(*vs));

	vs->workers = workers;
	SLIST_INIT(&vs->list);
	return vs;
}

void volumes_free(struct volumes **volumes)
{
	struct volume *v;
	struct request *r;

	if (*volumes == NULL)
		return;
	while ((v = SLIST_FIRST(&(*volumes)->list)) != NULL) {
		SLIST_REMOVE_HEAD(&(*volumes)->list, link);
		while ((r = STAILQ_FIRST(&v->waiting)) != NULL) {
			STAILQ_REMOVE_HEAD(&v->waiting, link);
			free(r->path);
			free(r->rename_from);
			free(r);
		}
		if (v->sync_fd >= 0)
			close(v->sync_fd);
		free(v);
	}
	free(*volumes);
	*volumes = NULL;
}

struct volume *volume_get(struct volumes *vs, dev_t dev, const char *path)
{
	struct volume *v;
	struct open_job *o;

	SLIST_FOREACH(v, &vs->list, link)
		if (v->dev == dev)
			return v;
	v = xcalloc(1, sizeof(*v));
	v->dev = dev;
	v->sync_fd = -1;
	v->free_bytes = UINT64_MAX;
	STAILQ_INIT(&v->waiting);
	v->write_lane = lane_new(vs->workers, "write", LANE_DISK, 1);
	v->flush_lane = lane_new(vs->workers, "flush", LANE_DISK, 1);
	SLIST_INSERT_HEAD(&vs->list, v, link);
	o = xcalloc(1, sizeof(*o));
	o->job.work = work_open;
	o->job.done = done_open;
	o->volume = v;
	o->path = xstrdup(path);
	o->fd = -1;
	lane_submit(v->write_lane, &o->job);
	return v;
}

struct lane *volume_lane(struct volume *v)
{
	return v->write_lane;
}

dev_t volume_dev(const struct volume *v)
{
	return v->dev;
}

void volume_note_free(struct volume *v, uint64_t free_bytes)
{
	v->free_bytes = free_bytes;
}

uint64_t volume_free_bytes(const struct volume *v)
{
	return v->free_bytes;
}

static void done_free(struct job *job)
{
	struct free_job *f = (struct free_job *)job;

	if (f->has_free)
		volume_note_free(f->volume, f->free_bytes);
	f->done(f->arg);
	free(f->path);
	free(f);
}

void volume_look_free(struct volume *v, const char *path, void (*done)(void *arg), void *arg)
{
	struct free_job *f = xcalloc(1, sizeof(*f));

	*f = (struct free_job){ .job = { .work = work_free, .done = done_free }, .volume = v, .path = xstrdup(path), .done = done, .arg = arg };
	lane_submit(v->write_lane, &f->job);
}
