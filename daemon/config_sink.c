/* `deliver`: one sink. A kind that is known but not there yet is named as such. */
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config_private.h"

#define ARGUMENTS_MAX 64

static const char *const later_kinds[] = { "lmtp", "webhook", NULL };

/* %{word} as config_expand() knows it. */
static void check_template(struct loading *l, struct node *n, const char *where)
{
	static const char *const words[] = { "address", "local", "domain", "folder", "id" };

	for (const char *c = strstr(n->text, "%{"); c != NULL; c = strstr(c + 2, "%{")) {
		const char *end = strchr(c, '}');
		bool known = false;

		for (size_t i = 0; end != NULL && i < ARRAY_LEN(words); i++)
			known = known || (strlen(words[i]) == (size_t)(end - c - 2) && strncmp(words[i], c + 2, strlen(words[i])) == 0);
		if (!known) {
			bad(l, n, where, "%%{ must be one of %%{address} %%{local} %%{domain} %%{folder} %%{id}");
			return;
		}
	}
}

static void read_mode(struct loading *l, struct node *n, const char *where, mode_t *ret)
{
	char *end;
	unsigned long mode;

	if (!is_kind(l, n, where, NODE_SCALAR))
		return;
	mode = strtoul(n->text, &end, 8);
	if (!isdigit((unsigned char)n->text[0]) || *end != '\0' || (mode & ~0666UL) != 0 || (mode & 0600) != 0600)
		bad(l, n, where, "must be an octal file mode from 0600 to 0666, such as 0640");
	else
		*ret = (mode_t)mode;
}

struct group_found { struct group_found *next; bool is_there; gid_t gid; int error; char name[]; };

/* The buffer may have to be large: a group has as many members as it likes. */
static void look_up(struct group_found *g)
{
	size_t size = 4096;
	char *room = NULL;
	struct group group, *found = NULL;

	do {
		size *= 2;
		room = xreallocarray(room, size, 1);
		g->error = getgrnam_r(g->name, &group, room, size, &found);
	} while (g->error == ERANGE && size < 64 * 1024 * 1024);
	g->is_there = found != NULL;
	if (g->is_there)
		g->gid = found->gr_gid;
	free(room);
}

/* Once each: a directory service is asked over the network, and each of thousands of mailboxes may have a `deliver` of its own. */
static const struct group_found *group_of(struct loading *l, const char *name)
{
	struct group_found *g;

	for (g = l->groups; g != NULL && strcmp(g->name, name) != 0; g = g->next)
		;
	if (g == NULL) {
		g = xcalloc(1, sizeof(*g) + strlen(name) + 1);
		strcpy(g->name, name);
		look_up(g);
		g->next = l->groups;
		l->groups = g;
	}
	return g;
}

void forget_groups(struct loading *l)
{
	struct group_found *g;

	while ((g = l->groups) != NULL) {
		l->groups = g->next;
		free(g);
	}
}

/* An error is no word on the group: a directory service that does not answer may fail with ENOENT, too, for want of its socket. */
static void find_group(struct loading *l, struct node *n, const char *where, struct sink_conf *s)
{
	const struct group_found *g = group_of(l, s->group);

	if (g->is_there)
		s->gid = g->gid;
	else if (g->error != 0)
		cannot_tell(l, n, where, "group %s cannot be looked up: %s", s->group, strerror(g->error));
	else
		bad(l, n, where, "there is no group %s on this machine", s->group);
}

static void read_maildir(struct loading *l, struct node *map, const char *where, struct sink_conf *s)
{
	static const char *const keys[] = { "maildir", "mode", "group", NULL };
	struct node *group = node_get(map, "group");

	s->kind = SINK_MAILDIR;
	s->name = xstrdup("maildir");
	check_keys(l, map, where, keys, NULL);
	read_path(l, node_get(map, "maildir"), where, &s->maildir);
	if (s->maildir != NULL)
		check_template(l, node_get(map, "maildir"), where);
	read_mode(l, node_get(map, "mode"), where, &s->mode);
	read_text(l, group, where, &s->group);
	if (s->group != NULL)
		find_group(l, group, where, s);
}

static void read_command(struct loading *l, struct node *map, const char *where, struct sink_conf *s)
{
	static const char *const keys[] = { "command", "timeout", "at_once", NULL };
	struct node *command = node_get(map, "command");

	s->kind = SINK_COMMAND;
	s->name = xstrdup("command");
	check_keys(l, map, where, keys, NULL);
	read_duration(l, node_get(map, "timeout"), where, &s->timeout_ms);
	read_number(l, node_get(map, "at_once"), where, 1, 1000, &s->at_once);
	if (command->kind == NODE_SCALAR) {
		bad(l, command, where, "command must be a list, [/path/to/program, argument]: there is no shell");
		return;
	}
	if (!is_kind(l, command, where, NODE_LIST))
		return;
	if (command->n_items < 1 || command->n_items > ARGUMENTS_MAX) {
		bad(l, command, where, "command must have 1 to %d words", ARGUMENTS_MAX);
		return;
	}
	s->command = xcalloc(command->n_items + 1, sizeof(*s->command));
	for (size_t i = 0; i < command->n_items; i++) {
		read_text(l, command->items[i], where, &s->command[i]);
		if (s->command[i] == NULL)
			s->command[i] = xstrdup("");	/* it has been told */
		else if (i > 0)
			check_template(l, command->items[i], where);
	}
	if (s->command[0][0] != '/')
		bad(l, command->items[0], where, "the program must be an absolute path");
	else if (access(s->command[0], X_OK) < 0)
		suspect(l, command->items[0], where, "%s cannot be run: %s", s->command[0], strerror(errno));
}

const struct sink_conf *read_deliver(struct loading *l, struct node *n, const char *where)
{
	struct sink_conf *s;
	struct config *c = l->config;

	if (n->made != NULL)
		return n->made;
	if (n->kind == NODE_LIST) {
		bad(l, n, where, "several sinks are not there yet");
		return NULL;
	}
	if (!is_kind(l, n, where, NODE_MAP))
		return NULL;
	for (const char *const *k = later_kinds; *k != NULL; k++)
		if (node_get(n, *k) != NULL) {
			bad(l, n, where, "%s is not there yet; there are maildir and command", *k);
			return NULL;
		}
	if ((node_get(n, "maildir") != NULL) == (node_get(n, "command") != NULL)) {
		bad(l, n, where, "must have either maildir or command");
		return NULL;
	}
	s = xcalloc(1, sizeof(*s));
	s->mode = 0600;
	s->gid = (gid_t)-1;
	s->timeout_ms = 60000;
	s->at_once = 4;
	if (node_get(n, "maildir") != NULL)
		read_maildir(l, n, where, s);
	else
		read_command(l, n, where, s);
	c->sinks = xreallocarray(c->sinks, c->n_sinks + 1, sizeof(*c->sinks));
	c->sinks[c->n_sinks++] = s;
	n->made = s;
	return s;
}
