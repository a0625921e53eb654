/* measure RESULT SECONDS COMMAND... - runs it, SECONDS at most, and writes into the file RESULT: wall time, user and system time (of its own children, too, as far
 * as it has waited for them) in seconds; the most resident and the most anonymous memory of the process in KiB, the latter looked at
 * every 2 ms. A small process of its own, since a child begins with its parent's size. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static long anonymous_kib(pid_t pid)
{
	char path[40], text[4096];
	const char *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strstr(text, "RssAnon:");
	return at != NULL ? atol(at + 8) : 0;
}

static pid_t pid;

static void on_term(int signal_number)
{
	(void)signal_number;
	kill(pid, SIGKILL);
	_exit(1);
}

int main(int argc, char **argv)
{
	double begun_s = now_s(), end_s;
	long anonymous = 0, one;
	struct rusage u;
	int status;
	FILE *f;

	if (argc < 4)
		return 2;
	pid = fork();
	if (pid == 0) {
		execvp(argv[3], argv + 3);
		_exit(127);
	}
	signal(SIGTERM, on_term);
	prctl(PR_SET_PDEATHSIG, SIGTERM);	/* of the parent */
	while (wait4(pid, &status, WNOHANG, &u) == 0) {
		if (now_s() - begun_s > atof(argv[2]))
			kill(pid, SIGKILL);
		if ((one = anonymous_kib(pid)) > anonymous)
			anonymous = one;
		usleep(2000);
	}
	end_s = now_s();
	if ((f = fopen(argv[1], "we")) == NULL)
		return 2;
	fprintf(f, "%.6f %.6f %.6f %ld %ld\n", end_s - begun_s, (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6,
	    (double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6, u.ru_maxrss, anonymous);
	fclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
