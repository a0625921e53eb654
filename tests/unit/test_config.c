/* What a configuration becomes: the defaults that mailpolld.yaml(5) promises, and which of several values of a key is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "config.h"

#define CREDENTIAL "{tenant: t.example, client_id: i, client_secret_file: secret}"
#define TOP "state_dir: /s\ncontrol_socket: /c\n"
#define ONE TOP "credentials: {a: " CREDENTIAL "}\n"

static char dir[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_config.XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static int teardown(void **state)
{
	char *command = xasprintf("rm -rf %s", dir);

	(void)state;
	assert_int_equal(system(command), 0);
	free(command);
	return 0;
}

static char *write_file(const char *name, const char *text)
{
	char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	return path;
}

/* A disk that gives neither a directory's entries nor what is known of one of them. */
static int directory_error, entry_error;
struct dirent *__real_readdir(DIR *);
struct dirent *__wrap_readdir(DIR *);
struct dirent *__wrap_readdir(DIR *d)
{
	if (directory_error == 0)
		return __real_readdir(d);
	errno = directory_error;
	return NULL;
}

int __real_lstat(const char *, struct stat *);
int __wrap_lstat(const char *, struct stat *);
int __wrap_lstat(const char *path, struct stat *st)
{
	if (entry_error == 0)
		return __real_lstat(path, st);
	errno = entry_error;
	return -1;
}

/* A directory service that does not answer. */
static int group_error;
static unsigned groups_asked;
int __real_getgrnam_r(const char *, struct group *, char *, size_t, struct group **);
int __wrap_getgrnam_r(const char *, struct group *, char *, size_t, struct group **);
int __wrap_getgrnam_r(const char *name, struct group *group, char *room, size_t size, struct group **ret)
{
	groups_asked++;
	if (group_error == 0)
		return __real_getgrnam_r(name, group, room, size, ret);
	*ret = NULL;
	return group_error;
}

static struct config *load(const char *text)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	char *path = write_file("mailpolld.yaml", text);
	struct config *c = config_load(path, &errors, &warnings);

	if (c == NULL)
		fail_msg("%s", errors.v[0]);
	config_messages_done(&errors);
	config_messages_done(&warnings);
	free(path);
	return c;
}

/* --- defaults --- */

static void test_defaults_of_the_whole(void **state)
{
	struct config *c;

	(void)state;
	setenv("STATE_DIRECTORY", "/state:/other", 1);
	setenv("RUNTIME_DIRECTORY", "/runtime:/other", 1);
	c = load("credentials: {a: " CREDENTIAL "}\ndefaults: {deliver: {maildir: /m}}\nmailboxes: [x@y.example]\n");
	unsetenv("STATE_DIRECTORY");
	unsetenv("RUNTIME_DIRECTORY");
	assert_string_equal(c->state_dir, "/state");
	assert_string_equal(c->control_socket, "/runtime/control");
	assert_null(c->metrics_address);
	assert_false(c->metrics_per_mailbox);
	assert_int_equal(c->log_level, LOG_LEVEL_INFO);
	assert_int_equal(c->audit, AUDIT_JOURNAL);
	assert_int_equal(c->spool_limit_bytes, 1024 * 1024 * 1024);
	assert_int_equal(c->min_free_bytes, 256 * 1024 * 1024);
	config_free(&c);
}

static void test_defaults_of_a_credential(void **state)
{
	struct config *c = load(ONE "mailboxes: []\n");
	const struct credential_conf *a = c->credentials[0];

	(void)state;
	assert_string_equal(a->token_url, "https://login.microsoftonline.com/t.example/oauth2/v2.0/token");
	assert_string_equal(a->scope, "https://outlook.office365.com/.default");
	assert_string_equal(a->imap_host, "outlook.office365.com");
	assert_null(a->ca_file);
	assert_int_equal(a->secret_expires_s, 0);
	assert_int_equal(a->admission.sessions_per_second, 5);
	assert_int_equal(a->admission.starting_at_once, 20);
	assert_int_equal(a->admission.fetching_at_once, 50);
	config_free(&c);
	c = load(TOP "credentials: {a: {tenant: t.example, client_id: i, client_secret_file: secret, admission: {fetching_at_once: 7}}}\n"
	    "mailboxes: []\n");
	a = c->credentials[0];
	assert_int_equal(a->admission.sessions_per_second, 5);	/* what it does not say, even so */
	assert_int_equal(a->admission.starting_at_once, 20);
	assert_int_equal(a->admission.fetching_at_once, 7);
	config_free(&c);
}

static void test_defaults_of_a_mailbox(void **state)
{
	struct config *c = load(ONE "mailboxes: [{address: X@Y.example, deliver: {maildir: /m}}, "
	    "{address: p@y.example, watch: poll, deliver: {command: [/bin/true]}}]\n");
	const struct mailbox_conf *m = c->mailboxes[0];

	(void)state;
	assert_string_equal(m->address, "X@Y.example");
	assert_string_equal(m->id, "x@y.example");
	assert_ptr_equal(m->credential, c->credentials[0]);
	assert_string_equal(m->host, "outlook.office365.com");
	assert_int_equal(m->port, 993);
	assert_null(m->ca_file);
	assert_int_equal(m->n_folders, 1);
	assert_string_equal(m->folders[0], "INBOX");
	assert_int_equal(m->watch, WATCH_IDLE);
	assert_int_equal(m->interval_ms, 9 * 60 * 1000);
	assert_int_equal(c->mailboxes[1]->interval_ms, 5 * 60 * 1000);
	assert_int_equal(m->start, START_ALL);
	assert_int_equal(m->after, AFTER_KEEP);
	assert_int_equal(m->deliver->mode, 0600);
	assert_null(m->deliver->group);
	assert_int_equal(m->deliver->gid, (gid_t)-1);
	assert_int_equal(c->mailboxes[1]->deliver->timeout_ms, 60 * 1000);
	assert_int_equal(c->mailboxes[1]->deliver->at_once, 4);
	config_free(&c);
}

/* --- precedence --- */

static char *text_of(const struct mailbox_conf *m, const char *key)	/* as it is written */
{
	static const char *const starts[] = { [START_ALL] = "all", [START_NEW] = "new" }, *const afters[] = { "keep", "seen", "delete" };

	if (strcmp(key, "credential") == 0)
		return xstrdup(m->credential->name);
	if (strcmp(key, "host") == 0)
		return xstrdup(m->host);
	if (strcmp(key, "port") == 0)
		return xasprintf("%u", m->port);
	if (strcmp(key, "ca_file") == 0)
		return xstrdup(m->ca_file);
	if (strcmp(key, "folders") == 0)
		return m->n_folders == 1 ? xasprintf("[%s]", m->folders[0]) : xasprintf("[%s, %s]", m->folders[0], m->folders[1]);
	if (strcmp(key, "watch") == 0)
		return xstrdup(m->watch == WATCH_IDLE ? "idle" : "poll");
	if (strcmp(key, "interval") == 0)
		return xasprintf("%lldm", (long long)m->interval_ms / 60000);
	if (strcmp(key, "start") == 0)
		return m->start != START_SINCE ? xstrdup(starts[m->start]) : xasprintf("%d-%02d-%02d", m->start_year, m->start_month, m->start_day);
	if (strcmp(key, "deliver") == 0 && m->deliver->kind == SINK_MAILDIR)
		return xasprintf("{maildir: %s}", m->deliver->maildir);
	if (strcmp(key, "deliver") == 0)
		return xasprintf("{command: [%s]}", m->deliver->command[0]);
	assert_string_equal(key, "after");
	return m->after == AFTER_MOVE ? xasprintf("{move: %s}", m->after_folder) : xstrdup(afters[m->after]);
}

enum level { GLOBAL, OF_FILE, OWN, LEVEL_N };
static const struct { const char *key, *values[LEVEL_N]; } keys[] = {
	{ "credential", { "a", "b", "c" } }, { "host", { "g.example", "f.example", "o.example" } }, { "port", { "1", "2", "3" } },
	{ "ca_file", { "/g", "/f", "/o" } }, { "folders", { "[G]", "[F]", "[O, P]" } }, { "watch", { "poll", "idle", "poll" } },
	{ "interval", { "1m", "2m", "3m" } }, { "start", { "new", "all", "2026-01-31" } },
	{ "deliver", { "{maildir: /g}", "{maildir: /f}", "{command: [/bin/true]}" } }, { "after", { "seen", "delete", "{move: Done}" } },
};

/* Of the key that is said anew the value from there, of all others the global one. */
static void expect(const struct mailbox_conf *m, const char *address, size_t anew, enum level level)
{
	assert_string_equal(m->address, address);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const char *expected = keys[i].values[i == anew ? level : GLOBAL];
		char *text = text_of(m, keys[i].key);

		if (!str_equal(text, expected))
			fail_msg("%s, %s anew: %s is %s, not %s", address, keys[anew].key, keys[i].key, text, expected);
		free(text);
	}
}

static void test_precedence(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
		const char *key = keys[k].key, *own = keys[k].values[OWN];
		char *text = xstrdup(TOP "credentials: {a: " CREDENTIAL ", b: " CREDENTIAL ", c: " CREDENTIAL "}\n"
		    "mailbox_files: [map.yaml, list.yaml]\ndefaults:\n"), *longer;
		char *map = xasprintf("defaults: {%s: %s}\nmailboxes: [file@x.y, {address: both@x.y, %s: %s}]\n", key, keys[k].values[OF_FILE], key, own);
		char *list = xasprintf("[list@x.y, {address: own-list@x.y, %s: %s}]\n", key, own);
		struct config *c;

		for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
			longer = xasprintf("%s  %s: %s\n", text, keys[i].key, keys[i].values[GLOBAL]);
			free(text);
			text = longer;
		}
		longer = xasprintf("%smailboxes: [global@x.y, {address: own@x.y, %s: %s}]\n", text, key, own);
		free(write_file("map.yaml", map));
		free(write_file("list.yaml", list));
		c = load(longer);
		assert_int_equal(c->n_mailboxes, 6);
		expect(c->mailboxes[0], "global@x.y", k, GLOBAL);
		expect(c->mailboxes[1], "own@x.y", k, OWN);
		expect(c->mailboxes[2], "file@x.y", k, OF_FILE);
		expect(c->mailboxes[3], "both@x.y", k, OWN);
		expect(c->mailboxes[4], "list@x.y", k, GLOBAL);
		expect(c->mailboxes[5], "own-list@x.y", k, OWN);
		config_free(&c);
		free(text);
		free(longer);
		free(map);
		free(list);
	}
}

/* What a mailbox says of `deliver` has nothing of a default's in it. */
static void test_deliver_is_replaced_whole(void **state)
{
	char *maildirs = xasprintf(ONE "defaults: {deliver: {maildir: /g, mode: 0640, group: %s}}\n"
	    "mailboxes: [{address: x@y.z, deliver: {maildir: /o}}, z@y.z]\n", getgrgid(0)->gr_name);
	struct config *c = load(maildirs);

	(void)state;
	assert_int_equal(c->mailboxes[0]->deliver->mode, 0600);
	assert_null(c->mailboxes[0]->deliver->group);
	assert_int_equal(c->mailboxes[0]->deliver->gid, (gid_t)-1);
	assert_int_equal(c->mailboxes[1]->deliver->mode, 0640);
	assert_int_equal(c->mailboxes[1]->deliver->gid, 0);
	config_free(&c);
	free(maildirs);
	c = load(ONE "defaults: {deliver: {command: [/bin/true], timeout: 5s, at_once: 9}}\n"
	    "mailboxes: [{address: x@y.z, deliver: {command: [/bin/false]}}, z@y.z]\n");
	assert_int_equal(c->mailboxes[0]->deliver->timeout_ms, 60000);
	assert_int_equal(c->mailboxes[0]->deliver->at_once, 4);
	assert_int_equal(c->mailboxes[1]->deliver->timeout_ms, 5000);
	assert_int_equal(c->mailboxes[1]->deliver->at_once, 9);
	config_free(&c);
}

/* It is the same folder in the state, in keys and in paths, however it is written. */
static void test_inbox_has_one_name(void **state)
{
	struct config *c = load(ONE "defaults: {deliver: {maildir: /m}}\nmailboxes: [{address: x@y.z, folders: [Inbox, inbox2, Done], after: keep}, "
	    "{address: z@y.z, folders: [Done], after: {move: inBox}}]\n");

	(void)state;
	assert_string_equal(c->mailboxes[0]->folders[0], "INBOX");
	assert_string_equal(c->mailboxes[0]->folders[1], "inbox2");
	assert_string_equal(c->mailboxes[0]->folders[2], "Done");
	assert_string_equal(c->mailboxes[1]->after_folder, "INBOX");
	config_free(&c);
}

/* --- groups --- */

static void expect_of_group(const char *group, const char *more, const char *error, bool may_pass)
{
	char *text = xasprintf(ONE "defaults: {deliver: {maildir: /m, group: %s}}\nmailboxes: [x@y.z, z@y.z%s]\n", group, more);
	char *path = write_file("mailpolld.yaml", text);
	struct config_messages errors = { 0 }, warnings = { 0 };

	assert_null(config_load(path, &errors, &warnings));
	assert_non_null(strstr(errors.v[0], error));
	assert_int_equal(config_may_pass(&errors), may_pass);
	config_messages_done(&errors);
	config_messages_done(&warnings);
	free(path);
	free(text);
}

/* That a group is not there and that nobody can tell are two things: the second may pass, unless another error stays. */
static void test_group_that_cannot_be_looked_up(void **state)
{
	char many[16000] = "";

	(void)state;
	for (int i = 0; i < 200; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), ", {address: m%d@y.z, deliver: {maildir: /m, group: root}}", i);
	expect_of_group("no-such-group", "", "there is no group no-such-group on this machine", false);
	for (size_t i = 0; i < 4; i++) {
		group_error = (const int[]){ ECONNREFUSED, ENOENT, EIO, ERANGE }[i];
		expect_of_group("root", "", "defaults.deliver: group root cannot be looked up: ", true);
		expect_of_group("root", many, "group root cannot be looked up: ", true);
		expect_of_group("root", ", no-address", "group root cannot be looked up: ", false);
	}
	group_error = 0;
}

/* A directory service is asked once for each, however many mailboxes name it. */
static void test_each_group_is_looked_up_once(void **state)
{
	char many[32000] = "";

	(void)state;
	for (int i = 0; i < 200; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), ", {address: m%d@y.z, deliver: {maildir: /m, group: %s}}", i,
		    i % 2 == 0 ? "root" : "no-such-group");
	groups_asked = 0;
	expect_of_group("root", many, "there is no group no-such-group on this machine", false);
	assert_int_equal(groups_asked, 2);
	group_error = EIO;
	groups_asked = 0;
	expect_of_group("root", many, "group root cannot be looked up: ", true);
	assert_int_equal(groups_asked, 2);
	group_error = 0;
}

/* --- files --- */

static void expect_of_files(const char *pattern, const char *error, const char *warning)	/* NULL: none */
{
	char *text = xasprintf(ONE "defaults: {deliver: {maildir: /m}}\nmailboxes: [x@y.z]\nmailbox_files: [\"%s\"]\n", pattern);
	char *path = write_file("mailpolld.yaml", text);
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct config *c = config_load(path, &errors, &warnings);

	assert_int_equal(errors.n, error != NULL);
	if (error != NULL)
		assert_non_null(strstr(errors.v[0], error));
	if (warning != NULL)
		assert_non_null(strstr(warnings.v[warnings.n - 1], warning));
	config_messages_done(&errors);
	config_messages_done(&warnings);
	config_free(&c);
	free(path);
	free(text);
}

/* What cannot be read is not the same as what is not there. */
static void test_disk_error_among_files(void **state)
{
	char *sub = xasprintf("%s/sub", dir);

	(void)state;
	assert_int_equal(mkdir(sub, 0700), 0);
	free(sub);
	free(write_file("sub/one.yaml", "[one@y.z]"));
	expect_of_files("sub/*.yaml", NULL, NULL);
	expect_of_files("*/one.yaml", NULL, NULL);
	directory_error = EIO;
	expect_of_files("sub/*.yaml", "sub/*.yaml cannot be read: Input/output error", NULL);
	directory_error = 0;
	entry_error = ESTALE;
	expect_of_files("*/one.yaml", "sub/one.yaml cannot be read: Stale file handle", NULL);
	expect_of_files("sub/one.yaml", "sub/one.yaml cannot be read: Stale file handle", NULL);
	entry_error = 0;
	expect_of_files("none/*.yaml", NULL, "no file matches");
	expect_of_files("*/none.yaml", NULL, "no file matches");
	expect_of_files("sub/one.yaml/*", NULL, "no file matches");
	expect_of_files("none/one.yaml", "there is no file", NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { TEST(test_defaults_of_the_whole), TEST(test_defaults_of_a_credential),
		TEST(test_defaults_of_a_mailbox), TEST(test_precedence), TEST(test_deliver_is_replaced_whole),
		TEST(test_inbox_has_one_name), TEST(test_group_that_cannot_be_looked_up), TEST(test_each_group_is_looked_up_once),
		TEST(test_disk_error_among_files) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
