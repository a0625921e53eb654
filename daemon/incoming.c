#include <event2/buffer.h>
#include <stdlib.h>
#include "incoming.h"
#include "util.h"

struct incoming {
	struct spool_file *file;	/* NULL once the file is over */
	struct header_scan scan;
	uint64_t bytes;
	char *path;
	struct volume *volume;
	ino_t dir_inode;
	struct message *message;	/* owned from incoming_finish() on */
	const struct incoming_ops *ops;
	void *arg;
};

static void incoming_free(struct incoming *in)
{
	header_scan_done(&in->scan);
	message_free(&in->message);
	free(in->path);
	free(in);
}

static void on_room(void *arg)
{
	struct incoming *in = arg;

	in->ops->on_room(in->arg, in);
}

static void on_done(void *arg, int error, uint64_t size_bytes)
{
	struct incoming *in = arg;
	struct message *m = in->message;

	in->file = NULL;
	if (error == 0) {
		in->message = NULL;
		m->size_bytes = size_bytes;
		m->path = in->path;
		m->volume = in->volume;
		m->dir_inode = in->dir_inode;
		in->path = NULL;
		in->ops->on_spooled(in->arg, in, m, 0);
	} else {
		in->ops->on_spooled(in->arg, in, in->message, error);
	}
	incoming_free(in);
}

static const struct spool_file_ops file_ops = { .on_room = on_room, .on_done = on_done };

struct incoming *incoming_new(struct spool *spool, const struct spool_place *place, const char *tmp_name, const struct incoming_ops *ops, void *arg)
{
	struct incoming *in = xcalloc(1, sizeof(*in));

	in->ops = ops;
	in->arg = arg;
	in->volume = place->volume;
	in->dir_inode = place->inode;
	in->path = xasprintf("%s/%s", place->dir, tmp_name);
	in->file = spool_file_new(spool, place, tmp_name, &file_ops, in);
	return in;
}

void incoming_take(struct incoming *in, struct evbuffer *from, size_t len)
{
	struct evbuffer_iovec first = { 0 };

	/* a slice lies in the first chunk: the parser was given no more */
	if (evbuffer_peek(from, (ev_ssize_t)len, NULL, &first, 1) >= 1)
		header_scan(&in->scan, first.iov_base, first.iov_len < len ? first.iov_len : len);
	in->bytes += len;
	spool_file_take(in->file, from, len);
}

bool incoming_lags(struct incoming *in)
{
	return spool_file_lags(in->file);
}

uint64_t incoming_bytes(const struct incoming *in)
{
	return in->bytes;
}

void incoming_finish(struct incoming *in, struct message *m)
{
	in->message = m;
	message_hash(in->scan.values[HEADER_MESSAGE_ID].v, in->scan.values[HEADER_MESSAGE_ID].len, m->internaldate_s, m->hash);
	spool_file_finish(in->file);
}

bool incoming_is_substitute(const struct incoming *in)
{
	return header_is_substitute(&in->scan);
}

const struct message *incoming_message(const struct incoming *in)
{
	return in->message;
}

void incoming_abort(struct incoming **incoming)
{
	struct incoming *in = *incoming;

	*incoming = NULL;
	if (in == NULL)
		return;
	spool_file_abort(&in->file);
	incoming_free(in);
}
