#include <stdlib.h>
#include <string.h>
#include "folder.h"
#include "util.h"

static const unsigned owed_waits_s[] = { 60, 600, 3600 };	/* exchange-online 5.8; after these it is given up */
#define OWED_WAIT_MAX_S (3600 + 60)	/* and a clock that is set back by little */

void folder_init(struct folder *f, const char *name)
{
	*f = (struct folder){ .name = xstrdup(name) };
}

void folder_done(struct folder *f)
{
	store_folder_done(&f->at);
	ranges_done(&f->listed);
	ranges_done(&f->left_out);
	ranges_done(&f->pending);
	ranges_done(&f->under_way);
	ranges_done(&f->unanswered);
	ranges_done(&f->missing);
	ranges_done(&f->absent);
	ranges_done(&f->given_up_away);
	ranges_done(&f->after_copied);
	ranges_done(&f->after_doubted);
	failure_drop(&f->refused);
	free(f->sizes);
	free(f->place_dir);
	free(f->name);
}

bool folder_is_refused(const struct folder *f)
{
	return f->refused != NULL && clock_now_ms() < f->refused_until_ms;
}

static void forget_sizes(struct folder *f)
{
	free(f->sizes);
	f->sizes = NULL;
	f->n_sizes = 0;
}

void folder_forget_uids(struct folder *f)
{
	ranges_done(&f->absent);
	ranges_done(&f->missing);
	ranges_done(&f->unanswered);
	ranges_done(&f->given_up_away);
	ranges_done(&f->after_copied);
	ranges_done(&f->after_doubted);
	f->suspect = f->singly_to = f->waiting_to = f->large_uid = 0;
	f->uidnext_was_low = false;
}

void folder_forget_session(struct folder *f)
{
	ranges_done(&f->listed);
	ranges_done(&f->pending);
	forget_sizes(f);
	f->exists = 0;
}

/* The first that is not below uid. They are in order, as the store gives them. */
static size_t owed_place(const struct folder *f, uint32_t uid)
{
	size_t lo = 0, hi = f->at.n_owed;

	while (lo < hi) {
		size_t middle = lo + (hi - lo) / 2;

		if (f->at.owed[middle].uid < uid)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo;
}

static struct store_owed *owed_find(const struct folder *f, uint32_t uid)
{
	size_t at = owed_place(f, uid);

	return at < f->at.n_owed && f->at.owed[at].uid == uid ? &f->at.owed[at] : NULL;
}

uint32_t folder_search_from(const struct folder *f)
{
	uint32_t from = ranges_first_missing(&f->at.settled, 1);

	while (from != 0 && owed_find(f, from) != NULL)
		from = from == UINT32_MAX ? 0 : ranges_first_missing(&f->at.settled, from + 1);
	return from;
}

bool folder_list(struct folder *f, uint32_t lo, uint32_t hi)
{
	if (f->listed.n >= FOLDER_LISTED_MAX) {
		ranges_sort(&f->listed);	/* in order they may be fewer */
		if (f->listed.n > FOLDER_LISTED_MAX / 2)	/* else each few more would be sorted again */
			return false;
	}
	ranges_append(&f->listed, lo, hi);
	return true;
}

void folder_listed(struct folder *f)
{
	ranges_sort(&f->listed);
}

/* UIDs in [from, top] that are neither settled nor owed nor listed nor under way. */
static void find_holes(const struct folder *f, uint32_t from, struct ranges *ret_holes)
{
	uint32_t top = ranges_last(&f->at.settled);

	if (from == 0 || top <= from)
		return;
	ranges_add(ret_holes, from, top);
	ranges_remove_all(ret_holes, &f->at.settled);
	ranges_remove_all(ret_holes, &f->listed);
	ranges_remove_all(ret_holes, &f->under_way);
	for (size_t i = 0; i < f->at.n_owed; i++)
		ranges_remove(ret_holes, f->at.owed[i].uid, f->at.owed[i].uid);
}

/* Of the holes: those that are proven not to exist, and those that looks have left out for long enough. */
static void find_gone(struct folder *f, struct ranges *holes, msec_t now_ms, struct ranges *ret_gone)
{
	bool long_enough = f->missing.n > 0 && now_ms - f->missing_ms >= FOLDER_GONE_MS;

	ranges_keep(&f->missing, holes);
	if (long_enough)
		ranges_copy(ret_gone, &f->missing);
	if (f->absent.n > 0) {
		struct ranges proven = { 0 };

		ranges_copy(&proven, &f->absent);
		ranges_keep(&proven, holes);
		for (size_t i = 0; i < proven.n; i++)
			ranges_add(ret_gone, proven.v[i].lo, proven.v[i].hi);
		ranges_done(&proven);
	}
	if (ret_gone->n > FOLDER_GONE_MAX) {
		memmove(ret_gone->v, ret_gone->v + ret_gone->n - FOLDER_GONE_MAX, FOLDER_GONE_MAX * sizeof(*ret_gone->v));
		ret_gone->n = FOLDER_GONE_MAX;
	}
	if (!long_enough && f->missing.n > 0)
		return;			/* what has been missing for a shorter time waits for the next round */
	ranges_remove_all(holes, ret_gone);
	ranges_copy(&f->missing, holes);
	f->missing_ms = now_ms;
}

/* When it listed as many as there were, below the UIDNEXT that was told with their number, what is between them is nothing. What has come
 * since proves nothing: SEARCH may list it before any EXISTS tells of it, and leave out another one. */
static void note_absent(struct folder *f)
{
	struct ranges below = { 0 };

	if (f->told_uidnext > 1 && f->told_exists > 0) {
		ranges_add(&below, 1, f->told_uidnext - 1);
		ranges_keep(&below, &f->listed);
	}
	if (below.n > 0 && ranges_count(&below) >= f->told_exists) {
		ranges_done(&f->absent);
		ranges_add(&f->absent, 1, ranges_last(&below));
		ranges_remove_all(&f->absent, &below);
	}
	ranges_done(&below);
}

uint64_t folder_look_done(struct folder *f, uint32_t from, msec_t now_ms, struct ranges *ret_gone)
{
	struct ranges holes = { 0 };

	if (from > 1)			/* n:* answers the last message even when it is below n (exchange-online 4.6) */
		ranges_remove(&f->listed, 1, from - 1);
	else if (from == 1)
		note_absent(f);
	ranges_remove_all(&f->absent, &f->at.settled);
	ranges_done(ret_gone);
	find_holes(f, from, &holes);
	find_gone(f, &holes, now_ms, ret_gone);
	ranges_done(&holes);
	ranges_remove_all(&f->listed, &f->at.settled);
	ranges_remove_all(&f->listed, &f->under_way);
	for (size_t i = 0; i < f->at.n_owed; i++)
		ranges_remove(&f->listed, f->at.owed[i].uid, f->at.owed[i].uid);
	ranges_done(&f->pending);
	f->pending = f->listed;		/* moved */
	f->listed = (struct ranges){ 0 };
	forget_sizes(f);
	return ranges_count(&f->pending);
}

void folder_note_size(struct folder *f, uint32_t uid, uint64_t bytes)
{
	if (f->sizes == NULL)
		f->sizes = xcalloc(FOLDER_SIZES_MAX, sizeof(*f->sizes));
	if (f->n_sizes == FOLDER_SIZES_MAX)
		return;
	f->sizes[f->n_sizes].uid = uid;
	f->sizes[f->n_sizes++].bytes = bytes < FOLDER_SIZE_BELIEVED ? bytes : FOLDER_SIZE_BELIEVED;
}

void folder_note_large(struct folder *f, uint32_t uid, uint64_t bytes)
{
	f->large_uid = uid;
	f->large_bytes = bytes;
}

uint64_t folder_estimate(const struct folder *f, const struct ranges *uids)
{
	uint64_t bytes = f->large_uid != 0 && ranges_has(uids, f->large_uid) ? f->large_bytes : 0;

	for (size_t i = 0; i < f->n_sizes; i++)
		if (f->sizes[i].uid != f->large_uid && ranges_has(uids, f->sizes[i].uid))
			bytes += f->sizes[i].bytes;
	return bytes;
}

static uint64_t size_of(const struct folder *f, uint32_t uid)
{
	if (uid == f->large_uid)
		return f->large_bytes;
	for (size_t i = 0; i < f->n_sizes; i++)
		if (f->sizes[i].uid == uid)
			return f->sizes[i].bytes;
	return 0;
}

/* How many of the lowest pending UIDs make a batch. */
static uint64_t batch_size(const struct folder *f, uint64_t max_messages, uint64_t max_bytes)
{
	uint64_t n = 0, bytes = 0;

	for (size_t i = 0; i < f->pending.n; i++) {
		for (uint64_t uid = f->pending.v[i].lo; uid <= f->pending.v[i].hi; uid++) {
			bytes += size_of(f, (uint32_t)uid);
			if (n > 0 && (n >= max_messages || bytes > max_bytes || uid == f->suspect))
				return n;
			n++;
			if (uid == f->suspect)
				return n;
		}
	}
	return n;
}

void folder_pick(struct folder *f, uint64_t max_messages, uint64_t max_bytes, struct ranges *ret_batch)
{
	ranges_take(&f->pending, batch_size(f, max_messages, max_bytes), ret_batch);
	for (size_t i = 0; i < ret_batch->n; i++)
		ranges_add(&f->under_way, ret_batch->v[i].lo, ret_batch->v[i].hi);
	if (f->n_sizes > 0 && ranges_first(&f->pending) > f->sizes[f->n_sizes - 1].uid)
		forget_sizes(f);	/* used up: ask for the next ones */
}

void folder_pick_owed(struct folder *f, uint32_t uid, struct ranges *ret_batch)
{
	ranges_done(ret_batch);
	ranges_add(ret_batch, uid, uid);
	ranges_add(&f->under_way, uid, uid);
}

uint32_t folder_settle_from(const struct folder *f, uint32_t uid)
{
	return ranges_run_up_to(&f->absent, uid - 1);
}

void folder_settled(struct folder *f, uint32_t from, uint32_t uid)
{
	ranges_add(&f->at.settled, from, uid);
	ranges_remove(&f->under_way, uid, uid);
	ranges_remove(&f->unanswered, uid, uid);
	folder_owed_over(f, uid);
}

void folder_put_back(struct folder *f, const struct ranges *uids)
{
	for (size_t i = 0; i < uids->n; i++) {
		ranges_remove(&f->under_way, uids->v[i].lo, uids->v[i].hi);
		ranges_add(&f->pending, uids->v[i].lo, uids->v[i].hi);
	}
	for (size_t i = 0; i < f->at.n_owed; i++)	/* due as it was, and to be asked for alone */
		if (ranges_has(uids, f->at.owed[i].uid))
			ranges_remove(&f->pending, f->at.owed[i].uid, f->at.owed[i].uid);
	forget_sizes(f);
}

int64_t folder_known_before_s(const struct folder *f, int64_t policy_s, int64_t oldest_kept_s)
{
	int64_t before_s = policy_s;

	if (f->at.complete && oldest_kept_s > before_s)
		before_s = oldest_kept_s;
	for (size_t i = 0; i < f->at.n_owed; i++)
		if (f->at.owed[i].first_wall_s - 86400 < before_s)
			before_s = f->at.owed[i].first_wall_s - 86400;
	return before_s;
}

struct store_owed folder_owe(struct folder *f, uint32_t uid, const char *why, int64_t now_wall_s, msec_t now_ms)
{
	struct store_owed *o = owed_find(f, uid);

	if (o == NULL) {
		size_t at = owed_place(f, uid);

		f->at.owed = xreallocarray(f->at.owed, f->at.n_owed + 1, sizeof(*o));
		o = &f->at.owed[at];
		memmove(o + 1, o, (f->at.n_owed++ - at) * sizeof(*o));
		*o = (struct store_owed){ .uid = uid, .first_wall_s = now_wall_s };
	}
	free(o->why);
	o->why = xstrdup(why);
	o->next_wall_s = o->attempts < ARRAY_LEN(owed_waits_s) ? now_wall_s + owed_waits_s[o->attempts] : 0;
	o->attempts++;
	o->tried_ms = now_ms;
	ranges_remove(&f->under_way, uid, uid);
	ranges_remove(&f->pending, uid, uid);
	ranges_remove(&f->unanswered, uid, uid);
	return *o;
}

uint64_t folder_count_new(const struct folder *f, const struct ranges *uids)
{
	uint64_t n = ranges_count(uids);

	for (size_t i = 0; i < f->at.n_owed; i++)
		n -= ranges_has(uids, f->at.owed[i].uid);
	return n;
}

/* What is due later than any wait can be was noted by a clock that has been set back since. */
static bool is_due(const struct store_owed *o, int64_t now_wall_s)
{
	return o->next_wall_s != 0 && (o->next_wall_s <= now_wall_s || o->next_wall_s > now_wall_s + OWED_WAIT_MAX_S);
}

uint32_t folder_owed_due(const struct folder *f, int64_t now_wall_s, msec_t session_ms)
{
	for (size_t i = 0; i < f->at.n_owed; i++) {
		const struct store_owed *o = &f->at.owed[i];

		if (is_due(o, now_wall_s) && o->tried_ms < session_ms && !ranges_has(&f->under_way, o->uid))
			return o->uid;
	}
	return 0;
}

bool folder_owed_last_try(const struct folder *f, uint32_t uid)
{
	const struct store_owed *o = owed_find(f, uid);

	return o != NULL && o->attempts >= ARRAY_LEN(owed_waits_s);
}

void folder_note_waiting(struct folder *f, int64_t now_wall_s)
{
	uint32_t p = ranges_first(&f->pending), u = ranges_first(&f->under_way), first = p == 0 || (u != 0 && u < p) ? u : p, last;

	p = ranges_last(&f->pending);
	u = ranges_last(&f->under_way);
	last = u > p ? u : p;
	if (last > f->waiting_to && f->later_since_wall_s == 0)
		f->later_since_wall_s = now_wall_s;
	if (first != 0 && f->waiting_since_wall_s != 0 && first <= f->waiting_to)
		return;
	f->waiting_since_wall_s = first != 0 ? f->later_since_wall_s : 0;
	f->waiting_to = last;
	f->later_since_wall_s = 0;
}

void folder_owed_over(struct folder *f, uint32_t uid)
{
	struct store_owed *o = owed_find(f, uid);

	if (o == NULL)
		return;
	free(o->why);
	memmove(o, o + 1, (size_t)(f->at.owed + --f->at.n_owed - o) * sizeof(*o));
}

void folder_given_up(const struct folder *f, size_t max, struct ranges *ret_uids)
{
	ranges_done(ret_uids);
	for (size_t i = 0; i < f->at.n_owed && ranges_count(ret_uids) < max; i++)
		if (f->at.owed[i].next_wall_s == 0)
			ranges_add(ret_uids, f->at.owed[i].uid, f->at.owed[i].uid);
}

int64_t folder_next_owed_wall_s(const struct folder *f, int64_t after_wall_s)
{
	int64_t next = 0;

	for (size_t i = 0; i < f->at.n_owed; i++) {
		const struct store_owed *o = &f->at.owed[i];

		if (o->next_wall_s != 0 && !is_due(o, after_wall_s) && (next == 0 || o->next_wall_s < next))
			next = o->next_wall_s;
	}
	return next;
}
