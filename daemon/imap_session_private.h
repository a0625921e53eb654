/* imap_session_private.h - what the files of a session share: imap_session.c (its phases) and imap_session_commands.c (the text of
 * each command). Nobody else includes it. */
#pragma once
#include "imap_session.h"

const char *imap_command_name(enum imap_command);	/* "UID FETCH" */
/* Adds the source set of a COPYUID's arguments, "UIDVALIDITY SOURCE TARGET" (RFC 4315 3); both sets are empty when nothing was moved
 * (exchange-online 4.7). False: it cannot be read. */
bool imap_add_copied(const char *copyuid, struct ranges *add_to);
/* Sends a command, for which failures are told as of that phase. */
void imap_session_command(struct imap_session *, enum imap_command, enum failure_phase, const char *fmt, ...) PRINTF_LIKE(4, 5);
