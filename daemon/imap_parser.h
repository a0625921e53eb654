/* imap_parser.h - bytes from an IMAP server in, events out (RFC 3501, RFC 9051 where it differs). No sockets, no
 * clock, no libevent: the same bytes give the same events, and the same body bytes, however they are cut.
 *
 * A literal (or quoted string, or NIL) that is the value of a FETCH item BODY[...] is never held: it comes as one
 * IMAP_BODY_START and slices. Numbers of * SEARCH and of * ESEARCH ... ALL come one range at a time, so that an
 * answer of any length needs no memory. Everything else is bounded: a line with its other literals together
 * IMAP_LINE_MAX, lists 16 deep. More than that is IMAP_BROKEN.
 * Tolerated, since servers do it (exchange-online 4.4, 4.7, 5.4, 5.9): NULs before a line, bare LF at line ends,
 * lines with neither star nor tag, data items in any order, unknown items, sequence numbers of any size. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAP_LINE_MAX (64 * 1024)

enum imap_kind {
	IMAP_TAGGED,		/* tag, status, code, text */
	IMAP_CONTINUE,		/* + text */
	IMAP_STATUS_LINE,	/* * OK|NO|BAD|BYE|PREAUTH: status, code, text */
	IMAP_CAPABILITY,	/* text: the list. As a response code it is a STATUS_LINE's or TAGGED's code_args */
	IMAP_EXISTS, IMAP_RECENT, IMAP_EXPUNGE,	/* number */
	IMAP_FETCH,		/* number (sequence; not to be trusted), fetch */
	IMAP_SEARCH,		/* its numbers have come as IMAP_NUMBERS; also for ESEARCH */
	IMAP_MAILBOX_STATUS,	/* * STATUS: mailbox */
	IMAP_OTHER,		/* any other untagged line (FLAGS, LIST, ID ...): text */
	IMAP_STRAY,		/* a line with neither star, plus nor a tag of ours' form followed by OK/NO/BAD: text */
};
enum imap_status { IMAP_OK, IMAP_NO, IMAP_BAD, IMAP_BYE, IMAP_PREAUTH };

struct imap_fetch {
	uint32_t uid;			/* 0: not given */
	bool has_flags, seen, deleted;
	bool has_internaldate; int64_t internaldate_s;	/* seconds since 1970, UTC */
	bool has_size; uint64_t rfc822_size_bytes;	/* an estimate (exchange-online 5.7) */
	unsigned n_bodies;		/* BODY[...] items in this response */
};
struct imap_mailbox_status {
	bool has_messages, has_uidnext, has_uidvalidity;
	uint32_t messages, uidnext, uidvalidity;
};
struct imap_response {
	enum imap_kind kind;
	enum imap_status status;	/* TAGGED, STATUS_LINE */
	const char *tag;		/* TAGGED */
	const char *code;		/* response code's name in upper case, or NULL: "UIDNEXT" */
	const char *code_args;		/* what follows it within the brackets, or "" */
	bool has_code_number; uint32_t code_number;	/* code_args, when it is a number that fits */
	const char *text;		/* never NULL; may hold any byte but NUL, CR, LF */
	uint32_t number;
	struct imap_fetch fetch;
	struct imap_mailbox_status mailbox;
};

enum imap_what {
	IMAP_MORE,		/* all bytes taken, nothing to tell yet */
	IMAP_RESPONSE,		/* a whole response */
	IMAP_NUMBERS,		/* lo..hi, of a SEARCH still coming */
	IMAP_BODY_START,	/* a BODY[section] value of size bytes begins; uid is 0 when it has not come yet */
	IMAP_BODY,		/* its next len bytes are the bytes at data + skip of this push (never 0 of them) */
	IMAP_BODY_END,		/* all of it has come; always sent, also for a size of 0 */
	IMAP_BROKEN,		/* error; final, push nothing more */
};
struct imap_event {
	enum imap_what what;
	const struct imap_response *response;	/* lent until the next push */
	uint32_t lo, hi;
	const char *section;			/* BODY_START: "" for BODY[], "HEADER", "HEADER.FIELDS (MESSAGE-ID)"; "<4096>" for what begins there */
	uint32_t uid;
	uint64_t size_bytes;
	bool is_nil;				/* BODY_START: the value was NIL */
	size_t quoted_len;			/* BODY_START: bytes of the quoted string that it was, quotes included; 0: it is a literal */
	const uint8_t *body; size_t body_len;	/* BODY: lent until the next push. A literal's slice is a view into data */
	bool body_in_place;			/* BODY: body points at data of this very push, and the push took just it */
	const char *error;
};

struct imap_parser;
struct imap_parser *imap_parser_new(void);	/* small while no line is being read */
void imap_parser_free(struct imap_parser **);
/* Takes bytes up to one event and returns how many. After an event other than MORE call again, also with len 0
 * bytes left, since one line can give several events (a quoted body): until it says IMAP_MORE. */
size_t imap_parser_push(struct imap_parser *, const void *data, size_t len, struct imap_event *ret_ev);
/* True between responses: an end of stream here has cut nothing. */
bool imap_parser_at_rest(const struct imap_parser *);

/* "05-Jan-2026 02:02:12 +0100" (RFC 3501 date-time, a leading space in the day allowed) to seconds; -1 if not. */
int imap_parse_internaldate(const char *text, int64_t *ret_wall_s);
/* Whether the list (as in IMAP_CAPABILITY's text) names it, whole word, any case. */
bool imap_capability_has(const char *list, const char *name);
/* UTF-8 to modified UTF-7 (RFC 3501 5.1.3), as a quoted string with its quotes. NULL when it is not valid UTF-8 or
 * has control characters. Caller frees. */
char *imap_quote_mailbox(const char *utf8);
