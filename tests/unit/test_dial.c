/* dial.h: two address families, one of them broken. The resolver is ours; the clock runs a hundred times too fast. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "dial.h"
#include "fast_clock.h"
#include "resolver.h"
#include "util.h"

#define PLUGS 6

static struct {
	struct event_base *base;
	struct dialer *dialer;
	struct address addresses[2];
	size_t n_addresses;
	resolver_cb *cb;
	void *arg;
	struct event *resolved;
	int v4, v6, plugs[PLUGS];
	uint16_t port;
	int fd;
	enum failure_phase phase;
	char error[128];
} w;

static void on_resolved(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what, (void)arg;
	w.cb(w.arg, w.n_addresses > 0 ? w.addresses : NULL, w.n_addresses, w.n_addresses > 0 ? NULL : "no such name");
}

struct lookup *resolver_start(struct resolver *r, const char *host, uint16_t port, resolver_cb *cb, void *arg)
{
	(void)r;
	assert_string_equal(host, "imap.example");
	assert_int_equal(port, w.port);
	w.cb = cb;
	w.arg = arg;
	event_active(w.resolved, 0, 0);
	return NULL;
}

void lookup_cancel(struct lookup **lookup)
{
	*lookup = NULL;
}

static struct address v4_address(void)
{
	struct address a = { .len = sizeof(struct sockaddr_in) };
	struct sockaddr_in *in = (struct sockaddr_in *)&a.sa;

	*in = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(w.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return a;
}

static struct address v6_address(void)
{
	struct address a = { .len = sizeof(struct sockaddr_in6) };
	struct sockaddr_in6 *in = (struct sockaddr_in6 *)&a.sa;

	*in = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(w.port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	return a;
}

static int listen_at(const struct address *a, int backlog)
{
	int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 || listen(fd, backlog) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* IPv6 answers no SYN: its listener's queue is full. */
static void plug_v6(void)
{
	struct address a = v6_address();

	w.v6 = listen_at(&a, 0);
	for (int i = 0; i < PLUGS; i++) {
		w.plugs[i] = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)!connect(w.plugs[i], (struct sockaddr *)&a.sa, a.len);
	}
}

static void unplug_v6(void)
{
	int fd;

	for (int i = 0; i < PLUGS; i++)
		close(w.plugs[i]);
	while ((fd = accept(w.v6, NULL, NULL)) >= 0)
		close(fd);
	assert_int_equal(listen(w.v6, 100), 0);
}

static int setup(void **state)
{
	struct sockaddr_in any;
	socklen_t len = sizeof(any);

	(void)state;
	memset(&w, 0, sizeof(w));
	w.v6 = -1;
	w.base = event_base_new();
	w.resolved = event_new(w.base, -1, 0, on_resolved, NULL);
	w.dialer = dialer_new(w.base, NULL);
	struct address a = v4_address();
	w.v4 = listen_at(&a, 100);
	getsockname(w.v4, (struct sockaddr *)&any, &len);
	w.port = ntohs(any.sin_port);
	w.addresses[0] = v6_address();		/* as getaddrinfo() likes it */
	w.addresses[1] = v4_address();
	w.n_addresses = 2;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (w.v4 >= 0)
		close(w.v4);
	if (w.v6 >= 0)
		close(w.v6);
	dialer_free(&w.dialer);
	event_free(w.resolved);
	event_base_free(w.base);
	return 0;
}

static void on_dialed(void *arg, int fd, enum failure_phase phase, const char *error)
{
	(void)arg;
	w.fd = fd;
	w.phase = phase;
	snprintf(w.error, sizeof(w.error), "%s", error != NULL ? error : "");
	event_base_loopbreak(w.base);
}

static void dial(void)
{
	w.fd = -2;
	dial_start(w.dialer, "imap.example", w.port, on_dialed, NULL);
	event_base_dispatch(w.base);
	assert_int_not_equal(w.fd, -2);
}

static void expect_family(int family)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	assert_true(w.fd >= 0);
	assert_int_equal(getpeername(w.fd, (struct sockaddr *)&peer, &len), 0);
	assert_int_equal(peer.ss_family, family);
	close(w.fd);
}

static bool has_v6(void)
{
	struct address a = v6_address();
	int fd = listen_at(&a, 1);

	if (fd < 0) {
		print_message("no IPv6 on this machine\n");
		return false;
	}
	close(fd);
	return true;
}

/* exchange-online 5.14, "IPv6 address chosen, connect hangs": the broken family costs its wait once; then the one that worked comes first, even when
 * the other is well again. */
static void test_one_family_hangs(void **state)
{
	msec_t began_ms = clock_now_ms(), waited_ms;

	(void)state;
	if (!has_v6())
		skip();
	plug_v6();
	dial();
	waited_ms = clock_now_ms() - began_ms;
	expect_family(AF_INET);
	assert_true(waited_ms >= 2900);		/* 3 s, and what a busy machine adds */
	began_ms = clock_now_ms();
	dial();
	waited_ms = clock_now_ms() - began_ms;
	expect_family(AF_INET);
	assert_true(waited_ms < 2900);		/* not again */
	unplug_v6();
	dial();
	expect_family(AF_INET);
}

/* Connected, and then nothing: the other family's turn comes first, as long as it is the one that was remembered. */
static void test_one_family_is_silent(void **state)
{
	struct address a = v6_address();
	int silent;

	(void)state;
	if (!has_v6())
		skip();
	w.v6 = listen_at(&a, 100);
	dial();
	silent = w.fd;
	dialer_doubt(w.dialer, "imap.example", silent);
	dialer_doubt(w.dialer, "another.example", silent);
	dial();
	expect_family(AF_INET);
	dialer_doubt(w.dialer, "imap.example", silent);		/* another session that dialed when IPv6 was the one */
	dial();
	dialer_doubt(w.dialer, "imap.example", w.fd);
	expect_family(AF_INET);
	w.fd = silent;
	expect_family(AF_INET6);
	dial();
	expect_family(AF_INET6);
}

static void test_one_family_is_refused(void **state)
{
	(void)state;
	dial();			/* nobody listens on ::1 */
	expect_family(AF_INET);
}

/* What was remembered does not hold for good: when it fails, the other's turn comes at once. */
static void test_the_remembered_one_fails(void **state)
{
	struct address a = v6_address();

	(void)state;
	if (!has_v6())
		skip();
	dial();
	expect_family(AF_INET);
	close(w.v4);
	w.v4 = -1;
	w.v6 = listen_at(&a, 100);
	dial();
	expect_family(AF_INET6);
}

static void test_nothing_works(void **state)
{
	(void)state;
	close(w.v4);
	w.v4 = -1;
	dial();
	assert_int_equal(w.fd, -1);
	assert_int_equal(w.phase, PHASE_CONNECT);
	assert_string_equal(w.error, "Connection refused");
	w.n_addresses = 0;
	dial();
	assert_int_equal(w.fd, -1);
	assert_int_equal(w.phase, PHASE_RESOLVE);
	assert_string_equal(w.error, "no such name");
}

static void test_options(void **state)
{
	int keepalive = 0, nodelay = 0, idle_s = 0, interval_s = 0, count = 0;
	unsigned timeout_ms = 0;
	socklen_t len = sizeof(int);

	(void)state;
	dial();
	assert_int_equal(getsockopt(w.fd, SOL_SOCKET, SO_KEEPALIVE, &keepalive, &len), 0);
	assert_int_equal(getsockopt(w.fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
	assert_int_equal(getsockopt(w.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, &len), 0);
	assert_int_equal(getsockopt(w.fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, &len), 0);
	assert_int_equal(getsockopt(w.fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, &len), 0);
	assert_int_equal(getsockopt(w.fd, IPPROTO_TCP, TCP_KEEPCNT, &count, &len), 0);
	assert_true(keepalive && nodelay);
	assert_in_range(idle_s + interval_s * count, 60, 240);		/* sooner than an IDLE's end finds a dead peer */
	assert_in_range(timeout_ms, 30000, 180000);
	expect_family(AF_INET);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_family_hangs), TEST(test_one_family_is_silent), TEST(test_one_family_is_refused), TEST(test_the_remembered_one_fails), TEST(test_nothing_works),
		TEST(test_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
