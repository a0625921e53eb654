/* status_json.h - what /status says (design: Status, schema 1) as JSON text, in pieces, so that the writer decides how
 * much of it is made at a time:
 *
 *	status_json_opening()  [ ,"mailboxes":[ status_json_mailbox() , ... ] ]  , status_json_closing()
 *
 * Reads the fleet and changes nothing. Texts are the caller's to free(). */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "clock.h"

struct fleet; struct mailbox;

/* `{` and members, no comma after the last */
char *status_json_opening(struct fleet *, const char *version, int64_t started_wall_s);
char *status_json_health(struct fleet *);				/* {"health":"ok","reasons":[...]} */
char *status_json_mailbox(const struct mailbox *);			/* one whole object */
char *status_json_mailbox_whole(const struct mailbox *);		/* with its settings and last errors */
/* Members and `}`. lag_max_ms: the loop's; log_dropped: lines. */
char *status_json_closing(struct fleet *, msec_t lag_max_ms, uint64_t log_dropped);

/* Small answers of the verbs. */
char *status_json_error(const char *sentence);				/* {"error":"..."} */
struct reload_outcome;
char *status_json_reload(const struct reload_outcome *);		/* {"ok":true,"added":...} or {"ok":false,"errors":[...]} */
char *status_json_done(const struct mailbox *);				/* {"ok":true,"address":"...","state":"..."} */
