#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ranges.h"

void ranges_done(struct ranges *set)
{
	free(set->v);
	*set = (struct ranges){ 0 };
}

void ranges_copy(struct ranges *set, const struct ranges *from)
{
	if (set == from)
		return;
	ranges_done(set);
	if (from->n == 0)
		return;
	set->v = xreallocarray(NULL, from->n, sizeof(*set->v));
	memcpy(set->v, from->v, from->n * sizeof(*set->v));
	set->n = set->room = from->n;
}

/* The first range whose hi is not below number: the one that has it, or the next above; n when there is none. */
static size_t position(const struct ranges *set, uint32_t number)
{
	size_t lo = 0, hi = set->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (set->v[mid].hi < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Replaces the n ranges from i on by the m given ones. */
static void splice(struct ranges *set, size_t i, size_t n, const struct range *by, size_t m)
{
	size_t total = set->n - n + m;

	if (total > set->room) {
		set->room = total + total / 2 + 4;
		set->v = xreallocarray(set->v, set->room, sizeof(*set->v));
	}
	if (m != n && i + n < set->n)
		memmove(set->v + i + m, set->v + i + n, (set->n - i - n) * sizeof(*set->v));
	if (m > 0)
		memcpy(set->v + i, by, m * sizeof(*by));
	set->n = total;
}

void ranges_add(struct ranges *set, uint32_t lo, uint32_t hi)
{
	struct range merged = { lo == 0 ? 1 : lo, hi };
	size_t first, last;

	if (merged.lo > merged.hi)
		return;
	if (set->n > 0 && set->v[set->n - 1].hi < merged.lo) {	/* the usual case: at the end */
		if (set->v[set->n - 1].hi + 1 == merged.lo)
			set->v[set->n - 1].hi = merged.hi;
		else
			splice(set, set->n, 0, &merged, 1);
		return;
	}
	first = position(set, merged.lo - 1);	/* one that ends just below touches */
	last = first;
	while (last < set->n && set->v[last].lo <= (merged.hi == UINT32_MAX ? UINT32_MAX : merged.hi + 1)) {
		if (set->v[last].lo < merged.lo)
			merged.lo = set->v[last].lo;
		if (set->v[last].hi > merged.hi)
			merged.hi = set->v[last].hi;
		last++;
	}
	splice(set, first, last - first, &merged, 1);
}

void ranges_append(struct ranges *set, uint32_t lo, uint32_t hi)
{
	struct range added = { lo == 0 ? 1 : lo, hi }, *last = set->n > 0 ? &set->v[set->n - 1] : NULL;

	if (added.lo > added.hi)
		return;
	if (last != NULL && last->hi != UINT32_MAX && added.lo == last->hi + 1)
		last->hi = added.hi;
	else if (last != NULL && added.hi != UINT32_MAX && added.hi + 1 == last->lo)
		last->lo = added.lo;
	else
		splice(set, set->n, 0, &added, 1);
}

static int by_lo(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

void ranges_sort(struct ranges *set)
{
	size_t n = 0;

	for (size_t i = 1; i < set->n; i++) {
		if (set->v[i].lo > set->v[i - 1].hi)
			continue;
		qsort(set->v, set->n, sizeof(*set->v), by_lo);
		break;
	}
	for (size_t i = 0; i < set->n; i++) {
		struct range *last = n > 0 ? &set->v[n - 1] : NULL;

		if (last == NULL || (last->hi != UINT32_MAX && set->v[i].lo > last->hi + 1))
			set->v[n++] = set->v[i];
		else if (set->v[i].hi > last->hi)
			last->hi = set->v[i].hi;
	}
	set->n = n;
}

void ranges_remove(struct ranges *set, uint32_t lo, uint32_t hi)
{
	struct range rest[2];
	size_t n = 0, first, last;

	if (lo > hi)
		return;
	first = position(set, lo);
	for (last = first; last < set->n && set->v[last].lo <= hi; last++) {
		if (set->v[last].lo < lo)
			rest[n++] = (struct range){ set->v[last].lo, lo - 1 };
		if (set->v[last].hi > hi)
			rest[n++] = (struct range){ hi + 1, set->v[last].hi };
	}
	splice(set, first, last - first, rest, n);
	if (set->n == 0)
		ranges_done(set);
}

/* One pass over both: the sets may each have 100,000 ranges. */
void ranges_remove_all(struct ranges *set, const struct ranges *those)
{
	struct ranges left = { 0 };
	size_t i, j = 0;

	if (those->n < 8) {
		for (i = 0; i < those->n; i++)
			ranges_remove(set, those->v[i].lo, those->v[i].hi);
		return;
	}
	for (i = 0; i < set->n; i++) {
		uint64_t lo = set->v[i].lo, hi = set->v[i].hi;

		while (j < those->n && those->v[j].hi < lo)
			j++;
		for (size_t k = j; k < those->n && those->v[k].lo <= hi && lo <= hi; k++) {
			if (those->v[k].lo > lo)
				ranges_add(&left, (uint32_t)lo, those->v[k].lo - 1);
			lo = (uint64_t)those->v[k].hi + 1;
			j = k;
		}
		if (lo <= hi)
			ranges_add(&left, (uint32_t)lo, (uint32_t)hi);
	}
	ranges_done(set);
	*set = left;
}

void ranges_keep(struct ranges *set, const struct ranges *those)
{
	struct ranges others = { 0 };

	ranges_copy(&others, set);
	ranges_remove_all(&others, those);
	ranges_remove_all(set, &others);
	ranges_done(&others);
}

bool ranges_has(const struct ranges *set, uint32_t number)
{
	size_t i = position(set, number);

	return i < set->n && set->v[i].lo <= number;
}

uint64_t ranges_count(const struct ranges *set)
{
	uint64_t n = 0;

	for (size_t i = 0; i < set->n; i++)
		n += (uint64_t)set->v[i].hi - set->v[i].lo + 1;
	return n;
}

uint32_t ranges_first(const struct ranges *set)
{
	return set->n > 0 ? set->v[0].lo : 0;
}

uint32_t ranges_last(const struct ranges *set)
{
	return set->n > 0 ? set->v[set->n - 1].hi : 0;
}

uint32_t ranges_first_missing(const struct ranges *set, uint32_t from)
{
	size_t i;

	if (from == 0)
		from = 1;
	i = position(set, from);
	if (i == set->n || set->v[i].lo > from)
		return from;
	return set->v[i].hi + 1;	/* ranges are not adjacent; UINT32_MAX + 1 is 0: none */
}

uint32_t ranges_run_up_to(const struct ranges *set, uint32_t to)
{
	size_t i = position(set, to);

	return i == set->n || set->v[i].lo > to ? to + 1 : set->v[i].lo;
}

void ranges_take(struct ranges *set, uint64_t max, struct ranges *ret_taken)
{
	size_t whole = 0;

	ranges_done(ret_taken);
	while (whole < set->n && max > 0) {
		struct range *r = &set->v[whole];
		uint64_t n = (uint64_t)r->hi - r->lo + 1;

		if (n > max) {
			ranges_add(ret_taken, r->lo, r->lo + (uint32_t)(max - 1));
			r->lo += (uint32_t)max;
			break;
		}
		ranges_add(ret_taken, r->lo, r->hi);
		max -= n;
		whole++;
	}
	splice(set, 0, whole, NULL, 0);
	if (set->n == 0)
		ranges_done(set);
}

uint64_t ranges_format(const struct ranges *set, char *ret_text, size_t size)
{
	size_t at = 0;
	uint64_t n = 0;

	ret_text[0] = '\0';
	for (size_t i = 0; i < set->n; i++) {
		const struct range *r = &set->v[i];
		char one[32];
		int len = r->lo == r->hi ? snprintf(one, sizeof(one), "%s%u", i > 0 ? "," : "", r->lo)
		                         : snprintf(one, sizeof(one), "%s%u:%u", i > 0 ? "," : "", r->lo, r->hi);

		if (at + (size_t)len >= size)
			break;
		memcpy(ret_text + at, one, (size_t)len + 1);
		at += (size_t)len;
		n += (uint64_t)r->hi - r->lo + 1;
	}
	return n;
}

static int parse_number(const char **text, uint32_t *ret_number)
{
	uint64_t n = 0;
	const char *p = *text;

	while (*p >= '0' && *p <= '9' && n <= UINT32_MAX)
		n = n * 10 + (uint64_t)(*p++ - '0');
	if (p == *text || n == 0 || n > UINT32_MAX)
		return -1;
	*text = p;
	*ret_number = (uint32_t)n;
	return 0;
}

int ranges_parse(struct ranges *ret_set, const char *text)
{
	struct ranges set = { 0 };
	uint32_t lo, hi;

	for (;;) {
		if (parse_number(&text, &lo) < 0)
			goto bad;
		hi = lo;
		if (*text == ':') {
			text++;
			if (parse_number(&text, &hi) < 0)
				goto bad;
		}
		ranges_add(&set, lo < hi ? lo : hi, lo < hi ? hi : lo);
		if (*text == '\0')
			break;
		if (*text++ != ',')
			goto bad;
	}
	ranges_done(ret_set);
	*ret_set = set;
	return 0;
bad:
	ranges_done(&set);
	return -1;
}
