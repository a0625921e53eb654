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

struct visit {
	const struct doctor_env *env;		/* lent */
	const struct mailbox_conf *conf;	/* lent */
	struct report_at at;
	struct failure_subject who;		/* members lent */
	struct token_payload token;		/* what it shows of itself */
	char *finding;
	struct log_context log;
	struct imap_session *session;
	struct token_request *token_request;
	size_t folder;				/* the next to open */
	bool ready, target_asked;
	const char *step;			/* that is under way; NULL: none */
	char step_text[128];
	visit_cb *signed_in, *over;
	void *arg;
	struct event *end;			/* the end is told from the loop */
};

static void begin_step(struct visit *v, const char *name, const char *detail)
{
	snprintf(v->step_text, sizeof(v->step_text), "%s%s%s", name, detail[0] != '\0' ? " " : "", detail);
	v->step = v->step_text;
}

/* --- what to paste --- */

/* As configured, else as the token says; NULL: this is not Entra. */
static const char *tenant_of(const struct visit *v)
{
	return v->conf->credential->tenant != NULL ? v->conf->credential->tenant : v->token.tenant_id;
}

static char *register_commands(const struct visit *v)
{
	return xasprintf("Connect-ExchangeOnline -Organization %s\n"
	    "New-ServicePrincipal -AppId %s -ObjectId %s -DisplayName mailpolld", tenant_of(v), v->conf->credential->client_id,
	    v->token.object_id != NULL ? v->token.object_id : "<Object ID of the Enterprise application>");
}

static char *permission_commands(const struct visit *v)
{
	const char *app = v->conf->credential->client_id;

	return xasprintf("Connect-ExchangeOnline -Organization %s\n"
	    "Add-MailboxPermission -Identity \"%s\" -User (Get-ServicePrincipal -Identity %s).Identity -AccessRights FullAccess\n"
	    "Set-CASMailbox -Identity \"%s\" -ImapEnabled $true", tenant_of(v), v->conf->address, app, v->conf->address);
}

static char *commands_for(const struct visit *v, const struct failure *why)
{
	if (tenant_of(v) == NULL || strcmp(v->step, "after") == 0)	/* not Exchange Online's; the target of a move is to be made */
		return NULL;
	if (strcmp(why->name, "sign-in-refused") == 0)
		return register_commands(v);
	if (strcmp(why->name, "no-access") == 0 || strcmp(why->name, "folder-refused") == 0)
		return permission_commands(v);
	return NULL;
}

static void step_failed(struct visit *v, const struct failure *why)
{
	char *commands = commands_for(v, why);

	report_failure(&v->at, v->step, why, commands);
	v->step = NULL;
	free(commands);
}

/* --- the end --- */

void visit_cancel(struct visit **visit)
{
	struct visit *v = *visit;

	if (v == NULL)
		return;
	token_cancel(&v->token_request);
	imap_session_free(&v->session, NULL);
	event_free(v->end);
	token_payload_done(&v->token);
	free(v->finding);
	free(v);
	*visit = NULL;
}

static void on_end_event(evutil_socket_t fd, short what, void *arg)
{
	struct visit *v = arg;
	visit_cb *over = v->over;
	void *owner = v->arg;

	(void)fd, (void)what;
	if (!v->ready)
		v->signed_in(owner);
	visit_cancel(&v);
	over(owner);
}

/* The session has ended before its time: what could not be tried any more. */
static void skip_rest(struct visit *v)
{
	char name[128];

	for (; v->folder < v->conf->n_folders; v->folder++) {
		snprintf(name, sizeof(name), "folder %s", v->conf->folders[v->folder]);
		report_skipped(&v->at, name, "the session has ended");
	}
	if (!v->target_asked)
		report_skipped(&v->at, "IDLE", "the session has ended");
	if (!v->target_asked && v->conf->after != AFTER_KEEP)
		report_skipped(&v->at, "after", "the session has ended");
}

static void on_end(void *arg, const struct failure *why)
{
	struct visit *v = arg;

	if (why->fail != FAIL_NONE && v->step != NULL)
		step_failed(v, why);
	else if (why->fail != FAIL_NONE)
		report_failure(&v->at, "session", why, NULL);
	if (why->fail != FAIL_NONE)
		skip_rest(v);
	event_active(v->end, 0, 0);
}

/* --- the steps --- */

static void check_idle(struct visit *v)
{
	if (v->conf->watch == WATCH_POLL) {
		report_skipped(&v->at, "IDLE", "watch: poll does without");
	} else if (imap_session_can(v->session, "IDLE")) {
		report_ok(&v->at, "IDLE", NULL, "offered");
	} else {
		report_ok(&v->at, "IDLE", "Shorten `interval` when new mail must be noticed sooner.", "not offered: mailpolld looks every %lld s instead",
		    (long long)v->conf->interval_ms / 1000);
	}
}

/* Whether `after` is possible; true: the target folder must be asked for. */
static bool check_after(struct visit *v)
{
	static const char no_uidplus[] = "Use `after: seen` or `keep`: delivered messages would only be marked \\Deleted, and stay.";
	bool uidplus = imap_session_can(v->session, "UIDPLUS");

	switch (v->conf->after) {
	case AFTER_KEEP:
		return false;
	case AFTER_SEEN:
		report_ok(&v->at, "after", NULL, "messages are marked \\Seen");
		return false;
	case AFTER_DELETE:
		if (uidplus)
			report_ok(&v->at, "after", NULL, "UIDPLUS is offered");
		else
			report_failed(&v->at, "after", no_uidplus, NULL, "the server has no UIDPLUS");
		return false;
	case AFTER_MOVE:
		if (imap_session_can(v->session, "MOVE") || uidplus)
			return true;
		report_failed(&v->at, "after", no_uidplus, NULL, "the server offers neither MOVE nor UIDPLUS");
		return false;
	}
	return false;
}

static void next_step(struct visit *v)
{
	if (v->folder < v->conf->n_folders) {
		begin_step(v, "folder", v->conf->folders[v->folder]);
		v->who.folder = v->conf->folders[v->folder];
		imap_session_select(v->session, v->conf->folders[v->folder++]);
		return;
	}
	if (!v->target_asked) {
		v->target_asked = true;
		check_idle(v);
		if (check_after(v)) {
			begin_step(v, "after", "");
			v->who.folder = v->conf->after_folder;
			imap_session_status(v->session, v->conf->after_folder);
			return;
		}
	}
	v->step = NULL;
	imap_session_logout(v->session);
}

static void on_done(void *arg, const struct imap_done *done)
{
	struct visit *v = arg;
	if (!done->ok) {
		step_failed(v, done->failure);
		if (done->command == COMMAND_STATUS)
			v->who.folder = NULL;
	} else if (done->command == COMMAND_SELECT) {
		report_ok(&v->at, v->step, NULL, "%u message%s", done->exists, done->exists == 1 ? "" : "s");
	} else if (done->command == COMMAND_STATUS) {
		report_ok(&v->at, v->step, NULL, "messages are moved to %s, which is there", v->conf->after_folder);
	}
	next_step(v);
}

static void on_ready(void *arg)
{
	struct visit *v = arg;

	report_ok(&v->at, "sign-in", NULL, "XOAUTH2 accepted");
	v->ready = true;
	v->signed_in(v->arg);
	next_step(v);
}

static void on_authenticating(void *arg)
{
	struct visit *v = arg;

	report_ok(&v->at, "capability", NULL, "IMAP4 with AUTH=XOAUTH2");
	begin_step(v, "sign-in", "");
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

static const struct imap_session_ops session_ops = { .on_authenticating = on_authenticating, .on_ready = on_ready, .on_done = on_done,
	.on_uids = on_uids, .on_body_start = on_body_start, .on_body = on_body, .on_fetched = on_fetched, .on_exists = on_exists,
	.on_end = on_end };

static void on_token(void *arg, const struct token *token, const struct failure *why)
{
	struct visit *v = arg;
	struct imap_session_conf conf = { .host = v->conf->host, .port = v->conf->port, .ca_file = v->conf->ca_file,
	    .address = v->conf->address, .subject = &v->who, .log = &v->log };

	v->token_request = NULL;
	if (token == NULL) {
		step_failed(v, why);
		event_active(v->end, 0, 0);
		return;
	}
	token_payload_read(token->text, &v->token);
	v->finding = xstrdup(token->finding);
	v->who.object_id = v->token.object_id;
	v->who.token_finding = v->finding;
	conf.token = token->text;
	begin_step(v, "capability", "");
	v->session = imap_session_new(v->env->base, v->env->dialer, v->env->tls, &conf, &session_ops, v);
}

struct visit *visit_start(const struct doctor_env *env, const struct mailbox_conf *conf, visit_cb *signed_in, visit_cb *over, void *arg)
{
	struct visit *v = xcalloc(1, sizeof(*v));

	*v = (struct visit){ .env = env, .conf = conf, .at = { env->report, SCOPE_MAILBOX, conf->address }, .signed_in = signed_in, .over = over, .arg = arg };
	v->who = (struct failure_subject){ .mailbox = conf->address, .folder = conf->folders[0], .client_id = conf->credential->client_id,
	    .tenant = conf->credential->tenant, .host = conf->host };
	v->log = (struct log_context){ .mailbox = conf->address, .credential = conf->credential->name };
	v->end = event_new(env->base, -1, 0, on_end_event, v);
	begin_step(v, "token", "");
	v->token_request = token_get(env->tokens, conf->credential->name, NULL, on_token, v);
	return v;
}

void visit_skip(struct report *report, const struct mailbox_conf *conf, const char *why)
{
	report_skipped(&(struct report_at){ report, SCOPE_MAILBOX, conf->address }, "sign-in", "%s", why);
}
