/* imap_session_private.h - what the files of a session share: imap_session.c (its phases) and imap_session_commands.c (the text of
 * each command). Nobody else includes it. */
#pragma once
#include "imap_session.h"

/* Sends a command, for which failures are told as of that phase. */
void imap_session_command(struct imap_session *, enum imap_command, enum failure_phase, const char *fmt, ...) PRINTF_LIKE(4, 5);
