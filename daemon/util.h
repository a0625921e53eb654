/* util.h - small things everybody needs: memory that aborts when there is none, wiped secrets, text, flushed files. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MUST_CHECK __attribute__((warn_unused_result))
#define FALLTHROUGH __attribute__((fallthrough))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* For our own small needs only: what a peer sizes has a bound of its own. They abort when memory is gone. */
void *xmalloc(size_t size) __attribute__((malloc));
void *xcalloc(size_t n, size_t size) __attribute__((malloc));
void *xreallocarray(void *p, size_t n, size_t size);
char *xstrdup(const char *s);			/* NULL gives NULL */
char *xstrndup(const char *s, size_t len);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Wipes, then frees, then sets NULL; NULL inside is fine. */
void secret_free(char **secret);

bool str_equal(const char *a, const char *b);	/* NULL equals only NULL */
bool str_ends_with(const char *s, const char *end);

/* Whether all of s fits a pattern, in which * stands for anything and ? for one byte; any case. */
bool glob_match(const char *pattern, const char *s);

/* A decimal number of 32 or 64 bits, digits only, no sign, nothing after it; -1 when it is not one. */
int parse_u32(const char *s, uint32_t *ret_value) MUST_CHECK;
int parse_u64(const char *s, uint64_t *ret_value) MUST_CHECK;

void hex_encode(const uint8_t *data, size_t len, char *ret_hex);	/* writes 2 * len + 1 bytes */

/* Percent-encodes every byte outside [A-Za-z0-9@._+-] and outside also (may be ""). Caller frees. */
char *percent_encode(const char *s, const char *also);

#define RFC3339_SIZE sizeof("2026-01-31T23:59:59Z")
const char *rfc3339(int64_t wall_s, char ret_text[static RFC3339_SIZE]);	/* UTC */

/* How many bytes the valid UTF-8 character at s has; 0: none is there. */
size_t utf8_length(const unsigned char *s, size_t len);

/* Takes away what is left of a character that was cut where text ends. */
void drop_cut_character(char *text);

/* Copies what a peer said into a log or a status: printable UTF-8 stays, the rest becomes '?', bounded by size. */
void printable(char *ret_text, size_t size, const char *s, size_t len);

/* Shows words of more than max (at least 16) bytes as their sizes, in place: what may have a secret in it. The new length. */
size_t hide_long_words(char *s, size_t len, size_t max);

char *directory_of(const char *path);	/* "." when it names none; caller frees */

/* What is there survives a power loss (fsync): a file's content; a directory's entries, path naming the directory, or something in it.
 * 0, or errno. They may wait for a disk: not on the loop. */
int flush_file(const char *path) MUST_CHECK;
int flush_directory(const char *path) MUST_CHECK;
int flush_directory_of(const char *path) MUST_CHECK;
int flush_opened(int fd) MUST_CHECK;	/* and closes it */

/* A day as 2026-01-31. -1: not one, since 1970. */
int date_parse(const char *text, int *ret_year, int *ret_month, int *ret_day) MUST_CHECK;
int64_t date_start_s(int year, int month, int day);	/* its midnight, UTC, in seconds since 1970 */

bool is_guid(const char *);		/* 1b2c3d4e-0000-1111-2222-333344445555 */

/* The host of a URL that has been checked before, [::1] without its brackets. ret_port may be NULL, and stays as it is when the URL
 * names no port. Caller frees. */
char *url_host(const char *url, uint16_t *ret_port);
