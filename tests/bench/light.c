/* light CERTIFICATE KEY - an IMAP server for thousands of clients: TLS, libevent, one process, made-up mailboxes. Any token opens any
 * mailbox. A user n1000.x@example has 1,000 messages of 4 KiB in INBOX with the UIDs 1 to 1000; others have none. Nothing ever
 * changes. Prints its port. Knows what mailpolld and floor send, no more. */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client.h"

#define CAPABILITIES "IMAP4rev1 SASL-IR AUTH=XOAUTH2 IDLE UIDPLUS MOVE UNSELECT"
#define BODY_BYTES 4096
#define LINE_MAX_BYTES 16384

struct session {
	struct bufferevent *bev;
	unsigned n_messages;
	char idle_tag[24];		/* "": not in IDLE */
};
static char body[BODY_BYTES + 1];

static struct evbuffer *out(struct session *s)
{
	return bufferevent_get_output(s->bev);
}

static void answer(struct session *s, const char *tag, const char *text)
{
	evbuffer_add_printf(out(s), "%s %s\r\n", tag, text);
}

static void authenticate(struct session *s, const char *tag, const char *base64)
{
	size_t len = strlen(base64);
	char *plain = calloc(1, len + 4);

	if (plain != NULL && EVP_DecodeBlock((unsigned char *)plain, (const unsigned char *)base64, (int)len) > 0)
		sscanf(plain, "user=n%u.", &s->n_messages);
	free(plain);
	answer(s, tag, "OK [CAPABILITY " CAPABILITIES "] come in");
}

static void select_folder(struct session *s, const char *tag)
{
	evbuffer_add_printf(out(s), "* FLAGS (\\Seen)\r\n* %u EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] .\r\n* OK [UIDNEXT %u] .\r\n", s->n_messages,
	    s->n_messages + 1);
	answer(s, tag, "OK [READ-WRITE] selected");
}

/* n:* names the last message even when it is below n. */
static void search(struct session *s, const char *tag, const char *args)
{
	unsigned from = 1;

	sscanf(args, "UID %u", &from);
	if (from > s->n_messages)
		from = s->n_messages;
	evbuffer_add_printf(out(s), "* SEARCH");
	for (unsigned uid = from; uid > 0 && uid <= s->n_messages; uid++)
		evbuffer_add_printf(out(s), " %u", uid);
	evbuffer_add_printf(out(s), "\r\n");
	answer(s, tag, "OK searched");
}

static void fetch_one(struct session *s, unsigned uid, int with_body)
{
	char head[160];
	int n = snprintf(head, sizeof(head), "Message-ID: <%u@light.example>\r\nFrom: a@light.example\r\nSubject: number %u\r\n\r\n", uid, uid);

	evbuffer_add_printf(out(s), "* %u FETCH (UID %u FLAGS () INTERNALDATE \"09-Jan-2026 02:02:12 +0000\" RFC822.SIZE %u", uid, uid, BODY_BYTES);
	if (with_body) {
		evbuffer_add_printf(out(s), " BODY[] {%u}\r\n", BODY_BYTES);
		evbuffer_add(out(s), head, (size_t)n);
		evbuffer_add(out(s), body + n, BODY_BYTES - (size_t)n);
	}
	evbuffer_add(out(s), ")\r\n", 3);
}

static void fetch(struct session *s, const char *tag, const char *set)
{
	int with_body = strstr(set, "BODY") != NULL;
	char *end;

	for (const char *at = set; *at >= '0' && *at <= '9'; at = *end == ',' ? end + 1 : end) {
		unsigned long from = strtoul(at, &end, 10), to = from;

		if (*end == ':')
			to = end[1] == '*' ? (end += 2, s->n_messages) : strtoul(end + 1, &end, 10);
		for (unsigned long uid = from; uid <= to && uid > 0 && uid <= s->n_messages; uid++)
			fetch_one(s, (unsigned)uid, with_body);
	}
	answer(s, tag, "OK fetched");
}

static void command(struct session *s, const char *tag, const char *what)
{
	if (strncmp(what, "AUTHENTICATE XOAUTH2 ", 21) == 0) {
		authenticate(s, tag, what + 21);
	} else if (strcmp(what, "CAPABILITY") == 0) {
		evbuffer_add_printf(out(s), "* CAPABILITY " CAPABILITIES "\r\n");
		answer(s, tag, "OK");
	} else if (strncmp(what, "SELECT ", 7) == 0) {
		select_folder(s, tag);
	} else if (strncmp(what, "STATUS ", 7) == 0) {
		evbuffer_add_printf(out(s), "* STATUS INBOX (MESSAGES %u UIDNEXT %u UIDVALIDITY 1)\r\n", s->n_messages, s->n_messages + 1);
		answer(s, tag, "OK");
	} else if (strncmp(what, "UID SEARCH ", 11) == 0) {
		search(s, tag, what + 11);
	} else if (strncmp(what, "UID FETCH ", 10) == 0) {
		fetch(s, tag, what + 10);
	} else if (strcmp(what, "IDLE") == 0) {
		snprintf(s->idle_tag, sizeof(s->idle_tag), "%s", tag);
		evbuffer_add_printf(out(s), "+ idling\r\n");
	} else if (strcmp(what, "LOGOUT") == 0) {
		evbuffer_add_printf(out(s), "* BYE\r\n");
		answer(s, tag, "OK");
	} else {
		answer(s, tag, "BAD what?");
	}
}

static void on_line(struct session *s, char *line)
{
	char *space = strchr(line, ' ');

	if (s->idle_tag[0] != '\0') {
		answer(s, s->idle_tag, "OK awake");
		s->idle_tag[0] = '\0';
	} else if (space != NULL) {
		*space = '\0';
		command(s, line, space + 1);
	}
}

static void session_end(struct session *s)
{
	SSL_shutdown(bufferevent_openssl_get_ssl(s->bev));
	bufferevent_free(s->bev);
	free(s);
}

static void on_readable(struct bufferevent *bev, void *arg)
{
	struct evbuffer *in = bufferevent_get_input(bev);
	struct session *s = arg;
	char *line;

	while ((line = evbuffer_readln(in, NULL, EVBUFFER_EOL_CRLF)) != NULL) {
		on_line(s, line);
		free(line);
	}
	if (evbuffer_get_length(in) > LINE_MAX_BYTES)
		session_end(s);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	(void)bev;
	if (!(what & BEV_EVENT_CONNECTED))
		session_end(arg);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int len, void *tls)
{
	struct session *s = calloc(1, sizeof(*s));

	(void)from, (void)len;
	if (s == NULL)
		die("no memory");
	s->bev = bufferevent_openssl_socket_new(evconnlistener_get_base(listener), fd, SSL_new(tls), BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_openssl_set_allow_dirty_shutdown(s->bev, 1);
	bufferevent_setcb(s->bev, on_readable, NULL, on_event, s);
	bufferevent_enable(s->bev, EV_READ | EV_WRITE);
	evbuffer_add_printf(out(s), "* OK light\r\n");
}

int main(int argc, char **argv)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct event_base *base = event_base_new();
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	socklen_t len = sizeof(here);
	struct evconnlistener *listener;

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < BODY_BYTES; i++)
		body[i] = i % 78 == 76 ? '\r' : i % 78 == 77 ? '\n' : 'x';
	if (argc != 3 || SSL_CTX_use_certificate_chain_file(tls, argv[1]) != 1 || SSL_CTX_use_PrivateKey_file(tls, argv[2], SSL_FILETYPE_PEM) != 1)
		die("light CERTIFICATE KEY");
	SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_options(tls, SSL_OP_IGNORE_UNEXPECTED_EOF);
	listener = evconnlistener_new_bind(base, on_accept, tls, LEV_OPT_CLOSE_ON_FREE, 4096, (struct sockaddr *)&here, sizeof(here));
	if (listener == NULL || getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&here, &len) < 0)
		die("cannot listen");
	printf("%u\n", ntohs(here.sin_port));
	fflush(stdout);
	event_base_dispatch(base);
	return 0;
}
