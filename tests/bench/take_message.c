/* take_message MAILDIR - what fetchmail hands each message to: reads it from standard input into MAILDIR as durably as can be: the file
 * is flushed, renamed, and the directory is flushed. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char tmp[400], final[400], block[65536];
	ssize_t n;
	int fd;

	if (argc != 2)
		return 64;
	snprintf(tmp, sizeof(tmp), "%s/tmp/%d.%ld", argv[1], (int)getpid(), (long)getppid());
	snprintf(final, sizeof(final), "%s/new/%d.%ld", argv[1], (int)getpid(), (long)getppid());
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL, 0600);
	while (fd >= 0 && (n = read(STDIN_FILENO, block, sizeof(block))) > 0)
		if (write(fd, block, (size_t)n) != n)
			return 75;
	if (fd < 0 || fsync(fd) < 0 || close(fd) < 0 || rename(tmp, final) < 0)
		return 75;
	*strrchr(final, '/') = '\0';
	fd = open(final, O_RDONLY | O_DIRECTORY);
	return fd >= 0 && fsync(fd) == 0 ? 0 : 75;
}
