/* What the doctor prints: a line for each step as it comes; several mailboxes at the end, many as a table; or one JSON document. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "doctor_private.h"

#define FEW_MAILBOXES 3			/* up to these are shown step by step */
#define COLUMNS 100
#define INDENT 10
#define STEP_COLUMNS 16
#define ADDRESS_COLUMNS 40		/* at most */
#define NAMED_MAILBOXES 3		/* of those that fail alike */

enum check_result { CHECK_OK, CHECK_FAILED, CHECK_SKIPPED };
struct check {
	struct check *next;
	enum check_scope scope;
	enum check_result result;
	size_t number;
	char *subject, *step, *text, *hint, *commands;
	const char *failure;			/* name of its struct failure; NULL: it has none */
	bool grouped;				/* told with another */
};
struct report {
	bool json, colours, progress;
	size_t progress_len;			/* of what stands there and must be wiped */
	bool interrupted;
	size_t n_mailboxes;
	struct check *checks, **end;
	const struct check *shown;		/* the last one printed */
	size_t counts[3], n_checks;
};

static const char *const result_words[] = { [CHECK_OK] = "ok", [CHECK_FAILED] = "failed", [CHECK_SKIPPED] = "skipped" };
static const char *const scope_words[] = { [SCOPE_CONFIGURATION] = "configuration", [SCOPE_MACHINE] = "machine",
	[SCOPE_CREDENTIAL] = "credential", [SCOPE_HOST] = "host", [SCOPE_MAILBOX] = "mailbox" };

struct report *report_new(bool json)
{
	const char *no_color = getenv("NO_COLOR");
	struct report *r = xcalloc(1, sizeof(*r));

	r->json = json;
	r->colours = !json && isatty(STDOUT_FILENO) && (no_color == NULL || no_color[0] == '\0');
	r->progress = !json && isatty(STDERR_FILENO);
	r->end = &r->checks;
	return r;
}

void report_expect_mailboxes(struct report *r, size_t n)
{
	r->n_mailboxes = n;
}

void report_interrupted(struct report *r)
{
	r->interrupted = true;
}

/* --- progress, on a terminal --- */

static void wipe_progress(struct report *r)
{
	if (r->progress_len > 0)
		fprintf(stderr, "\r%*s\r", (int)r->progress_len, "");
	r->progress_len = 0;
}

bool report_shows_progress(const struct report *r)
{
	return r->progress;
}

void report_progress(struct report *r, const char *fmt, ...)
{
	char text[COLUMNS];
	va_list args;

	if (!r->progress)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	wipe_progress(r);
	fprintf(stderr, "%s", text);
	r->progress_len = strlen(text);
}

/* --- text --- */

/* Like any filter: nobody reads it any more. */
static void flush_output(void)
{
	if (fflush(stdout) == EOF && errno == EPIPE) {
		signal(SIGPIPE, SIG_DFL);
		raise(SIGPIPE);
	}
}

static void put_word(const struct report *r, enum check_result result)
{
	static const char *const colours[] = { [CHECK_OK] = "\033[32m", [CHECK_FAILED] = "\033[31m", [CHECK_SKIPPED] = "\033[33m" };

	printf("  %s%-8s%s", r->colours ? colours[result] : "", result_words[result], r->colours ? "\033[0m" : "");
}

/* Sentences, a paragraph each, folded at blanks. */
static void put_hint(const char *text)
{
	while (*text != '\0') {
		size_t len = strcspn(text, "\n"), fold = COLUMNS - INDENT;

		if (len > fold) {
			while (fold > 0 && text[fold] != ' ')
				fold--;
			len = fold > 0 ? fold : strcspn(text, " \n");
		}
		printf("%*s%.*s\n", INDENT, "", (int)len, text);
		text += len + strspn(text + len, " \n");
	}
}

/* Lines to paste are not folded. */
static void put_command(const char *line, size_t len)
{
	printf("%*s%.*s\n", INDENT + 2, "", (int)len, line);
}

static const char *next_line(const char *line, size_t *ret_len)
{
	*ret_len = strcspn(line, "\n");
	return line + *ret_len + (line[*ret_len] == '\n');
}

static bool has_line(const char *text, const char *line, size_t len)
{
	size_t one;

	for (const char *at = text, *next; at != NULL && *at != '\0'; at = next) {
		next = next_line(at, &one);
		if (one == len && memcmp(at, line, len) == 0)
			return true;
	}
	return false;
}

/* to: NULL for all; but: without the lines of this one, or NULL */
static void put_commands(const char *from, const char *to, const char *but)
{
	size_t len;

	for (const char *line = from, *next; line != to && *line != '\0'; line = next) {
		next = next_line(line, &len);
		if (!has_line(but, line, len))
			put_command(line, len);
	}
}

static void show(struct report *r, const struct check *c)
{
	wipe_progress(r);
	if (r->shown == NULL || r->shown->scope != c->scope || !str_equal(r->shown->subject, c->subject))
		printf("%s%s%s%s\n", r->shown != NULL ? "\n" : "", scope_words[c->scope], c->subject[0] != '\0' ? " " : "", c->subject);
	r->shown = c;
	put_word(r, c->result);
	printf("%-*s  %s\n", STEP_COLUMNS, c->step, c->text);
	if (c->hint != NULL)
		put_hint(c->hint);
	if (c->commands != NULL)
		put_commands(c->commands, NULL, NULL);
	flush_output();
}

/* --- what comes in --- */

/* Several mailboxes are examined side by side: theirs wait for the end. */
static bool is_shown_at_once(const struct report *r, const struct check *c)
{
	return !r->json && (c->scope != SCOPE_MAILBOX || r->n_mailboxes == 1);
}

static void add(const struct report_at *at, const char *step, enum check_result result, const char *hint, const char *commands,
    const char *failure, const char *fmt, va_list args) PRINTF_LIKE(7, 0);
static void add(const struct report_at *at, const char *step, enum check_result result, const char *hint, const char *commands,
    const char *failure, const char *fmt, va_list args)
{
	struct report *r = at->report;
	struct check *c = xcalloc(1, sizeof(*c));
	char said[1024], text[512];

	vsnprintf(said, sizeof(said), fmt, args);
	printable(text, sizeof(text), said, strlen(said));	/* names come from files and servers */
	*c = (struct check){ .scope = at->scope, .result = result, .number = r->n_checks++, .subject = xstrdup(at->subject), .step = xstrdup(step),
	    .text = xstrdup(text), .hint = hint != NULL && hint[0] != '\0' ? xstrdup(hint) : NULL, .commands = xstrdup(commands), .failure = failure };
	*r->end = c;
	r->end = &c->next;
	r->counts[result]++;
	if (is_shown_at_once(r, c))
		show(r, c);
}

void report_ok(const struct report_at *at, const char *step, const char *hint, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add(at, step, CHECK_OK, hint, NULL, NULL, fmt, args);
	va_end(args);
}

void report_skipped(const struct report_at *at, const char *step, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add(at, step, CHECK_SKIPPED, NULL, NULL, NULL, fmt, args);
	va_end(args);
}

void report_failed(const struct report_at *at, const char *step, const char *hint, const char *commands, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add(at, step, CHECK_FAILED, hint, commands, NULL, fmt, args);
	va_end(args);
}

static void add_failure(const struct report_at *at, const char *step, const char *name, const char *hint, const char *commands,
    const char *fmt, ...) PRINTF_LIKE(6, 7);
static void add_failure(const struct report_at *at, const char *step, const char *name, const char *hint, const char *commands,
    const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add(at, step, CHECK_FAILED, hint, commands, name, fmt, args);
	va_end(args);
}

void report_failure(const struct report_at *at, const char *step, const struct failure *why, const char *commands)
{
	static const char later[] = "As a rule this goes away by itself: run the doctor again in some minutes.";

	add_failure(at, step, why->name, why->hint[0] != '\0' ? why->hint : later, commands, "%s", why->text);
}

void report_explain(const struct report_at *at, const char *step, const char *hint, const char *commands)
{
	for (struct check *c = at->report->checks; c != NULL; c = c->next) {
		if (c->scope != at->scope || c->result != CHECK_FAILED || strcmp(c->subject, at->subject) != 0 || strcmp(c->step, step) != 0)
			continue;
		free(c->hint);
		free(c->commands);
		c->hint = xstrdup(hint);
		c->commands = xstrdup(commands);
	}
}

/* --- mailboxes, at the end --- */

/* By address, a mailbox's steps in the order they were done. */
static int compare_checks(const void *a, const void *b)
{
	const struct check *x = *(const struct check *const *)a, *y = *(const struct check *const *)b;
	int order = strcmp(x->subject, y->subject);

	return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

static const struct check *first_with(struct check *const *v, size_t n, enum check_result result)
{
	for (size_t i = 0; i < n; i++)
		if (v[i]->result == result)
			return v[i];
	return NULL;
}

/* What its row shows: its first failed step, else the first that was skipped; NULL: it is fine. */
static const struct check *worst_of(struct check *const *v, size_t n)
{
	const struct check *failed = first_with(v, n, CHECK_FAILED);

	return failed != NULL ? failed : first_with(v, n, CHECK_SKIPPED);
}

static void show_row(const struct report *r, struct check *const *v, size_t n, int columns)
{
	const struct check *worst = worst_of(v, n);
	size_t shown = 0;

	put_word(r, worst != NULL ? worst->result : CHECK_OK);
	printf("%-*s", columns, v[0]->subject);
	if (worst != NULL)
		printf("  %s: %s", worst->step, worst->text);
	for (size_t i = 0; i < n && worst == NULL; i++)
		if (strncmp(v[i]->step, "folder ", 7) == 0)
			printf("%s%s %s", shown++ == 0 ? "  " : ", ", v[i]->step + 7, v[i]->text);
	putchar('\n');
}

/* How many of the checks, from the first on, are of its mailbox. */
static size_t of_one_mailbox(struct check *const *v, size_t n)
{
	size_t i = 1;

	while (i < n && strcmp(v[i]->subject, v[0]->subject) == 0)
		i++;
	return i;
}

static void show_table(const struct report *r, struct check *const *v, size_t n)
{
	size_t columns = 0, counts[3] = { 0 }, one;
	const struct check *worst;

	for (size_t i = 0; i < n; i += one) {
		one = of_one_mailbox(v + i, n - i);
		worst = worst_of(v + i, one);
		counts[worst != NULL ? worst->result : CHECK_OK]++;
		if (strlen(v[i]->subject) > columns)
			columns = strlen(v[i]->subject);
	}
	printf("\nmailboxes: %zu ok, %zu failed, %zu skipped\n", counts[CHECK_OK], counts[CHECK_FAILED], counts[CHECK_SKIPPED]);
	for (size_t i = 0; i < n; i += one) {
		one = of_one_mailbox(v + i, n - i);
		show_row(r, v + i, one, columns < ADDRESS_COLUMNS ? (int)columns : ADDRESS_COLUMNS);
	}
}

static bool begin_alike(const char *a, const char *b)
{
	size_t len;

	if (a == NULL || b == NULL)
		return a == b;
	next_line(a, &len);
	return len == strcspn(b, "\n") && memcmp(a, b, len) == 0;
}

/* The same cure: the same row of the failure table in the same tenant (which the first command names), or the very same sentence. */
static bool fail_alike(const struct check *a, const struct check *b)
{
	if (a->failure != NULL || b->failure != NULL)
		return str_equal(a->failure, b->failure) && begin_alike(a->commands, b->commands);
	return str_equal(a->hint, b->hint);
}

/* Where the lines begin that both end with: what comes when all the others have been done. */
static const char *common_end(const char *a, const char *b)
{
	const char *at = a + strlen(a), *other = b + strlen(b), *begin = at;

	for (; at > a && other > b && at[-1] == other[-1]; at--, other--)
		if (at[-1] == '\n')
			begin = at;
	return at == a && (other == b || other[-1] == '\n') ? a : begin;
}

/* The first one's lines; of the others those that it does not have, before what all end with. */
static void put_commands_of(const struct check *const *v, size_t n)
{
	const char *first = v[0]->commands, *end;

	if (first == NULL)
		return;
	end = n > 1 && v[1]->commands != NULL ? common_end(first, v[1]->commands) : first + strlen(first);
	if (end == first)		/* all is the same */
		end = first + strlen(first);
	put_commands(first, end, NULL);
	for (size_t i = 1; i < n; i++)
		if (v[i]->commands != NULL)
			put_commands(v[i]->commands, NULL, first);
	put_commands(end, NULL, NULL);
}

static void show_group(const struct report *r, const struct check *const *v, size_t n)
{
	putchar('\n');
	put_word(r, CHECK_FAILED);
	printf("%s: ", v[0]->step);
	for (size_t i = 0; i < n && i < NAMED_MAILBOXES; i++)
		printf("%s%s", i > 0 ? ", " : "", v[i]->subject);
	if (n > NAMED_MAILBOXES)
		printf(" and %zu more", n - NAMED_MAILBOXES);
	putchar('\n');
	if (v[0]->hint != NULL)
		put_hint(v[0]->hint);
	put_commands_of(v, n);
}

/* What is to be done, once for all that have the same trouble. */
static void show_groups(const struct report *r, struct check *const *v, size_t n)
{
	const struct check **group = xcalloc(n + 1, sizeof(const struct check *));
	size_t in_group;

	for (size_t i = 0; i < n; i++) {
		if (v[i]->result != CHECK_FAILED || v[i]->grouped)
			continue;
		in_group = 0;
		for (size_t j = i; j < n; j++) {
			if (v[j]->result != CHECK_FAILED || v[j]->grouped || !fail_alike(v[i], v[j]))
				continue;
			v[j]->grouped = true;
			group[in_group++] = v[j];
		}
		show_group(r, group, in_group);
	}
	free(group);
}

static void show_mailboxes(struct report *r)
{
	struct check **v = xcalloc(r->n_checks + 1, sizeof(struct check *));
	size_t n = 0;

	for (struct check *c = r->checks; c != NULL; c = c->next)
		if (c->scope == SCOPE_MAILBOX)
			v[n++] = c;
	qsort(v, n, sizeof(*v), compare_checks);
	if (r->n_mailboxes > FEW_MAILBOXES) {
		show_table(r, v, n);
		show_groups(r, v, n);
	}
	for (size_t i = 0; i < n && r->n_mailboxes <= FEW_MAILBOXES; i++)
		show(r, v[i]);
	free(v);
}

/* --- JSON --- */

static json_t *check_object(const struct check *c)
{
	json_t *object = json_object();

	json_object_set_new(object, "scope", json_string(scope_words[c->scope]));
	json_object_set_new(object, "subject", json_string(c->subject));
	json_object_set_new(object, "step", json_string(c->step));
	json_object_set_new(object, "result", json_string(result_words[c->result]));
	json_object_set_new(object, "text", json_string(c->text));
	json_object_set_new(object, "failure", c->failure != NULL ? json_string(c->failure) : json_null());
	json_object_set_new(object, "hint", c->hint != NULL ? json_string(c->hint) : json_null());
	json_object_set_new(object, "commands", c->commands != NULL ? json_string(c->commands) : json_null());
	return object;
}

static void print_json(const struct report *r, bool passed)
{
	json_t *root = json_object(), *list = json_array();

	for (const struct check *c = r->checks; c != NULL; c = c->next)
		json_array_append_new(list, check_object(c));
	json_object_set_new(root, "schema", json_integer(1));
	json_object_set_new(root, "passed", json_boolean(passed));
	json_object_set_new(root, "steps", list);
	json_dumpf(root, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(root);
}

/* --- the end --- */

static void check_free(struct check *c)
{
	free(c->subject);
	free(c->step);
	free(c->text);
	free(c->hint);
	free(c->commands);
	free(c);
}

void report_drop(struct report **report)
{
	struct report *r = *report;
	struct check *c;

	wipe_progress(r);
	while ((c = r->checks) != NULL) {
		r->checks = c->next;
		check_free(c);
	}
	free(r);
	*report = NULL;
}

bool report_end(struct report **report)
{
	struct report *r = *report;
	bool passed = r->counts[CHECK_FAILED] == 0 && !r->interrupted;

	wipe_progress(r);
	if (r->json) {
		print_json(r, passed);
	} else {
		if (r->n_mailboxes > 1)
			show_mailboxes(r);
		printf("\n%zu steps ok, %zu failed, %zu skipped%s\n", r->counts[CHECK_OK], r->counts[CHECK_FAILED], r->counts[CHECK_SKIPPED],
		    r->interrupted ? "; interrupted" : "");
	}
	flush_output();
	report_drop(report);
	return passed;
}
