/* tls_stream.h - one TLS connection as a stream of bytes: handshake, what comes in, lines that go out, close_notify.
 *
 * Callbacks come from the loop, never from inside a call, and each is the last thing that is done in its event: they may do anything
 * with the stream, free it, too. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base; struct evbuffer; struct tls;
struct tls_stream;

struct tls_stream_ops {
	void (*on_open)(void *arg);		/* the handshake is over, the certificate is good */
	void (*on_bytes)(void *arg, struct evbuffer *in);	/* what has come; what is left in it stays for the next time */
	/* The last call, after all bytes: the server has closed the connection, or why it failed, in one line. */
	void (*on_end)(void *arg, bool is_certificate, const char *why);
};

/* A stream to host (as tls_client() takes it), not connected yet. NULL: why not in ret_error. The base, tls and ops are lent. */
struct tls_stream *tls_stream_new(struct event_base *, struct tls *, const char *host, const char *ca_file, const struct tls_stream_ops *,
    void *arg, char *ret_error, size_t size);
void tls_stream_open(struct tls_stream *, int fd);	/* begins the handshake; fd: connected, non-blocking, is the stream's now */
void tls_stream_free(struct tls_stream **);		/* with close_notify: without it the session could not be resumed */

/* Sends line, once it is open. It is taken, and wiped when it has gone: it may be a secret, which has no other copy outside TLS. */
void tls_stream_send(struct tls_stream *, char *line, size_t len);
/* While paused nothing is read or told. After tls_stream_resume() on_bytes comes in any case, with what was left. */
void tls_stream_pause(struct tls_stream *);
void tls_stream_resume(struct tls_stream *);

int tls_stream_fd(const struct tls_stream *);		/* still the stream's; -1: not connected yet */
/* Of one that is open, for people: protocol, the certificate's issuer and end. ret_end_wall_s: its end. */
void tls_stream_describe(const struct tls_stream *, char *ret_text, size_t size, int64_t *ret_end_wall_s);
