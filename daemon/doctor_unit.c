/* What systemd makes of the daemon: its user and groups, what it may see and write, where its credentials come from. Asked of the manager over
 * D-Bus, so that it is known before the first start, drop-ins included. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>
#include "doctor_private.h"

#define MANAGER "org.freedesktop.systemd1"
#define OBJECT "/org/freedesktop/systemd1/unit/mailpolld_2eservice"
#define PRIVATE_SOCKET "unix:path=/run/systemd/private"	/* for root, also where no bus runs */
#define ANSWER_US (5 * 1000000ULL)

struct unit {
	char *user, *group, *protect_system, *protect_home;
	char **groups;			/* SupplementaryGroups=; NULL-terminated; NULL: none */
	int private_tmp;
	char **writable;		/* ReadWritePaths=, then the directories that systemd makes for the unit; NULL-terminated */
	size_t n_writable, n_not_made;	/* of them ReadWritePaths= */
	char **mounts;			/* RequiresMountsFor=; NULL-terminated; NULL: none */
	struct { char *name, *path; } *credentials;
	size_t n_credentials;
};

/* --- asking --- */

static sd_bus *manager_bus(void)
{
	sd_bus *bus = NULL;

	if (geteuid() == 0 && sd_bus_new(&bus) >= 0 && sd_bus_set_address(bus, PRIVATE_SOCKET) >= 0 && sd_bus_start(bus) >= 0)
		return bus;
	bus = sd_bus_unref(bus);
	return sd_bus_open_system(&bus) >= 0 ? bus : NULL;
}

static char *text_property(sd_bus *bus, const char *interface, const char *name)
{
	char *text = NULL;

	return sd_bus_get_property_string(bus, MANAGER, OBJECT, interface, name, NULL, &text) >= 0 ? text : NULL;
}

/* Each entry of a list, with what stands before it in the file system. */
static void read_paths(struct unit *u, sd_bus *bus, const char *property, const char *before)
{
	char **v = NULL;

	if (sd_bus_get_property_strv(bus, MANAGER, OBJECT, MANAGER ".Service", property, NULL, &v) < 0)
		return;
	for (size_t i = 0; v != NULL && v[i] != NULL; i++) {
		u->writable = xreallocarray(u->writable, u->n_writable + 2, sizeof(*u->writable));
		u->writable[u->n_writable++] = xasprintf("%s%s", before, v[i] + strspn(v[i], "-+"));	/* -: if it is there */
		u->writable[u->n_writable] = NULL;
		free(v[i]);
	}
	free(v);
}

static void read_credentials(struct unit *u, sd_bus *bus)
{
	sd_bus_message *reply = NULL;
	const char *name, *path;

	if (sd_bus_get_property(bus, MANAGER, OBJECT, MANAGER ".Service", "LoadCredential", NULL, &reply, "a(ss)") < 0 ||
	    sd_bus_message_enter_container(reply, 'a', "(ss)") < 0) {
		sd_bus_message_unref(reply);
		return;
	}
	while (sd_bus_message_read(reply, "(ss)", &name, &path) > 0) {
		u->credentials = xreallocarray(u->credentials, u->n_credentials + 1, sizeof(*u->credentials));
		u->credentials[u->n_credentials].name = xstrdup(name);
		u->credentials[u->n_credentials++].path = xstrdup(path);
	}
	sd_bus_message_unref(reply);
}

struct unit *unit_read(void)
{
	sd_bus *bus = manager_bus();
	struct unit *u = NULL;
	char *state = NULL;

	if (bus != NULL)
		sd_bus_set_method_call_timeout(bus, ANSWER_US);
	if (bus != NULL && (state = text_property(bus, MANAGER ".Unit", "LoadState")) != NULL && strcmp(state, "loaded") == 0) {
		u = xcalloc(1, sizeof(*u));
		u->user = text_property(bus, MANAGER ".Service", "User");
		u->group = text_property(bus, MANAGER ".Service", "Group");
		sd_bus_get_property_strv(bus, MANAGER, OBJECT, MANAGER ".Service", "SupplementaryGroups", NULL, &u->groups);
		sd_bus_get_property_strv(bus, MANAGER, OBJECT, MANAGER ".Unit", "RequiresMountsFor", NULL, &u->mounts);
		u->protect_system = text_property(bus, MANAGER ".Service", "ProtectSystem");
		u->protect_home = text_property(bus, MANAGER ".Service", "ProtectHome");
		sd_bus_get_property_trivial(bus, MANAGER, OBJECT, MANAGER ".Service", "PrivateTmp", NULL, 'b', &u->private_tmp);
		read_paths(u, bus, "ReadWritePaths", "");
		u->n_not_made = u->n_writable;
		read_paths(u, bus, "StateDirectory", "/var/lib/");
		read_paths(u, bus, "CacheDirectory", "/var/cache/");
		read_paths(u, bus, "LogsDirectory", "/var/log/");
		read_paths(u, bus, "RuntimeDirectory", "/run/");
		read_credentials(u, bus);
	}
	free(state);
	sd_bus_flush_close_unref(bus);
	return u;
}

static void free_list(char **v)
{
	for (size_t i = 0; v != NULL && v[i] != NULL; i++)
		free(v[i]);
	free(v);
}

void unit_free(struct unit **unit)
{
	struct unit *u = *unit;

	if (u == NULL)
		return;
	for (size_t i = 0; i < u->n_writable; i++)
		free(u->writable[i]);
	for (size_t i = 0; i < u->n_credentials; i++) {
		free(u->credentials[i].name);
		free(u->credentials[i].path);
	}
	free_list(u->groups);
	free_list(u->mounts);
	free(u->writable);
	free(u->credentials);
	free(u->user);
	free(u->group);
	free(u->protect_system);
	free(u->protect_home);
	free(u);
	*unit = NULL;
}

/* --- answers --- */

const char *unit_user(const struct unit *u)
{
	return u->user != NULL && u->user[0] != '\0' ? u->user : "root";
}

const char *unit_group(const struct unit *u)
{
	return u->group != NULL && u->group[0] != '\0' ? u->group : NULL;
}

const char *unit_supplementary_group(const struct unit *u, size_t i)
{
	return u->groups != NULL ? u->groups[i] : NULL;
}

const char *unit_credential(const struct unit *u, const char *name)
{
	for (size_t i = 0; i < u->n_credentials; i++)
		if (strcmp(u->credentials[i].name, name) == 0 && u->credentials[i].path[0] == '/')
			return u->credentials[i].path;
	return NULL;
}

bool unit_loads(const struct unit *u, const char *path)
{
	for (size_t i = 0; i < u->n_credentials; i++)
		if (strcmp(u->credentials[i].path, path) == 0)
			return true;
	return false;
}

/* As far as it is there, its links resolved, as systemd does. */
static char *real_path(const char *path)
{
	char *there = xstrdup(path), real[PATH_MAX] = "", *slash, *all;

	while (realpath(there, real) == NULL && (slash = strrchr(there, '/')) != NULL)
		*slash = '\0';
	all = there[0] != '\0' ? xasprintf("%s%s", real, path + strlen(there)) : xstrdup(path);
	free(there);
	return all;
}

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	while (len > 0 && dir[len - 1] == '/')
		len--;
	return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

static bool is_below_any(const char *path, const char *const *dirs, size_t n)
{
	char *real = real_path(path);
	bool found = false;

	for (size_t i = 0; i < n && !found; i++) {
		char *real_dir = real_path(dirs[i]);

		found = is_below(real, real_dir);
		free(real_dir);
	}
	free(real);
	return found;
}

static bool is_writable(const struct unit *u, const char *path)
{
	return is_below_any(path, (const char *const *)u->writable, u->n_writable);
}

const char *unit_hides(const struct unit *u, const char *path)
{
	static const char *const homes[] = { "/home", "/root", "/run/user" }, *const tmps[] = { "/tmp", "/var/tmp" };
	bool no_homes = str_equal(u->protect_home, "yes") || str_equal(u->protect_home, "tmpfs");

	if (no_homes && is_below_any(path, homes, ARRAY_LEN(homes)))
		return is_writable(u, path) ? NULL : "ProtectHome=";
	if (u->private_tmp && is_below_any(path, tmps, ARRAY_LEN(tmps)))
		return "PrivateTmp=";
	return NULL;
}

bool unit_lets_write(const struct unit *u, const char *path)
{
	return !str_equal(u->protect_system, "strict") || is_writable(u, path);
}

bool unit_makes(const struct unit *u, const char *path)
{
	return u->n_writable > u->n_not_made &&
	    is_below_any(path, (const char *const *)u->writable + u->n_not_made, u->n_writable - u->n_not_made);
}

bool unit_waits_for(const struct unit *u, const char *path)
{
	size_t n = 0;

	while (u->mounts != NULL && u->mounts[n] != NULL)
		n++;
	return is_below_any(path, (const char *const *)u->mounts, n);
}
