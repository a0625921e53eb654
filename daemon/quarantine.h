/* quarantine.h - messages that a sink refused: state_dir/quarantine/KEY.eml and KEY.json, durable before the answer,
 * never deleted by the daemon. */
#pragma once
#include "sink_driver.h"

typedef void quarantine_cb(void *arg, int error);	/* 0 or errno; from the loop, once */
/* Moves the message's file there. After an error the file stands where it was. No cancel. */
void quarantine_add(const struct sink_env *, const struct message *, const char *sink, const char *reason, quarantine_cb *cb, void *arg);
/* How many messages of this mailbox and folder lie there; as scanned at the start, and counted since. */
struct quarantine_counts;
struct quarantine_counts *quarantine_scan(const char *state_dir);	/* blocking, before the loop; makes the directory */
void quarantine_counts_free(struct quarantine_counts **);
uint64_t quarantine_count(const struct quarantine_counts *, const char *id, const char *folder);
