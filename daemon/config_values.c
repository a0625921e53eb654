#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config_private.h"

static void message(struct config_messages *m, const struct node *at, const char *where, const char *fmt, va_list args) PRINTF_LIKE(4, 0);
static void message(struct config_messages *m, const struct node *at, const char *where, const char *fmt, va_list args)
{
	char text[768];

	vsnprintf(text, sizeof(text), fmt, args);
	node_message(m, at, "%s%s%s", where, where[0] != '\0' ? ": " : "", text);
}

void bad(struct loading *l, struct node *at, const char *where, const char *fmt, ...)
{
	va_list args;

	if (at->reported)
		return;
	at->reported = true;
	va_start(args, fmt);
	message(l->errors, at, where, fmt, args);
	va_end(args);
}

void cannot_tell(struct loading *l, struct node *at, const char *where, const char *fmt, ...)
{
	va_list args;

	if (at->reported)
		return;
	at->reported = true;
	l->errors->n_passing++;
	va_start(args, fmt);
	message(l->errors, at, where, fmt, args);
	va_end(args);
}

void missing(struct loading *l, const struct node *at, const char *where, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	message(l->errors, at, where, fmt, args);
	va_end(args);
}

void suspect(struct loading *l, const struct node *at, const char *where, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	message(l->warnings, at, where, fmt, args);
	va_end(args);
}

bool is_kind(struct loading *l, struct node *n, const char *where, enum node_kind kind)
{
	static const char *const names[] = { [NODE_SCALAR] = "a single value", [NODE_LIST] = "a list", [NODE_MAP] = "a mapping (key: value)" };

	if (n == NULL || n->reported)
		return false;
	if (n->kind == kind)
		return true;
	bad(l, n, where, "must be %s, not %s", names[kind], names[n->kind]);
	return false;
}

/* --- keys --- */

static size_t distance(const char *a, const char *b)	/* Levenshtein's */
{
	size_t row[64], la = strlen(a), lb = strlen(b);

	if (lb >= ARRAY_LEN(row) || la >= ARRAY_LEN(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t change = diagonal + (a[i - 1] != b[j - 1]), insert = row[j - 1] + 1, drop = row[j] + 1;

			diagonal = row[j];
			row[j] = change < insert ? change : insert;
			if (drop < row[j])
				row[j] = drop;
		}
	}
	return row[lb];
}

static bool among(const char *const *words, const char *word)
{
	for (; words != NULL && *words != NULL; words++)
		if (strcmp(*words, word) == 0)
			return true;
	return false;
}

void check_keys(struct loading *l, const struct node *map, const char *where, const char *const *known, const char *const *later)
{
	for (size_t i = 0; i < map->n_items; i++) {
		struct node *key = map->keys[i];
		const char *nearest = NULL;
		size_t best = 4;
		char shown[80];

		if (among(known, key->text))
			continue;
		printable(shown, sizeof(shown), key->text, strlen(key->text));
		if (among(later, key->text)) {
			bad(l, key, where, "%s is not there yet", shown);
			continue;
		}
		for (const char *const *k = known; *k != NULL; k++) {
			size_t d = distance(key->text, *k);

			if (d < best) {
				best = d;
				nearest = *k;
			}
		}
		bad(l, key, where, "there is no key %s%s%s%s", shown, nearest != NULL ? "; did you mean " : "", nearest != NULL ? nearest : "",
		    nearest != NULL ? "?" : "");
	}
}

/* --- values --- */

void read_text(struct loading *l, struct node *n, const char *where, char **ret)
{
	if (!is_kind(l, n, where, NODE_SCALAR))
		return;
	if (n->text[0] == '\0') {
		bad(l, n, where, "must not be empty");
		return;
	}
	for (const char *c = n->text; *c != '\0'; c++)
		if (iscntrl((unsigned char)*c)) {
			bad(l, n, where, "has a control character");
			return;
		}
	free(*ret);
	*ret = xstrdup(n->text);
}

struct unit { const char *name; uint64_t factor; };

/* Digits and one of the units; an error otherwise. */
static bool read_with_unit(struct loading *l, struct node *n, const char *where, const struct unit *units, const char *what,
    const char *examples, uint64_t highest, uint64_t *ret)
{
	const char *c;
	uint64_t value = 0;
	char shown[40];

	if (!is_kind(l, n, where, NODE_SCALAR))
		return false;
	printable(shown, sizeof(shown), n->text, strlen(n->text));
	for (c = n->text; *c >= '0' && *c <= '9'; c++) {
		if (value > (UINT64_MAX - 9) / 10) {
			bad(l, n, where, "%s is too large", shown);
			return false;
		}
		value = value * 10 + (uint64_t)(*c - '0');
	}
	if (c > n->text && *c == '\0') {
		bad(l, n, where, "%s needs a unit (%s)", shown, examples);
		return false;
	}
	for (; c > n->text && units->name != NULL; units++) {
		if (strcmp(units->name, c) != 0)
			continue;
		if (value > highest / units->factor) {
			bad(l, n, where, "%s is too large", shown);
			return false;
		}
		*ret = value * units->factor;
		return true;
	}
	bad(l, n, where, "%s is not %s (%s)", shown, what, examples);
	return false;
}

void read_duration(struct loading *l, struct node *n, const char *where, msec_t *ret_ms)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { NULL, 0 } };
	uint64_t ms;

	if (!read_with_unit(l, n, where, units, "a duration", "500ms 30s 5m 1h", 366ULL * 86400000, &ms))
		return;
	if (ms == 0)
		bad(l, n, where, "must be more than nothing");
	else
		*ret_ms = (msec_t)ms;
}

void read_size(struct loading *l, struct node *n, const char *where, uint64_t *ret_bytes)
{
	static const struct unit units[] = { { "K", 1ULL << 10 }, { "M", 1ULL << 20 }, { "G", 1ULL << 30 }, { "T", 1ULL << 40 }, { NULL, 0 } };

	read_with_unit(l, n, where, units, "a size", "64K 25M 1G; K = 1024", 1ULL << 60, ret_bytes);
}

void read_number(struct loading *l, struct node *n, const char *where, uint32_t lowest, uint32_t highest, uint32_t *ret)
{
	uint32_t value;
	char shown[40];

	if (!is_kind(l, n, where, NODE_SCALAR))
		return;
	printable(shown, sizeof(shown), n->text, strlen(n->text));
	if (parse_u32(n->text, &value) < 0 || value < lowest || value > highest)
		bad(l, n, where, "%s is not a number from %u to %u", shown, lowest, highest);
	else
		*ret = value;
}

void read_word(struct loading *l, struct node *n, const char *where, const char *const *words, int *ret)
{
	char all[160] = "", shown[40];

	if (!is_kind(l, n, where, NODE_SCALAR))
		return;
	for (int i = 0; words[i] != NULL; i++) {
		if (strcmp(words[i], n->text) == 0) {
			*ret = i;
			return;
		}
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i > 0 ? ", " : "", words[i]);
	}
	printable(shown, sizeof(shown), n->text, strlen(n->text));
	bad(l, n, where, "%s is none of %s", shown, all);
}

char *path_beside(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');

	char *beside, *cwd, *absolute;

	if (path[0] == '/')
		return xstrdup(path);
	beside = slash == NULL ? xstrdup(path) : xasprintf("%.*s/%s", (int)(slash - file), file, path);
	cwd = beside[0] == '/' ? NULL : getcwd(NULL, 0);
	if (cwd == NULL)
		return beside;
	absolute = xasprintf("%s/%s", cwd, beside);
	free(cwd);
	free(beside);
	return absolute;
}

void read_path(struct loading *l, struct node *n, const char *where, char **ret)
{
	char *path = NULL;

	read_text(l, n, where, &path);
	if (path == NULL)
		return;
	free(*ret);
	*ret = path_beside(n->file, path);
	free(path);
}
