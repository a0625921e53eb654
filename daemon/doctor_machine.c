/* What lies on this machine, seen as the daemon's user sees it (doctor_places.c) and as the unit shows it (doctor_unit.c): state_dir,
 * the control socket, what is read at the start, Maildirs, commands, secret files; and the verdicts. */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "doctor_private.h"

#define DAEMON_USER "mailpolld"		/* of the unit, as it is delivered */

static const char unit_closes[] = "for the daemon it is read-only, since mailpolld.service does not name it";

struct machine {
	const struct config *config;
	const struct unit *unit;	/* NULL: none */
	const struct mailbox_conf *const *mailboxes;
	size_t n;
	char user[64], group[64];	/* the daemon's, and that user's own: secrets are for this one, whatever the unit's Group= */
	gid_t own_gid;			/* of group */
	struct rights rights;
	const char *no_group;		/* that the unit names and there is not; lent by it; NULL: none */
	bool is_blind;			/* its rights cannot be had here */
	struct place *places;		/* [0]: state_dir; [1]: the control socket's directory; [2], if there is one: the audit's; the configuration's
					 * files; authorities; the mailboxes' sinks and groups; the credentials' secrets */
	size_t n_places, room;		/* room: for so many */
	size_t files, authorities;	/* the first of them */
	size_t *sinks;			/* [i]: the first of mailbox i's; [n]: the first secret */
};

/* --- who the daemon is --- */

/* The unit says; else it is the owner of state_dir, else the unit's usual user when root asks, else who asks. */
static const struct passwd *find_user(const struct machine *m)
{
	const struct passwd *user = NULL;
	struct stat st;

	if (m->unit != NULL)
		return getpwnam(unit_user(m->unit));
	if (stat(m->config->state_dir, &st) == 0)
		user = getpwuid(st.st_uid);
	else if (geteuid() == 0)
		user = getpwnam(DAEMON_USER);
	return user != NULL ? user : getpwuid(geteuid());
}

static gid_t find_group(struct machine *m, const char *name)
{
	const struct group *group = getgrnam(name);
	uint32_t gid = (gid_t)-1;

	if (group != NULL)
		return group->gr_gid;
	if (parse_u32(name, &gid) < 0)
		m->no_group = name;
	return gid;
}

/* As systemd gives them: those that the user is a member of, Group= in the place of its own, and SupplementaryGroups=. */
static void take_groups(struct machine *m)
{
	struct rights *r = &m->rights;
	const char *name = m->unit != NULL ? unit_group(m->unit) : NULL;
	int n = 0, room;

	r->gid = name != NULL ? find_group(m, name) : m->own_gid;
	getgrouplist(m->user, r->gid, NULL, &n);
	room = n;
	r->groups = xcalloc((size_t)room, sizeof(*r->groups));
	getgrouplist(m->user, r->gid, r->groups, &n);
	r->n_groups = (size_t)(n < room ? n : room);
	for (size_t i = 0; m->unit != NULL && (name = unit_supplementary_group(m->unit, i)) != NULL; i++) {
		r->groups = xreallocarray(r->groups, r->n_groups + 1, sizeof(*r->groups));
		r->groups[r->n_groups++] = find_group(m, name);
	}
}

static bool has_group(const struct machine *m, gid_t gid)
{
	for (size_t i = 0; i < m->rights.n_groups; i++)
		if (m->rights.groups[i] == gid)
			return true;
	return false;
}

/* Root can take what the unit gives the daemon; others must have it themselves. */
static bool can_be_had(const struct machine *m)
{
	if (geteuid() == 0)
		return true;
	for (size_t i = 0; m->unit != NULL && i < m->rights.n_groups; i++)
		if (!group_member(m->rights.groups[i]))
			return false;
	return geteuid() == m->rights.uid && (m->unit == NULL || getegid() == m->rights.gid);
}

static void take_user(struct machine *m)
{
	const struct passwd *user = find_user(m);
	const struct group *group = getgrgid(user != NULL ? user->pw_gid : getegid());

	m->rights.uid = user != NULL ? user->pw_uid : geteuid();
	m->own_gid = user != NULL ? user->pw_gid : getegid();
	snprintf(m->user, sizeof(m->user), "%s", user != NULL ? user->pw_name : m->unit != NULL ? unit_user(m->unit) : "(unknown)");
	snprintf(m->group, sizeof(m->group), "%s", group != NULL ? group->gr_name : m->user);
	take_groups(m);
	m->is_blind = (user == NULL && m->unit != NULL) || m->no_group != NULL || !can_be_had(m);
}

/* --- what is to be looked at --- */

static struct place *add_place(struct machine *m, enum place_kind kind, const char *path)
{
	struct place *p = &m->places[m->n_places++];

	p->kind = kind;
	memcpy(p->path, path, strnlen(path, sizeof(p->path) - 1));	/* ends with the 0 that was there */
	return p;
}

/* One for each Maildir (a template with %{folder} makes several), and one for their group. */
static void add_maildirs(struct machine *m, const struct mailbox_conf *conf)
{
	size_t first = m->n_places;
	const char *why;

	for (size_t i = 0; i < conf->n_folders; i++) {
		char *path = config_expand(conf->deliver->maildir, conf, conf->folders[i], &why);	/* the configuration has tried it */

		if (m->n_places == first || strcmp(path, m->places[m->n_places - 1].path) != 0)
			add_place(m, PLACE_MAILDIR, path);
		free(path);
	}
	if (conf->deliver->group != NULL)
		add_place(m, PLACE_SHARED, m->places[first].path)->gid = conf->deliver->gid;
}

static void add_directory_of(struct machine *m, const char *path)
{
	char *directory = directory_of(path);

	add_place(m, PLACE_DIRECTORY, directory);
	free(directory);
}

static void add_authority(struct machine *m, const char *path)
{
	for (size_t i = m->authorities; i < m->n_places && path != NULL; i++)
		if (strcmp(m->places[i].path, path) == 0)
			return;
	if (path != NULL)
		add_place(m, PLACE_FILE, path);
}

/* What the daemon reads before anything else. */
static void add_files(struct machine *m)
{
	const struct config *c = m->config;

	m->files = m->n_places;
	for (size_t i = 0; i < c->n_files; i++)
		add_place(m, PLACE_FILE, c->files[i]);
	for (size_t i = 0; i < c->n_listed; i++)
		add_place(m, PLACE_LIST, c->listed[i]);
	m->authorities = m->n_places;
	for (size_t i = 0; i < c->n_credentials; i++)
		add_authority(m, c->credentials[i]->ca_file);
	for (size_t i = 0; i < m->n; i++)
		add_authority(m, m->mailboxes[i]->ca_file);
}

static void add_places(struct machine *m)
{
	size_t room = 3 + m->config->n_files + m->config->n_listed + 2 * m->config->n_credentials;

	for (size_t i = 0; i < m->n; i++)
		room += m->mailboxes[i]->n_folders + 2;
	m->room = room;
	m->places = places_new(room);
	m->sinks = xcalloc(m->n + 1, sizeof(*m->sinks));
	add_place(m, PLACE_STATE, m->config->state_dir);
	add_directory_of(m, m->config->control_socket);
	if (m->config->audit == AUDIT_FILE)
		add_directory_of(m, m->config->audit_file);
	add_files(m);
	for (size_t i = 0; i < m->n; i++) {
		m->sinks[i] = m->n_places;
		if (m->mailboxes[i]->deliver->kind == SINK_COMMAND)
			add_place(m, PLACE_COMMAND, m->mailboxes[i]->deliver->command[0]);
		else
			add_maildirs(m, m->mailboxes[i]);
	}
	m->sinks[m->n] = m->n_places;
	for (size_t i = 0; i < m->config->n_credentials; i++)
		add_place(m, PLACE_FILE, m->config->credentials[i]->secret_file);
}

/* --- the verdicts --- */

static const char *size_text(uint64_t bytes, char text[static 32])
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
	double n = (double)bytes;
	size_t i = 0;

	for (; n >= 1024 && i + 1 < ARRAY_LEN(units); i++)
		n /= 1024;
	snprintf(text, 32, i == 0 ? "%.0f %s" : "%.1f %s", n, units[i]);
	return text;
}

/* What keeps every kind of place from being judged. True: reported. */
static bool report_unseen(const struct machine *m, const struct place *p, const struct report_at *at, const char *step)
{
	const char *setting = m->unit != NULL ? unit_hides(m->unit, p->path) : NULL;
	char *hint = NULL;

	if (m->is_blind) {
		report_skipped(at, step, "%s: only with the rights of user %s", p->path, m->user);
	} else if (!p->looked && p > m->places && !p[-1].looked) {
		report_skipped(at, step, "%s: not looked at, after a file system that hangs", p->path);
	} else if (!p->looked) {
		report_failed(at, step, "The file system does not answer: see to it, or deliver to another one.", NULL, "%s: no answer in time", p->path);
	} else if (setting != NULL) {
		hint = xasprintf("Use another place, or set %s in the unit to `no` (systemctl edit mailpolld).", setting);
		report_failed(at, step, hint, NULL, "%s: %s of mailpolld.service hides it from the daemon", p->path, setting);
	} else {
		return false;
	}
	free(hint);
	return true;
}

/* The directory that a Maildir's template names before its first variable. */
static char *fixed_part(const char *template)
{
	size_t len = strcspn(template, "%");

	if (template[len] != '\0')
		while (len > 1 && template[len] != '/')
			len--;
	return xstrndup(template, len);
}

/* base: what an administrator would make or open for it. */
static void report_directory_error(const struct machine *m, const struct place *p, const char *base, const struct report_at *at, const char *step)
{
	bool make = p->missing && access(base, F_OK) < 0;		/* not one that others may use */
	bool is_inside = strlen(p->where) > strlen(p->path);
	char *hint, *commands = NULL;

	if (make) {
		hint = xasprintf("Make %s for user %s.", base, m->user);
		commands = commands_make_directory(m->user, m->group, base);
	} else if (p->error == ENOTDIR) {
		hint = xstrdup("There is a file where a directory must be: use another place, or move it away.");
	} else if (p->error == EROFS) {
		hint = xasprintf("The file system of %s is read-only: use another place, or mount it for writing.", p->where);
	} else if (p->kind == PLACE_STATE && is_inside) {
		hint = xasprintf("Another user has made it, by a start by hand perhaps: give user %s all that lies in %s.", m->user, p->path);
		commands = commands_give(m->user, m->group, p->path);
	} else if (p->error == EACCES && strncmp(p->path, p->where, strlen(p->where)) == 0 && !p->missing && strcmp(p->path, p->where) != 0) {
		hint = xasprintf("Let user %s pass through %s (chmod o+x, or a group), and write to %s.", m->user, p->where, p->path);
	} else {
		hint = xasprintf("Make %s writable for user %s.", p->where, m->user);
	}
	report_failed(at, step, hint, commands, "%s: %s%s", p->where, strerror(p->error), p->missing ? ", so nothing can be made in it" : "");
	free(hint);
	free(commands);
}

/* A mount that nobody waits for may come after the daemon: then mail goes below it. Those of the root's file system have no such. */
static const char *mount_hint(const struct machine *m, const struct place *p)
{
	struct stat root;

	if (m->unit == NULL || p->missing || stat("/", &root) < 0 || p->dev == root.st_dev || unit_waits_for(m->unit, p->path))
		return NULL;
	return "It lies on a mount of its own: name it in the unit's RequiresMountsFor=, too (systemctl edit mailpolld), or a start before that is mounted "
	    "uses the directory below.";
}

static void report_directory(const struct machine *m, const struct place *p, const char *base, const struct report_at *at, const char *step)
{
	bool is_made = m->unit != NULL && p->missing && unit_makes(m->unit, p->path);
	char has[32], wants[32], *commands;

	if (report_unseen(m, p, at, step))
		return;
	if (is_made) {
		report_ok(at, step, NULL, "%s: systemd makes it at the first start", p->path);
	} else if (m->unit != NULL && !unit_lets_write(m->unit, p->path)) {
		commands = commands_unit_writable(m->user, m->group, base);
		report_failed(at, step, "Name it in the unit's RequiresMountsFor= and ReadWritePaths=; the daemon has to be restarted then.", commands,
		    "%s: %s", p->path, unit_closes);
		free(commands);
	} else if (p->error != 0) {
		report_directory_error(m, p, base, at, step);
	} else if (p->free_bytes < m->config->min_free_bytes) {
		report_failed(at, step, "Free space on that file system, or lower min_free: nothing is fetched below it.", NULL,
		    "%s: %s free, min_free is %s", p->where, size_text(p->free_bytes, has), size_text(m->config->min_free_bytes, wants));
	} else {
		report_ok(at, step, mount_hint(m, p), "%s: %s, %s free", p->path, p->missing ? "will be made when first needed" : "writable",
		    size_text(p->free_bytes, has));
	}
}

/* Each start makes it, and its owner's; what lies below it not. */
static bool is_the_units(const struct machine *m, const char *directory)
{
	char *above = directory_of(directory);
	bool is = m->unit != NULL && unit_makes(m->unit, directory) && !unit_makes(m->unit, above);

	free(above);
	return is;
}

static void report_control_socket(const struct machine *m, const struct report_at *at)
{
	static const char step[] = "control_socket";
	const struct place *p = &m->places[1];
	bool is_closed = m->unit != NULL && !unit_lets_write(m->unit, p->path);
	char *hint;

	if (report_unseen(m, p, at, step))
		return;
	if (is_the_units(m, p->path)) {
		report_ok(at, step, NULL, "%s: systemd makes its directory", m->config->control_socket);
	} else if (p->missing || p->error != 0 || is_closed) {
		hint = xasprintf("Use a directory that is there and that user %s may write to; systemd makes those of the unit's RuntimeDirectory= "
		    "(systemctl edit mailpolld).", m->user);
		report_failed(at, step, hint, NULL, "%s: %s", p->path, p->missing ? strerror(ENOENT) : p->error != 0 ? strerror(p->error) : unit_closes);
		free(hint);
	} else {
		report_ok(at, step, NULL, "%s: its directory is writable", m->config->control_socket);
	}
}

/* Nobody makes its directory but systemd, and what is written there is little. */
static void report_audit(const struct machine *m, const struct report_at *at)
{
	static const char step[] = "audit";
	const struct place *p = &m->places[2];
	bool is_made = m->unit != NULL && unit_makes(m->unit, p->path), is_closed = m->unit != NULL && !unit_lets_write(m->unit, p->path);
	char *hint;

	if (report_unseen(m, p, at, step))
		return;
	if (p->missing && is_made) {
		report_ok(at, step, NULL, "%s: systemd makes it at the first start", p->path);
	} else if (p->missing || p->error != 0 || is_closed) {
		hint = xasprintf("Use a directory that is there and that user %s may write to, as the unit's own (/var/log/mailpolld); till then the audit's "
		    "lines wait.", m->user);
		report_failed(at, step, hint, NULL, "%s: %s", p->path, p->missing ? strerror(ENOENT) : is_closed ? unit_closes : strerror(p->error));
		free(hint);
	} else {
		report_ok(at, step, NULL, "%s: writable", p->path);
	}
}

static void report_unreadable(const struct machine *m, const struct place *p, const struct report_at *at, const char *step)
{
	const char *mode = p->kind == PLACE_LIST ? "o+rx" : "o+r";
	char *hint;

	if (p->error != EACCES)
		hint = xstrdup("Correct the configuration, or see to the file.");
	else if (strcmp(p->path, p->where) != 0)
		hint = xasprintf("Let user %s pass through %s (chmod o+x, or a group).", m->user, p->where);
	else
		hint = xasprintf("Make it readable for user %s (chmod %s, or a group).", m->user, mode);
	report_failed(at, step, hint, NULL, "%s: user %s cannot read it (%s)", p->path, m->user, strerror(p->error));
	free(hint);
}

/* Those from first up to end. */
static void report_files(const struct machine *m, size_t first, size_t end, const struct report_at *at, const char *step)
{
	size_t good = 0;

	for (const struct place *p = &m->places[first]; p < &m->places[end]; p++) {
		if (report_unseen(m, p, at, step)) {
			if (m->is_blind)	/* the same of all others */
				return;
		} else if (p->error != 0) {
			report_unreadable(m, p, at, step);
		} else {
			good++;
		}
	}
	if (good > 0 && good == end - first)
		report_ok(at, step, NULL, good == 1 ? "%s: readable" : "%s and %zu more: readable", m->places[first].path, good - 1);
}

static void report_command(const struct machine *m, const struct place *p, const struct report_at *at)
{
	char *hint;

	if (report_unseen(m, p, at, "sink"))
		return;
	if (p->error == 0) {
		report_ok(at, "sink", NULL, "command %s: executable", p->path);
		return;
	}
	if (p->error == EACCES && strcmp(p->path, p->where) != 0)
		hint = xasprintf("Let user %s pass through %s (chmod o+x).", m->user, p->where);
	else if (p->error == EACCES)
		hint = xasprintf("Make it executable for user %s (chmod +rx %s).", m->user, p->path);
	else
		hint = xstrdup("Install the command, or correct `deliver`.");
	report_failed(at, "sink", hint, NULL, "command %s: %s", p->path, p->error == EINVAL ? "it is not a file" : strerror(p->error));
	free(hint);
}

static void report_shared(const struct machine *m, const struct place *p, const char *group, const struct report_at *at)
{
	char *hint;

	if (m->is_blind || !p->looked || p->error == 0)
		return;
	hint = xasprintf("Use a file system that has them, or let the daemon run with group %s and keep its own (systemctl edit mailpolld: Group=%s "
	    "and SupplementaryGroups=%s); the members of %s may then use the control socket, those of %s no longer.", group, group, m->group,
	    group, m->group);
	report_failed(at, "group", hint, NULL, "%s: its file system has no access control lists, by which group %s would read the mail", p->where, group);
	free(hint);
}

void machine_report_sink(const struct machine *m, size_t mailbox, struct report *r)
{
	const struct mailbox_conf *conf = m->mailboxes[mailbox];
	struct report_at at = { r, SCOPE_MAILBOX, conf->address };
	char *base = conf->deliver->kind == SINK_MAILDIR ? fixed_part(conf->deliver->maildir) : NULL;

	for (size_t i = m->sinks[mailbox]; i < m->sinks[mailbox + 1]; i++) {
		const struct place *p = &m->places[i];

		if (p->kind == PLACE_COMMAND)
			report_command(m, p, &at);
		else if (p->kind == PLACE_SHARED)
			report_shared(m, p, conf->deliver->group, &at);
		else
			report_directory(m, p, base, &at, "sink");
	}
	free(base);
}

/* --- secrets --- */

static const struct place *secret_place(const struct machine *m, const struct credential_conf *credential)
{
	const struct place *p = &m->places[m->sinks[m->n]];

	for (size_t i = 0; m->config->credentials[i] != credential; i++)
		p++;
	return p;
}

/* It cannot be read here. */
static void report_no_secret(const struct machine *m, const char *path, const char *why, const struct report_at *at)
{
	struct stat st;
	char *commands;

	if (m->is_blind) {
		report_failed(at, "secret", "Run the doctor as root.", NULL, "%s", why);
	} else if (stat(path, &st) == 0 && (st.st_mode & 0007) != 0) {
		commands = commands_close_secret(path);
		report_failed(at, "secret", "Keep it from others.", commands, "%s", why);
		free(commands);
	} else {
		commands = commands_put_secret(m->group, path);
		report_failed(at, "secret", "Put the client secret's Value into it: paste it after this command, then Enter and Ctrl-D.", commands, "%s", why);
		free(commands);
	}
}

/* The daemon's user cannot read it. */
static void report_closed_secret(const struct machine *m, const struct place *p, const struct report_at *at)
{
	char *hint, *commands = NULL;

	if (!has_group(m, m->own_gid)) {	/* the members of Group= are not to read it */
		hint = xasprintf("Let the daemon have its own group, too (systemctl edit mailpolld: SupplementaryGroups=%s).", m->group);
	} else if (strcmp(p->where, p->path) != 0) {	/* others may keep their secrets there: the directory's group is not ours to change */
		hint = xasprintf("Keep it where user %s may pass, as in /etc/mailpolld/secrets, or let that user through %s (setfacl -m u:%s:x).", m->user,
		    p->where, m->user);
	} else {
		hint = xasprintf("Make it readable for user %s.", m->user);
		commands = commands_open_secret(m->group, p->path);
	}
	report_failed(at, "secret", hint, commands, "%s: user %s cannot read it (%s)", p->path, m->user, strerror(p->error));
	free(hint);
	free(commands);
}

bool machine_check_secret(const struct machine *m, const struct credential_conf *credential, struct report *r)
{
	const struct place *p = secret_place(m, credential);
	struct report_at at = { r, SCOPE_CREDENTIAL, credential->name };
	bool others_look = (m->unit != NULL && unit_loads(m->unit, p->path)) || m->is_blind;	/* systemd, as root; or nobody can tell */
	char why[PATH_MAX + 100], *hint, *secret;

	if (p->path[0] == '$') {
		hint = xasprintf("Give it to the unit with LoadCredential=%s:FILE (systemctl edit mailpolld; a service that runs must be restarted); then run "
		    "the doctor as root. With LoadCredentialEncrypted= mailpolld.service must be running.", credential->secret_credential);
		report_failed(&at, "secret", hint, NULL, "a systemd credential, which is not to be had here");
		free(hint);
		return false;
	}
	secret = config_read_secret(p->path, why, sizeof(why));
	if (secret == NULL) {
		report_no_secret(m, p->path, why, &at);
		return false;
	}
	if (!others_look && report_unseen(m, p, &at, "secret")) {
		;			/* told */
	} else if (!others_look && p->error != 0) {
		report_closed_secret(m, p, &at);
	} else {
		if (is_guid(secret) && credential_conf_is_entra(credential)) {
			hint = xasprintf("Create a new secret for app %s (Entra admin center, App registrations, Certificates & secrets) and copy its "
			    "Value column, not its Secret ID.", credential->client_id);
			report_failed(&at, "secret", hint, NULL, "%s: this is a GUID, so most likely the secret's ID and not its value", p->path);
			free(hint);
		} else {
			report_ok(&at, "secret", NULL, "%s, %zu characters", p->path, strlen(secret));
		}
	}
	secret_free(&secret);
	return true;			/* the token endpoint has the last word */
}

/* --- life --- */

static void report_user(const struct machine *m, const struct report_at *at)
{
	if (!m->is_blind)
		return;
	if (getpwnam(m->user) == NULL)
		report_failed(at, "user", "Make the user that mailpolld.service names.", "systemd-sysusers", "there is no user %s", m->user);
	else if (m->no_group != NULL)
		report_failed(at, "user", "Make it, or correct Group= and SupplementaryGroups= (systemctl edit mailpolld).", NULL,
		    "mailpolld.service names group %s, which there is not", m->no_group);
	else if (geteuid() != 0)
		report_failed(at, "user", "Run the doctor as root: nobody else can look with another user's rights.", "sudo mailpolld doctor",
		    "the daemon runs as %s, with its groups", m->user);
	else
		report_failed(at, "user", "Run the doctor where root may become another user.", NULL, "the rights of user %s cannot be had", m->user);
}

struct machine *machine_check(const struct config *config, const struct unit *unit, const struct mailbox_conf *const *mailboxes, size_t n,
    struct report *r)
{
	struct machine *m = xcalloc(1, sizeof(*m));
	char subject[96];
	struct report_at at = { r, SCOPE_MACHINE, subject };

	*m = (struct machine){ .config = config, .unit = unit, .mailboxes = mailboxes, .n = n };
	take_user(m);
	add_places(m);
	m->is_blind = m->is_blind || !places_look(m->places, m->n_places, &m->rights);
	snprintf(subject, sizeof(subject), "(as user %s)", m->user);
	report_user(m, &at);
	report_files(m, m->files, m->authorities, &at, "configuration");
	report_files(m, m->authorities, m->sinks[0], &at, "ca_file");
	report_directory(m, &m->places[0], config->state_dir, &at, "state_dir");
	report_control_socket(m, &at);
	if (config->audit == AUDIT_FILE)
		report_audit(m, &at);
	return m;
}

void machine_free(struct machine **machine)
{
	struct machine *m = *machine;

	if (m == NULL)
		return;
	places_free(m->places, m->room);
	free(m->sinks);
	free(m->rights.groups);
	free(m);
	*machine = NULL;
}
