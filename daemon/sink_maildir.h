/* sink_maildir.h - delivery into a Maildir. Messages are spooled into its tmp/; then: flush, intent committed, rename
 * into new/, directory flushed. A crash at any point neither loses a message nor delivers it twice. */
#pragma once
#include "sink_driver.h"

extern const struct sink_driver sink_maildir_driver;

/* Settles the intents of the last run (store_found_intents), before any mailbox starts: one whose file stands in
 * tmp/ is renamed now; one whose file is gone was renamed, wherever a reader has put it, unless the machine has
 * been started since: then it must stand in new/ or cur/, or is dropped and fetched again. Where the Maildir cannot
 * be looked into, its prepare() looks again, before anything new is spooled there. done comes from the loop. */
void sink_maildir_recover(struct sink_env *, void (*done)(void *arg), void *arg);
void sink_maildir_recovery_is_late(struct sink_env *);	/* begins with no other Maildir: mailboxes start, and each prepare() looks for itself */
void sink_maildir_recovery_free(struct sink_env *);

/* The Maildirs that are being made ready, of all sinks: a disk that hangs is shared by some of them, and harms no others. */
struct sink_prepares *sink_maildir_prepares_new(void);
void sink_maildir_prepares_free(struct sink_prepares **);
