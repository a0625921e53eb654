#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "util.h"

static void *checked(void *p)
{
	if (p == NULL) {
		fputs("mailpolld: out of memory\n", stderr);
		abort();
	}
	return p;
}

void *xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *xcalloc(size_t n, size_t size)
{
	return checked(calloc(n ? n : 1, size ? size : 1));
}

void *xreallocarray(void *p, size_t n, size_t size)
{
	return checked(reallocarray(p, n ? n : 1, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return s == NULL ? NULL : checked(strdup(s));
}

char *xstrndup(const char *s, size_t len)
{
	return checked(strndup(s, len));
}

char *xasprintf(const char *fmt, ...)
{
	va_list args;
	char *text;
	int n;

	va_start(args, fmt);
	n = vasprintf(&text, fmt, args);
	va_end(args);
	return checked(n < 0 ? NULL : text);
}

void secret_free(char **secret)
{
	if (*secret != NULL)
		explicit_bzero(*secret, strlen(*secret));
	free(*secret);
	*secret = NULL;
}

bool str_equal(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

bool str_ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && memcmp(s + n - m, end, m) == 0;
}

bool glob_match(const char *pattern, const char *s)
{
	const char *star = NULL, *again = NULL;	/* the last `*`, and where what follows it is tried next */

	while (*s != '\0') {
		if (*pattern == '*') {
			star = ++pattern;
			again = s;
		} else if (*pattern == '?' || tolower((unsigned char)*pattern) == tolower((unsigned char)*s)) {
			pattern++;
			s++;
		} else if (star != NULL) {
			pattern = star;
			s = ++again;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

int parse_u64(const char *s, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (*s == '\0')
		return -1;
	for (; *s != '\0'; s++) {
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
			return -1;
	}
	*ret_value = value;
	return 0;
}

int parse_u32(const char *s, uint32_t *ret_value)
{
	uint64_t value;

	if (parse_u64(s, &value) < 0 || value > UINT32_MAX)
		return -1;
	*ret_value = (uint32_t)value;
	return 0;
}

void hex_encode(const uint8_t *data, size_t len, char *ret_hex)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		ret_hex[2 * i] = digits[data[i] >> 4];
		ret_hex[2 * i + 1] = digits[data[i] & 15];
	}
	ret_hex[2 * len] = '\0';
}

char *percent_encode(const char *s, const char *also)
{
	static const char digits[] = "0123456789ABCDEF";
	char *out = xmalloc(3 * strlen(s) + 1), *p = out;

	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;

		if ((c < 0x80 && isalnum(c)) || strchr("@._+-", c) != NULL || strchr(also, c) != NULL) {
			*p++ = (char)c;
		} else {
			*p++ = '%';
			*p++ = digits[c >> 4];
			*p++ = digits[c & 15];
		}
	}
	*p = '\0';
	return out;
}

const char *rfc3339(int64_t wall_s, char ret_text[static RFC3339_SIZE])
{
	time_t t = (time_t)wall_s;
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || tm.tm_year > 9999 - 1900 ||
	    strftime(ret_text, RFC3339_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		memcpy(ret_text, "1970-01-01T00:00:00Z", RFC3339_SIZE);
	return ret_text;
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629), 0 when there is none. */
size_t utf8_length(const unsigned char *s, size_t len)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;

	if (n == 0 || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

void drop_cut_character(char *text)
{
	unsigned char *s = (unsigned char *)text;
	size_t len = strlen(text), begin = len;

	while (begin > 0 && len - begin < 3 && (s[begin - 1] & 0xc0) == 0x80)
		begin--;
	if (begin > 0 && s[begin - 1] >= 0xc0 && utf8_length(s + begin - 1, len - begin + 1) == 0)
		s[begin - 1] = '\0';
}

void printable(char *ret_text, size_t size, const char *s, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len && s[i] != '\0';) {
		const unsigned char *p = (const unsigned char *)s + i;
		size_t n = utf8_length(p, len - i);
		bool control = n == 1 ? *p < 0x20 || *p == 0x7f : n == 2 && *p == 0xc2 && p[1] < 0xa0;

		if (out + (n > 0 ? n : 1) >= size)
			break;
		if (n == 0 || control) {
			ret_text[out++] = '?';
			i += n > 0 ? n : 1;
		} else {
			memcpy(ret_text + out, p, n);
			out += n;
			i += n;
		}
	}
	ret_text[out] = '\0';
}

size_t hide_long_words(char *s, size_t len, size_t max)
{
	size_t out = 0, word;

	for (size_t in = 0; in < len; in += word) {
		for (word = 0; in + word < len && s[in + word] != ' '; word++)
			;
		if (word > max) {
			char size[32];

			snprintf(size, sizeof(size), "<%zu bytes>", word);
			memcpy(s + out, size, strlen(size));
			out += strlen(size);
		} else {
			word += in + word < len;	/* with its space */
			memmove(s + out, s + in, word);
			out += word;
		}
	}
	return out;
}

int date_parse(const char *text, int *ret_year, int *ret_month, int *ret_day)
{
	struct tm tm = { 0 }, normal;
	const char *end = strlen(text) == 10 ? strptime(text, "%Y-%m-%d", &tm) : NULL;

	normal = tm;
	if (end == NULL || *end != '\0' || timegm(&normal) < 0 || normal.tm_mday != tm.tm_mday)
		return -1;
	*ret_year = tm.tm_year + 1900;
	*ret_month = tm.tm_mon + 1;
	*ret_day = tm.tm_mday;
	return 0;
}

int64_t date_start_s(int year, int month, int day)
{
	struct tm tm = { .tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day };

	return (int64_t)timegm(&tm);
}

bool is_guid(const char *s)
{
	static const char pattern[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	if (strlen(s) != sizeof(pattern) - 1)
		return false;
	for (size_t i = 0; s[i] != '\0'; i++)
		if (pattern[i] == '-' ? s[i] != '-' : strchr("0123456789abcdefABCDEF", s[i]) == NULL)
			return false;
	return true;
}

char *url_host(const char *url, uint16_t *ret_port)
{
	const char *host = strstr(url, "://"), *user_end, *end, *stops = ":/?#";
	char number[6] = "";
	uint32_t port;

	host = host != NULL ? host + 3 : url;
	user_end = memchr(host, '@', strcspn(host, "/?#"));
	if (user_end != NULL)
		host = user_end + 1;
	if (host[0] == '[') {
		host++;
		stops = "]/?#";
	}
	end = host + strcspn(host, stops);
	sscanf(end + (*end == ']'), ":%5[0-9]", number);
	if (ret_port != NULL && parse_u32(number, &port) == 0 && port <= UINT16_MAX)
		*ret_port = (uint16_t)port;
	return xstrndup(host, (size_t)(end - host));
}

int flush_opened(int fd)
{
	int error = fsync(fd) < 0 ? errno : 0;

	close(fd);
	return error;
}

static int flush(const char *path, int flags)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);

	return fd < 0 ? errno : flush_opened(fd);
}

int flush_file(const char *path)
{
	return flush(path, O_NOFOLLOW);
}

int flush_directory(const char *path)
{
	return flush(path, O_DIRECTORY);
}

char *directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? xstrdup(".") : xstrndup(path, slash == path ? 1 : (size_t)(slash - path));
}

int flush_directory_of(const char *path)
{
	char *dir = directory_of(path);
	int error = flush_directory(dir);

	free(dir);
	return error;
}
