#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "token_payload.h"
#include "util.h"

#define MAX_PAYLOAD_CHARS 16384
#define MAX_OBJECT_ID 64
#define IMAP_ROLE "IMAP.AccessAsApp"

/* A finding is about Exchange Online: tokens of other issuers are none of our business. */
static const char *const entra_issuers[] = {
	"https://sts.windows.net/",
	"https://sts.chinacloudapi.cn/",
	"https://login.microsoftonline.com/",
	"https://login.microsoftonline.us/",
	"https://login.partner.microsoftonline.cn/",
	"https://login.chinacloudapi.cn/",
};
static const char *const wrong_audiences[] = {
	"https://graph.microsoft.com",
	"00000003-0000-0000-c000-000000000000",
	"https://ps.outlook.com",
};

/* base64url (RFC 4648 section 5) without padding to what EVP_DecodeBlock() reads. Caller frees; NULL: not base64url. */
static unsigned char *to_base64(const char *s, size_t len, size_t *ret_len)
{
	unsigned char *text = xmalloc(len + 4);
	size_t n;

	for (n = 0; n < len; n++) {
		char c = s[n];
		bool alphanumeric = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

		if (!alphanumeric && c != '-' && c != '_') {
			free(text);
			return NULL;
		}
		text[n] = c == '-' ? '+' : c == '_' ? '/' : (unsigned char)c;
	}
	while (n % 4 != 0)
		text[n++] = '=';
	*ret_len = n;
	return text;
}

static json_t *decode_part(const char *s, size_t len)
{
	size_t text_len, padding = (4 - len % 4) % 4;
	unsigned char *text = len % 4 != 1 ? to_base64(s, len, &text_len) : NULL, *data;
	json_t *json = NULL;
	int n;

	if (text == NULL)
		return NULL;
	data = xmalloc(text_len);
	n = EVP_DecodeBlock(data, text, (int)text_len);
	if (n > 0 && (size_t)n > padding)
		json = json_loadb((const char *)data, (size_t)n - padding, 0, NULL);
	free(text);
	free(data);
	return json;
}

/* The middle one of three parts, or of five when it is encrypted: then it does not decode to JSON. */
static json_t *read_payload(const char *token)
{
	const char *first = strchr(token, '.'), *second = first != NULL ? strchr(first + 1, '.') : NULL;
	size_t len = second != NULL ? (size_t)(second - first - 1) : 0;

	if (len == 0 || len > MAX_PAYLOAD_CHARS)
		return NULL;
	return decode_part(first + 1, len);
}

static bool starts_with_any(const char *s, const char *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strncmp(s, v[i], strlen(v[i])) == 0)
			return true;
	return false;
}

static bool has_imap_role(const json_t *payload)
{
	const json_t *roles = json_object_get(payload, "roles"), *role;
	size_t i;

	json_array_foreach(roles, i, role)
		if (str_equal(json_string_value(role), IMAP_ROLE))
			return true;
	return false;
}

static enum payload_fault find(const json_t *payload)
{
	const char *issuer = json_string_value(json_object_get(payload, "iss"));
	const char *audience = json_string_value(json_object_get(payload, "aud"));

	if (issuer == NULL || !starts_with_any(issuer, entra_issuers, ARRAY_LEN(entra_issuers)))
		return PAYLOAD_GOOD;
	if (json_object_get(payload, "scp") != NULL || json_object_get(payload, "upn") != NULL)
		return PAYLOAD_OF_USER;
	if (audience != NULL && starts_with_any(audience, wrong_audiences, ARRAY_LEN(wrong_audiences)))
		return PAYLOAD_AUDIENCE;
	return has_imap_role(payload) ? PAYLOAD_GOOD : PAYLOAD_ROLES;
}

/* It goes into messages and commands for administrators: a GUID's characters only. */
static char *object_id(const json_t *payload)
{
	const char *oid = json_string_value(json_object_get(payload, "oid"));
	size_t len = oid != NULL ? strlen(oid) : 0;

	if (len == 0 || len > MAX_OBJECT_ID || oid[strspn(oid, "0123456789abcdefABCDEF-")] != '\0')
		return NULL;
	return xstrdup(oid);
}

static char *text_of(const json_t *payload, const char *key)
{
	const char *s = json_string_value(json_object_get(payload, key));
	char shown[128];

	if (s == NULL)
		return NULL;
	printable(shown, sizeof(shown), s, strlen(s));
	return xstrdup(shown);
}

static char *roles_of(const json_t *payload)
{
	const json_t *roles = json_object_get(payload, "roles"), *role;
	char shown[256] = "";
	size_t i, at = 0;

	json_array_foreach(roles, i, role) {
		const char *s = json_string_value(role);

		if (s == NULL || at + strlen(s) + 2 > sizeof(shown))
			continue;
		if (at > 0)
			shown[at++] = ' ';
		printable(shown + at, sizeof(shown) - at, s, strlen(s));
		at = strlen(shown);
	}
	return at > 0 ? xstrdup(shown) : NULL;
}

static const char *const findings[] = {
	[PAYLOAD_GOOD] = NULL,
	[PAYLOAD_OF_USER] = "The token is for a user; use the client-credentials flow.",
	[PAYLOAD_AUDIENCE] = "Set the scope to https://outlook.office365.com/.default; in a national cloud leave it out, and `cloud` decides.",
	[PAYLOAD_ROLES] = "Add the application permission IMAP.AccessAsApp (Office 365 Exchange Online) and grant admin consent.",
};

void token_payload_read(const char *token, struct token_payload *ret_payload)
{
	json_t *payload = read_payload(token);

	*ret_payload = (struct token_payload){ 0 };
	if (json_is_object(payload)) {
		ret_payload->object_id = object_id(payload);
		ret_payload->audience = text_of(payload, "aud");
		ret_payload->tenant_id = text_of(payload, "tid");
		ret_payload->app_id = text_of(payload, "appid");
		ret_payload->roles = roles_of(payload);
		ret_payload->fault = find(payload);
		ret_payload->finding = findings[ret_payload->fault];
	}
	json_decref(payload);
}

void token_payload_done(struct token_payload *payload)
{
	free(payload->object_id);
	free(payload->audience);
	free(payload->tenant_id);
	free(payload->app_id);
	free(payload->roles);
	*payload = (struct token_payload){ 0 };
}
