#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client.h"

#define HOST "localhost"

static int client_slot = -1;

_Noreturn void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static int on_ticket(SSL *ssl, SSL_SESSION *ticket)
{
	struct client *c = SSL_get_ex_data(ssl, client_slot);

	SSL_SESSION_free(c->ticket);
	c->ticket = ticket;
	return 1;
}

SSL_CTX *client_tls(const char *ca_file)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	if (ctx == NULL || SSL_CTX_load_verify_file(ctx, ca_file) != 1)
		die("%s: no CA", ca_file);
	client_slot = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_ticket);
	return ctx;
}

static void send_auth(struct client *c)
{
	char plain[8192], base64[12000];
	int len = snprintf(plain, sizeof(plain), "user=%s\001auth=Bearer %s\001\001", c->user, c->server->token);

	if (len >= (int)sizeof(plain))
		die("token too long");
	EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain, len);
	evbuffer_add_printf(bufferevent_get_output(c->bev), "A0 AUTHENTICATE XOAUTH2 %s\r\n", base64);
	c->state = CLIENT_AUTH;
}

static void send_next(struct client *c)
{
	const char *command = c->ops->command(c, c->n_done);

	c->state = command != NULL ? CLIENT_COMMANDS : CLIENT_LOGOUT;
	evbuffer_add_printf(bufferevent_get_output(c->bev), "A%u %s\r\n", c->n_done + 1, command != NULL ? command : "LOGOUT");
}

static void on_tagged(struct client *c, const char *line)
{
	const char *status = strchr(line, ' ');

	if (status == NULL || strncmp(status, " OK", 3) != 0)
		die("%s: %s", c->user, line);
	if (c->state == CLIENT_COMMANDS)
		c->n_done++;
	if (c->state == CLIENT_LOGOUT) {
		client_close(c);
		c->ops->over(c);
	} else {
		send_next(c);
	}
}

static void on_line(struct client *c, const char *line, size_t len)
{
	const char *brace;

	if (c->state == CLIENT_GREETING) {
		send_auth(c);
	} else if (line[0] == 'A') {
		on_tagged(c, line);
	} else {
		if (len > 0 && line[len - 1] == '}' && (brace = strrchr(line, '{')) != NULL)
			c->literal_left = strtoull(brace + 1, NULL, 10);
		if (c->ops->line != NULL)
			c->ops->line(c, line);
	}
}

static bool take_literal(struct client *c, struct evbuffer *in)
{
	size_t len = evbuffer_get_length(in);

	if (len > c->literal_left)
		len = (size_t)c->literal_left;
	if (len == 0)
		return false;
	c->literal_left -= len;
	if (c->ops->literal != NULL)
		c->ops->literal(c, in, len, c->literal_left == 0);
	else
		evbuffer_drain(in, len);
	return true;
}

static void on_readable(struct bufferevent *bev, void *arg)
{
	struct evbuffer *in = bufferevent_get_input(bev);
	struct client *c = arg;
	char *line;
	size_t len;

	while (c->bev != NULL) {
		if (c->literal_left > 0) {
			if (!take_literal(c, in))
				return;
		} else if ((line = evbuffer_readln(in, &len, EVBUFFER_EOL_CRLF)) != NULL) {
			on_line(c, line, len);
			free(line);
		} else {
			return;
		}
	}
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct client *c = arg;
	int error = errno;

	if (what & BEV_EVENT_CONNECTED) {
		c->resumed = SSL_session_reused(bufferevent_openssl_get_ssl(bev)) != 0;
		return;
	}
	fprintf(stderr, "%s: connection lost: %s\n", c->user, (what & BEV_EVENT_EOF) ? "closed by the server" : strerror(error));
	if (c->ops->lost == NULL)
		exit(1);
	bufferevent_free(c->bev);
	c->bev = NULL;
	c->ops->lost(c);
}

void client_open(struct client *c, const struct server *server, const char *user)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(server->port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	SSL *ssl = SSL_new(server->tls);

	SSL_set_ex_data(ssl, client_slot, c);
	SSL_set1_host(ssl, HOST);
	SSL_set_tlsext_host_name(ssl, (char *)(uintptr_t)HOST);
	if (c->ticket != NULL)
		SSL_set_session(ssl, c->ticket);
	c->server = server;
	c->user = user;
	c->state = CLIENT_GREETING;
	c->n_done = 0;
	c->bev = bufferevent_openssl_socket_new(server->base, -1, ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
	bufferevent_setcb(c->bev, on_readable, NULL, on_event, c);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
	if (bufferevent_socket_connect(c->bev, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("%s: cannot connect", user);
}

/* With close_notify: without it the session could not be resumed. */
void client_close(struct client *c)
{
	SSL_shutdown(bufferevent_openssl_get_ssl(c->bev));
	bufferevent_free(c->bev);
	c->bev = NULL;
}
