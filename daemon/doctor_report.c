/* What the doctor prints: a line for each step as it comes; many mailboxes as a table; or one JSON document. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "doctor_private.h"

#define FEW_MAILBOXES 3			/* up to these are shown step by step */
#define COLUMNS 100
#define INDENT 10
#define STEP_COLUMNS 12

enum check_result { CHECK_OK, CHECK_FAILED, CHECK_SKIPPED };
struct check {
	struct check *next;
	enum check_scope scope;
	enum check_result result;
	size_t number;
	char *subject, *step, *text, *hint, *commands;
};
struct report {
	bool json, colours, progress;
	size_t n_mailboxes, n_over;
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
	r->end = &r->checks;
	return r;
}

void report_expect_mailboxes(struct report *r, size_t n)
{
	r->n_mailboxes = n;
	r->progress = !r->json && n > FEW_MAILBOXES && isatty(STDERR_FILENO);
}

/* --- text --- */

static void put_word(const struct report *r, enum check_result result)
{
	static const char *const colours[] = { [CHECK_OK] = "\033[32m", [CHECK_FAILED] = "\033[31m", [CHECK_SKIPPED] = "\033[33m" };

	printf("  %s%-8s%s", r->colours ? colours[result] : "", result_words[result], r->colours ? "\033[0m" : "");
}

/* A sentence, folded at blanks. */
static void put_hint(const char *text)
{
	while (*text != '\0') {
		size_t len = strlen(text), fold = COLUMNS - INDENT;

		if (len > fold) {
			while (fold > 0 && text[fold] != ' ')
				fold--;
			len = fold > 0 ? fold : strcspn(text, " ");
		}
		printf("%*s%.*s\n", INDENT, "", (int)len, text);
		text += len + strspn(text + len, " ");
	}
}

/* Lines to paste are not folded. */
static void put_commands(const char *text)
{
	while (*text != '\0') {
		size_t len = strcspn(text, "\n");

		printf("%*s%.*s\n", INDENT + 2, "", (int)len, text);
		text += len + (text[len] == '\n');
	}
}

static void show(struct report *r, const struct check *c)
{
	if (r->shown == NULL || r->shown->scope != c->scope || !str_equal(r->shown->subject, c->subject))
		printf("%s%s%s%s\n", r->shown != NULL ? "\n" : "", scope_words[c->scope], c->subject[0] != '\0' ? " " : "", c->subject);
	r->shown = c;
	put_word(r, c->result);
	printf("%-*s  %s\n", STEP_COLUMNS, c->step, c->text);
	if (c->hint != NULL)
		put_hint(c->hint);
	if (c->commands != NULL)
		put_commands(c->commands);
	fflush(stdout);
}

static bool is_table(const struct report *r)
{
	return r->n_mailboxes > FEW_MAILBOXES;
}

static struct check *add(const struct report_at *at, const char *step, enum check_result result, const char *fmt, va_list args)
{
	struct report *r = at->report;
	struct check *c = xcalloc(1, sizeof(*c));
	char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	*c = (struct check){ .scope = at->scope, .result = result, .number = r->n_checks++, .subject = xstrdup(at->subject), .step = xstrdup(step),
	    .text = xstrdup(text) };
	*r->end = c;
	r->end = &c->next;
	r->counts[result]++;
	return c;
}

static void added(const struct report_at *at, struct check *c, const char *hint, const char *commands)
{
	c->hint = hint != NULL && hint[0] != '\0' ? xstrdup(hint) : NULL;
	c->commands = xstrdup(commands);
	if (!at->report->json && c->scope != SCOPE_MAILBOX)
		show(at->report, c);
}

void report_ok(const struct report_at *at, const char *step, const char *hint, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	added(at, add(at, step, CHECK_OK, fmt, args), hint, NULL);
	va_end(args);
}

void report_skipped(const struct report_at *at, const char *step, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	added(at, add(at, step, CHECK_SKIPPED, fmt, args), NULL, NULL);
	va_end(args);
}

void report_failed(const struct report_at *at, const char *step, const char *hint, const char *commands, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	added(at, add(at, step, CHECK_FAILED, fmt, args), hint, commands);
	va_end(args);
}

void report_failure(const struct report_at *at, const char *step, const struct failure *why, const char *commands)
{
	report_failed(at, step, why->hint, commands, "%s", why->text);
}

static void show_mailbox(struct report *r, const char *address)
{
	for (const struct check *c = r->checks; c != NULL; c = c->next)
		if (c->scope == SCOPE_MAILBOX && strcmp(c->subject, address) == 0)
			show(r, c);
}

void report_mailbox_over(struct report *r, const char *address)
{
	r->n_over++;
	if (r->json)
		return;
	if (!is_table(r))
		show_mailbox(r, address);
	if (r->progress) {
		fprintf(stderr, "\r%zu of %zu mailboxes%s", r->n_over, r->n_mailboxes, r->n_over == r->n_mailboxes ? "\n" : "");
		fflush(stderr);
	}
}

/* --- many mailboxes --- */

/* By address, a mailbox's steps in the order they were done. */
static int compare_checks(const void *a, const void *b)
{
	const struct check *x = *(const struct check *const *)a, *y = *(const struct check *const *)b;
	int order = strcmp(x->subject, y->subject);

	return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* A mailbox's row: its first failed step; else what made the rest be skipped; else its folders. Returns how many checks are its. */
static size_t show_row(const struct report *r, struct check *const *v, size_t n)
{
	const struct check *failed = NULL, *skipped = NULL;
	size_t i, shown = 0;

	for (i = 0; i < n && strcmp(v[i]->subject, v[0]->subject) == 0; i++) {
		if (failed == NULL && v[i]->result == CHECK_FAILED)
			failed = v[i];
		if (strcmp(v[i]->step, "sign-in") == 0 && v[i]->result == CHECK_SKIPPED)
			skipped = v[i];
	}
	put_word(r, failed != NULL ? CHECK_FAILED : skipped != NULL ? CHECK_SKIPPED : CHECK_OK);
	printf("%-38s", v[0]->subject);
	if (failed == NULL)
		failed = skipped;
	if (failed != NULL)
		printf("  %s: %s", failed->step, failed->text);
	for (size_t j = 0; j < i && failed == NULL; j++)
		if (strncmp(v[j]->step, "folder ", 7) == 0)
			printf("%s%s %s", shown++ == 0 ? "  " : ", ", v[j]->step + 7, v[j]->text);
	putchar('\n');
	return i;
}

static void show_table(struct report *r)
{
	struct check **v = xcalloc(r->n_checks + 1, sizeof(*v));
	size_t n = 0;

	for (struct check *c = r->checks; c != NULL; c = c->next)
		if (c->scope == SCOPE_MAILBOX)
			v[n++] = c;
	qsort(v, n, sizeof(*v), compare_checks);
	printf("\nmailboxes\n");
	for (size_t i = 0; i < n; i += show_row(r, v + i, n - i))
		;
	for (size_t i = 0; i < n; i++)
		if (v[i]->result == CHECK_FAILED)
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
	json_object_set_new(object, "hint", c->hint != NULL ? json_string(c->hint) : json_null());
	json_object_set_new(object, "commands", c->commands != NULL ? json_string(c->commands) : json_null());
	return object;
}

static void print_json(const struct report *r)
{
	json_t *root = json_object(), *list = json_array();

	for (const struct check *c = r->checks; c != NULL; c = c->next)
		json_array_append_new(list, check_object(c));
	json_object_set_new(root, "schema", json_integer(1));
	json_object_set_new(root, "passed", json_boolean(r->counts[CHECK_FAILED] == 0));
	json_object_set_new(root, "steps", list);
	json_dumpf(root, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(root);
}

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
	bool passed = r->counts[CHECK_FAILED] == 0;

	if (r->json) {
		print_json(r);
	} else {
		if (is_table(r))
			show_table(r);
		printf("\n%zu steps ok, %zu failed, %zu skipped\n", r->counts[CHECK_OK], r->counts[CHECK_FAILED], r->counts[CHECK_SKIPPED]);
	}
	report_drop(report);
	return passed;
}
