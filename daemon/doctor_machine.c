/* What lies on this machine, seen as the daemon's user sees it: state_dir, Maildirs, commands, secret files. A child takes that user's
 * rights and looks; the answers come back in memory that both share. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "doctor_private.h"

#define DAEMON_USER "mailpolld"		/* the unit's */

enum place_kind { PLACE_DIRECTORY, PLACE_MAILDIR, PLACE_COMMAND, PLACE_SHARED, PLACE_SECRET };
struct place {				/* shared with the child, which fills in what stands below */
	enum place_kind kind;
	gid_t gid;			/* PLACE_SHARED: a Maildir's, with this group */
	char path[PATH_MAX];
	int error;			/* errno; 0: as it should be */
	bool missing;			/* not there yet; error is about where it would be made */
	char where[PATH_MAX];		/* what error is about */
	uint64_t free_bytes;
};
struct machine {
	const struct config *config;
	const struct mailbox_conf *const *mailboxes;
	size_t n;
	char user[64];
	uid_t uid;
	gid_t gid;
	struct place *places;		/* [0]: state_dir; [1 + i]: mailbox i's sink; [1 + n + i]: its group; then the credentials' secrets */
	size_t n_places;
};

/* --- in the child --- */

static void look_at_directory(struct place *p, const char *path)
{
	struct statvfs fs;

	snprintf(p->where, sizeof(p->where), "%s", path);
	if (faccessat(AT_FDCWD, path, R_OK | W_OK | X_OK, AT_EACCESS) < 0)
		p->error = errno;
	else if (statvfs(path, &fs) == 0)
		p->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* Where it would be made: the nearest directory above that is there. */
static void look_above(struct place *p, char *path)
{
	char *slash;

	p->missing = true;
	while ((slash = strrchr(path, '/')) != NULL && slash != path) {
		*slash = '\0';
		if (access(path, F_OK) == 0)
			break;
	}
	look_at_directory(p, slash == path || slash == NULL ? "/" : path);
}

static void look_at_maildir(struct place *p)
{
	static const char *const inside[] = { "tmp", "new", "cur" };
	char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s", p->path);
	if (access(path, F_OK) < 0 && errno == ENOENT) {
		look_above(p, path);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(inside) && p->error == 0; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->path, inside[i]);
		if (access(path, F_OK) < 0 && errno == ENOENT)
			look_at_directory(p, p->path);		/* made when first needed */
		else
			look_at_directory(p, path);
	}
}

/* The daemon gives a group its right to mail by access control lists, unless it is root or runs with that group. */
static void look_at_shared(struct place *p)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s", p->path);
	if (access(path, F_OK) < 0 && errno == ENOENT)
		look_above(p, path);
	p->error = 0;			/* of the Maildir itself, which is told elsewhere */
	if (geteuid() != 0 && getegid() != p->gid && getxattr(p->where, "system.posix_acl_access", NULL, 0) < 0 && errno == EOPNOTSUPP)
		p->error = EOPNOTSUPP;
}

static void look_at(struct place *p)
{
	char path[PATH_MAX];

	snprintf(p->where, sizeof(p->where), "%s", p->path);
	switch (p->kind) {
	case PLACE_DIRECTORY:
		snprintf(path, sizeof(path), "%s", p->path);
		if (access(path, F_OK) < 0 && errno == ENOENT)
			look_above(p, path);
		else
			look_at_directory(p, path);
		break;
	case PLACE_MAILDIR:
		look_at_maildir(p);
		break;
	case PLACE_COMMAND:
		p->error = faccessat(AT_FDCWD, p->path, X_OK, AT_EACCESS) < 0 ? errno : 0;
		break;
	case PLACE_SECRET:
		p->error = faccessat(AT_FDCWD, p->path, R_OK, AT_EACCESS) < 0 ? errno : 0;
		break;
	case PLACE_SHARED:
		look_at_shared(p);
		break;
	}
}

static void look_as_user(struct machine *m)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		if (geteuid() == 0 && m->uid != 0 && (initgroups(m->user, m->gid) < 0 || setgid(m->gid) < 0 || setuid(m->uid) < 0))
			_exit(EXIT_FAILURE);
		for (size_t i = 0; i < m->n_places; i++)
			if (m->places[i].path[0] != '\0')
				look_at(&m->places[i]);
		_exit(EXIT_SUCCESS);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		for (size_t i = 0; i < m->n_places; i++)
			m->places[i].error = ECHILD;
}

/* --- who the daemon is --- */

/* Root looks with the eyes of the owner of state_dir, else of the unit's user; anybody else with their own. */
static void find_user(struct machine *m)
{
	struct stat st;
	const struct passwd *user = NULL;

	if (geteuid() != 0)
		user = getpwuid(geteuid());
	else if (stat(m->config->state_dir, &st) == 0)
		user = getpwuid(st.st_uid);
	else
		user = getpwnam(DAEMON_USER);
	m->uid = user != NULL ? user->pw_uid : geteuid();
	m->gid = user != NULL ? user->pw_gid : getegid();
	snprintf(m->user, sizeof(m->user), "%s", user != NULL ? user->pw_name : geteuid() == 0 ? "root" : "(unknown)");
}

/* --- what is to be looked at --- */

static void set_place(struct place *p, enum place_kind kind, const char *path)
{
	p->kind = kind;
	snprintf(p->path, sizeof(p->path), "%s", path);
}

static void set_sink(struct machine *m, size_t i)
{
	const struct mailbox_conf *conf = m->mailboxes[i];
	struct place *p = &m->places[1 + i], *group = &m->places[1 + m->n + i];
	const char *why;
	char *path;

	if (conf->deliver->kind == SINK_COMMAND) {
		set_place(p, PLACE_COMMAND, conf->deliver->command[0]);
		return;
	}
	path = config_expand(conf->deliver->maildir, conf, conf->folders[0], &why);
	set_place(p, PLACE_MAILDIR, path != NULL ? path : "");
	if (conf->deliver->group != NULL && path != NULL) {
		set_place(group, PLACE_SHARED, path);
		group->gid = conf->deliver->gid;
	}
	free(path);
}

static char *size_text(uint64_t bytes, char text[static 32])
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
	double n = (double)bytes;
	size_t i = 0;

	for (; n >= 1024 && i + 1 < ARRAY_LEN(units); i++)
		n /= 1024;
	snprintf(text, 32, i == 0 ? "%.0f %s" : "%.1f %s", n, units[i]);
	return text;
}

/* --- the verdicts --- */

static void report_directory(const struct machine *m, const struct place *p, const struct report_at *at, const char *step)
{
	char *hint = NULL, has[32], wants[32];
	const char *kind = p->kind == PLACE_MAILDIR ? "Maildir" : "directory";

	if (p->error != 0) {
		hint = xasprintf("Make %s writable for user %s%s.", p->where, m->user,
		    p->error == EROFS ? ": its file system is read-only" : "");
		report_failed(at, step, hint, NULL, "%s: %s%s", p->where, strerror(p->error), p->missing ? ", so it cannot be made" : "");
	} else if (p->free_bytes < m->config->min_free_bytes) {
		report_failed(at, step, "Free space on that file system, or lower min_free: nothing is fetched below it.", NULL,
		    "%s: %s free, min_free is %s", p->where, size_text(p->free_bytes, has), size_text(m->config->min_free_bytes, wants));
	} else {
		report_ok(at, step, NULL, "%s %s: %s, %s free", kind, p->path, p->missing ? "will be made at the first start" : "writable",
		    size_text(p->free_bytes, has));
	}
	free(hint);
}

void machine_report_sink(const struct machine *m, size_t mailbox, struct report *r)
{
	const struct place *p = &m->places[1 + mailbox], *group = &m->places[1 + m->n + mailbox];
	const char *name = m->mailboxes[mailbox]->deliver->group;
	struct report_at at = { r, SCOPE_MAILBOX, m->mailboxes[mailbox]->address };
	char *hint = NULL;

	if (p->kind == PLACE_MAILDIR) {
		report_directory(m, p, &at, "sink");
	} else if (p->error != 0) {
		hint = xasprintf("Install the command, and make it executable for user %s (chmod +x %s).", m->user, p->path);
		report_failed(&at, "sink", hint, NULL, "command %s: %s", p->path, strerror(p->error));
		free(hint);
	} else {
		report_ok(&at, "sink", NULL, "command %s: executable", p->path);
	}
	if (group->path[0] != '\0' && group->error != 0) {
		hint = xasprintf("Use a file system that has them, or let the daemon run with group %s (systemctl edit mailpolld: Group=%s).", name, name);
		report_failed(&at, "group", hint, NULL, "%s: its file system has no access control lists, by which group %s would read the mail",
		    group->where, name);
		free(hint);
	}
}

static size_t credential_index(const struct config *config, const struct credential_conf *credential)
{
	size_t i = 0;

	while (config->credentials[i] != credential)
		i++;
	return i;
}

bool machine_check_secret(const struct machine *m, const struct credential_conf *credential, struct report *r)
{
	const struct place *p = &m->places[1 + 2 * m->n + credential_index(m->config, credential)];
	struct report_at at = { r, SCOPE_CREDENTIAL, credential->name };
	char why[200], *hint = NULL, *secret;
	bool good = false;

	if (credential->secret_file[0] == '$') {
		report_failed(&at, "secret", "Run the doctor as root while mailpolld.service runs, "
		    "with LoadCredential= in the unit: systemd keeps the secret and gives it to the service alone.", NULL,
		    "a systemd credential, which is not to be had here");
		return false;
	}
	secret = config_read_secret(credential->secret_file, why, sizeof(why));
	if (secret == NULL) {
		hint = xasprintf("Put the client secret's Value into %s, readable for user %s and for no others (chmod 0640).",
		    credential->secret_file, m->user);
		report_failed(&at, "secret", hint, NULL, "%s", why);
	} else if (p->error != 0) {
		hint = xasprintf("Make it readable for user %s: chgrp %s %s; chmod 0640 %s.", m->user, m->user, credential->secret_file,
		    credential->secret_file);
		report_failed(&at, "secret", hint, NULL, "%s: user %s cannot read it (%s)", credential->secret_file, m->user, strerror(p->error));
	} else if (is_guid(secret)) {
		hint = xasprintf("Create a new secret for app %s (Entra admin center, App registrations, Certificates & secrets) and copy its "
		    "Value column, not its Secret ID.", credential->client_id);
		report_failed(&at, "secret", hint, NULL, "%s: this is a GUID, so most likely the secret's ID and not its value",
		    credential->secret_file);
		good = true;		/* the endpoint has the last word */
	} else {
		report_ok(&at, "secret", NULL, "%s, %zu characters", credential->secret_file, strlen(secret));
		good = true;
	}
	secret_free(&secret);
	free(hint);
	return good;
}

struct machine *machine_check(const struct config *config, const struct mailbox_conf *const *mailboxes, size_t n, struct report *r)
{
	struct machine *m = xcalloc(1, sizeof(*m));
	char subject[96];

	*m = (struct machine){ .config = config, .mailboxes = mailboxes, .n = n, .n_places = 1 + 2 * n + config->n_credentials };
	find_user(m);
	m->places = mmap(NULL, m->n_places * sizeof(*m->places), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->places == MAP_FAILED)
		abort();
	set_place(&m->places[0], PLACE_DIRECTORY, config->state_dir);
	for (size_t i = 0; i < n; i++)
		set_sink(m, i);
	for (size_t i = 0; i < config->n_credentials; i++)
		set_place(&m->places[1 + 2 * n + i], PLACE_SECRET, config->credentials[i]->secret_file);
	look_as_user(m);
	snprintf(subject, sizeof(subject), "(as user %s)", m->user);
	report_directory(m, &m->places[0], &(struct report_at){ r, SCOPE_MACHINE, subject }, "state_dir");
	return m;
}

void machine_free(struct machine **machine)
{
	struct machine *m = *machine;

	if (m == NULL)
		return;
	munmap(m->places, m->n_places * sizeof(*m->places));
	free(m);
	*machine = NULL;
}
