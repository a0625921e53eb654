/* doctor.h - `mailpolld doctor`: walks every step from the configuration to a folder's messages as the daemon would, and says of each
 * whether it works, and if not what to do. Takes nothing out of a mailbox and changes nothing; works beside a running
 * daemon and before the first start. Sign-ins keep to the configuration's admission. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct doctor_options { const char *path; bool json; char *const *addresses; size_t n_addresses; /* 0: all mailboxes */ };

/* Blocks until it is done. EX_OK only when all passed; 1 when something failed; EX_CONFIG, EX_USAGE. */
int doctor_run(const struct doctor_options *);
