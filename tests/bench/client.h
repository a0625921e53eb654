/* client.h - the least that an IMAP client on libevent and OpenSSL does: connect, verified TLS, XOAUTH2, one command after
 * the other. No timers, no retries: whatever is unexpected ends the program, but a lost connection that somebody wants to hear of. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base; struct evbuffer; struct ssl_ctx_st; struct ssl_session_st; struct bufferevent;
struct client;

struct client_ops {
	/* The next command without its tag, NULL: LOGOUT. n: how many have been done. */
	const char *(*command)(struct client *, unsigned n);
	void (*line)(struct client *, const char *line);	/* untagged or `+`; may be NULL */
	void (*literal)(struct client *, struct evbuffer *in, size_t len, bool last);	/* takes len bytes out of in; NULL: dropped */
	void (*over)(struct client *);		/* logged out; free it or not */
	void (*lost)(struct client *);		/* the connection; closed here. NULL: the program ends */
};
struct server {				/* lent */
	const char *port, *token;
	struct ssl_ctx_st *tls;
	struct event_base *base;
};
struct client {
	const struct client_ops *ops;
	void *arg;
	unsigned index;			/* the caller's */
	struct ssl_session_st *ticket;	/* the latest; offered at the next client_open() */
	bool resumed;
	/* private */
	struct bufferevent *bev;
	const struct server *server;
	const char *user;
	enum { CLIENT_GREETING, CLIENT_AUTH, CLIENT_COMMANDS, CLIENT_LOGOUT } state;
	unsigned n_done;
	uint64_t literal_left;
};

struct ssl_ctx_st *client_tls(const char *ca_file);
void client_open(struct client *, const struct server *, const char *user);	/* user is lent; the rest may be zeroed */
void client_close(struct client *);
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
