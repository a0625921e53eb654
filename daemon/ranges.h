/* ranges.h - a set of 32-bit numbers (UIDs) kept as sorted, disjoint, non-adjacent ranges. Pure.
 * A mailbox of a million settled UIDs is one range of 8 bytes. UID 0 does not exist and is never in a set. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "util.h"

struct range { uint32_t lo, hi; };		/* both included */
struct ranges { struct range *v; size_t n, room; };	/* {0} is the empty set; ranges_done() frees */

void ranges_done(struct ranges *);		/* leaves an empty set */
void ranges_copy(struct ranges *, const struct ranges *from);	/* replaces what was there */
void ranges_add(struct ranges *, uint32_t lo, uint32_t hi);	/* appending ascending numbers is O(1) */
/* Numbers in any order, each in O(1); after the last, and before anything else, ranges_sort(). */
void ranges_append(struct ranges *, uint32_t lo, uint32_t hi);
void ranges_sort(struct ranges *);
void ranges_remove(struct ranges *, uint32_t lo, uint32_t hi);
void ranges_remove_all(struct ranges *, const struct ranges *those);
void ranges_keep(struct ranges *, const struct ranges *those);	/* and nothing else */
bool ranges_has(const struct ranges *, uint32_t number);
uint64_t ranges_count(const struct ranges *);	/* numbers, not ranges */
uint32_t ranges_first(const struct ranges *);	/* 0 when empty */
uint32_t ranges_last(const struct ranges *);	/* 0 when empty */
/* The first number >= from that is not in the set; 0 when there is none below 2^32. */
uint32_t ranges_first_missing(const struct ranges *, uint32_t from);
/* The lowest number from which on all up to to are in the set; to + 1 when to is not. */
uint32_t ranges_run_up_to(const struct ranges *, uint32_t to);
/* Moves the lowest numbers, at most max of them, from one set to another (which is emptied first). */
void ranges_take(struct ranges *, uint64_t max, struct ranges *ret_taken);

/* RFC 3501 sequence-set, "1:5,7". ranges_format() stops at a range that would pass size (NUL included) and
 * returns how many numbers it wrote; ranges_parse() takes nothing but that syntax, without '*'. */
uint64_t ranges_format(const struct ranges *, char *ret_text, size_t size);
int ranges_parse(struct ranges *ret_set, const char *text) MUST_CHECK;
