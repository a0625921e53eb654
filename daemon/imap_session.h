/* imap_session.h - one connection to an IMAP server, from the dial to its end. It signs in by itself (TLS, greeting,
 * CAPABILITY, AUTHENTICATE XOAUTH2), says on_ready, then does one command at a time as it is told; every phase has
 * a deadline. What to do with a mailbox is not decided here.
 *
 * A BAD, a BYE, a broken or unasked tagged line, a deadline: each ends the session with a struct failure; a NO is
 * handed up with on_done. on_end comes from the loop, once, and nothing after it. The owner frees in on_end or from
 * outside any callback of the session; inside the others it calls imap_session_abandon(). Callbacks come from the
 * loop, never from inside a call. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "failure.h"
#include "imap_parser.h"
#include "ranges.h"

struct event_base; struct evbuffer; struct dialer; struct tls; struct log_context; struct imap_trace;
struct imap_session;

enum imap_command {
	COMMAND_SELECT, COMMAND_STATUS, COMMAND_SEARCH, COMMAND_FETCH, COMMAND_STORE, COMMAND_COPY, COMMAND_MOVE,
	COMMAND_EXPUNGE, COMMAND_IDLE, COMMAND_NOOP, COMMAND_LOGOUT,
};

struct imap_done {				/* lent for the callback */
	enum imap_command command;
	bool ok;				/* false: NO, see failure */
	const struct failure *failure;
	bool unasked;				/* IDLE: nobody here has ended it */
	uint32_t exists, uidvalidity, uidnext;	/* SELECT; 0 when the server did not say */
	bool read_only;				/* SELECT */
	const struct ranges *copied;		/* COPY, MOVE: which the server says it has (COPYUID, RFC 4315 3); NULL: it did not say */
	struct imap_mailbox_status status;	/* STATUS */
};

struct imap_session_ops {
	void (*on_authenticating)(void *arg);	/* connected, TLS verified, greeted */
	void (*on_ready)(void *arg);		/* signed in, capabilities known, free for a command */
	void (*on_done)(void *arg, const struct imap_done *);	/* the command is over; free for the next */
	void (*on_idling)(void *arg);		/* the server has taken IDLE */
	void (*on_uids)(void *arg, uint32_t lo, uint32_t hi);	/* SEARCH */
	void (*on_body_start)(void *arg, const char *section, uint32_t uid, uint64_t size_bytes);	/* uid 0: not known yet */
	void (*on_body)(void *arg, struct evbuffer *in, size_t len);	/* must take exactly len bytes out of in */
	void (*on_fetched)(void *arg, const struct imap_fetch *);	/* a FETCH response is complete, asked for or not */
	void (*on_alert)(void *arg, const char *text);	/* what a person is to be shown (RFC 3501 7.1); any bytes, as the server sent them */
	void (*on_exists)(void *arg, uint32_t n);	/* as many are in the folder now: after EXISTS, and after EXPUNGE */
	void (*on_end)(void *arg, const struct failure *);	/* FAIL_NONE after a LOGOUT */
};

struct imap_session_conf {		/* everything is copied or lent for the session's life as said */
	const char *host; uint16_t port; const char *ca_file;	/* lent */
	const char *address;		/* lent; SASL's user= */
	const char *token;		/* copied, wiped once sent */
	const struct failure_subject *subject;	/* lent */
	const struct log_context *log;	/* lent */
	struct imap_trace *trace;	/* what passes goes there, too; NULL: nowhere; lent */
};

struct imap_session *imap_session_new(struct event_base *, struct dialer *, struct tls *, const struct imap_session_conf *,
    const struct imap_session_ops *, void *arg);
void imap_session_free(struct imap_session **);		/* closes with close_notify */
/* Ends it now, without LOGOUT; on_end follows with FAIL_NONE. */
void imap_session_abandon(struct imap_session *);

void imap_session_set_trace(struct imap_session *, struct imap_trace *);	/* from now on; NULL: nowhere */

bool imap_session_can(const struct imap_session *, const char *capability);	/* one of those this program asks for */
bool imap_session_is_ready(const struct imap_session *);	/* a command may be sent now */
bool imap_session_is_idling(const struct imap_session *);	/* imap_session_leave_idle() makes sense */

/* Each needs imap_session_is_ready(); on_done answers. Folder names are UTF-8. uids must fit IMAP_SET_MAX as text. */
#define IMAP_SET_MAX 7000		/* keeps a command under 8 KiB (exchange-online 4.9) */
void imap_session_select(struct imap_session *, const char *folder);
void imap_session_status(struct imap_session *, const char *folder);
void imap_session_search_from(struct imap_session *, uint32_t uid);		/* UID SEARCH UID uid:* */
void imap_session_search_uids(struct imap_session *, const struct ranges *uids);	/* UID SEARCH UID set: which of them there are */
void imap_session_search_since(struct imap_session *, int year, int month, int day);
void imap_session_fetch_sizes(struct imap_session *, const struct ranges *uids);
void imap_session_fetch_identity(struct imap_session *, const struct ranges *uids);	/* INTERNALDATE, Message-ID */
void imap_session_fetch(struct imap_session *, const struct ranges *uids);	/* BODY.PEEK[] with all that goes with it */
void imap_session_fetch_split(struct imap_session *, const struct ranges *uids);	/* as BODY.PEEK[HEADER] and [TEXT], in that order */
void imap_session_add_flag(struct imap_session *, const struct ranges *uids, const char *flag);
void imap_session_copy(struct imap_session *, const struct ranges *uids, const char *folder);
void imap_session_move(struct imap_session *, const struct ranges *uids, const char *folder);
void imap_session_expunge(struct imap_session *, const struct ranges *uids);	/* UID EXPUNGE, only with UIDPLUS */
void imap_session_noop(struct imap_session *);			/* lest the server take us for gone, while we wait */
void imap_session_idle(struct imap_session *, msec_t at_most_ms);	/* leaves by itself after that */
void imap_session_leave_idle(struct imap_session *);		/* at once; on_done(COMMAND_IDLE) follows */
void imap_session_logout(struct imap_session *);		/* on_end follows */

/* There is nothing to say for now: an end that comes before the next command is as ordinary as in IDLE. Only when ready. */
void imap_session_wait(struct imap_session *);

/* Back-pressure: while paused nothing is read and no deadline runs. */
void imap_session_pause(struct imap_session *);
void imap_session_resume(struct imap_session *);
