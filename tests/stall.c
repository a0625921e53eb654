/* For LD_PRELOAD in tests: a disk that hangs. Flushing or running a file below STALL_BELOW, and asking for its file system's room, waits while a test holds the lock (flock) of the file
 * STALL_GATE; the lock goes with the test; with STALL_WRITES so does writing. What was flushed or run there is a line in the file STALL_TOLD, if
 * there is such a name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *path)
{
	const char *file = getenv("STALL_TOLD");
	int fd = file != NULL ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;

	if (fd < 0)
		return;
	dprintf(fd, "%s\n", path);
	close(fd);
}

static bool wait_for(const char *path)
{
	const char *gate = getenv("STALL_GATE"), *below = getenv("STALL_BELOW");
	int lock;

	if (gate == NULL || below == NULL || strncmp(path, below, strlen(below)) != 0)
		return false;
	if ((lock = open(gate, O_RDONLY | O_CLOEXEC)) < 0)
		return false;
	flock(lock, LOCK_SH);
	close(lock);
	return true;
}

static bool wait_for_file(int fd, char path[PATH_MAX])
{
	char link[64];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if ((len = readlink(link, path, PATH_MAX - 1)) < 0)
		return false;
	path[len] = '\0';
	return wait_for(path);
}

static void wait_at_gate(int fd)
{
	char path[PATH_MAX];

	if (wait_for_file(fd, path))
		tell(path);
}

static void *next(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (found == NULL)
		abort();
	return found;
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *files, const posix_spawnattr_t *attr, char *const argv[],
    char *const env[])
{
	typedef int function(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[], char *const[]);
	union { void *found; function *call; } real = { next("posix_spawn") };

	if (wait_for(path))
		tell(path);
	return real.call(pid, path, files, attr, argv, env);
}

int statvfs(const char *path, struct statvfs *room)
{
	typedef int function(const char *, struct statvfs *);
	union { void *found; function *call; } real = { next("statvfs") };

	wait_for(path);
	return real.call(path, room);
}

ssize_t write(int fd, const void *data, size_t len)
{
	char path[PATH_MAX];

	if (getenv("STALL_WRITES") != NULL)
		wait_for_file(fd, path);
	return syscall(SYS_write, fd, data, len);
}

int fsync(int fd)
{
	wait_at_gate(fd);
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	wait_at_gate(fd);
	return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd)
{
	wait_at_gate(fd);
	return (int)syscall(SYS_syncfs, fd);
}
