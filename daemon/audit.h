/* audit.h - one line per message handed over, in a file of its own. Lines are written by a lane, in order, and wait in memory (at most 4 MiB,
 * what is more is dropped and counted in the log) while the disk does not take them. */
#pragma once
#include <stddef.h>

struct event_base; struct workers;
struct audit;

struct audit *audit_new(struct event_base *, struct workers *);
/* Nothing more comes: what waits is given to the lane, so workers_free() lets it be written if the disk takes it. */
void audit_finish(struct audit *);
void audit_free(struct audit **);		/* after workers_free() */
/* Where lines go from now on; NULL: nowhere, what waits is tried once more, and what is lost of it told. Also closes and opens the file
 * anew, for who has rotated it. */
void audit_set_file(struct audit *, const char *path);
void audit_line(struct audit *, const char *line);	/* copied; with its newline */
