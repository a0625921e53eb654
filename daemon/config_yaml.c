#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>
#include "config_yaml.h"

#define FILE_MAX (32 * 1024 * 1024)
#define DEPTH_MAX 16
#define MESSAGES_MAX 100

/* --- messages --- */

void config_message(struct config_messages *m, char *text)
{
	unsigned long more;

	m->n_all++;
	if (m->n < MESSAGES_MAX) {
		m->v = xreallocarray(m->v, m->n + 1, sizeof(*m->v));
		m->v[m->n++] = text;
		return;
	}
	free(text);			/* the last one counts those that are not told */
	if (sscanf(m->v[m->n - 1], "and %lu more", &more) != 1)
		more = 1;
	free(m->v[m->n - 1]);
	m->v[m->n - 1] = xasprintf("and %lu more", more + 1);
}

static void message_at(struct config_messages *m, const char *file, unsigned line, unsigned column, const char *text)
{
	config_message(m, xasprintf("%s:%u:%u: %s", file, line, column, text));
}

void node_message(struct config_messages *m, const struct node *at, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	message_at(m, at->file, at->line, at->column, text);
}

bool config_may_pass(const struct config_messages *errors)
{
	return errors->n_all > 0 && errors->n_passing == errors->n_all;
}

void config_messages_done(struct config_messages *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->v[i]);
	free(m->v);
	*m = (struct config_messages){ 0 };
}

/* --- the tree --- */

struct reading {
	yaml_parser_t parser;
	const char *file, *text;
	size_t len;
	struct config_messages *errors;
};

void node_free(struct node **node)
{
	struct node *n = *node;

	if (n == NULL)
		return;
	for (size_t i = 0; i < n->n_items; i++) {
		node_free(&n->items[i]);
		if (n->keys != NULL)
			node_free(&n->keys[i]);
	}
	free(n->items);
	free(n->keys);
	free(n->text);
	free(n);
	*node = NULL;
}

struct node *node_get(const struct node *map, const char *key)
{
	for (size_t i = 0; map != NULL && map->kind == NODE_MAP && i < map->n_items; i++)
		if (strcmp(map->keys[i]->text, key) == 0)
			return map->items[i];
	return NULL;
}

static void error_at_mark(struct reading *r, yaml_mark_t mark, const char *text)
{
	message_at(r->errors, r->file, (unsigned)mark.line + 1, (unsigned)mark.column + 1, text);
}

static void append(struct node *n, struct node *key, struct node *value)
{
	/* lists of 10,000: grow by doubling */
	if ((n->n_items & (n->n_items - 1)) == 0) {
		size_t room = n->n_items == 0 ? 1 : n->n_items * 2;

		n->items = xreallocarray(n->items, room, sizeof(*n->items));
		if (n->kind == NODE_MAP)
			n->keys = xreallocarray(n->keys, room, sizeof(*n->keys));
	}
	if (n->kind == NODE_MAP)
		n->keys[n->n_items] = key;
	n->items[n->n_items++] = value;
}

/* "maildir: %{local}" and, within { } or [ ], "x/%{local}" are no plain scalars: YAML means something else by them. */
static bool explain_template(struct reading *r, size_t line_index, size_t first_index)
{
	const char *at = r->text, *end = r->text + r->len;

	for (size_t line = 0; at < end && line <= line_index; line++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline != NULL ? newline : end;

		for (const char *c = at; line >= first_index && c + 1 < stop; c++)
			if (c[0] == '%' && c[1] == '{') {
				message_at(r->errors, r->file, (unsigned)line + 1, (unsigned)(c - at) + 1,
				    "a value with %{ must be quoted, like \"/srv/mail/%{address}\"");
				return true;
			}
		at = stop + 1;
	}
	return false;
}

static void explain_parser(struct reading *r)
{
	yaml_parser_t *p = &r->parser;
	char text[256];

	if (explain_template(r, p->problem_mark.line, p->context != NULL && p->context_mark.line <= p->problem_mark.line &&
	    p->problem_mark.line - p->context_mark.line <= 3 ? p->context_mark.line : p->problem_mark.line))
		return;
	snprintf(text, sizeof(text), "%s%s%s%s", p->problem != NULL ? p->problem : "this is not YAML", p->context != NULL ? " (" : "",
	    p->context != NULL ? p->context : "", p->context != NULL ? ")" : "");
	if (p->error == YAML_READER_ERROR) {		/* it has no mark, only an offset */
		yaml_mark_t mark = { 0 };

		for (size_t i = 0; i < p->problem_offset && i < r->len; i++) {
			mark.column++;
			if (r->text[i] == '\n') {
				mark.line++;
				mark.column = 0;
			}
		}
		error_at_mark(r, mark, text);
	} else {
		error_at_mark(r, p->problem_mark, text);
	}
}

static bool next_event(struct reading *r, yaml_event_t *ev)
{
	if (yaml_parser_parse(&r->parser, ev) != 0)
		return true;
	explain_parser(r);
	return false;
}

/* What these stand for is refused: a mistyped mailbox must not inherit from somewhere else in silence. */
static bool is_refused(struct reading *r, const yaml_event_t *ev, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor != NULL)
		error_at_mark(r, ev->start_mark, "anchors (&name) are not allowed: use `defaults`");
	else if (tag != NULL)
		error_at_mark(r, ev->start_mark, "tags (!name) are not allowed");
	return anchor != NULL || tag != NULL;
}

static struct node *read_node(struct reading *r, yaml_event_t *ev, unsigned depth);

static struct node *node_new(struct reading *r, enum node_kind kind, const yaml_event_t *ev)
{
	struct node *n = xcalloc(1, sizeof(*n));

	n->kind = kind;
	n->file = r->file;
	n->line = (unsigned)ev->start_mark.line + 1;
	n->column = (unsigned)ev->start_mark.column + 1;
	return n;
}

static struct node *read_list(struct reading *r, struct node *n, unsigned depth)
{
	yaml_event_t ev;
	struct node *item;

	for (;;) {
		if (!next_event(r, &ev))
			break;
		if (ev.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&ev);
			return n;
		}
		if ((item = read_node(r, &ev, depth + 1)) == NULL)
			break;
		append(n, NULL, item);
	}
	node_free(&n);
	return NULL;
}

static bool good_key(struct reading *r, const struct node *map, const struct node *key)
{
	const struct node *there;

	if (key->kind != NODE_SCALAR) {
		node_message(r->errors, key, "a key must be a plain word");
		return false;
	}
	if (!key->quoted && strcmp(key->text, "<<") == 0) {
		node_message(r->errors, key, "merge keys (<<) are not allowed: use `defaults`");
		return false;
	}
	if (node_get(map, key->text) == NULL)
		return true;
	for (size_t i = 0; i < map->n_items; i++)
		if (there = map->keys[i], strcmp(there->text, key->text) == 0)
			node_message(r->errors, key, "%s stands here a second time: the first is at line %u", key->text, there->line);
	return false;
}

static struct node *read_map(struct reading *r, struct node *n, unsigned depth)
{
	yaml_event_t ev;
	struct node *key, *value;
	bool good = true;

	for (;;) {
		if (!next_event(r, &ev))
			break;
		if (ev.type == YAML_MAPPING_END_EVENT) {
			yaml_event_delete(&ev);
			if (!good)
				break;
			return n;
		}
		if ((key = read_node(r, &ev, depth + 1)) == NULL)
			break;
		if (!next_event(r, &ev) || (value = read_node(r, &ev, depth + 1)) == NULL) {
			node_free(&key);
			break;
		}
		if (good_key(r, n, key)) {
			append(n, key, value);
		} else {
			good = false;
			node_free(&key);
			node_free(&value);
		}
	}
	node_free(&n);
	return NULL;
}

/* Takes the event over. NULL: an error was added. */
static struct node *read_node(struct reading *r, yaml_event_t *ev, unsigned depth)
{
	struct node *n = NULL;

	if (depth > DEPTH_MAX) {
		error_at_mark(r, ev->start_mark, "nested too deep");
		yaml_event_delete(ev);
		return NULL;
	}
	switch (ev->type) {
	case YAML_SCALAR_EVENT:
		if (is_refused(r, ev, ev->data.scalar.anchor, ev->data.scalar.tag))
			break;
		n = node_new(r, NODE_SCALAR, ev);
		n->quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
		n->text = xstrdup((const char *)ev->data.scalar.value);
		if (strlen(n->text) != ev->data.scalar.length) {
			node_message(r->errors, n, "a NUL is not allowed");
			node_free(&n);
		}
		break;
	case YAML_SEQUENCE_START_EVENT:
		if (is_refused(r, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag))
			break;
		n = node_new(r, NODE_LIST, ev);
		yaml_event_delete(ev);
		return read_list(r, n, depth);
	case YAML_MAPPING_START_EVENT:
		if (is_refused(r, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag))
			break;
		n = node_new(r, NODE_MAP, ev);
		yaml_event_delete(ev);
		return read_map(r, n, depth);
	case YAML_ALIAS_EVENT:
		error_at_mark(r, ev->start_mark, "aliases (*name) are not allowed: use `defaults`");
		break;
	default:
		error_at_mark(r, ev->start_mark, "unexpected");
		break;
	}
	yaml_event_delete(ev);
	return n;
}

/* --- the text --- */

/* Says where it is not UTF-8, or where lines are indented with tabs; libyaml would be less clear. */
static bool check_text(const char *file, const char *text, size_t len, struct config_messages *errors)
{
	unsigned line = 1, column = 1;
	bool indent = true, good = true;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_length((const unsigned char *)text + i, len - i);

		if (n == 0) {
			message_at(errors, file, line, column, "this is not UTF-8");
			return false;
		}
		if (text[i] == '\t' && indent) {
			message_at(errors, file, line, column, "a tab: YAML is indented with spaces");
			good = indent = false;
		}
		indent = text[i] == '\n' || (indent && text[i] == ' ');
		column++;
		if (text[i] == '\n') {
			line++;
			column = 1;
		}
		i += n;
	}
	return good;
}

static struct node *read_document(struct reading *r)
{
	struct node *root = NULL;
	yaml_event_t ev;

	if (!next_event(r, &ev))	/* stream start */
		return NULL;
	yaml_event_delete(&ev);
	if (!next_event(r, &ev))
		return NULL;
	if (ev.type == YAML_STREAM_END_EVENT) {
		message_at(r->errors, r->file, 1, 1, "the file is empty");
		yaml_event_delete(&ev);
		return NULL;
	}
	yaml_event_delete(&ev);		/* document start */
	if (!next_event(r, &ev) || (root = read_node(r, &ev, 0)) == NULL)
		return NULL;
	if (!next_event(r, &ev)) {	/* document end */
		node_free(&root);
		return NULL;
	}
	yaml_event_delete(&ev);
	if (!next_event(r, &ev)) {
		node_free(&root);
		return NULL;
	}
	if (ev.type != YAML_STREAM_END_EVENT) {
		error_at_mark(r, ev.start_mark, "a second document in the file");
		node_free(&root);
	}
	yaml_event_delete(&ev);
	return root;
}

struct node *node_parse(const char *file, const char *text, size_t len, struct config_messages *errors)
{
	struct reading r = { .file = file, .text = text, .len = len, .errors = errors };
	struct node *root;

	if (!check_text(file, text, len, errors))
		return NULL;
	if (yaml_parser_initialize(&r.parser) == 0)
		abort();
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	root = read_document(&r);
	yaml_parser_delete(&r.parser);
	return root;
}

static char *read_file(const char *file, size_t *ret_len, const char **ret_why)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char *text = NULL;
	size_t len = 0;
	ssize_t n = 0;

	*ret_why = NULL;
	if (fd < 0 || fstat(fd, &st) < 0)
		*ret_why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		*ret_why = "not a file";
	else if (st.st_size > FILE_MAX)
		*ret_why = "larger than 32 MiB";
	if (*ret_why == NULL) {
		text = xmalloc((size_t)st.st_size + 1);
		while (len < (size_t)st.st_size && (n = read(fd, text + len, (size_t)st.st_size - len)) > 0)
			len += (size_t)n;
		if (n < 0) {
			*ret_why = strerror(errno);
			free(text);
			text = NULL;
		}
	}
	if (fd >= 0)
		close(fd);
	*ret_len = len;
	return text;
}

struct node *node_read_file(const char *file, struct config_messages *errors)
{
	const char *why;
	size_t len;
	char *text = read_file(file, &len, &why);
	struct node *root;

	if (text == NULL) {
		message_at(errors, file, 1, 1, why);
		return NULL;
	}
	root = node_parse(file, text, len, errors);
	free(text);
	return root;
}
