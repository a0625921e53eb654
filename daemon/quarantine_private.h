/* quarantine_private.h - what the two files of the quarantine share. Nobody else includes it. */
#pragma once

struct quarantine_counts;
void quarantine_uncount(struct quarantine_counts *, const char *key);	/* it has left */
char *quarantine_name(const char *key);		/* of its files, without the suffix; caller frees */
