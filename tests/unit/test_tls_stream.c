/* tls_stream.h against a server in the same thread, over a socket pair; once with TLS 1.3, once with 1.2. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tls.h"
#include "tls_stream.h"
#include "util.h"

#define TURNS 20000			/* without an end: nothing more will happen */
#define MUCH (300 * 1000)

static struct {
	struct event_base *base;
	struct tls *tls;
	SSL_CTX *server_ctx;
	char ca_file[64];
	/* one connection */
	struct tls_stream *stream;
	SSL *server;
	int server_fd;
	struct evbuffer *got;		/* by the client */
	size_t largest, calls;		/* of on_bytes */
	bool open, end, is_certificate, pause_at_bytes, keep_bytes;
	bool free_at_open, free_at_bytes, free_at_end;
	char why[160];
} w;

static void free_if(bool wanted)
{
	if (wanted)
		tls_stream_free(&w.stream);
}

static void on_open(void *arg)
{
	assert_ptr_equal(arg, &w);
	assert_false(w.open || w.end);
	w.open = true;
	free_if(w.free_at_open);
}

static void on_bytes(void *arg, struct evbuffer *in)
{
	(void)arg;
	assert_true(w.open && !w.end);
	w.calls++;
	if (evbuffer_get_length(in) > w.largest)
		w.largest = evbuffer_get_length(in);
	if (!w.keep_bytes)
		evbuffer_add_buffer(w.got, in);
	if (w.pause_at_bytes)
		tls_stream_pause(w.stream);
	free_if(w.free_at_bytes);
}

static void on_end(void *arg, bool is_certificate, const char *why)
{
	(void)arg;
	assert_false(w.end);
	w.end = true;
	w.is_certificate = is_certificate;
	snprintf(w.why, sizeof(w.why), "%s", why);
	free_if(w.free_at_end);
}

static const struct tls_stream_ops ops = { on_open, on_bytes, on_end };

/* --- the server --- */

static void make_certificate(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	X509_NAME *name = X509_get_subject_name(x);
	X509_EXTENSION *alt = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:imap.example");
	FILE *file;
	int fd;

	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_version(x, 2);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"a test", -1, -1, 0);
	X509_set_issuer_name(x, name);
	X509_add_ext(x, alt, -1);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	w.server_ctx = SSL_CTX_new(TLS_server_method());
	assert_int_equal(SSL_CTX_use_certificate(w.server_ctx, x), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(w.server_ctx, key), 1);
	strcpy(w.ca_file, "/tmp/test_tls_stream.XXXXXX");
	fd = mkstemp(w.ca_file);
	assert_true(fd >= 0);
	file = fdopen(fd, "w");
	assert_int_equal(PEM_write_X509(file, x), 1);
	fclose(file);
	X509_EXTENSION_free(alt);
	X509_free(x);
	EVP_PKEY_free(key);
}

static int set_up(void **state, int max_version)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	signal(SIGPIPE, SIG_IGN);
	make_certificate();
	SSL_CTX_set_max_proto_version(w.server_ctx, max_version);
	SSL_CTX_set_session_id_context(w.server_ctx, (const unsigned char *)"test", 4);
	w.base = event_base_new();
	w.tls = tls_new();
	w.got = evbuffer_new();
	return 0;
}

static int set_up_13(void **state)
{
	return set_up(state, TLS1_3_VERSION);
}

static int set_up_12(void **state)
{
	return set_up(state, TLS1_2_VERSION);
}

static void hang_up(void)
{
	SSL_free(w.server);
	w.server = NULL;
	if (w.server_fd > 0)
		close(w.server_fd);
	w.server_fd = 0;
}

static int tear_down(void **state)
{
	(void)state;
	tls_stream_free(&w.stream);
	hang_up();
	SSL_CTX_free(w.server_ctx);
	tls_free(&w.tls);
	evbuffer_free(w.got);
	event_base_free(w.base);
	unlink(w.ca_file);
	ERR_clear_error();
	return 0;
}

static void connect_to(const char *host)
{
	int fds[2], small = 4096, large = 1 << 20;
	char error[160];

	w.open = w.end = false;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
	w.server_fd = fds[1];
	w.server = SSL_new(w.server_ctx);
	SSL_set_fd(w.server, fds[1]);
	SSL_set_accept_state(w.server);
	w.stream = tls_stream_new(w.base, w.tls, host, w.ca_file, &ops, &w, error, sizeof(error));
	assert_non_null(w.stream);
	assert_int_equal(tls_stream_fd(w.stream), -1);
	tls_stream_open(w.stream, fds[0]);
	assert_false(w.open);		/* never from inside a call */
}

static void turn(void)
{
	event_base_loop(w.base, EVLOOP_NONBLOCK);
}

static void server_turn(void)
{
	ERR_clear_error();
	if (!SSL_is_init_finished(w.server))
		SSL_do_handshake(w.server);
	ERR_clear_error();
}

#define UNTIL(condition) do { \
	int turns = 0; \
	while (!(condition) && turns++ < TURNS) { \
		turn(); \
		if (w.server != NULL) \
			server_turn(); \
	} \
	assert_true(condition); \
} while (0)

static void quiet(void)
{
	for (int i = 0; i < 50; i++)
		turn();
}

static void connected(void)
{
	connect_to("imap.example");
	UNTIL(w.open && SSL_is_init_finished(w.server));
}

static unsigned char pattern(size_t i)
{
	return (unsigned char)(i * 7 + i / 251);
}

/* Sends len bytes of the pattern from position from on, as records of at most record bytes. */
static void server_sends(size_t from, size_t len, size_t record)
{
	unsigned char data[16384];
	size_t at = from, n;
	int result, turns = 0;

	while (at < from + len) {
		n = from + len - at < record ? from + len - at : record;
		for (size_t i = 0; i < n; i++)
			data[i] = pattern(at + i);
		ERR_clear_error();
		while ((result = SSL_write(w.server, data, (int)n)) <= 0 && turns++ < TURNS)
			turn();
		assert_int_equal(result, (int)n);
		at += n;
	}
}

static void assert_got(size_t len)
{
	const unsigned char *all;

	assert_int_equal(evbuffer_get_length(w.got), len);
	all = evbuffer_pullup(w.got, -1);
	for (size_t i = 0; i < len; i++)
		if (all[i] != pattern(i))
			fail_msg("byte %zu is another", i);
}

/* --- tests --- */

/* The greeting comes with the handshake's last bytes: no event of the socket's tells of it. */
static void test_what_comes_with_the_handshake_is_told(void **state)
{
	(void)state;
	connect_to("imap.example");
	for (int i = 0; i < TURNS && !SSL_is_init_finished(w.server); i++) {
		turn();
		server_turn();
	}
	assert_int_equal(SSL_write(w.server, "* OK hi\r\n", 9), 9);
	UNTIL(evbuffer_get_length(w.got) == 9);
	assert_memory_equal(evbuffer_pullup(w.got, -1), "* OK hi\r\n", 9);
}

static void test_all_bytes_come_in_order(void **state)
{
	(void)state;
	connected();
	server_sends(0, MUCH, 16384);
	server_sends(MUCH, MUCH / 10, 100);
	server_sends(MUCH + MUCH / 10, MUCH, 5000);
	UNTIL(evbuffer_get_length(w.got) >= 2 * MUCH + MUCH / 10);
	assert_got(2 * MUCH + MUCH / 10);
	assert_true(w.largest <= 3 * 16384);	/* others have their turn */
}

/* What OpenSSL has read beyond what was taken is nothing that the socket would tell of. */
static void test_what_was_read_ahead_comes_too(void **state)
{
	(void)state;
	connected();
	for (size_t n = 60; n < 90; n++) {
		server_sends(0, n * 1000, 1000);
		UNTIL(evbuffer_get_length(w.got) == n * 1000);
		evbuffer_drain(w.got, n * 1000);
	}
}

/* A record may be larger than what is taken from TLS at a time, and the server waits for our next command. */
static void test_a_full_record_and_nothing_after_it(void **state)
{
	(void)state;
	connected();
	for (size_t n = 1; n <= 3; n++) {
		server_sends(0, n * 16384, 16384);
		UNTIL(evbuffer_get_length(w.got) == n * 16384);
		assert_got(n * 16384);
		evbuffer_drain(w.got, n * 16384);
	}
}

/* The same when it is paused at the record, and what was told of it is left where it is. */
static void test_a_full_record_while_paused(void **state)
{
	(void)state;
	connected();
	w.keep_bytes = w.pause_at_bytes = true;
	server_sends(0, 16384, 16384);
	UNTIL(w.calls == 1);
	w.keep_bytes = w.pause_at_bytes = false;
	tls_stream_resume(w.stream);
	UNTIL(evbuffer_get_length(w.got) == 16384);
	assert_got(16384);
}

static void test_what_is_left_stays(void **state)
{
	(void)state;
	connected();
	w.keep_bytes = true;
	server_sends(0, 1000, 1000);
	UNTIL(w.largest == 1000);
	w.keep_bytes = false;
	server_sends(1000, 10, 10);
	UNTIL(evbuffer_get_length(w.got) > 0);
	assert_got(1010);
}

static void test_nothing_is_told_while_paused(void **state)
{
	size_t got, calls;

	(void)state;
	connected();
	w.pause_at_bytes = true;
	server_sends(0, 100, 100);
	UNTIL(w.calls == 1);
	server_sends(100, 5000, 1000);
	SSL_shutdown(w.server);
	hang_up();
	quiet();
	assert_int_equal(w.calls, 1);
	assert_int_equal(evbuffer_get_length(w.got), 100);
	assert_false(w.end);
	for (int i = 0; i < 100 && !w.end; i++) {
		got = evbuffer_get_length(w.got);
		calls = w.calls;
		tls_stream_resume(w.stream);
		assert_int_equal(w.calls, calls);	/* never from inside a call */
		turn();
		assert_true(w.calls > calls);
		if (evbuffer_get_length(w.got) == got)	/* only because it was resumed */
			w.pause_at_bytes = false;
		quiet();
	}
	assert_true(w.end);
	assert_got(5100);
}

/* Whoever gives up while it is opened is told nothing any more. */
static void test_paused_before_it_is_open(void **state)
{
	(void)state;
	connect_to("imap.example");
	tls_stream_pause(w.stream);
	for (int i = 0; i < 200; i++) {
		turn();
		server_turn();
	}
	hang_up();
	quiet();
	assert_false(w.open || w.end);
}

static void test_resume_tells_what_was_left(void **state)
{
	(void)state;
	connected();
	w.keep_bytes = w.pause_at_bytes = true;
	server_sends(0, 77, 77);
	UNTIL(w.calls == 1);
	w.keep_bytes = w.pause_at_bytes = false;
	tls_stream_resume(w.stream);
	UNTIL(w.calls == 2);
	assert_got(77);
	quiet();
	assert_int_equal(w.calls, 2);
}

static void test_bytes_come_before_the_end(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		connected();
		server_sends(0, 3000, 1000);
		if (i < 2)
			SSL_shutdown(w.server);
		if (i > 0)		/* i == 2: as Exchange does (exchange-online 5.11) */
			hang_up();
		UNTIL(w.end);
		assert_got(3000);
		assert_string_equal(w.why, "connection closed by the server");
		assert_false(w.is_certificate);
		quiet();
		evbuffer_drain(w.got, 3000);
		tls_stream_free(&w.stream);
		hang_up();
	}
}

static void test_lines_that_do_not_fit_wait(void **state)
{
	static unsigned char all[200 * 1000];
	size_t at = 0;
	int result;

	(void)state;
	connected();
	for (size_t i = 0; i < 200; i++) {
		char *line = malloc(1000);

		for (size_t j = 0; j < 1000; j++)
			line[j] = (char)pattern(i * 1000 + j);
		tls_stream_send(w.stream, line, 1000);
	}
	server_sends(0, 5000, 1000);	/* and meanwhile it reads */
	for (int turns = 0; at < sizeof(all) && turns < TURNS; turns++) {
		ERR_clear_error();
		result = SSL_read(w.server, all + at, (int)(sizeof(all) - at));
		at += result > 0 ? (size_t)result : 0;
		turn();
	}
	assert_int_equal(at, sizeof(all));
	for (size_t i = 0; i < sizeof(all); i++)
		if (all[i] != pattern(i))
			fail_msg("byte %zu is another", i);
	UNTIL(evbuffer_get_length(w.got) == 5000);
	assert_got(5000);
}

/* What cannot be sent ends the connection, but what the server has said before counts. */
static void test_a_last_word_is_heard(void **state)
{
	(void)state;
	connected();
	server_sends(0, 50, 50);
	SSL_shutdown(w.server);
	hang_up();
	for (int i = 0; i < 3; i++)
		tls_stream_send(w.stream, xstrdup("A1 NOOP\r\n"), 9);
	UNTIL(w.end);
	assert_got(50);
	assert_string_equal(w.why, "connection closed by the server");
}

/* Half a record, and the connection is reset, all seen with the same event. */
static void test_a_reset_is_told_as_one(void **state)
{
	(void)state;
	connected();
	tls_stream_send(w.stream, xstrdup("A1 NOOP\r\n"), 9);	/* which nobody reads */
	server_sends(0, 3000, 1000);
	assert_int_equal(write(w.server_fd, "\27\3\3\1\0half", 9), 9);
	hang_up();
	UNTIL(w.end);
	assert_got(3000);
	assert_string_equal(w.why, "Connection reset by peer");
}

static void test_what_waits_goes_out_while_paused(void **state)
{
	unsigned char data[1000];
	size_t at = 0;
	int result;

	(void)state;
	connected();
	tls_stream_pause(w.stream);
	for (size_t i = 0; i < 50; i++)
		tls_stream_send(w.stream, memset(malloc(1000), 'x', 1000), 1000);
	server_sends(0, 5000, 1000);
	for (int turns = 0; at < 50 * 1000 && turns < TURNS; turns++) {
		ERR_clear_error();
		result = SSL_read(w.server, data, sizeof(data));
		at += result > 0 ? (size_t)result : 0;
		turn();
	}
	assert_int_equal(at, 50 * 1000);
	assert_int_equal(w.calls, 0);
	tls_stream_resume(w.stream);
	UNTIL(evbuffer_get_length(w.got) == 5000);
	assert_got(5000);
}

static void test_a_certificate_for_another_name(void **state)
{
	(void)state;
	connect_to("other.example");
	UNTIL(w.end);
	assert_false(w.open);
	assert_true(w.is_certificate);
	assert_string_equal(w.why, "the server's certificate is for another host name");
}

static void test_closed_in_the_handshake(void **state)
{
	(void)state;
	connect_to("imap.example");
	turn();
	hang_up();
	UNTIL(w.end);
	assert_false(w.open || w.is_certificate);
	assert_true(strcmp(w.why, "connection closed by the server") == 0 || strcmp(w.why, "Connection reset by peer") == 0);
}

static void test_no_tls(void **state)
{
	(void)state;
	connect_to("imap.example");
	assert_int_equal(write(w.server_fd, "* OK no TLS here\r\n", 18), 18);
	SSL_free(w.server);
	w.server = NULL;
	UNTIL(w.end);
	assert_string_equal(w.why, "wrong version number");
}

static void test_freed_in_its_callbacks(void **state)
{
	(void)state;
	w.free_at_open = true;
	connect_to("imap.example");
	UNTIL(w.stream == NULL);
	assert_true(w.open);
	hang_up();
	w.free_at_open = false;
	w.free_at_bytes = true;
	connected();
	server_sends(0, MUCH / 10, 3000);
	UNTIL(w.stream == NULL);
	hang_up();
	w.free_at_bytes = false;
	w.free_at_end = true;
	connected();
	hang_up();
	UNTIL(w.stream == NULL);
	assert_true(w.end);
	quiet();
}

static void test_the_next_one_resumes(void **state)
{
	char text[160];
	int64_t end_wall_s;

	(void)state;
	for (int i = 0; i < 3; i++) {
		connected();
		server_sends(0, 10, 10);	/* tickets of TLS 1.3 come with it */
		UNTIL(evbuffer_get_length(w.got) == 10);
		assert_int_equal(SSL_session_reused(w.server), i > 0);
		tls_stream_describe(w.stream, text, sizeof(text), &end_wall_s);
		assert_non_null(strstr(text, ", certificate by a test, valid until "));
		evbuffer_drain(w.got, 10);
		tls_stream_free(&w.stream);
		assert_int_equal(SSL_read(w.server, text, sizeof(text)), 0);
		assert_int_equal(SSL_get_error(w.server, 0), SSL_ERROR_ZERO_RETURN);	/* close_notify */
		hang_up();
	}
}

static void test_new_keys_in_between(void **state)
{
	(void)state;
	connected();
	if (SSL_version(w.server) != TLS1_3_VERSION)
		return;			/* the other set-up's */
	server_sends(0, 1000, 300);
	assert_int_equal(SSL_key_update(w.server, SSL_KEY_UPDATE_REQUESTED), 1);
	server_sends(1000, 1000, 300);
	UNTIL(evbuffer_get_length(w.got) == 2000);
	assert_got(2000);
	tls_stream_send(w.stream, xstrdup("A1 NOOP\r\n"), 9);
	quiet();
	{
		char line[16] = "";

		assert_int_equal(SSL_read(w.server, line, sizeof(line)), 9);
		assert_string_equal(line, "A1 NOOP\r\n");
	}
}

static void test_no_ca_file(void **state)
{
	char error[160];

	(void)state;
	assert_null(tls_stream_new(w.base, w.tls, "imap.example", "/nonexistent/ca.pem", &ops, &w, error, sizeof(error)));
	assert_non_null(strstr(error, "/nonexistent/ca.pem"));
}

#define TEST(f) { #f " (TLS 1.3)", f, set_up_13, tear_down, NULL }, { #f " (TLS 1.2)", f, set_up_12, tear_down, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_comes_with_the_handshake_is_told),
		TEST(test_all_bytes_come_in_order),
		TEST(test_what_was_read_ahead_comes_too),
		TEST(test_a_full_record_and_nothing_after_it),
		TEST(test_a_full_record_while_paused),
		TEST(test_what_is_left_stays),
		TEST(test_nothing_is_told_while_paused),
		TEST(test_paused_before_it_is_open),
		TEST(test_resume_tells_what_was_left),
		TEST(test_bytes_come_before_the_end),
		TEST(test_lines_that_do_not_fit_wait),
		TEST(test_a_last_word_is_heard),
		TEST(test_a_reset_is_told_as_one),
		TEST(test_what_waits_goes_out_while_paused),
		TEST(test_a_certificate_for_another_name),
		TEST(test_closed_in_the_handshake),
		TEST(test_no_tls),
		TEST(test_freed_in_its_callbacks),
		TEST(test_the_next_one_resumes),
		TEST(test_new_keys_in_between),
		TEST(test_no_ca_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
