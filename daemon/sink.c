#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "log.h"
#include "quarantine.h"
#include "counters.h"
#include "sink.h"
#include "sink_command.h"
#include "sink_maildir.h"
#include "util.h"

#define REFUSALS_IN_A_ROW_MAX 5

struct sink {
	struct sinks *sinks;
	struct sink_conf *conf;		/* owned */
	const struct sink_driver *driver;
	void *self;			/* the driver's */
	unsigned users;
	bool doubtful;
	struct sink_counts counts;
	unsigned n_stuck;
	struct failure *stuck;		/* the last one's; NULL: none is */
};
struct sinks {
	struct sink_env env;
	char *state_dir;		/* env's: it outlives the configuration that named it */
	struct sink **v;
	size_t n;
};
struct passage {			/* one message's way through a sink */
	struct sink *sink;
	sink_answer_cb *cb;
	void *arg;
	struct message *message;
	struct failure why;
	msec_t begun_ms;
	bool stuck;
};

static const struct sink_driver *const drivers[] = {
	[SINK_MAILDIR] = &sink_maildir_driver,
	[SINK_COMMAND] = &sink_command_driver,
};

struct sinks *sinks_new(const struct sink_env *env)
{
	struct sinks *s = xcalloc(1, sizeof(*s));

	s->env = *env;
	s->env.state_dir = s->state_dir = xstrdup(env->state_dir);
	s->env.prepares = sink_maildir_prepares_new();
	return s;
}

static void sink_free(struct sink *sink)
{
	sink->driver->close(sink->self);
	failure_drop(&sink->stuck);
	sink_conf_free(&sink->conf);
	free(sink);
}

void sinks_recover(struct sinks *s, void (*done)(void *arg), void *arg)
{
	sink_maildir_recover(&s->env, done, arg);
}

void sinks_recovery_is_late(struct sinks *s)
{
	sink_maildir_recovery_is_late(&s->env);
}

void sinks_free(struct sinks **sinks)
{
	struct sinks *s = *sinks;

	for (size_t i = 0; s != NULL && i < s->n; i++)
		sink_free(s->v[i]);
	if (s != NULL) {
		sink_maildir_prepares_free(&s->env.prepares);
		sink_maildir_recovery_free(&s->env);
		free(s->state_dir);
		free(s->v);
	}
	free(s);
	*sinks = NULL;
}

struct sink *sink_get(struct sinks *sinks, const struct sink_conf *conf)
{
	struct sink *sink;

	for (size_t i = 0; i < sinks->n; i++) {
		if (sink_conf_equal(sinks->v[i]->conf, conf)) {
			sinks->v[i]->users++;
			return sinks->v[i];
		}
	}
	sink = xcalloc(1, sizeof(*sink));
	sink->sinks = sinks;
	sink->conf = sink_conf_dup(conf);
	sink->driver = drivers[conf->kind];
	sink->self = sink->driver->open(&sinks->env, sink->conf);
	sink->users = 1;
	sinks->v = xreallocarray(sinks->v, sinks->n + 1, sizeof(sink));
	sinks->v[sinks->n++] = sink;
	return sink;
}

void sink_release(struct sink *sink)
{
	struct sinks *s = sink->sinks;

	if (--sink->users > 0)
		return;
	for (size_t i = 0; i < s->n; i++) {
		if (s->v[i] == sink) {
			s->v[i] = s->v[--s->n];
			break;
		}
	}
	sink_free(sink);
}

const struct sink_conf *sink_conf(const struct sink *sink)
{
	return sink->conf;
}

bool sink_many_at_once(const struct sink *sink)
{
	return sink->driver->many_at_once;
}

bool sink_keeps_file(const struct sink *sink)
{
	return sink->driver->keeps_file;
}

bool sink_is_doubtful(const struct sink *sink)
{
	return sink->doubtful && !sink->driver->keeps_file;
}

void sink_prepare(struct sink *sink, const struct mailbox_conf *mailbox, const char *folder, sink_place_cb *cb, void *arg)
{
	sink->driver->prepare(sink->self, mailbox, folder, cb, arg);
}

static void answer(struct passage *p, enum sink_answer what)
{
	struct sink *sink = p->sink;

	sink->counts.in_hand--;
	sink->doubtful = what == SINK_AGAIN || what == SINK_FETCH_AGAIN;
	histogram_note(&sink->sinks->env.counters->sink_duration, (double)(clock_now_ms() - p->begun_ms) / 1000);
	if (what == SINK_AGAIN || what == SINK_FETCH_AGAIN || sink->counts.failing)	/* a refused message is not the sink's failure */
		sink->counts.failure = p->why;
	p->cb(p->arg, p->message, what, what == SINK_TAKEN ? NULL : &p->why);
	free(p);
}

/* What one that is stuck tells stays as long as that. */
static void note_works(struct sink *sink)
{
	if (sink->stuck != NULL)
		sink->counts.failure = *sink->stuck;
	else
		sink->counts.failure.fail = FAIL_NONE;
}

/* Others may take their turns beside it, until as many are stuck as there are turns. */
static void note_stuck(struct passage *p)
{
	struct sink *sink = p->sink;
	struct log_context ctx = { .mailbox = p->message->mailbox->address, .folder = p->message->folder, .sink = sink->conf->name };
	struct log_field fields[] = { { "FAILURE", p->why.name }, { "HINT", p->why.hint } };

	p->stuck = sink->doubtful = true;
	failure_keep(&sink->stuck, &p->why);
	sink->counts.failure = p->why;
	if (sink->n_stuck++ == 0)
		log_write(LOG_LEVEL_ERROR, EVENT_SINK_FAILING, &ctx, fields, ARRAY_LEN(fields), "%s; %s", p->why.text, p->why.hint);
}

static void note_not_stuck(struct passage *p)
{
	struct sink *sink = p->sink;
	struct log_context ctx = { .mailbox = p->message->mailbox->address, .folder = p->message->folder, .sink = sink->conf->name };

	if (!p->stuck || --sink->n_stuck > 0)
		return;
	failure_drop(&sink->stuck);
	note_works(sink);
	log_info(&ctx, "what could not be ended has ended");
}

/* It has refused a message, and that is done with: a sink that says no works, unless it says nothing else. */
static void answer_quarantined(struct passage *p)
{
	if (!p->sink->counts.failing)
		note_works(p->sink);
	answer(p, SINK_QUARANTINED);
}

static void on_quarantined(void *arg, int error)
{
	struct passage *p = arg;
	struct sink_counts *counts = &p->sink->counts;
	const struct message *m = p->message;
	struct log_context ctx = { .mailbox = m->mailbox->address, .folder = m->folder, .sink = p->sink->conf->name };
	struct log_field fields[] = { { "KEY", m->key }, { "REASON", p->why.text } };

	if (error == QUARANTINE_FILE_LOST && m->quarantined_wall_s == 0) {
		failure_set(&p->why, FAIL_WAIT, SCHEDULE_SINK, "disk", "Look at the disk that state_dir is on.", "cannot flush %s", m->path);
		spool_remove(m->volume, m->path);
		counts->temporary++;
		p->sink->sinks->env.counters->temporary++;
		answer(p, SINK_FETCH_AGAIN);
		return;
	}
	if (error != 0) {
		failure_set(&p->why, FAIL_WAIT, SCHEDULE_SINK, "quarantine", "Make the quarantine directory in state_dir writable.",
		    "cannot quarantine: %s", error > 0 ? strerror(error) : "the file cannot be flushed");
		answer(p, SINK_AGAIN);
		return;
	}
	if (m->quarantined_wall_s != 0) {	/* on an operator's word: nothing new has come */
		log_write(LOG_LEVEL_WARNING, EVENT_QUARANTINED, &ctx, fields, ARRAY_LEN(fields), "message UID %u refused once more, it stays in quarantine: %s",
		    m->uid, p->why.text);
		answer_quarantined(p);
		return;
	}
	counts->refused++;
	p->sink->sinks->env.counters->refused++;
	if (++counts->refused_in_a_row >= REFUSALS_IN_A_ROW_MAX && !counts->failing) {
		counts->failing = true;
		log_write(LOG_LEVEL_ERROR, EVENT_SINK_FAILING, &ctx, NULL, 0, "sink refused %d messages in a row: nothing more is quarantined until it takes one",
		    REFUSALS_IN_A_ROW_MAX);
	}
	log_write(LOG_LEVEL_WARNING, EVENT_QUARANTINED, &ctx, fields, ARRAY_LEN(fields), "message UID %u refused and quarantined: %s",
	    m->uid, p->why.text);
	answer_quarantined(p);
}

static void on_outcome(void *arg, struct message *m, enum sink_outcome outcome, const struct failure *why)
{
	struct passage *p = arg;
	struct sink_counts *counts = &p->sink->counts;
	struct counters *counters = p->sink->sinks->env.counters;

	if (why != NULL)
		p->why = *why;
	if (outcome != SINK_STUCK)
		note_not_stuck(p);
	switch (outcome) {
	case SINK_DELIVERED:
		counts->delivered++;
		counters->delivered++;
		counts->refused_in_a_row = 0;
		counts->failing = false;
		note_works(p->sink);
		answer(p, SINK_TAKEN);
		return;
	case SINK_REFUSED:
		if (!counts->failing) {
			quarantine_add(&p->sink->sinks->env, m, p->sink->conf->name, p->why.text, on_quarantined, p);
			return;
		}
		FALLTHROUGH;		/* who refuses everything is broken, not the messages */
	case SINK_TEMPORARY:
		counts->temporary++;
		counters->temporary++;
		answer(p, SINK_AGAIN);
		return;
	case SINK_LOST:
		counts->temporary++;
		counters->temporary++;
		answer(p, SINK_FETCH_AGAIN);
		return;
	case SINK_STUCK:
		note_stuck(p);
		return;
	}
}

void sink_deliver(struct sink *sink, struct message *m, sink_answer_cb *cb, void *arg)
{
	struct passage *p = xcalloc(1, sizeof(*p));

	*p = (struct passage){ .sink = sink, .cb = cb, .arg = arg, .message = m, .begun_ms = clock_now_ms() };
	sink->counts.in_hand++;
	m->attempts++;
	sink->driver->deliver(sink->self, m, on_outcome, p);
}

void sinks_hurry(struct sinks *sinks)
{
	for (size_t i = 0; i < sinks->n; i++)
		if (sinks->v[i]->driver->hurry != NULL)
			sinks->v[i]->driver->hurry(sinks->v[i]->self);
}

size_t sinks_count(const struct sinks *sinks)
{
	return sinks->n;
}

const struct sink *sinks_at(const struct sinks *sinks, size_t i)
{
	return sinks->v[i];
}

const struct sink_counts *sink_counts(const struct sink *sink)
{
	return &sink->counts;
}

unsigned sink_waiting(const struct sink *sink)
{
	return sink->driver->waiting != NULL ? sink->driver->waiting(sink->self) : 0;
}
