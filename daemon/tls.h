/* tls.h - verified TLS for clients: TLS 1.2 or newer, SNI, the host's name checked. No switch turns that off. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ssl_st;				/* OpenSSL's SSL */
struct tls;				/* contexts, one per CA file, made when first asked for; each with the hosts' latest tickets */

struct tls *tls_new(void);
void tls_free(struct tls **);
/* Forgets the contexts and their tickets, so that changed CA files are read again (reload). Connections keep theirs. */
void tls_forget(struct tls *);
/* A client handle for host (a name or an IP address), its CAs from ca_file (NULL: the system's). NULL: why not in
 * ret_error. It resumes a session of any connection to that host, when a ticket is left. */
struct ssl_st *tls_client(struct tls *, const char *host, const char *ca_file, char *ret_error, size_t size);
/* Its handshake did not come to its end, perhaps because of the ticket: the host's are given up. */
void tls_doubt(struct ssl_st *);
/* A connection that stands, for people: protocol, the certificate's issuer and end. ret_end_wall_s: its end. */
void tls_describe(struct ssl_st *, char *ret_text, size_t size, int64_t *ret_end_wall_s);
/* Why a connection failed, in one line: the certificate (ret_is_certificate) or error: the OpenSSL error queue's code as
 * bufferevent_get_openssl_error() gives it, 0 when none; or errno, as it was then. */
void tls_explain(struct ssl_st *, unsigned long error, int system_error, bool *ret_is_certificate, char *ret_text, size_t size);
