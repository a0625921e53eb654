/* Refused messages given to their sink once more, on an operator's word. The message stays on the shelf until the sink has taken it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fleet_private.h"
#include "message.h"
#include "quarantine.h"
#include "spool.h"
#include "store.h"
#include "util.h"

struct retry {
	struct fleet *fleet;
	char *key, *path;		/* path: a second name of the message's file, in the spool */
	struct volume *volume;
	struct mailbox_conf *conf;	/* a copy: a reload meanwhile does not matter */
	struct sink *sink;
	struct message message;
	char *folder;
	retry_cb *done;
	void *arg;
};

static void retry_over(struct retry *r, enum retry_outcome outcome, const char *why)
{
	r->done(r->arg, outcome, why);
	if (r->sink != NULL)
		sink_release(r->sink);
	mailbox_conf_free(&r->conf);
	free(r->folder);
	free(r->path);
	free(r->key);
	free(r);
}

static void on_dropped(void *arg, int error)
{
	retry_over(arg, RETRY_TAKEN, error != 0 ? strerror(error) : NULL);
}

static void note_redelivered(struct retry *r)
{
	for (size_t i = 0; i < r->fleet->n_members; i++) {
		struct mailbox *mailbox = r->fleet->members[i]->mailbox;

		if (strcmp(mailbox_conf(mailbox)->id, r->conf->id) == 0)
			mailbox_note_redelivered(mailbox, &r->message);
	}
}

static void on_answer(void *arg, struct message *message, enum sink_answer answer, const struct failure *why)
{
	struct retry *r = arg;
	struct fleet *f = r->fleet;

	(void)message;
	spool_remove(r->volume, r->path);
	switch (answer) {
	case SINK_TAKEN:
		note_redelivered(r);
		quarantine_drop(f->look_lane, f->quarantined, f->config->state_dir, r->key, on_dropped, r);
		break;
	case SINK_QUARANTINED:
		retry_over(r, RETRY_REFUSED, why->text);
		break;
	default:
		retry_over(r, RETRY_LATER, why->text);
		break;
	}
}

static const struct mailbox_conf *conf_of(const struct fleet *f, const char *id)
{
	for (size_t i = 0; i < f->n_members; i++)
		if (strcmp(mailbox_conf(f->members[i]->mailbox)->id, id) == 0)
			return mailbox_conf(f->members[i]->mailbox);
	return NULL;
}

static void on_taken_down(void *arg, int error, const struct quarantined *found)
{
	struct retry *r = arg;
	const struct mailbox_conf *conf = found != NULL ? conf_of(r->fleet, found->id) : NULL;

	if (error != 0) {
		retry_over(r, error == ENOENT ? RETRY_UNKNOWN : RETRY_LATER, strerror(error));
		return;
	}
	if (r->fleet->stopping) {
		spool_remove(r->volume, r->path);
		retry_over(r, RETRY_LATER, "mailpolld is stopping");
		return;
	}
	if (conf == NULL || conf->deliver->kind != SINK_COMMAND) {
		spool_remove(r->volume, r->path);
		retry_over(r, RETRY_LATER, conf == NULL ? "its mailbox is not in the configuration" : "its mailbox is delivered to a Maildir now");
		return;
	}
	r->conf = mailbox_conf_dup(conf);
	r->folder = xstrdup(found->folder);
	r->sink = sink_get(r->fleet->sinks, r->conf->deliver);
	r->message = (struct message){ .mailbox = r->conf, .folder = r->folder, .uidvalidity = found->uidvalidity, .uid = found->uid,
	    .internaldate_s = found->internaldate_s, .size_bytes = found->size_bytes, .key = r->key, .path = r->path, .volume = r->volume,
	    .after_owed = conf->after != AFTER_KEEP, .attempts = found->attempts, .quarantined_wall_s = found->quarantined_wall_s,
	    .fetched_ms = clock_now_ms() };
	memcpy(r->message.hash, found->hash, sizeof(found->hash));
	sink_deliver(r->sink, &r->message, on_answer, r);
}

void fleet_quarantine_retry(struct fleet *f, const char *key, retry_cb *done, void *arg)
{
	struct retry *r = xcalloc(1, sizeof(*r));
	static unsigned long long names;	/* of this run */

	r->fleet = f;
	r->key = xstrdup(key);
	r->path = xasprintf("%s/spool/mailpolld.%s.retry.%llx", f->config->state_dir, f->run, ++names);
	r->volume = f->state_volume;
	r->done = done;
	r->arg = arg;
	quarantine_take(f->look_lane, f->config->state_dir, key, r->path, on_taken_down, r);
}
