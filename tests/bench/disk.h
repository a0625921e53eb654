/* disk.h - files written and flushed in batches: written into DIR/tmp by the caller's thread; when a batch is whole, another
 * thread does syncfs(), renames all into DIR/new and flushes that directory, while the next one is written. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct disk;

struct disk *disk_new(const char *dir, unsigned batch_files, uint64_t batch_bytes);
int disk_open(struct disk *);			/* the next file; -1: never, it ends the program */
void disk_close(struct disk *, int fd, uint64_t bytes);
void disk_free(struct disk **);			/* after everything is durable */
