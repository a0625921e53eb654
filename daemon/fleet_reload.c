/* The file is read on a worker; then, on the loop, everything or nothing of it is taken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "audit.h"
#include "fleet_private.h"
#include "log.h"
#include "quarantine.h"
#include "tls.h"
#include "util.h"
#include "workers.h"

struct reload_job {
	struct job job;
	struct fleet *fleet;		/* for done() only */
	char *path;
	struct config *config;
	struct config_messages errors, warnings;
};

static void work_read(struct job *job)
{
	struct reload_job *r = (struct reload_job *)job;

	r->config = config_load(r->path, &r->errors, &r->warnings);
}

static void add_error(struct config_messages *errors, char *text)
{
	errors->v = xreallocarray(errors->v, errors->n + 1, sizeof(*errors->v));
	errors->v[errors->n++] = text;
}

/* What only a restart can change. */
static void check_fixed(const struct fleet *f, const struct config *config, struct config_messages *errors)
{
	if (strcmp(f->config->state_dir, config->state_dir) != 0)
		add_error(errors, xasprintf("%s: state_dir: changing it needs a restart", config->path));
	if (strcmp(f->config->control_socket, config->control_socket) != 0)
		add_error(errors, xasprintf("%s: control_socket: changing it needs a restart", config->path));
}

static int by_id(const void *a, const void *b)
{
	struct member *const *x = a, *const *y = b;

	return strcmp(mailbox_conf((*x)->mailbox)->id, mailbox_conf((*y)->mailbox)->id);
}

static struct member *look_up(struct member **sorted, size_t n, const char *id)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int order = strcmp(mailbox_conf(sorted[mid]->mailbox)->id, id);

		if (order == 0)
			return sorted[mid];
		if (order < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* It starts when the old one of the same id, if there is one, has stopped. */
static void follow(struct member *old, struct member *new)
{
	new->predecessor = old;
	if (old == NULL)
		return;
	old->successor = new;
	mailbox_await_start(new->mailbox);
}

/* A changed mailbox is another one that takes over when the old one has stopped: both would write the same state. */
static struct member *replace(struct fleet *f, struct member *old, const struct mailbox_conf *conf)
{
	struct member *new = member_new(f, conf);

	follow(old, new);
	member_retire(old);
	return new;
}

/* Nothing but a list of the quarantine and the sum in the metrics shows them any more. */
static void tell_what_is_left(const struct fleet *f, const struct mailbox_conf *conf)
{
	struct log_context ctx = { .mailbox = conf->address };
	uint64_t n = 0;

	for (size_t i = 0; i < conf->n_folders; i++)
		n += quarantine_count(f->quarantined, conf->id, conf->folders[i]);
	if (n > 0)
		log_write(LOG_LEVEL_WARNING, EVENT_CONFIG_DOUBTFUL, &ctx, NULL, 0, "it is not in the configuration any more, and %llu refused messages "
		    "of it stay in quarantine: `mailpollctl quarantine list` shows them", (unsigned long long)n);
}

static void take_mailboxes(struct fleet *f, const struct config *config, struct reload_outcome *outcome)
{
	struct member **old = f->members, **new = xcalloc(config->n_mailboxes, sizeof(*new));
	size_t n_old = f->n_members;

	qsort(old, n_old, sizeof(*old), by_id);
	for (size_t i = 0; i < config->n_mailboxes; i++) {
		const struct mailbox_conf *conf = config->mailboxes[i];
		struct member *member = look_up(old, n_old, conf->id);

		if (member == NULL) {
			outcome->added++;
			new[i] = member_new(f, conf);
			follow(fleet_last_leaving(f, conf->id), new[i]);
			member_start(new[i]);
		} else if (mailbox_conf_equal(mailbox_conf(member->mailbox), conf)) {
			outcome->kept++;
			new[i] = member;
			member->kept = true;
		} else {
			outcome->changed++;
			new[i] = replace(f, member, conf);
		}
	}
	for (size_t i = 0; i < n_old; i++) {
		if (!old[i]->kept && !old[i]->leaving) {
			outcome->removed++;
			tell_what_is_left(f, mailbox_conf(old[i]->mailbox));
			member_retire(old[i]);
		}
		old[i]->kept = false;
	}
	free(old);
	f->members = new;
	f->n_members = config->n_mailboxes;
	f->failing_known = false;
}

static char *join(const struct config_messages *messages)
{
	char *text = xstrdup("");

	for (size_t i = 0; i < messages->n; i++) {
		char *longer = xasprintf("%s%s%s", text, i > 0 ? "\n" : "", messages->v[i]);

		free(text);
		text = longer;
	}
	return text;
}

static void start_reading(struct fleet *f);

static void answer_all(struct reload_wish **wishes, const struct reload_outcome *outcome)
{
	while (*wishes != NULL) {
		struct reload_wish *w = *wishes;

		*wishes = w->next;
		w->done(w->arg, outcome);
		free(w);
	}
}

static void answer(struct fleet *f, const struct reload_outcome *outcome)
{
	answer_all(&f->reloading, outcome);
	f->reloading = f->reload_next;
	f->reload_next = NULL;
	if (f->reloading != NULL)
		start_reading(f);
}

void fleet_drop_reloads(struct fleet *f)
{
	const struct reload_outcome outcome = { .errors = "the daemon has stopped" };

	answer_all(&f->reloading, &outcome);
	answer_all(&f->reload_next, &outcome);
}

static void done_read(struct job *job)
{
	struct reload_job *r = (struct reload_job *)job;
	struct fleet *f = r->fleet;
	struct reload_outcome outcome = { 0 };
	char *warnings = join(&r->warnings), error[256];

	if (r->config != NULL)
		check_fixed(f, r->config, &r->errors);
	free(f->config_error);
	f->config_error = NULL;
	if (f->stopping)
		add_error(&r->errors, xstrdup("the daemon is stopping"));
	if (r->errors.n == 0 && f->take_config != NULL && !f->take_config(f->taker, r->config, error, sizeof(error)))
		add_error(&r->errors, xasprintf("%s: %s", r->config->path, error));
	if (r->errors.n > 0) {
		config_free(&r->config);
		f->config_error = join(&r->errors);
		audit_set_file(f->audit, f->config->audit_file);	/* it is reopened all the same: perhaps it was rotated */
		outcome.errors = f->config_error;
	} else {
		outcome.ok = true;
		outcome.warnings = warnings;
		for (size_t i = 0; i < r->warnings.n; i++)
			log_write(LOG_LEVEL_WARNING, EVENT_CONFIG_DOUBTFUL, NULL, NULL, 0, "%s", r->warnings.v[i]);
		tls_forget(f->tls);
		fleet_apply_globals(f, r->config);
		take_mailboxes(f, f->config, &outcome);
	}
	config_messages_done(&r->errors);
	config_messages_done(&r->warnings);
	free(r->path);
	free(r);
	answer(f, &outcome);
	free(warnings);
}

void fleet_set_taker(struct fleet *f, take_config_cb *take, void *arg)
{
	f->take_config = take;
	f->taker = arg;
}

static void start_reading(struct fleet *f)
{
	struct reload_job *r = xcalloc(1, sizeof(*r));

	r->job.work = work_read;
	r->job.done = done_read;
	r->fleet = f;
	r->path = xstrdup(f->config->path);
	lane_submit(f->config_lane, &r->job);
}

void fleet_reload(struct fleet *f, void (*done)(void *arg, const struct reload_outcome *), void *arg)
{
	struct reload_wish *w = xcalloc(1, sizeof(*w)), **end = f->reloading == NULL ? &f->reloading : &f->reload_next;
	bool idle = f->reloading == NULL;

	w->done = done;
	w->arg = arg;
	while (*end != NULL)
		end = &(*end)->next;
	*end = w;
	if (idle)
		start_reading(f);
}
