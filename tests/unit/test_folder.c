#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "folder.h"
#include "util.h"

static void set(struct ranges *r, const char *text)
{
	assert_int_equal(ranges_parse(r, text), 0);
}

static void expect(const struct ranges *r, const char *text)
{
	char got[256];

	ranges_format(r, got, sizeof(got));
	assert_string_equal(got, text);
}

static msec_t now_ms = 1000;

static void look(struct folder *f, const char *listed, uint64_t n, const char *gone)
{
	struct ranges uids = { 0 }, ret_gone = { 0 };
	uint32_t from = folder_search_from(f);

	if (listed[0] != '\0')
		set(&uids, listed);
	for (size_t i = 0; i < uids.n; i++)
		assert_true(folder_list(f, uids.v[i].lo, uids.v[i].hi));
	folder_listed(f);
	assert_int_equal(folder_look_done(f, from, now_ms, &ret_gone), n);
	expect(&ret_gone, gone);
	ranges_done(&uids);
	ranges_done(&ret_gone);
}

static void test_a_look(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	assert_int_equal(folder_search_from(&f), 1);
	set(&f.at.settled, "1:10,15");
	assert_int_equal(folder_search_from(&f), 11);
	look(&f, "5,12:13,15,20", 3, "");	/* n:* may name one below n (exchange-online 4.6) */
	expect(&f.pending, "12:13,20");
	folder_pick(&f, 2, UINT64_MAX, &batch);
	expect(&batch, "12:13");
	expect(&f.under_way, "12:13");
	look(&f, "12:13,20:21", 2, "");		/* what is under way is nobody's any more */
	expect(&f.pending, "20:21");
	folder_settled(&f, 12, 13);
	ranges_remove(&f.under_way, 12, 12);
	expect(&f.at.settled, "1:10,12:13,15");
	folder_put_back(&f, &batch);
	ranges_done(&batch);
	folder_done(&f);
}

/* An owed one that could not be spooled, or delivered, is asked for as an owed one again: alone, not among others. */
static void test_owed_and_put_back(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	look(&f, "1:3", 3, "");
	folder_owe(&f, 2, "why", 1000, 1);
	folder_pick_owed(&f, 2, &batch);
	expect(&f.under_way, "2");
	assert_int_equal(folder_owed_due(&f, 1060, 2), 0);
	folder_put_back(&f, &batch);
	expect(&f.under_way, "");
	expect(&f.pending, "1,3");
	assert_int_equal(folder_owed_due(&f, 1060, 2), 2);
	ranges_done(&batch);
	folder_done(&f);
}

/* Nothing that was found out about other UIDs is taken for these. */
static void test_other_uids(void **state)
{
	struct folder f;

	(void)state;
	folder_init(&f, "INBOX");
	set(&f.unanswered, "3");
	set(&f.given_up_away, "4");
	set(&f.absent, "5");
	set(&f.missing, "6");
	f.suspect = f.singly_to = 7;
	folder_forget_uids(&f);
	assert_int_equal(f.unanswered.n + f.given_up_away.n + f.absent.n + f.missing.n + f.suspect + f.singly_to, 0);
	folder_done(&f);
}

static void test_a_listing_is_bounded(void **state)
{
	struct folder f;
	uint32_t uid = 1;

	(void)state;
	folder_init(&f, "INBOX");
	for (unsigned i = 0; i < FOLDER_LISTED_MAX; i++, uid += 2)
		assert_true(folder_list(&f, uid, uid));
	assert_true(FOLDER_LISTED_MAX == f.listed.n);
	assert_false(folder_list(&f, uid, uid));
	ranges_done(&f.listed);
	for (uid = 1; uid < 2 * FOLDER_LISTED_MAX - 1; uid += 2)
		assert_true(folder_list(&f, uid, uid));
	assert_true(folder_list(&f, 1, 1));
	assert_false(folder_list(&f, 1, 1));		/* not sorted for each that is there already */
	ranges_done(&f.listed);
	for (unsigned i = 0; i < 2 * FOLDER_LISTED_MAX; i++)	/* in what order ever: they are as many as they are when sorted */
		assert_true(folder_list(&f, 1 + i % 2 + i / 2 % 1000 * 3, 1 + i % 2 + i / 2 % 1000 * 3));
	folder_listed(&f);
	assert_int_equal(f.listed.n, 1000);
	folder_done(&f);
}

/* So many settlements at a time would hold the loop up. */
static void test_what_is_gone_comes_in_portions(void **state)
{
	struct folder f;
	struct ranges gone = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	for (uint32_t uid = 1; uid <= 2 * FOLDER_GONE_MAX + 201; uid += 2)
		ranges_add(&f.at.settled, uid, uid);
	folder_look_done(&f, 2, now_ms, &gone);
	assert_int_equal(gone.n, 0);
	now_ms += FOLDER_GONE_MS;
	folder_look_done(&f, 2, now_ms, &gone);
	assert_int_equal(gone.n, FOLDER_GONE_MAX);
	assert_int_equal(ranges_first(&gone), 202);
	for (size_t i = gone.n; i-- > 0;)
		folder_settled(&f, gone.v[i].lo, gone.v[i].hi);
	now_ms += FOLDER_GONE_MS;
	folder_look_done(&f, 2, now_ms, &gone);
	assert_int_equal(gone.n, 100);
	ranges_done(&gone);
	folder_done(&f);
}

/* What one look leaves out may be listed by the next: only after ten minutes of such looks it is gone. */
static void test_what_looks_leave_out(void **state)
{
	struct folder f;
	msec_t began_ms = now_ms;

	(void)state;
	folder_init(&f, "INBOX");
	set(&f.at.settled, "1:10,13,15");
	look(&f, "14", 1, "");
	look(&f, "", 0, "");
	now_ms = began_ms + FOLDER_GONE_MS - 1;
	look(&f, "11,14,20", 3, "");		/* 11 is there after all; 14 was not looked for: it was listed at first */
	expect(&f.pending, "11,14,20");
	now_ms++;
	look(&f, "11", 1, "12");
	folder_settled(&f, 12, 12);
	now_ms += FOLDER_GONE_MS;
	look(&f, "14", 1, "");			/* for 11 ten minutes begin now */
	now_ms += FOLDER_GONE_MS;
	look(&f, "14", 1, "11");
	folder_settled(&f, 11, 11);
	expect(&f.at.settled, "1:13,15");
	folder_done(&f);
}

/* A look that listed as many as there are has left nothing out. */
static void test_a_look_that_proves(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	f.told_exists = 5;
	f.told_uidnext = 13;
	look(&f, "3,5,9,12", 4, "");
	folder_pick(&f, 4, UINT64_MAX, &batch);
	assert_int_equal(folder_settle_from(&f, 9), 9);		/* one is missing: it may be 7 */
	folder_settled(&f, 9, 9);
	look(&f, "3,5,7,9,12", 1, "1:2,4,6,8");			/* and what it leaves out is no hole */
	expect(&f.pending, "7");
	assert_int_equal(folder_settle_from(&f, 12), 10);
	folder_settled(&f, 10, 12);
	assert_int_equal(folder_settle_from(&f, 15), 15);	/* beyond it nothing is proven */
	ranges_done(&batch);
	folder_done(&f);
}

/* SEARCH knows what has just come before EXISTS does: its number makes up for none that is left out. */
static void test_what_came_since_proves_nothing(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	f.told_exists = f.exists = 4;
	f.told_uidnext = 5;
	look(&f, "1,3:5", 4, "");
	folder_pick(&f, 4, UINT64_MAX, &batch);
	assert_int_equal(folder_settle_from(&f, 3), 3);
	f.told_uidnext = 0;		/* the server tells none */
	look(&f, "2,7", 2, "");
	assert_int_equal(folder_settle_from(&f, 7), 7);
	ranges_done(&batch);
	folder_done(&f);
}

/* What such a look did list exists, also when later ones leave it out. */
static void test_proof_is_not_of_what_was_listed(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	f.told_exists = 5;
	f.told_uidnext = 7;
	look(&f, "1:4,6", 5, "");
	folder_pick(&f, 2, UINT64_MAX, &batch);
	folder_settled(&f, 1, 1);
	folder_settled(&f, 2, 2);
	f.told_exists = 6;
	look(&f, "3,6", 2, "");
	folder_pick(&f, 2, UINT64_MAX, &batch);
	expect(&batch, "3,6");
	folder_settled(&f, folder_settle_from(&f, 3), 3);
	assert_int_equal(folder_settle_from(&f, 6), 5);
	folder_settled(&f, 5, 6);
	expect(&f.at.settled, "1:3,5:6");
	look(&f, "", 0, "");
	look(&f, "4", 1, "");
	ranges_done(&batch);
	folder_done(&f);
}

static void test_what_a_settlement_covers(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	f.told_exists = 4;
	f.told_uidnext = UINT32_MAX;
	look(&f, "10,4000000000:4000000001,4294967294", 4, "");
	folder_pick(&f, 1, UINT64_MAX, &batch);
	assert_int_equal(folder_settle_from(&f, 10), 1);	/* nothing below is listed */
	folder_settled(&f, 1, 10);
	expect(&f.at.settled, "1:10");
	folder_pick(&f, 2, UINT64_MAX, &batch);
	assert_int_equal(folder_settle_from(&f, 4000000001U), 4000000001U);	/* 4000000000 is under way */
	folder_settled(&f, 4000000001U, 4000000001U);
	assert_int_equal(folder_settle_from(&f, 4000000000U), 11);
	folder_settled(&f, 11, 4000000000U);
	expect(&f.at.settled, "1:4000000001");
	assert_int_equal(folder_settle_from(&f, 4294967294U), 4000000002U);
	folder_settled(&f, 4000000002U, 4294967295U);
	assert_int_equal(f.at.settled.n, 1);
	assert_int_equal(folder_search_from(&f), 0);		/* nothing is left to search */
	ranges_done(&batch);
	folder_done(&f);
}

static void test_batches_by_size(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	look(&f, "1:6", 6, "");
	for (uint32_t uid = 1; uid <= 6; uid++)
		folder_note_size(&f, uid, uid == 3 ? 1000 : 100);
	folder_pick(&f, 100, 250, &batch);
	expect(&batch, "1:2");
	folder_pick(&f, 100, 250, &batch);
	expect(&batch, "3");			/* one at least, however large */
	folder_pick(&f, 2, 250, &batch);
	expect(&batch, "4:5");
	folder_pick(&f, 2, 250, &batch);
	expect(&batch, "6");
	folder_pick(&f, 2, 250, &batch);
	expect(&batch, "");
	ranges_done(&batch);
	folder_done(&f);
}

/* One that has come and had no room is as large as it said, not as was estimated. */
static void test_a_large_one_is_remembered(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	look(&f, "1:4", 4, "");
	for (uint32_t uid = 1; uid <= 4; uid++)
		folder_note_size(&f, uid, 100);
	folder_note_large(&f, 3, 2 * FOLDER_SIZE_BELIEVED);
	folder_pick(&f, 100, 1000, &batch);
	expect(&batch, "1:2");
	assert_int_equal(folder_estimate(&f, &batch), 200);
	folder_pick(&f, 100, 3 * FOLDER_SIZE_BELIEVED, &batch);
	expect(&batch, "3:4");
	assert_int_equal(folder_estimate(&f, &batch), 2 * FOLDER_SIZE_BELIEVED + 100);
	ranges_done(&batch);
	folder_done(&f);
}

/* Sums of what is told stay below 2^64. */
static void test_sizes_that_cannot_be(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	look(&f, "1:4", 4, "");
	for (uint32_t uid = 1; uid <= 4; uid++)
		folder_note_size(&f, uid, UINT64_MAX);
	folder_pick(&f, 100, 2 * FOLDER_SIZE_BELIEVED, &batch);
	expect(&batch, "1:2");
	ranges_done(&batch);
	folder_done(&f);
}

static void test_suspect_is_fetched_alone(void **state)
{
	struct folder f;
	struct ranges batch = { 0 };

	(void)state;
	folder_init(&f, "INBOX");
	look(&f, "1:6", 6, "");
	f.suspect = 3;
	folder_pick(&f, 100, UINT64_MAX, &batch);
	expect(&batch, "1:2");
	folder_pick(&f, 100, UINT64_MAX, &batch);
	expect(&batch, "3");
	folder_pick(&f, 100, UINT64_MAX, &batch);
	expect(&batch, "4:6");
	ranges_done(&batch);
	folder_done(&f);
}

/* exchange-online 5.8: 1 min, 10 min, 1 h, then given up */
static void test_owed(void **state)
{
	struct folder f;
	struct store_owed o;

	(void)state;
	folder_init(&f, "INBOX");
	set(&f.at.settled, "1:4");
	look(&f, "5:6", 2, "");
	set(&f.listed, "4:6");
	assert_int_equal(folder_count_new(&f, &f.listed), 3);
	o = folder_owe(&f, 5, "nothing came", 1000, 1);
	assert_int_equal(folder_count_new(&f, &f.listed), 2);
	ranges_done(&f.listed);
	assert_int_equal(o.next_wall_s, 1060);
	assert_int_equal(o.attempts, 1);
	expect(&f.pending, "6");
	assert_int_equal(folder_search_from(&f), 6);		/* later mail flows on */
	assert_int_equal(folder_owed_due(&f, 1059, 2), 0);
	assert_int_equal(folder_owed_due(&f, 1060, 1), 0);		/* in a later session only */
	assert_int_equal(folder_owed_due(&f, 1060, 2), 5);
	assert_int_equal(folder_next_owed_wall_s(&f, 1059), 1060);
	assert_int_equal(folder_next_owed_wall_s(&f, 1060), 0);
	assert_int_equal(folder_owe(&f, 5, "again", 1060, 2).next_wall_s, 1660);
	assert_int_equal(folder_owe(&f, 5, "again", 1660, 3).next_wall_s, 5260);
	o = folder_owe(&f, 5, "again", 5260, 4);
	assert_int_equal(o.next_wall_s, 0);
	assert_int_equal(o.first_wall_s, 1000);
	assert_string_equal(o.why, "again");
	assert_int_equal(folder_owed_due(&f, 999999, INT64_MAX), 0);
	assert_int_equal(folder_next_owed_wall_s(&f, 0), 0);
	assert_int_equal(folder_settle_from(&f, 6), 6);		/* an owed UID is never settled along with others */
	folder_owed_over(&f, 5);
	assert_int_equal(f.at.n_owed, 0);
	folder_done(&f);
}

/* What was owed while the clock was ahead does not wait until it is as late again. */
static void test_owed_by_a_clock_that_was_ahead(void **state)
{
	struct folder f;

	(void)state;
	folder_init(&f, "INBOX");
	folder_owe(&f, 5, "nothing came", 101000, 1);
	assert_int_equal(folder_owed_due(&f, 1000, 2), 5);
	assert_int_equal(folder_next_owed_wall_s(&f, 1000), 0);
	folder_owe(&f, 5, "again", 1000, 2);
	folder_owe(&f, 5, "again", 1600, 3);			/* an hour, of a clock that is set back by seconds only */
	assert_int_equal(folder_owed_due(&f, 1595, 4), 0);
	assert_int_equal(folder_next_owed_wall_s(&f, 1595), 5200);
	assert_int_equal(folder_owed_due(&f, 5200, 4), 5);
	folder_done(&f);
}

/* Each in its turn, all in one session; what has been tried in it waits for the next. */
static void test_many_are_owed(void **state)
{
	struct folder f;

	(void)state;
	folder_init(&f, "INBOX");
	for (uint32_t uid = 1; uid <= 3; uid++)
		folder_owe(&f, uid, "nothing came", 1000, 10);
	for (uint32_t uid = 1; uid <= 3; uid++) {
		assert_int_equal(folder_owed_due(&f, 1060, 20), uid);
		folder_owe(&f, uid, "again", 1060, 30 + uid);
	}
	assert_int_equal(folder_owed_due(&f, 2000, 20), 0);
	assert_int_equal(folder_owed_due(&f, 2000, 40), 1);
	folder_done(&f);
}

/* exchange-online 5.12 */
static void test_known_before(void **state)
{
	struct folder f;

	(void)state;
	folder_init(&f, "INBOX");
	assert_int_equal(folder_known_before_s(&f, 0, 500000), 0);	/* the first sync was never complete: all may be new */
	assert_int_equal(folder_known_before_s(&f, 300000, 500000), 300000);	/* but for what `start` leaves out */
	f.at.complete = true;
	assert_int_equal(folder_known_before_s(&f, 0, 500000), 500000);
	assert_int_equal(folder_known_before_s(&f, 0, 0), 0);		/* nothing is kept: nothing is known */
	folder_owe(&f, 7, "x", 400000, 1);
	assert_int_equal(folder_known_before_s(&f, 0, 500000), 400000 - 86400);
	folder_done(&f);
}

/* Mail that never ceases to come is not as old as the first of it. */
static void test_since_when_something_waits(void **state)
{
	struct folder f;

	(void)state;
	folder_init(&f, "INBOX");
	folder_note_waiting(&f, 100);
	assert_int_equal(f.waiting_since_wall_s, 0);
	set(&f.under_way, "1:3");
	folder_note_waiting(&f, 110);
	assert_int_equal(f.waiting_since_wall_s, 110);
	set(&f.pending, "4");
	folder_note_waiting(&f, 120);
	set(&f.pending, "4:9");
	folder_note_waiting(&f, 130);
	assert_int_equal(f.waiting_since_wall_s, 110);
	ranges_remove(&f.under_way, 1, 2);
	folder_note_waiting(&f, 140);
	assert_int_equal(f.waiting_since_wall_s, 110);
	ranges_remove(&f.under_way, 3, 3);
	folder_note_waiting(&f, 150);
	assert_int_equal(f.waiting_since_wall_s, 120);		/* of 4:9 the first */
	set(&f.under_way, "12");
	ranges_remove(&f.pending, 4, 9);
	folder_note_waiting(&f, 160);				/* and settled at once */
	assert_int_equal(f.waiting_since_wall_s, 160);
	ranges_remove(&f.under_way, 12, 12);
	folder_note_waiting(&f, 170);
	assert_int_equal(f.waiting_since_wall_s, 0);
	set(&f.pending, "2");					/* put back, or once more */
	folder_note_waiting(&f, 180);
	assert_int_equal(f.waiting_since_wall_s, 180);
	folder_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_are_owed), cmocka_unit_test(test_since_when_something_waits), cmocka_unit_test(test_known_before),
		cmocka_unit_test(test_a_look), cmocka_unit_test(test_owed_and_put_back), cmocka_unit_test(test_other_uids), cmocka_unit_test(test_a_listing_is_bounded), cmocka_unit_test(test_what_looks_leave_out), cmocka_unit_test(test_a_look_that_proves),
		cmocka_unit_test(test_what_came_since_proves_nothing), cmocka_unit_test(test_proof_is_not_of_what_was_listed),
		cmocka_unit_test(test_what_a_settlement_covers), cmocka_unit_test(test_what_is_gone_comes_in_portions), cmocka_unit_test(test_batches_by_size),
		cmocka_unit_test(test_sizes_that_cannot_be), cmocka_unit_test(test_a_large_one_is_remembered),
		cmocka_unit_test(test_suspect_is_fetched_alone), cmocka_unit_test(test_owed),
		cmocka_unit_test(test_owed_by_a_clock_that_was_ahead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
