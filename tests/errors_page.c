/* Prints mailpolld-errors(7) from the failure table; `make man` writes it, `make check-tree` compares it. */
#include <stdio.h>
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
	{ "command", "The command of `deliver` cannot be run, asked to be tried again (exit status 75), took too long or ended by a signal." },
	{ "disk", "A message cannot be written where it waits for its sink." },
	{ "no-room", "The spool has reached spool_limit, or a file system min_free: mail stays on the server until there is room." },
	{ "quarantine", "A refused message cannot be put into the quarantine directory of state_dir." },
	{ "store", "The state cannot be written: nothing is settled until it can." },
	{ "not-owner", "Another machine has this mailbox in its state: it is paused here." },
};

int main(void)
{
	struct failure_row row;
	char waits[200];

	puts(".\\\" Made by `make man` from the table in daemon/failure.c; do not edit.\n"
	    ".Dd November 24, 2026\n.Dt MAILPOLLD-ERRORS 7\n.Os\n.Sh NAME\n.Nm mailpolld-errors\n.Nd what mailpolld has seen, and what to do about it\n"
	    ".Sh DESCRIPTION\nThe field\n.Li FAILURE\nof a log line of\n.Xr mailpolld 8\nis one of these names.\n"
	    "The rows are tried from the top; the first that matches what was seen counts.\n"
	    "A wait is drawn at random up to the time given, is never shorter than what the server asked for, and begins anew once the mailbox\n"
	    "has been looked at with success.\n"
	    "Words in braces stand for what the hint fills in.\n.Bl -tag -width Ds");
	for (size_t i = 0; failure_row(i, &row); i++) {
		printf(".It Li %s\nSeen: ", row.name);
		put(row.seen);
		puts(".br");
		fputs(cures[row.fail], stdout);
		backoff_describe(row.schedule, waits, sizeof(waits));
		if (row.fail != FAIL_EXPECTED && row.fail != FAIL_NONE)
			printf("\nWaits: %s.", waits);
		putchar('\n');
		if (row.hint[0] != '\0') {
			puts(".br");
			fputs("Hint: ", stdout);
			put(row.hint);
		}
	}
	puts(".El\n.Ss Disks and sinks");
	backoff_describe(SCHEDULE_SINK, waits, sizeof(waits));
	printf("These come from this machine and have no row; their hint is beside them.\nWaits: %s.\n.Bl -tag -width Ds\n", waits);
	for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++) {
		printf(".It Li %s\n", local[i].name);
		put(local[i].seen);
	}
	puts(".El\n.Sh SEE ALSO\n.Xr mailpolld-exchange-setup 7 ,\n.Xr mailpolld 8");
	return 0;
}
