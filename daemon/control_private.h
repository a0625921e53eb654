/* control_private.h - what the files of the control socket share: control.c (the socket, which request goes where), control_status.c
 * (reading), control_verbs.c (changing) and control_trace.c (a mailbox's wire, live). Nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include "control.h"

struct event_base; struct evhttp_request; struct http_server; struct http_later;

struct control {
	struct event_base *base;	/* lent, as are these two */
	struct fleet *fleet;
	struct health *health;
	struct http_server *http;
	char *path;
	dev_t device;			/* of the socket's name, to remove no other's */
	ino_t inode;
	int64_t started_wall_s;
	struct reload *running, *further;	/* control_verbs.c; NULL: none */
	size_t n_traces;		/* control_trace.c */
};
#define CONTROL_PATTERN_BYTES 320	/* as long as an address: it is compared with all of them while the loop waits */

/* What a request is handed to. word is what stands for the `*` of its path, decoded; NULL when there is none. */
typedef void control_handler(struct control *, struct evhttp_request *, const char *word);
struct route { const char *pattern; control_handler *handle; };	/* the last one of a table is { NULL, NULL } */

extern const struct route control_verbs[];	/* asked for with POST */
control_handler control_get_status, control_get_mailbox, control_get_quarantine, control_get_trace;

void control_reply(struct evhttp_request *, int code, char *json);	/* takes json */
void control_reply_later(struct http_later *, int code, char *json);
void control_reply_error(struct evhttp_request *, int code, const char *sentence);
/* During a stop no mailbox is there any more, and none has been taken out of the configuration. False: it is no stop, and nothing was replied. */
bool control_reply_stopping(struct control *, struct evhttp_request *);
void control_reply_no_mailbox(struct control *, struct evhttp_request *, const char *address);
/* Who asks for it, for the log. mailbox, about: NULL, or what it is asked of. */
void control_log_peer(struct evhttp_request *, const char *verb, const char *mailbox, const char *about);
void control_drop_reloads(struct control *);	/* they end without us */
