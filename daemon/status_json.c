#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "admission.h"
#include "config.h"
#include "fleet.h"
#include "status_json.h"
#include "token_cache.h"
#include "util.h"

#define SCHEMA 1
#define GIVEN_UP_MAX 20		/* of a folder; the log has all */
#define TEXT_BYTES 1024			/* of what is not UTF-8 and must be made so */

static char *checked(char *text)
{
	if (text == NULL)		/* no memory: what it is made of is valid by construction */
		abort();
	return text;
}

static json_t *text_or_null(const char *s)
{
	char safe[TEXT_BYTES];
	json_t *value;

	if (s == NULL || *s == '\0')
		return json_null();
	value = json_string(s);
	if (value != NULL)
		return value;
	printable(safe, sizeof(safe), s, strlen(s));	/* a path may be any bytes, JSON may not */
	return json_string(safe);
}

static json_t *time_or_null(int64_t wall_s)
{
	char text[RFC3339_SIZE];

	return wall_s == 0 ? json_null() : json_string(rfc3339(wall_s, text));
}

static json_t *number(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static void put(json_t *object, const char *key, json_t *value)	/* takes value */
{
	if (json_object_set_new_nocheck(object, key, value) < 0)
		abort();
}

static void put_failure(json_t *object, const struct failure *failure)
{
	bool failed = failure != NULL && failure->fail != FAIL_NONE;

	put(object, "failure", text_or_null(failed ? failure->name : NULL));
	put(object, "error", text_or_null(!failed ? NULL : failure->text[0] != '\0' ? failure->text : failure->name));
	put(object, "hint", text_or_null(failed ? failure->hint : NULL));
}

/* Takes value. Embedded: without the outer braces. */
static char *to_text(json_t *value, bool embedded)
{
	char *text = checked(json_dumps(value, JSON_COMPACT | (embedded ? JSON_EMBED : 0)));

	json_decref(value);
	return text;
}

/* --- the whole --- */

static json_t *config_object(const struct fleet *fleet)
{
	json_t *object = json_object();

	put(object, "loaded_at", time_or_null(fleet_config_loaded_wall_s(fleet)));
	put(object, "error", text_or_null(fleet_config_error(fleet)));
	return object;
}

static json_t *reason_object(const struct health_reason *reason)
{
	json_t *object = json_object();

	put(object, "what", text_or_null(reason->what));
	put(object, "name", text_or_null(reason->name));
	put(object, "since", time_or_null(reason->since_wall_s));
	put(object, "hint", text_or_null(reason->hint));
	return object;
}

static void put_health(json_t *object, struct fleet *fleet)
{
	struct health_reason *reasons = xcalloc(HEALTH_REASONS_MAX, sizeof(*reasons));
	json_t *list = json_array();
	size_t n = 0;

	put(object, "health", json_string(health_name(fleet_health(fleet, reasons, HEALTH_REASONS_MAX, &n))));
	for (size_t i = 0; i < n && i < HEALTH_REASONS_MAX; i++)
		json_array_append_new(list, reason_object(&reasons[i]));
	put(object, "reasons", list);
	free(reasons);
}

char *status_json_health(struct fleet *fleet)
{
	json_t *object = json_object();

	put_health(object, fleet);
	return to_text(object, false);
}

static json_t *totals_object(struct fleet *fleet)
{
	json_t *object = json_object();

	for (int state = 0; state < MAILBOX_STATE_N; state++)
		put(object, mailbox_state_name((enum mailbox_state)state), number(fleet_count(fleet, (enum mailbox_state)state)));
	put(object, "failing", number(fleet_failing(fleet)));
	put(object, "mailboxes", number(fleet_size(fleet)));
	put(object, "delivered", number(fleet_delivered(fleet)));
	return object;
}

char *status_json_opening(struct fleet *fleet, const char *version, int64_t started_wall_s)
{
	json_t *object = json_object();
	char *members, *text;

	put(object, "schema", json_integer(SCHEMA));
	put(object, "version", text_or_null(version));
	put(object, "started_at", time_or_null(started_wall_s));
	put(object, "config", config_object(fleet));
	put_health(object, fleet);
	put(object, "totals", totals_object(fleet));
	members = to_text(object, true);
	text = xasprintf("{%s", members);
	free(members);
	return text;
}

static json_t *admission_object(const struct fleet *fleet, const struct token_snapshot *token, const struct gate_snapshot *gate)
{
	json_t *object = json_object();
	char hint[400];

	put(object, "mailboxes", number(gate->seats));
	put(object, "waiting", number(gate->waiting));
	put(object, "starting", number(gate->starting));
	put(object, "fetching", number(gate->fetching));
	put(object, "sessions_per_second", gate->sessions_per_second > 0 ? json_real(gate->sessions_per_second) : json_null());
	put(object, "slowed", json_boolean(gate->slowed));
	put(object, "hint", text_or_null(fleet_relogin_is_tight(fleet, token, hint, sizeof(hint)) ? hint : NULL));
	return object;
}

static json_t *credential_object(struct fleet *fleet, const struct token_snapshot *token)
{
	struct gate_snapshot gate;
	json_t *object = json_object();

	put(object, "name", text_or_null(token->credential));
	put(object, "state", json_string(token_state_name(token->state)));
	put(object, "expires_at", time_or_null(token->expires_wall_s));
	put(object, "refresh_at", time_or_null(token->refresh_wall_s));
	put_failure(object, &token->failure);
	put(object, "requests", number(token->requests));
	put(object, "failures", number(token->failures));
	fleet_admission(fleet, token->credential, &gate);
	put(object, "admission", admission_object(fleet, token, &gate));
	return object;
}

static json_t *credentials_array(struct fleet *fleet)
{
	size_t room = fleet_tokens(fleet, NULL, 0), n;
	struct token_snapshot *v = xcalloc(room, sizeof(*v));
	json_t *list = json_array();

	n = fleet_tokens(fleet, v, room);
	for (size_t i = 0; i < n && i < room; i++)
		json_array_append_new(list, credential_object(fleet, &v[i]));
	free(v);
	return list;
}

static json_t *sink_object(const struct sink_snapshot *sink)
{
	json_t *object = json_object();

	put(object, "name", text_or_null(sink->name));
	put(object, "kind", text_or_null(sink->kind));
	put(object, "target", text_or_null(sink->target));
	put(object, "failing", json_boolean(sink->failing));
	put(object, "running", number(sink->running));
	put(object, "waiting", number(sink->waiting));
	put(object, "delivered", number(sink->delivered));
	put(object, "refused", number(sink->refused));
	put(object, "temporary", number(sink->temporary));
	put_failure(object, sink->failure);
	return object;
}

static json_t *sinks_array(const struct fleet *fleet)
{
	size_t room = fleet_sinks(fleet, NULL, 0), n;
	struct sink_snapshot *v = xcalloc(room, sizeof(*v));
	json_t *list = json_array();

	n = fleet_sinks(fleet, v, room);
	for (size_t i = 0; i < n && i < room; i++)
		json_array_append_new(list, sink_object(&v[i]));
	free(v);
	return list;
}

static json_t *store_object(const struct fleet *fleet)
{
	struct store_snapshot store;
	json_t *object = json_object();

	fleet_store(fleet, &store);
	put(object, "last_commit", time_or_null(store.last_commit_wall_s));
	put(object, "spool_bytes", number(store.spool_bytes));
	put_failure(object, store.failure);
	return object;
}

char *status_json_closing(struct fleet *fleet, msec_t lag_max_ms, uint64_t log_dropped)
{
	json_t *object = json_object(), *loop = json_object();
	char *members, *text;

	put(object, "credentials", credentials_array(fleet));
	put(object, "sinks", sinks_array(fleet));
	put(object, "store", store_object(fleet));
	put(loop, "lag_max_ms", json_integer(lag_max_ms));
	put(object, "loop", loop);
	put(object, "log_dropped", number(log_dropped));
	members = to_text(object, true);
	text = xasprintf("%s}\n", members);
	free(members);
	return text;
}

/* --- one mailbox --- */

static json_t *given_up_array(const struct mailbox *mailbox, size_t i)
{
	json_t *list = json_array(), *object;
	struct failure why;
	int64_t since_wall_s;
	uint32_t uid;

	for (size_t n = 0; n < GIVEN_UP_MAX && mailbox_given_up(mailbox, i, n, &uid, &since_wall_s, &why); n++) {
		object = json_object();
		put(object, "uid", json_integer(uid));
		put(object, "since", time_or_null(since_wall_s));
		put_failure(object, &why);
		json_array_append_new(list, object);
	}
	return list;
}

static json_t *rebuilt_object(const struct folder_snapshot *folder)
{
	json_t *object;

	if (folder->rebuilt_wall_s == 0)
		return json_null();
	object = json_object();
	put(object, "at", time_or_null(folder->rebuilt_wall_s));
	put(object, "known", number(folder->rebuilt_known));
	put(object, "new", number(folder->rebuilt_new));
	return object;
}

static json_t *folder_object(const struct folder_snapshot *folder)
{
	json_t *object = json_object();

	put(object, "folder", text_or_null(folder->name));
	put(object, "delivered", number(folder->delivered));
	put(object, "owed", number(folder->owed));
	put(object, "after_owed", number(folder->after_owed));
	put(object, "backlog", number(folder->backlog));
	put(object, "quarantined", number(folder->quarantined));
	put(object, "oldest_owed_at", time_or_null(folder->oldest_owed_wall_s));
	put(object, "last_success", time_or_null(folder->last_success_wall_s));
	put(object, "last_delivery", time_or_null(folder->last_delivery_wall_s));
	put(object, "rebuilt", rebuilt_object(folder));
	return object;
}

static json_t *folders_array(const struct mailbox *mailbox, size_t n)
{
	json_t *list = json_array(), *one;

	for (size_t i = 0; i < n; i++) {
		struct folder_snapshot folder;

		mailbox_folder_snapshot(mailbox, i, &folder);
		one = folder_object(&folder);
		put(one, "unretrievable", given_up_array(mailbox, i));
		json_array_append_new(list, one);
	}
	return list;
}

static json_t *deliver_object(const struct sink_conf *sink)
{
	json_t *object = json_object();

	if (sink->kind == SINK_MAILDIR)
		put(object, "maildir", text_or_null(sink->maildir));
	else
		put(object, "command", text_or_null(sink->command[0]));
	return object;
}

/* What the configuration says, as far as it helps to understand what is told beside it. */
static json_t *settings_object(const struct mailbox_conf *conf)
{
	static const char *const afters[] = { [AFTER_KEEP] = "keep", [AFTER_SEEN] = "seen", [AFTER_DELETE] = "delete", [AFTER_MOVE] = "move" };
	json_t *object = json_object();

	put(object, "credential", text_or_null(conf->credential->name));
	put(object, "host", text_or_null(conf->host));
	put(object, "port", json_integer(conf->port));
	put(object, "watch", json_string(conf->watch == WATCH_IDLE ? "idle" : "poll"));
	put(object, "interval_s", json_integer(conf->interval_ms / 1000));
	put(object, "deliver", deliver_object(conf->deliver));
	put(object, "after", json_string(afters[conf->after]));
	put(object, "after_folder", text_or_null(conf->after_folder));
	return object;
}

static json_t *errors_array(const struct mailbox *mailbox)
{
	size_t n;
	const struct mailbox_error *errors = mailbox_errors(mailbox, &n);
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++) {
		json_t *object = json_object();

		put(object, "failure", text_or_null(errors[i].name));
		put(object, "error", text_or_null(errors[i].text));
		put(object, "times", json_integer(errors[i].times));
		put(object, "first_at", time_or_null(errors[i].first_wall_s));
		put(object, "last_at", time_or_null(errors[i].last_wall_s));
		json_array_append_new(list, object);
	}
	return list;
}

static json_t *mailbox_object(const struct mailbox *mailbox)
{
	struct mailbox_snapshot now;
	json_t *object = json_object();

	mailbox_snapshot(mailbox, &now);
	put(object, "address", text_or_null(now.address));
	put(object, "id", text_or_null(now.id));
	put(object, "state", json_string(mailbox_state_name(now.state)));
	put(object, "since", time_or_null(now.since_wall_s));
	put_failure(object, now.failure);
	put(object, "failing_since", time_or_null(now.failing_since_wall_s));
	put(object, "retry_at", time_or_null(now.retry_at_wall_s));
	put(object, "failures", number(now.failures));
	put(object, "folders", folders_array(mailbox, now.n_folders));
	return object;
}

char *status_json_mailbox(const struct mailbox *mailbox)
{
	return to_text(mailbox_object(mailbox), false);
}

char *status_json_mailbox_whole(const struct mailbox *mailbox)
{
	json_t *object = mailbox_object(mailbox);

	put(object, "settings", settings_object(mailbox_conf(mailbox)));
	put(object, "errors", errors_array(mailbox));
	return to_text(object, false);
}

/* --- answers of the verbs --- */

char *status_json_error(const char *sentence)
{
	json_t *object = json_object();

	put(object, "error", text_or_null(sentence));
	return to_text(object, false);
}

char *status_json_done(const struct mailbox *mailbox)
{
	struct mailbox_snapshot now;
	json_t *object = json_object();

	mailbox_snapshot(mailbox, &now);
	put(object, "ok", json_true());
	put(object, "address", text_or_null(now.address));
	put(object, "state", json_string(mailbox_state_name(now.state)));
	put(object, "paused", json_boolean(mailbox_is_paused(mailbox)));
	return to_text(object, false);
}

static json_t *lines_array(const char *lines)
{
	json_t *list = json_array();

	while (lines != NULL && *lines != '\0') {
		size_t len = strcspn(lines, "\n");
		char *line = xstrndup(lines, len);

		if (len > 0)
			json_array_append_new(list, text_or_null(line));
		free(line);
		lines += len + (lines[len] == '\n');
	}
	return list;
}

char *status_json_reload(const struct reload_outcome *outcome)
{
	json_t *object = json_object();

	put(object, "ok", json_boolean(outcome->ok));
	if (outcome->ok) {
		put(object, "added", number(outcome->added));
		put(object, "removed", number(outcome->removed));
		put(object, "changed", number(outcome->changed));
		put(object, "kept", number(outcome->kept));
		put(object, "warnings", lines_array(outcome->warnings));
	} else {
		put(object, "errors", lines_array(outcome->errors));
	}
	return to_text(object, false);
}
