/* The queue: one transaction runs, what is submitted meanwhile shares the next, and what may wait begins none by itself for a while:
 * a message's settlement shares the next message's intent. The SQL is in store_db.c. */
#include <event2/event.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backoff.h"
#include "log.h"
#include "repeats.h"
#include "store_private.h"
#include "util.h"
#include "workers.h"

#define QUIET_MS 50			/* without a commit: time for a checkpoint */
#define COMPANY_MS 50			/* for what may wait */
#define COMPANY_OPS 8			/* ... which is company enough */

struct ops { struct op *first, **end; };

struct store {
	struct lane *lane, *backup_lane;
	char *state_dir;
	struct db *db;			/* the lane's while a job runs */
	struct ops waiting;
	size_t n_may_wait;		/* of these */
	bool due;			/* one of these does not wait any longer */
	struct commit_job *job;		/* NULL: none runs */
	struct event *retry, *quiet, *company;
	bool retry_waits;
	unsigned attempts;
	struct failure failure;		/* FAIL_NONE: commits succeed */
	struct repeats failing;		/* what has been logged of it */
	int64_t last_commit_wall_s;
	uint64_t commits;
	char **paused; size_t n_paused;	/* ids */
};

struct commit_job {
	struct job job;
	struct store *store;
	struct db *db;
	struct ops ops;
	int code;			/* SQLite's; 0: done */
	char error[200];
	atomic_bool started, finished;
};

static void ops_init(struct ops *ops)
{
	ops->first = NULL;
	ops->end = &ops->first;
}

static void ops_append(struct ops *to, struct ops *from)
{
	if (from->first == NULL)
		return;
	*to->end = from->first;
	to->end = from->end;
	ops_init(from);
}

static void op_free(struct op *op)
{
	free(op->id);
	free(op->name);
	free(op->sink);
	free(op->maildir);
	free(op->tmp_name);
	free(op->new_name);
	free(op->place);
	free(op->owed.why);
	ranges_done(&op->ranges);
	ranges_done(&op->after);
	store_folder_done(&op->answer);
	store_known_done(&op->known);
	free(op);
}

static void ops_free(struct ops *ops)
{
	struct op *op;

	while ((op = ops->first) != NULL) {
		ops->first = op->next;
		op_free(op);
	}
	ops_init(ops);
}

void store_folder_done(struct store_folder *f)
{
	ranges_done(&f->settled);
	ranges_done(&f->after_owed);
	for (size_t i = 0; i < f->n_owed; i++)
		free(f->owed[i].why);
	free(f->owed);
	*f = (struct store_folder){ 0 };
}

/* --- transactions --- */

static void commit_next(struct store *s);

static struct commit_job *job_new(struct store *s, void (*work)(struct job *), void (*done)(struct job *))
{
	struct commit_job *c = xcalloc(1, sizeof(*c));

	c->job.work = work;
	c->job.done = done;
	c->store = s;
	c->db = s->db;
	ops_init(&c->ops);
	return c;
}

static void run(struct store *s, struct commit_job *c)
{
	s->job = c;
	lane_submit(s->lane, &c->job);
}

static void work_checkpoint(struct job *job)
{
	struct commit_job *c = (struct commit_job *)job;

	atomic_store(&c->started, true);
	db_checkpoint(c->db);
	atomic_store(&c->finished, true);
}

static void done_checkpoint(struct job *job)
{
	struct commit_job *c = (struct commit_job *)job;

	c->store->job = NULL;
	commit_next(c->store);
	free(c);
}

static void on_quiet(evutil_socket_t fd, short what, void *arg)
{
	struct store *s = arg;

	(void)fd, (void)what;
	if (s->job == NULL)
		run(s, job_new(s, work_checkpoint, done_checkpoint));
}

/* A checkpoint takes as long as several commits, and a delivery makes two that follow each other closely. */
static void await_quiet(struct store *s)
{
	struct timeval tv = clock_interval(QUIET_MS);

	if (s->job == NULL && db_wants_checkpoint(s->db))
		event_add(s->quiet, &tv);
}

static void work_commit(struct job *job)
{
	struct commit_job *c = (struct commit_job *)job;

	atomic_store(&c->started, true);
	c->code = db_apply(c->db, c->ops.first, c->error, sizeof(c->error));
	atomic_store(&c->finished, true);
}

/* It is tried again, whatever it is; not all of it goes away by that. */
static const char *hint_of(int code)
{
	switch (code) {
	case SQLITE_FULL:
		return "Make room on the file system of state_dir; mailpolld goes on by itself.";
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return "End the program that has the state open; mailpolld goes on by itself.";
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return "The state is damaged, which does not mend itself: stop mailpolld, put back a copy of state.db without its -wal and -shm (mailpollctl "
		    "backup makes one), or move all three away to begin anew, and start it.";
	default:
		return "Mend the file system of state_dir, or make it writable again: the kernel's log may tell what is wrong. mailpolld goes on by itself, "
		    "unless it was mounted anew, or files were replaced: then restart mailpolld.";
	}
}

static void on_refused(struct store *s, struct commit_job *c)
{
	msec_t wait_ms = backoff_wait_ms(SCHEDULE_SINK, ++s->attempts, 0, (uint32_t)clock_random(UINT32_MAX));
	struct timeval tv = clock_interval(wait_ms < 30000 ? wait_ms : 30000);
	unsigned untold;
	char repeated[16];

	failure_set(&s->failure, FAIL_WAIT, SCHEDULE_SINK, "store", hint_of(c->code), "cannot write the state in %s: %s", s->state_dir, c->error);
	if (repeats_tell(&s->failing, s->failure.name, &untold))
		log_write(LOG_LEVEL_ERROR, EVENT_STORE_FAILED, NULL, (struct log_field[]){ { "FAILURE", s->failure.name }, { "HINT", s->failure.hint },
		    { "REPEATED", repeats_text(untold, repeated, sizeof(repeated)) } }, 3, "%s; %s", s->failure.text, s->failure.hint);
	ops_append(&c->ops, &s->waiting);	/* the order stays */
	ops_append(&s->waiting, &c->ops);
	s->due = true;
	s->retry_waits = true;
	event_add(s->retry, &tv);
}

static void on_committed(struct store *s, struct ops *done)
{
	struct op *op;

	if (repeats_over(&s->failing))
		log_write(LOG_LEVEL_WARNING, EVENT_STORE_RECOVERED, NULL, NULL, 0, "the state in %s can be written again", s->state_dir);
	s->failure = (struct failure){ .fail = FAIL_NONE };
	s->attempts = 0;
	s->commits++;
	s->last_commit_wall_s = clock_wall_s();
	while ((op = done->first) != NULL) {
		done->first = op->next;
		if (op->folder_cb != NULL) {
			op->folder_cb(op->arg, STORE_OK, &op->answer);
			op->answer = (struct store_folder){ 0 };	/* the callback's now */
		} else if (op->count_cb != NULL) {
			op->count_cb(op->arg, op->n);
		} else if (op->known_cb != NULL) {
			op->known_cb(op->arg, STORE_OK, &op->known);
			op->known = (struct store_known){ 0 };
		} else if (op->cb != NULL) {
			op->cb(op->arg, STORE_OK);
		}
		op_free(op);
	}
}

static void done_commit(struct job *job)
{
	struct commit_job *c = (struct commit_job *)job;
	struct store *s = c->store;

	s->job = NULL;
	if (c->code != 0) {
		on_refused(s, c);
	} else {
		commit_next(s);		/* what waits need not wait for the callbacks */
		await_quiet(s);
		on_committed(s, &c->ops);
	}
	free(c);
}

static void commit_next(struct store *s)
{
	struct commit_job *c;

	if (s->job != NULL || s->retry_waits || !s->due)
		return;
	event_del(s->company);
	s->due = false;
	s->n_may_wait = 0;
	c = job_new(s, work_commit, done_commit);
	ops_append(&c->ops, &s->waiting);
	run(s, c);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct store *s = arg;

	(void)fd, (void)what;
	s->retry_waits = false;
	commit_next(s);
}

static void on_company(evutil_socket_t fd, short what, void *arg)
{
	struct store *s = arg;

	(void)fd, (void)what;
	s->due = true;
	commit_next(s);
}

/* --- life --- */

struct store *store_open(struct event_base *base, struct workers *workers, const char *state_dir, char *ret_error, size_t size)
{
	struct db *db = db_open(state_dir, ret_error, size);
	struct store *s;

	if (db == NULL)
		return NULL;
	s = xcalloc(1, sizeof(*s));
	s->db = db;
	s->state_dir = xstrdup(state_dir);
	s->paused = db_paused(db, &s->n_paused);
	s->lane = lane_new(workers, "store", LANE_DISK, 1);
	s->backup_lane = lane_new(workers, "backup", LANE_REMOTE, 1);
	s->retry = evtimer_new(base, on_retry, s);
	s->quiet = evtimer_new(base, on_quiet, s);
	s->company = evtimer_new(base, on_company, s);
	ops_init(&s->waiting);
	return s;
}

void store_close(struct store **store)
{
	struct store *s = *store;
	struct commit_job *c;

	if (s == NULL)
		return;
	*store = NULL;
	event_free(s->retry);
	event_free(s->quiet);
	event_free(s->company);
	ops_free(&s->waiting);
	for (size_t i = 0; i < s->n_paused; i++)
		free(s->paused[i]);
	free(s->paused);
	c = s->job;
	if (c != NULL && atomic_load(&c->started) && !atomic_load(&c->finished))
		return;			/* stuck on its disk, and still using all this */
	/* one that is not stuck belongs to workers, who have given it up */
	db_close(&s->db);
	free(s->state_dir);
	free(s);
}

const char *store_instance(const struct store *s)
{
	return db_instance(s->db);
}

const struct store_found_intent *store_found_intents(const struct store *s, size_t *ret_n)
{
	return db_found_intents(s->db, ret_n);
}

const struct failure *store_failure(const struct store *s)
{
	return s->failure.fail != FAIL_NONE ? &s->failure : NULL;
}

int64_t store_last_commit_wall_s(const struct store *s)
{
	return s->last_commit_wall_s;
}

uint64_t store_commits(const struct store *s)
{
	return s->commits;
}

/* --- what can be asked --- */

static struct op *op_new(enum op_kind kind, folder_ref folder, store_cb *cb, void *arg)
{
	struct op *op = xcalloc(1, sizeof(*op));

	op->kind = kind;
	op->folder = folder;
	op->cb = cb;
	op->arg = arg;
	return op;
}

static void submit(struct store *s, struct op *op)
{
	*s->waiting.end = op;
	s->waiting.end = &op->next;
	s->due = true;
	commit_next(s);
}

static void submit_with_others(struct store *s, struct op *op)
{
	struct timeval tv = clock_interval(COMPANY_MS);

	if (++s->n_may_wait >= COMPANY_OPS) {
		submit(s, op);
		return;
	}
	*s->waiting.end = op;
	s->waiting.end = &op->next;
	if (!event_pending(s->company, EV_TIMEOUT, NULL))
		event_add(s->company, &tv);
}

static struct op *folder_op(enum op_kind kind, const char *id, const char *folder, store_folder_cb *cb, void *arg)
{
	struct op *op = op_new(kind, 0, NULL, arg);

	op->id = xstrdup(id);
	op->name = xstrdup(folder);
	op->folder_cb = cb;
	return op;
}

void store_load(struct store *s, const char *id, const char *folder, store_folder_cb *cb, void *arg)
{
	submit(s, folder_op(OP_LOAD, id, folder, cb, arg));
}

void store_begin(struct store *s, const char *id, const char *folder, uint32_t uidvalidity, const struct ranges *settled,
    const struct ranges *after_owed, store_folder_cb *cb, void *arg)
{
	struct op *op = folder_op(OP_BEGIN, id, folder, cb, arg);

	op->uidvalidity = uidvalidity;
	ranges_copy(&op->ranges, settled);
	if (after_owed != NULL)
		ranges_copy(&op->after, after_owed);
	submit_with_others(s, op);	/* there are thousands when a fleet starts for the first time */
}

static void change_resync(struct store *s, enum op_kind kind, const char *id, const char *folder, const struct store_day *since, store_cb *cb, void *arg)
{
	struct op *op = folder_op(kind, id, folder, NULL, arg);

	op->cb = cb;
	op->day = *since;
	submit(s, op);
}

void store_want_resync(struct store *s, const char *id, const char *folder, const struct store_day *since, store_cb *cb, void *arg)
{
	change_resync(s, OP_WANT_RESYNC, id, folder, since, cb, arg);
}

void store_drop_resync(struct store *s, const char *id, const char *folder, const struct store_day *since)
{
	change_resync(s, OP_DROP_RESYNC, id, folder, since, NULL, NULL);
}

void store_unsettle(struct store *s, const char *id, const char *folder, const struct ranges *uids, const struct store_day *resynced,
    store_folder_cb *cb, void *arg)
{
	struct op *op = folder_op(OP_UNSETTLE, id, folder, cb, arg);

	op->day = *resynced;
	ranges_copy(&op->ranges, uids);
	submit(s, op);
}

void store_read_known(struct store *s, folder_ref folder, store_known_cb *cb, void *arg)
{
	struct op *op = op_new(OP_READ_KNOWN, folder, NULL, arg);

	op->known_cb = cb;
	submit(s, op);
}

static int compare_hashes(const void *a, const void *b)
{
	return memcmp(a, b, STORE_HASH_BYTES);
}

bool store_known_has(const struct store_known *known, const uint8_t hash[static STORE_HASH_BYTES])
{
	return known->n > 0 && bsearch(hash, known->hashes, known->n, STORE_HASH_BYTES, compare_hashes) != NULL;
}

void store_known_done(struct store_known *known)
{
	free(known->hashes);
	*known = (struct store_known){ 0 };
}

void store_add_intent(struct store *s, const struct store_intent *i, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_ADD_INTENT, i->folder, cb, arg);

	op->uid = i->uid;
	op->sink = xstrdup(i->sink);
	op->maildir = xstrdup(i->maildir);
	op->tmp_name = xstrdup(i->tmp_name);
	op->new_name = xstrdup(i->new_name);
	op->place = xstrdup(i->place);
	op->settle_from = i->settle_from;
	memcpy(op->hash, i->hash, sizeof(op->hash));
	op->internaldate_s = i->internaldate_s;
	op->after_owed = i->after_owed;
	submit(s, op);
}

void store_drop_intent(struct store *s, folder_ref folder, uint32_t uid, const char *sink, const char *tmp_name, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_DROP_INTENT, folder, cb, arg);

	op->uid = uid;
	op->sink = xstrdup(sink);
	op->tmp_name = xstrdup(tmp_name);
	submit(s, op);
}

void store_settle(struct store *s, const struct store_settlement *what, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_SETTLE, what->folder, cb, arg);

	op->uid = what->uid;
	op->settle_from = what->settle_from;
	op->sink = xstrdup(what->sink);
	if (what->found_tmp_name != NULL)
		op->tmp_name = xstrdup(what->found_tmp_name);
	memcpy(op->hash, what->hash, sizeof(op->hash));
	op->internaldate_s = what->internaldate_s;
	op->delivered = what->delivered;
	op->after_owed = what->after_owed;
	(what->may_wait ? submit_with_others : submit)(s, op);
}

void store_owe(struct store *s, folder_ref folder, const struct store_owed *owed, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_OWE, folder, cb, arg);

	op->owed = *owed;
	op->owed.why = xstrdup(owed->why);
	submit(s, op);
}

void store_after_done(struct store *s, folder_ref folder, const struct ranges *uids, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_AFTER_DONE, folder, cb, arg);

	ranges_copy(&op->ranges, uids);
	submit(s, op);
}

void store_complete(struct store *s, folder_ref folder, store_cb *cb, void *arg)
{
	submit_with_others(s, op_new(OP_COMPLETE, folder, cb, arg));
}

/* --- mailboxes as a whole --- */

bool store_is_paused(const struct store *s, const char *id)
{
	for (size_t i = 0; i < s->n_paused; i++)
		if (strcmp(s->paused[i], id) == 0)
			return true;
	return false;
}

static void set_paused(struct store *s, const char *id, bool paused)
{
	if (paused == store_is_paused(s, id))
		return;
	if (paused) {
		s->paused = xreallocarray(s->paused, s->n_paused + 1, sizeof(*s->paused));
		s->paused[s->n_paused++] = xstrdup(id);
		return;
	}
	for (size_t i = 0; i < s->n_paused; i++) {
		if (strcmp(s->paused[i], id) == 0) {
			free(s->paused[i]);
			s->paused[i] = s->paused[--s->n_paused];
			return;
		}
	}
}

void store_set_paused(struct store *s, const char *id, bool paused, store_cb *cb, void *arg)
{
	struct op *op = op_new(OP_PAUSE, 0, cb, arg);

	op->id = xstrdup(id);
	op->paused = paused;
	set_paused(s, id, paused);
	submit(s, op);
}

void store_forget(struct store *s, const char *id, store_count_cb *cb, void *arg)
{
	struct op *op = op_new(OP_FORGET, 0, NULL, arg);

	op->id = xstrdup(id);
	op->count_cb = cb;
	set_paused(s, id, false);
	submit(s, op);
}

struct backup_job {
	struct job job;
	char *state_dir, *path, error[200];
	int result;
	store_backup_cb *cb;
	void *arg;
};

static void work_backup(struct job *job)
{
	struct backup_job *b = (struct backup_job *)job;

	b->result = db_backup(b->state_dir, b->path, b->error, sizeof(b->error));
}

static void done_backup(struct job *job)
{
	struct backup_job *b = (struct backup_job *)job;

	b->cb(b->arg, b->result < 0 ? b->error : NULL);
	free(b->state_dir);
	free(b->path);
	free(b);
}

/* Where it goes may be slow: it has a lane that nobody watches, and the writer goes on. */
void store_backup(struct store *s, const char *path, store_backup_cb *cb, void *arg)
{
	struct backup_job *b = xcalloc(1, sizeof(*b));

	*b = (struct backup_job){ .job = { .work = work_backup, .done = done_backup }, .state_dir = xstrdup(s->state_dir), .path = xstrdup(path), .cb = cb, .arg = arg };
	lane_submit(s->backup_lane, &b->job);
}
