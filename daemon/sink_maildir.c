#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "config.h"
#include "log.h"
#include "sink_maildir.h"
#include "store.h"
#include "util.h"
#include "volume.h"
#include "workers.h"

/* Which disk a path leads to is not known before that disk has answered. What lies side by side is taken for one disk; what lies in one
 * directory a step further up, or is of one sink, for a few. */
#define BESIDE_MAX 3
#define NEAR_MAX 24			/* several times that, and less than half of the lane's threads (fleet.c) */

struct sink_maildir {
	const struct sink_env *env;
	const struct sink_conf *conf;	/* lent */
	size_t n_running;		/* of its Maildirs that are being made ready */
};

static void *maildir_open(const struct sink_env *env, const struct sink_conf *conf)
{
	struct sink_maildir *s = xcalloc(1, sizeof(*s));

	s->env = env;
	s->conf = conf;
	return s;
}

/* --- intents of the last run --- */

struct sink_recovery {
	const struct store_found_intent *found;	/* the store's; it does not change while we run */
	size_t n_found;
	_Atomic int *fates;		/* enum fate; of two that look at once into the same, the first one's word stays */
	atomic_bool late;		/* mailboxes have started: each Maildir's own look knows whether it was just made, this one does not,
				 * and says no more than that something is to be fetched again */
};
enum fate {
	FATE_UNKNOWN, FATE_UNKNOWN_ELSEWHERE /* and the Maildir of then was not there: what is missing in it proves nothing */,
	FATE_DELIVERED, FATE_FETCH_AGAIN, FATE_SETTLED,
};

/* A reader has renamed it to cur/NAME:2,FLAGS. */
static bool stands_in_cur(const char *maildir, const char *name)
{
	char *path = xasprintf("%s/cur", maildir);
	DIR *dir = opendir(path);
	struct dirent *entry;
	size_t len = strlen(name);
	bool found = false;

	free(path);
	while (dir != NULL && !found && (entry = readdir(dir)) != NULL)
		found = strncmp(entry->d_name, name, len) == 0 && (entry->d_name[len] == '\0' || entry->d_name[len] == ':');
	if (dir != NULL)
		closedir(dir);
	return found;
}

struct place_name { char text[40]; };

/* What tells a tmp/ from another one of that name, as long as the machine runs. */
static struct place_name name_place(dev_t dev, ino_t inode)
{
	struct place_name name;

	snprintf(name.text, sizeof(name.text), "%llx.%llx", (unsigned long long)dev, (unsigned long long)inode);
	return name;
}

/* Somebody has put another Maildir in its place. */
static bool is_another_place(const struct store_found_intent *i)
{
	char *tmp = xasprintf("%s/tmp", i->maildir);
	struct stat st;
	bool another = i->place[0] != '\0' && stat(tmp, &st) == 0 && strcmp(name_place(st.st_dev, st.st_ino).text, i->place) != 0;

	free(tmp);
	return another;
}

/* elsewhere: a name's absence from tmp/ proves nothing, the file system is another one than then, perhaps. */
static enum fate resolve(const struct store_found_intent *i, const char *new, bool elsewhere)
{
	char *tmp = xasprintf("%s/tmp/%s", i->maildir, i->tmp_name), *path = xasprintf("%s/%s", new, i->new_name);
	enum fate fate;

	if (access(new, W_OK | X_OK) < 0)	/* not mounted, perhaps: nothing can be told */
		fate = elsewhere || errno == ENOENT ? FATE_UNKNOWN_ELSEWHERE : FATE_UNKNOWN;
	else if (rename(tmp, path) == 0)		/* its content was flushed before the intent was written */
		fate = FATE_DELIVERED;
	else if (errno != ENOENT)	/* of tmp/NAME, since new/ is there */
		fate = elsewhere ? FATE_UNKNOWN_ELSEWHERE : FATE_UNKNOWN;
	else if (i->this_boot && !elsewhere && !is_another_place(i))
		fate = FATE_DELIVERED;
	else if (access(path, F_OK) == 0 || stands_in_cur(i->maildir, i->new_name))
		fate = FATE_DELIVERED;
	else
		fate = FATE_FETCH_AGAIN;
	free(tmp);
	free(path);
	return fate;
}

static bool is_unknown(int fate)
{
	return fate == FATE_UNKNOWN || fate == FATE_UNKNOWN_ELSEWHERE;
}

/* What a flush could not bring to the disk is fetched again: another flush would say nothing of it. Its file stays until the new one is
 * renamed over it: one that is gone counts as delivered, as long as there is the intent. */
static enum fate fate_after_flush(int error)
{
	if (error == 0)			/* the last run may not have come to that */
		return FATE_DELIVERED;
	if (error != EIO && error != ENOSPC && error != EDQUOT)		/* it was not tried */
		return FATE_UNKNOWN;
	return FATE_FETCH_AGAIN;
}

/* The n intents from the first on, all of one Maildir, with one flush. False: something stays unknown. */
static bool recover_some(struct sink_recovery *r, size_t first, size_t n, bool just_made, bool unless_late)
{
	const struct store_found_intent *found = &r->found[first];
	_Atomic int *fates = &r->fates[first];
	char *new = xasprintf("%s/new", found[0].maildir);
	int *was = xcalloc(n, sizeof(*was)), *now = xcalloc(n, sizeof(*now)), error = 0;
	bool all = true, moved = false;

	for (size_t i = 0; i < n; i++) {
		was[i] = now[i] = fates[i];
		if (is_unknown(was[i]))
			now[i] = (int)resolve(&found[i], new, just_made || was[i] == FATE_UNKNOWN_ELSEWHERE);
		moved = moved || (is_unknown(was[i]) && now[i] == FATE_DELIVERED);
	}
	if (moved)
		error = flush_directory(new);
	for (size_t i = 0; i < n; i++) {
		if (is_unknown(was[i]) && now[i] == FATE_DELIVERED)
			now[i] = (int)fate_after_flush(error);
		if (unless_late && r->late && now[i] != FATE_FETCH_AGAIN)	/* that one stands: the next look would find nothing wrong */
			continue;
		if (!atomic_compare_exchange_strong(&fates[i], &was[i], now[i]))
			now[i] = was[i];	/* somebody else's word */
		all = all && !is_unknown(now[i]);
	}
	free(was);
	free(now);
	free(new);
	return all;
}

/* Looks into what is not settled yet of one Maildir (NULL: of all). Off the loop; false: something stays unknown. */
static bool recover_maildir(struct sink_recovery *r, const char *maildir, bool just_made)
{
	bool all = true;

	for (size_t i = 0, n; r != NULL && i < r->n_found && !(maildir == NULL && r->late); i += n) {
		const struct store_found_intent *found = &r->found[i];

		for (n = 1; i + n < r->n_found && strcmp(found[n].maildir, found->maildir) == 0; n++)
			;
		if (maildir == NULL || strcmp(maildir, found->maildir) == 0)
			all = recover_some(r, i, n, just_made, maildir == NULL) && all;
	}
	return all;
}

/* Tells the store what was found, on the loop. Its order keeps: a later store_load() sees it. */
static void settle_recovered(const struct sink_env *env, const char *maildir)
{
	struct sink_recovery *r = env->recovery;

	for (size_t i = 0; r != NULL && i < r->n_found; i++) {
		const struct store_found_intent *f = &r->found[i];
		struct store_settlement s = { .folder = f->folder, .uid = f->uid, .settle_from = f->settle_from, .sink = f->sink,
		    .found_tmp_name = f->tmp_name, .delivered = true, .after_owed = f->after_owed, .internaldate_s = f->internaldate_s };

		if (maildir != NULL && strcmp(maildir, f->maildir) != 0)
			continue;
		memcpy(s.hash, f->hash, sizeof(s.hash));
		if (r->fates[i] == FATE_DELIVERED)
			store_settle(env->store, &s, NULL, NULL);
		else if (r->fates[i] == FATE_FETCH_AGAIN)
			store_drop_intent(env->store, f->folder, f->uid, f->sink, f->tmp_name, NULL, NULL);
		if (!is_unknown(r->fates[i]))
			r->fates[i] = FATE_SETTLED;
	}
}

struct recover_job {
	struct job job;
	struct sink_env *env;
	void (*done)(void *arg);
	void *arg;
};

static void work_recover(struct job *job)
{
	recover_maildir(((struct recover_job *)job)->env->recovery, NULL, false);
}

static void done_recover(struct job *job)
{
	struct recover_job *r = (struct recover_job *)job;

	settle_recovered(r->env, NULL);
	if (r->env->recovery->n_found > 0)
		log_info(NULL, "looked into %zu deliveries that the last run had under way", r->env->recovery->n_found);
	r->done(r->arg);
	free(r);
}

void sink_maildir_recover(struct sink_env *env, void (*done)(void *arg), void *arg)
{
	struct recover_job *r = xcalloc(1, sizeof(*r));

	env->recovery = xcalloc(1, sizeof(*env->recovery));
	env->recovery->found = store_found_intents(env->store, &env->recovery->n_found);
	env->recovery->fates = xcalloc(env->recovery->n_found, sizeof(*env->recovery->fates));
	r->job.work = work_recover;
	r->job.done = done_recover;
	r->env = env;
	r->done = done;
	r->arg = arg;
	lane_submit(env->maildir_lane, &r->job);
}

void sink_maildir_recovery_is_late(struct sink_env *env)
{
	env->recovery->late = true;
}

void sink_maildir_recovery_free(struct sink_env *env)
{
	if (env->recovery != NULL)
		free(env->recovery->fates);
	free(env->recovery);
	env->recovery = NULL;
}

/* --- the directories, on a lane --- */

TAILQ_HEAD(prepares, prepare_job);
struct sink_prepares {
	struct prepares waiting, running;
};

struct prepare_job {
	struct job job;
	TAILQ_ENTRY(prepare_job) link;
	struct sink_maildir *sink;	/* for done(), and its env's recovery */
	sink_place_cb *cb;
	void *arg;
	char *maildir;
	size_t beside_len, near_len;	/* of its name: up to the directory that it lies in, and to the one above that */
	char ours[32], this_run[48];	/* prefixes of temporary names */
	mode_t file_mode, dir_mode;
	gid_t gid;
	int error;
	const char *what;		/* that failed; static */
	dev_t dev;
	ino_t inode;
	uint64_t free_bytes;
};

/* After something was made: its name survives a power loss, and the names beside it. Where one may write but not read nothing can be
 * flushed, and that is how it was wanted. */
static int keep_entries_beside(const char *path)
{
	int error = flush_directory_of(path);

	return error == EACCES ? 0 : error;
}

/* mkdir -p, durably; what exists is left as it is. Only the Maildir and its parts get mode and group; what lies above can be passed
 * through by whoever may read them, whatever the umask. */
static int make_parents(const char *path)
{
	char copy[PATH_MAX];
	int error = 0;

	if (strlen(path) >= sizeof(copy))
		return ENAMETOOLONG;
	strcpy(copy, path);
	for (char *slash = strchr(copy + 1, '/'); slash != NULL && error == 0; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0711) < 0) {
			error = errno == EEXIST ? 0 : errno;
		} else {
			error = chmod(copy, 0711) < 0 ? errno : keep_entries_beside(copy);
			if (error != 0)
				rmdir(copy);	/* made and flushed once more by the next try */
		}
		*slash = '/';
	}
	return error;
}

/* *ret_made: there was none. */
static int make_dir(const char *path, const struct prepare_job *p, bool *ret_made)
{
	int fd, error;

	*ret_made = mkdir(path, 0700) == 0;
	if (!*ret_made)
		return errno == EEXIST ? 0 : errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	error = fd < 0 ? errno : spool_share(fd, p->dir_mode, p->gid);
	if (fd >= 0)
		close(fd);
	return error;
}

enum { CUR, NEW, TMP, N_PARTS };
static const char *const parts[N_PARTS] = { "cur", "new", "tmp" };

static char *part_of(const struct prepare_job *p, size_t i)
{
	return xasprintf("%s/%s", p->maildir, parts[i]);
}

/* What is missing of a Maildir, durably: names in it with one flush, its own with another. After an error nothing of that is left: it is
 * made and flushed once more by the next try. */
static int make_maildir(const struct prepare_job *p, bool *ret_just_made)
{
	bool made = false, made_part[N_PARTS] = { false };
	int error = make_dir(p->maildir, p, &made);
	char *part[N_PARTS];

	if (error == ENOENT && (error = make_parents(p->maildir)) == 0)
		error = make_dir(p->maildir, p, &made);
	*ret_just_made = false;
	for (size_t i = 0; i < N_PARTS; i++) {
		part[i] = part_of(p, i);
		if (error == 0)
			error = make_dir(part[i], p, &made_part[i]);
		*ret_just_made = *ret_just_made || made_part[i];
	}
	if (error == 0 && *ret_just_made)
		error = keep_entries_beside(part[TMP]);
	if (error == 0 && made)
		error = keep_entries_beside(p->maildir);
	for (size_t i = 0; i < N_PARTS; i++) {
		if (error != 0 && made_part[i])
			rmdir(part[i]);
		free(part[i]);
	}
	if (error != 0 && made)
		rmdir(p->maildir);
	return error;
}

/* What cannot be read cannot be flushed. */
static int try_parts(const struct prepare_job *p)
{
	int error = 0;

	for (size_t i = 0; i < N_PARTS && error == 0; i++) {
		char *part = part_of(p, i);

		if (access(part, R_OK | W_OK | X_OK) < 0)
			error = errno;
		free(part);
	}
	return error;
}

/* Left-overs of earlier runs: their messages are fetched again, or an intent has dealt with them. */
static void clean_tmp(const struct prepare_job *p, const char *tmp)
{
	DIR *dir = opendir(tmp);
	struct dirent *entry;

	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
		if (strncmp(entry->d_name, p->ours, strlen(p->ours)) == 0 &&
		    strncmp(entry->d_name, p->this_run, strlen(p->this_run)) != 0)
			unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
}

static void work_prepare(struct job *job)
{
	struct prepare_job *p = (struct prepare_job *)job;
	char *tmp;
	bool just_made = false;
	struct statvfs vfs;
	struct stat st;

	if ((p->error = try_parts(p)) == ENOENT) {
		p->what = "making";
		if ((p->error = make_maildir(p, &just_made)) != 0)
			return;
		p->error = try_parts(p);
	}
	p->what = "writing into";
	if (p->error != 0)
		return;
	if (!recover_maildir(p->sink->env->recovery, p->maildir, just_made)) {
		p->what = "looking for earlier deliveries in";
		p->error = EIO;
		return;
	}
	tmp = part_of(p, TMP);
	clean_tmp(p, tmp);
	if (stat(tmp, &st) < 0 || statvfs(tmp, &vfs) < 0) {
		p->error = errno;
	} else {
		p->dev = st.st_dev;
		p->inode = st.st_ino;
		p->free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	}
	free(tmp);
}

static void disk_failure(struct failure *why, const char *what, const char *path, int error)
{
	if (error == EOPNOTSUPP)	/* only `group` asks for something that a file system may not have */
		failure_set(why, FAIL_WAIT, SCHEDULE_SINK, "maildir", "`group` needs a file system with access control lists; else let the daemon run with "
		    "that group and keep its own (systemctl edit mailpolld: Group= and SupplementaryGroups=mailpolld); that group may then use the "
		    "control socket.", "%s %s: %s", what, path, strerror(error));
	else
		failure_from_disk(why, "maildir", what, path, error);
}

static bool begins_alike(const struct prepare_job *a, size_t a_len, const struct prepare_job *b, size_t b_len)
{
	return a_len == b_len && memcmp(a->maildir, b->maildir, a_len) == 0;
}

/* One at a time in a Maildir, and so few that a disk that hangs does not take all threads of the lane. */
static bool may_begin(const struct prepare_job *p)
{
	const struct prepare_job *r;
	size_t n_beside = 0, n_near = 0;

	if (p->sink->n_running >= NEAR_MAX)
		return false;
	TAILQ_FOREACH(r, &p->sink->env->prepares->running, link) {
		if (strcmp(r->maildir, p->maildir) == 0)
			return false;
		n_beside += begins_alike(p, p->beside_len, r, r->beside_len);
		n_near += begins_alike(p, p->near_len, r, r->near_len);
	}
	return n_beside < BESIDE_MAX && n_near < NEAR_MAX;
}

static void begin_prepare(struct prepare_job *p)
{
	TAILQ_INSERT_TAIL(&p->sink->env->prepares->running, p, link);
	p->sink->n_running++;
	lane_submit(p->sink->env->maildir_lane, &p->job);
}

static void end_prepare(struct prepare_job *ended)
{
	struct sink_prepares *all = ended->sink->env->prepares;
	struct prepare_job *p, *next;

	TAILQ_REMOVE(&all->running, ended, link);
	ended->sink->n_running--;
	for (p = TAILQ_FIRST(&all->waiting); p != NULL; p = next) {
		next = TAILQ_NEXT(p, link);
		if (!may_begin(p))
			continue;
		TAILQ_REMOVE(&all->waiting, p, link);
		begin_prepare(p);
		if (p->sink == ended->sink && begins_alike(p, p->near_len, ended, ended->near_len))
			break;		/* all that kept it waiting was what has ended, and it has taken that place */
	}
}

static void done_prepare(struct job *job)
{
	struct prepare_job *p = (struct prepare_job *)job;
	struct spool_place place = { 0 };
	struct failure why;
	char *tmp = xasprintf("%s/tmp", p->maildir);

	end_prepare(p);
	settle_recovered(p->sink->env, p->maildir);
	if (p->error != 0) {
		disk_failure(&why, p->what, p->maildir, p->error);
		p->cb(p->arg, NULL, &why);
	} else {
		place.dir = tmp;
		place.volume = volume_get(p->sink->env->volumes, p->dev, tmp);
		place.inode = p->inode;
		place.mode = p->file_mode;
		place.gid = p->gid;
		volume_note_free(place.volume, p->free_bytes);
		p->cb(p->arg, &place, NULL);
	}
	free(tmp);
	free(p->maildir);
	free(p);
}

static mode_t directory_mode(mode_t file_mode, bool has_group)
{
	mode_t mode = file_mode | 0700;

	mode |= (mode & 0040) ? 0010 : 0;
	mode |= (mode & 0004) ? 0001 : 0;
	/* a group that reads mail also moves and deletes it: Maildir readers rename new/ to cur/ */
	if (has_group && (mode & 0040))
		mode |= 0070;		/* without setgid: each file gets its group from us, and a sandbox refuses the bit */
	return mode & 0777;
}

/* Up to the last slash, and with it: of "/srv/mail/a" and "/srv/mail/a/" it is "/srv/mail/". */
static size_t length_above(const char *path, size_t len)
{
	while (len > 0 && path[len - 1] == '/')
		len--;
	while (len > 0 && path[len - 1] != '/')
		len--;
	return len;
}

static void maildir_prepare(void *self, const struct mailbox_conf *mailbox, const char *folder, sink_place_cb *cb, void *arg)
{
	struct sink_maildir *s = self;
	struct prepare_job *p = xcalloc(1, sizeof(*p));
	const char *why;

	p->job.work = work_prepare;
	p->job.done = done_prepare;
	p->sink = s;
	p->cb = cb;
	p->arg = arg;
	/* the configuration was refused unless this expands */
	p->maildir = config_expand(s->conf->maildir, mailbox, folder, &why);
	if (p->maildir == NULL)
		p->maildir = xstrdup("/nonexistent");
	snprintf(p->ours, sizeof(p->ours), "mailpolld.%s.", store_instance(s->env->store));
	snprintf(p->this_run, sizeof(p->this_run), "%s%s.", p->ours, s->env->run);
	p->file_mode = s->conf->mode;
	p->gid = s->conf->gid;
	p->dir_mode = directory_mode(s->conf->mode, s->conf->group != NULL);
	p->beside_len = length_above(p->maildir, strlen(p->maildir));
	p->near_len = length_above(p->maildir, p->beside_len);
	if (may_begin(p))
		begin_prepare(p);
	else
		TAILQ_INSERT_TAIL(&s->env->prepares->waiting, p, link);
}

struct sink_prepares *sink_maildir_prepares_new(void)
{
	struct sink_prepares *all = xcalloc(1, sizeof(*all));

	TAILQ_INIT(&all->waiting);
	TAILQ_INIT(&all->running);
	return all;
}

/* Only at the very end there are some that nobody waits for any more. */
void sink_maildir_prepares_free(struct sink_prepares **prepares)
{
	struct sink_prepares *all = *prepares;
	struct prepare_job *p;

	while (all != NULL && (p = TAILQ_FIRST(&all->waiting)) != NULL) {
		TAILQ_REMOVE(&all->waiting, p, link);
		free(p->maildir);
		free(p);
	}
	free(all);
	*prepares = NULL;
}

/* --- one delivery --- */

struct delivery {			/* one message's way; freed with its answer */
	struct sink_maildir *sink;
	struct message *message;
	sink_done_cb *cb;
	void *arg;
	char *maildir;			/* owned; message->path is maildir/tmp/NAME */
	char *new_name, *new_path;
	int error;			/* of the renaming */
};

static void answer(struct delivery *d, enum sink_outcome outcome, const struct failure *why)
{
	d->cb(d->arg, d->message, outcome, why);
	free(d->maildir);
	free(d->new_name);
	free(d->new_path);
	free(d);
}

/* After a flush error the file may be anything: it goes, and the message is fetched again. */
static void answer_lost(struct delivery *d, const char *what, int error)
{
	struct failure why;

	spool_remove(d->message->volume, d->message->path);
	disk_failure(&why, what, d->maildir, error);
	answer(d, SINK_LOST, &why);
}

static void on_dropped(void *arg, enum store_result result)
{
	struct delivery *d = arg;

	(void)result;
	answer_lost(d, "renaming within", d->error);
}

static const char *file_name(const struct delivery *d)
{
	return strrchr(d->message->path, '/') + 1;
}

/* As long as there is the intent, a file that is gone counts as delivered. */
static void on_renamed(void *arg, int error)
{
	struct delivery *d = arg;

	if (error != 0) {
		d->error = error;
		store_drop_intent(d->sink->env->store, d->message->ref, d->message->uid, d->sink->conf->name, file_name(d), on_dropped, d);
		return;
	}
	free(d->message->path);
	d->message->path = xstrdup(d->new_path);
	answer(d, SINK_DELIVERED, NULL);
}

static void on_intent(void *arg, enum store_result result)
{
	struct delivery *d = arg;
	struct failure why;

	if (result != STORE_OK) {
		failure_set(&why, FAIL_WAIT, SCHEDULE_SINK, "not-owner", NULL, "another machine owns this mailbox");
		spool_remove(d->message->volume, d->message->path);
		answer(d, SINK_LOST, &why);
		return;
	}
	volume_rename(d->message->volume, d->message->path, d->new_path, on_renamed, d);
}

static void on_flushed(void *arg, int error)
{
	struct delivery *d = arg;
	const struct message *m = d->message;
	struct place_name place = name_place(volume_dev(m->volume), m->dir_inode);
	struct store_intent intent = { .folder = m->ref, .uid = m->uid, .sink = d->sink->conf->name, .maildir = d->maildir,
	    .tmp_name = file_name(d), .new_name = d->new_name, .place = place.text, .settle_from = m->settle_from,
	    .after_owed = m->after_owed, .internaldate_s = m->internaldate_s };

	if (error != 0) {
		answer_lost(d, "flushing a file of", error);
		return;
	}
	memcpy(intent.hash, m->hash, sizeof(intent.hash));
	store_add_intent(d->sink->env->store, &intent, on_intent, d);
}

static void maildir_deliver(void *self, struct message *m, sink_done_cb *cb, void *arg)
{
	struct delivery *d = xcalloc(1, sizeof(*d));
	const char *tmp = strstr(m->path, "/tmp/mailpolld.");
	char digest[KEY_DIGEST_HEX + 1];

	for (const char *next = tmp; next != NULL; next = strstr(next + 1, "/tmp/mailpolld."))
		tmp = next;
	d->sink = self;
	d->message = m;
	d->cb = cb;
	d->arg = arg;
	d->maildir = xstrndup(m->path, (size_t)(tmp - m->path));
	message_key_digest(m->key, digest);
	d->new_name = xasprintf("%lld.%s.mailpolld,S=%llu", (long long)m->internaldate_s, digest, (unsigned long long)m->size_bytes);
	d->new_path = xasprintf("%s/new/%s", d->maildir, d->new_name);
	volume_flush(m->volume, m->path, on_flushed, d);
}

const struct sink_driver sink_maildir_driver = {
	.many_at_once = true,
	.keeps_file = true,
	.open = maildir_open,
	.close = free,
	.prepare = maildir_prepare,
	.deliver = maildir_deliver,
};

