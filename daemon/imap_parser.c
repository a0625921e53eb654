/* One byte at a time through a state machine; only the bytes of a body are taken in slices. What a line is shows while
 * it comes: the numbers of a SEARCH and the items of a FETCH are dealt with at once, any other line is kept until its
 * end and then read as a whole. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "imap_parser.h"
#include "util.h"

#define LIST_DEPTH_MAX 16
#define TAG_MAX 11
#define HEAD_MAX 128			/* before a SEARCH's numbers, a FETCH's list: each blank, each parenthesis of a line is looked at, so not far back */
#define KEPT_BYTES 512			/* of a buffer, between lines */

struct text { char *v; size_t len, room; };	/* v[len] is NUL once text_end() was called */

enum at {
	AT_LINE,		/* in a line that is kept */
	AT_LINE_LITERAL,	/* in a literal that belongs to it */
	AT_NUMBERS,		/* in the numbers of a SEARCH */
	AT_REST,		/* what is left of the line does not matter */
	AT_ITEM,		/* before or in the name of a FETCH item */
	AT_VALUE,		/* before its value */
	AT_ATOM, AT_QUOTED, AT_LIST, AT_LIST_QUOTED,	/* in its value */
	AT_LITERAL_SIZE,	/* between the braces */
	AT_LITERAL_EOL,		/* after them */
	AT_LITERAL,		/* a literal that is kept, or is in a list */
	AT_BODY,		/* a literal that is handed out */
	AT_HELD_BODY,		/* a quoted one: it has been read, and is handed out */
	AT_BROKEN,
};

struct imap_parser {
	enum at at;
	struct text line;		/* the kept line; of a FETCH its beginning */
	struct text name, value;	/* of the FETCH item under way */
	size_t line_bytes;		/* what this line has cost so far, kept or not */
	uint64_t literal_bytes;		/* left to come */
	unsigned depth;			/* of lists in a FETCH value */
	unsigned brackets;		/* in an item's name */
	bool escaped;			/* after a backslash in a quoted string */
	size_t quoted_len;		/* of a quoted value so far, its first quote included */
	bool literal_has_digits;
	bool numbers_any_digit, numbers_second, numbers_are_esearch;
	uint64_t number_lo, number;
	bool held_given;		/* the bytes of AT_HELD_BODY are out */
	struct imap_response response;
	bool response_out;		/* lent: its texts live until the next push */
	const char *error;
};

struct imap_parser *imap_parser_new(void)
{
	return xcalloc(1, sizeof(struct imap_parser));
}

void imap_parser_free(struct imap_parser **parser)
{
	struct imap_parser *p = *parser;

	if (p == NULL)
		return;
	free(p->line.v);
	free(p->name.v);
	free(p->value.v);
	free(p);
	*parser = NULL;
}

bool imap_parser_at_rest(const struct imap_parser *p)
{
	return p->at == AT_LINE && (p->line.len == 0 || p->response_out);
}

/* --- texts --- */

static void text_add(struct text *t, char c)
{
	if (t->len + 2 > t->room) {
		t->room = t->room < 64 ? 128 : t->room * 2;
		t->v = xreallocarray(t->v, t->room, 1);
	}
	t->v[t->len++] = c;
}

static char *text_end(struct text *t)
{
	text_add(t, '\0');
	t->len--;
	return t->v;
}

static void text_clear(struct text *t)
{
	if (t->room > KEPT_BYTES) {
		free(t->v);
		t->v = NULL;
		t->room = 0;
	}
	t->len = 0;
}

static bool broken(struct imap_parser *p, const char *error, struct imap_event *ev)
{
	p->at = AT_BROKEN;
	p->error = error;
	*ev = (struct imap_event){ .what = IMAP_BROKEN, .error = error };
	return true;
}

/* --- a whole line --- */

static const char *skip_spaces(const char *s)
{
	while (*s == ' ')
		s++;
	return s;
}

/* Whether s begins with the word, any case, and the word ends there; ret_after gets what follows its spaces. */
static bool word(const char *s, const char *expected, const char **ret_after)
{
	size_t len = strlen(expected);

	if (strncasecmp(s, expected, len) != 0 || (s[len] != ' ' && s[len] != '\0'))
		return false;
	*ret_after = skip_spaces(s + len);
	return true;
}

static uint32_t saturated(const char *digits, const char **ret_after)
{
	uint64_t n = 0;

	for (; *digits >= '0' && *digits <= '9'; digits++)
		if (n <= UINT32_MAX)
			n = n * 10 + (uint64_t)(*digits - '0');
	*ret_after = digits;
	return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static bool read_status(const char *s, enum imap_status *ret_status, const char **ret_after)
{
	static const char *const words[] = { [IMAP_OK] = "OK", [IMAP_NO] = "NO", [IMAP_BAD] = "BAD", [IMAP_BYE] = "BYE",
		[IMAP_PREAUTH] = "PREAUTH" };

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (word(s, words[i], ret_after)) {
			*ret_status = (enum imap_status)i;
			return true;
		}
	return false;
}

/* "[UIDNEXT 5] text": only what has the form of a code is one; Exchange ends its greeting with a bracket of another kind. */
static void read_code_and_text(struct imap_response *r, char *s)
{
	char *end, *name_end;

	r->text = s;
	if (*s != '[' || (end = strchr(s, ']')) == NULL)
		return;
	for (name_end = s + 1; isalnum((unsigned char)*name_end) || *name_end == '-'; name_end++)
		;
	if (name_end == s + 1 || (*name_end != ' ' && name_end != end))
		return;
	for (char *c = s + 1; c < name_end; c++)
		*c = (char)toupper((unsigned char)*c);
	r->code = s + 1;
	r->code_args = name_end < end ? skip_spaces(name_end + 1) : end;
	if (r->code_args > end)
		r->code_args = end;
	*name_end = '\0';
	*end = '\0';
	r->text = skip_spaces(end + 1);
	r->has_code_number = parse_u32(r->code_args, &r->code_number) == 0;
}

/* "INBOX (MESSAGES 12 UIDNEXT 99)": the name may hold anything, the items hold no parenthesis. */
static void read_mailbox_status(struct imap_mailbox_status *m, const char *s)
{
	static const struct { const char *name; size_t has, value; } items[] = {
		{ "MESSAGES", offsetof(struct imap_mailbox_status, has_messages), offsetof(struct imap_mailbox_status, messages) },
		{ "UIDNEXT", offsetof(struct imap_mailbox_status, has_uidnext), offsetof(struct imap_mailbox_status, uidnext) },
		{ "UIDVALIDITY", offsetof(struct imap_mailbox_status, has_uidvalidity),
			offsetof(struct imap_mailbox_status, uidvalidity) },
	};
	const char *list = strrchr(s, '('), *after;

	for (s = list != NULL ? list + 1 : ""; *s != '\0' && *s != ')'; s = skip_spaces(s + strcspn(s, " )"))) {
		for (size_t i = 0; i < ARRAY_LEN(items); i++) {
			uint32_t value;

			if (!word(s, items[i].name, &after) || *after < '0' || *after > '9')
				continue;
			value = saturated(after, &s);
			memcpy((char *)m + items[i].value, &value, sizeof(value));
			*((bool *)m + items[i].has) = true;
			break;
		}
	}
}

/* Letters, then digits: also one that is not ours, since it answers a command that nobody sent. */
static bool is_tag(const char *s, const char **ret_end)
{
	const char *letters = s, *digits;

	while ((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z'))
		s++;
	for (digits = s; *s >= '0' && *s <= '9'; s++)
		;
	*ret_end = s;
	return digits > letters && s > digits && s - letters <= TAG_MAX && *s == ' ';
}

static void read_untagged(struct imap_response *r, char *s)
{
	const char *after;

	r->text = s;
	if (read_status(s, &r->status, &after)) {
		r->kind = IMAP_STATUS_LINE;
		read_code_and_text(r, s + (after - s));
	} else if (word(s, "CAPABILITY", &r->text)) {
		r->kind = IMAP_CAPABILITY;
	} else if (word(s, "STATUS", &after)) {
		r->kind = IMAP_MAILBOX_STATUS;
		read_mailbox_status(&r->mailbox, after);
	} else if (*s >= '0' && *s <= '9') {
		r->number = saturated(s, &after);
		after = skip_spaces(after);
		if (word(after, "EXISTS", &r->text))
			r->kind = IMAP_EXISTS;
		else if (word(after, "RECENT", &r->text))
			r->kind = IMAP_RECENT;
		else if (word(after, "EXPUNGE", &r->text))
			r->kind = IMAP_EXPUNGE;
	}
}

/* The line is whole. */
static void read_line(struct imap_response *r, char *s)
{
	const char *end, *after;

	*r = (struct imap_response){ .kind = IMAP_STRAY, .text = s, .code_args = "" };
	if (s[0] == '*' && (s[1] == ' ' || s[1] == '\0')) {
		r->kind = IMAP_OTHER;
		read_untagged(r, s + 1 + strspn(s + 1, " "));
	} else if (s[0] == '+') {
		r->kind = IMAP_CONTINUE;
		read_code_and_text(r, s + 1 + strspn(s + 1, " "));
	} else if (is_tag(s, &end)) {
		after = skip_spaces(end);
		if (!read_status(after, &r->status, &after) || r->status > IMAP_BAD)
			return;
		r->kind = IMAP_TAGGED;
		s[end - s] = '\0';
		r->tag = s;
		read_code_and_text(r, s + (after - s));
	}
}

static bool give_response(struct imap_parser *p, struct imap_event *ev)
{
	p->response_out = true;
	p->at = AT_LINE;
	*ev = (struct imap_event){ .what = IMAP_RESPONSE, .response = &p->response };
	return true;
}

static void next_line(struct imap_parser *p)
{
	text_clear(&p->line);
	text_clear(&p->name);
	text_clear(&p->value);
	p->line_bytes = 0;
	p->response_out = false;
}

/* "* 12 FETCH " has come, and now a parenthesis. */
static bool begins_fetch(struct imap_parser *p)
{
	const char *s = text_end(&p->line), *after;

	if (s[0] != '*' || s[1] != ' ' || p->line.len > HEAD_MAX)
		return false;
	s = skip_spaces(s + 1);
	if (*s < '0' || *s > '9')
		return false;
	p->response = (struct imap_response){ .kind = IMAP_FETCH, .text = "", .code_args = "" };
	p->response.number = saturated(s, &after);
	return *after == ' ' && word(skip_spaces(after), "FETCH", &after) && *after == '\0';
}

/* "* SEARCH" has come, or "* ESEARCH ... ALL", and now a space. */
static bool begins_numbers(struct imap_parser *p)
{
	const char *s = text_end(&p->line), *after;

	if (s[0] != '*' || s[1] != ' ' || p->line.len > HEAD_MAX)
		return false;
	s = skip_spaces(s + 1);
	p->numbers_are_esearch = false;
	if (word(s, "SEARCH", &after))
		return *after == '\0';
	p->numbers_are_esearch = true;
	return word(s, "ESEARCH", &after) && p->line.len > 4 && strcasecmp(p->line.v + p->line.len - 4, " ALL") == 0;
}

static bool is_search(const char *s)
{
	const char *after;

	return s[0] == '*' && s[1] == ' ' && (word(skip_spaces(s + 1), "SEARCH", &after) || word(skip_spaces(s + 1), "ESEARCH", &after));
}

/* "... {12}" at the end of a line whose value may be a literal (LIST, STATUS): the braces go, the literal follows. */
static bool ends_in_literal(struct imap_parser *p)
{
	char *s = text_end(&p->line), *open = strrchr(s, '{'), *close;
	const char *after;
	enum imap_status status;
	uint64_t size;

	if (open == NULL || open == s || open[-1] != ' ' || s[0] != '*' || s[1] != ' ' ||
	    read_status(skip_spaces(s + 1), &status, &after))
		return false;
	close = strchr(open, '}');
	if (close == NULL || close[1] != '\0')
		return false;
	*close = '\0';
	if (parse_u64(open + 1, &size) < 0) {
		*close = '}';
		return false;
	}
	p->line.len = (size_t)(open - s);
	p->literal_bytes = size;
	return true;
}

static void begin_numbers(struct imap_parser *p)
{
	p->at = AT_NUMBERS;
	p->response = (struct imap_response){ .kind = IMAP_SEARCH, .text = "", .code_args = "" };
	p->numbers_any_digit = p->numbers_second = false;
	p->number = p->number_lo = 0;
}

static bool in_line(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	switch (c) {
	case '\0':
	case '\r':
		return false;
	case '\n':
		if (p->line.len == 0)
			return false;
		if (ends_in_literal(p)) {
			p->at = AT_LINE_LITERAL;
			return false;
		}
		text_end(&p->line);
		if (is_search(p->line.v))
			p->response = (struct imap_response){ .kind = IMAP_SEARCH, .text = "", .code_args = "" };
		else
			read_line(&p->response, p->line.v);
		return give_response(p, ev);
	case ' ':
		if (begins_numbers(p)) {
			begin_numbers(p);
			return false;
		}
		break;
	case '(':
		if (begins_fetch(p)) {
			p->at = AT_ITEM;
			return false;
		}
		break;
	default:
		break;
	}
	text_add(&p->line, (char)c);
	return false;
}

static void in_line_literal(struct imap_parser *p, unsigned char c)
{
	text_add(&p->line, c == '\0' || c == '\r' || c == '\n' ? '?' : (char)c);
	if (--p->literal_bytes == 0)
		p->at = AT_LINE;
}

/* --- the numbers of a SEARCH --- */

/* A number or a pair has ended: out with it. */
static bool give_numbers(struct imap_parser *p, struct imap_event *ev)
{
	uint32_t lo = (uint32_t)(p->numbers_second ? p->number_lo : p->number), hi = (uint32_t)p->number;

	*ev = (struct imap_event){ .what = IMAP_NUMBERS, .lo = lo < hi ? lo : hi, .hi = lo < hi ? hi : lo };
	p->numbers_any_digit = p->numbers_second = false;
	p->number = p->number_lo = 0;
	p->line_bytes = 0;		/* an answer may be of any length */
	return true;
}

/* True: an event is given; ret_again: the byte has not been taken. */
static bool in_numbers(struct imap_parser *p, unsigned char c, struct imap_event *ev, bool *ret_again)
{
	bool ended = c == ' ' || c == ',' || c == '\n' || c == '(';

	if (c >= '0' && c <= '9') {
		p->number = p->number * 10 + (uint64_t)(c - '0');
		p->numbers_any_digit = true;
		return p->number > UINT32_MAX ? broken(p, "a number in SEARCH is too large", ev) : false;
	}
	if (c == '\r' || c == '\0')
		return false;
	if (c == ':' && p->numbers_any_digit && !p->numbers_second && p->number > 0) {
		p->number_lo = p->number;
		p->number = 0;
		p->numbers_any_digit = false;
		p->numbers_second = true;
		return false;
	}
	if (!ended || (p->numbers_second && !p->numbers_any_digit) || (p->numbers_any_digit && p->number == 0))
		return broken(p, "SEARCH gave something that is no number", ev);
	if (p->numbers_any_digit) {
		*ret_again = c != ' ' && c != ',';
		if (c == ' ' && p->numbers_are_esearch)
			p->at = AT_LINE;
		return give_numbers(p, ev);
	}
	if (c == '(')			/* (MODSEQ 5) */
		p->at = AT_REST;
	return c == '\n' ? give_response(p, ev) : false;
}

static bool in_rest(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	return c == '\n' ? give_response(p, ev) : false;
}

/* --- the items of a FETCH --- */

static bool is_body(const struct imap_parser *p)
{
	return p->name.len > 5 && strncasecmp(p->name.v, "BODY[", 5) == 0;
}

static bool give_body_start(struct imap_parser *p, uint64_t size, bool is_nil, struct imap_event *ev)
{
	char *name = text_end(&p->name), *end = strrchr(name, ']');

	if (strcmp(end + 1, "<0>") == 0 || end[1] == '\0')
		*end = '\0';
	else
		memmove(end, end + 1, strlen(end));	/* it begins elsewhere: "<4096>" is no "" */
	for (char *c = name; *c != '\0'; c++)
		*c = (char)toupper((unsigned char)*c);
	p->response.fetch.n_bodies++;
	*ev = (struct imap_event){ .what = IMAP_BODY_START, .section = name + 5, .uid = p->response.fetch.uid, .size_bytes = size,
		.is_nil = is_nil };
	return true;
}

static bool list_has(const char *list, const char *flag)
{
	const char *after;

	while (*list != '\0') {
		if (word(list, flag, &after))
			return true;
		list = skip_spaces(list + strcspn(list, " "));
	}
	return false;
}

/* An item that is not a body, and its value, are whole. */
static bool item_over(struct imap_parser *p, struct imap_event *ev)
{
	struct imap_fetch *f = &p->response.fetch;
	const char *name = text_end(&p->name), *value = text_end(&p->value);

	if (strcasecmp(name, "UID") == 0) {
		if (parse_u32(value, &f->uid) < 0 || f->uid == 0)
			return broken(p, "FETCH gave a UID that is none", ev);
	} else if (strcasecmp(name, "FLAGS") == 0) {
		f->has_flags = true;
		f->seen = list_has(value, "\\Seen");
		f->deleted = list_has(value, "\\Deleted");
	} else if (strcasecmp(name, "INTERNALDATE") == 0) {
		f->has_internaldate = imap_parse_internaldate(value, &f->internaldate_s) == 0;
	} else if (strcasecmp(name, "RFC822.SIZE") == 0) {
		f->has_size = parse_u64(value, &f->rfc822_size_bytes) == 0;
	}
	text_clear(&p->name);
	text_clear(&p->value);
	p->at = AT_ITEM;
	return false;
}

static bool in_item(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	if (p->brackets == 0) {
		switch (c) {
		case ' ':
			if (p->name.len > 0)
				p->at = AT_VALUE;
			return false;
		case ')':
			if (p->name.len > 0)
				return broken(p, "FETCH gave an item without a value", ev);
			p->at = AT_REST;
			return false;
		case '(':
		case '"':
		case '{':
			return broken(p, "FETCH gave a value without a name", ev);
		default:
			break;
		}
	}
	if (c == '\r' || c == '\0')
		return false;
	if (c == '\n')
		return broken(p, "a FETCH response ends too early", ev);
	if (c == '[')
		p->brackets++;
	else if (c == ']' && p->brackets > 0)
		p->brackets--;
	text_add(&p->name, (char)c);
	return false;
}

static void begin_literal(struct imap_parser *p)
{
	p->at = AT_LITERAL_SIZE;
	p->literal_bytes = 0;
	p->literal_has_digits = false;
}

static bool in_value(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	switch (c) {
	case ' ':
	case '\0':
	case '\r':
	case '~':			/* a literal8 (RFC 3516) */
		return false;
	case '\n':
	case ')':
		return broken(p, "a FETCH response ends too early", ev);
	case '"':
		p->at = AT_QUOTED;
		p->escaped = false;
		p->quoted_len = 1;
		return false;
	case '{':
		begin_literal(p);
		return false;
	case '(':
		p->at = AT_LIST;
		p->depth = 1;
		return false;
	default:
		p->at = AT_ATOM;
		text_add(&p->value, (char)c);
		return false;
	}
}

/* True: an event is given, or the byte must come again (ret_again). */
static bool in_atom(struct imap_parser *p, unsigned char c, struct imap_event *ev, bool *ret_again)
{
	if (c != ' ' && c != ')' && c != '\n') {
		if (c != '\r' && c != '\0')
			text_add(&p->value, (char)c);
		return false;
	}
	*ret_again = true;
	if (!is_body(p))
		return item_over(p, ev);
	if (strcasecmp(text_end(&p->value), "NIL") != 0)
		return broken(p, "FETCH gave a body that is no string", ev);
	text_clear(&p->value);
	p->at = AT_HELD_BODY;
	p->held_given = true;
	return give_body_start(p, 0, true, ev);
}

static bool in_quoted(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	if (c == '\r' || c == '\n')
		return broken(p, "a quoted string ends too early", ev);
	p->quoted_len++;
	if (p->escaped || (c != '\\' && c != '"')) {
		p->escaped = false;
		text_add(&p->value, (char)c);
		return false;
	}
	if (c == '\\') {
		p->escaped = true;
		return false;
	}
	if (!is_body(p))
		return item_over(p, ev);
	p->at = AT_HELD_BODY;
	p->held_given = p->value.len == 0;
	give_body_start(p, p->value.len, false, ev);
	ev->quoted_len = p->quoted_len;
	return true;
}

static bool in_list(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	switch (c) {
	case '\0':
	case '\r':
		return false;
	case '\n':
		return broken(p, "a FETCH response ends too early", ev);
	case '(':
		if (++p->depth > LIST_DEPTH_MAX)
			return broken(p, "lists are nested too deep", ev);
		break;
	case ')':
		if (--p->depth == 0) {
			if (is_body(p))
				return broken(p, "FETCH gave a body that is no string", ev);
			return item_over(p, ev);
		}
		break;
	case '"':
		p->at = AT_LIST_QUOTED;
		p->escaped = false;
		break;
	case '{':
		begin_literal(p);
		return false;
	default:
		break;
	}
	text_add(&p->value, (char)c);
	return false;
}

static bool in_list_quoted(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	if (c == '\r' || c == '\n')
		return broken(p, "a quoted string ends too early", ev);
	if (c == '"' && !p->escaped)
		p->at = AT_LIST;
	p->escaped = c == '\\' && !p->escaped;
	text_add(&p->value, c == '\0' ? '?' : (char)c);
	return false;
}

static bool in_literal_size(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	if (c >= '0' && c <= '9') {
		if (p->literal_bytes > (INT64_MAX - 9) / 10)
			return broken(p, "the length of a literal is too large", ev);
		p->literal_bytes = p->literal_bytes * 10 + (uint64_t)(c - '0');
		p->literal_has_digits = true;
	} else if (c == '}' && p->literal_has_digits) {
		p->at = AT_LITERAL_EOL;
	} else if (p->depth > 0 && c != '+') {	/* a brace in a flag's name: odd, and of no matter to us */
		p->at = AT_LIST;
		return in_list(p, c, ev);
	} else if (c != '+' || !p->literal_has_digits) {
		return broken(p, "the length of a literal is no number", ev);
	}
	return false;
}

static bool literal_over(struct imap_parser *p, struct imap_event *ev)
{
	if (p->depth > 0) {
		p->at = AT_LIST;
		return false;
	}
	return item_over(p, ev);
}

static bool in_literal_eol(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	if (c == '\r')
		return false;
	if (c != '\n')
		return broken(p, "a literal does not begin with a new line", ev);
	if (is_body(p) && p->depth == 0) {
		p->at = AT_BODY;
		return give_body_start(p, p->literal_bytes, false, ev);
	}
	if (p->literal_bytes == 0)
		return literal_over(p, ev);
	p->at = AT_LITERAL;
	return false;
}

static bool in_literal(struct imap_parser *p, unsigned char c, struct imap_event *ev)
{
	text_add(&p->value, c == '\0' ? '?' : (char)c);
	return --p->literal_bytes == 0 ? literal_over(p, ev) : false;
}

/* --- bodies --- */

static void body_over(struct imap_parser *p, struct imap_event *ev)
{
	text_clear(&p->name);
	text_clear(&p->value);
	p->at = AT_ITEM;
	*ev = (struct imap_event){ .what = IMAP_BODY_END };
}

static size_t push_body(struct imap_parser *p, const uint8_t *data, size_t len, struct imap_event *ev)
{
	if (p->literal_bytes == 0) {
		body_over(p, ev);
		return 0;
	}
	if (len > p->literal_bytes)
		len = (size_t)p->literal_bytes;
	if (len > 0) {
		p->literal_bytes -= len;
		*ev = (struct imap_event){ .what = IMAP_BODY, .body = data, .body_len = len, .body_in_place = true };
	}
	return len;
}

static void push_held_body(struct imap_parser *p, struct imap_event *ev)
{
	if (p->held_given) {
		body_over(p, ev);
		return;
	}
	p->held_given = true;
	*ev = (struct imap_event){ .what = IMAP_BODY, .body = (const uint8_t *)p->value.v, .body_len = p->value.len };
}

/* --- all together --- */

/* True: an event is given. ret_again: the byte has not been taken. */
static bool push_byte(struct imap_parser *p, unsigned char c, struct imap_event *ev, bool *ret_again)
{
	switch (p->at) {
	case AT_LINE:
		return in_line(p, c, ev);
	case AT_LINE_LITERAL:
		if (p->literal_bytes == 0) {
			p->at = AT_LINE;
			*ret_again = true;
		} else {
			in_line_literal(p, c);
		}
		return false;
	case AT_NUMBERS:
		return in_numbers(p, c, ev, ret_again);
	case AT_REST:
		return in_rest(p, c, ev);
	case AT_ITEM:
		return in_item(p, c, ev);
	case AT_VALUE:
		p->depth = 0;
		return in_value(p, c, ev);
	case AT_ATOM:
		return in_atom(p, c, ev, ret_again);
	case AT_QUOTED:
		return in_quoted(p, c, ev);
	case AT_LIST:
		return in_list(p, c, ev);
	case AT_LIST_QUOTED:
		return in_list_quoted(p, c, ev);
	case AT_LITERAL_SIZE:
		return in_literal_size(p, c, ev);
	case AT_LITERAL_EOL:
		return in_literal_eol(p, c, ev);
	case AT_LITERAL:
		return in_literal(p, c, ev);
	case AT_BODY:
	case AT_HELD_BODY:
	case AT_BROKEN:
		break;
	}
	return false;
}

size_t imap_parser_push(struct imap_parser *p, const void *data, size_t len, struct imap_event *ret_ev)
{
	const uint8_t *bytes = data;
	size_t used = 0;

	*ret_ev = (struct imap_event){ .what = IMAP_MORE };
	if (p->response_out)
		next_line(p);
	if (p->at == AT_BROKEN) {
		broken(p, p->error, ret_ev);
		return 0;
	}
	if (p->at == AT_BODY)
		return push_body(p, bytes, len, ret_ev);
	if (p->at == AT_HELD_BODY) {
		push_held_body(p, ret_ev);
		return 0;
	}
	while (used < len) {
		bool again = false, event = push_byte(p, bytes[used], ret_ev, &again);

		if (!again) {
			used++;
			if (p->line.len > 0)	/* what comes between lines costs nothing */
				p->line_bytes++;
		}
		if (event)
			break;
		if (p->line_bytes > IMAP_LINE_MAX) {
			broken(p, "a line is too long", ret_ev);
			break;
		}
	}
	return used;
}
