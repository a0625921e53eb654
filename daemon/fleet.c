#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "dial.h"
#include "audit.h"
#include "fleet_private.h"
#include "http.h"
#include "log.h"
#include "quarantine.h"
#include "resolver.h"
#include "spool.h"
#include "store.h"
#include "tls.h"
#include "token_cache.h"
#include "volume.h"
#include "workers.h"

#define LOOK_THREADS 8
#define MAILDIR_THREADS 64		/* most sleep, on disks that hang; else few are made */
#define SPAWN_THREADS 64
#define RECOVERY_MS 30000
#define CHECK_S 15			/* between two looks for mailboxes past their deadline, and at what is wrong with all */
#define HURRY_BEFORE_MS 3000		/* before the end of the time given to stop */

/* --- members --- */

static void admit(void *arg)
{
	mailbox_admit(arg);
}

static void fetch_admit(void *arg)
{
	mailbox_fetch_admit(arg);
}

static msec_t last_turn_ms(const void *arg)
{
	return mailbox_last_turn_ms(arg);
}

static const struct seat_ops seat_ops = { .admit = admit, .fetch_admit = fetch_admit, .last_turn_ms = last_turn_ms };

static void want_session(void *arg, struct mailbox *mailbox)
{
	(void)arg;
	seat_want_session(&((struct member *)mailbox_owner(mailbox))->seat);
}

static void started(void *arg, struct mailbox *mailbox)
{
	(void)arg;
	seat_started(&((struct member *)mailbox_owner(mailbox))->seat);
}

static void want_fetch(void *arg, struct mailbox *mailbox)
{
	(void)arg;
	seat_want_fetch(&((struct member *)mailbox_owner(mailbox))->seat);
}

static void fetch_is_over(void *arg, struct mailbox *mailbox)
{
	(void)arg;
	seat_fetch_over(&((struct member *)mailbox_owner(mailbox))->seat);
}

static void throttled(void *arg, struct mailbox *mailbox)
{
	(void)arg;
	seat_throttled(&((struct member *)mailbox_owner(mailbox))->seat);
}

static void state_changed(void *arg, struct mailbox *mailbox, enum mailbox_state from, enum mailbox_state to)
{
	struct fleet *f = arg;
	const struct member *member = mailbox_owner(mailbox);

	f->failing_known = false;
	if (member->leaving)
		return;
	f->by_state[from]--;
	f->by_state[to]++;
}

static void delivered(void *arg, struct mailbox *mailbox)
{
	(void)mailbox;
	((struct fleet *)arg)->delivered++;
}

static void member_free(struct member *member)
{
	seat_leave(&member->seat);
	mailbox_free(&member->mailbox);
	free(member);
}

struct member *member_new(struct fleet *f, const struct mailbox_conf *conf)
{
	struct member *member = xcalloc(1, sizeof(*member));

	member->fleet = f;
	member->mailbox = mailbox_new(&f->env, conf, member);
	seat_take(f->admission, &member->seat, conf->credential->name, &seat_ops, member->mailbox);
	f->by_state[mailbox_state(member->mailbox)]++;
	f->failing_known = false;
	if (store_is_paused(f->store, conf->id))
		mailbox_pause(member->mailbox);
	return member;
}

void member_start(struct member *member)
{
	if (member->fleet->started && !member->fleet->stopping && member->predecessor == NULL)
		mailbox_start(member->mailbox);
}

void member_retire(struct member *member)
{
	struct fleet *f = member->fleet;

	if (member->leaving)
		return;
	member_end_traces(member, f->stopping ? "mailpolld stops" : "a reload has changed or removed this mailbox");
	f->by_state[mailbox_state(member->mailbox)]--;
	TAILQ_INSERT_TAIL(&f->leaving, member, leaving_link);
	f->n_leaving++;
	member->leaving = true;
	mailbox_stop(member->mailbox);
}

static void check_stopped(struct fleet *f)
{
	if (f->stopping && f->n_leaving == 0)
		event_active(f->stopped_ev, 0, 0);
}

/* From the mailbox's own event: it is freed here and not touched any more by its caller. */
static void stopped(void *arg, struct mailbox *mailbox)
{
	struct fleet *f = arg;
	struct member *member = mailbox_owner(mailbox), *successor = member->successor, *predecessor = member->predecessor;

	TAILQ_REMOVE(&f->leaving, member, leaving_link);
	f->n_leaving--;
	member_free(member);
	if (predecessor != NULL)
		predecessor->successor = successor;
	if (successor != NULL)
		successor->predecessor = predecessor;
	if (successor != NULL && predecessor == NULL)
		member_start(successor);
	check_stopped(f);
}

/* --- making --- */

/* state_dir/spool holds what a command reads: nothing of an earlier run is wanted, it is fetched again. */
static int make_spool_dir(const char *state_dir, char *ret_error, size_t size)
{
	char *path = xasprintf("%s/spool", state_dir);
	struct dirent *entry;
	DIR *dir;

	if ((mkdir(path, 0700) < 0 && errno != EEXIST) || (dir = opendir(path)) == NULL) {
		snprintf(ret_error, size, "cannot make %s: %s", path, strerror(errno));
		free(path);
		return -1;
	}
	while ((entry = readdir(dir)) != NULL)
		if (strncmp(entry->d_name, "mailpolld.", 10) == 0)
			unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	free(path);
	return 0;
}

static struct volume *find_state_volume(struct fleet *f)
{
	struct volume *volume;
	struct statvfs vfs;
	struct stat st = { 0 };

	(void)stat(f->config->state_dir, &st);	/* the store has just been opened in it */
	volume = volume_get(f->volumes, st.st_dev, f->config->state_dir);
	if (statvfs(f->config->state_dir, &vfs) == 0)
		volume_note_free(volume, (uint64_t)vfs.f_bavail * vfs.f_frsize);
	return volume;
}

static void make_sinks(struct fleet *f)
{
	struct sink_env env = { .counters = &f->counters, .base = f->base, .workers = f->workers, .volumes = f->volumes, .state_volume = f->state_volume,
	    .maildir_lane = lane_new(f->workers, "maildir", LANE_DISK, MAILDIR_THREADS),
	    .spawn_lane = lane_new(f->workers, "spawn", LANE_DISK, SPAWN_THREADS), .store = f->store,
	    .state_dir = f->config->state_dir, .run = f->run, .quarantined = f->quarantined };

	f->sinks = sinks_new(&env);
}

static void make_env(struct fleet *f)
{
	f->ops = (struct mailbox_ops){ .want_session = want_session, .started = started, .want_fetch = want_fetch,
	    .fetch_over = fetch_is_over, .throttled = throttled, .state_changed = state_changed, .delivered = delivered, .stopped = stopped };
	counters_init(&f->counters);
	f->env = (struct mailbox_env){ .counters = &f->counters, .base = f->base, .dialer = f->dialer, .tls = f->tls, .tokens = f->tokens, .store = f->store,
	    .spool = f->spool, .sinks = f->sinks, .run = f->run, .quarantined = f->quarantined,
	    .ops = &f->ops, .arg = f };
}

static void on_check(evutil_socket_t fd, short what, void *arg);
static void on_stop_timer(evutil_socket_t fd, short what, void *arg);
static void on_recovery_timer(evutil_socket_t fd, short what, void *arg);
static void on_hurry(evutil_socket_t fd, short what, void *arg);

static void make_modules(struct fleet *f)
{
	uint8_t run[4];

	RAND_bytes(run, sizeof(run));
	hex_encode(run, sizeof(run), f->run);
	f->state_volume = find_state_volume(f);
	f->spool = spool_new(f->config->spool_limit_bytes, f->config->min_free_bytes, f->state_volume);
	f->resolver = resolver_new(f->base, f->workers);
	f->dialer = dialer_new(f->base, f->resolver);
	f->tls = tls_new();
	f->http = http_new(f->base, f->resolver);
	f->tokens = token_cache_new(f->base, f->workers, f->http);
	f->quarantined = quarantine_scan(f->config->state_dir);
	f->audit = audit_new(f->base, f->workers);
	f->look_lane = lane_new(f->workers, "look", LANE_DISK, LOOK_THREADS);
	f->config_lane = lane_new(f->workers, "config", LANE_REMOTE, 1);	/* a group's name may be a directory service's to tell */
	f->admission = admission_new(f->base);
	make_sinks(f);
	make_env(f);
	f->check_timer = event_new(f->base, -1, EV_PERSIST, on_check, f);
	f->stop_timer = evtimer_new(f->base, on_stop_timer, f);
	f->recovery_timer = evtimer_new(f->base, on_recovery_timer, f);
	f->hurry_timer = evtimer_new(f->base, on_hurry, f);
	f->stopped_ev = event_new(f->base, -1, 0, on_stop_timer, f);
}

void fleet_apply_globals(struct fleet *f, struct config *config)
{
	if (f->config != config)
		config_free(&f->config);
	f->config = config;
	f->loaded_wall_s = clock_wall_s();
	f->env.audit_log = config->audit == AUDIT_JOURNAL;
	f->env.audit = config->audit == AUDIT_FILE ? f->audit : NULL;
	audit_set_file(f->audit, config->audit_file);
	log_set_level(config->log_level);
	spool_set_limits(f->spool, config->spool_limit_bytes, config->min_free_bytes);
	token_cache_configure(f->tokens, config);
	admission_configure(f->admission, config);
	fleet_count_watching(f);
}

struct fleet *fleet_new(struct event_base *base, struct workers *workers, struct config *config, char *ret_error, size_t size)
{
	struct fleet *f = xcalloc(1, sizeof(*f));

	TAILQ_INIT(&f->leaving);
	f->base = base;
	f->workers = workers;
	f->config = config;
	f->store = store_open(base, workers, config->state_dir, ret_error, size);
	if (f->store == NULL || make_spool_dir(config->state_dir, ret_error, size) < 0) {
		store_close(&f->store);
		config_free(&f->config);
		free(f);
		return NULL;
	}
	f->volumes = volumes_new(workers);
	make_modules(f);
	fleet_apply_globals(f, config);
	f->members = xcalloc(config->n_mailboxes, sizeof(*f->members));
	for (size_t i = 0; i < config->n_mailboxes; i++)
		f->members[f->n_members++] = member_new(f, config->mailboxes[i]);
	return f;
}

void fleet_free(struct fleet **fleet)
{
	struct fleet *f = *fleet;

	if (f == NULL)
		return;
	fleet_drop_reloads(f);
	for (size_t i = 0; i < f->n_members; i++)
		member_free(f->members[i]);
	free(f->members);
	sinks_free(&f->sinks);
	admission_free(&f->admission);
	audit_free(&f->audit);
	token_cache_free(&f->tokens);
	http_free(&f->http);
	tls_free(&f->tls);
	dialer_free(&f->dialer);
	resolver_free(&f->resolver);
	quarantine_counts_free(&f->quarantined);
	store_close(&f->store);
	volumes_free(&f->volumes);
	spool_free(&f->spool);
	event_free(f->check_timer);
	event_free(f->stop_timer);
	event_free(f->recovery_timer);
	event_free(f->hurry_timer);
	event_free(f->stopped_ev);
	config_free(&f->config);
	free(f->config_error);
	free(f->reasons);
	free(f->watching);
	free(f);
	*fleet = NULL;
}

/* --- starting and stopping --- */

static void on_recovered(void *arg)
{
	struct fleet *f = arg;
	struct timeval every = clock_interval(CHECK_S * 1000);

	if (f->stopping || f->started)
		return;
	event_del(f->recovery_timer);
	f->started = true;
	for (size_t i = 0; i < f->n_members; i++)
		member_start(f->members[i]);
	event_add(f->check_timer, &every);
	f->on_ready(f->ready_arg);
}

/* A Maildir is looked into again before it gets anything, so the one whose disk hangs waits alone. */
static void on_recovery_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	sinks_recovery_is_late(((struct fleet *)arg)->sinks);
	log_warning(NULL, "what the last run had under way is still being looked for: a disk does not answer; starting with the others");
	on_recovered(arg);
}

void fleet_start(struct fleet *f, void (*on_ready)(void *arg), void *arg)
{
	struct timeval at_most = clock_interval(RECOVERY_MS);

	event_add(f->recovery_timer, &at_most);
	f->on_ready = on_ready;
	f->ready_arg = arg;
	sinks_recover(f->sinks, on_recovered, f);
}

static void on_hurry(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	sinks_hurry(((struct fleet *)arg)->sinks);
}

static void on_stop_timer(evutil_socket_t fd, short what, void *arg)
{
	struct fleet *f = arg;
	void (*on_stopped)(void *) = f->on_stopped;

	(void)fd, (void)what;
	if (f->n_leaving > 0)
		log_warning(NULL, "%zu mailboxes did not stop in time; what they had under way is done again at the next start", f->n_leaving);
	event_del(f->stop_timer);
	audit_finish(f->audit);
	f->on_stopped = NULL;
	if (on_stopped != NULL)
		on_stopped(f->stopped_arg);
}

void fleet_stop(struct fleet *f, msec_t at_most_ms, void (*on_stopped)(void *arg), void *arg)
{
	struct timeval limit = clock_interval(at_most_ms), hurry = clock_interval(at_most_ms - HURRY_BEFORE_MS);

	if (f->stopping)
		return;
	f->stopping = true;
	f->on_stopped = on_stopped;
	f->stopped_arg = arg;
	for (size_t i = 0; i < f->n_members; i++)
		member_retire(f->members[i]);
	f->n_members = 0;		/* each is freed when it has stopped */
	event_add(f->stop_timer, &limit);
	event_add(f->hurry_timer, &hurry);
	check_stopped(f);
}

static void state_was_looked_at(void *arg)
{
	((struct fleet *)arg)->looking_at_state = false;
}

/* Whoever delivers into Maildirs elsewhere does not see what others leave there. */
static void look_at_state(struct fleet *f)
{
	if (!f->looking_at_state)
		volume_look_free(f->state_volume, f->config->state_dir, state_was_looked_at, f);
	f->looking_at_state = true;
}

/* A mailbox past its own deadline is a bug of ours or a stuck peer that no timer caught: its session is torn down
 * once; when that does not help within 60 s, the watchdog is not fed any more (promise 8). */
static void on_check(evutil_socket_t fd, short what, void *arg)
{
	struct fleet *f = arg;
	msec_t now_ms = clock_now_ms();
	bool known = f->stuck;

	(void)fd, (void)what;
	f->stuck = false;
	look_at_state(f);
	for (size_t i = 0; i < f->n_members; i++) {
		struct mailbox *mailbox = f->members[i]->mailbox;
		struct log_context ctx = { .mailbox = mailbox_conf(mailbox)->address };

		if (!mailbox_is_stuck(mailbox, now_ms) || mailbox_restart_session(mailbox))
			continue;
		f->stuck = true;
		if (!known)
			log_write(LOG_LEVEL_ERROR, EVENT_MAILBOX_STALLED, &ctx, NULL, 0, "its session was torn down and is still there a minute later");
	}
	fleet_judge(f);
}

/* --- verbs --- */

/* Addresses first: one mailbox's id may be what another's address is. */
struct member *fleet_member(const struct fleet *f, const char *address_or_id)
{
	for (size_t i = 0; i < f->n_members; i++)
		if (strcasecmp(mailbox_conf(f->members[i]->mailbox)->address, address_or_id) == 0)
			return f->members[i];
	for (size_t i = 0; i < f->n_members; i++)
		if (strcmp(mailbox_conf(f->members[i]->mailbox)->id, address_or_id) == 0)
			return f->members[i];
	return NULL;
}

/* kept is the last one's alone: what the state was told before, it knows before. */
static size_t for_each(struct fleet *f, const char *who, void (*what)(struct fleet *, struct mailbox *, store_cb *kept, void *arg),
    size_t *ret_paused, store_cb *kept, void *arg)
{
	const struct member *the_one = fleet_member(f, who);
	struct mailbox **v = xcalloc(f->n_members, sizeof(struct mailbox *));
	size_t n = 0;

	for (size_t i = 0; i < f->n_members; i++) {
		struct mailbox *mailbox = f->members[i]->mailbox;

		if (the_one != NULL ? f->members[i] == the_one : mailbox_conf_is_like(mailbox_conf(mailbox), who))
			v[n++] = mailbox;
	}
	*ret_paused = 0;
	for (size_t i = 0; i < n; i++) {
		what(f, v[i], i + 1 == n ? kept : NULL, arg);
		*ret_paused += mailbox_is_paused(v[i]);
	}
	free(v);
	return n;
}

bool fleet_is_serving(const struct fleet *f)
{
	return f->started && !f->stopping;
}

bool fleet_is_stopping(const struct fleet *f)
{
	return f->stopping;
}

static void poll_one(struct fleet *f, struct mailbox *mailbox, store_cb *kept, void *arg)
{
	(void)f, (void)kept, (void)arg;
	mailbox_poll(mailbox);
}

size_t fleet_poll(struct fleet *f, const char *who, size_t *ret_paused)
{
	return for_each(f, who, poll_one, ret_paused, NULL, NULL);
}

/* An id, not an address, is what the state knows. */
static void pause_one(struct fleet *f, struct mailbox *mailbox, store_cb *kept, void *arg)
{
	store_set_paused(f->store, mailbox_conf(mailbox)->id, true, kept, arg);
	mailbox_pause(mailbox);
}

size_t fleet_pause(struct fleet *f, const char *who, size_t *ret_paused, store_cb *kept, void *arg)
{
	return for_each(f, who, pause_one, ret_paused, kept, arg);
}

static void resume_one(struct fleet *f, struct mailbox *mailbox, store_cb *kept, void *arg)
{
	store_set_paused(f->store, mailbox_conf(mailbox)->id, false, kept, arg);
	mailbox_resume(mailbox);
}

size_t fleet_resume(struct fleet *f, const char *who, size_t *ret_paused, store_cb *kept, void *arg)
{
	return for_each(f, who, resume_one, ret_paused, kept, arg);
}

bool fleet_resync(struct fleet *f, const char *address, const struct store_day *since, store_cb *kept, void *arg)
{
	struct member *member = fleet_member(f, address);

	if (member != NULL)
		mailbox_resync(member->mailbox, since, kept, arg);
	return member != NULL;
}

struct member *fleet_last_leaving(const struct fleet *f, const char *id)
{
	struct member *member;

	TAILQ_FOREACH(member, &f->leaving, leaving_link)
		if (member->successor == NULL && strcmp(mailbox_conf(member->mailbox)->id, id) == 0)
			return member;
	return NULL;
}

bool fleet_may_forget(const struct fleet *f, const char *id)
{
	for (size_t i = 0; i < f->n_members; i++)
		if (strcmp(mailbox_conf(f->members[i]->mailbox)->id, id) == 0)
			return false;
	return !f->stopping && fleet_last_leaving(f, id) == NULL;
}

void fleet_forget(struct fleet *f, const char *id, void (*done)(void *arg, uint64_t folders), void *arg)
{
	store_forget(f->store, id, done, arg);
}

void fleet_quarantine_list(struct fleet *f, void (*list)(void *arg, char *json), void *arg)
{
	quarantine_list(f->look_lane, f->config->state_dir, list, arg);
}

void fleet_quarantine_drop(struct fleet *f, const char *key, void (*done)(void *arg, int error), void *arg)
{
	quarantine_drop(f->look_lane, f->quarantined, f->config->state_dir, key, done, arg);
}

void fleet_backup(struct fleet *f, const char *path, void (*done)(void *arg, const char *error), void *arg)
{
	store_backup(f->store, path, done, arg);
}

/* --- reading --- */

size_t fleet_size(const struct fleet *f)
{
	return f->n_members;
}

const struct mailbox *fleet_mailbox(const struct fleet *f, size_t i)
{
	return f->members[i]->mailbox;
}

const struct mailbox *fleet_find(const struct fleet *f, const char *address_or_id)
{
	const struct member *member = fleet_member(f, address_or_id);

	return member == NULL ? NULL : member->mailbox;
}

size_t fleet_count(const struct fleet *f, enum mailbox_state state)
{
	return f->by_state[state];
}

uint64_t fleet_delivered(const struct fleet *f)
{
	return f->delivered;
}

uint64_t fleet_quarantined(const struct fleet *f)
{
	return quarantine_count_all(f->quarantined);
}

size_t fleet_failing(struct fleet *f)
{
	msec_t since;

	if (!f->failing_known) {
		f->n_failing = 0;
		for (size_t i = 0; i < f->n_members; i++)
			f->n_failing += mailbox_is_failing(f->members[i]->mailbox, &since);
		f->failing_known = true;
	}
	return f->n_failing;
}

int64_t fleet_config_loaded_wall_s(const struct fleet *f)
{
	return f->loaded_wall_s;
}

const char *fleet_config_error(const struct fleet *f)
{
	return f->config_error;
}

const struct config *fleet_config(const struct fleet *f)
{
	return f->config;
}

size_t fleet_sinks(const struct fleet *f, struct sink_snapshot *ret_v, size_t room)
{
	size_t n = sinks_count(f->sinks);

	for (size_t i = 0; i < n && i < room; i++) {
		const struct sink *sink = sinks_at(f->sinks, i);
		const struct sink_conf *conf = sink_conf(sink);
		const struct sink_counts *c = sink_counts(sink);

		ret_v[i] = (struct sink_snapshot){ .name = conf->name, .kind = conf->kind == SINK_MAILDIR ? "maildir" : "command",
		    .target = conf->kind == SINK_MAILDIR ? conf->maildir : conf->command[0], .failing = c->failing, .delivered = c->delivered,
		    .refused = c->refused, .temporary = c->temporary, .running = c->in_hand - sink_waiting(sink),
		    .waiting = sink_waiting(sink),
		    .failure = c->failure.fail != FAIL_NONE ? &c->failure : NULL };
	}
	return n;
}

void fleet_admission(const struct fleet *f, const char *credential, struct gate_snapshot *ret)
{
	admission_snapshot(f->admission, credential, ret);
}

struct counters *fleet_counters(struct fleet *f)
{
	return &f->counters;
}

size_t fleet_tokens(struct fleet *f, struct token_snapshot *ret_v, size_t room)
{
	return token_cache_snapshot(f->tokens, ret_v, room);
}

void fleet_store(const struct fleet *f, struct store_snapshot *ret)
{
	*ret = (struct store_snapshot){ .last_commit_wall_s = store_last_commit_wall_s(f->store), .spool_bytes = spool_bytes(f->spool),
	    .spool_files = spool_files(f->spool),
	    .commits = store_commits(f->store),
	    .failure = store_failure(f->store) };
}
