/* config_yaml.h - YAML text in, a tree of nodes with their positions out; only config.c uses it. Refused: anchors, aliases,
 * tags, merge keys, duplicate keys, tabs, what is not UTF-8, more than one document. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "config.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };
struct node {
	enum node_kind kind;
	const char *file;		/* lent by the document */
	unsigned line, column;		/* from 1 */
	char *text;			/* SCALAR */
	bool quoted;
	struct node **items; size_t n_items;	/* LIST; MAP: the values */
	struct node **keys;	/* MAP: as many, all scalars */
	bool reported;			/* an error of its own has been told: not again for each who inherits it */
	bool looked_at;			/* config.c's: the file that it names, likewise */
	void *made;			/* config.c's: the one object that was made of it; lent */
};

/* Adds an error or warning at a node. */
void node_message(struct config_messages *, const struct node *at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void config_message(struct config_messages *, char *text);	/* takes text over; beyond 100 they are only counted */

/* NULL: an error was added. An empty file is one. file is lent and must outlive the tree. */
struct node *node_read_file(const char *file, struct config_messages *errors);
struct node *node_parse(const char *file, const char *text, size_t len, struct config_messages *errors);
void node_free(struct node **);
/* NULL: no such key. */
struct node *node_get(const struct node *map, const char *key);
