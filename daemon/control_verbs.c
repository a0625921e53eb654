/* Changing: the verbs, each told to the log with who asked for it. */
#include <errno.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "control_private.h"
#include "fleet.h"
#include "health.h"
#include "http_server.h"
#include "log.h"
#include "quarantine.h"
#include "status_json.h"
#include "util.h"

#define ERRORS_LOGGED 50		/* of one failed reload */
#define HTTP_CONFLICT 409

struct reload {				/* one fleet_reload() that has not been answered */
	struct control *control;	/* NULL: freed meanwhile */
	struct http_later **askers;
	size_t n_askers;
};

static void reply_error_later(struct http_later *later, int code, const char *sentence)
{
	control_reply_later(later, code, status_json_error(sentence));
}

/* --- reload --- */

static void log_errors(const char *lines)
{
	size_t n = 0;

	for (size_t len; lines != NULL && *lines != '\0'; lines += len + (lines[len] == '\n')) {
		len = strcspn(lines, "\n");
		if (len > 0 && n++ < ERRORS_LOGGED)
			log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "%.*s", (int)(len < 1000 ? len : 1000), lines);
	}
	if (n > ERRORS_LOGGED)
		log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "and %zu more errors: `mailpolld check` lists them all",
		    n - ERRORS_LOGGED);
	log_write(LOG_LEVEL_ERROR, EVENT_RELOAD_FAILED, NULL, NULL, 0, "the configuration was not reloaded; the running one stays");
}

static void log_outcome(const struct reload_outcome *outcome)
{
	if (outcome->ok)
		log_write(LOG_LEVEL_INFO, EVENT_RELOADED, NULL, NULL, 0,
		    "configuration reloaded: %zu mailboxes added, %zu removed, %zu changed, %zu unchanged", outcome->added,
		    outcome->removed, outcome->changed, outcome->kept);
	else
		log_errors(outcome->errors);
}

static void on_reloaded(void *arg, const struct reload_outcome *outcome)
{
	struct reload *r = arg;
	struct control *c = r->control;

	if (c != NULL) {
		log_outcome(outcome);
		if (c->running == r)
			c->running = c->further;
		c->further = NULL;
		if (c->running == NULL && fleet_is_serving(c->fleet))
			health_ready(c->health);
	}
	for (size_t i = 0; i < r->n_askers; i++)
		control_reply_later(r->askers[i], outcome->ok ? HTTP_OK : HTTP_CONFLICT, status_json_reload(outcome));
	free(r->askers);
	free(r);
}

/* The reload that will have read what the file says now: not the one that runs. */
static struct reload *reload_begin(struct control *c)
{
	struct reload *r = c->further;

	if (r != NULL)
		return r;
	r = xcalloc(1, sizeof(*r));
	r->control = c;
	if (c->running == NULL) {
		c->running = r;
		if (fleet_is_serving(c->fleet))
			health_reloading(c->health);
	} else {
		c->further = r;
	}
	fleet_reload(c->fleet, on_reloaded, r);
	return r;
}

void control_reload(struct control *c)
{
	reload_begin(c);
}

void control_drop_reloads(struct control *c)
{
	if (c->running != NULL)
		c->running->control = NULL;
	if (c->further != NULL)
		c->further->control = NULL;
}

static void post_reload(struct control *c, struct evhttp_request *req, const char *none)
{
	struct reload *r;

	(void)none;
	control_log_peer(req, "reload", NULL, NULL);
	r = reload_begin(c);
	r->askers = xreallocarray(r->askers, r->n_askers + 1, sizeof(*r->askers));
	r->askers[r->n_askers++] = http_answer_later(req);
}

/* --- of mailboxes --- */

/* The verb has been done to n mailboxes: tells the log, and gives what the asker is told. */
static char *done_json(struct control *c, struct evhttp_request *req, const char *who, const char *verb, size_t n, size_t paused)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, who);

	if (mailbox != NULL) {
		control_log_peer(req, verb, mailbox_conf(mailbox)->address, NULL);
		return status_json_done(mailbox);
	}
	control_log_peer(req, verb, NULL, who);
	return xasprintf("{\"ok\":true,\"mailboxes\":%zu,\"paused\":%zu}", n, paused);
}

static void post_poll(struct control *c, struct evhttp_request *req, const char *who)
{
	size_t paused = 0, n = strlen(who) <= CONTROL_PATTERN_BYTES ? fleet_poll(c->fleet, who, &paused) : 0;

	if (n == 0)
		control_reply_no_mailbox(c, req, who);
	else
		control_reply(req, HTTP_OK, done_json(c, req, who, "poll", n, paused));
}

/* Who is told that it is done relies on it, over a crash, too: not before the state has it. */
struct kept_reply { struct http_later *later; char *json; };

static void on_kept(void *arg, enum store_result result)
{
	struct kept_reply *r = arg;

	(void)result;
	control_reply_later(r->later, HTTP_OK, r->json);
	free(r);
}

static void do_kept_verb(struct control *c, struct evhttp_request *req, const char *who, const char *verb,
    size_t (*act)(struct fleet *, const char *who, size_t *ret_paused, store_cb *kept, void *arg))
{
	struct kept_reply *r = xcalloc(1, sizeof(*r));
	size_t paused = 0, n = strlen(who) <= CONTROL_PATTERN_BYTES ? act(c->fleet, who, &paused, on_kept, r) : 0;

	if (n == 0) {
		control_reply_no_mailbox(c, req, who);
		free(r);
		return;
	}
	r->json = done_json(c, req, who, verb, n, paused);
	r->later = http_answer_later(req);
}

static void post_pause(struct control *c, struct evhttp_request *req, const char *who)
{
	do_kept_verb(c, req, who, "pause", fleet_pause);
}

static void post_resume(struct control *c, struct evhttp_request *req, const char *who)
{
	do_kept_verb(c, req, who, "resume", fleet_resume);
}

static void post_resync(struct control *c, struct evhttp_request *req, const char *address)
{
	const struct mailbox *mailbox = fleet_find(c->fleet, address);
	char *since = http_query(req, "since");
	struct kept_reply *r;
	struct store_day day;

	if (since == NULL || date_parse(since, &day.year, &day.month, &day.day) < 0) {
		control_reply_error(req, HTTP_BADREQUEST, "since must be a date such as 2026-01-31");
	} else if (mailbox == NULL) {
		control_reply_no_mailbox(c, req, address);
	} else {
		control_log_peer(req, "resync", mailbox_conf(mailbox)->address, since);
		r = xcalloc(1, sizeof(*r));
		*r = (struct kept_reply){ http_answer_later(req), status_json_done(mailbox) };
		fleet_resync(c->fleet, address, &day, on_kept, r);
	}
	free(since);
}

/* --- of the state and the log --- */

static void on_forgotten(void *arg, uint64_t folders)
{
	if (folders > 0)
		control_reply_later(arg, HTTP_OK, xasprintf("{\"ok\":true,\"folders\":%llu}", (unsigned long long)folders));
	else
		reply_error_later(arg, HTTP_NOTFOUND, "The state knows no mailbox with this id.");
}

static void post_forget(struct control *c, struct evhttp_request *req, const char *id)
{
	if (control_reply_stopping(c, req))
		return;
	if (!fleet_may_forget(c->fleet, id)) {
		control_reply_error(req, HTTP_CONFLICT, "A mailbox with this id is in the configuration, or on its way out of it: take it out and "
		    "reload first.");
		return;
	}
	control_log_peer(req, "forget", NULL, id);
	fleet_forget(c->fleet, id, on_forgotten, http_answer_later(req));
}

static void on_backed_up(void *arg, const char *error)
{
	char sentence[300];

	if (error == NULL) {
		control_reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
		return;
	}
	snprintf(sentence, sizeof(sentence), "The copy cannot be written: %s (the file must not be there yet, and its directory be writable for the "
	    "daemon's user).", error);
	reply_error_later(arg, HTTP_INTERNAL, sentence);
}

static void post_backup(struct control *c, struct evhttp_request *req, const char *none)
{
	char *file = http_query(req, "file");

	(void)none;
	if (file == NULL || file[0] != '/') {
		control_reply_error(req, HTTP_BADREQUEST, "file must be an absolute path");
	} else {
		control_log_peer(req, "backup", NULL, file);
		fleet_backup(c->fleet, file, on_backed_up, http_answer_later(req));
	}
	free(file);
}

static void post_log_level(struct control *c, struct evhttp_request *req, const char *none)
{
	char *word = http_query(req, "level");
	enum log_level level;

	(void)c, (void)none;
	if (word == NULL || !log_level_parse(word, &level)) {
		control_reply_error(req, HTTP_BADREQUEST, "level must be error, warning, info or debug");
	} else {
		control_log_peer(req, "log-level", NULL, word);
		log_set_level(level);
		control_reply(req, HTTP_OK, xasprintf("{\"ok\":true,\"level\":\"%s\"}", log_level_name(level)));
	}
	free(word);
}

/* --- of a refused message --- */

/* False: it has been answered. */
static bool check_key(struct evhttp_request *req, const char *verb, const char *key)
{
	if (!quarantine_key_is_sane(key)) {
		control_reply_error(req, HTTP_BADREQUEST, "This is not the KEY of a message.");
		return false;
	}
	control_log_peer(req, verb, NULL, key);
	return true;
}

static void on_dropped(void *arg, int error)
{
	if (error == 0)
		control_reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
	else if (error == ENOENT)
		reply_error_later(arg, HTTP_NOTFOUND, "There is no such message in quarantine.");
	else
		reply_error_later(arg, HTTP_INTERNAL, strerror(error));
}

static void post_quarantine_drop(struct control *c, struct evhttp_request *req, const char *key)
{
	if (check_key(req, "quarantine drop", key))
		fleet_quarantine_drop(c->fleet, key, on_dropped, http_answer_later(req));
}

static void on_retried(void *arg, enum retry_outcome outcome, const char *why)
{
	static const struct { int code; const char *sentence; } answers[] = {
		[RETRY_TAKEN] = { HTTP_OK, NULL }, [RETRY_REFUSED] = { HTTP_CONFLICT, "The sink refused it again" },
		[RETRY_LATER] = { HTTP_SERVUNAVAIL, "It could not be delivered now" },
		[RETRY_UNKNOWN] = { HTTP_NOTFOUND, "There is no such message in quarantine" },
	};
	char *sentence;

	if (outcome == RETRY_TAKEN) {
		control_reply_later(arg, HTTP_OK, xstrdup("{\"ok\":true}"));
		return;
	}
	sentence = xasprintf("%s: %s.", answers[outcome].sentence, why != NULL ? why : "no reason given");
	reply_error_later(arg, answers[outcome].code, sentence);
	free(sentence);
}

static void post_quarantine_retry(struct control *c, struct evhttp_request *req, const char *key)
{
	if (check_key(req, "quarantine retry", key))
		fleet_quarantine_retry(c->fleet, key, on_retried, http_answer_later(req));
}

const struct route control_verbs[] = {
	{ "/reload", post_reload },
	{ "/mailboxes/*/poll", post_poll },
	{ "/mailboxes/*/pause", post_pause },
	{ "/mailboxes/*/resume", post_resume },
	{ "/mailboxes/*/resync", post_resync },
	{ "/quarantine/*/retry", post_quarantine_retry },
	{ "/quarantine/*/drop", post_quarantine_drop },
	{ "/forget/*", post_forget },
	{ "/backup", post_backup },
	{ "/log-level", post_log_level },
	{ NULL, NULL },
};
