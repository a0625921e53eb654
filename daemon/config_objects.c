/* What can be done with the objects of a configuration once they exist: copy, compare, free, expand, read a secret. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "config.h"

#define SECRET_MAX (64 * 1024)

/* --- lists of strings --- */

static char **strings_dup(char *const *v, size_t n)
{
	char **copy = xcalloc(n + 1, sizeof(*copy));

	for (size_t i = 0; i < n; i++)
		copy[i] = xstrdup(v[i]);
	return copy;
}

static size_t strings_count(char *const *v)
{
	size_t n = 0;

	while (v != NULL && v[n] != NULL)
		n++;
	return n;
}

static void strings_free(char **v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(v[i]);
	free(v);
}

static bool strings_equal(char *const *a, size_t n_a, char *const *b, size_t n_b)
{
	if (n_a != n_b)
		return false;
	for (size_t i = 0; i < n_a; i++)
		if (strcmp(a[i], b[i]) != 0)
			return false;
	return true;
}

/* --- sinks --- */

struct sink_conf *sink_conf_dup(const struct sink_conf *s)
{
	struct sink_conf *copy = xmalloc(sizeof(*copy));

	*copy = *s;
	copy->name = xstrdup(s->name);
	copy->maildir = xstrdup(s->maildir);
	copy->group = xstrdup(s->group);
	copy->command = s->command != NULL ? strings_dup(s->command, strings_count(s->command)) : NULL;
	return copy;
}

void sink_conf_free(struct sink_conf **sink)
{
	struct sink_conf *s = *sink;

	if (s == NULL)
		return;
	free(s->name);
	free(s->maildir);
	free(s->group);
	strings_free(s->command, strings_count(s->command));
	free(s);
	*sink = NULL;
}

bool sink_conf_equal(const struct sink_conf *a, const struct sink_conf *b)
{
	return a->kind == b->kind && str_equal(a->name, b->name) && str_equal(a->maildir, b->maildir) && a->mode == b->mode &&
	    str_equal(a->group, b->group) && a->gid == b->gid && a->timeout_ms == b->timeout_ms && a->at_once == b->at_once &&
	    strings_equal(a->command, strings_count(a->command), b->command, strings_count(b->command));
}

/* --- credentials --- */

struct credential_conf *credential_conf_dup(const struct credential_conf *c)
{
	struct credential_conf *copy = xmalloc(sizeof(*copy));

	*copy = *c;
	copy->name = xstrdup(c->name);
	copy->token_url = xstrdup(c->token_url);
	copy->scope = xstrdup(c->scope);
	copy->client_id = xstrdup(c->client_id);
	copy->secret_file = xstrdup(c->secret_file);
	copy->secret_credential = xstrdup(c->secret_credential);
	copy->ca_file = xstrdup(c->ca_file);
	copy->tenant = xstrdup(c->tenant);
	copy->imap_host = xstrdup(c->imap_host);
	return copy;
}

void credential_conf_free(struct credential_conf **credential)
{
	struct credential_conf *c = *credential;

	if (c == NULL)
		return;
	free(c->name);
	free(c->token_url);
	free(c->scope);
	free(c->client_id);
	free(c->secret_file);
	free(c->secret_credential);
	free(c->ca_file);
	free(c->tenant);
	free(c->imap_host);
	free(c);
	*credential = NULL;
}

/* admission does not count: it is not the session's */
bool credential_conf_equal(const struct credential_conf *a, const struct credential_conf *b)
{
	return a->kind == b->kind && str_equal(a->name, b->name) && str_equal(a->token_url, b->token_url) && str_equal(a->scope, b->scope) &&
	    str_equal(a->client_id, b->client_id) && str_equal(a->secret_file, b->secret_file) && str_equal(a->ca_file, b->ca_file) &&
	    str_equal(a->tenant, b->tenant) && str_equal(a->imap_host, b->imap_host);
}

bool credential_conf_is_entra(const struct credential_conf *c)
{
	static const char end[] = "/.default";		/* of each of its scopes for client credentials (exchange-online 2.1), of no other's */
	size_t len = c->scope != NULL ? strlen(c->scope) : 0;

	return c->tenant != NULL || (len >= sizeof(end) - 1 && strcmp(c->scope + len - (sizeof(end) - 1), end) == 0);
}

/* --- mailboxes --- */

bool mailbox_conf_is_like(const struct mailbox_conf *m, const char *pattern)
{
	return glob_match(pattern, m->address) || glob_match(pattern, m->id);
}

struct mailbox_conf *mailbox_conf_dup(const struct mailbox_conf *m)
{
	struct mailbox_conf *copy = xmalloc(sizeof(*copy));

	*copy = *m;
	copy->address = xstrdup(m->address);
	copy->id = xstrdup(m->id);
	copy->credential = credential_conf_dup(m->credential);
	copy->host = xstrdup(m->host);
	copy->ca_file = xstrdup(m->ca_file);
	copy->folders = strings_dup(m->folders, m->n_folders);
	copy->deliver = sink_conf_dup(m->deliver);
	copy->after_folder = xstrdup(m->after_folder);
	return copy;
}

static void mailbox_conf_free_own(struct mailbox_conf *m)
{
	free(m->address);
	free(m->id);
	free(m->host);
	free(m->ca_file);
	strings_free(m->folders, m->n_folders);
	free(m->after_folder);
	free(m);
}

void mailbox_conf_free(struct mailbox_conf **mailbox)
{
	struct mailbox_conf *m = *mailbox;
	union { const struct credential_conf *lent; struct credential_conf *own; } credential;
	union { const struct sink_conf *lent; struct sink_conf *own; } sink;

	if (m == NULL)
		return;
	credential.lent = m->credential;	/* a copy's are its own */
	sink.lent = m->deliver;
	credential_conf_free(&credential.own);
	sink_conf_free(&sink.own);
	mailbox_conf_free_own(m);
	*mailbox = NULL;
}

bool mailbox_conf_equal(const struct mailbox_conf *a, const struct mailbox_conf *b)
{
	return str_equal(a->address, b->address) && str_equal(a->id, b->id) && str_equal(a->host, b->host) && a->port == b->port &&
	    str_equal(a->ca_file, b->ca_file) && strings_equal(a->folders, a->n_folders, b->folders, b->n_folders) &&
	    a->watch == b->watch && a->interval_ms == b->interval_ms && a->start == b->start && a->start_year == b->start_year &&
	    a->start_month == b->start_month && a->start_day == b->start_day && a->after == b->after &&
	    str_equal(a->after_folder, b->after_folder) && credential_conf_equal(a->credential, b->credential) &&
	    sink_conf_equal(a->deliver, b->deliver);
}

void config_free(struct config **config)
{
	struct config *c = *config;

	if (c == NULL)
		return;
	for (size_t i = 0; i < c->n_mailboxes; i++)
		mailbox_conf_free_own(c->mailboxes[i]);
	for (size_t i = 0; i < c->n_credentials; i++)
		credential_conf_free(&c->credentials[i]);
	for (size_t i = 0; i < c->n_sinks; i++)
		sink_conf_free(&c->sinks[i]);
	strings_free(c->files, c->n_files);
	strings_free(c->listed, c->n_listed);
	free(c->mailboxes);
	free(c->credentials);
	free(c->sinks);
	free(c->path);
	free(c->state_dir);
	free(c->control_socket);
	free(c->metrics_address);
	free(c->audit_file);
	free(c);
	*config = NULL;
}

/* --- templates --- */

static const char *refused_value(const char *value)
{
	if (value[0] == '\0')
		return "it is empty";
	if (strcmp(value, ".") == 0 || strcmp(value, "..") == 0)
		return "it is . or ..";
	for (const char *c = value; *c != '\0'; c++) {
		if (iscntrl((unsigned char)*c))
			return "it has a control character";
		if (*c == '/')
			return "it has a /";
	}
	return NULL;
}

static char *value_of(const char *word, size_t len, const struct mailbox_conf *m, const char *folder)
{
	const char *at = strrchr(m->address, '@');
	char *value = NULL;

	if (len == 7 && strncmp(word, "address", len) == 0)
		value = xstrdup(m->address);
	else if (len == 5 && strncmp(word, "local", len) == 0)
		value = xstrndup(m->address, at != NULL ? (size_t)(at - m->address) : strlen(m->address));
	else if (len == 6 && strncmp(word, "domain", len) == 0)
		value = xstrdup(at != NULL ? at + 1 : "");
	else if (len == 2 && strncmp(word, "id", len) == 0)
		value = xstrdup(m->id);
	else if (len == 6 && strncmp(word, "folder", len) == 0)
		value = xstrdup(folder);
	for (char *c = value; len == 6 && word[0] == 'f' && c != NULL && *c != '\0'; c++)
		if (*c == '/')		/* a sub-folder is one directory, as in Maildir++ */
			*c = '.';
	return value;
}

char *config_expand(const char *template, const struct mailbox_conf *mailbox, const char *folder, const char **ret_why)
{
	char *made = xstrdup(""), *longer, *value;
	const char *c = template, *end;

	while (*c != '\0') {
		const char *start = strstr(c, "%{");

		if (start == NULL || (end = strchr(start, '}')) == NULL)
			break;
		value = value_of(start + 2, (size_t)(end - start - 2), mailbox, folder);
		*ret_why = value == NULL ? "no such %{word}" : refused_value(value);
		if (*ret_why != NULL) {
			free(value);
			free(made);
			return NULL;
		}
		longer = xasprintf("%s%.*s%s", made, (int)(start - c), c, value);
		free(made);
		free(value);
		made = longer;
		c = end + 1;
	}
	longer = xasprintf("%s%s", made, c);
	free(made);
	*ret_why = NULL;
	return longer;
}

/* --- secrets --- */

static const char *read_all(int fd, char *room, size_t *ret_len)
{
	ssize_t n;

	*ret_len = 0;
	while (*ret_len <= SECRET_MAX && (n = read(fd, room + *ret_len, SECRET_MAX + 1 - *ret_len)) != 0) {
		if (n < 0 && errno != EINTR)
			return strerror(errno);
		if (n > 0)
			*ret_len += (size_t)n;
	}
	if (*ret_len > SECRET_MAX)
		return "it is larger than 64 KiB";
	if (*ret_len > 0 && room[*ret_len - 1] == '\n')
		(*ret_len)--;
	if (*ret_len > 0 && room[*ret_len - 1] == '\r')
		(*ret_len)--;
	room[*ret_len] = '\0';
	if (*ret_len == 0)
		return "it is empty";
	if (strlen(room) != *ret_len)
		return "it has a NUL";
	return NULL;
}

char *config_read_secret(const char *path, char *ret_why, size_t why_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *room = xcalloc(1, SECRET_MAX + 2), *secret = NULL;
	const char *why = NULL;
	size_t len = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "it is not a file";
	else if ((st.st_mode & 0007) != 0)
		why = "it can be read by others: chmod o= it";
	else
		why = read_all(fd, room, &len);
	if (fd >= 0)
		close(fd);
	if (why == NULL)
		secret = xstrndup(room, len);
	else
		snprintf(ret_why, why_size, "secret file %s: %s", path, why);
	explicit_bzero(room, SECRET_MAX + 2);
	free(room);
	return secret;
}
