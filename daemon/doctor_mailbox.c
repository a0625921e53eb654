/* One mailbox: sign in, open each folder, ask for the folder that messages are moved to, log out. Nothing is fetched. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "doctor_private.h"
#include "imap_session.h"
#include "log.h"
#include "token_cache.h"
#include "token_payload.h"

/* The steps, in their order. */
enum stage { AT_CAPABILITY, AT_SIGN_IN, AT_FOLDERS, AT_IDLE, AT_AFTER, AT_END };

struct visit {
	const struct doctor_env *env;		/* lent */
	const struct mailbox_conf *conf;	/* lent */
	const char *tenant;			/* lent; NULL: not Exchange Online's */
	struct report_at at;
	struct failure_subject who;		/* members lent */
	struct token_payload token;		/* what it shows of itself */
	struct log_context log;
	struct imap_session *session;
	struct token_request *token_request;
	enum stage stage;			/* under way */
	size_t folder;				/* at AT_FOLDERS */
	bool opened;				/* a folder has been */
	const char *read_only;			/* one that can only be read; NULL: none seen */
	bool started;
	enum visit_result result;
	visit_started_cb *started_cb;
	visit_over_cb *over_cb;
	void *arg;
	struct event *end;			/* the end is told from the loop */
};

static const char *step_name(const struct mailbox_conf *conf, enum stage stage, size_t folder, char room[static 128])
{
	static const char *const names[] = { [AT_CAPABILITY] = "capability", [AT_SIGN_IN] = "sign-in", [AT_IDLE] = "IDLE", [AT_AFTER] = "after" };

	if (stage != AT_FOLDERS)
		return names[stage];
	snprintf(room, 128, "folder %s", conf->folders[folder]);
	return room;
}

/* Every step from this one on that there would be. */
static void skip_from(const struct report_at *at, const struct mailbox_conf *conf, enum stage stage, size_t folder, const char *why)
{
	char room[128];

	for (; stage < AT_END; stage++) {
		if (stage == AT_AFTER && conf->after == AFTER_KEEP)
			continue;
		do
			report_skipped(at, step_name(conf, stage, folder, room), "%s", why);
		while (stage == AT_FOLDERS && ++folder < conf->n_folders);
	}
}

void visit_skip(struct report *report, const struct mailbox_conf *conf, const char *why)
{
	skip_from(&(struct report_at){ report, SCOPE_MAILBOX, conf->address }, conf, AT_CAPABILITY, 0, why);
}

/* --- failures --- */

static char *commands_for(const struct visit *v, const struct failure *why)
{
	const struct credential_conf *credential = v->conf->credential;

	if (v->tenant == NULL)
		return NULL;
	if (strcmp(why->name, "sign-in-refused") == 0 && v->token.finding == NULL)	/* else that comes first */
		return commands_register(credential, v->tenant, v->token.object_id);
	if (strcmp(why->name, "no-access") == 0 || strcmp(why->name, "folder-refused") == 0)
		return commands_permit(credential, v->tenant, v->conf->address);
	return NULL;
}

static void step_failed(struct visit *v, const struct failure *why)
{
	char room[128], *commands = commands_for(v, why);

	report_failure(&v->at, step_name(v->conf, v->stage, v->folder, room), why, commands);
	free(commands);
}

void visit_explain_refusal(struct report *report, const struct mailbox_conf *conf, const char *tenant)
{
	struct report_at at = { report, SCOPE_MAILBOX, conf->address };
	char *hint = xasprintf("Other mailboxes sign in with application %s, so that is set up: check that %s is a mailbox of this tenant.",
	    conf->credential->client_id, conf->address);
	char *commands = tenant != NULL ? commands_find_mailbox(conf->credential, tenant, conf->address) : NULL;

	report_explain(&at, "sign-in", hint, commands);
	free(hint);
	free(commands);
}

/* --- the end --- */

static void visit_free(struct visit *v)
{
	token_cancel(&v->token_request);
	imap_session_free(&v->session);
	event_free(v->end);
	token_payload_done(&v->token);
	free(v);
}

void visit_interrupt(struct visit **visit)
{
	struct visit *v = *visit;

	skip_from(&v->at, v->conf, v->stage, v->folder, "interrupted");
	visit_free(v);
	*visit = NULL;
}

static void started(struct visit *v)
{
	if (!v->started)
		v->started_cb(v->arg);
	v->started = true;
}

static void on_end_event(evutil_socket_t fd, short what, void *arg)
{
	struct visit *v = arg;
	visit_over_cb *over = v->over_cb;
	void *owner = v->arg;
	enum visit_result result = v->result;

	(void)fd, (void)what;
	started(v);
	visit_free(v);
	over(owner, result);
}

/* Ended before its time, unless all steps are done: then how it ends is no matter. */
static void on_end(void *arg, const struct failure *why)
{
	struct visit *v = arg;

	if (v->stage < AT_END) {
		if (strcmp(why->name, "sign-in-refused") == 0)
			v->result = VISIT_REFUSED;
		step_failed(v, why);
		if (v->stage != AT_FOLDERS || ++v->folder == v->conf->n_folders)
			v->stage++;
		skip_from(&v->at, v->conf, v->stage, v->folder, "the session has ended");
		v->stage = AT_END;
	}
	event_active(v->end, 0, 0);
}

/* --- the steps --- */

static void check_idle(struct visit *v)
{
	if (v->conf->watch == WATCH_POLL)
		report_ok(&v->at, "IDLE", NULL, "not needed with watch: poll");
	else if (imap_session_can(v->session, "IDLE"))
		report_ok(&v->at, "IDLE", NULL, "offered");
	else
		report_ok(&v->at, "IDLE", "Shorten `interval` when new mail must be noticed sooner.", "not offered: mailpolld looks every %lld s instead",
		    (long long)v->conf->interval_ms / 1000);
}

static void report_read_only(struct visit *v)
{
	char *hint = xasprintf("Give application %s FullAccess to %s, or use `after: keep`.", v->conf->credential->client_id, v->conf->address);
	char *commands = v->tenant != NULL ? commands_permit(v->conf->credential, v->tenant, v->conf->address) : NULL;

	report_failed(&v->at, "after", hint, commands, "folder %s can only be read", v->read_only);
	free(hint);
	free(commands);
}

/* Whether `after` is possible; true: the target folder must be asked for. */
static bool check_after(struct visit *v)
{
	static const char no_uidplus[] = "Use `after: seen` or `keep`: delivered messages would only be marked \\Deleted, and stay.";
	bool uidplus = imap_session_can(v->session, "UIDPLUS");

	if (v->conf->after == AFTER_KEEP)
		return false;
	if (v->read_only != NULL) {
		report_read_only(v);
		return false;
	}
	switch (v->conf->after) {
	case AFTER_KEEP:
		break;
	case AFTER_SEEN:
		report_ok(&v->at, "after", NULL, "messages are marked \\Seen");
		break;
	case AFTER_DELETE:
		if (uidplus)
			report_ok(&v->at, "after", NULL, "messages are deleted; UIDPLUS is offered");
		else
			report_failed(&v->at, "after", no_uidplus, NULL, "the server has no UIDPLUS");
		break;
	case AFTER_MOVE:
		if (imap_session_can(v->session, "MOVE") || uidplus)
			return true;
		report_failed(&v->at, "after", no_uidplus, NULL, "the server offers neither MOVE nor UIDPLUS");
		break;
	}
	return false;
}

static void finish(struct visit *v)
{
	v->stage = AT_END;
	imap_session_logout(v->session);
}

static void next_step(struct visit *v)
{
	if (v->folder < v->conf->n_folders) {
		v->who.folder = v->conf->folders[v->folder];
		imap_session_select(v->session, v->who.folder);
		return;
	}
	check_idle(v);
	v->stage = AT_AFTER;
	if (check_after(v)) {
		v->who.folder = v->conf->after_folder;
		imap_session_status(v->session, v->who.folder);
	} else {
		finish(v);
	}
}

/* When another folder can be opened it is no matter of permission. */
static void folder_failed(struct visit *v, const struct failure *why)
{
	char room[128], *hint;

	if (!v->opened || why->fail != FAIL_ADMIN) {
		step_failed(v, why);
		return;
	}
	hint = xasprintf("Make folder %s in mailbox %s, or correct `folders`: others can be opened.", v->who.folder, v->conf->address);
	report_failed(&v->at, step_name(v->conf, v->stage, v->folder, room), hint, NULL, "%s", why->text);
	free(hint);
}

static void on_selected(struct visit *v, const struct imap_done *done)
{
	char room[128];

	if (done->ok) {
		report_ok(&v->at, step_name(v->conf, v->stage, v->folder, room), NULL, "%u message%s%s", done->exists, done->exists == 1 ? "" : "s",
		    done->read_only ? ", can only be read" : "");
		v->opened = true;
		if (done->read_only)
			v->read_only = v->conf->folders[v->folder];
	} else {
		folder_failed(v, done->failure);
	}
	v->folder++;
	next_step(v);
}

static void on_target(struct visit *v, const struct imap_done *done)
{
	char *hint;

	if (done->ok) {
		report_ok(&v->at, "after", NULL, "messages are moved to %s, which is there%s", v->conf->after_folder,
		    imap_session_can(v->session, "MOVE") ? "" : "; by COPY, since the server has no MOVE");
	} else if (done->failure->fail == FAIL_ADMIN) {		/* the table thinks of a folder to be fetched from */
		hint = xasprintf("Make folder %s in mailbox %s, or correct `after`.", v->conf->after_folder, v->conf->address);
		report_failed(&v->at, "after", hint, NULL, "%s", done->failure->text);
		free(hint);
	} else {
		step_failed(v, done->failure);
	}
	finish(v);
}

static void on_done(void *arg, const struct imap_done *done)
{
	if (done->command == COMMAND_SELECT)
		on_selected(arg, done);
	else
		on_target(arg, done);
}

static void on_ready(void *arg)
{
	struct visit *v = arg;

	report_ok(&v->at, "sign-in", NULL, "XOAUTH2 accepted");
	v->result = VISIT_SIGNED_IN;
	started(v);
	v->stage = AT_FOLDERS;
	next_step(v);
}

static void on_authenticating(void *arg)
{
	struct visit *v = arg;

	report_ok(&v->at, "capability", NULL, "IMAP4 with AUTH=XOAUTH2");
	v->stage = AT_SIGN_IN;
}

static void on_uids(void *arg, uint32_t lo, uint32_t hi)
{
	(void)arg, (void)lo, (void)hi;
}

static void on_body_start(void *arg, const char *section, uint32_t uid, uint64_t size_bytes)
{
	(void)arg, (void)section, (void)uid, (void)size_bytes;
}

static void on_body(void *arg, struct evbuffer *in, size_t len)
{
	(void)arg;
	evbuffer_drain(in, len);
}

static void on_fetched(void *arg, const struct imap_fetch *fetch)
{
	(void)arg, (void)fetch;
}

static void on_exists(void *arg, uint32_t n)
{
	(void)arg, (void)n;
}

static void on_alert(void *arg, const char *text)	/* the daemon logs it */
{
	(void)arg, (void)text;
}

static void on_idling(void *arg)
{
	(void)arg;
}

static const struct imap_session_ops session_ops = { .on_authenticating = on_authenticating, .on_ready = on_ready, .on_done = on_done,
	.on_idling = on_idling, .on_uids = on_uids, .on_body_start = on_body_start, .on_body = on_body, .on_fetched = on_fetched,
	.on_alert = on_alert, .on_exists = on_exists, .on_end = on_end };

/* --- the start --- */

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct visit *v = arg;
	struct imap_session_conf conf = { .host = v->conf->host, .port = v->conf->port, .ca_file = v->conf->ca_file,
	    .address = v->conf->address, .subject = &v->who, .log = &v->log };

	v->token_request = NULL;
	if (token == NULL) {
		report_failure(&v->at, "token", why, NULL);
		visit_skip(v->env->report, v->conf, "there is no token to sign in with");
		event_active(v->end, 0, 0);
		return;
	}
	token_payload_read(token->text, &v->token);
	v->who.object_id = v->token.object_id;
	v->who.token_finding = v->token.finding;
	conf.token = token->text;
	v->session = imap_session_new(v->env->base, v->env->dialer, v->env->tls, &conf, &session_ops, v);
}

struct visit *visit_start(const struct doctor_env *env, const struct mailbox_conf *conf, const char *tenant, visit_started_cb *started_cb,
    visit_over_cb *over_cb, void *arg)
{
	struct visit *v = xcalloc(1, sizeof(*v));

	*v = (struct visit){ .env = env, .conf = conf, .tenant = tenant, .at = { env->report, SCOPE_MAILBOX, conf->address }, .started_cb = started_cb,
	    .over_cb = over_cb, .arg = arg };
	v->who = (struct failure_subject){ .mailbox = conf->address, .folder = conf->folders[0], .client_id = conf->credential->client_id,
	    .tenant = tenant, .host = conf->host };
	v->log = (struct log_context){ .mailbox = conf->address, .credential = conf->credential->name };
	v->end = event_new(env->base, -1, 0, on_end_event, v);
	v->token_request = token_get(env->tokens, conf->credential->name, NULL, on_token, v);
	return v;
}
