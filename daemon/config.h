/* config.h - YAML in, one immutable struct config out, or a list of errors with file:line:column. No network,
 * no loop, changes nothing; but it looks at this machine (the files themselves, secrets, authorities, programs, groups), so it blocks.
 *
 * Everything in a struct config is owned by it and lives until config_free(). Mailboxes that inherit a `deliver`
 * share one struct sink_conf. Paths are made absolute (relative ones are relative to the file that names them),
 * except credential:NAME, which is replaced by $CREDENTIALS_DIRECTORY/NAME. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "clock.h"
#include "log.h"
#include "util.h"

#define CONFIG_DEFAULT_FILE "/etc/mailpolld/mailpolld.yaml"

struct admission_conf {
	uint32_t sessions_per_second;	/* 0: no limit (written `off`); default 5 */
	uint32_t starting_at_once;	/* default 20 */
	uint32_t fetching_at_once;	/* default 50 */
};

enum credential_kind { CREDENTIAL_CLIENT_SECRET };
struct credential_conf {
	char *name;
	enum credential_kind kind;
	char *token_url;		/* https only; built from cloud and tenant when `cloud` is used */
	char *scope;
	char *client_id;
	char *secret_file;		/* absolute; of credential:NAME it begins with $CREDENTIALS_DIRECTORY where that is not known */
	char *secret_credential;	/* NAME of credential:NAME; NULL: it is a file */
	char *ca_file;			/* for the token endpoint; NULL: the system's */
	char *tenant;			/* NULL for `token_url` credentials; for hints */
	char *imap_host;		/* the cloud's; NULL for `token_url` credentials */
	int64_t secret_expires_s;	/* since 1970, as far as somebody has told; 0: nobody has */
	struct admission_conf admission;
};

enum sink_kind { SINK_MAILDIR, SINK_COMMAND };
struct sink_conf {
	char *name;			/* key of its progress in the state: "maildir", "command" */
	enum sink_kind kind;
	char *maildir;			/* template, absolute */
	mode_t mode;			/* of delivered files, default 0600; directories: sink_maildir.c */
	char *group;			/* NULL: the daemon's own */
	gid_t gid;			/* of group; (gid_t)-1 when group is NULL */
	char **command;			/* NULL-terminated argv, templates except [0] */
	msec_t timeout_ms;		/* default 60 s */
	uint32_t at_once;		/* children at once over all mailboxes that share it, default 4 */
};

enum watch_kind { WATCH_IDLE, WATCH_POLL };
enum start_kind { START_ALL, START_NEW, START_SINCE };
enum after_kind { AFTER_KEEP, AFTER_SEEN, AFTER_DELETE, AFTER_MOVE };

struct mailbox_conf {
	char *address;			/* as written */
	char *id;			/* what state, keys and names are bound to; default: the address in lower case */
	const struct credential_conf *credential;
	char *host;
	uint16_t port;
	char *ca_file;			/* NULL: the system's */
	char **folders; size_t n_folders;	/* UTF-8, at least one */
	enum watch_kind watch;
	msec_t interval_ms;		/* idle: longest time between two looks; poll: between two polls */
	enum start_kind start; int start_year, start_month, start_day;
	const struct sink_conf *deliver;
	enum after_kind after; char *after_folder;	/* AFTER_MOVE */
};

enum audit_kind { AUDIT_JOURNAL /* with the log */, AUDIT_OFF, AUDIT_FILE };
struct config {
	char *path;
	char **files; size_t n_files;	/* what was read: path first; with mailbox_files */
	char **listed; size_t n_listed;	/* directories that were looked through for those */
	char *state_dir, *control_socket;
	char *metrics_address; uint16_t metrics_port;	/* NULL: off */
	bool metrics_per_mailbox;
	enum log_level log_level;
	enum audit_kind audit; char *audit_file;	/* AUDIT_FILE */
	uint64_t spool_limit_bytes, min_free_bytes;
	struct credential_conf **credentials; size_t n_credentials;
	struct sink_conf **sinks; size_t n_sinks;
	struct mailbox_conf **mailboxes; size_t n_mailboxes;	/* in the order of the files */
};

/* Messages in the order found: "mailpolld.yaml:14:15: mailboxes[2].interval: 45x is not a duration (500ms 30s 5m 1h)". */
struct config_messages {
	char **v; size_t n;
	size_t n_all, n_passing;	/* with those that v has no room for; of them those of this machine, which may pass */
};
void config_messages_done(struct config_messages *);
bool config_may_pass(const struct config_messages *errors);	/* all of them: the file may be right */

/* NULL when there was any error; all of them are in errors. warnings: what is legal but suspicious, and what is
 * missing on this machine only (secret, CA file, command): check --strict makes these errors. */
struct config *config_load(const char *path, struct config_messages *ret_errors, struct config_messages *ret_warnings);
void config_free(struct config **);
/* From a shell: the directories that are not told by the environment are where the systemd unit puts them. */
void config_assume_unit(void);
/* How long the admission of this credential takes to let all its mailboxes in after a start. */
msec_t config_restart_ms(const struct config *, const struct credential_conf *);

/* True when nothing that matters to a running session of this mailbox differs, its credential's and sink's contents
 * included: a reload keeps it as it is. */
bool mailbox_conf_equal(const struct mailbox_conf *, const struct mailbox_conf *);
bool credential_conf_equal(const struct credential_conf *, const struct credential_conf *);
bool credential_conf_is_entra(const struct credential_conf *);	/* not another OAuth server */

bool sink_conf_equal(const struct sink_conf *, const struct sink_conf *);
bool mailbox_conf_is_like(const struct mailbox_conf *, const char *pattern);	/* its address or id: glob_match() */
/* Copies that live on their own; a mailbox's has its own credential and sink. */
struct mailbox_conf *mailbox_conf_dup(const struct mailbox_conf *);
void mailbox_conf_free(struct mailbox_conf **);
struct credential_conf *credential_conf_dup(const struct credential_conf *);
void credential_conf_free(struct credential_conf **);
struct sink_conf *sink_conf_dup(const struct sink_conf *);
void sink_conf_free(struct sink_conf **);

/* Expands %{address} %{local} %{domain} %{folder} %{id}. Refused (NULL, ret_why set to a static text): a value with a
 * control character, `/`, or that is `..` or `.`. folder may have `/` for Maildir templates only as `.`: a `/` in it
 * becomes `.`. Caller frees. */
char *config_expand(const char *template, const struct mailbox_conf *, const char *folder, const char **ret_why);

/* Reads a secret: one trailing newline dropped; empty, NUL inside, over 64 KiB, or readable by others (mode & 0007)
 * refused with a sentence in ret_why (size why_size). Caller frees with secret_free(). Blocks: not for the loop. */
char *config_read_secret(const char *path, char *ret_why, size_t why_size);
