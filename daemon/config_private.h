/* config_private.h - what the files of the configuration share: config.c (the schema and its precedence), config_sink.c
 * (`deliver`), config_values.c (single values). config_objects.c needs none of it. Nobody else includes it. */
#pragma once
#include "config.h"
#include "config_yaml.h"

struct loading {
	struct config *config;
	struct config_messages *errors, *warnings;
	struct node **roots; size_t n_roots;
	struct group_found *groups;	/* config_sink.c; those that have been looked up */
};

/* An error at a node, once per node: "where: what is wrong". */
void bad(struct loading *, struct node *at, const char *where, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The same, but of this machine and not of the node: it may pass. */
void cannot_tell(struct loading *, struct node *at, const char *where, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The same of what ought to be in it: each is told. */
void missing(struct loading *, const struct node *at, const char *where, const char *fmt, ...) PRINTF_LIKE(4, 5);
void suspect(struct loading *, const struct node *at, const char *where, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Keys that are not among known (NULL-terminated) are errors, with the nearest known one; later are those that are not
 * there yet (NULL: none). */
void check_keys(struct loading *, const struct node *map, const char *where, const char *const *known, const char *const *later);

/* Each leaves the default alone and adds an error when the node is not such a value. A NULL node is no error. */
void read_text(struct loading *, struct node *, const char *where, char **ret);	/* not empty, no control characters */
void read_duration(struct loading *, struct node *, const char *where, msec_t *ret_ms);
void read_size(struct loading *, struct node *, const char *where, uint64_t *ret_bytes);
void read_number(struct loading *, struct node *, const char *where, uint32_t lowest, uint32_t highest, uint32_t *ret);
/* The index in words (NULL-terminated). */
void read_word(struct loading *, struct node *, const char *where, const char *const *words, int *ret);
/* Absolute; relative to the node's file. */
void read_path(struct loading *, struct node *, const char *where, char **ret);
char *path_beside(const char *file, const char *path);
bool is_kind(struct loading *, struct node *, const char *where, enum node_kind);

/* `deliver`. NULL: an error was added. The same node gives the same object. */
const struct sink_conf *read_deliver(struct loading *, struct node *, const char *where);
void forget_groups(struct loading *);
