/* control.h - HTTP over the control socket: GET /status, and verbs as POST. Read-only handlers and verbs are two
 * tables. Nothing here blocks: /status is written in slices, as fast as the reader takes it. */
#pragma once
#include <stddef.h>
#include "clock.h"
#include "util.h"

struct event_base; struct fleet; struct health;
struct control;

/* Makes the socket (mode 0660; an old one that nobody answers on is replaced). NULL: ret_error says why (exit 71).
 * The three are lent and outlive it. The process must ignore SIGPIPE. */
struct control *control_new(struct event_base *, struct fleet *, struct health *, const char *socket_path, char *ret_error, size_t size);
void control_free(struct control **);		/* removes the socket */

/* The reload of SIGHUP and of POST /reload: tells systemd, has the fleet do it, logs the outcome. One that is asked for
 * while one runs makes for one more after it, however often it is asked for. */
void control_reload(struct control *);
