#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "client.h"
#include "disk.h"

struct disk {
	char dir[400];
	int dir_fd, tmp_fd, new_fd;
	unsigned batch_files;
	uint64_t batch_bytes, bytes;
	unsigned written;		/* files; below: of the flusher, under the mutex */
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned asked;			/* flush the files below this number */
	int over;
};

static int open_dir(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		die("cannot open directory %s", name);
	return fd;
}

static void flush(struct disk *d, unsigned from, unsigned to)
{
	char name[16];

	if (syncfs(d->dir_fd) < 0)
		die("syncfs failed");
	for (unsigned i = from; i < to; i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (renameat(d->tmp_fd, name, d->new_fd, name) < 0)
			die("cannot rename %s", name);
	}
	if (fsync(d->new_fd) < 0)
		die("fsync failed");
}

static void *flusher(void *arg)
{
	struct disk *d = arg;
	unsigned flushed = 0, to;

	pthread_mutex_lock(&d->mutex);
	while (!d->over || flushed < d->asked) {
		if (flushed == d->asked) {
			pthread_cond_wait(&d->changed, &d->mutex);
			continue;
		}
		to = d->asked;
		pthread_mutex_unlock(&d->mutex);
		flush(d, flushed, to);
		flushed = to;
		pthread_mutex_lock(&d->mutex);
	}
	pthread_mutex_unlock(&d->mutex);
	return NULL;
}

struct disk *disk_new(const char *dir, unsigned batch_files, uint64_t batch_bytes)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (d == NULL)
		die("no memory");
	snprintf(d->dir, sizeof(d->dir), "%s", dir);
	mkdir(dir, 0700);
	d->dir_fd = open_dir(AT_FDCWD, dir);
	mkdirat(d->dir_fd, "tmp", 0700);
	mkdirat(d->dir_fd, "new", 0700);
	d->tmp_fd = open_dir(d->dir_fd, "tmp");
	d->new_fd = open_dir(d->dir_fd, "new");
	d->batch_files = batch_files;
	d->batch_bytes = batch_bytes;
	pthread_mutex_init(&d->mutex, NULL);
	pthread_cond_init(&d->changed, NULL);
	if (pthread_create(&d->thread, NULL, flusher, d) != 0)
		die("no thread");
	return d;
}

int disk_open(struct disk *d)
{
	char name[16];
	int fd;

	snprintf(name, sizeof(name), "%u", d->written);
	fd = openat(d->tmp_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		die("cannot make %s/tmp/%s", d->dir, name);
	return fd;
}

static void ask(struct disk *d, int over)
{
	pthread_mutex_lock(&d->mutex);
	d->asked = d->written;
	d->over = over;
	pthread_cond_signal(&d->changed);
	pthread_mutex_unlock(&d->mutex);
	d->bytes = 0;
}

void disk_close(struct disk *d, int fd, uint64_t bytes)
{
	close(fd);
	d->written++;
	d->bytes += bytes;
	if (d->written % d->batch_files == 0 || d->bytes >= d->batch_bytes)
		ask(d, 0);
}

void disk_free(struct disk **disk)
{
	struct disk *d = *disk;

	ask(d, 1);
	pthread_join(d->thread, NULL);
	close(d->tmp_fd);
	close(d->new_fd);
	close(d->dir_fd);
	free(d);
	*disk = NULL;
}
