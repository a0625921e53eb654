/* Not libevent's bufferevent_openssl: it reads each record in two steps and asks epoll for more than is needed, which together is a
 * good part of what a short session costs. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tls_private.h"
#include "tls_stream.h"
#include "util.h"

/* As much is read from TLS at a time as makes one chain of libevent's with 16 KiB, about a record. */
#define READ_BYTES (16 * 1024 - 48)

struct tls_stream {
	const struct tls_stream_ops *ops;	/* lent */
	void *arg;
	struct event_base *base;	/* lent */
	SSL *ssl;
	int fd;				/* -1: not connected yet */
	struct event *readable, *writable;	/* NULL: not connected yet */
	struct evbuffer *in, *out;	/* out: lines that the socket did not take, each a chain of its own */
	bool open;			/* the handshake is over */
	bool paused, resumed;		/* resumed: on_bytes is owed */
	bool ended, is_certificate;	/* nothing more can be read; on_end is owed */
	char *why;			/* of the end; or only of sending, while something may still be read */
};

/* The last one counts: why nothing more can be read says more than why nothing could be sent. */
static void keep_reason(struct tls_stream *t, int system_error)
{
	char text[160];

	tls_explain(t->ssl, system_error, &t->is_certificate, text, sizeof(text));
	free(t->why);
	t->why = xstrdup(text);
}

/* So that what is there after an operation is of it. */
static void forget_errors(void)
{
	ERR_clear_error();
	errno = 0;
}

/* What an operation that did not succeed waits for; false: for nothing, it has failed, and why is kept. */
static bool has_to_wait(struct tls_stream *t, int result)
{
	int system_error = errno;

	switch (SSL_get_error(t->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return true;
	case SSL_ERROR_WANT_WRITE:
		event_add(t->writable, NULL);
		return true;
	case SSL_ERROR_SYSCALL:
		keep_reason(t, system_error);
		return false;
	default:
		keep_reason(t, 0);
		return false;
	}
}

static void tell_end(struct tls_stream *t)
{
	event_del(t->readable);
	event_del(t->writable);
	t->ops->on_end(t->arg, t->is_certificate, t->why);
}

static void shake_hands(struct tls_stream *t)
{
	int result;

	forget_errors();
	result = SSL_do_handshake(t->ssl);
	if (result == 1) {
		t->open = true;
		event_active(t->readable, EV_READ, 0);	/* the greeting may have been read with it */
		t->ops->on_open(t->arg);
	} else if (!has_to_wait(t, result)) {
		tell_end(t);
	}
}

static void wipe_sent(const void *data, size_t len, void *arg)
{
	(void)data;
	explicit_bzero(arg, len);
	free(arg);
}

/* One line is sent whole or, by what has to wait, not at all. */
static bool send_now(struct tls_stream *t, const char *line, size_t len)
{
	int result;

	forget_errors();
	result = SSL_write(t->ssl, line, (int)len);
	if (result <= 0 && !has_to_wait(t, result))
		event_active(t->readable, EV_READ, 0);	/* perhaps the server has said why */
	return result > 0;
}

static void send_waiting(struct tls_stream *t)
{
	struct evbuffer_iovec line;

	while (t->why == NULL && evbuffer_peek(t->out, -1, NULL, &line, 1) > 0 && send_now(t, line.iov_base, line.iov_len))
		evbuffer_drain(t->out, line.iov_len);
}

void tls_stream_send(struct tls_stream *t, char *line, size_t len)
{
	if (t->why == NULL && evbuffer_get_length(t->out) == 0 && send_now(t, line, len))
		wipe_sent(line, len, line);
	else
		evbuffer_add_reference(t->out, line, len, wipe_sent, line);
}

/* Takes what has come and what OpenSSL has read ahead, of which no event will tell: at most its buffer and the rest of the record that
 * ends beyond it. False: nothing has come. */
static bool take(struct tls_stream *t)
{
	size_t before = evbuffer_get_length(t->in);
	struct evbuffer_iovec space;
	int result, left;

	if (t->ended)
		return false;
	do {
		left = SSL_pending(t->ssl);
		if (evbuffer_reserve_space(t->in, left > 0 && left < READ_BYTES ? left : READ_BYTES, &space, 1) != 1)
			abort();
		forget_errors();
		result = SSL_read(t->ssl, space.iov_base, (int)space.iov_len);
		space.iov_len = result > 0 ? (size_t)result : 0;
		evbuffer_commit_space(t->in, &space, 1);
	} while (result > 0 && SSL_has_pending(t->ssl));
	if (result <= 0)
		t->ended = !has_to_wait(t, result) || t->why != NULL;
	return evbuffer_get_length(t->in) > before;
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct tls_stream *t = arg;
	bool some;

	(void)fd, (void)what;
	if (!t->open) {
		shake_hands(t);
		return;
	}
	send_waiting(t);
	if (t->paused)
		return;
	some = take(t) || t->resumed;
	t->resumed = false;
	if (!some) {
		if (t->ended)
			tell_end(t);
		return;
	}
	if (t->ended)
		event_active(t->readable, EV_READ, 0);
	t->ops->on_bytes(t->arg, t->in);
}

struct tls_stream *tls_stream_new(struct event_base *base, struct tls *tls, const char *host, const char *ca_file,
    const struct tls_stream_ops *ops, void *arg, char *ret_error, size_t size)
{
	SSL *ssl = tls_client(tls, host, ca_file, ret_error, size);
	struct tls_stream *t;

	if (ssl == NULL)
		return NULL;
	t = xcalloc(1, sizeof(*t));
	t->base = base;
	t->ops = ops;
	t->arg = arg;
	t->ssl = ssl;
	t->fd = -1;
	return t;
}

void tls_stream_open(struct tls_stream *t, int fd)
{
	t->fd = fd;
	SSL_set_fd(t->ssl, fd);
	SSL_set_connect_state(t->ssl);
	t->in = evbuffer_new();
	t->out = evbuffer_new();
	t->readable = event_new(t->base, fd, EV_READ | EV_PERSIST, on_event, t);
	t->writable = event_new(t->base, fd, EV_WRITE, on_event, t);
	event_add(t->readable, NULL);
	event_active(t->readable, EV_READ, 0);
}

void tls_stream_free(struct tls_stream **stream)
{
	struct tls_stream *t = *stream;

	if (t == NULL)
		return;
	if (t->fd >= 0) {
		if (t->open)
			SSL_shutdown(t->ssl);
		else
			tls_doubt(t->ssl);
		event_free(t->readable);
		event_free(t->writable);
		evbuffer_free(t->in);
		evbuffer_free(t->out);
		close(t->fd);
	}
	SSL_free(t->ssl);
	ERR_clear_error();
	free(t->why);
	free(t);
	*stream = NULL;
}

void tls_stream_pause(struct tls_stream *t)
{
	t->paused = true;
	if (t->readable != NULL)
		event_del(t->readable);
}

void tls_stream_resume(struct tls_stream *t)
{
	t->paused = false;
	t->resumed = true;
	event_add(t->readable, NULL);
	event_active(t->readable, EV_READ, 0);
}

int tls_stream_fd(const struct tls_stream *t)
{
	return t->fd;
}

void tls_stream_describe(const struct tls_stream *t, char *ret_text, size_t size, int64_t *ret_end_wall_s)
{
	tls_describe(t->ssl, ret_text, size, ret_end_wall_s);
}
