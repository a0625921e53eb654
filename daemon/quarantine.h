/* quarantine.h - messages that a sink refused: state_dir/quarantine/KEY.eml and KEY.json, durable before the answer,
 * never deleted by the daemon. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "sink_driver.h"

#define QUARANTINE_FILE_LOST (-1)	/* the message's file could not be flushed: it may be anything from now on */
typedef void quarantine_cb(void *arg, int error);	/* 0, errno or that; from the loop, once */
/* Moves the message's file there. After an error the file stands where it was. No cancel. */
void quarantine_add(const struct sink_env *, const struct message *, const char *sink, const char *reason, quarantine_cb *cb, void *arg);
/* How many messages of this mailbox and folder lie there; as scanned at the start, and counted since. */
struct quarantine_counts;
struct quarantine_counts *quarantine_scan(const char *state_dir);	/* blocking, before the loop; makes the directory */
void quarantine_counts_free(struct quarantine_counts **);
uint64_t quarantine_count(const struct quarantine_counts *, const char *id, const char *folder);
uint64_t quarantine_count_all(const struct quarantine_counts *);	/* also of mailboxes that nobody knows any more */

/* --- for operators: quarantine_shelf.c. Each answers later, from the loop, exactly once; no cancel. --- */

bool quarantine_key_is_sane(const char *key);	/* as message_key() makes them: it can name a file here and nowhere else */
/* {"messages":[...]}: what the .json files say, the oldest first. The callback takes json. */
typedef void quarantine_list_cb(void *arg, char *json);
void quarantine_list(struct lane *, const char *state_dir, quarantine_list_cb *cb, void *arg);
/* Takes a message off the shelf for good. error: 0 or errno (ENOENT: it is not there). */
void quarantine_drop(struct lane *, struct quarantine_counts *, const char *state_dir, const char *key, quarantine_cb *cb, void *arg);
/* A second name for its file, at to, and what its .json says; the message stays on the shelf. */
struct quarantined {
	char *id, *folder; uint32_t uidvalidity, uid; uint64_t size_bytes; int64_t internaldate_s;
	int64_t quarantined_wall_s; unsigned attempts;
	uint8_t hash[STORE_HASH_BYTES];	/* as in struct message */
};
typedef void quarantine_take_cb(void *arg, int error, const struct quarantined *);	/* lent */
void quarantine_take(struct lane *, const char *state_dir, const char *key, const char *to, quarantine_take_cb *cb, void *arg);
