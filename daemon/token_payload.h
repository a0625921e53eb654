/* token_payload.h - what an access token's payload shows, to make a message better and for nothing else: to its client a
 * token is opaque (exchange-online 2.6). Whatever cannot be read is passed over in silence. Pure. */
#pragma once

enum payload_fault { PAYLOAD_GOOD, PAYLOAD_OF_USER, PAYLOAD_AUDIENCE, PAYLOAD_ROLES };

struct token_payload {
	char *object_id;		/* `oid`: the enterprise application's Object ID; NULL: not read */
	char *audience, *tenant_id, *app_id, *roles;	/* aud, tid, appid, roles with a space between; printable; NULL: not there */
	enum payload_fault fault;	/* what is wrong with it for IMAP, as far as is seen */
	const char *finding;		/* the same as a static sentence; NULL: nothing */
};

void token_payload_read(const char *token, struct token_payload *ret_payload);
void token_payload_done(struct token_payload *);
