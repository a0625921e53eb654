/* message.h - one message on its way from the server to a sink: its identity, and where its bytes are. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store.h"

struct evbuffer; struct volume; struct mailbox_conf;

#define MESSAGE_ID_MAX 998		/* RFC 5322 2.1.1: a line's most */
#define KEY_DIGEST_HEX 24

/* Finds the first Message-ID, Subject and From while the header streams by, and how the body begins. Zero it to begin. */
enum header_field { HEADER_MESSAGE_ID, HEADER_SUBJECT, HEADER_FROM, HEADER_N };
struct header_value { char *v; size_t len, room; bool over; };	/* grows with what is there, at most MESSAGE_ID_MAX */
struct header_scan {
	enum { SCAN_NAME, SCAN_OTHER, SCAN_VALUE, SCAN_BODY, SCAN_OVER } at;
	size_t seen_bytes;		/* given up after 256 KiB */
	size_t body_len;		/* of what a substitute's body begins with, as much as this one's does */
	size_t name_len;
	unsigned candidates;		/* bits: fields whose name it may still become */
	enum header_field field;	/* SCAN_VALUE */
	bool line_start;
	struct header_value values[HEADER_N];
};
void header_scan(struct header_scan *, const uint8_t *data, size_t len);
void header_scan_done(struct header_scan *);
/* What Exchange gives in place of a message that it cannot convert: never to be taken for it (exchange-online 5.8 B). */
bool header_is_substitute(const struct header_scan *);

struct message {
	struct message *next;			/* its queue's */
	const struct mailbox_conf *mailbox;	/* lent: whoever delivers outlives its messages */
	const char *folder;			/* lent by the mailbox, too */
	folder_ref ref;
	uint32_t uidvalidity, uid;
	uint32_t settle_from;			/* see store_settlement */
	int64_t internaldate_s;
	uint64_t size_bytes;			/* exactly as received */
	uint8_t hash[STORE_HASH_BYTES];		/* of Message-ID and INTERNALDATE; all 0 without a Message-ID */
	char *key;				/* KEY: names it for receivers on every attempt */
	char *path;				/* its file, whole */
	struct volume *volume;			/* the file's */
	ino_t dir_inode;			/* of the directory it was made in */
	bool after_owed;			/* once delivered */
	unsigned attempts;
	int64_t quarantined_wall_s;		/* given out of quarantine once more: since when it lies there; 0: it is not */
	msec_t fetched_ms;
};

char *message_key(const char *id, const char *folder, uint32_t uidvalidity, uint32_t uid);	/* caller frees */
void message_key_digest(const char *key, char ret_hex[static KEY_DIGEST_HEX + 1]);
void message_hash(const char *message_id, size_t len, int64_t internaldate_s, uint8_t ret_hash[static STORE_HASH_BYTES]);
void message_free(struct message **);		/* not its file */
