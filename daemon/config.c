/* The schema, from the top level down to one mailbox, and its precedence: mailbox, `defaults` of its file, global
 * `defaults`, the credential's cloud. */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "config_private.h"

#define RELOGIN_WINDOW_S (25 * 60)	/* of a token of an hour: from half of its life to 5 minutes before its end */
#define ADDRESS_MAX 254			/* RFC 5321 4.5.3.1.3, without the angle brackets */
#define FOLDERS_MAX 100
#define INTERVAL_IDLE_MS (9 * 60000)
#define INTERVAL_POLL_MS (5 * 60000)
#define INTERVAL_POLL_LEAST_MS 60000	/* exchange-online 6; warned of, not refused */
#define UNIT_STATE "/var/lib/mailpolld"
#define UNIT_RUNTIME "/run/mailpolld"
#define UNIT_CREDENTIALS "/run/credentials/mailpolld.service"	/* where systemd keeps those of the running unit, for root */

static const struct { const char *name, *authority, *scope, *imap_host; } clouds[] = {	/* exchange-online 1 */
	{ "worldwide", "login.microsoftonline.com", "https://outlook.office365.com/.default", "outlook.office365.com" },
	{ "usgov", "login.microsoftonline.us", "https://outlook.office365.us/.default", "outlook.office365.us" },
	{ "dod", "login.microsoftonline.us", "https://outlook.office365.us/.default", "outlook-dod.office365.us" },
	{ "china", "login.partner.microsoftonline.cn", "https://partner.outlook.cn/.default", "partner.outlook.cn" },
};
static const char *const cloud_names[] = { "worldwide", "usgov", "dod", "china", NULL };

static const char *const mailbox_keys[] = { "address", "id", "credential", "host", "port", "ca_file", "folders", "watch", "interval", "start",
	"deliver", "after", NULL };
static const char *const default_keys[] = { "credential", "host", "port", "ca_file", "folders", "watch", "interval", "start", "deliver",
	"after", NULL };

/* --- credentials --- */

static void read_limit(struct loading *l, struct node *n, const char *where, uint32_t *ret)
{
	if (n != NULL && n->kind == NODE_SCALAR && strcmp(n->text, "off") == 0)
		*ret = 0;
	else
		read_number(l, n, where, 1, 100000, ret);
}

static void read_admission(struct loading *l, struct node *n, const char *where, struct admission_conf *a)
{
	static const char *const keys[] = { "sessions_per_second", "starting_at_once", "fetching_at_once", NULL };

	*a = (struct admission_conf){ 5, 20, 50 };
	if (!is_kind(l, n, where, NODE_MAP))
		return;
	check_keys(l, n, where, keys, NULL);
	read_limit(l, node_get(n, "sessions_per_second"), where, &a->sessions_per_second);
	read_number(l, node_get(n, "starting_at_once"), where, 1, 100000, &a->starting_at_once);
	read_number(l, node_get(n, "fetching_at_once"), where, 1, 100000, &a->fetching_at_once);
}

static void read_date(struct loading *l, struct node *n, const char *where, int64_t *ret_s)
{
	char *text = NULL;
	int year, month, day;

	read_text(l, n, where, &text);
	if (text != NULL && date_parse(text, &year, &month, &day) == 0)
		*ret_s = date_start_s(year, month, day);
	else if (text != NULL)
		bad(l, n, where, "client_secret_expires must be a date such as 2027-01-31");
	free(text);
}

static void look_at_secret(struct loading *l, const struct node *n, const char *where, const struct credential_conf *c)
{
	char why[256];
	char *secret = config_read_secret(c->secret_file, why, sizeof(why));

	if (secret == NULL)
		suspect(l, n, where, "%s", why);
	else if (is_guid(secret) && credential_conf_is_entra(c))
		suspect(l, n, where, "the secret has the form of a GUID: that is the secret's ID; its Value is wanted");
	secret_free(&secret);
}

static void read_secret_file(struct loading *l, struct node *n, const char *where, struct credential_conf *c)
{
	static const char prefix[] = "credential:";
	const char *dir = getenv("CREDENTIALS_DIRECTORY");

	if (n->kind != NODE_SCALAR || strncmp(n->text, prefix, sizeof(prefix) - 1) != 0) {
		read_path(l, n, where, &c->secret_file);
	} else if (strchr(n->text, '/') != NULL || n->text[sizeof(prefix) - 1] == '\0') {
		bad(l, n, where, "credential:NAME is a name, not a path");
	} else {
		c->secret_credential = xstrdup(n->text + sizeof(prefix) - 1);
		c->secret_file = xasprintf("%s/%s", dir != NULL ? dir : "$CREDENTIALS_DIRECTORY", c->secret_credential);
	}
	if (c->secret_file != NULL && c->secret_file[0] == '/')	/* a systemd credential is to be had within the unit only */
		look_at_secret(l, n, where, c);
}

static void read_ca_file(struct loading *l, struct node *n, const char *where, char **ret)
{
	read_path(l, n, where, ret);
	if (*ret == NULL || n->looked_at)
		return;
	n->looked_at = true;
	if (access(*ret, R_OK) < 0)
		suspect(l, n, where, "%s cannot be read: %s", *ret, strerror(errno));
}

/* The cloud gives token URL, scope and IMAP host; `scope` may replace its scope. */
static void read_cloud(struct loading *l, struct node *map, const char *where, struct credential_conf *c)
{
	struct node *tenant = node_get(map, "tenant");
	int cloud = 0;

	read_word(l, node_get(map, "cloud"), where, cloud_names, &cloud);
	read_text(l, tenant, where, &c->tenant);
	if (tenant == NULL)
		missing(l, map, where, "tenant is missing (the directory's ID or a verified domain); for another OAuth server set token_url");
	if (c->tenant == NULL)
		return;
	if (strcmp(c->tenant, "common") == 0 || strcmp(c->tenant, "organizations") == 0 || strcmp(c->tenant, "consumers") == 0)
		bad(l, tenant, where, "use the tenant's own ID, not %s", c->tenant);
	for (const char *p = c->tenant; *p != '\0'; p++)
		if (!isalnum((unsigned char)*p) && *p != '-' && *p != '.') {
			bad(l, tenant, where, "tenant is a directory ID or a domain");
			break;
		}
	c->token_url = xasprintf("https://%s/%s/oauth2/v2.0/token", clouds[cloud].authority, c->tenant);
	c->scope = xstrdup(clouds[cloud].scope);
	c->imap_host = xstrdup(clouds[cloud].imap_host);
}

static void read_token_url(struct loading *l, struct node *map, const char *where, struct credential_conf *c)
{
	struct node *url = node_get(map, "token_url"), *other = node_get(map, "cloud");

	if (other == NULL)
		other = node_get(map, "tenant");
	if (other != NULL)
		bad(l, other, where, "is of no use beside token_url");
	read_text(l, url, where, &c->token_url);
	if (c->token_url != NULL && (strncmp(c->token_url, "https://", 8) != 0 || c->token_url[8] == '\0'))
		bad(l, url, where, "token_url must begin with https://");
	if (node_get(map, "scope") == NULL)
		missing(l, map, where, "scope is missing");
}

static struct credential_conf *read_credential(struct loading *l, struct node *name, struct node *map)
{
	static const char *const keys[] = { "cloud", "tenant", "client_id", "client_secret_file", "client_secret_expires", "token_url", "scope", "ca_file", "admission",
		NULL };
	static const char *const later[] = { "certificate_file", "private_key_file", "key_file", "federated_token_file", "token_file",
		"managed_identity", "service_account_file", "kind", NULL };
	struct node *inline_secret = node_get(map, "client_secret"), *secret_file = node_get(map, "client_secret_file");
	struct credential_conf *c = xcalloc(1, sizeof(*c));
	char where[160], where_ca[176], shown[80];

	printable(shown, sizeof(shown), name->text, strlen(name->text));
	snprintf(where, sizeof(where), "credentials.%s", shown);
	c->name = xstrdup(name->text);
	if (!is_kind(l, map, where, NODE_MAP))
		return c;
	if (inline_secret != NULL) {		/* its text is told nobody */
		bad(l, inline_secret, where, "a secret does not belong into the configuration: put it into a file and name it with "
		    "client_secret_file");
		node_get(map, "client_secret")->reported = true;
		for (size_t i = 0; i < map->n_items; i++)
			map->keys[i]->reported = map->keys[i]->reported || strcmp(map->keys[i]->text, "client_secret") == 0;
	}
	check_keys(l, map, where, keys, later);
	if (node_get(map, "token_url") != NULL)
		read_token_url(l, map, where, c);
	else
		read_cloud(l, map, where, c);
	read_text(l, node_get(map, "scope"), where, &c->scope);
	read_text(l, node_get(map, "client_id"), where, &c->client_id);
	if (node_get(map, "client_id") == NULL)
		missing(l, map, where, "client_id is missing");
	if (secret_file != NULL)
		read_secret_file(l, secret_file, where, c);
	else if (inline_secret == NULL)
		missing(l, map, where, "client_secret_file is missing");
	read_date(l, node_get(map, "client_secret_expires"), where, &c->secret_expires_s);
	snprintf(where_ca, sizeof(where_ca), "%s.ca_file", where);
	read_ca_file(l, node_get(map, "ca_file"), where_ca, &c->ca_file);
	read_admission(l, node_get(map, "admission"), where, &c->admission);
	return c;
}

static void read_credentials(struct loading *l, struct node *root)
{
	struct node *map = node_get(root, "credentials");
	struct config *c = l->config;

	if (map == NULL)
		missing(l, root, "", "credentials is missing");
	if (!is_kind(l, map, "credentials", NODE_MAP))
		return;
	c->credentials = xcalloc(map->n_items + 1, sizeof(*c->credentials));
	for (size_t i = 0; i < map->n_items; i++)
		c->credentials[c->n_credentials++] = read_credential(l, map->keys[i], map->items[i]);
}

static const struct credential_conf *find_credential(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_credentials; i++)
		if (strcmp(c->credentials[i]->name, name) == 0)
			return c->credentials[i];
	return NULL;
}

/* --- one mailbox's values, each from where it stands first --- */

struct scope {
	struct node *entry, *file_defaults, *defaults;	/* NULL: none */
	const char *label;		/* "mailboxes[2]" */
};

static struct node *find(const struct scope *s, const char *key, char *ret_where, size_t size)
{
	struct node *maps[] = { s->entry, s->file_defaults, s->defaults };

	snprintf(ret_where, size, "%s.%s", s->label, key);
	for (size_t i = 0; i < ARRAY_LEN(maps); i++)
		if (maps[i] != NULL && node_get(maps[i], key) != NULL)
			return node_get(maps[i], key);
	return NULL;
}

/* INBOX is the one name without case (RFC 3501 5.1). Here it is written one way, and names are compared as they are from now on. */
static void read_folder(struct loading *l, struct node *n, const char *where, char **ret)
{
	read_text(l, n, where, ret);
	if (*ret != NULL && strcasecmp(*ret, "INBOX") == 0)
		memcpy(*ret, "INBOX", sizeof("INBOX"));
}

static void read_folders(struct loading *l, struct node *n, const char *where, struct mailbox_conf *m)
{
	if (n == NULL) {
		m->folders = xcalloc(2, sizeof(*m->folders));
		m->folders[m->n_folders++] = xstrdup("INBOX");
		return;
	}
	if (!is_kind(l, n, where, NODE_LIST))
		return;
	if (n->n_items < 1 || n->n_items > FOLDERS_MAX) {
		bad(l, n, where, "must name 1 to %d folders", FOLDERS_MAX);
		return;
	}
	m->folders = xcalloc(n->n_items + 1, sizeof(*m->folders));
	for (size_t i = 0; i < n->n_items; i++) {
		char *name = NULL;

		read_folder(l, n->items[i], where, &name);
		if (name == NULL)
			continue;
		for (size_t j = 0; j < m->n_folders; j++)
			if (strcmp(m->folders[j], name) == 0)
				bad(l, n->items[i], where, "%s stands here twice", name);
		m->folders[m->n_folders++] = name;
	}
}

static void read_start(struct loading *l, struct node *n, const char *where, struct mailbox_conf *m)
{
	if (!is_kind(l, n, where, NODE_SCALAR))
		return;
	if (strcmp(n->text, "all") == 0) {
		m->start = START_ALL;
		return;
	}
	if (strcmp(n->text, "new") == 0) {
		m->start = START_NEW;
		return;
	}
	if (date_parse(n->text, &m->start_year, &m->start_month, &m->start_day) < 0)
		bad(l, n, where, "must be all, new or a date such as 2026-01-31");
	else
		m->start = START_SINCE;
}

static void read_after(struct loading *l, struct node *n, const char *where, struct mailbox_conf *m)
{
	static const char *const words[] = { "keep", "seen", "delete", NULL };	/* in the order of enum after_kind */
	static const char *const keys[] = { "move", NULL };
	int after = AFTER_KEEP;

	if (n == NULL || n->reported)
		return;
	if (n->kind == NODE_MAP) {
		check_keys(l, n, where, keys, NULL);
		read_folder(l, node_get(n, "move"), where, &m->after_folder);
		m->after = AFTER_MOVE;
		if (node_get(n, "move") == NULL)
			bad(l, n, where, "must be keep, seen, delete or {move: FOLDER}");
	} else if (n->kind == NODE_SCALAR && strcmp(n->text, "move") == 0) {
		bad(l, n, where, "move needs a folder: {move: FOLDER}");
	} else {
		read_word(l, n, where, words, &after);
		m->after = (enum after_kind)after;
	}
}

static void read_credential_name(struct loading *l, struct node *n, const char *where, struct mailbox_conf *m)
{
	char *name = NULL;

	if (n == NULL && l->config->n_credentials == 1)
		m->credential = l->config->credentials[0];
	read_text(l, n, where, &name);
	if (name != NULL && (m->credential = find_credential(l->config, name)) == NULL)
		bad(l, n, where, "there is no credential %s", name);
	free(name);
}

static bool is_host(const char *s)
{
	uint8_t address[16];

	if (inet_pton(AF_INET6, s, address) == 1)
		return true;
	return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")] == '\0';
}

static void read_values(struct loading *l, const struct scope *s, struct mailbox_conf *m)
{
	static const char *const watches[] = { "idle", "poll", NULL };	/* in the order of enum watch_kind */
	char where[128];
	struct node *n;
	uint32_t port = 993;
	int watch = WATCH_IDLE;

	n = find(s, "credential", where, sizeof(where));
	read_credential_name(l, n, where, m);
	n = find(s, "host", where, sizeof(where));
	read_text(l, n, where, &m->host);
	if (m->host != NULL && !is_host(m->host))
		bad(l, n, where, "%.80s is neither a host's name nor an address: it stands alone, without https:// and brackets; its port is in `port`",
		    m->host);
	n = find(s, "port", where, sizeof(where));
	read_number(l, n, where, 1, 65535, &port);
	m->port = (uint16_t)port;
	n = find(s, "ca_file", where, sizeof(where));
	read_ca_file(l, n, where, &m->ca_file);
	n = find(s, "folders", where, sizeof(where));
	read_folders(l, n, where, m);
	n = find(s, "watch", where, sizeof(where));
	read_word(l, n, where, watches, &watch);
	m->watch = (enum watch_kind)watch;
	m->interval_ms = m->watch == WATCH_IDLE ? INTERVAL_IDLE_MS : INTERVAL_POLL_MS;
	n = find(s, "interval", where, sizeof(where));
	read_duration(l, n, where, &m->interval_ms);
	if (n != NULL && !n->looked_at && m->watch == WATCH_POLL && m->interval_ms < INTERVAL_POLL_LEAST_MS) {
		n->looked_at = true;
		suspect(l, n, where, "each of these polls is a sign-in; less than 1m invites throttling");
	}
	n = find(s, "start", where, sizeof(where));
	read_start(l, n, where, m);
	n = find(s, "deliver", where, sizeof(where));
	if (n != NULL)
		m->deliver = read_deliver(l, n, where);
	n = find(s, "after", where, sizeof(where));
	read_after(l, n, where, m);
}

/* --- what must be there, and fit together --- */

static void check_expansion(struct loading *l, struct node *at, const struct scope *s, const char *template, const struct mailbox_conf *m,
    const char *folder)
{
	const char *why;
	char *expanded = config_expand(template, m, folder, &why);

	if (expanded == NULL)
		bad(l, at, s->label, "%s cannot be filled in: %s", template, why);
	free(expanded);
}

static void check_whole(struct loading *l, const struct scope *s, struct node *at, struct mailbox_conf *m)
{
	char where[128];
	struct node *after = find(s, "after", where, sizeof(where));

	if (m->credential == NULL && find(s, "credential", where, sizeof(where)) == NULL)
		missing(l, at, s->label, "credential is missing");
	if (m->host == NULL && m->credential != NULL && m->credential->imap_host != NULL)
		m->host = xstrdup(m->credential->imap_host);
	else if (m->host == NULL && m->credential != NULL && find(s, "host", where, sizeof(where)) == NULL && m->credential->token_url != NULL)
		missing(l, at, s->label, "host is missing: credential %s has no cloud that would give it", m->credential->name);
	if (m->deliver == NULL && find(s, "deliver", where, sizeof(where)) == NULL)
		missing(l, at, s->label, "deliver is missing");
	for (size_t i = 0; m->after == AFTER_MOVE && m->after_folder != NULL && i < m->n_folders; i++)
		if (strcmp(m->folders[i], m->after_folder) == 0)
			bad(l, after, s->label, "messages are moved to %s, which is also watched", m->after_folder);
	for (size_t i = 0; m->deliver != NULL && i < m->n_folders; i++) {
		if (m->deliver->maildir != NULL)
			check_expansion(l, at, s, m->deliver->maildir, m, m->folders[i]);
		for (char **word = m->deliver->command; word != NULL && *word != NULL; word++)
			if (word != m->deliver->command)	/* the program itself is taken as it is */
				check_expansion(l, at, s, *word, m, m->folders[i]);
	}
}

static bool is_address(const char *s)
{
	const char *at = strrchr(s, '@');

	return at != NULL && at > s && at[1] != '\0' && strlen(s) <= ADDRESS_MAX && strpbrk(s, " <>\"(),;") == NULL;
}

static void read_address_and_id(struct loading *l, struct node *entry, const char *label, struct mailbox_conf *m)
{
	struct node *address = entry->kind == NODE_SCALAR ? entry : node_get(entry, "address");
	struct node *id = entry->kind == NODE_MAP ? node_get(entry, "id") : NULL;

	if (address == NULL)
		missing(l, entry, label, "address is missing");
	read_text(l, address, label, &m->address);
	if (m->address != NULL && !is_address(m->address))
		bad(l, address, label, "%.80s is not a mail address", m->address);
	read_text(l, id, label, &m->id);
	if (m->id != NULL && strlen(m->id) > ADDRESS_MAX)
		bad(l, id, label, "id is longer than %d bytes", ADDRESS_MAX);
	if (m->address == NULL)
		m->address = xstrdup("");
	if (m->id == NULL) {
		m->id = xstrdup(m->address);
		for (char *c = m->id; *c != '\0'; c++)
			*c = (char)tolower((unsigned char)*c);
	}
}

/* --- the lists --- */

struct named { const char *name; struct node *at; size_t index; };

struct list {			/* all entries of all files */
	struct named *addresses, *ids;
	size_t n, room;
};

static void read_mailbox(struct loading *l, struct list *list, struct node *entry, const struct scope *s)
{
	struct config *c = l->config;
	struct mailbox_conf *m = xcalloc(1, sizeof(*m));
	struct node *id;

	if ((c->n_mailboxes & (c->n_mailboxes - 1)) == 0)
		c->mailboxes = xreallocarray(c->mailboxes, c->n_mailboxes == 0 ? 1 : c->n_mailboxes * 2, sizeof(*c->mailboxes));
	c->mailboxes[c->n_mailboxes++] = m;
	read_address_and_id(l, entry, s->label, m);
	read_values(l, s, m);
	check_whole(l, s, entry, m);
	if (list->n == list->room) {
		list->room = list->room * 2 + 16;
		list->addresses = xreallocarray(list->addresses, list->room, sizeof(*list->addresses));
		list->ids = xreallocarray(list->ids, list->room, sizeof(*list->ids));
	}
	id = entry->kind == NODE_MAP ? node_get(entry, "id") : NULL;
	list->addresses[list->n] = (struct named){ m->address, entry, list->n };
	list->ids[list->n] = (struct named){ m->id, id != NULL ? id : entry, list->n };
	list->n++;
}

static void read_mailboxes(struct loading *l, struct list *list, struct node *entries, struct node *file_defaults,
    struct node *defaults)
{
	char label[48];
	struct scope s = { .file_defaults = file_defaults, .defaults = defaults, .label = label };

	if (!is_kind(l, entries, "mailboxes", NODE_LIST))
		return;
	for (size_t i = 0; i < entries->n_items; i++) {
		struct node *entry = entries->items[i];

		snprintf(label, sizeof(label), "mailboxes[%zu]", i);
		if (entry->kind == NODE_LIST) {
			bad(l, entry, label, "must be an address or a mapping with address:");
			continue;
		}
		s.entry = entry->kind == NODE_MAP ? entry : NULL;
		if (entry->kind == NODE_MAP)
			check_keys(l, entry, label, mailbox_keys, NULL);
		read_mailbox(l, list, entry, &s);
	}
}

/* Says what is wrong in defaults where it stands, once, even when nobody inherits it. */
static struct node *read_defaults(struct loading *l, struct node *n)
{
	struct scope s = { .defaults = n, .label = "defaults" };
	struct mailbox_conf scratch = { 0 };

	if (!is_kind(l, n, "defaults", NODE_MAP))
		return NULL;
	check_keys(l, n, "defaults", default_keys, NULL);
	read_values(l, &s, &scratch);
	free(scratch.host);
	free(scratch.ca_file);
	free(scratch.after_folder);
	for (size_t i = 0; i < scratch.n_folders; i++)
		free(scratch.folders[i]);
	free(scratch.folders);
	return n;
}

static int compare_named(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int order = strcasecmp(x->name, y->name);

	return order != 0 ? order : x->index < y->index ? -1 : 1;
}

static void check_unique(struct loading *l, struct named *v, size_t n, const char *what)
{
	if (n > 0)
		qsort(v, n, sizeof(*v), compare_named);
	for (size_t i = 1; i < n; i++)
		if (v[i].name[0] != '\0' && strcasecmp(v[i - 1].name, v[i].name) == 0)
			bad(l, v[i].at, "", "%s %.80s is already used at %s:%u:%u", what, v[i].name, v[i - 1].at->file, v[i - 1].at->line,
			    v[i - 1].at->column);
}

/* --- files --- */

static struct node *read_root(struct loading *l, const char *path)
{
	struct config *c = l->config;
	struct node *root;

	c->files = xreallocarray(c->files, c->n_files + 1, sizeof(*c->files));
	c->files[c->n_files++] = xstrdup(path);		/* the nodes lend it */
	root = node_read_file(c->files[c->n_files - 1], l->errors);
	if (root != NULL) {
		l->roots = xreallocarray(l->roots, l->n_roots + 1, sizeof(*l->roots));
		l->roots[l->n_roots++] = root;
	}
	return root;
}

static void read_mailbox_file(struct loading *l, struct list *list, const char *path, struct node *defaults)
{
	static const char *const keys[] = { "defaults", "mailboxes", NULL };
	struct node *root = read_root(l, path), *file_defaults;

	if (root == NULL)
		return;
	if (root->kind == NODE_MAP) {
		check_keys(l, root, "", keys, NULL);
		file_defaults = read_defaults(l, node_get(root, "defaults"));
		read_mailboxes(l, list, node_get(root, "mailboxes"), file_defaults, defaults);
	} else {
		read_mailboxes(l, list, root, NULL, defaults);
	}
}

/* glob(3) hands its functions nothing of ours. What it comes upon and cannot look at would pass for what is not there. */
static _Thread_local struct config *looking;
static _Thread_local struct { int error; char path[PATH_MAX]; } unseen;

static int note_unseen(const char *path, int error)
{
	if (unseen.error == 0 && error != 0 && error != ENOENT && error != ENOTDIR) {
		unseen.error = error;
		snprintf(unseen.path, sizeof(unseen.path), "%s", path);
	}
	return 0;			/* a pattern of what is not there is but suspicious */
}

static void *list_open(const char *path)
{
	DIR *dir = opendir(path);

	if (dir != NULL) {
		looking->listed = xreallocarray(looking->listed, looking->n_listed + 1, sizeof(*looking->listed));
		looking->listed[looking->n_listed++] = xstrdup(path);
	}
	return dir;
}

static struct dirent *list_next(void *dir)
{
	struct dirent *entry;

	errno = 0;
	entry = readdir(dir);
	if (entry == NULL)
		note_unseen("", errno);	/* whose entry it is, nobody says here */
	return entry;
}

static void list_close(void *dir)
{
	closedir(dir);
}

static int look(const char *path, struct stat *st)
{
	int result = lstat(path, st);

	if (result < 0)
		note_unseen(path, errno);
	return result;
}

static void read_mailbox_files(struct loading *l, struct list *list, struct node *patterns, struct node *defaults)
{
	if (!is_kind(l, patterns, "mailbox_files", NODE_LIST))
		return;
	for (size_t i = 0; i < patterns->n_items; i++) {
		glob_t found = { .gl_opendir = list_open, .gl_readdir = list_next, .gl_closedir = list_close, .gl_lstat = look, .gl_stat = stat };
		char *pattern = NULL;
		int result;

		read_path(l, patterns->items[i], "mailbox_files", &pattern);
		if (pattern == NULL)
			continue;
		looking = l->config;
		unseen.error = 0;
		result = glob(pattern, GLOB_ALTDIRFUNC, note_unseen, &found);
		if (result == GLOB_NOSPACE)
			note_unseen("", ENOMEM);
		if (unseen.error != 0) {
			bad(l, patterns->items[i], "mailbox_files", "%s cannot be read: %s", unseen.path[0] != '\0' ? unseen.path : pattern,
			    strerror(unseen.error));
		} else if (result == 0) {
			for (size_t j = 0; j < found.gl_pathc; j++)
				read_mailbox_file(l, list, found.gl_pathv[j], defaults);
		} else if (strpbrk(pattern, "*?[") == NULL) {
			bad(l, patterns->items[i], "mailbox_files", "there is no file %s", pattern);
		} else {
			suspect(l, patterns->items[i], "mailbox_files", "no file matches %s", pattern);
		}
		globfree(&found);
		free(pattern);
	}
}

/* --- the top level --- */

static void read_listen(struct loading *l, struct node *n, struct config *c)
{
	char *text = NULL, *colon, *host;
	uint32_t port;
	uint8_t address[16];

	read_text(l, n, "metrics_listen", &text);
	if (text == NULL)
		return;
	colon = strrchr(text, ':');
	host = text;
	if (colon != NULL) {
		*colon = '\0';
		if (host[0] == '[' && colon > host && colon[-1] == ']') {
			colon[-1] = '\0';
			host++;
		}
	}
	if (colon == NULL || parse_u32(colon + 1, &port) < 0 || port == 0 || port > 65535 ||
	    (inet_pton(AF_INET, host, address) != 1 && inet_pton(AF_INET6, host, address) != 1)) {
		bad(l, n, "metrics_listen", "must be an address and a port, such as 127.0.0.1:9479 or \"[::1]:9479\"");
	} else {
		c->metrics_address = xstrdup(host);
		c->metrics_port = (uint16_t)port;
	}
	free(text);
}

static void read_audit(struct loading *l, struct node *n, struct config *c)
{
	if (!is_kind(l, n, "audit", NODE_SCALAR))
		return;
	if (strcmp(n->text, "off") == 0) {
		c->audit = AUDIT_OFF;
	} else if (n->text[0] == '/') {
		c->audit = AUDIT_FILE;
		c->audit_file = xstrdup(n->text);
	} else if (strcmp(n->text, "journal") != 0) {
		bad(l, n, "audit", "must be journal, off or a path from /");
	}
}

static void read_directories(struct loading *l, struct node *root, struct config *c)
{
	const char *state = getenv("STATE_DIRECTORY"), *runtime = getenv("RUNTIME_DIRECTORY");

	read_path(l, node_get(root, "state_dir"), "state_dir", &c->state_dir);
	read_path(l, node_get(root, "control_socket"), "control_socket", &c->control_socket);
	if (c->state_dir == NULL && state != NULL && state[0] != '\0')
		c->state_dir = xstrndup(state, strcspn(state, ":"));	/* systemd may name several */
	if (c->control_socket == NULL && runtime != NULL && runtime[0] != '\0')
		c->control_socket = xasprintf("%.*s/control", (int)strcspn(runtime, ":"), runtime);
	if (c->state_dir == NULL && node_get(root, "state_dir") == NULL)
		missing(l, root, "", "state_dir is missing, and systemd has not set $STATE_DIRECTORY");
	if (c->control_socket == NULL && node_get(root, "control_socket") == NULL)
		missing(l, root, "", "control_socket is missing, and systemd has not set $RUNTIME_DIRECTORY");
}

msec_t config_restart_ms(const struct config *c, const struct credential_conf *credential)
{
	uint64_t n = 0;

	for (size_t i = 0; i < c->n_mailboxes; i++)
		n += c->mailboxes[i]->credential == credential;
	return credential->admission.sessions_per_second == 0 ? 0 : (msec_t)(n * 1000 / credential->admission.sessions_per_second);
}

/* More sessions wanted than admission lets through? */
static void check_admission(struct loading *l, struct node *root)
{
	struct node *map = node_get(root, "credentials");
	const struct config *c = l->config;

	for (size_t i = 0; i < c->n_credentials; i++) {
		const struct credential_conf *credential = c->credentials[i];
		double per_second = 0;
		size_t watching = 0;

		for (size_t j = 0; j < c->n_mailboxes; j++)
			if (c->mailboxes[j]->credential == credential && c->mailboxes[j]->watch == WATCH_POLL)
				per_second += 1000.0 / (double)c->mailboxes[j]->interval_ms;
		for (size_t j = 0; j < c->n_mailboxes; j++)
			watching += c->mailboxes[j]->credential == credential && c->mailboxes[j]->watch == WATCH_IDLE;
		if (credential->admission.sessions_per_second != 0 && per_second > credential->admission.sessions_per_second)
			suspect(l, node_get(map, credential->name), "admission", "the mailboxes of %s ask for %.1f sessions per second, %u are allowed: "
			    "each is polled less often than its interval says; a restart reaches the last one after about %lld s",
			    credential->name, per_second, credential->admission.sessions_per_second,
			    (long long)config_restart_ms(c, credential) / 1000);
		if (credential->admission.sessions_per_second != 0 && watching > (size_t)credential->admission.sessions_per_second * RELOGIN_WINDOW_S)
			suspect(l, node_get(map, credential->name), "admission", "the %zu mailboxes of %s that are watched sign in anew within the %d minutes "
			    "between two tokens of an hour, which takes %zu sessions per second; %u are allowed: some will be without a session for a while",
			    watching, credential->name, RELOGIN_WINDOW_S / 60, (watching + RELOGIN_WINDOW_S - 1) / RELOGIN_WINDOW_S,
			    credential->admission.sessions_per_second);
	}
}

static void read_all(struct loading *l, struct node *root)
{
	static const char *const keys[] = { "state_dir", "control_socket", "metrics_listen", "metrics_per_mailbox", "log_level", "audit", "spool_limit", "min_free",
		"credentials", "defaults", "mailboxes", "mailbox_files", NULL };
	static const char *const off_on[] = { "off", "on", NULL };
	static const char *const levels[] = { "error", "warning", "info", "debug", NULL };	/* in the order of enum log_level */
	struct config *c = l->config;
	struct node *defaults;
	struct list list = { 0 };
	int level = LOG_LEVEL_INFO, per_mailbox = 0;

	if (!is_kind(l, root, "", NODE_MAP))
		return;
	check_keys(l, root, "", keys, NULL);
	read_word(l, node_get(root, "log_level"), "log_level", levels, &level);
	c->log_level = (enum log_level)level;
	read_audit(l, node_get(root, "audit"), c);
	read_listen(l, node_get(root, "metrics_listen"), c);
	read_word(l, node_get(root, "metrics_per_mailbox"), "metrics_per_mailbox", off_on, &per_mailbox);
	c->metrics_per_mailbox = per_mailbox == 1;
	read_size(l, node_get(root, "spool_limit"), "spool_limit", &c->spool_limit_bytes);
	read_size(l, node_get(root, "min_free"), "min_free", &c->min_free_bytes);
	read_credentials(l, root);
	defaults = read_defaults(l, node_get(root, "defaults"));
	read_mailboxes(l, &list, node_get(root, "mailboxes"), NULL, defaults);
	read_mailbox_files(l, &list, node_get(root, "mailbox_files"), defaults);
	check_unique(l, list.addresses, list.n, "address");
	check_unique(l, list.ids, list.n, "id");
	read_directories(l, root, c);
	if (l->errors->n == 0 && c->n_mailboxes == 0)
		suspect(l, root, "", "there is no mailbox");
	if (l->errors->n == 0)
		check_admission(l, root);
	free(list.addresses);
	free(list.ids);
}

void config_assume_unit(void)
{
	setenv("STATE_DIRECTORY", UNIT_STATE, 0);
	setenv("RUNTIME_DIRECTORY", UNIT_RUNTIME, 0);
	if (access(UNIT_CREDENTIALS, X_OK) == 0)
		setenv("CREDENTIALS_DIRECTORY", UNIT_CREDENTIALS, 0);
}

struct config *config_load(const char *path, struct config_messages *ret_errors, struct config_messages *ret_warnings)
{
	struct config *c = xcalloc(1, sizeof(*c));
	struct loading l = { .config = c, .errors = ret_errors, .warnings = ret_warnings };
	struct node *root;

	c->path = xstrdup(path);
	c->log_level = LOG_LEVEL_INFO;
	c->spool_limit_bytes = 1ULL << 30;
	c->min_free_bytes = 256ULL << 20;
	root = read_root(&l, path);
	if (root != NULL)
		read_all(&l, root);
	for (size_t i = 0; i < l.n_roots; i++)
		node_free(&l.roots[i]);
	free(l.roots);
	forget_groups(&l);
	if (ret_errors->n > 0)
		config_free(&c);
	return c;
}
