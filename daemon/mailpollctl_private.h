/* mailpollctl_private.h - what the files of mailpollctl share: mailpollctl.c (commands), mailpollctl_ask.c (asking the daemon, a
 * mailbox's wire), mailpollctl_status.c (a status as a person reads it) and mailpollctl_quarantine.c (refused messages). Nobody else includes it. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct options {
	const char *socket;
	FILE *complaints;		/* where what goes wrong is said */
	bool failing, json, watch;
	const char *since, *older_than;
};
struct reply {
	long status;			/* of HTTP */
	char *body;
	size_t len, room;
	json_t *json;			/* NULL: the body is none */
};

/* before, the word encoded (NULL: none), after: the path. EX_OK: ret_reply has an answer, perhaps a refusal; else it has been said why. */
int ask(const struct options *, bool is_verb, const char *before, const char *word, const char *after, struct reply *ret_reply);
void reply_done(struct reply *);
int complain_refused(const struct options *, const char *of, const struct reply *);	/* of: which one, or NULL; gives the exit status */

int run_trace(const struct options *, const char *address);

int run_quarantine(const struct options *, char **arguments, int n);	/* -1: it is not said so; nothing has been done */

/* Members of an answer; lent. */
const char *string_of(const json_t *object, const char *key);	/* NULL: null or absent */
long long number_of(const json_t *object, const char *key);	/* 0: none */

void put_clean(FILE *to, const char *s);	/* control characters of whoever wrote it do not reach the terminal */
void put_text(FILE *to, size_t indent, const char *label, const char *text);	/* folded under itself */

void show_status(FILE *to, const json_t *status);
void show_mailbox(FILE *to, const json_t *mailbox);
