/* doctor_private.h - what the files of the doctor share: doctor.c (the order of the steps), doctor_machine.c (what lies on this
 * machine), doctor_credential.c (a secret and the token it gives), doctor_network.c (a host's DNS, TCP, TLS),
 * doctor_mailbox.c (a session in a mailbox), doctor_report.c (what is printed). Nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "config.h"
#include "doctor.h"
#include "failure.h"
#include "util.h"

struct event_base; struct dialer; struct resolver; struct tls; struct token_cache;

/* --- doctor_report.c --- */

enum check_scope { SCOPE_CONFIGURATION, SCOPE_MACHINE, SCOPE_CREDENTIAL, SCOPE_HOST, SCOPE_MAILBOX };
struct report;
struct report_at { struct report *report; enum check_scope scope; const char *subject; };	/* lent */

struct report *report_new(bool json);
void report_expect_mailboxes(struct report *, size_t n);	/* before the first of them */
/* One step each; all is copied. Those of a mailbox are shown when report_mailbox_over() says so, all others at once.
 * hint: what to do, a sentence; commands: lines to paste; both may be NULL. */
void report_ok(const struct report_at *, const char *step, const char *hint, const char *fmt, ...) PRINTF_LIKE(4, 5);
void report_skipped(const struct report_at *, const char *step, const char *fmt, ...) PRINTF_LIKE(3, 4);
void report_failed(const struct report_at *, const char *step, const char *hint, const char *commands, const char *fmt, ...) PRINTF_LIKE(5, 6);
void report_failure(const struct report_at *, const char *step, const struct failure *, const char *commands);
void report_mailbox_over(struct report *, const char *address);
/* Prints what is left (a table of many mailboxes, the sum); frees. True: nothing failed. */
bool report_end(struct report **);
void report_drop(struct report **);		/* frees, prints nothing */

/* --- what takes part in every step on the network --- */

struct doctor_env {
	struct event_base *base;
	struct resolver *resolver;
	struct dialer *dialer;
	struct tls *tls;
	struct token_cache *tokens;
	struct report *report;
};

/* --- doctor_machine.c --- */

/* state_dir, every Maildir and command, as the daemon's user; the results for mailboxes are kept for machine_report_sink(). */
struct machine;
struct machine *machine_check(const struct config *, const struct mailbox_conf *const *mailboxes, size_t n, struct report *);
void machine_report_sink(const struct machine *, size_t mailbox, struct report *);
/* The secret file of a credential; true: it can be used. */
bool machine_check_secret(const struct machine *, const struct credential_conf *, struct report *);
void machine_free(struct machine **);

/* --- doctor_network.c --- */

/* DNS, TCP and TLS of host, reported at `at` (its subject is copied); then cb, from the loop. After probe_cancel() no cb. */
struct probe;
typedef void probe_cb(void *arg, bool good);
struct probe *probe_start(const struct doctor_env *, const struct report_at *at, const char *host, uint16_t port, const char *ca_file,
    probe_cb *cb, void *arg);
void probe_cancel(struct probe **);

/* --- doctor_credential.c --- */

/* The secret, the token's host, the clock, the token; then cb, from the loop: whether there is a token. After
 * grant_check_cancel() no cb. */
struct grant_check;
typedef void grant_cb(void *arg, bool has_token);
struct grant_check *grant_check_start(const struct doctor_env *, const struct machine *, const struct credential_conf *, grant_cb *cb, void *arg);
void grant_check_cancel(struct grant_check **);

/* --- doctor_mailbox.c --- */

struct visit;
typedef void visit_cb(void *arg);
/* Signs in and looks at the folders; over, from the loop, when it is over and reported. signed_in comes before, once, when the
 * start is over (however it went). After visit_cancel() neither. */
struct visit *visit_start(const struct doctor_env *, const struct mailbox_conf *, visit_cb *signed_in, visit_cb *over, void *arg);
void visit_cancel(struct visit **);
/* What each of its steps would have been, when it cannot even be tried. */
void visit_skip(struct report *, const struct mailbox_conf *, const char *why);
