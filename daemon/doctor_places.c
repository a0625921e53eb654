/* Looks at places on this machine with the daemon's rights: a child takes them, and answers in memory that both share. */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "doctor_private.h"

#define LOOK_MS 10000			/* at one place: a file system that hangs is not waited for */

struct place *places_new(size_t n)
{
	struct place *v = mmap(NULL, n * sizeof(*v), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (v == MAP_FAILED)
		abort();
	return v;
}

void places_free(struct place *v, size_t n)
{
	munmap(v, n * sizeof(*v));
}

static int access_error(const char *path, int mode)
{
	return access(path, mode) < 0 ? errno : 0;
}

/* The directory above path that the user cannot pass; false: none. */
static bool find_barrier(const char *path, char *ret_dir)
{
	for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		snprintf(ret_dir, PATH_MAX, "%.*s", (int)(slash - path), path);
		if (access_error(ret_dir, X_OK) == EACCES)
			return true;
	}
	return false;
}

static void look_at_file(struct place *p, int mode)
{
	struct stat st;

	p->error = access_error(p->path, mode);
	if (p->error == 0 && mode == X_OK && stat(p->path, &st) == 0 && !S_ISREG(st.st_mode))
		p->error = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	if (p->error != EACCES || !find_barrier(p->path, p->where))
		strcpy(p->where, p->path);
}

static void look_at_directory(struct place *p, const char *path)
{
	struct statvfs fs;
	struct stat st = { 0 };

	p->error = stat(path, &st) == 0 && !S_ISDIR(st.st_mode) ? ENOTDIR : access_error(path, R_OK | W_OK | X_OK);
	p->dev = st.st_dev;
	if (p->error != EACCES || !find_barrier(path, p->where))
		snprintf(p->where, sizeof(p->where), "%s", path);
	if (p->error == 0 && statvfs(path, &fs) == 0)
		p->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* The directory itself, or the nearest one above that is there: where it would be made. */
static void look_at_or_above(struct place *p, const char *directory)
{
	char path[PATH_MAX], *slash;

	snprintf(path, sizeof(path), "%s", directory);
	while (access_error(path, F_OK) == ENOENT && (slash = strrchr(path, '/')) != NULL) {
		p->missing = true;
		if (slash == path)
			slash++;	/* the root */
		*slash = '\0';
	}
	look_at_directory(p, path);
}

static void look_at_maildir(struct place *p)
{
	static const char *const inside[] = { "tmp", "new", "cur" };
	char path[PATH_MAX + 8];

	look_at_or_above(p, p->path);
	for (size_t i = 0; i < ARRAY_LEN(inside) && p->error == 0 && !p->missing; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->path, inside[i]);
		if (access_error(path, F_OK) != ENOENT)		/* else made when first needed */
			look_at_directory(p, path);
	}
}

/* What another user's start by hand has left there, or a copy that was put back, ends each start of the daemon. */
static void look_at_state(struct place *p)
{
	static const char *const files[] = { "lock", "state.db", "state.db-wal", "state.db-shm" }, *const directories[] = { "spool", "quarantine" };
	char path[PATH_MAX + 16];

	look_at_or_above(p, p->path);
	for (size_t i = 0; i < ARRAY_LEN(files) && p->error == 0 && !p->missing; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->path, files[i]);
		if (access_error(path, R_OK | W_OK) == EACCES) {
			p->error = EACCES;
			snprintf(p->where, sizeof(p->where), "%.*s", (int)sizeof(p->where) - 1, path);
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(directories) && p->error == 0 && !p->missing; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->path, directories[i]);
		if (access_error(path, F_OK) != ENOENT)
			look_at_directory(p, path);
	}
}

/* The daemon gives a group its right to mail by access control lists, unless it is root or runs with that group. */
static void look_at_shared(struct place *p)
{
	look_at_or_above(p, p->path);
	p->error = 0;			/* of the Maildir itself, which is told elsewhere */
	if (geteuid() != 0 && getegid() != p->gid && getxattr(p->where, "system.posix_acl_access", NULL, 0) < 0 && errno == EOPNOTSUPP)
		p->error = EOPNOTSUPP;
}

static void look_at(struct place *p)
{
	switch (p->kind) {
	case PLACE_DIRECTORY:
		look_at_or_above(p, p->path);
		break;
	case PLACE_STATE:
		look_at_state(p);
		break;
	case PLACE_MAILDIR:
		look_at_maildir(p);
		break;
	case PLACE_COMMAND:
		look_at_file(p, X_OK);
		break;
	case PLACE_FILE:
		look_at_file(p, R_OK);
		break;
	case PLACE_LIST:
		look_at_file(p, R_OK | X_OK);
		break;
	case PLACE_SHARED:
		look_at_shared(p);
		break;
	}
}

bool places_look(struct place *v, size_t n, const struct rights *r)
{
	struct itimerval limit = { .it_value = clock_interval(LOOK_MS) };
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		if (geteuid() == 0 && r->uid != 0 && (setgroups(r->n_groups, r->groups) < 0 || setgid(r->gid) < 0 || setuid(r->uid) < 0))
			_exit(EXIT_FAILURE);
		for (size_t i = 0; i < n; i++) {
			setitimer(ITIMER_REAL, &limit, NULL);		/* SIGALRM ends the child */
			look_at(&v[i]);
			v[i].looked = true;
		}
		_exit(EXIT_SUCCESS);
	}
	return child > 0 && waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) != EXIT_SUCCESS);
}
