/* What operators do with refused messages. Directories and files are for a lane, never for the loop. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "quarantine.h"
#include "quarantine_private.h"
#include "util.h"
#include "workers.h"

#define LISTED_MAX 10000
#define JSON_MAX_BYTES 65536

struct shelf_job {
	struct job job;
	char *dir, *key, *to, *json;
	int error;
	bool had_file;			/* the .eml, without which nothing was counted */
	struct quarantined found;
	struct quarantine_counts *counts;	/* for done() only, as what follows */
	quarantine_cb *cb;
	quarantine_list_cb *list_cb;
	quarantine_take_cb *take_cb;
	void *arg;
};

bool quarantine_key_is_sane(const char *key)
{
	return key[0] != '\0' && strlen(key) < 4096 &&
	    key[strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@._+-%")] == '\0';
}

static struct shelf_job *shelf_job_new(void (*work)(struct job *), void (*done)(struct job *), const char *state_dir, const char *key, void *arg)
{
	struct shelf_job *s = xcalloc(1, sizeof(*s));

	s->job = (struct job){ .work = work, .done = done };
	s->dir = xasprintf("%s/quarantine", state_dir);
	s->key = xstrdup(key);
	s->arg = arg;
	return s;
}

static void shelf_job_free(struct shelf_job *s)
{
	free(s->dir);
	free(s->key);
	free(s->to);
	free(s->found.id);
	free(s->found.folder);
	free(s);
}

static char *path_of(const struct shelf_job *s, const char *suffix)
{
	char *name = quarantine_name(s->key), *path = xasprintf("%s/%s%s", s->dir, name, suffix);

	free(name);
	return path;
}

/* --- list --- */

static json_t *load(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text;
	size_t len;
	json_t *json = NULL;

	if (f == NULL)
		return NULL;
	text = xmalloc(JSON_MAX_BYTES);
	len = fread(text, 1, JSON_MAX_BYTES, f);
	if (len < JSON_MAX_BYTES)
		json = json_loadb(text, len, 0, NULL);
	free(text);
	fclose(f);
	return json;
}

static const char *time_of(const json_t *message)
{
	const char *text = json_string_value(json_object_get(message, "quarantined_at"));

	return text != NULL ? text : "";
}

/* Of the same second the lower UID. */
static int compare_times(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	json_int_t x_uid = json_integer_value(json_object_get(x, "uid")), y_uid = json_integer_value(json_object_get(y, "uid"));
	int order = strcmp(time_of(x), time_of(y));

	return order != 0 ? order : (x_uid > y_uid) - (x_uid < y_uid);
}

static void work_list(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;
	json_t **v = xcalloc(LISTED_MAX, sizeof(json_t *)), *list = json_array(), *root = json_object();
	DIR *dir = opendir(s->dir);
	struct dirent *entry;
	size_t n = 0;

	while (dir != NULL && n < LISTED_MAX && (entry = readdir(dir)) != NULL) {
		char *path = xasprintf("%s/%s", s->dir, entry->d_name);

		if (str_ends_with(entry->d_name, ".json") && (v[n] = load(path)) != NULL)
			n++;
		free(path);
	}
	if (dir != NULL)
		closedir(dir);
	qsort(v, n, sizeof(json_t *), compare_times);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, v[i]);
	json_object_set_new(root, "messages", list);
	s->json = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	free(v);
}

static void done_list(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;

	s->list_cb(s->arg, s->json != NULL ? s->json : xstrdup("{\"messages\":[]}"));
	shelf_job_free(s);
}

void quarantine_list(struct lane *lane, const char *state_dir, quarantine_list_cb *cb, void *arg)
{
	struct shelf_job *s = shelf_job_new(work_list, done_list, state_dir, "", arg);

	s->list_cb = cb;
	lane_submit(lane, &s->job);
}

/* --- drop --- */

/* The .json last: an .eml never stands there without its reason. One that was left alone goes, too. */
static void work_drop(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;
	char *eml = path_of(s, ".eml"), *json = path_of(s, ".json");

	s->had_file = unlink(eml) == 0;
	if (!s->had_file && errno != ENOENT)
		s->error = errno;
	else if (unlink(json) < 0 && (errno != ENOENT || !s->had_file))
		s->error = errno;
	free(eml);
	free(json);
}

static void done_drop(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;

	if (s->error == 0 && s->had_file)
		quarantine_uncount(s->counts, s->key);
	s->cb(s->arg, s->error);
	shelf_job_free(s);
}

void quarantine_drop(struct lane *lane, struct quarantine_counts *counts, const char *state_dir, const char *key, quarantine_cb *cb, void *arg)
{
	struct shelf_job *s = shelf_job_new(work_drop, done_drop, state_dir, key, arg);

	s->counts = counts;
	s->cb = cb;
	lane_submit(lane, &s->job);
}

/* --- take --- */

/* Of files that an older version wrote: none. */
static void read_hash(uint8_t ret[static STORE_HASH_BYTES], const char *hex)
{
	if (hex == NULL || strlen(hex) != 2 * STORE_HASH_BYTES || strspn(hex, "0123456789abcdef") != 2 * STORE_HASH_BYTES)
		return;
	for (size_t i = 0; i < STORE_HASH_BYTES; i++)
		sscanf(hex + 2 * i, "%2hhx", &ret[i]);
}

static int read_description(struct quarantined *ret, const json_t *json)
{
	const char *id = json_string_value(json_object_get(json, "id")), *folder = json_string_value(json_object_get(json, "folder"));
	const char *received = json_string_value(json_object_get(json, "internaldate"));
	json_int_t attempts = json_integer_value(json_object_get(json, "attempts"));
	json_int_t uidvalidity = json_integer_value(json_object_get(json, "uidvalidity")), uid = json_integer_value(json_object_get(json, "uid"));
	struct tm tm = { 0 }, since = { 0 };

	if (id == NULL || folder == NULL || received == NULL || uid <= 0 || uid > UINT32_MAX || uidvalidity < 0 || uidvalidity > UINT32_MAX ||
	    strptime(received, "%Y-%m-%dT%H:%M:%SZ", &tm) == NULL || strptime(time_of(json), "%Y-%m-%dT%H:%M:%SZ", &since) == NULL)
		return EINVAL;
	*ret = (struct quarantined){ .id = xstrdup(id), .folder = xstrdup(folder), .uidvalidity = (uint32_t)uidvalidity, .uid = (uint32_t)uid,
	    .size_bytes = (uint64_t)json_integer_value(json_object_get(json, "size")), .internaldate_s = (int64_t)timegm(&tm),
	    .quarantined_wall_s = (int64_t)timegm(&since), .attempts = attempts > 0 && attempts < UINT32_MAX ? (unsigned)attempts : 0 };
	read_hash(ret->hash, json_string_value(json_object_get(json, "hash")));
	return 0;
}

static void work_take(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;
	char *eml = path_of(s, ".eml"), *path = path_of(s, ".json");
	json_t *json = load(path);

	if (json == NULL)
		s->error = ENOENT;
	else if ((s->error = read_description(&s->found, json)) == 0 && link(eml, s->to) < 0)
		s->error = errno;
	json_decref(json);
	free(path);
	free(eml);
}

static void done_take(struct job *job)
{
	struct shelf_job *s = (struct shelf_job *)job;

	s->take_cb(s->arg, s->error, s->error == 0 ? &s->found : NULL);
	shelf_job_free(s);
}

void quarantine_take(struct lane *lane, const char *state_dir, const char *key, const char *to, quarantine_take_cb *cb, void *arg)
{
	struct shelf_job *s = shelf_job_new(work_take, done_take, state_dir, key, arg);

	s->to = xstrdup(to);
	s->take_cb = cb;
	lane_submit(lane, &s->job);
}
