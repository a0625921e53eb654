/* The table comes first: what was seen, what it means, what we do, what a person does. The first row that matches
 * counts. In hints, {word} is filled in from the subject. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "failure.h"

#define ANY_PHASE 0xffffU
#define IN(phase) (1U << (phase))
#define ANY_ANSWER 0xfU
#define AS(answer) (1U << (answer))
#define BODY_MAX (64 * 1024)

#define ASKED_AT_LEAST_MS 30000		/* after a BYE that follows our mistakes (exchange-online 5.5) */
#define THROTTLED_WAIT_MS 300000	/* when the server does not say (5.6) */

#define NO_HINT ""			/* of what is ordinary: there is nothing to do */

enum source { IMAP, TOKEN, NETWORK, OWN };

struct row {
	const char *name;
	enum source source;
	unsigned phases, answers;	/* IMAP, NETWORK: bits */
	const char *codes;		/* IMAP: response codes; TOKEN: AADSTS numbers and OAuth errors; one space between */
	const char *text;		/* what the text has somewhere in it, any case */
	int status_lo, status_hi;	/* TOKEN: HTTP status */
	bool certificate;		/* NETWORK */
	enum fail fail;
	enum schedule schedule;
	msec_t asked_wait_ms;		/* when the server did not say */
	const char *hint;
};

#define IMAP_ROW(name, phases, answers, codes, text) name, IMAP, phases, answers, codes, text, 0, 0, false
#define TOKEN_ROW(name, codes) name, TOKEN, 0, 0, codes, NULL, 400, 499, false
#define TOKEN_STATUS(name, lo, hi) name, TOKEN, 0, 0, NULL, NULL, lo, hi, false
#define NETWORK_ROW(name, phases, certificate) name, NETWORK, phases, 0, NULL, NULL, 0, 0, certificate
#define OWN_ROW(name) name, OWN, 0, 0, NULL, NULL, 0, 0, false

static const struct row rows[] = {
	/* the IMAP server's answers: exchange-online 5, RFC 5530 */
	{ IMAP_ROW("throttled", ANY_PHASE, ANY_ANSWER, "THROTTLED", "request is throttled"), FAIL_WAIT, SCHEDULE_THROTTLED, THROTTLED_WAIT_MS,
	  "Exchange Online is throttling mailbox {mailbox} for {wait} seconds: reduce other IMAP clients on it." },
	{ IMAP_ROW("token-expired", ANY_PHASE, AS(ANSWER_BYE), NULL, "accesstokenexpired"), FAIL_EXPECTED, SCHEDULE_NETWORK, 0, NO_HINT },
	{ IMAP_ROW("session-invalidated", ANY_PHASE, AS(ANSWER_BYE), NULL, "session invalidated"), FAIL_EXPECTED, SCHEDULE_NETWORK, 0,
	  NO_HINT },
	{ IMAP_ROW("no-access", ANY_PHASE, ANY_ANSWER, NULL, "authenticated but not connected"), FAIL_ADMIN, SCHEDULE_NO_ACCESS, 0,
	  "Sign-in works but mailbox {mailbox} cannot be opened: give application {client_id} FullAccess to it (Add-MailboxPermission "
	  "{mailbox} -User (Get-ServicePrincipal {client_id}).Identity -AccessRights FullAccess), make sure that IMAP is enabled "
	  "(Set-CASMailbox {mailbox} -ImapEnabled $true), then wait up to an hour." },
	{ IMAP_ROW("unavailable", ANY_PHASE, ANY_ANSWER, "UNAVAILABLE SERVERBUG", "server unavailable"), FAIL_WAIT, SCHEDULE_UNAVAILABLE, 0,
	  "{host} reports that its mailbox server is unavailable for {mailbox}; nothing to change here." },
	{ IMAP_ROW("in-use", ANY_PHASE, ANY_ANSWER, "INUSE LIMIT", "too many simultaneous connections"), FAIL_WAIT, SCHEDULE_UNAVAILABLE, 0,
	  "Mailbox {mailbox} has too many IMAP connections: stop other clients on it." },
	{ IMAP_ROW("command-refused", ANY_PHASE, AS(ANSWER_BAD), NULL, "command error"), FAIL_WAIT, SCHEDULE_REFUSED, ASKED_AT_LEAST_MS,
	  "{host} did not understand a command; please report this with the log line." },
	{ IMAP_ROW("argument-refused", ANY_PHASE, AS(ANSWER_BAD), NULL, "command argument error"), FAIL_WAIT, SCHEDULE_REFUSED,
	  ASKED_AT_LEAST_MS, "{host} did not understand a command's argument; please report this with the log line." },
	{ IMAP_ROW("invalid-state", ANY_PHASE, AS(ANSWER_BAD), NULL, "invalid state"), FAIL_WAIT, SCHEDULE_UNAVAILABLE, 0,
	  "{host} lost the thread of the conversation for {mailbox}: mailpolld begins a new one; if it comes often, please report the log line." },
	{ IMAP_ROW("sign-in-refused", IN(PHASE_AUTHENTICATE), AS(ANSWER_NO) | AS(ANSWER_BAD), NULL, NULL), FAIL_TOKEN, SCHEDULE_REFUSED, 0,
	  "{host} refused the token of application {client_id} for {mailbox}: check that IMAP.AccessAsApp has admin consent (Entra admin "
	  "center, App registrations, API permissions), that New-ServicePrincipal was run with the Object ID of the Enterprise "
	  "application{oid}, and that {mailbox} is a mailbox of this tenant.{finding}" },
	{ IMAP_ROW("closed-number", ANY_PHASE, AS(ANSWER_BYE), NULL, "closed. "), FAIL_WAIT, SCHEDULE_NETWORK, ASKED_AT_LEAST_MS,
	  "{host} closed the connection of {mailbox} after errors or too many connections; mailpolld waits." },
	{ IMAP_ROW("sign-in-closed", IN(PHASE_AUTHENTICATE), AS(ANSWER_BYE), NULL, NULL), FAIL_WAIT, SCHEDULE_REFUSED, ASKED_AT_LEAST_MS,
	  "{host} closes the connection when {mailbox} signs in: sign-ins may have failed too often; mailpolld waits." },
	{ IMAP_ROW("no-folder", IN(PHASE_OPEN), AS(ANSWER_NO), "NONEXISTENT", "doesn't exist"), FAIL_ADMIN, SCHEDULE_NO_ACCESS, 0,
	  "Folder {folder} does not exist in mailbox {mailbox}: correct `folders`, or make the folder." },
	{ IMAP_ROW("folder-refused", IN(PHASE_OPEN), AS(ANSWER_NO), NULL, NULL), FAIL_ADMIN, SCHEDULE_NO_ACCESS, 0,
	  "Folder {folder} of {mailbox} cannot be opened: check that it exists and that application {client_id} has FullAccess to the "
	  "mailbox (Add-MailboxPermission {mailbox} -User (Get-ServicePrincipal {client_id}).Identity -AccessRights FullAccess); INBOX is "
	  "refused for a while when a mailbox is being moved." },
	{ IMAP_ROW("quota", ANY_PHASE, AS(ANSWER_NO), "OVERQUOTA", NULL), FAIL_ADMIN, SCHEDULE_LOST_ACCESS, 0,
	  "Mailbox {mailbox} is over its quota: make room in it." },
	{ IMAP_ROW("no-target", IN(PHASE_OTHER), AS(ANSWER_NO), "TRYCREATE NONEXISTENT", NULL), FAIL_ADMIN, SCHEDULE_LOST_ACCESS, 0,
	  "The folder that messages are moved to (`after`) does not exist in mailbox {mailbox}: make it." },
	{ IMAP_ROW("closed-while-idle", IN(PHASE_IDLE), AS(ANSWER_BYE), NULL, NULL), FAIL_EXPECTED, SCHEDULE_NETWORK, 0, NO_HINT },
	{ IMAP_ROW("closed", ANY_PHASE, AS(ANSWER_BYE), NULL, NULL), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} closed the connection of {mailbox}: mailpolld signs in again; if it comes often, look for other IMAP clients on the mailbox." },
	{ IMAP_ROW("bad", ANY_PHASE, AS(ANSWER_BAD), NULL, NULL), FAIL_WAIT, SCHEDULE_UNAVAILABLE, 0,
	  "{host} did not take a command for {mailbox}: mailpolld tries again; if it stays so, please report the log line." },
	{ IMAP_ROW("fetch-refused", IN(PHASE_FETCH), AS(ANSWER_NO), NULL, NULL), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} refuses a message of {mailbox}: mailpolld asks for it alone, and reports it if it stays so." },
	{ IMAP_ROW("refused", ANY_PHASE, AS(ANSWER_NO), NULL, NULL), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} refused a command for {mailbox}: mailpolld tries again; if it stays so, its text says why." },

	/* the token endpoint's answers: exchange-online 3.2, RFC 6749 5.2. First those that go away by themselves */
	{ TOKEN_STATUS("token-throttled", 429, 429), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} is limiting token requests of app {client_id}; mailpolld waits." },
	{ TOKEN_ROW("token-throttled", "50196 90055 90024"), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} is limiting token requests of app {client_id}; mailpolld waits." },
	{ TOKEN_STATUS("token-unavailable", 500, 599), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} is temporarily unavailable; existing sessions continue." },
	{ TOKEN_STATUS("token-timeout", 408, 408), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} is temporarily unavailable; existing sessions continue." },
	{ TOKEN_ROW("token-unavailable", "90006 90033 90012 50033 90090 temporarily_unavailable"), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} is temporarily unavailable; existing sessions continue." },
	{ TOKEN_ROW("secret-wrong", "7000215 70002"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Entra rejected the client secret: create a new secret for app {client_id} (Entra admin center, App registrations, Certificates & "
	  "secrets) and copy its Value column, not its Secret ID." },
	{ TOKEN_ROW("secret-expired", "7000222"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "The client secret of app {client_id} has expired: create a new one (Entra admin center, App registrations, Certificates & secrets) "
	  "and put its Value into the secret file." },
	{ TOKEN_ROW("secret-absent", "7000218 900144"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "No credential was sent: check the secret file of app {client_id}." },
	{ TOKEN_ROW("app-unknown", "700016"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "There is no application with client ID {client_id} in tenant {tenant}: check both; client_id is the 'Application (client) ID' "
	  "on the app's overview page." },
	{ TOKEN_ROW("app-not-installed", "7000229"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Application {client_id} has no enterprise application in tenant {tenant}: an administrator of {tenant} must grant consent once "
	  "(Entra admin center, App registrations, API permissions, Grant admin consent)." },
	{ TOKEN_ROW("app-disabled", "7000112 70001"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Application {client_id} is disabled in Entra: enable sign-in for it under Enterprise applications (Properties)." },
	{ TOKEN_ROW("tenant-unknown", "90002"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Tenant {tenant} does not exist in this cloud: check the directory ID and whether `cloud` must be usgov, dod or china." },
	{ TOKEN_ROW("tenant-malformed", "900023"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "'{tenant}' is not a tenant: use the Directory (tenant) ID or a verified domain." },
	{ TOKEN_ROW("tenant-other-cloud", "90038 900382 900432"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Tenant {tenant} lives in another Microsoft cloud: choose that `cloud` in the configuration." },
	{ TOKEN_ROW("tenant-common", "50194 9001023 90124"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Use the tenant's own ID, not 'common', in `tenant` or in the token URL of app {client_id}'s credential." },
	{ TOKEN_ROW("scope-default", "1002012"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0, 
	  "The scope must end in /.default: correct `scope` of app {client_id}'s credential in mailpolld.yaml." },
	{ TOKEN_ROW("scope-wrong", "70011 700022 28002"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "The scope is wrong: leave out `scope` in app {client_id}'s credential, so that its `cloud` decides; for Exchange Online it is https://outlook.office365.com/.default." },
	{ TOKEN_ROW("resource-absent", "500011 50001"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Exchange Online is not present in tenant {tenant} of app {client_id}: check the tenant and that it has an Exchange Online subscription." },
	{ TOKEN_ROW("consent-missing", "65001 650056 501051"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Grant admin consent for IMAP.AccessAsApp to application {client_id} (Entra admin center, App registrations, API permissions)." },
	{ TOKEN_ROW("certificate-refused", "700027 50012 50013"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Entra does not accept the certificate: upload it to app {client_id} (Entra admin center, App registrations, Certificates & secrets), "
	  "and check that the private key belongs to it." },
	{ TOKEN_ROW("clock-wrong", "700024 500133"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "This server's clock is wrong, so the tokens of app {client_id} are not valid: enable time synchronisation (timedatectl set-ntp true). Entra's text tells its time." },
	{ TOKEN_ROW("federation-mismatch", "700213 7002131 700211 700212"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "Add a federated credential to app {client_id} (Entra admin center, App registrations, Certificates & secrets) whose issuer, subject and audience (api://AzureADTokenExchange) are exactly those "
	  "of the token file." },
	{ TOKEN_ROW("conditional-access", "53003 50131 530032"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "A Conditional Access policy for workload identities blocks this server's address: allow it or exclude app {client_id} "
	  "(Entra admin center, Conditional Access)." },
	{ TOKEN_ROW("tenant-restricted", "500021 500022 50002"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "The network's tenant-restriction proxy does not allow tenant {tenant} of app {client_id}: ask who runs the proxy to allow it." },
	{ TOKEN_ROW("scope-wrong", "invalid_scope invalid_resource invalid_target"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "{token_host} knows nothing of this scope for app {client_id}: correct `scope` in its credential (where there is a `cloud`, leave it out)." },
	{ TOKEN_ROW("client-refused", "invalid_client unauthorized_client"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "{token_host} does not accept client_id {client_id} with this secret: check both." },
	{ TOKEN_STATUS("token-url", 300, 399), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "{token_host} redirects token requests, which is not followed: correct `token_url` or `tenant`." },
	{ TOKEN_STATUS("token-url", 404, 405), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "There is no token endpoint at this address of {token_host}: correct `token_url` or `tenant`." },
	{ TOKEN_STATUS("token-refused", 400, 499), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0,
	  "{token_host} refuses the token request of app {client_id}: its text says why." },
	{ TOKEN_STATUS("token-answer", 100, 999), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} gave an answer that is none of a token endpoint: check `token_url` and proxies in between." },

	/* the network */
	{ NETWORK_ROW("certificate", ANY_PHASE, true), FAIL_ADMIN, SCHEDULE_UNAVAILABLE, 0,
	  "The certificate of {host} is not trusted or names another host: check `host`, and that the package ca-certificates is installed here; for a "
	  "private CA set `ca_file`; a firewall that inspects TLS must be told to leave {host} alone. When it has expired, its owner must renew it, or this server's clock is wrong." },
	{ NETWORK_ROW("resolve", IN(PHASE_RESOLVE), false), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "The name {host} is not found: check DNS and the spelling of the host." },
	{ NETWORK_ROW("connect", IN(PHASE_CONNECT), false), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "Cannot reach {host}: check DNS, firewall and routing." },
	{ NETWORK_ROW("tls", IN(PHASE_TLS), false), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "TLS with {host} fails: check that the port speaks TLS (993 for IMAP) and that no firewall interferes." },
	{ NETWORK_ROW("dropped-while-idle", IN(PHASE_IDLE), false), FAIL_EXPECTED, SCHEDULE_NETWORK, 0, NO_HINT },
	{ NETWORK_ROW("network", ANY_PHASE, false), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} breaks off or does not answer: mailpolld tries again; if it stays so, look for a firewall or a proxy in between." },

	/* what we see ourselves */
	{ OWN_ROW("no-xoauth2"), FAIL_ADMIN, SCHEDULE_REFUSED, 0, "{host} does not offer XOAUTH2: check `host` and `port` of {mailbox}." },
	{ OWN_ROW("secret-file"), FAIL_ADMIN, SCHEDULE_NETWORK, 0,	/* put right, it is noticed at the next attempt: that comes soon */
	  "Put the client secret of app {client_id} into {path}, readable by the daemon's user." },
	{ OWN_ROW("secret-credential"), FAIL_ADMIN, SCHEDULE_NETWORK, 0,
	  "systemd gives no credential {path} to the service: name the client secret's file with LoadCredential={path}:FILE (systemctl edit mailpolld), "
	  "then systemctl restart mailpolld." },
	{ OWN_ROW("no-credential"), FAIL_ADMIN, SCHEDULE_TOKEN_ADMIN, 0, "Add the credential to the configuration, or name another." },
	{ OWN_ROW("ca-file"), FAIL_ADMIN, SCHEDULE_REFUSED, 0, "Correct `ca_file` of {mailbox} in the configuration." },
	{ OWN_ROW("protocol"), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} answered what is not IMAP: check that `host` and `port` of {mailbox} lead to the IMAP server and not to a proxy." },
	{ OWN_ROW("token-no-answer"), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} can be reached but does not answer: mailpolld tries again; if it stays so, look for a proxy in between." },
	{ OWN_ROW("token-short-lived"), FAIL_WAIT, SCHEDULE_TOKEN, 0,
	  "{token_host} gives app {client_id} tokens that end within seconds, before mail can be fetched with them: set their life there to some "
	  "minutes at least (an hour is usual)." },
	{ OWN_ROW("stuck"), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "The session of {mailbox} stood still and was begun anew; please report this with the log before it." },
	{ OWN_ROW("none-given"), FAIL_WAIT, SCHEDULE_UNAVAILABLE, 0,
	  "{host} gives none of the messages of {folder} in {mailbox}; nothing to change here." },
	{ OWN_ROW("not-moved"), FAIL_WAIT, SCHEDULE_NETWORK, 0,
	  "{host} says that it moves messages of {mailbox} and does not: look whether the folder that they are moved to (`after`) takes any." },
	{ OWN_ROW("unretrievable"), FAIL_ADMIN, SCHEDULE_NETWORK, 0,
	  "Message UID {uid} in {folder} of {mailbox} cannot be read over IMAP: open it in Outlook on the web, then forward or re-save it." },
	{ OWN_ROW("idle-cut"), FAIL_NONE, SCHEDULE_NETWORK, 0,
	  "If a firewall, a NAT or a proxy lies between here and {host}, let it keep idle connections open for 10 minutes at least; meanwhile "
	  "mailpolld renews IDLE sooner." },
	{ OWN_ROW("uids-changed"), FAIL_NONE, SCHEDULE_NETWORK, 0,
	  "Mailbox {mailbox} was rebuilt or moved: nothing to do; if messages are missing all the same, mailpollctl resync {mailbox} --since DATE." },
};

/* --- matching --- */

static bool has_text(const char *text, const char *part)
{
	size_t len = strlen(part);

	for (; *text != '\0'; text++)
		if (strncasecmp(text, part, len) == 0)
			return true;
	return false;
}

static bool list_has(const char *list, const char *word, size_t len)
{
	while (list != NULL && *list != '\0') {
		size_t n = strcspn(list, " ");

		if (n == len && strncasecmp(list, word, len) == 0)
			return true;
		list += n + strspn(list + n, " ");
	}
	return false;
}

struct seen {				/* what a row is compared with */
	enum source source;
	enum failure_phase phase;
	enum failure_answer answer;
	const char *code, *text;	/* IMAP; OWN: the row's name */
	long status;			/* TOKEN */
	const char *codes;		/* TOKEN: numbers and error word, one space between */
	bool certificate;
};

static bool token_row_matches(const struct row *row, const struct seen *seen)
{
	if (seen->status < row->status_lo || seen->status > row->status_hi)
		return false;
	if (row->codes == NULL)
		return true;
	for (const char *c = seen->codes; *c != '\0'; c += strcspn(c, " "), c += strspn(c, " "))
		if (list_has(row->codes, c, strcspn(c, " ")))
			return true;
	return false;
}

static bool imap_row_matches(const struct row *row, const struct seen *seen)
{
	if (!(row->phases & IN(seen->phase)) || !(row->answers & AS(seen->answer)))
		return false;
	if (row->codes == NULL && row->text == NULL)
		return true;
	return (row->codes != NULL && seen->code != NULL && list_has(row->codes, seen->code, strlen(seen->code))) ||
	    (row->text != NULL && has_text(seen->text, row->text));
}

static const struct row *find_row(const struct seen *seen)
{
	for (const struct row *row = rows; row < rows + ARRAY_LEN(rows); row++) {
		if (row->source != seen->source)
			continue;
		switch (row->source) {
		case IMAP:
			if (imap_row_matches(row, seen))
				return row;
			break;
		case TOKEN:
			if (token_row_matches(row, seen))
				return row;
			break;
		case NETWORK:
			if ((row->phases & IN(seen->phase)) && row->certificate == seen->certificate)
				return row;
			break;
		case OWN:
			if (strcmp(row->name, seen->text) == 0)
				return row;
			break;
		}
	}
	return NULL;
}

/* --- filling in --- */

static const char *or_unknown(const char *s)
{
	return s != NULL ? s : "(unknown)";
}

static const char *value_of(const char *word, size_t len, const struct failure_subject *s, msec_t wait_ms, char *room, size_t size)
{
	static const struct failure_subject nobody;
	const struct { const char *word, *value; } plain[] = {
		{ "mailbox", (s != NULL ? s : &nobody)->mailbox }, { "folder", (s != NULL ? s : &nobody)->folder },
		{ "client_id", (s != NULL ? s : &nobody)->client_id }, { "tenant", (s != NULL ? s : &nobody)->tenant },
		{ "token_host", (s != NULL ? s : &nobody)->token_host }, { "path", (s != NULL ? s : &nobody)->path },
		{ "host", s == NULL ? NULL : s->host != NULL ? s->host : s->token_host },
	};

	for (size_t i = 0; i < ARRAY_LEN(plain); i++)
		if (strlen(plain[i].word) == len && strncmp(plain[i].word, word, len) == 0)
			return or_unknown(plain[i].value);
	room[0] = '\0';
	if (strncmp(word, "wait", len) == 0)
		snprintf(room, size, "%lld", (long long)(wait_ms + 999) / 1000);
	else if (strncmp(word, "uid", len) == 0 && s != NULL)
		snprintf(room, size, "%u", s->uid);
	else if (strncmp(word, "oid", len) == 0 && s != NULL && s->object_id != NULL)
		snprintf(room, size, " (this app's is %s): New-ServicePrincipal -AppId %s -ObjectId %s", s->object_id, or_unknown(s->client_id),
		    s->object_id);
	else if (strncmp(word, "finding", len) == 0 && s != NULL && s->token_finding != NULL)
		snprintf(room, size, " %s", s->token_finding);
	return room;
}

static void fill_hint(struct failure *f, const char *pattern, const struct failure_subject *subject)
{
	char room[256];
	size_t at = 0;

	while (*pattern != '\0' && at + 1 < sizeof(f->hint)) {
		const char *end = *pattern == '{' ? strchr(pattern, '}') : NULL;

		if (end == NULL) {
			f->hint[at++] = *pattern++;
			continue;
		}
		const char *value = value_of(pattern + 1, (size_t)(end - pattern - 1), subject, f->asked_wait_ms, room, sizeof(room));
		size_t len = strlen(value), left = sizeof(f->hint) - 1 - at;

		if (len > left)
			len = left;
		memcpy(f->hint + at, value, len);
		at += len;
		pattern = end + 1;
	}
	f->hint[at] = '\0';
	if (at == sizeof(f->hint) - 1)
		drop_cut_character(f->hint);
}

static void from_row(struct failure *f, const struct row *row, msec_t asked_wait_ms, const struct failure_subject *subject)
{
	f->fail = row->fail;
	f->schedule = row->schedule;
	f->name = row->name;
	f->asked_wait_ms = asked_wait_ms > 0 ? asked_wait_ms : row->asked_wait_ms;
	fill_hint(f, row->hint, subject);
}

/* "Suggested Backoff Time: 299910 milliseconds" (exchange-online 5.6) */
static msec_t suggested_wait_ms(const char *text)
{
	static const char before[] = "Backoff Time:";
	uint64_t ms = 0;

	while (*text != '\0' && strncasecmp(text, before, sizeof(before) - 1) != 0)
		text++;
	if (*text == '\0')
		return 0;
	for (text += sizeof(before) - 1; *text == ' '; text++)
		;
	if (!isdigit((unsigned char)*text))
		return 0;
	for (; isdigit((unsigned char)*text) && ms < 1000000000; text++)
		ms = ms * 10 + (uint64_t)(*text - '0');
	return ms > 0 ? (msec_t)ms : 1;		/* 0 would be "not said" */
}

void failure_from_imap(struct failure *ret, enum failure_phase phase, enum failure_answer answer, const char *code, const char *text,
    const struct failure_subject *subject)
{
	static const char *const answers[] = { [ANSWER_NO] = "NO ", [ANSWER_BAD] = "BAD ", [ANSWER_BYE] = "BYE ", [ANSWER_STRAY] = "" };
	struct seen seen = { .source = IMAP, .phase = phase, .answer = answer, .code = code, .text = text };
	const struct row *row = find_row(&seen);
	char shown[160];

	*ret = (struct failure){ .name = "" };
	if (row == NULL)			/* a stray line that says nothing we know */
		return;
	from_row(ret, row, suggested_wait_ms(text), subject);
	if (ret->schedule == SCHEDULE_NO_ACCESS && subject != NULL && subject->worked_before) {
		ret->fail = FAIL_WAIT;		/* exchange-online 5.1: transient for one that worked before */
		ret->schedule = SCHEDULE_LOST_ACCESS;
	}
	printable(shown, sizeof(shown), text, strlen(text));
	snprintf(ret->text, sizeof(ret->text), "%s: %s%s%.40s%s%s", failure_phase_name(phase), answers[answer], code != NULL ? "[" : "",
	    code != NULL ? code : "", code != NULL ? "] " : "", shown);
}

void failure_from_network(struct failure *ret, enum failure_phase phase, bool is_certificate, const char *what,
    const struct failure_subject *subject)
{
	struct seen seen = { .source = NETWORK, .phase = phase, .certificate = is_certificate };

	*ret = (struct failure){ .name = "" };
	from_row(ret, find_row(&seen), 0, subject);
	snprintf(ret->text, sizeof(ret->text), "%s: ", failure_phase_name(phase));
	printable(ret->text + strlen(ret->text), sizeof(ret->text) - strlen(ret->text), what, strlen(what));
}

/* --- the token endpoint's answer --- */

static void add_code(char *codes, size_t size, const char *word, size_t len)
{
	size_t at = strlen(codes);

	if (len > 0 && at + len + 2 < size && memchr(word, ' ', len) == NULL)
		snprintf(codes + at, size - at, "%s%.*s", at > 0 ? " " : "", (int)len, word);
}

/* "AADSTS7000215: ..." */
static void add_described_code(char *codes, size_t size, const char *description)
{
	if (strncmp(description, "AADSTS", 6) == 0)
		add_code(codes, size, description + 6, strspn(description + 6, "0123456789"));
}

static void add_id(char *text, size_t size, const char *what, const char *id)
{
	char shown[48];

	printable(shown, sizeof(shown), id, strlen(id));
	if (shown[0] != '\0' && strlen(text) + strlen(what) + strlen(shown) + sizeof(" ( )") <= size)	/* a part of one helps nobody */
		snprintf(text + strlen(text), size - strlen(text), " (%s %s)", what, shown);
}

/* The person is told the sentence; support is told the IDs (exchange-online 3.1). */
static void describe(char *ret_text, size_t size, long status, const char *error, const char *description, const json_t *root)
{
	static const struct { const char *key, *name; } ids[] = {
		{ "trace_id", "trace ID" }, { "correlation_id", "correlation ID" }, { "timestamp", "timestamp" },
	};
	const char *end = description;
	char shown[160], shown_error[41];

	printable(shown_error, sizeof(shown_error), error, strlen(error));
	while (*end != '\0' && *end != '\r' && *end != '\n' && strncmp(end, "Trace ID", 8) != 0)
		end++;
	while (end > description && end[-1] == ' ')
		end--;
	printable(shown, sizeof(shown), description, (size_t)(end - description));
	snprintf(ret_text, size, "token endpoint: HTTP %ld%s%s%s%s", status, shown_error[0] != '\0' ? " " : "", shown_error,
	    shown[0] != '\0' ? ": " : "", shown);
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		const char *id = json_string_value(json_object_get(root, ids[i].key));

		if (id != NULL)
			add_id(ret_text, size, ids[i].name, id);
	}
}

void failure_from_token_answer(struct failure *ret, long http_status, const char *body, size_t body_len, unsigned retry_after_s,
    const struct failure_subject *subject)
{
	struct seen seen = { .source = TOKEN, .status = http_status };
	json_t *root = body_len <= BODY_MAX ? json_loadb(body, body_len, 0, NULL) : NULL, *numbers;
	const char *error = json_string_value(json_object_get(root, "error"));
	const char *description = json_string_value(json_object_get(root, "error_description"));
	char codes[256] = "", one[24];
	const struct row *row;

	if (description != NULL)
		add_described_code(codes, sizeof(codes), description);
	numbers = json_object_get(root, "error_codes");
	for (size_t i = 0; i < json_array_size(numbers); i++) {
		snprintf(one, sizeof(one), "%lld", (long long)json_integer_value(json_array_get(numbers, i)));
		add_code(codes, sizeof(codes), one, strlen(one));
	}
	if (error != NULL)
		add_code(codes, sizeof(codes), error, strlen(error));
	seen.codes = codes;
	*ret = (struct failure){ .name = "" };
	row = find_row(&seen);
	if (row != NULL)
		from_row(ret, row, (msec_t)retry_after_s * 1000, subject);
	else
		failure_set(ret, FAIL_WAIT, SCHEDULE_TOKEN, "token-answer", NULL, "token endpoint");
	describe(ret->text, sizeof(ret->text), http_status, error != NULL ? error : "", description != NULL ? description : "", root);
	json_decref(root);
}

/* --- the rest --- */

/* Of what is too long, as many characters as fit: half of one may make the whole text worthless to who reads it. */
static void put_text(char *to, size_t size, const char *fmt, va_list args) PRINTF_LIKE(3, 0);
static void put_text(char *to, size_t size, const char *fmt, va_list args)
{
	if (vsnprintf(to, size, fmt, args) >= (int)size)
		drop_cut_character(to);
}

void failure_own(struct failure *ret, const char *name, const struct failure_subject *subject, const char *fmt, ...)
{
	struct seen seen = { .source = OWN, .text = name };
	const struct row *row = find_row(&seen);
	va_list args;

	if (row == NULL)
		abort();
	*ret = (struct failure){ .name = "" };
	from_row(ret, row, 0, subject);
	va_start(args, fmt);
	put_text(ret->text, sizeof(ret->text), fmt, args);
	va_end(args);
}

void failure_set(struct failure *ret, enum fail fail, enum schedule schedule, const char *name, const char *hint, const char *fmt, ...)
{
	va_list args;

	*ret = (struct failure){ .fail = fail, .schedule = schedule, .name = name };
	if (snprintf(ret->hint, sizeof(ret->hint), "%s", hint != NULL ? hint : "") >= (int)sizeof(ret->hint))
		drop_cut_character(ret->hint);
	va_start(args, fmt);
	put_text(ret->text, sizeof(ret->text), fmt, args);
	va_end(args);
}

void failure_from_disk(struct failure *ret, const char *name, const char *what, const char *path, int error)
{
	char *hint;

	if (error == EROFS)		/* by what its user may do there, it could: the unit has not let it, or the file system had errors */
		hint = xasprintf("%s is read-only for the daemon: name it in the unit's RequiresMountsFor= and ReadWritePaths= (systemctl edit mailpolld), "
		    "then systemctl restart mailpolld; or mount it for writing. mailpolld doctor tells which.", path);
	else
		hint = xasprintf("Make %s writable for the daemon's user, with free space.", path);
	failure_set(ret, FAIL_WAIT, SCHEDULE_SINK, name, hint, "%s %s: %s", what, path, strerror(error));
	free(hint);
}

void failure_keep(struct failure **to, const struct failure *why)
{
	if (*to == NULL)
		*to = xmalloc(sizeof(**to));
	**to = *why;
}

void failure_drop(struct failure **failure)
{
	free(*failure);
	*failure = NULL;
}

const char *failure_phase_name(enum failure_phase phase)
{
	static const char *const names[] = {
		[PHASE_RESOLVE] = "resolving", [PHASE_CONNECT] = "connecting", [PHASE_TLS] = "negotiating TLS",
		[PHASE_GREETING] = "greeting", [PHASE_CAPABILITY] = "asking capabilities", [PHASE_AUTHENTICATE] = "authenticating",
		[PHASE_OPEN] = "opening", [PHASE_FETCH] = "fetching", [PHASE_OTHER] = "in a command", [PHASE_IDLE] = "idling",
		[PHASE_LOGOUT] = "logging out",
	};

	return names[phase];
}

bool failure_is_of_command(const struct failure *f)
{
	return strcmp(f->name, "command-refused") == 0 || strcmp(f->name, "argument-refused") == 0 || strcmp(f->name, "bad") == 0;
}

bool failure_is_of_token(const struct failure *f)
{
	return strcmp(f->name, "token-expired") == 0 || strcmp(f->name, "session-invalidated") == 0;
}

bool failure_is_of_folder(const struct failure *f)
{
	return strcmp(f->name, "no-folder") == 0 || strcmp(f->name, "folder-refused") == 0;
}

static void add_words(char *to, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void add_words(char *to, size_t size, const char *fmt, ...)
{
	size_t at = strlen(to);
	va_list args;

	va_start(args, fmt);
	vsnprintf(to + at, size - at, fmt, args);
	va_end(args);
}

static void add_phases(char *to, size_t size, unsigned phases)
{
	const char *before = ", while ";

	for (enum failure_phase p = PHASE_RESOLVE; p <= PHASE_LOGOUT && phases != ANY_PHASE; p++) {
		if (phases & IN(p)) {
			add_words(to, size, "%s%s", before, failure_phase_name(p));
			before = " or ";
		}
	}
}

static void describe_imap(const struct row *row, char *to, size_t size)
{
	static const char *const answers[] = { [ANSWER_NO] = "NO", [ANSWER_BAD] = "BAD", [ANSWER_BYE] = "BYE", [ANSWER_STRAY] = "a bare line" };
	const char *before = "";

	for (enum failure_answer a = ANSWER_NO; a <= ANSWER_STRAY && row->answers != ANY_ANSWER; a++) {
		if (row->answers & AS(a)) {
			add_words(to, size, "%s%s", before, answers[a]);
			before = " or ";
		}
	}
	if (row->answers == ANY_ANSWER)
		add_words(to, size, "any answer");
	if (row->text != NULL)
		add_words(to, size, " with the text \"%s\"", row->text);
	if (row->codes != NULL)
		add_words(to, size, "%s a response code of %s", row->text != NULL ? " or" : " with", row->codes);
	add_phases(to, size, row->phases);
}

static void describe_token(const struct row *row, char *to, size_t size)
{
	if (row->codes != NULL)
		add_words(to, size, "the token endpoint's error %s", row->codes);
	else if (row->status_lo == row->status_hi)
		add_words(to, size, "HTTP status %d of the token endpoint", row->status_lo);
	else
		add_words(to, size, "HTTP status %d to %d of the token endpoint", row->status_lo, row->status_hi);
}

bool failure_row(size_t i, struct failure_row *ret)
{
	if (i >= ARRAY_LEN(rows))
		return false;
	*ret = (struct failure_row){ .name = rows[i].name, .hint = rows[i].hint, .fail = rows[i].fail, .schedule = rows[i].schedule,
	    .asked_wait_ms = rows[i].asked_wait_ms };
	switch (rows[i].source) {
	case IMAP:
		describe_imap(&rows[i], ret->seen, sizeof(ret->seen));
		break;
	case TOKEN:
		describe_token(&rows[i], ret->seen, sizeof(ret->seen));
		break;
	case NETWORK:
		add_words(ret->seen, sizeof(ret->seen), "%s", rows[i].certificate ? "a certificate that is not accepted" : "the network");
		add_phases(ret->seen, sizeof(ret->seen), rows[i].phases);
		break;
	case OWN:
		add_words(ret->seen, sizeof(ret->seen), "mailpolld itself");
		break;
	}
	return true;
}
