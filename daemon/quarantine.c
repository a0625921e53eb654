#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "config.h"
#include "log.h"
#include "quarantine.h"
#include "quarantine_private.h"
#include "util.h"
#include "volume.h"
#include "workers.h"

#define NAME_BYTES_MAX 240		/* of a file's name without its suffix; a longer KEY is cut and named by its digest */

/* KEY without the UIDVALIDITY and UID: what a folder's messages have in common. */
struct count { struct count *next; uint64_t n; char folder_key[]; };
struct quarantine_counts { struct count *list; };

struct quarantine_job {
	struct job job;
	struct quarantine_counts *counts;	/* for done() only */
	quarantine_cb *cb;
	void *arg;
	char *dir, *from, *name, *json, *key;
	int error;
	bool was_there, is_there;	/* its .eml, which is what is counted */
};

static int write_new(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), error = 0;
	size_t len = strlen(text), done = 0;

	if (fd < 0)
		return errno;
	while (done < len && error == 0) {
		ssize_t n = write(fd, text + done, len - done);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			error = errno;
	}
	if (error == 0 && fsync(fd) < 0)
		error = errno;
	close(fd);
	return error;
}

/* What is there already stays until the new one is whole: without it the message beside it could not be found. */
static int write_durably(const char *path, const char *text)
{
	char *fresh = xasprintf("%s.new", path);
	int error = write_new(fresh, text);

	if (error == 0 && rename(fresh, path) < 0)
		error = errno;
	if (error != 0)
		unlink(fresh);
	free(fresh);
	return error;
}

/* The JSON first: an .eml that stands there has its reason beside it. */
static void work_quarantine(struct job *job)
{
	struct quarantine_job *q = (struct quarantine_job *)job;
	char *eml = xasprintf("%s/%s.eml", q->dir, q->name), *json = xasprintf("%s/%s.json", q->dir, q->name);

	q->was_there = access(eml, F_OK) == 0;
	if ((q->error = write_durably(json, q->json)) == 0) {
		if (flush_file(q->from) != 0)	/* it may be anything from now on */
			q->error = QUARANTINE_FILE_LOST;
		else if (rename(q->from, eml) < 0)
			q->error = errno;
		else if ((q->error = flush_directory(q->dir)) != 0 && rename(eml, q->from) < 0)
			log_error(NULL, "%s could not be moved back: %s", eml, strerror(errno));
		if (q->error != 0 && access(eml, F_OK) < 0)
			unlink(json);		/* of a message that is not here it is no use */
	}
	q->is_there = access(eml, F_OK) == 0;
	free(eml);
	free(json);
}

static struct count *count_of(struct quarantine_counts *counts, const char *folder_key)
{
	struct count *c;

	for (c = counts->list; c != NULL && strcmp(c->folder_key, folder_key) != 0; c = c->next)
		;
	if (c == NULL) {
		c = xcalloc(1, sizeof(*c) + strlen(folder_key) + 1);
		strcpy(c->folder_key, folder_key);
		c->next = counts->list;
		counts->list = c;
	}
	return c;
}

/* Counts a KEY, of which two parts are cut off; "%2F" is how a KEY writes its slashes. */
static void count_key(struct quarantine_counts *counts, const char *key, bool there)
{
	char *folder_key = xstrdup(key), *cut = NULL;

	for (int part = 0; part < 2; part++) {
		cut = NULL;
		for (char *p = strstr(folder_key, "%2F"); p != NULL; p = strstr(p + 1, "%2F"))
			cut = p;
		if (cut != NULL)
			*cut = '\0';
	}
	if (cut != NULL && there)
		count_of(counts, folder_key)->n++;
	else if (cut != NULL && count_of(counts, folder_key)->n > 0)
		count_of(counts, folder_key)->n--;
	free(folder_key);
}

static void done_quarantine(struct job *job)
{
	struct quarantine_job *q = (struct quarantine_job *)job;

	if (q->is_there != q->was_there)
		count_key(q->counts, q->key, q->is_there);
	q->cb(q->arg, q->error);
	free(q->dir);
	free(q->from);
	free(q->name);
	free(q->key);
	free(q->json);
	free(q);
}

/* JSON takes nothing but UTF-8: a reason may have other bytes, of a path for instance. */
static json_t *text_of(const char *s)
{
	json_t *value = json_string(s);
	size_t size = strlen(s) + 1;
	char *safe;

	if (value != NULL)
		return value;
	safe = xmalloc(size);
	printable(safe, size, s, size - 1);
	value = json_string(safe);
	free(safe);
	return value;
}

static char *describe(const struct message *m, const char *sink, const char *reason)
{
	int64_t now_s = clock_wall_s(), since_s = m->quarantined_wall_s != 0 ? m->quarantined_wall_s : now_s;
	char now[RFC3339_SIZE], since[RFC3339_SIZE], received[RFC3339_SIZE], hash[2 * STORE_HASH_BYTES + 1];
	json_t *o;
	char *text;

	hex_encode(m->hash, STORE_HASH_BYTES, hash);
	o = json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:s, s:o, s:o, s:s, s:s, s:I, s:s}", "key", text_of(m->key), "id", text_of(m->mailbox->id),
	    "address", text_of(m->mailbox->address), "folder", text_of(m->folder), "uidvalidity", (json_int_t)m->uidvalidity, "uid", (json_int_t)m->uid,
	    "size", (json_int_t)m->size_bytes, "internaldate", rfc3339(m->internaldate_s, received), "sink", text_of(sink), "reason", text_of(reason),
	    "quarantined_at", rfc3339(since_s, since), "refused_at", rfc3339(now_s, now), "attempts", (json_int_t)m->attempts, "hash", hash);
	text = o != NULL ? json_dumps(o, JSON_INDENT(2)) : NULL;
	if (text == NULL)		/* no memory: all else is valid by construction */
		abort();
	json_decref(o);
	return text;
}

char *quarantine_name(const char *key)
{
	char digest[KEY_DIGEST_HEX + 1];

	if (strlen(key) <= NAME_BYTES_MAX)
		return xstrdup(key);
	message_key_digest(key, digest);
	return xasprintf("%.200s~%s", key, digest);
}

void quarantine_uncount(struct quarantine_counts *counts, const char *key)
{
	count_key(counts, key, false);
}

void quarantine_add(const struct sink_env *env, const struct message *m, const char *sink, const char *reason, quarantine_cb *cb, void *arg)
{
	struct quarantine_job *q = xcalloc(1, sizeof(*q));
	q->job.work = work_quarantine;
	q->job.done = done_quarantine;
	q->counts = env->quarantined;
	q->cb = cb;
	q->arg = arg;
	q->dir = xasprintf("%s/quarantine", env->state_dir);
	q->from = xstrdup(m->path);
	q->key = xstrdup(m->key);
	q->name = quarantine_name(m->key);
	q->json = describe(m, sink, reason);
	lane_submit(volume_lane(m->volume), &q->job);
}

struct quarantine_counts *quarantine_scan(const char *state_dir)
{
	struct quarantine_counts *counts = xcalloc(1, sizeof(*counts));
	char *path = xasprintf("%s/quarantine", state_dir);
	struct dirent *entry;
	DIR *dir;
	int error;

	if (mkdir(path, 0700) < 0)
		error = errno == EEXIST ? 0 : errno;
	else
		error = flush_directory_of(path);
	if (error != 0)
		log_error(NULL, "cannot make %s: %s", path, strerror(error));
	dir = opendir(path);
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		if (!str_ends_with(entry->d_name, ".eml"))
			continue;
		entry->d_name[strlen(entry->d_name) - 4] = '\0';
		count_key(counts, entry->d_name, true);
	}
	if (dir != NULL)
		closedir(dir);
	free(path);
	return counts;
}

void quarantine_counts_free(struct quarantine_counts **counts)
{
	struct count *c;

	while (*counts != NULL && (c = (*counts)->list) != NULL) {
		(*counts)->list = c->next;
		free(c);
	}
	free(*counts);
	*counts = NULL;
}

uint64_t quarantine_count_all(const struct quarantine_counts *counts)
{
	uint64_t n = 0;

	for (const struct count *c = counts->list; c != NULL; c = c->next)
		n += c->n;
	return n;
}

uint64_t quarantine_count(const struct quarantine_counts *counts, const char *id, const char *folder)
{
	uint64_t n = 0;
	char *plain, *folder_key;

	if (counts->list == NULL)
		return 0;
	plain = xasprintf("%s/%s", id, folder);
	folder_key = percent_encode(plain, "");
	for (const struct count *c = counts->list; c != NULL; c = c->next)
		if (strcmp(c->folder_key, folder_key) == 0)
			n = c->n;
	free(plain);
	free(folder_key);
	return n;
}
