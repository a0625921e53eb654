/* Lines for an administrator to paste, with this tenant's and this machine's values (exchange-online 7). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "doctor_private.h"

/* What the two command lines call a cloud that is not the worldwide one. */
static const struct { const char *imap_host, *exchange, *azure; } clouds[] = {
	{ "outlook.office365.us", "O365USGovGCCHigh", "AzureUSGovernment" },
	{ "outlook-dod.office365.us", "O365USGovDoD", "AzureUSGovernment" },
	{ "partner.outlook.cn", "O365China", "AzureChinaCloud" },
};

static int cloud_of(const struct credential_conf *c)	/* -1: worldwide */
{
	for (size_t i = 0; i < ARRAY_LEN(clouds); i++)
		if (str_equal(c->imap_host, clouds[i].imap_host))
			return (int)i;
	return -1;
}

char *commands_consent(const struct credential_conf *c)
{
	/* Whoever is signed in is so in one cloud. A tenant may have nothing but Exchange; a prompt would take the next line for its answer. */
	static const char sign_in[] = "\naz login --allow-no-subscriptions < /dev/null\n";
	int cloud = cloud_of(c);

	return xasprintf("%s%s%saz ad app permission add --id %s --api 00000002-0000-0ff1-ce00-000000000000 "
	    "--api-permissions 5e5addcd-3e8d-4e90-baf5-964efab2b20a=Role\n"
	    "az ad app permission admin-consent --id %s", cloud >= 0 ? "az cloud set --name " : "", cloud >= 0 ? clouds[cloud].azure : "",
	    cloud >= 0 ? sign_in : "", c->client_id, c->client_id);
}

/* --- PowerShell --- */

/* What stands between two double quotes there. */
static char *escape(const char *s)
{
	char *escaped = xmalloc(2 * strlen(s) + 1), *out = escaped;

	for (; *s != '\0'; s++) {
		if (strchr("`\"$", *s) != NULL)
			*out++ = '`';
		*out++ = *s;
	}
	*out = '\0';
	return escaped;
}

static char *connect_line(const struct credential_conf *c, const char *tenant)
{
	int cloud = cloud_of(c);

	return xasprintf("Connect-ExchangeOnline -Organization %s%s%s", tenant, cloud >= 0 ? " -ExchangeEnvironmentName " : "",
	    cloud >= 0 ? clouds[cloud].exchange : "");
}

char *commands_register(const struct credential_conf *c, const char *tenant, const char *object_id)
{
	char *first = connect_line(c, tenant), *all;

	all = xasprintf("%s\nNew-ServicePrincipal -AppId %s -ObjectId %s -DisplayName mailpolld", first, c->client_id,
	    object_id != NULL ? object_id : "<Object ID of the Enterprise application>");
	free(first);
	return all;
}

char *commands_permit(const struct credential_conf *c, const char *tenant, const char *address)
{
	char *first = connect_line(c, tenant), *mailbox = escape(address), *all;

	all = xasprintf("%s\nAdd-MailboxPermission -Identity \"%s\" -User (Get-ServicePrincipal -Identity %s).Identity -AccessRights FullAccess\n"
	    "Set-CASMailbox -Identity \"%s\" -ImapEnabled $true", first, mailbox, c->client_id, mailbox);
	free(first);
	free(mailbox);
	return all;
}

char *commands_find_mailbox(const struct credential_conf *c, const char *tenant, const char *address)
{
	char *first = connect_line(c, tenant), *mailbox = escape(address), *all;

	all = xasprintf("%s\nGet-Mailbox -Identity \"%s\"", first, mailbox);
	free(first);
	free(mailbox);
	return all;
}

/* --- a shell --- */

/* A path as one word. */
static char *quote(const char *s)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
	char *quoted = xmalloc(4 * strlen(s) + 3), *out = quoted;

	if (s[strspn(s, plain)] == '\0')
		return strcpy(quoted, s);
	*out++ = '\'';
	for (; *s != '\0'; s++) {
		if (*s == '\'')
			out = stpcpy(out, "'\\'");
		*out++ = *s;
	}
	strcpy(out, "'");
	return quoted;
}

char *commands_make_directory(const char *user, const char *group, const char *path)
{
	char *word = quote(path), *all = xasprintf("install -d -o %s -g %s -m 0711 %s", user, group, word);

	free(word);
	return all;
}

char *commands_give(const char *user, const char *group, const char *path)
{
	char *word = quote(path), *all = xasprintf("chown -R %s:%s %s", user, group, word);

	free(word);
	return all;
}

/* A setting with one path, as a line of a unit and as one word of the shell. */
static char *unit_setting(const char *name, const char *path)
{
	bool has_quotes = path[strcspn(path, " \t\"'\\")] != '\0';
	char *line = xmalloc(strlen(name) + 2 * strlen(path) + 3), *out = stpcpy(line, name), *word;

	if (has_quotes)
		*out++ = '"';
	for (; *path != '\0'; path++) {
		if (*path == '%')
			*out++ = '%';
		else if (*path == '"' || *path == '\\')
			*out++ = '\\';
		*out++ = *path;
	}
	strcpy(out, has_quotes ? "\"" : "");
	word = quote(line);
	free(line);
	return word;
}

/* Both as the unit has them for /srv/mail: mail goes to no directory that a disk is only about to be mounted on. */
char *commands_unit_writable(const char *user, const char *group, const char *path)
{
	char *make = commands_make_directory(user, group, path), *mounts = unit_setting("RequiresMountsFor=", path);
	char *writable = unit_setting("ReadWritePaths=", path), *all;
	bool is_there = access(path, F_OK) == 0;

	all = xasprintf("%s%smkdir -p /etc/systemd/system/mailpolld.service.d\n"
	    "printf '%%s\\n' '[Unit]' %s '[Service]' %s >> /etc/systemd/system/mailpolld.service.d/mail.conf\n"
	    "systemctl daemon-reload\n"
	    "systemctl try-restart mailpolld", is_there ? "" : make, is_there ? "" : "\n", mounts, writable);
	free(make);
	free(mounts);
	free(writable);
	return all;
}

static bool is_root(const char *group)
{
	return strcmp(group, "root") == 0;
}

char *commands_put_secret(const char *group, const char *path)
{
	char *word = quote(path), *all;

	all = is_root(group) ? xasprintf("install -m 0600 /dev/stdin %s", word) : xasprintf("install -m 0640 -g %s /dev/stdin %s", group, word);
	free(word);
	return all;
}

char *commands_close_secret(const char *path)
{
	char *word = quote(path), *all = xasprintf("chmod o= %s", word);

	free(word);
	return all;
}

char *commands_open_secret(const char *group, const char *path)
{
	char *word = quote(path), *all = xasprintf("chgrp %s %s\nchmod 0640 %s", group, word, word);

	free(word);
	return all;
}
