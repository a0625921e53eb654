#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include "tls_private.h"
#include "tls_stream.h"
#include "util.h"

/* As much is read from TLS at a time as makes one chain of libevent's with 16 KiB, about a record; by default it is two chains of half and
 * all of that. The rest of a full record, 48 bytes, follows at once: the watermark is above a record, since where it is reached libevent
 * leaves to OpenSSL what that has decrypted, and goes on only when the server sends something else. */
#define READ_BYTES (16 * 1024 - 48)
#define WATERMARK_BYTES (3 * SSL3_RT_MAX_PLAIN_LENGTH)

struct tls_stream {
	const struct tls_stream_ops *ops;	/* lent */
	void *arg;
	struct event_base *base;	/* lent */
	SSL *ssl;			/* the bufferevent's once it exists */
	struct bufferevent *bev;	/* NULL: not connected yet */
	struct event *later;		/* tells what is owed; NULL: not connected yet */
	bool paused, owes_bytes;
	bool is_certificate;
	char *why;			/* of the end, which is owed; NULL: it has not come */
};

static void on_readable(struct bufferevent *bev, void *arg)
{
	struct tls_stream *t = arg;

	if (!t->paused)
		t->ops->on_bytes(t->arg, bufferevent_get_input(bev));
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
	struct tls_stream *t = arg;

	(void)fd, (void)what;
	if (t->paused)
		return;
	if (!t->owes_bytes) {
		t->ops->on_end(t->arg, t->is_certificate, t->why);
		return;
	}
	t->owes_bytes = false;
	if (t->why != NULL)
		event_active(t->later, 0, 0);
	on_readable(t->bev, t);
}

static void on_bev_event(struct bufferevent *bev, short what, void *arg)
{
	struct tls_stream *t = arg;
	int system_error = errno;
	unsigned long error = bufferevent_get_openssl_error(bev);
	char why[160];

	if (what & BEV_EVENT_CONNECTED) {
		if (!t->paused)			/* given up meanwhile */
			t->ops->on_open(t->arg);
	} else if (t->why == NULL) {
		tls_explain(t->ssl, error, (what & BEV_EVENT_EOF) && error == 0 ? 0 : system_error, &t->is_certificate, why, sizeof(why));
		t->why = xstrdup(why);
		t->owes_bytes = t->owes_bytes || evbuffer_get_length(bufferevent_get_input(bev)) > 0;	/* a BYE above all */
		event_active(t->later, 0, 0);
	}
}

struct tls_stream *tls_stream_new(struct event_base *base, struct tls *tls, const char *host, const char *ca_file,
    const struct tls_stream_ops *ops, void *arg, char *ret_error, size_t size)
{
	SSL *ssl = tls_client(tls, host, ca_file, ret_error, size);
	struct tls_stream *t;

	if (ssl == NULL)
		return NULL;
	t = xcalloc(1, sizeof(*t));
	*t = (struct tls_stream){ .base = base, .ops = ops, .arg = arg, .ssl = ssl };
	return t;
}

void tls_stream_open(struct tls_stream *t, int fd)
{
	t->later = event_new(t->base, -1, 0, on_later, t);
	t->bev = bufferevent_openssl_socket_new(t->base, fd, t->ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_openssl_set_allow_dirty_shutdown(t->bev, 1);
	bufferevent_setcb(t->bev, on_readable, NULL, on_bev_event, t);
	bufferevent_set_max_single_read(t->bev, READ_BYTES);
	bufferevent_setwatermark(t->bev, EV_READ, 0, WATERMARK_BYTES);
	bufferevent_enable(t->bev, EV_READ | EV_WRITE);
}

void tls_stream_free(struct tls_stream **stream)
{
	struct tls_stream *t = *stream;

	if (t == NULL)
		return;
	if (t->bev != NULL) {
		if (SSL_is_init_finished(t->ssl))
			SSL_shutdown(t->ssl);
		else
			tls_doubt(t->ssl);
		event_free(t->later);
		bufferevent_free(t->bev);	/* frees ssl */
	} else {
		SSL_free(t->ssl);
	}
	ERR_clear_error();
	free(t->why);
	free(t);
	*stream = NULL;
}

static void wipe_sent(const void *data, size_t len, void *arg)
{
	(void)data;
	explicit_bzero(arg, len);
	free(arg);
}

/* At once: the loop would have to be asked twice whether the socket can be written. A line is one record, and goes whole or, for want of
 * room, not at all: then it waits in the output. When nothing can be sent any more, reading tells why, after the server's last words. */
void tls_stream_send(struct tls_stream *t, char *line, size_t len)
{
	struct evbuffer *out = bufferevent_get_output(t->bev);
	int result, error = SSL_ERROR_WANT_WRITE;

	if (evbuffer_get_length(out) == 0 && len <= SSL3_RT_MAX_PLAIN_LENGTH) {
		ERR_clear_error();
		result = SSL_write(t->ssl, line, (int)len);
		error = SSL_get_error(t->ssl, result);
		ERR_clear_error();
	}
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		evbuffer_add_reference(out, line, len, wipe_sent, line);
	else
		wipe_sent(line, len, line);
}

void tls_stream_pause(struct tls_stream *t)
{
	t->paused = true;
	if (t->bev != NULL)
		bufferevent_disable(t->bev, EV_READ);
}

void tls_stream_resume(struct tls_stream *t)
{
	t->paused = false;
	t->owes_bytes = true;
	bufferevent_enable(t->bev, EV_READ);
	event_active(t->later, 0, 0);
}

int tls_stream_fd(const struct tls_stream *t)
{
	return t->bev != NULL ? bufferevent_getfd(t->bev) : -1;
}

void tls_stream_describe(const struct tls_stream *t, char *ret_text, size_t size, int64_t *ret_end_wall_s)
{
	tls_describe(t->ssl, ret_text, size, ret_end_wall_s);
}
