/* The text format wants all series of a family together, so it is families first, mailboxes second; a reload between two pieces may
 * leave one out. So is what the state knows until it has been read: a counter that is kept over restarts does not fall to 0 with each. */
#include "config.h"
#include "fleet.h"
#include "metrics_private.h"
#include "util.h"

#define PIECE 500			/* mailboxes */

static uint64_t sum(const struct mailbox *m, size_t offset)
{
	struct mailbox_snapshot now;
	uint64_t n = 0;

	mailbox_snapshot(m, &now);
	for (size_t i = 0; i < now.n_folders; i++) {
		struct folder_snapshot folder;

		mailbox_folder_snapshot(m, i, &folder);
		n += *(const uint64_t *)((const char *)&folder + offset);
	}
	return n;
}

static double failing(const struct mailbox *m)
{
	msec_t since_ms;

	return mailbox_is_failing(m, &since_ms);
}

static double delivered(const struct mailbox *m)
{
	return (double)sum(m, offsetof(struct folder_snapshot, delivered));
}

static double backlog(const struct mailbox *m)
{
	return (double)sum(m, offsetof(struct folder_snapshot, backlog));
}

static double owed(const struct mailbox *m)
{
	return (double)sum(m, offsetof(struct folder_snapshot, owed));
}

static double quarantined(const struct mailbox *m)
{
	return (double)sum(m, offsetof(struct folder_snapshot, quarantined));
}

static double oldest_age(const struct mailbox *m)
{
	int64_t since = mailbox_undelivered_since_wall_s(m);

	return since != 0 ? (double)(clock_wall_s() - since) : 0;
}

static const struct { const char *name, *type, *help; double (*value)(const struct mailbox *); bool of_state; } families[] = {
	{ "mailbox_failing", "gauge", "1 while the mailbox's last session or delivery failed.", failing, false },
	{ "mailbox_delivered_total", "counter", "Messages delivered, ever since the state knows the mailbox.", delivered, true },
	{ "mailbox_backlog", "gauge", "Messages that the server lists and that are not delivered yet.", backlog, false },
	{ "mailbox_owed", "gauge", "Messages that could not be had from the server.", owed, true },
	{ "mailbox_quarantined", "gauge", "Refused messages that lie in quarantine.", quarantined, false },
	{ "mailbox_oldest_undelivered_age_seconds", "gauge", "How long its oldest message that is known and not delivered has waited.", oldest_age, true },
};

static bool is_loaded(const struct mailbox *m)
{
	struct mailbox_snapshot now;

	mailbox_snapshot(m, &now);
	for (size_t i = 0; i < now.n_folders; i++) {
		struct folder_snapshot folder;

		mailbox_folder_snapshot(m, i, &folder);
		if (!folder.loaded)
			return false;
	}
	return true;
}

bool metrics_mailboxes(struct fleet *fleet, struct metrics_place *at, FILE *to)
{
	size_t n = fleet_size(fleet), end = at->mailbox + PIECE < n ? at->mailbox + PIECE : n;

	if (at->mailbox == 0)
		metrics_family(to, families[at->family].name, families[at->family].type, families[at->family].help);
	for (; at->mailbox < end; at->mailbox++) {
		const struct mailbox *m = fleet_mailbox(fleet, at->mailbox);

		if (families[at->family].of_state && !is_loaded(m))
			continue;
		fprintf(to, "mailpolld_%s", families[at->family].name);
		metrics_label(to, "{", "mailbox", mailbox_conf(m)->address);
		fprintf(to, "} %.17g\n", families[at->family].value(m));
	}
	if (at->mailbox >= n)
		*at = (struct metrics_place){ .family = at->family + 1 };
	return at->family < ARRAY_LEN(families);
}
