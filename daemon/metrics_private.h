/* metrics_private.h - what the files of the metrics share: metrics.c (HTTP), metrics_text.c (the text) and metrics_mailboxes.c (series of
 * single mailboxes). Nobody else includes it. */
#pragma once
#include <stdio.h>
#include "metrics.h"

void metrics_family(FILE *to, const char *name, const char *type, const char *help);
void metrics_label(FILE *to, const char *before, const char *name, const char *value);	/* before: `{` or `,` */

char *metrics_text(struct fleet *, int64_t started_wall_s, bool by_watchdog);	/* Text exposition format 0.0.4. Caller frees. */

/* Series of single mailboxes, some of them at a time. */
struct metrics_place { size_t family, mailbox; };	/* zeroed: at the beginning */
bool metrics_mailboxes(struct fleet *, struct metrics_place *, FILE *to);	/* may write nothing; false: these were the last */
