/* doctor_private.h - what the files of the doctor share: doctor.c (the order of the steps), doctor_machine.c (what lies on this
 * machine), doctor_network.c (DNS, TCP, TLS of a host), doctor_mailbox.c (a session in a mailbox), doctor_report.c (what
 * is printed). Nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "config.h"
#include "doctor.h"
#include "failure.h"
#include "util.h"

struct event_base; struct dialer; struct resolver; struct tls; struct token_cache; struct token;

/* --- doctor_report.c --- */

enum check_result { CHECK_OK, CHECK_FAILED, CHECK_SKIPPED };
enum check_scope { SCOPE_CONFIGURATION, SCOPE_MACHINE, SCOPE_CREDENTIAL, SCOPE_HOST, SCOPE_MAILBOX };
struct report;

struct report *report_new(bool json);
void report_expect_mailboxes(struct report *, size_t n);	/* before the first of them */
/* One step. Those of a mailbox are shown when report_mailbox_over() says so, all others at once. step and subject are copied; hint and
 * commands (lines to paste) may be NULL. */
void report_add(struct report *, enum check_scope, const char *subject, const char *step, enum check_result, const char *hint,
    const char *commands, const char *fmt, ...) PRINTF_LIKE(8, 9);
void report_failure(struct report *, enum check_scope, const char *subject, const char *step, const struct failure *, const char *commands);
void report_mailbox_over(struct report *, const char *address);
/* Prints what is left (a table of many mailboxes, the sum); frees. True: nothing failed. */
bool report_end(struct report **);
void report_drop(struct report **);		/* frees, prints nothing */

/* --- doctor_machine.c --- */

/* state_dir, every Maildir and command, as the daemon's user; the results for mailboxes are kept for machine_sink(). */
struct machine;
struct machine *machine_check(const struct config *, const struct mailbox_conf *const *mailboxes, size_t n, struct report *);
void machine_report_sink(const struct machine *, size_t mailbox, struct report *);
/* The secret file of a credential; true: it can be used. */
bool machine_check_secret(const struct machine *, const struct credential_conf *, struct report *);
void machine_free(struct machine **);

/* --- doctor_network.c --- */

struct probe;
typedef void probe_cb(void *arg, bool good);
/* DNS, TCP and TLS of host, reported under scope and subject; then cb, from the loop. */
struct probe *probe_start(struct event_base *, struct resolver *, struct dialer *, struct tls *, const char *host, uint16_t port,
    const char *ca_file, struct report *, enum check_scope, const char *subject, probe_cb *cb, void *arg);

/* --- doctor_mailbox.c --- */

struct visit_env { struct event_base *base; struct dialer *dialer; struct tls *tls; struct token_cache *tokens; struct report *report; };
struct visit;
typedef void visit_cb(void *arg);
/* Signs in and looks at the folders; cb, from the loop, when it is over and reported. signed_in comes before, once, when the start
 * is over (however it went). */
struct visit *visit_start(const struct visit_env *, const struct mailbox_conf *, visit_cb *signed_in, visit_cb *over, void *arg);
/* What each of its steps would have been, when it cannot even be tried. */
void visit_skip(struct report *, const struct mailbox_conf *, const char *why);
