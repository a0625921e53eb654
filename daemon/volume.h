/* volume.h - one file system: the lanes its disk work runs on, its shared flushes, its free space. A file system that
 * hangs holds up only its own lanes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "clock.h"
#include "workers.h"

struct volumes;				/* all of them, by device number */
struct volume;

struct volumes *volumes_new(struct workers *);
void volumes_free(struct volumes **);
/* The volume of a device number as stat() gave it, on some worker, for a path on it (to open for syncfs, when the
 * file system is one where syncfs reports errors). Lives as long as volumes. */
struct volume *volume_get(struct volumes *, dev_t, const char *path);
struct lane *volume_lane(struct volume *);	/* for writing files */
dev_t volume_dev(const struct volume *);

/* Makes what is at path (a file or a directory) durable. One flush starts at once when none runs on this volume;
 * requests that arrive meanwhile share the next. error: 0 or errno; after a failed flush nothing of it is trusted; what
 * could not be renamed or opened is that request's own. What meanwhile lies on another file system (a mount, a link) is flushed there.
 * rename_from: when not NULL, path's entry is first made by rename(rename_from, path) and it is path's
 * directory that is flushed. Answers later, exactly once; there is no cancel: arg must live until then. */
typedef void volume_flushed_cb(void *arg, int error);
void volume_flush(struct volume *, const char *path, volume_flushed_cb *cb, void *arg);
void volume_rename(struct volume *, const char *rename_from, const char *path, volume_flushed_cb *cb, void *arg);

void volume_note_free(struct volume *, uint64_t free_bytes);	/* what a job's fstatvfs saw */
uint64_t volume_free_bytes(const struct volume *);		/* as last noted */
/* Notes it anew, as path's file system has it, on the write lane. Answers later, exactly once, whether it could be had or not; no cancel. */
void volume_look_free(struct volume *, const char *path, void (*done)(void *arg), void *arg);
