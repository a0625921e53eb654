/* Values of their own, to and from text. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "imap_parser.h"
#include "util.h"

static bool digits(const char *s, unsigned n, int *ret_value)
{
	*ret_value = 0;
	for (; n > 0; n--, s++) {
		if (*s < '0' || *s > '9')
			return false;
		*ret_value = *ret_value * 10 + (*s - '0');
	}
	return true;
}

int imap_parse_internaldate(const char *text, int64_t *ret_wall_s)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	struct tm tm = { 0 };
	int day, month, year, hour, minute, second, zone_h, zone_m;
	char padded[3] = "";

	/* "dd-Mon-yyyy hh:mm:ss +zzzz"; the day may have one digit, with or without a space before it */
	if (text[0] == ' ')
		text++;
	if (text[0] != '\0' && text[1] == '-') {
		padded[0] = '0';
		padded[1] = text[0];
		text += 1;
	} else if (strlen(text) >= 2) {
		memcpy(padded, text, 2);
		text += 2;
	}
	if (strlen(text) != sizeof("-Jan-2026 02:02:12 +0100") - 1 || !digits(padded, 2, &day) || text[0] != '-' || text[4] != '-' ||
	    !digits(text + 5, 4, &year) || text[9] != ' ' || !digits(text + 10, 2, &hour) || text[12] != ':' ||
	    !digits(text + 13, 2, &minute) || text[15] != ':' || !digits(text + 16, 2, &second) || text[18] != ' ' ||
	    (text[19] != '+' && text[19] != '-') || !digits(text + 20, 2, &zone_h) || !digits(text + 22, 2, &zone_m))
		return -1;
	for (month = 0; month < 12 && strncasecmp(months + month * 3, text + 1, 3) != 0; month++)
		;
	if (month == 12 || day < 1 || day > 31 || year < 1970 || hour > 23 || minute > 59 || second > 60 || zone_h > 14 || zone_m > 59)
		return -1;
	tm.tm_year = year - 1900;
	tm.tm_mon = month;
	tm.tm_mday = day;
	tm.tm_hour = hour;
	tm.tm_min = minute;
	tm.tm_sec = second;
	*ret_wall_s = (int64_t)timegm(&tm) - (text[19] == '-' ? -1 : 1) * ((int64_t)zone_h * 3600 + zone_m * 60);
	return 0;
}

bool imap_capability_has(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *s = list; *s != '\0'; s += strspn(s, " ")) {
		size_t n = strcspn(s, " ");

		if (n == len && strncasecmp(s, name, len) == 0)
			return true;
		s += n;
	}
	return false;
}

/* The next character, or -1: this is not UTF-8. */
static int32_t next_character(const uint8_t **s)
{
	size_t n = utf8_length(*s, strlen((const char *)*s));
	uint32_t c = n == 1 ? **s : **s & (0xffU >> (n + 1));

	if (n == 0)
		return -1;
	for (size_t i = 1; i < n; i++)
		c = c << 6 | ((*s)[i] & 0x3f);
	*s += n;
	return (int32_t)c;
}

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";	/* RFC 3501 5.1.3 */

struct utf7 { char *out; uint32_t bits; unsigned n_bits; bool shifted; };

static void utf7_unit(struct utf7 *u, uint32_t unit)
{
	if (!u->shifted) {
		*u->out++ = '&';
		u->shifted = true;
	}
	u->bits = u->bits << 16 | unit;
	for (u->n_bits += 16; u->n_bits >= 6; u->n_bits -= 6)
		*u->out++ = base64[u->bits >> (u->n_bits - 6) & 63];
	u->bits &= (1U << u->n_bits) - 1;
}

static void utf7_end_shift(struct utf7 *u)
{
	if (!u->shifted)
		return;
	if (u->n_bits > 0)
		*u->out++ = base64[u->bits << (6 - u->n_bits) & 63];
	*u->out++ = '-';
	u->shifted = false;
	u->bits = u->n_bits = 0;
}

char *imap_quote_mailbox(const char *utf8)
{
	const uint8_t *s = (const uint8_t *)utf8;
	char *quoted = xmalloc(strlen(utf8) * 6 + 8);	/* one byte becomes at most "&xxx-" */
	struct utf7 u = { .out = quoted };
	int32_t c;

	*u.out++ = '"';
	while (*s != '\0') {
		c = next_character(&s);
		if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xa0)) {
			free(quoted);
			return NULL;
		}
		if (c >= 0x10000) {
			utf7_unit(&u, 0xd800 + (((uint32_t)c - 0x10000) >> 10));
			utf7_unit(&u, 0xdc00 + (((uint32_t)c - 0x10000) & 0x3ff));
			continue;
		}
		if (c >= 0x80) {
			utf7_unit(&u, (uint32_t)c);
			continue;
		}
		utf7_end_shift(&u);
		if (c == '"' || c == '\\')
			*u.out++ = '\\';
		*u.out++ = (char)c;
		if (c == '&')
			*u.out++ = '-';
	}
	utf7_end_shift(&u);
	*u.out++ = '"';
	*u.out = '\0';
	return quoted;
}
