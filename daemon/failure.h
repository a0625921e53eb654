/* failure.h - what went wrong, what we do about it, and what a person does about it. Pure: the one table from
 * what was seen (server text, response code, phase, HTTP status, OAuth error, AADSTS code) to class, back-off and
 * hint lives in failure.c; logs, /status and the doctor all show what it says.
 *
 * Failures are classed by cure, not by cause. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "clock.h"
#include "util.h"

enum fail {
	FAIL_NONE,
	FAIL_EXPECTED,	/* ordinary end (token expired, idle connection closed): once more at once, nothing counted */
	FAIL_TOKEN,	/* once more with a fresh token, then as FAIL_ADMIN */
	FAIL_WAIT,	/* goes away by itself: network, throttling, 5xx */
	FAIL_ADMIN,	/* stays until a person acts: permission missing, no such folder, wrong secret */
};

/* Which list of waits applies (exchange-online section 5; the lists are in backoff.c). */
enum schedule {
	SCHEDULE_NETWORK,	/* 2, 4, 8 ... 300 s */
	SCHEDULE_UNAVAILABLE,	/* 5 s, 15 s, 60 s, 5 min: "Server Unavailable. 15" */
	SCHEDULE_REFUSED,	/* 1, 5, 15, 30 min: "AUTHENTICATE failed." */
	SCHEDULE_NO_ACCESS,	/* 5, 15, 30 min: "authenticated but not connected", mailbox never worked */
	SCHEDULE_LOST_ACCESS,	/* 1, 2, 5, 15 min: the same, mailbox worked before */
	SCHEDULE_TOKEN,		/* 1 s once, then 2, 4 ... 300 s: token endpoint, transient */
	SCHEDULE_TOKEN_ADMIN,	/* 15, 30 min: token endpoint, permanent */
	SCHEDULE_THROTTLED,	/* what was asked, else 5 min */
	SCHEDULE_SINK,		/* 5 s, 10 s ... 5 min: a sink or a disk that takes nothing now */
	SCHEDULE_N
};

#define FAILURE_HINT_MAX 768
struct failure {
	enum fail fail;
	enum schedule schedule;
	const char *name;		/* static, stable word for the row: "no-access", "secret-expired" */
	msec_t asked_wait_ms;		/* what the server asked for (Retry-After, Suggested Backoff Time); 0: nothing */
	char text[256];			/* what was seen, one line, printable, no secret */
	char hint[FAILURE_HINT_MAX];	/* one plain sentence for the administrator; "" when there is nothing to do */
};

/* Who it is about, to fill the hints. Members may be NULL. Lent for the call. */
struct failure_subject {
	const char *mailbox;		/* address */
	const char *folder;
	const char *client_id, *tenant, *token_host;
	const char *object_id;		/* `oid` of the token, when known */
	const char *token_finding;	/* what reading the token's payload showed to be wrong; NULL: nothing */
	const char *host;		/* IMAP host */
	const char *path;		/* of the file it is about */
	uint32_t uid;			/* of the message it is about */
	bool worked_before;		/* this mailbox has been opened with success before */
};

enum failure_phase {			/* where it was seen */
	PHASE_RESOLVE, PHASE_CONNECT, PHASE_TLS, PHASE_GREETING, PHASE_CAPABILITY, PHASE_AUTHENTICATE,
	PHASE_OPEN,			/* SELECT, EXAMINE, STATUS: the first command that needs the mailbox */
	PHASE_FETCH, PHASE_OTHER,	/* any other command */
	PHASE_IDLE, PHASE_LOGOUT,
};
enum failure_answer { ANSWER_NO, ANSWER_BAD, ANSWER_BYE, ANSWER_STRAY /* a line with neither tag nor star */ };

/* From an answer of the IMAP server. code: response code without brackets or NULL; text: its human text. */
void failure_from_imap(struct failure *ret, enum failure_phase, enum failure_answer, const char *code, const char *text,
    const struct failure_subject *);
/* From the network: what is the system's or OpenSSL's text ("connection refused"). FAIL_WAIT, except for a
 * certificate that is not trusted or names another host (is_certificate): FAIL_ADMIN. */
void failure_from_network(struct failure *ret, enum failure_phase, bool is_certificate, const char *what,
    const struct failure_subject *);
/* From the token endpoint's HTTP answer (body may be anything). retry_after_s: 0 when not given. */
void failure_from_token_answer(struct failure *ret, long http_status, const char *body, size_t body_len,
    unsigned retry_after_s, const struct failure_subject *);
/* Seen by ourselves: the row of that name, fmt fills text. The name must be in the table. */
void failure_own(struct failure *ret, const char *name, const struct failure_subject *, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* From this machine's disk: what ("cannot write into") and path make the text, with errno's. */
void failure_from_disk(struct failure *ret, const char *name, const char *what, const char *path, int error);
/* What no table can foresee (a sink's, a disk's): fmt fills text; hint may be NULL. */
void failure_set(struct failure *ret, enum fail, enum schedule, const char *name, const char *hint, const char *fmt, ...)
    PRINTF_LIKE(6, 7);
/* Kept only where there is one: a copy that *to owns, NULL for none. */
void failure_keep(struct failure **to, const struct failure *);
void failure_drop(struct failure **);
const char *failure_phase_name(enum failure_phase);	/* "connecting" */

/* The server does not take that command (BAD): sending it again is useless (exchange-online 5.7). */
bool failure_is_of_command(const struct failure *);
/* The session's token has ended, or is not good any more (5.3). */
bool failure_is_of_token(const struct failure *);
/* A folder cannot be opened; the mailbox's others may be. */
bool failure_is_of_folder(const struct failure *);

/* The table for the manual page: row i; false after the last. */
struct failure_row {
	const char *name, *hint;	/* the hint with its {words} */
	char seen[320];			/* what it matches, in words */
	enum fail fail;
	enum schedule schedule;
	msec_t asked_wait_ms;		/* when the server did not say; 0: nothing */
};
bool failure_row(size_t i, struct failure_row *ret);
