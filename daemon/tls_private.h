/* tls_private.h - what the files of tls share: tls.c (contexts, tickets, verification) and tls_stream.c (a connection). Nobody else
 * includes it. */
#pragma once
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tls.h"

/* A client handle for host (a name or an IP address), its CAs from ca_file (NULL: the system's). NULL: why not in
 * ret_error. It resumes a session of any connection to that host, when a ticket is left. */
SSL *tls_client(struct tls *, const char *host, const char *ca_file, char *ret_error, size_t size);
/* Its handshake did not come to its end, perhaps because of the ticket: the host's are given up. */
void tls_doubt(SSL *);
void tls_describe(SSL *, char *ret_text, size_t size, int64_t *ret_end_wall_s);	/* as tls_stream_describe() */
/* Why a connection failed, in one line: the certificate (ret_is_certificate), or the OpenSSL error queue's code as
 * bufferevent_get_openssl_error() gives it, or errno as it was then; 0 and 0: the server has closed it. */
void tls_explain(SSL *, unsigned long error, int system_error, bool *ret_is_certificate, char *ret_text, size_t size);
