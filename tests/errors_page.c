/* Prints mailpolld-errors(7) from the failure table; `make man` writes it, `make check-tree` compares it. */
#include <stdio.h>
#include <string.h>
#include "backoff.h"
#include "failure.h"

static const char *const cures[] = {
	[FAIL_NONE] = "No failure: mailpolld deals with it.", [FAIL_EXPECTED] = "Ordinary: once more at once, nothing is counted.",
	[FAIL_TOKEN] = "Once more with a fresh token; then a person must act.", [FAIL_WAIT] = "Goes away by itself.",
	[FAIL_ADMIN] = "A person must act; mailpolld goes on trying.",
};

static void put(const char *text)	/* as mdoc text: a line must not begin with a dot or an apostrophe, a backslash is an escape */
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", stdout);
	for (; *text != '\0'; text++) {
		if (text[0] == '.' && text[1] == ' ') {		/* a new sentence, a new line */
			fputs(".\n", stdout);
			text++;
			continue;
		}
		fputs(*text == '\\' ? "\\e" : *text == '-' ? "\\-" : (char[]){ *text, '\0' }, stdout);
	}
	putchar('\n');
}

/* Not from a server: what this machine's disks and sinks do (failure_set() in the sources). Waits: SCHEDULE_SINK. */
static const struct { const char *name, *seen; } local[] = {
	{ "maildir", "A Maildir cannot be made or written. The hint says what to mend, the doctor looks at it with the daemon's rights." },
	{ "command", "The command of `deliver` cannot be run, ended with a status other than 0 and 65 (which refuses the message), took too long or ended by a signal." },
	{ "command-stuck", "A command of `deliver` does not end though killed: it waits in the kernel. Its message waits for it, and the sink does once at_once of them do." },
	{ "waits-for-old", "A reload has changed the mailbox, and what was under way for it before has not ended for 30 s, as a command that does not: it starts when that has." },
	{ "disk", "A message cannot be written where it waits for its sink, or is gone from there: then it is fetched again." },
	{ "no-room", "The spool has reached spool_limit, or a file system min_free: mail stays on the server until there is room." },
	{ "quarantine", "A refused message cannot be put into the quarantine directory of state_dir." },
	{ "audit", "The file of `audit` cannot be written: its lines wait, 4 MiB of them at most; tried again every 5 s." },
	{ "store", "The state cannot be written: nothing is settled until it can. When its file is damaged, or its file system was mounted anew, a person must act." },
	{ "not-owner", "Another machine has this mailbox in its state. No state is shared by machines yet, so this does not come." },
};

static void put_cure(const struct failure_row *row)
{
	char waits[200];

	if (strcmp(row->name, "unretrievable") == 0) {		/* of one message, when all tries are over: mailpolld 8 */
		puts("A person must act; the message is not tried again before\n.Ic mailpollctl resync .");
		return;
	}
	puts(cures[row->fail]);
	if (row->fail == FAIL_EXPECTED || row->fail == FAIL_NONE)
		return;
	backoff_describe(row->schedule, row->asked_wait_ms, waits, sizeof(waits));
	printf("Waits: %s.\n", waits);
	if (row->schedule == SCHEDULE_NO_ACCESS) {		/* failure_from_imap() */
		backoff_describe(SCHEDULE_LOST_ACCESS, row->asked_wait_ms, waits, sizeof(waits));
		printf("When the mailbox has been opened before, it may go away by itself; waits: %s.\n", waits);
	}
}

int main(void)
{
	struct failure_row row;
	char waits[200];

	puts(".\\\" Made by `make man` from the table in daemon/failure.c; do not edit.\n"
	    ".Dd November 26, 2026\n.Dt MAILPOLLD-ERRORS 7\n.Os\n.Sh NAME\n.Nm mailpolld-errors\n.Nd what mailpolld has seen, and what to do about it\n"
	    ".Sh DESCRIPTION\nThe field\n.Li FAILURE\nof a log line of\n.Xr mailpolld 8\nis one of these names.\n"
	    "The rows are tried from the top; the first that matches what was seen counts.\n"
	    "A wait is drawn at random between a tenth of the time given and all of it, and the waits begin anew once the mailbox has been looked\n"
	    "at with success.\n"
	    "It is never shorter than what the server asked for, or the row's\n.Dq at least ,\n"
	    "to which up to a tenth is added; what it asked for counts as 1 s at least and as 1 h at most.\n"
	    "A client secret's file is looked at every 30 s while a person must act: a new secret is tried at once.\n"
	    "One that is refused as\n.Li secret-wrong\n"
	    "within 10 minutes of its first use is tried again after a minute at most, since not all of Entra knows a new secret at once.\n"
	    "After a start, and after a reload that changes the credential, each is new: a wrong one is sent about ten times before the waits become\n"
	    "long.\n"
	    ".Pp\n"
	    "mailpolld signs in with a client secret.\n"
	    ".Li certificate-refused , clock-wrong\nand\n.Li federation-mismatch\n"
	    "are what Entra says of other ways to sign in; they are here in case that an endpoint says them all the same.\n"
	    ".Pp\n"
	    "Words in braces stand for what the hint fills in.\n.Bl -tag -width Ds");
	for (size_t i = 0; failure_row(i, &row); i++) {
		printf(".It Li %s\nSeen: ", row.name);
		put(row.seen);
		puts(".br");
		put_cure(&row);
		if (row.hint[0] != '\0') {
			puts(".br");
			fputs("Hint: ", stdout);
			put(row.hint);
		}
	}
	puts(".El\n.Ss Disks and sinks");
	backoff_describe(SCHEDULE_SINK, 0, waits, sizeof(waits));
	printf("These come from this machine and have no row; their hint is beside them.\nWaits: %s.\n.Bl -tag -width Ds\n", waits);
	for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++) {
		printf(".It Li %s\n", local[i].name);
		put(local[i].seen);
	}
	puts(".El\n.Sh SEE ALSO\n.Xr mailpolld-exchange-setup 7 ,\n.Xr mailpolld 8");
	return 0;
}
