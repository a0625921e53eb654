/* tls.h - verified TLS for clients: TLS 1.2 or newer, SNI, the host's name checked. No switch turns that off. A connection: tls_stream.h. */
#pragma once

struct tls;				/* contexts, one per CA file, made when first asked for; each with the hosts' latest tickets */

struct tls *tls_new(void);
void tls_free(struct tls **);
/* Forgets the contexts and their tickets, so that changed CA files are read again (reload). Connections keep theirs. */
void tls_forget(struct tls *);
