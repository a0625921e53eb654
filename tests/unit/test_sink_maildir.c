/* In which order a message's steps into a Maildir come; volume, spool and store are of clay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "config.h"
#include "sink_maildir.h"
#include "store.h"
#include "util.h"
#include "volume.h"
#include "workers.h"

static struct {
	char steps[64];			/* a letter for each that has begun */
	volume_flushed_cb *on_volume; void *volume_arg;
	store_cb *on_store; void *store_arg;
	enum sink_outcome outcome;
	struct store_found_intent found[2];
	size_t n_found;
	struct sink_env *late;		/* of this it becomes known while the first directory is flushed */
	char flushed[64];		/* a directory */
	char place[40];			/* where the intents were made; "": not known */
	int flush_error;
	int flushes_left;		/* of names of what was made, with the one that fails; 0: none does */
} w;

static void step(char c)
{
	w.steps[strlen(w.steps)] = c;
}

void __wrap_volume_flush(struct volume *v, const char *path, volume_flushed_cb *cb, void *arg);
void __wrap_volume_flush(struct volume *v, const char *path, volume_flushed_cb *cb, void *arg)
{
	(void)v;
	assert_string_equal(path, "/mail/a/tmp/mailpolld.x.y.1");
	step('f');
	w.on_volume = cb;
	w.volume_arg = arg;
}

void __wrap_volume_rename(struct volume *v, const char *rename_from, const char *path, volume_flushed_cb *cb, void *arg);
void __wrap_volume_rename(struct volume *v, const char *rename_from, const char *path, volume_flushed_cb *cb, void *arg)
{
	(void)v;
	assert_string_equal(rename_from, "/mail/a/tmp/mailpolld.x.y.1");
	assert_memory_equal(path, "/mail/a/new/7.", 14);
	step('r');
	w.on_volume = cb;
	w.volume_arg = arg;
}

void __wrap_store_add_intent(struct store *s, const struct store_intent *intent, store_cb *cb, void *arg);
void __wrap_store_add_intent(struct store *s, const struct store_intent *intent, store_cb *cb, void *arg)
{
	(void)s;
	assert_string_equal(intent->maildir, "/mail/a");
	assert_string_equal(intent->tmp_name, "mailpolld.x.y.1");
	assert_string_equal(intent->place, "801.2a");
	step('i');
	w.on_store = cb;
	w.store_arg = arg;
}

void __wrap_store_drop_intent(struct store *s, folder_ref folder, uint32_t uid, const char *sink, const char *tmp_name, store_cb *cb, void *arg);
void __wrap_store_drop_intent(struct store *s, folder_ref folder, uint32_t uid, const char *sink, const char *tmp_name, store_cb *cb, void *arg)
{
	(void)s, (void)folder, (void)sink;
	assert_int_equal(uid, 5);
	assert_non_null(tmp_name);
	step('d');
	w.on_store = cb;
	w.store_arg = arg;
}

void __wrap_spool_remove(struct volume *v, const char *path);
void __wrap_spool_remove(struct volume *v, const char *path)
{
	(void)v;
	assert_string_equal(path, "/mail/a/tmp/mailpolld.x.y.1");
	step('u');
}

int __wrap_flush_directory(const char *path);
int __wrap_flush_directory(const char *path)
{
	snprintf(w.flushed, sizeof(w.flushed), "%s", path);
	step('D');
	if (w.late != NULL)
		sink_maildir_recovery_is_late(w.late);
	return w.flush_error;
}

void __wrap_store_settle(struct store *s, const struct store_settlement *what, store_cb *cb, void *arg);
void __wrap_store_settle(struct store *s, const struct store_settlement *what, store_cb *cb, void *arg)
{
	(void)s, (void)cb, (void)arg;
	assert_int_equal(what->uid, 5);
	assert_non_null(what->found_tmp_name);	/* only as long as there is that intent */
	assert_true(what->delivered);
	step('s');
}

const struct store_found_intent *__wrap_store_found_intents(const struct store *s, size_t *ret_n);
const struct store_found_intent *__wrap_store_found_intents(const struct store *s, size_t *ret_n)
{
	(void)s;
	*ret_n = w.n_found;
	return w.found;
}

const char *__wrap_store_instance(const struct store *s);
const char *__wrap_store_instance(const struct store *s)
{
	(void)s;
	return "x";
}

void __wrap_lane_submit(struct lane *lane, struct job *job);
void __wrap_lane_submit(struct lane *lane, struct job *job)
{
	(void)lane;
	job->work(job);
	job->done(job);
}

static void on_done(void *arg, struct message *m, enum sink_outcome outcome, const struct failure *why)
{
	(void)arg, (void)m;
	assert_int_equal(outcome == SINK_DELIVERED, why == NULL);
	step('!');
	w.outcome = outcome;
}

dev_t __wrap_volume_dev(const struct volume *v);
dev_t __wrap_volume_dev(const struct volume *v)
{
	(void)v;
	return 0x801;
}

int __wrap_flush_directory_of(const char *path);
int __wrap_flush_directory_of(const char *path)
{
	step(strcmp(strrchr(path, '/'), "/tmp") == 0 ? 'P' : 'M');	/* the Maildir's parts; its own name */
	return --w.flushes_left == 0 ? EIO : 0;
}

struct volume *__wrap_volume_get(struct volumes *vs, dev_t dev, const char *path);
struct volume *__wrap_volume_get(struct volumes *vs, dev_t dev, const char *path)
{
	(void)vs, (void)dev, (void)path;
	return NULL;
}

void __wrap_volume_note_free(struct volume *v, uint64_t free_bytes);
void __wrap_volume_note_free(struct volume *v, uint64_t free_bytes)
{
	(void)v;
	assert_true(free_bytes > 0);
}

static const struct sink_conf conf = { .name = (char[]){ "maildir" } };
static void *sink;
static struct message *message;

static int setup(void **state)
{
	static const struct sink_env env;

	(void)state;
	memset(&w, 0, sizeof(w));
	sink = sink_maildir_driver.open(&env, &conf);
	message = xcalloc(1, sizeof(*message));
	*message = (struct message){ .uid = 5, .internaldate_s = 7, .key = xstrdup("a/INBOX/1/5"), .path = xstrdup("/mail/a/tmp/mailpolld.x.y.1"),
	    .dir_inode = 0x2a };
	sink_maildir_driver.deliver(sink, message, on_done, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	message_free(&message);
	sink_maildir_driver.close(sink);
	return 0;
}

static void expect(const char *steps)
{
	assert_string_equal(w.steps, steps);
}

static void test_delivered(void **state)
{
	(void)state;
	expect("f");
	w.on_volume(w.volume_arg, 0);
	expect("fi");
	w.on_store(w.store_arg, STORE_OK);
	expect("fir");
	w.on_volume(w.volume_arg, 0);
	expect("fir!");
	assert_int_equal(w.outcome, SINK_DELIVERED);
	assert_memory_equal(message->path, "/mail/a/new/7.", 14);
}

static void test_flush_fails(void **state)
{
	(void)state;
	w.on_volume(w.volume_arg, EIO);
	expect("fu!");
	assert_int_equal(w.outcome, SINK_LOST);
}

/* A crash while the file is gone and the intent still there would count the message as delivered. */
static void test_rename_fails(void **state)
{
	(void)state;
	w.on_volume(w.volume_arg, 0);
	w.on_store(w.store_arg, STORE_OK);
	w.on_volume(w.volume_arg, ENOENT);
	expect("fird");
	w.on_store(w.store_arg, STORE_OK);
	expect("firdu!");
	assert_int_equal(w.outcome, SINK_LOST);
}

static void test_intent_is_refused(void **state)
{
	(void)state;
	w.on_volume(w.volume_arg, 0);
	w.on_store(w.store_arg, STORE_NOT_OWNER);
	expect("fiu!");
	assert_int_equal(w.outcome, SINK_LOST);
}

static void note_recovered(void *arg)
{
	(void)arg;
	step('!');
}

static void recover(struct sink_env *env, char *maildir, size_t n)
{
	struct store_found_intent found = { .uid = 5, .maildir = maildir, .tmp_name = (char[]){ "t" }, .new_name = (char[]){ "n" },
	    .place = w.place, .this_boot = true };

	w.found[0] = w.found[1] = found;
	w.n_found = n;
	sink_maildir_recover(env, note_recovered, NULL);
	sink_maildir_recovery_free(env);
}

static void with_maildir(void (*test)(char *maildir))
{
	char maildir[] = "/tmp/test_sink_maildir.XXXXXX", new[64], command[80];

	memset(&w, 0, sizeof(w));
	assert_non_null(mkdtemp(maildir));
	snprintf(new, sizeof(new), "%s/new", maildir);
	assert_int_equal(mkdir(new, 0700), 0);
	test(maildir);
	assert_string_equal(w.flushed, new);
	snprintf(command, sizeof(command), "rm -r %s", maildir);
	assert_int_equal(system(command), 0);
}

static void make_empty(const char *maildir, const char *sub, bool directory)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", maildir, sub);
	if (directory) {
		assert_int_equal(mkdir(path, 0700), 0);
	} else {
		assert_true((fd = creat(path, 0600)) >= 0);
		close(fd);
	}
}

static void unlink_in(const char *maildir, const char *sub)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", maildir, sub);
	assert_int_equal(unlink(path), 0);
}

static bool exists(const char *maildir, const char *sub)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", maildir, sub);
	return access(path, F_OK) == 0;
}

static void renamed(char *maildir)
{
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("Ds!");
}

/* As long as there is the intent, a file that is gone counts as delivered: it stays, and the message that is fetched again takes its place. */
static void renamed_and_never_flushed(char *maildir)
{
	w.flush_error = EIO;		/* another flush would not tell it again */
	make_empty(maildir, "new/n", false);
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("Dd!");
	assert_true(exists(maildir, "new/n"));
}

static void renamed_but_not_flushed(char *maildir)
{
	w.flush_error = EMFILE;
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("D!");			/* it is looked at again before the mailbox delivers */
}

static void in_the_place_it_was_made(char *maildir)
{
	struct stat st;
	char tmp[64];

	make_empty(maildir, "tmp", true);
	snprintf(tmp, sizeof(tmp), "%s/tmp", maildir);
	assert_int_equal(stat(tmp, &st), 0);
	snprintf(w.place, sizeof(w.place), "%llx.%llx", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("Ds!");
}

/* Somebody has put another one there, an older copy perhaps: what is not in it was not delivered into it. */
static void in_another_place(char *maildir)
{
	make_empty(maildir, "tmp", true);
	strcpy(w.place, "1.1");
	make_empty(maildir, "new/n", false);
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("Ds!");
	memset(w.steps, 0, sizeof(w.steps));
	unlink_in(maildir, "new/n");
	recover(&(struct sink_env){ 0 }, maildir, 1);
	expect("d!");
}

static void two_of_one(char *maildir)
{
	recover(&(struct sink_env){ 0 }, maildir, 2);
	expect("Dss!");
}

static void late(char *maildir)
{
	struct sink_env env = { 0 };

	w.late = &env;
	recover(&env, maildir, 2);
	expect("D!");
}

/* The Maildir's own look would flush once more, and not be told. */
static void late_and_never_flushed(char *maildir)
{
	struct sink_env env = { 0 };

	w.late = &env;
	w.flush_error = EIO;
	recover(&env, maildir, 2);
	expect("Ddd!");
}

static void note_place(void *arg, const struct spool_place *place, const struct failure *why)
{
	(void)arg;
	assert_true((place == NULL) != (why == NULL));
	step(place != NULL ? '=' : '?');
}

/* Somebody has made it meanwhile, as a mount point perhaps: that the names are not there says nothing, also to who comes second. */
static void test_maildir_that_was_away(void **state)
{
	char maildir[] = "/tmp/test_sink_maildir.XXXXXX", command[80];
	struct sink_env env = { .prepares = sink_maildir_prepares_new() };
	struct sink_conf here = { .name = (char[]){ "maildir" }, .maildir = maildir, .mode = 0600, .gid = (gid_t)-1 };
	struct mailbox_conf mailbox = { .address = (char[]){ "a@x.org" }, .id = (char[]){ "a" } };
	struct store_found_intent found = { .uid = 5, .maildir = maildir, .tmp_name = (char[]){ "t" }, .new_name = (char[]){ "n" },
	    .place = w.place, .this_boot = true };
	void *other;

	(void)state;
	memset(&w, 0, sizeof(w));
	assert_non_null(mkdtemp(maildir));
	w.found[0] = w.found[1] = found;
	w.found[1].new_name = (char[]){ "file/n" };		/* stays unknown, and so no volume is asked for */
	w.n_found = 2;
	sink_maildir_recover(&env, note_recovered, NULL);
	make_empty(maildir, "cur", true);
	make_empty(maildir, "new", true);
	make_empty(maildir, "tmp", true);
	make_empty(maildir, "new/file", false);
	make_empty(maildir, "tmp/t", false);
	w.found[0].tmp_name = (char[]){ "gone" };
	other = sink_maildir_driver.open(&env, &here);
	sink_maildir_driver.prepare(other, &mailbox, "INBOX", note_place, NULL);
	expect("!d?");
	sink_maildir_driver.close(other);
	sink_maildir_prepares_free(&env.prepares);
	sink_maildir_recovery_free(&env);
	snprintf(command, sizeof(command), "rm -r %s", maildir);
	assert_int_equal(system(command), 0);
}

/* Of base/up/a. flush: which of the flushes fails; 0: none. stands: the Maildir is there afterwards. */
static void prepare(const char *base, unsigned flush, const char *steps, bool stands)
{
	char maildir[64];
	struct sink_env env = { .prepares = sink_maildir_prepares_new() };
	struct sink_conf here = { .name = (char[]){ "maildir" }, .maildir = maildir, .mode = 0600, .gid = (gid_t)-1 };
	struct mailbox_conf mailbox = { .address = (char[]){ "a@x.org" }, .id = (char[]){ "a" } };
	void *sink_here;

	snprintf(maildir, sizeof(maildir), "%s/up/a", base);
	memset(&w, 0, sizeof(w));
	w.flushes_left = (int)flush;
	sink_here = sink_maildir_driver.open(&env, &here);
	sink_maildir_driver.prepare(sink_here, &mailbox, "INBOX", note_place, NULL);
	expect(steps);
	assert_int_equal(access(maildir, F_OK) == 0, stands);
	sink_maildir_driver.close(sink_here);
	sink_maildir_prepares_free(&env.prepares);
}

/* Its parts' names are flushed once, then its own; what could not be flushed is made once more. What is there costs no flush. */
static void test_maildir_is_made_durably(void **state)
{
	char base[] = "/tmp/test_sink_maildir.XXXXXX", command[80];

	(void)state;
	assert_non_null(mkdtemp(base));
	prepare(base, 1, "M?", false);		/* up */
	prepare(base, 2, "MP?", false);
	prepare(base, 2, "PM?", false);
	prepare(base, 0, "PM=", true);
	prepare(base, 0, "=", true);
	snprintf(command, sizeof(command), "rmdir %s/up/a/new", base);
	assert_int_equal(system(command), 0);
	prepare(base, 1, "P?", true);
	prepare(base, 0, "P=", true);
	snprintf(command, sizeof(command), "rm -r %s", base);
	assert_int_equal(system(command), 0);
}

/* What the last run had renamed is safe only once the directory is on disk: the crash came before that, perhaps. */
static void test_renamed_before_a_crash(void **state)
{
	(void)state;
	with_maildir(renamed);
	with_maildir(renamed_but_not_flushed);
	with_maildir(renamed_and_never_flushed);
	with_maildir(two_of_one);
	with_maildir(in_the_place_it_was_made);
	with_maildir(in_another_place);
}

/* Mailboxes have started: what is left is their own prepare()'s, which knows whether the Maildir was just made. */
static void test_recovery_that_is_late(void **state)
{
	(void)state;
	with_maildir(late);
	with_maildir(late_and_never_flushed);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_delivered), TEST(test_flush_fails), TEST(test_rename_fails), TEST(test_intent_is_refused),
		cmocka_unit_test(test_renamed_before_a_crash), cmocka_unit_test(test_recovery_that_is_late),
		cmocka_unit_test(test_maildir_that_was_away), cmocka_unit_test(test_maildir_is_made_durably),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
