/* The phases are one table, phase_def: what entering sends, what an untagged line, a `+` and the tagged reply mean
 * there, how long it may last. session_enter() is the only writer of s->phase. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dial.h"
#include "imap_session_private.h"
#include "imap_trace.h"
#include "log.h"
#include "tls_stream.h"

#define IDLE_END_MS 30000
#define COPIED_RANGES_MAX 10000		/* of COPYUID; a command is for some hundreds of messages */
#define REFUSAL_WORD 200		/* longer than a refusal's JSON, shorter than an access token */

enum phase {
	P_DIAL, P_TLS, P_GREETING, P_CAPABILITY, P_AUTH, P_AUTH_REFUSED, P_CAPABILITY_AFTER, P_READY, P_WAIT,
	P_COMMAND, P_IDLE_ASKED, P_IDLE, P_IDLE_END, P_LOGOUT, P_ENDED
};

struct imap_session {
	struct event_base *base;		/* lent */
	struct dialer *dialer;			/* lent */
	struct imap_session_conf conf;		/* token is NULL */
	const struct imap_session_ops *ops;
	void *arg;
	enum phase phase;
	char *initial_response;			/* SASL's, base64; NULL once sent */
	struct dial *dial;			/* NULL unless P_DIAL */
	struct tls_stream *stream;		/* NULL: its CA cannot be read */
	struct imap_parser *parser;
	bool parser_has_more;			/* an event was given; the parser may have another without new bytes */
	bool paused;
	bool idle_end_asked;			/* leave IDLE as soon as its `+` has come */
	unsigned capabilities;			/* bits of known_capabilities[], of the present state */
	bool capabilities_told;
	unsigned tag;				/* number of the command under way */
	enum imap_command command;
	enum failure_phase where;		/* for failures of the command under way */
	msec_t idle_ms;
	uint32_t exists;			/* in the selected folder */
	bool exists_told;			/* in this command */
	struct ranges copied;			/* COPYUID, in this command */
	struct imap_done done;			/* what its untagged lines have told */
	struct event *timer, *end_ev;
	struct failure *failure;		/* why it ended; NULL: it has not, or as wished */
	struct imap_trace *trace;		/* lent; NULL: nobody looks */
	char *refusal;				/* what the mechanism says of a refused sign-in; NULL: nothing */
	struct failure *complaint;		/* an untagged NO or BAD: perhaps why the end follows; NULL: none */
};

struct phase_def {
	const char *name;
	void (*enter)(struct imap_session *);
	void (*untagged)(struct imap_session *, const struct imap_response *);
	void (*plus)(struct imap_session *, const struct imap_response *);	/* NULL: not expected, ignored */
	void (*tagged)(struct imap_session *, const struct imap_response *);	/* NULL: not expected, ends the session */
	void (*timeout)(struct imap_session *);		/* NULL: ends the session */
	double seconds;				/* 0: no deadline */
	enum failure_phase where;
};
static const struct phase_def phases[];

static void end_with(struct imap_session *s, const struct failure *why);

static void set_timer(struct imap_session *s, msec_t ms)
{
	struct timeval tv = clock_interval(ms);

	if (ms == 0 || s->paused)
		event_del(s->timer);
	else
		event_add(s->timer, &tv);
}

static msec_t phase_limit_ms(const struct imap_session *s)
{
	return s->phase == P_IDLE ? s->idle_ms : (msec_t)(phases[s->phase].seconds * 1000);
}

static void session_enter(struct imap_session *s, enum phase next)	/* the only writer of s->phase */
{
	log_debug(s->conf.log, "session: %s -> %s", phases[s->phase].name, phases[next].name);
	s->phase = next;
	set_timer(s, phase_limit_ms(s));
	if (phases[next].enter != NULL)
		phases[next].enter(s);
}

static enum failure_phase where(const struct imap_session *s)
{
	return s->phase == P_COMMAND ? s->where : phases[s->phase].where;
}

/* Safe anywhere, once: the owner hears of it from the loop. why NULL: as wished. After LOGOUT all was done, whatever is answered, or is not. */
static void end_with(struct imap_session *s, const struct failure *why)
{
	if (s->phase == P_ENDED)
		return;
	if (why != NULL && s->phase != P_LOGOUT)
		failure_keep(&s->failure, why);
	if (s->stream != NULL)
		tls_stream_pause(s->stream);
	dial_cancel(&s->dial);
	session_enter(s, P_ENDED);
	event_active(s->end_ev, 0, 0);
}

/* What gives no reason follows one (exchange-online 5.5, 5.6): then that counts, and at least the wait of the end itself. Where a session
 * ends so every day, a NO that says nothing we know is a warning (RFC 3501 7.1.2). */
static void end_without_reason(struct imap_session *s, const struct failure *end)
{
	struct failure why = *end;

	if (s->complaint != NULL && (end->fail != FAIL_EXPECTED || s->complaint->schedule != SCHEDULE_NETWORK)) {
		why = *s->complaint;
		if (why.asked_wait_ms < end->asked_wait_ms)
			why.asked_wait_ms = end->asked_wait_ms;
	}
	end_with(s, &why);
}

static void end_by_network(struct imap_session *s, bool is_certificate, const char *what)
{
	struct failure why;

	failure_from_network(&why, where(s), is_certificate, what, s->conf.subject);
	end_without_reason(s, &why);
}

static bool is_in_command(const struct imap_session *s)
{
	return s->phase == P_COMMAND || s->phase == P_IDLE_ASKED || s->phase == P_IDLE || s->phase == P_IDLE_END;
}

static void end_by_answer(struct imap_session *s, enum failure_answer answer, const struct imap_response *r)
{
	struct failure why;
	size_t len;

	failure_from_imap(&why, where(s), answer, r->code, r->text, s->conf.subject);
	len = strlen(why.text);
	if (s->refusal != NULL)
		snprintf(why.text + len, sizeof(why.text) - len, "; the server says of the refused sign-in: %s", s->refusal);
	else if (answer == ANSWER_BAD && is_in_command(s))	/* whoever looks for the cause wants to know to what (exchange-online 5.7) */
		snprintf(why.text + len, sizeof(why.text) - len, ", to %s", imap_command_name(s->command));
	end_with(s, &why);
}

static bool gives_no_reason(const struct failure *bye)
{
	return strcmp(bye->name, "closed") == 0 || strcmp(bye->name, "closed-number") == 0 || strcmp(bye->name, "closed-while-idle") == 0;
}

static void end_by_bye(struct imap_session *s, const struct imap_response *r)
{
	struct failure why;

	failure_from_imap(&why, where(s), ANSWER_BYE, r->code, r->text, s->conf.subject);
	if (gives_no_reason(&why))
		end_without_reason(s, &why);
	else
		end_with(s, &why);
}

static void keep_complaint(struct imap_session *s, const struct imap_response *r)
{
	struct failure why;

	if (r->status == IMAP_NO || r->status == IMAP_BAD) {
		failure_from_imap(&why, where(s), r->status == IMAP_NO ? ANSWER_NO : ANSWER_BAD, r->code, r->text, s->conf.subject);
		failure_keep(&s->complaint, &why);
	}
}

static void end_by_protocol(struct imap_session *s, const char *what, const char *text)
{
	struct failure why;
	char shown[81];

	printable(shown, sizeof(shown), text, strlen(text));
	failure_own(&why, "protocol", s->conf.subject, "%s while %s: %s", what, phases[s->phase].name, shown);
	end_with(s, &why);
}

/* --- sending --- */

/* tag 0: the text is all of the line. */
static void put_line(struct imap_session *s, unsigned tag, const char *fmt, va_list args) PRINTF_LIKE(3, 0);
static void put_line(struct imap_session *s, unsigned tag, const char *fmt, va_list args)
{
	char *text = NULL, *line;
	va_list again;

	va_copy(again, args);
	if (vasprintf(&text, fmt, args) < 0)
		abort();
	line = tag != 0 ? xasprintf("A%u %s\r\n", tag, text) : xasprintf("%s\r\n", text);
	free(text);
	if (s->trace != NULL)
		imap_trace_sent(s->trace, tag, fmt, again);
	va_end(again);
	tls_stream_send(s->stream, line, strlen(line));
}

static void send_line(struct imap_session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void send_line(struct imap_session *s, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_line(s, 0, fmt, args);
	va_end(args);
}

static void send_secret(struct imap_session *s, const char *prefix)
{
	size_t len = strlen(prefix) + strlen(s->initial_response) + 2;
	char *line = xmalloc(len + 1);

	snprintf(line, len + 1, "%s%s\r\n", prefix, s->initial_response);
	secret_free(&s->initial_response);
	if (s->trace != NULL)
		imap_trace_sent_secret(s->trace, prefix);
	tls_stream_send(s->stream, line, len);
}

static void begin_command(struct imap_session *s, enum imap_command command, enum failure_phase phase)
{
	s->tag++;
	s->command = command;
	s->where = phase;
	s->exists_told = false;
	ranges_done(&s->copied);
	s->done = (struct imap_done){ .command = command };
}

void imap_session_command(struct imap_session *s, enum imap_command kind, enum failure_phase phase, const char *fmt, ...)
{
	va_list args;

	begin_command(s, kind, phase);
	session_enter(s, P_COMMAND);
	va_start(args, fmt);
	put_line(s, s->tag, fmt, args);
	va_end(args);
}

/* --- signing in --- */

static char *make_initial_response(const char *address, const char *token)
{
	char *plain = xasprintf("user=%s\001auth=Bearer %s\001\001", address, token);
	size_t len = strlen(plain);
	char *base64 = xmalloc((len + 2) / 3 * 4 + 1);

	EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain, (int)len);
	secret_free(&plain);
	return base64;
}

/* What this program asks for; the rest of a list, however long, is not kept. */
static const char *const known_capabilities[] = { "AUTH=XOAUTH2", "SASL-IR", "IDLE", "MOVE", "UIDPLUS" };

static void forget_capabilities(struct imap_session *s)
{
	s->capabilities = 0;
	s->capabilities_told = false;
}

static void enter_capability(struct imap_session *s)
{
	forget_capabilities(s);
	s->tag++;
	send_line(s, "A%u CAPABILITY", s->tag);
}

/* An answer may come in several lines. */
static void keep_capabilities(struct imap_session *s, const char *list)
{
	s->capabilities_told = true;
	for (size_t i = 0; i < ARRAY_LEN(known_capabilities); i++)
		if (imap_capability_has(list, known_capabilities[i]))
			s->capabilities |= 1U << i;
}

static void on_capability(struct imap_session *s, const struct imap_response *r)
{
	if (r->kind == IMAP_CAPABILITY)
		keep_capabilities(s, r->text);
	else if (r->code != NULL && strcmp(r->code, "CAPABILITY") == 0)
		keep_capabilities(s, r->code_args);
}

static void authenticate(struct imap_session *s)
{
	struct failure why;

	if (imap_session_can(s, "AUTH=XOAUTH2")) {
		s->ops->on_authenticating(s->arg);
		session_enter(s, P_AUTH);
	} else {
		failure_own(&why, "no-xoauth2", s->conf.subject, "server offers no AUTH=XOAUTH2");
		end_with(s, &why);
	}
}

/* It may tell the capabilities (RFC 3501 7.1); Exchange's does not. */
static void on_greeting(struct imap_session *s, const struct imap_response *r)
{
	if (r->kind != IMAP_STATUS_LINE)
		return;
	if (r->status != IMAP_OK) {
		end_by_protocol(s, "unexpected greeting", r->text);
		return;
	}
	log_debug(s->conf.log, "greeting: %.200s", r->text);	/* names the front end (exchange-online 4.1) */
	on_capability(s, r);
	if (imap_session_can(s, "AUTH=XOAUTH2"))
		authenticate(s);
	else
		session_enter(s, P_CAPABILITY);
}

static void on_capability_done(struct imap_session *s, const struct imap_response *r)
{
	if (r->status != IMAP_OK || !s->capabilities_told) {
		end_by_answer(s, r->status == IMAP_BAD ? ANSWER_BAD : ANSWER_NO, r);
	} else if (s->phase == P_CAPABILITY_AFTER) {
		session_enter(s, P_READY);
		s->ops->on_ready(s->arg);
	} else {
		authenticate(s);
	}
}

static void enter_auth(struct imap_session *s)
{
	char prefix[48];

	s->tag++;
	if (imap_session_can(s, "SASL-IR")) {
		snprintf(prefix, sizeof(prefix), "A%u AUTHENTICATE XOAUTH2 ", s->tag);
		send_secret(s, prefix);
	} else {
		send_line(s, "A%u AUTHENTICATE XOAUTH2", s->tag);
	}
}

/* A `+` asks for the response in the two-step form; after it was sent it is a failure that the mechanism wants
 * answered with an empty line (exchange-online 4.2). */
static void on_auth_plus(struct imap_session *s, const struct imap_response *r)
{
	char reason[1024] = "", shown[sizeof(reason)];
	size_t len = strlen(r->text);
	int n;

	if (s->initial_response != NULL) {
		send_secret(s, "");
		return;
	}
	if (len <= sizeof(reason) && (n = EVP_DecodeBlock((unsigned char *)reason, (const unsigned char *)r->text, (int)len)) > 0) {
		printable(shown, sizeof(shown), reason, (size_t)n < sizeof(reason) ? (size_t)n : sizeof(reason) - 1);
		shown[hide_long_words(shown, strlen(shown), REFUSAL_WORD)] = '\0';
		free(s->refusal);
		s->refusal = xstrdup(shown);
	}
	send_line(s, "%s", "");
	session_enter(s, P_AUTH_REFUSED);
}

static void on_auth_done(struct imap_session *s, const struct imap_response *r)
{
	if (r->status != IMAP_OK) {
		end_by_answer(s, r->status == IMAP_BAD ? ANSWER_BAD : ANSWER_NO, r);
		return;
	}
	free(s->refusal);		/* a `+` that was none, after all */
	s->refusal = NULL;
	forget_capabilities(s);		/* those of before the login do not count any more */
	if (r->code != NULL && strcmp(r->code, "CAPABILITY") == 0) {
		keep_capabilities(s, r->code_args);
		session_enter(s, P_READY);
		s->ops->on_ready(s->arg);
	} else {
		session_enter(s, P_CAPABILITY_AFTER);
	}
}

/* --- commands --- */

static void note_code(struct imap_session *s, const struct imap_response *r)
{
	if (r->code == NULL)
		return;
	if (strcmp(r->code, "COPYUID") == 0 && (s->command == COMMAND_COPY || s->command == COMMAND_MOVE)) {
		if (s->copied.n <= COPIED_RANGES_MAX && imap_add_copied(r->code_args, &s->copied))
			s->done.copied = &s->copied;
	} else if (strcmp(r->code, "UIDVALIDITY") == 0 && s->command == COMMAND_SELECT && r->has_code_number) {
		s->done.uidvalidity = r->code_number;
	} else if (strcmp(r->code, "UIDNEXT") == 0 && s->command == COMMAND_SELECT && r->has_code_number) {
		s->done.uidnext = r->code_number;
	}
}

static void on_command_line(struct imap_session *s, const struct imap_response *r)
{
	switch (r->kind) {
	case IMAP_STATUS_LINE:
		note_code(s, r);
		break;
	case IMAP_EXISTS:
		if (s->exists_told)		/* mail has come meanwhile: UIDNEXT is of before that */
			s->done.uidnext = 0;
		s->exists_told = true;
		s->done.exists = s->exists = r->number;
		s->ops->on_exists(s->arg, s->exists);
		break;
	case IMAP_EXPUNGE:			/* counts by itself: an EXISTS need not follow (RFC 3501 7.4.1) */
		if (s->exists > 0)
			s->ops->on_exists(s->arg, --s->exists);
		break;
	case IMAP_MAILBOX_STATUS:
		s->done.status = r->mailbox;
		break;
	case IMAP_FETCH:
		s->ops->on_fetched(s->arg, &r->fetch);
		break;
	default:
		break;
	}
}

static void on_command_done(struct imap_session *s, const struct imap_response *r)
{
	struct failure why;
	struct imap_done done;

	if (r->status == IMAP_BAD) {		/* the connection's state is doubtful: no more commands (exchange-online 0.3) */
		end_by_answer(s, ANSWER_BAD, r);
		return;
	}
	if (r->status == IMAP_NO) {
		failure_from_imap(&why, s->where, ANSWER_NO, r->code, r->text, s->conf.subject);
		s->done.failure = &why;
	}
	s->done.ok = r->status == IMAP_OK;
	s->done.read_only = r->code != NULL && strcmp(r->code, "READ-ONLY") == 0;
	note_code(s, r);
	s->done.unasked = s->phase == P_IDLE_ASKED || s->phase == P_IDLE;
	done = s->done;
	session_enter(s, P_READY);
	s->ops->on_done(s->arg, &done);
}

static void on_idle_plus(struct imap_session *s, const struct imap_response *r)
{
	(void)r;
	session_enter(s, P_IDLE);
	s->ops->on_idling(s->arg);
	if (s->idle_end_asked && s->phase == P_IDLE)
		session_enter(s, P_IDLE_END);
}

static void on_idle_timeout(struct imap_session *s)
{
	session_enter(s, P_IDLE_END);
}

static void enter_idle_end(struct imap_session *s)
{
	send_line(s, "DONE");
}

/* Its deadline is near: a planned sign-in waits for it, and mail with it; both together take less than a second. */
static void enter_logout(struct imap_session *s)
{
	s->tag++;
	send_line(s, "A%u LOGOUT", s->tag);
}

static void on_logout_done(struct imap_session *s, const struct imap_response *r)
{
	(void)r;
	imap_session_abandon(s);
}

static const struct phase_def phases[] = {
	/* name, on entry, untagged line, `+`, tagged reply, on timeout, seconds, where (for failures) */
	[P_DIAL]             = { "connecting", NULL, NULL, NULL, NULL, NULL, 60, PHASE_CONNECT },
	[P_TLS]              = { "negotiating TLS", NULL, NULL, NULL, NULL, NULL, 30, PHASE_TLS },
	[P_GREETING]         = { "awaiting the greeting", NULL, on_greeting, NULL, NULL, NULL, 30, PHASE_GREETING },
	[P_CAPABILITY]       = { "asking capabilities", enter_capability, on_capability, NULL, on_capability_done, NULL, 30, PHASE_CAPABILITY },
	[P_AUTH]             = { "authenticating", enter_auth, on_capability, on_auth_plus, on_auth_done, NULL, 60, PHASE_AUTHENTICATE },
	[P_AUTH_REFUSED]     = { "hearing the refusal", NULL, NULL, NULL, on_auth_done, NULL, 60, PHASE_AUTHENTICATE },
	[P_CAPABILITY_AFTER] = { "asking capabilities again", enter_capability, on_capability, NULL, on_capability_done, NULL, 60, PHASE_OPEN },
	[P_READY]            = { "between commands", NULL, on_command_line, NULL, NULL, NULL, 0, PHASE_OTHER },
	[P_WAIT]             = { "waiting", NULL, on_command_line, NULL, NULL, NULL, 0, PHASE_IDLE },
	[P_COMMAND]          = { "in a command", NULL, on_command_line, NULL, on_command_done, NULL, 120, PHASE_OTHER },
	[P_IDLE_ASKED]       = { "beginning IDLE", NULL, on_command_line, on_idle_plus, on_command_done, NULL, 60, PHASE_OTHER },
	[P_IDLE]             = { "idling", NULL, on_command_line, NULL, on_command_done, on_idle_timeout, 0, PHASE_IDLE },
	[P_IDLE_END]         = { "leaving IDLE", enter_idle_end, on_command_line, NULL, on_command_done, NULL, IDLE_END_MS / 1000, PHASE_IDLE },
	[P_LOGOUT]           = { "logging out", enter_logout, NULL, NULL, on_logout_done, NULL, 0.5, PHASE_LOGOUT },
	[P_ENDED]            = { "ended", NULL, NULL, NULL, NULL, NULL, 0, PHASE_OTHER },
};

/* --- receiving --- */

static void on_stray(struct imap_session *s, const struct imap_response *r)
{
	struct failure why;

	/* An unstarred "Server Unavailable. 15" is an answer (exchange-online 5.4); other stray lines are noise (4.7). */
	failure_from_imap(&why, where(s), ANSWER_STRAY, NULL, r->text, s->conf.subject);
	if (why.fail != FAIL_NONE)
		end_with(s, &why);
	else if (s->phase == P_GREETING)	/* who begins so is no IMAP server */
		end_by_protocol(s, "unexpected greeting", r->text);
}

/* Has the server been given a secret that it might repeat? */
static bool is_told_a_secret(const struct imap_session *s)
{
	return s->phase == P_AUTH || s->phase == P_AUTH_REFUSED;
}

static void on_response(struct imap_session *s, const struct imap_response *r)
{
	const struct phase_def *phase = &phases[s->phase];
	struct imap_response safe = *r;
	char expected[16], text[512];

	if (is_told_a_secret(s) && r->kind != IMAP_CONTINUE) {
		snprintf(text, sizeof(text), "%s", r->text);
		text[hide_long_words(text, strlen(text), IMAP_TRACE_WORD)] = '\0';
		safe.text = text;
		r = &safe;
	}
	if (r->code != NULL && strcmp(r->code, "ALERT") == 0)
		s->ops->on_alert(s->arg, r->text);

	switch (r->kind) {
	case IMAP_TAGGED:
		if (r->status == IMAP_OK)
			failure_drop(&s->complaint);
		snprintf(expected, sizeof(expected), "A%u", s->tag);
		if (phase->tagged == NULL || strcmp(r->tag, expected) != 0)
			end_by_protocol(s, "a tagged reply that nothing asked for", r->tag);
		else
			phase->tagged(s, r);
		break;
	case IMAP_CONTINUE:
		if (phase->plus != NULL)
			phase->plus(s, r);
		break;
	case IMAP_STRAY:
		on_stray(s, r);
		break;
	case IMAP_STATUS_LINE:
		if (r->status == IMAP_BYE && s->phase != P_LOGOUT) {
			end_by_bye(s, r);
			break;
		}
		keep_complaint(s, r);
		FALLTHROUGH;
	default:
		if (phase->untagged != NULL)
			phase->untagged(s, r);
	}
}

static bool fetching(const struct imap_session *s)
{
	return s->phase == P_COMMAND && s->command == COMMAND_FETCH;
}

static void on_body_bytes(struct imap_session *s, struct evbuffer *in, const struct imap_event *ev, size_t used)
{
	struct evbuffer *copy;

	if (!fetching(s)) {
		evbuffer_drain(in, used);
	} else if (ev->body_in_place) {
		s->ops->on_body(s->arg, in, used);
	} else {			/* a quoted string: bounded by the parser's line */
		evbuffer_drain(in, used);
		copy = evbuffer_new();
		evbuffer_add(copy, ev->body, ev->body_len);
		s->ops->on_body(s->arg, copy, ev->body_len);
		evbuffer_free(copy);
	}
}

static void trace_received(struct imap_session *s, const struct imap_event *ev, const void *data, size_t len)
{
	imap_trace_distrust(s->trace, is_told_a_secret(s));
	if (ev->what == IMAP_BODY && ev->body_in_place)
		imap_trace_body(s->trace, len);
	else
		imap_trace_received(s->trace, data, len);
	if (ev->what == IMAP_BODY_START && ev->quoted_len > 0)
		imap_trace_was_body(s->trace, ev->quoted_len);
}

/* Hands one push to the parser; false when all there is has been taken. */
static bool read_some(struct imap_session *s, struct evbuffer *in)
{
	struct evbuffer_iovec chunk = { NULL, 0 };
	struct imap_event ev;
	size_t used;

	if (evbuffer_get_length(in) == 0 && !s->parser_has_more)
		return false;
	if (evbuffer_peek(in, -1, NULL, &chunk, 1) > 0 && chunk.iov_len == 0 && evbuffer_get_length(in) > 0) {
		chunk.iov_base = evbuffer_pullup(in, 1);	/* past an empty chain */
		chunk.iov_len = evbuffer_get_contiguous_space(in);
	}
	used = imap_parser_push(s->parser, chunk.iov_base, chunk.iov_len, &ev);
	s->parser_has_more = ev.what != IMAP_MORE;
	if (s->trace != NULL)
		trace_received(s, &ev, chunk.iov_base, used);
	if (ev.what == IMAP_BODY) {
		on_body_bytes(s, in, &ev, used);
		return true;
	}
	evbuffer_drain(in, used);
	switch (ev.what) {
	case IMAP_RESPONSE:
		on_response(s, ev.response);
		break;
	case IMAP_NUMBERS:
		if (s->phase == P_COMMAND && s->command == COMMAND_SEARCH)
			s->ops->on_uids(s->arg, ev.lo, ev.hi);
		break;
	case IMAP_BODY_START:
		if (fetching(s))
			s->ops->on_body_start(s->arg, ev.section, ev.uid, ev.size_bytes);
		break;
	case IMAP_BROKEN:
		end_by_protocol(s, "the server's answer cannot be read", ev.error);
		break;
	default:
		break;
	}
	return true;
}

static void on_bytes(void *arg, struct evbuffer *in)
{
	struct imap_session *s = arg;

	if (s->phase == P_COMMAND)
		set_timer(s, phase_limit_ms(s));	/* the peer lives: the deadline is for silence */
	while (s->phase != P_ENDED && !s->paused && read_some(s, in))
		;
}

static void on_open(void *arg)
{
	session_enter(arg, P_GREETING);
}

static void on_stream_end(void *arg, bool is_certificate, const char *why)
{
	end_by_network(arg, is_certificate, why);
}

static void on_dialed(void *arg, int fd, enum failure_phase phase, const char *error)
{
	struct imap_session *s = arg;
	struct failure why;

	s->dial = NULL;
	if (fd < 0) {
		failure_from_network(&why, phase, false, error, s->conf.subject);
		end_with(s, &why);
		return;
	}
	tls_stream_open(s->stream, fd);
	session_enter(s, P_TLS);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct imap_session *s = arg;
	char text[96];

	(void)fd, (void)what;
	if (phases[s->phase].timeout != NULL) {
		phases[s->phase].timeout(s);
		return;
	}
	if (s->phase == P_TLS || s->phase == P_GREETING)
		dialer_doubt(s->dialer, s->conf.host, tls_stream_fd(s->stream));
	snprintf(text, sizeof(text), "timed out while %s", phases[s->phase].name);
	end_by_network(s, false, text);
}

static void on_end_event(evutil_socket_t fd, short what, void *arg)
{
	static const struct failure none;
	struct imap_session *s = arg;

	(void)fd, (void)what;
	s->ops->on_end(s->arg, s->failure != NULL ? s->failure : &none);
}

/* --- life --- */

struct imap_session *imap_session_new(struct event_base *base, struct dialer *dialer, struct tls *tls,
    const struct imap_session_conf *conf, const struct imap_session_ops *ops, void *arg)
{
	static const struct tls_stream_ops stream_ops = { on_open, on_bytes, on_stream_end };
	struct imap_session *s = xcalloc(1, sizeof(*s));
	struct failure why;
	char error[160];

	s->base = base;
	s->dialer = dialer;
	s->conf = *conf;
	s->conf.token = NULL;
	s->trace = conf->trace;
	s->ops = ops;
	s->arg = arg;
	s->initial_response = make_initial_response(conf->address, conf->token);
	s->parser = imap_parser_new();
	s->timer = evtimer_new(base, on_timer, s);
	s->end_ev = event_new(base, -1, 0, on_end_event, s);
	s->stream = tls_stream_new(base, tls, conf->host, conf->ca_file, &stream_ops, s, error, sizeof(error));
	session_enter(s, P_DIAL);
	if (s->stream != NULL) {
		s->dial = dial_start(dialer, conf->host, conf->port, on_dialed, s);
	} else {
		failure_own(&why, "ca-file", s->conf.subject, "%s", error);
		end_with(s, &why);
	}
	return s;
}

void imap_session_free(struct imap_session **session)
{
	struct imap_session *s = *session;

	if (s == NULL)
		return;
	dial_cancel(&s->dial);
	tls_stream_free(&s->stream);
	imap_parser_free(&s->parser);
	event_free(s->timer);
	event_free(s->end_ev);
	secret_free(&s->initial_response);
	ranges_done(&s->copied);
	failure_drop(&s->failure);
	failure_drop(&s->complaint);
	free(s->refusal);
	free(s);
	*session = NULL;
}

void imap_session_abandon(struct imap_session *s)
{
	end_with(s, NULL);
}

void imap_session_set_trace(struct imap_session *s, struct imap_trace *trace)
{
	s->trace = trace;
}

bool imap_session_can(const struct imap_session *s, const char *capability)
{
	for (size_t i = 0; i < ARRAY_LEN(known_capabilities); i++)
		if (strcmp(known_capabilities[i], capability) == 0)
			return s->capabilities & (1U << i);
	return false;
}

bool imap_session_is_ready(const struct imap_session *s)
{
	return s->phase == P_READY || s->phase == P_WAIT;
}

bool imap_session_is_idling(const struct imap_session *s)
{
	return s->phase == P_IDLE_ASKED || s->phase == P_IDLE;
}

void imap_session_pause(struct imap_session *s)
{
	if (s->paused || s->phase == P_ENDED)
		return;
	s->paused = true;
	event_del(s->timer);
	tls_stream_pause(s->stream);
}

void imap_session_resume(struct imap_session *s)
{
	if (!s->paused || s->phase == P_ENDED)
		return;
	s->paused = false;
	set_timer(s, phase_limit_ms(s));
	tls_stream_resume(s->stream);
}

/* --- IDLE, LOGOUT; the other commands: imap_session_commands.c --- */

void imap_session_idle(struct imap_session *s, msec_t at_most_ms)
{
	begin_command(s, COMMAND_IDLE, PHASE_IDLE);
	s->idle_ms = at_most_ms > 0 ? at_most_ms : 1;
	s->idle_end_asked = false;
	session_enter(s, P_IDLE_ASKED);
	send_line(s, "A%u IDLE", s->tag);
}

void imap_session_leave_idle(struct imap_session *s)
{
	if (s->phase == P_IDLE)
		session_enter(s, P_IDLE_END);
	else if (s->phase == P_IDLE_ASKED)
		s->idle_end_asked = true;	/* DONE before the `+` would be BAD (exchange-online 4.8) */
}

void imap_session_wait(struct imap_session *s)
{
	if (s->phase == P_READY)
		session_enter(s, P_WAIT);
}

void imap_session_logout(struct imap_session *s)
{
	session_enter(s, P_LOGOUT);
}
