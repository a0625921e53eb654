/* doctor_private.h - what the files of the doctor share. Nobody else includes it.
 *   doctor.c             the order of the steps          doctor_network.c   a host's DNS, TCP, TLS, greeting
 *   doctor_machine.c     what lies on this machine       doctor_mailbox.c   a session in a mailbox
 *   doctor_places.c      looks with the daemon's rights  doctor_commands.c  what to paste
 *   doctor_unit.c        what systemd makes of it        doctor_report.c    what is printed
 *   doctor_credential.c  a secret and its token */
#pragma once
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
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
/* One step each; all is copied. Those of several mailboxes are shown at the end, all others at once.
 * hint: what to do, a sentence; commands: lines to paste; both may be NULL. */
void report_ok(const struct report_at *, const char *step, const char *hint, const char *fmt, ...) PRINTF_LIKE(4, 5);
void report_skipped(const struct report_at *, const char *step, const char *fmt, ...) PRINTF_LIKE(3, 4);
void report_failed(const struct report_at *, const char *step, const char *hint, const char *commands, const char *fmt, ...) PRINTF_LIKE(5, 6);
void report_failure(const struct report_at *, const char *step, const struct failure *, const char *commands);
/* A step that has failed, and of which more is known by now: replaces its hint and commands. */
void report_explain(const struct report_at *, const char *step, const char *hint, const char *commands);
/* What goes on, until the next step or report_progress(); on a terminal only. */
bool report_shows_progress(const struct report *);
void report_progress(struct report *, const char *fmt, ...) PRINTF_LIKE(2, 3);
void report_interrupted(struct report *);	/* it did not come to its end */
/* Prints what is left (several mailboxes, the sum); frees. True: it came to its end and nothing failed. */
bool report_end(struct report **);
void report_drop(struct report **);		/* frees, prints nothing */

/* --- doctor_commands.c: caller frees --- */

char *commands_consent(const struct credential_conf *);		/* az: the permission, and consent to it */
/* PowerShell. object_id may be NULL. */
char *commands_register(const struct credential_conf *, const char *tenant, const char *object_id);
char *commands_permit(const struct credential_conf *, const char *tenant, const char *address);
char *commands_find_mailbox(const struct credential_conf *, const char *tenant, const char *address);
/* A shell on this machine, as root. */
char *commands_make_directory(const char *user, const char *group, const char *path);
char *commands_give(const char *user, const char *group, const char *path);		/* with all that lies in it */
char *commands_unit_writable(const char *user, const char *group, const char *path);
char *commands_put_secret(const char *group, const char *path);		/* reads it from the terminal */
char *commands_close_secret(const char *path);
char *commands_open_secret(const char *group, const char *path);

/* --- what takes part in every step on the network --- */

struct doctor_env {
	struct event_base *base;
	struct resolver *resolver;
	struct dialer *dialer;
	struct tls *tls;
	struct token_cache *tokens;
	struct report *report;
};

/* --- doctor_unit.c --- */

struct unit;
/* NULL: there is no systemd, or it has no mailpolld.service. Blocks, for seconds at most. */
struct unit *unit_read(void);
void unit_free(struct unit **);
const char *unit_user(const struct unit *);
const char *unit_group(const struct unit *);	/* NULL: the user's own */
const char *unit_supplementary_group(const struct unit *, size_t i);	/* of SupplementaryGroups=, one after the other; NULL: no more */
/* The file that LoadCredential= reads NAME from; NULL: none. */
const char *unit_credential(const struct unit *, const char *name);
bool unit_loads(const struct unit *, const char *path);		/* as such a file: systemd reads it, not the daemon */
/* The setting that keeps path from the daemon's eyes; NULL: none. */
const char *unit_hides(const struct unit *, const char *path);
bool unit_lets_write(const struct unit *, const char *path);
bool unit_waits_for(const struct unit *, const char *path);	/* starts only when what is to be mounted there is */
bool unit_makes(const struct unit *, const char *path);		/* systemd makes this directory before the daemon starts */

/* --- doctor_places.c --- */

enum place_kind { PLACE_DIRECTORY, PLACE_STATE /* with what the daemon keeps in it */, PLACE_MAILDIR, PLACE_COMMAND, PLACE_SHARED, PLACE_FILE /* to be read */, PLACE_LIST /* a directory, likewise */ };
struct place {
	enum place_kind kind;
	gid_t gid;			/* PLACE_SHARED: a Maildir's, with this group */
	char path[PATH_MAX];
	/* filled in by looking */
	bool looked;
	int error;			/* errno; 0: as it should be */
	bool missing;			/* not there yet; error is about where it would be made */
	char where[PATH_MAX];		/* what error is about */
	uint64_t free_bytes;
	dev_t dev;			/* of a directory, or the one above */
};
/* What a process has of them: its user, the group of the files that it makes, and all its groups. */
struct rights { uid_t uid; gid_t gid; gid_t *groups; size_t n_groups; };
struct place *places_new(size_t n);			/* zeroed */
void places_free(struct place *, size_t n);
/* Fills in all with these rights, up to one that does not answer. False: they cannot be had. Blocks. */
bool places_look(struct place *, size_t n, const struct rights *);

/* --- doctor_machine.c --- */

/* state_dir, what the daemon reads, every Maildir and command, as its user; the results for mailboxes are kept for machine_report_sink().
 * unit: what the configuration is for; NULL: none is known. All but the report is lent, until machine_free(). */
struct machine;
struct machine *machine_check(const struct config *, const struct unit *, const struct mailbox_conf *const *mailboxes, size_t n, struct report *);
void machine_report_sink(const struct machine *, size_t mailbox, struct report *);
/* The secret file of a credential; true: there is one to try. */
bool machine_check_secret(const struct machine *, const struct credential_conf *, struct report *);
void machine_free(struct machine **);

/* --- doctor_network.c --- */

/* DNS, TCP and TLS of host, and an IMAP server's greeting, reported at `at` (its subject is copied); then cb, from the loop.
 * After probe_cancel() no cb. */
struct probe;
typedef void probe_cb(void *arg, bool good);
struct probe *probe_start(const struct doctor_env *, const struct report_at *at, const char *host, uint16_t port, const char *ca_file,
    bool is_imap, probe_cb *cb, void *arg);
void probe_cancel(struct probe **);

/* --- doctor_credential.c --- */

/* The secret, the token's host, the clock, the token; then cb, from the loop. After grant_check_cancel() no cb.
 * tenant: as configured, else as the token says, NULL when this is not Entra; lent for the call. */
struct grant_check;
typedef void grant_cb(void *arg, bool has_token, const char *tenant);
struct grant_check *grant_check_start(const struct doctor_env *, const struct machine *, const struct credential_conf *, grant_cb *cb, void *arg);
void grant_check_cancel(struct grant_check **);

/* --- doctor_mailbox.c --- */

struct visit;
enum visit_result { VISIT_FAILED, VISIT_REFUSED /* the sign-in was */, VISIT_SIGNED_IN };
typedef void visit_started_cb(void *arg);
typedef void visit_over_cb(void *arg, enum visit_result);
/* Signs in and looks at the folders; over, from the loop, when it is over and reported. started comes before, once, when the sign-in
 * is over (however it went). After visit_interrupt() neither. tenant (for commands to paste; NULL: this is not Entra) is lent. */
struct visit *visit_start(const struct doctor_env *, const struct mailbox_conf *, const char *tenant, visit_started_cb *started,
    visit_over_cb *over, void *arg);
void visit_interrupt(struct visit **);		/* what it has not come to is skipped */
/* What each of its steps would have been, when it cannot even be tried. */
void visit_skip(struct report *, const struct mailbox_conf *, const char *why);
/* Its sign-in was refused, and others with its credential were not. */
void visit_explain_refusal(struct report *, const struct mailbox_conf *, const char *tenant);
