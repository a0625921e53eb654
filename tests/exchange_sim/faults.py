"""What a server may do instead of answering a command. A fault is {"kind": ..., "command": "UID FETCH", ...}; without "command"
it is for the next one after the sign-in, LOGOUT excepted; "asks": for one that asks for this UID, or for this folder. state.State.fault() says how often and for which messages.

    throttle     ms, form: NO, BAD, BAD-BYE, BYE, untagged (NO, then BYE)     exchange-online 5.6; ms counts down with each
    unavailable  form: NO, BAD, bare                                        5.4
    answer       line: any lines, {tag} stands for the command's; close: true, or "raw", without close_notify     5.5, 5.7, 5.14, 4.9
    hang         nothing at all
    chatter      a line each every_s real seconds, and never an answer
    close-raw    the connection ends without close_notify                   5.11
    two-tags     the answer, and its last line once more
    long-line    bytes without end: a line of a GiB
    long-search  numbers: as many of them in a SEARCH
    garbage      bytes that are no IMAP

With "command": "DONE" it comes in answer to that (4.8, 5.4).

in-idle has one of these as "play" and comes while the client idles, by itself; mid-fetch comes in place of a message (uids), after others.

In imap.py and fetch.py, within an answer:
    messages     fetch-no (text), fetch-empty, fetch-whole-empty (in parts it can be had), substitute (text), body-nil (form; sections: only these)          5.8, 5.9
                 size-off (by, is), close-mid-literal (after, at_expiry), hang-mid-literal (after), lie (by), drip, number-above-exists, odd-flags, fetch-descending
                 fetch-odd (form: reversed, uid-last, lower-case, extra, quoted, plus, literal8, no-date, flags-first, unasked, twice, expunge, two-bodies, more-bodies, from-the-middle)
    anywhere     unsolicited (before each answer), news (add: messages, one each time; remove: one that has been fetched): with "command": "UID FETCH" between
                 messages, "UID SEARCH" between its numbers and its OK, "SELECT" before its OK, "IDLE" before the `+`, "DONE" before its OK
    looking      search-hides (only), search-also (words), search-descending, search-lines (each), search-silent, search-rest (seconds: before its OK), esearch, expunge-alone,
                 uidvalidity (is), uidnext (is), permanent-flags (flags), select-no (uids: names of folders), exists-before-plus, slow-plus (seconds), silent-idle,
                 idle-cut (after_s)
    afterwards   store-no, move-no, copy-no, expunge-no, move-nothing, bare-copyuid, close-after-move, slow-copy (each_s)
    signing in   auth-refused (form: json, json-echo, echo, bye), hang-authenticate, slow-sign-in (seconds), odd-plus (says), no-permission, delay-CMD (seconds),
                 connections (most: so many sessions of a mailbox, 5.13)
    the server   options (greeting, before, after, without, bads), long-capability (words, lines), no-idle, no-move, no-uidplus, no-sasl-ir
    at once      close-on-connect, hang-greeting, greeting (line, close), cut (after: so many bytes the connection ends, which "cuts" counts;
                 single: each byte comes by itself): for a line's port, or for everybody
"""
import asyncio
import socket

KINDS = ("throttle", "unavailable", "answer", "hang", "chatter", "close-raw", "two-tags", "long-line", "long-search", "garbage")


async def play(session, kind, fault, tag, answer):
    """In place of the command; answer() would do it."""
    await globals()["play_" + kind.replace("-", "_")](session, fault, tag, answer)


async def play_throttle(session, fault, tag, answer):
    text = "Request is throttled. Suggested Backoff Time: %d milliseconds" % fault["ms"]
    fault["ms"] = max(1, fault["ms"] - fault.get("countdown", 0))
    form = fault.get("form", "NO")
    if form in ("NO", "BAD", "BAD-BYE"):
        session.say("%s %s %s" % (tag, form.partition("-")[0], text))
    elif form == "untagged":
        session.say("* NO " + text)
    if form == "BYE":
        session.say("* BYE " + text)
    elif form in ("BAD-BYE", "untagged"):
        session.say("* BYE Connection closed. 14")
    if form not in ("NO", "BAD"):
        await session.close()
    await session.writer.drain()


async def play_unavailable(session, fault, tag, answer):
    form = fault.get("form", "NO")
    session.say("Server Unavailable. 15" if form == "bare" else "%s %s Server Unavailable. 15" % (tag, form))
    session.say("* BYE Connection closed.")
    await session.close()


async def play_answer(session, fault, tag, answer):
    for line in fault["line"].split("\n"):
        session.say(line.replace("{tag}", tag))
    await session.writer.drain()
    if fault.get("close") == "raw":
        session.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        raise ConnectionAbortedError
    if fault.get("close"):
        await session.close()


async def play_hang(session, fault, tag, answer):
    await asyncio.sleep(3600)


async def play_chatter(session, fault, tag, answer):
    while True:
        session.say("* OK Still here")
        await session.writer.drain()
        await asyncio.sleep(fault["every_s"])


async def play_close_raw(session, fault, tag, answer):
    session.writer.transport.abort()
    raise ConnectionAbortedError


async def play_two_tags(session, fault, tag, answer):
    await answer()
    session.say("%s OK and once more." % tag)
    await session.writer.drain()


async def play_long_line(session, fault, tag, answer):
    session.writer.write(b"* OK ")
    for _ in range(1024):
        session.writer.write(b"x" * 2 ** 20)
        await session.writer.drain()
        session.state.counts["long-line-bytes"] += 2 ** 20


async def play_long_search(session, fault, tag, answer):
    session.writer.write(b"* SEARCH")
    for first in range(1, 2 * fault["numbers"], 20000):
        session.writer.write(b"".join(b" %d" % n for n in range(first, first + 20000, 2)))
        await session.writer.drain()
    session.say("\r\n%s OK SEARCH completed." % tag)


async def play_garbage(session, fault, tag, answer):
    session.writer.write(bytes(range(1, 256)) * 4 + b"\r\n" + b"* FETCH (((\r\n" + b"* 5 FETCH (UID x)\r\n")
    await session.writer.drain()
