#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "imap_session_private.h"
#include "util.h"

const char *imap_command_name(enum imap_command command)
{
	static const char *const names[] = {
		[COMMAND_SELECT] = "SELECT", [COMMAND_STATUS] = "STATUS", [COMMAND_SEARCH] = "UID SEARCH", [COMMAND_FETCH] = "UID FETCH",
		[COMMAND_STORE] = "UID STORE", [COMMAND_COPY] = "UID COPY", [COMMAND_MOVE] = "UID MOVE", [COMMAND_EXPUNGE] = "UID EXPUNGE",
		[COMMAND_IDLE] = "IDLE", [COMMAND_NOOP] = "NOOP", [COMMAND_LOGOUT] = "LOGOUT",
	};

	return names[command];
}

static void command_on_folder(struct imap_session *s, enum imap_command kind, enum failure_phase phase, const char *before,
    const char *folder, const char *after)
{
	char *quoted = imap_quote_mailbox(folder);	/* valid: the configuration checked it */

	imap_session_command(s, kind, phase, "%s %s%s", before, quoted != NULL ? quoted : "\"\"", after);
	free(quoted);
}

static void command_on_uids(struct imap_session *s, enum imap_command kind, enum failure_phase phase, const char *before,
    const struct ranges *uids, const char *after)
{
	char set[IMAP_SET_MAX + 1];

	ranges_format(uids, set, sizeof(set));
	imap_session_command(s, kind, phase, "%s %s%s", before, set, after);
}

bool imap_add_copied(const char *copyuid, struct ranges *add_to)
{
	const char *from = copyuid + strspn(copyuid, "0123456789");
	struct ranges uids = { 0 };
	bool ok;
	char *text;

	from += strspn(from, " ");
	text = xstrndup(from, strcspn(from, " "));
	ok = text[0] == '\0' || ranges_parse(&uids, text) == 0;
	for (size_t i = 0; i < uids.n; i++)
		ranges_add(add_to, uids.v[i].lo, uids.v[i].hi);
	ranges_done(&uids);
	free(text);
	return ok;
}

void imap_session_select(struct imap_session *s, const char *folder)
{
	command_on_folder(s, COMMAND_SELECT, PHASE_OPEN, "SELECT", folder, "");
}

void imap_session_status(struct imap_session *s, const char *folder)
{
	command_on_folder(s, COMMAND_STATUS, PHASE_OPEN, "STATUS", folder, " (MESSAGES UIDNEXT UIDVALIDITY)");
}

void imap_session_search_from(struct imap_session *s, uint32_t uid)
{
	imap_session_command(s, COMMAND_SEARCH, PHASE_OTHER, "UID SEARCH UID %u:*", uid);
}

void imap_session_search_uids(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_SEARCH, PHASE_OTHER, "UID SEARCH UID", uids, "");
}

void imap_session_search_since(struct imap_session *s, int year, int month, int day)
{
	static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };

	imap_session_command(s, COMMAND_SEARCH, PHASE_OTHER, "UID SEARCH SINCE %d-%s-%d", day, months[(month - 1) % 12], year);
}

void imap_session_fetch_sizes(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_FETCH, PHASE_FETCH, "UID FETCH", uids, " (UID RFC822.SIZE)");
}

void imap_session_fetch_identity(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_FETCH, PHASE_FETCH, "UID FETCH", uids, " (UID INTERNALDATE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])");
}

void imap_session_fetch(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_FETCH, PHASE_FETCH, "UID FETCH", uids, " (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])");
}

void imap_session_fetch_split(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_FETCH, PHASE_FETCH, "UID FETCH", uids, " (UID INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER] BODY.PEEK[TEXT])");
}

void imap_session_add_flag(struct imap_session *s, const struct ranges *uids, const char *flag)
{
	char after[48];

	/* not +FLAGS.SILENT, which Exchange has refused (exchange-online 4.7) */
	snprintf(after, sizeof(after), " +FLAGS (%s)", flag);
	command_on_uids(s, COMMAND_STORE, PHASE_OTHER, "UID STORE", uids, after);
}

static void command_to_folder(struct imap_session *s, enum imap_command kind, const char *verb, const struct ranges *uids,
    const char *folder)
{
	char *quoted = imap_quote_mailbox(folder), *after = xasprintf(" %s", quoted != NULL ? quoted : "\"\"");

	command_on_uids(s, kind, PHASE_OTHER, verb, uids, after);
	free(after);
	free(quoted);
}

void imap_session_copy(struct imap_session *s, const struct ranges *uids, const char *folder)
{
	command_to_folder(s, COMMAND_COPY, "UID COPY", uids, folder);
}

void imap_session_move(struct imap_session *s, const struct ranges *uids, const char *folder)
{
	command_to_folder(s, COMMAND_MOVE, "UID MOVE", uids, folder);
}

void imap_session_expunge(struct imap_session *s, const struct ranges *uids)
{
	command_on_uids(s, COMMAND_EXPUNGE, PHASE_OTHER, "UID EXPUNGE", uids, "");
}

void imap_session_noop(struct imap_session *s)
{
	imap_session_command(s, COMMAND_NOOP, PHASE_IDLE, "NOOP");
}
