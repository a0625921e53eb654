/* Several may look at one mailbox; it is told only whether anybody does. */
#include <stdlib.h>
#include "fleet_private.h"
#include "util.h"

struct fleet_trace {
	struct member *member;
	struct fleet_trace *next;
	const struct fleet_trace_ops *ops;
	void *arg;
};

static void on_line(void *arg, const char *text)
{
	const struct member *member = arg;

	for (const struct fleet_trace *t = member->traces; t != NULL; t = t->next)
		t->ops->line(t->arg, text);
}

struct fleet_trace *fleet_trace_start(struct fleet *f, const char *address, const struct fleet_trace_ops *ops, void *arg)
{
	struct member *member = fleet_member(f, address);
	struct fleet_trace *t;

	if (member == NULL)
		return NULL;
	t = xcalloc(1, sizeof(*t));
	*t = (struct fleet_trace){ .member = member, .next = member->traces, .ops = ops, .arg = arg };
	if (member->traces == NULL)
		mailbox_trace(member->mailbox, on_line, member);
	member->traces = t;
	return t;
}

void fleet_trace_stop(struct fleet_trace **trace)
{
	struct fleet_trace *t = *trace, **at;

	if (t == NULL)
		return;
	for (at = &t->member->traces; *at != t; at = &(*at)->next)
		;
	*at = t->next;
	if (t->member->traces == NULL)
		mailbox_trace(t->member->mailbox, NULL, NULL);
	free(t);
	*trace = NULL;
}

void member_end_traces(struct member *member, const char *why)
{
	struct fleet_trace *t;

	if (member->traces != NULL)
		mailbox_trace(member->mailbox, NULL, NULL);
	while ((t = member->traces) != NULL) {
		member->traces = t->next;
		t->ops->end(t->arg, why);
		free(t);
	}
}
