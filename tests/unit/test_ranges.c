#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "ranges.h"

#define N 300				/* numbers of the comparison with a plain bit set */

static void expect(const struct ranges *set, const char *text)
{
	char got[512];

	ranges_format(set, got, sizeof(got));
	assert_string_equal(got, text);
}

static void test_add(void **state)
{
	struct ranges set = { 0 };

	(void)state;
	ranges_add(&set, 5, 5);
	ranges_add(&set, 7, 9);
	expect(&set, "5,7:9");
	ranges_add(&set, 6, 6);
	expect(&set, "5:9");
	ranges_add(&set, 1, 2);
	expect(&set, "1:2,5:9");
	ranges_add(&set, 4, 4);
	expect(&set, "1:2,4:9");
	ranges_add(&set, 0, 3);
	expect(&set, "1:9");
	ranges_add(&set, UINT32_MAX, UINT32_MAX);
	ranges_add(&set, UINT32_MAX - 1, UINT32_MAX);
	expect(&set, "1:9,4294967294:4294967295");
	ranges_add(&set, 10, UINT32_MAX);
	expect(&set, "1:4294967295");
	assert_int_equal(ranges_count(&set), UINT32_MAX);
	assert_int_equal(ranges_first_missing(&set, 1), 0);
	assert_int_equal(ranges_run_up_to(&set, 7), 1);
	ranges_add(&set, 5, 4);
	assert_int_equal(set.n, 1);
	ranges_done(&set);
	assert_null(set.v);
}

static void test_append(void **state)
{
	struct ranges set = { 0 }, added = { 0 };

	(void)state;
	ranges_append(&set, 9, 9);
	ranges_append(&set, 8, 8);
	ranges_append(&set, 3, 5);
	ranges_append(&set, 6, 6);
	ranges_append(&set, 20, 20);
	ranges_append(&set, 4, 7);
	ranges_append(&set, 0, 1);
	ranges_append(&set, 5, 4);
	ranges_append(&set, UINT32_MAX, UINT32_MAX);
	ranges_append(&set, UINT32_MAX, UINT32_MAX);
	ranges_sort(&set);
	expect(&set, "1,3:9,20,4294967295");
	ranges_done(&set);
	for (unsigned i = 0; i < 2000; i++) {
		uint32_t n = 1 + (i * 7919) % 1543;

		ranges_append(&set, n, n + i % 3);
		ranges_add(&added, n, n + i % 3);
	}
	ranges_sort(&set);
	assert_int_equal(set.n, added.n);
	assert_memory_equal(set.v, added.v, set.n * sizeof(*set.v));
	ranges_done(&set);
	ranges_done(&added);
	/* every other one of two millions, from the end: moved along one by one it would be hours */
	for (uint32_t n = 2000000; n > 0; n -= 2)
		ranges_append(&set, n, n);
	ranges_sort(&set);
	assert_int_equal(set.n, 1000000);
	assert_int_equal(ranges_first(&set), 2);
	ranges_done(&set);
	ranges_sort(&set);
	assert_int_equal(set.n, 0);
}

static void test_remove(void **state)
{
	struct ranges set = { 0 };

	(void)state;
	ranges_add(&set, 1, 10);
	ranges_remove(&set, 4, 6);
	expect(&set, "1:3,7:10");
	assert_int_equal(ranges_run_up_to(&set, 9), 7);
	assert_int_equal(ranges_run_up_to(&set, 6), 7);
	assert_int_equal(ranges_run_up_to(&set, 0), 1);
	ranges_remove(&set, 3, 7);
	expect(&set, "1:2,8:10");
	ranges_remove(&set, 20, 30);
	ranges_remove(&set, 1, 1);
	ranges_remove(&set, 10, 10);
	expect(&set, "2,8:9");
	assert_int_equal(ranges_first(&set), 2);
	assert_int_equal(ranges_last(&set), 9);
	ranges_remove(&set, 1, UINT32_MAX);
	assert_int_equal(set.n, 0);
	assert_int_equal(ranges_first(&set), 0);
	assert_int_equal(ranges_last(&set), 0);
	ranges_done(&set);
}

static void compare(const struct ranges *set, const bool *bits)
{
	uint64_t n = 0;

	for (uint32_t i = 1; i < N; i++) {
		assert_int_equal(ranges_has(set, i), bits[i]);
		n += bits[i];
	}
	assert_int_equal(ranges_count(set), n);
	for (size_t i = 1; i < set->n; i++)	/* sorted, disjoint, not adjacent */
		assert_true((uint64_t)set->v[i - 1].hi + 1 < set->v[i].lo);
}

/* Every operation in a long random sequence does what the same one does on an array of bits. */
static void test_against_bits(void **state)
{
	struct ranges set = { 0 }, other = { 0 };
	bool bits[N] = { false }, other_bits[N] = { false };
	unsigned seed = 1;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		seed = seed * 1103515245 + 12345;
		uint32_t lo = 1 + seed / 7 % (N - 1), len = seed / 65536 % 12, hi = lo + len < N ? lo + len : N - 1;
		unsigned what = seed / 1048576 % 8;

		if (what < 4) {
			ranges_add(&set, lo, hi);
		} else if (what < 7) {
			ranges_remove(&set, lo, hi);
		} else {
			ranges_add(&other, lo, hi);
			for (uint32_t i = lo; i <= hi; i++)
				other_bits[i] = true;
			if (round % 50 == 0) {
				bool keep = round % 100 == 0;

				if (keep)
					ranges_keep(&set, &other);
				else
					ranges_remove_all(&set, &other);
				for (uint32_t i = 1; i < N; i++)
					bits[i] = bits[i] && other_bits[i] == keep;
				ranges_done(&other);
				memset(other_bits, 0, sizeof(other_bits));
			}
			continue;
		}
		for (uint32_t i = lo; i <= hi; i++)
			bits[i] = what < 4;
		compare(&set, bits);
	}
	compare(&other, other_bits);
	ranges_done(&set);
	ranges_done(&other);
}

static void test_take(void **state)
{
	struct ranges set = { 0 }, taken = { 0 };

	(void)state;
	assert_int_equal(ranges_parse(&set, "1:3,5,8:9"), 0);
	ranges_take(&set, 2, &taken);
	expect(&taken, "1:2");
	expect(&set, "3,5,8:9");
	ranges_take(&set, 3, &taken);
	expect(&taken, "3,5,8");
	expect(&set, "9");
	ranges_take(&set, 0, &taken);
	expect(&taken, "");
	ranges_take(&set, UINT64_MAX, &taken);
	expect(&taken, "9");
	expect(&set, "");
	ranges_done(&set);
	ranges_done(&taken);
}

static void test_first_missing(void **state)
{
	struct ranges set = { 0 };

	(void)state;
	assert_int_equal(ranges_first_missing(&set, 0), 1);
	assert_int_equal(ranges_parse(&set, "1:5,7"), 0);
	assert_int_equal(ranges_first_missing(&set, 1), 6);
	assert_int_equal(ranges_first_missing(&set, 7), 8);
	assert_int_equal(ranges_first_missing(&set, 100), 100);
	ranges_done(&set);
}

static void test_text(void **state)
{
	static const char *const bad[] = { "", ",", "1,", "1:", ":1", "0", "1:*", "4294967296", "1 2", "a", "-1", "1:2:3" };
	struct ranges set = { 0 };
	char text[8];

	(void)state;
	assert_int_equal(ranges_parse(&set, "9:7,1,2,4294967295"), 0);
	expect(&set, "1:2,7:9,4294967295");
	assert_int_equal(ranges_format(&set, text, sizeof(text)), 5);	/* "1:2,7:9" and NUL just fit */
	assert_string_equal(text, "1:2,7:9");
	assert_int_equal(ranges_format(&set, text, sizeof(text) - 1), 2);
	assert_string_equal(text, "1:2");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (ranges_parse(&set, bad[i]) == 0)
			fail_msg("accepted: %s", bad[i]);
	expect(&set, "1:2,7:9,4294967295");	/* untouched */
	ranges_done(&set);
}

static void test_copy(void **state)
{
	struct ranges a = { 0 }, b = { 0 };

	(void)state;
	assert_int_equal(ranges_parse(&a, "1:2,9"), 0);
	ranges_copy(&b, &a);
	ranges_add(&a, 3, 3);
	expect(&b, "1:2,9");
	ranges_done(&a);
	ranges_copy(&b, &a);
	expect(&b, "");
	ranges_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add), cmocka_unit_test(test_append), cmocka_unit_test(test_remove), cmocka_unit_test(test_against_bits), cmocka_unit_test(test_take),
		cmocka_unit_test(test_first_missing), cmocka_unit_test(test_text), cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
