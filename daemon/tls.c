#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tls_private.h"
#include "util.h"

#define TICKETS 256			/* of a host: as many as a burst of sign-ins needs */

struct context {
	struct context *next;
	char *ca_file;			/* NULL: the system's */
	SSL_CTX *ctx;			/* owned; its sessions hold references of their own */
};
struct tls {
	struct context *contexts;
};
/* Tickets, the latest last. Owned by the SSL_CTX, which lives as long as a connection of it. */
struct tickets {
	struct tickets *next;
	char *host;
	SSL_SESSION *v[TICKETS];
	size_t n;
};

static int of_context = -1, of_connection = -1;		/* places of OpenSSL's for a struct tickets *: the first; its own host's */

static void free_tickets(void *parent, void *first, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	struct tickets *t;

	(void)parent, (void)data, (void)index, (void)argl, (void)argp;
	while ((t = first) != NULL) {
		first = t->next;
		while (t->n > 0)
			SSL_SESSION_free(t->v[--t->n]);
		free(t->host);
		free(t);
	}
}

static struct tickets *tickets_of(SSL_CTX *ctx, const char *host)
{
	struct tickets *first = SSL_CTX_get_ex_data(ctx, of_context), *t;

	for (t = first; t != NULL && strcmp(t->host, host) != 0; t = t->next)
		;
	if (t == NULL) {
		t = xcalloc(1, sizeof(*t));
		t->host = xstrdup(host);
		t->next = first;
		SSL_CTX_set_ex_data(ctx, of_context, t);
	}
	return t;
}

static int on_ticket(SSL *ssl, SSL_SESSION *ticket)
{
	struct tickets *t = SSL_get_ex_data(ssl, of_connection);

	if (t->n == TICKETS) {
		SSL_SESSION_free(t->v[0]);
		memmove(t->v, t->v + 1, --t->n * sizeof(*t->v));
	}
	t->v[t->n++] = ticket;
	return 1;			/* the reference is ours now */
}

/* One of TLS 1.3 is for one connection (RFC 8446 C.4); one of TLS 1.2 for many, and its use brings no other. */
static void use_ticket(struct tickets *t, SSL *ssl)
{
	bool good = false;

	while (t->n > 0 && !good) {
		SSL_SESSION *ticket = t->v[t->n - 1];

		good = SSL_SESSION_is_resumable(ticket) == 1;	/* not after an alert on a connection that had it */
		if (good)
			SSL_set_session(ssl, ticket);
		if (good && SSL_SESSION_get_protocol_version(ticket) < TLS1_3_VERSION)
			break;
		SSL_SESSION_free(ticket);
		t->n--;
	}
}

struct tls *tls_new(void)
{
	if (of_context < 0) {
		of_context = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_tickets);
		of_connection = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	}
	return xcalloc(1, sizeof(struct tls));
}

void tls_forget(struct tls *tls)
{
	while (tls->contexts != NULL) {
		struct context *c = tls->contexts;

		tls->contexts = c->next;
		SSL_CTX_free(c->ctx);
		free(c->ca_file);
		free(c);
	}
}

void tls_free(struct tls **tls)
{
	if (*tls == NULL)
		return;
	tls_forget(*tls);
	free(*tls);
	*tls = NULL;
}

static const char *error_text(unsigned long code)
{
	const char *reason = ERR_reason_error_string(code);

	if (code != 0 && ERR_SYSTEM_ERROR(code))
		return strerror(ERR_GET_REASON(code));
	return reason != NULL ? reason : "unknown TLS error";
}

static void first_error(char *ret_text, size_t size)
{
	snprintf(ret_text, size, "%s", error_text(ERR_get_error()));
	ERR_clear_error();
}

static SSL_CTX *context_new(const char *ca_file, char *ret_error, size_t size)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	char why[128];

	if (ctx == NULL) {
		first_error(ret_error, size);
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	/* Exchange closes without close_notify (exchange-online 5.11); IMAP's own framing shows what was cut. */
	SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);	/* an idle session holds no record buffers */
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_ticket);
	if ((ca_file != NULL ? SSL_CTX_load_verify_file(ctx, ca_file) : SSL_CTX_set_default_verify_paths(ctx)) != 1) {
		first_error(why, sizeof(why));
		snprintf(ret_error, size, "cannot read CA certificates from %s: %s", ca_file != NULL ? ca_file : "the system's store", why);
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

static SSL_CTX *context_get(struct tls *tls, const char *ca_file, char *ret_error, size_t size)
{
	struct context *c;
	SSL_CTX *ctx;

	for (c = tls->contexts; c != NULL; c = c->next)
		if (str_equal(c->ca_file, ca_file))
			return c->ctx;
	if ((ctx = context_new(ca_file, ret_error, size)) == NULL)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->ca_file = xstrdup(ca_file);
	c->ctx = ctx;
	c->next = tls->contexts;
	tls->contexts = c;
	return ctx;
}

static bool is_ip_address(const char *host)
{
	unsigned char buf[16];

	return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

SSL *tls_client(struct tls *tls, const char *host, const char *ca_file, char *ret_error, size_t size)
{
	SSL_CTX *ctx = context_get(tls, ca_file, ret_error, size);
	SSL *ssl = ctx != NULL ? SSL_new(ctx) : NULL;
	X509_VERIFY_PARAM *param;
	struct tickets *tickets;
	bool ok;

	if (ctx == NULL)
		return NULL;
	if (ssl == NULL) {
		first_error(ret_error, size);
		return NULL;
	}
	param = SSL_get0_param(ssl);
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (is_ip_address(host))
		ok = X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
	else
		ok = X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 && SSL_set_tlsext_host_name(ssl, (char *)(uintptr_t)host) == 1;
	if (!ok) {
		first_error(ret_error, size);
		SSL_free(ssl);
		return NULL;
	}
	tickets = tickets_of(ctx, host);
	SSL_set_ex_data(ssl, of_connection, tickets);
	use_ticket(tickets, ssl);
	return ssl;
}

void tls_doubt(SSL *ssl)
{
	struct tickets *t = SSL_get_ex_data(ssl, of_connection);

	while (t->n > 0)
		SSL_SESSION_free(t->v[--t->n]);
}

void tls_describe(SSL *ssl, char *ret_text, size_t size, int64_t *ret_end_wall_s)
{
	X509 *certificate = SSL_get0_peer_certificate(ssl);
	const X509_NAME *issuer = certificate != NULL ? X509_get_issuer_name(certificate) : NULL;
	char name[128] = "", shown[128], when[RFC3339_SIZE] = "";
	struct tm end = { 0 };

	*ret_end_wall_s = 0;
	if (issuer != NULL && X509_NAME_get_text_by_NID(issuer, NID_commonName, name, sizeof(name)) < 0)
		X509_NAME_get_text_by_NID(issuer, NID_organizationName, name, sizeof(name));
	printable(shown, sizeof(shown), name, strlen(name));
	if (certificate != NULL && ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) == 1) {
		*ret_end_wall_s = (int64_t)timegm(&end);
		rfc3339(*ret_end_wall_s, when);
	}
	snprintf(ret_text, size, "%s, certificate by %s, valid until %.10s", SSL_get_version(ssl), shown, when);
}

void tls_explain(SSL *ssl, unsigned long error, int system_error, bool *ret_is_certificate, char *ret_text, size_t size)
{
	long verify = SSL_get_verify_result(ssl);

	*ret_is_certificate = verify != X509_V_OK;
	if (verify == X509_V_ERR_HOSTNAME_MISMATCH || verify == X509_V_ERR_IP_ADDRESS_MISMATCH)
		snprintf(ret_text, size, "the server's certificate is for another host name");
	else if (verify != X509_V_OK)
		snprintf(ret_text, size, "the server's certificate is not trusted: %s", X509_verify_cert_error_string(verify));
	else if (error != 0 && error != SSL_ERROR_SYSCALL)	/* the latter: libevent's word for errno */
		snprintf(ret_text, size, "%s", error_text(error));
	else if (system_error != 0)
		snprintf(ret_text, size, "%s", strerror(system_error));
	else
		snprintf(ret_text, size, "connection closed by the server");
}
