#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>
#include "health.h"
#include "workers.h"

static bool alive(void *arg)
{
	(void)arg;
	return true;
}

static int listen_as_manager(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char name[32];
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	snprintf(name, sizeof(name), "@mailpolld-test-%d", (int)getpid());
	memcpy(address.sun_path + 1, name + 1, strlen(name + 1));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static void assert_told(int fd, const char *text)
{
	char data[256];
	ssize_t n = recv(fd, data, sizeof(data) - 1, MSG_DONTWAIT);

	assert_true(n > 0);
	data[n] = '\0';
	assert_string_equal(data, text);
}

/* The loop never turns here, so that all but the first wait when the end comes. */
static void test_a_quick_stop_is_told(void **state)
{
	struct event_base *base = event_base_new();
	struct workers *workers = workers_new(base);
	int fd = listen_as_manager();
	struct health *h = health_new(base, workers, alive, NULL);

	(void)state;
	health_ready(h);
	health_status(h, "%d mailboxes", 3);
	health_stopping(h);
	health_free(&h);
	workers_free(&workers, 10000);
	assert_told(fd, "READY=1");
	assert_told(fd, "STATUS=3 mailboxes");
	assert_told(fd, "STOPPING=1");
	assert_true(recv(fd, (char[1]){ 0 }, 1, MSG_DONTWAIT) < 0);
	close(fd);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_a_quick_stop_is_told) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
