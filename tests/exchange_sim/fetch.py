"""FETCH as Exchange answers it (exchange-online 4.6, 5.8, 5.9), and as no server should."""
import asyncio
import base64
import re
import time

import clock
import faults
import messages

ODD_FLAGS = ["$MDNSent", "\\*", "we]ird", "{3", "\\X-a'b", "caf\xe9", "[x", "NIL"]
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
# what else Exchange and others have put into a response (4.6)
EXTRA = ['MODSEQ (917162500)', 'BODYSTRUCTURE (NIL NIL NIL NIL NIL "7BIT" 0 NIL NIL NIL NIL)', 'X-GM-LABELS ("\\\\Inbox" "a )b" {3}\r\n)\r\n "c")',
         'ENVELOPE ("d" "s" (("Microsoft Exchange Server" NIL NIL ".MISSING-HOST-NAME.")) NIL NIL NIL NIL NIL NIL NIL)', 'EMAILID NIL']


def date(internaldate):
    t = time.gmtime(internaldate)
    return '"%02d-%s-%d %02d:%02d:%02d +0000"' % (t.tm_mday, MONTHS[t.tm_mon - 1], t.tm_year, t.tm_hour, t.tm_min, t.tm_sec)


class Fetching:
    """A part of imap.Session."""

    async def do_fetch(self, tag, args):
        """By sequence numbers, as no client of ours asks."""
        which, _, items = args.partition(" ")
        uids = list(self.folder.messages)
        numbers = [int(n) for n in re.findall(r"\d+", which)]
        if any(not 0 < n <= len(uids) for n in numbers):
            await self.no(tag, "The specified message set is invalid.")
            return
        await self.do_uid_fetch(tag, re.sub(r"\d+", lambda m: str(uids[int(m.group()) - 1]), which) + " " + items)

    async def do_uid_fetch(self, tag, args):
        which, _, items = args.partition(" ")
        try:
            uids = self.chosen(which)
        except ValueError:
            await self.bad(tag, "Command Argument Error. 11")
            return
        items = re.findall(r"BODY(?:\.PEEK)?\[[^\]]*\](?:<[^>]*>)?|[A-Z0-9.]+", items.upper().strip("()"))
        numbers = {u: i for i, u in enumerate(self.folder.messages, 1)}
        for uid in uids:
            refused = self.fault("fetch-no", uid)
            if refused:
                await self.no(tag, refused.get("text", "The specified message set is invalid."))
                return
        self.state.in_flight += 1
        try:
            for uid in reversed(uids) if self.fault("fetch-descending") else uids:
                whole = any(item.endswith("[]") for item in items)
                fault = self.fault("mid-fetch", uid) if whole else None
                if fault:                       # those before it have come
                    await self.writer.drain()
                    await faults.play(self, fault["play"], fault, tag, lambda: self.ok(tag, "FETCH completed."))
                    return
                if self.fault("fetch-empty", uid) or uid not in self.folder.messages or (whole and self.fault("fetch-whole-empty", uid)):
                    continue
                await self.fetch_odd(numbers, uid, items)
                if any(item.startswith("BODY") for item in items):
                    self.news("UID FETCH")
            await self.writer.drain()
        finally:
            self.state.in_flight -= 1
        await self.ok(tag, "FETCH completed.")

    async def fetch_odd(self, numbers, uid, items):
        """One message; with fetch-odd, form: in an odd way."""
        message = self.folder.messages[uid]
        fault = self.fault("fetch-odd", uid) if any(i.startswith("BODY") for i in items) else None
        form = fault["form"] if fault else ""
        if form == "flags-first":               # about the same message, without it
            self.say("* %d FETCH (UID %d FLAGS (\\Recent))" % (numbers[uid], uid))
            self.say("* %d FETCH (FLAGS (\\Seen))" % numbers[uid])
        if form == "unasked":                   # others, whole, that nobody asked for: one that is there, one that is not, one without a name
            first = self.folder.messages[next(iter(self.folder.messages))]
            await self.fetch_one(1, first, [i for i in items if i != "UID"])
            await self.fetch_one(1, first, items, uid=uid + 100000)
            await self.fetch_one(1, first, items)
        if form == "expunge":                   # somebody else removes the first and the last
            for gone in (min(self.folder.messages), max(self.folder.messages)):
                self.folder.remove(gone)
            self.notices()
        await self.fetch_one(numbers[uid], message, items, form)
        if form == "twice":
            await self.fetch_one(numbers[uid], message, items)

    def item(self, name, message, uid):
        if name == "UID":
            return "UID %d" % uid
        if name == "FLAGS":
            return "FLAGS (%s)" % " ".join(sorted(message.flags) + (ODD_FLAGS if self.fault("odd-flags") else []))
        if name == "INTERNALDATE":
            return "INTERNALDATE " + date(message.internaldate)
        if name == "RFC822.SIZE":
            off = self.fault("size-off", message.uid)
            size = off["is"] if off and "is" in off else message.size + (off["by"] if off else message.size // 40)
            return "RFC822.SIZE %d" % max(0, size)
        return None

    async def fetch_one(self, number, message, items, form="", uid=None):
        uid = uid or message.uid
        if any(item.startswith("BODY[") for item in items):
            message.flags.add("\\Seen")
        if form == "reversed":
            items = items[::-1]
        if form == "uid-last":
            items = [i for i in items if i != "UID"] + ["UID"]
        if form == "no-date":
            items = [i for i in items if i != "INTERNALDATE"]
        above = 100000 if self.fault("number-above-exists") else 0
        self.writer.write(b"* %d FETCH (" % (number + above))
        between = b""
        for item in items:
            self.writer.write(between)
            between = b" "
            if item.startswith("BODY"):
                await self.fetch_body(message, item, form)
            else:
                text = self.item(item, message, uid)
                self.writer.write((text.lower() if form == "lower-case" and item != "INTERNALDATE" else text).encode("latin-1"))
        if form == "extra":
            self.writer.write(" ".join(["", *EXTRA]).encode())
        self.writer.write(b")\r\n")
        self.state.note("S * FETCH uid %d (%s)" % (uid, " ".join(items)))
        await self.writer.drain()

    def substitute(self, message):
        """exchange-online 5.8 B"""
        text = "From: \"Microsoft Exchange Server\"\r\nSubject: Retrieval using the IMAP4 protocol failed for the following message:\r\n %d\r\n\r\n" \
               "The server couldn't retrieve the following message:\r\n\r\nSubject: \"x\"\r\n" % message.uid
        return {"text": text}, len(text)

    def section(self, section, spec):
        """HEADER, HEADER.FIELDS (...) or TEXT of it."""
        head, _, rest = messages.body(spec).partition(b"\r\n\r\n")
        if section.startswith("HEADER.FIELDS"):
            names = section.partition("(")[2].strip(")").lower().split()
            fields = re.split(rb"\r\n(?![ \t])", head)
            head = b"\r\n".join(f for f in fields if f.split(b":")[0].decode("latin-1").strip().lower() in names)
        data = (head + b"\r\n\r\n" if head else b"\r\n") if section.startswith("HEADER") else rest
        return {"data": base64.b64encode(data).decode()}, len(data)

    async def fetch_body(self, message, item, form=""):
        section, _, partial = re.search(r"\[(.*)\](<(.*)>)?", item).groups()
        spec, size = message.spec, message.size
        substitute = self.fault("substitute", message.uid)
        if substitute:
            spec, size = ({"text": substitute["text"]}, len(substitute["text"])) if "text" in substitute else self.substitute(message)
        if section:
            spec, size = self.section(section, spec)
        origin = ""
        if partial:
            start, count = map(int, partial.split("."))
            data = messages.body(spec)[start:start + count]
            spec, size, origin = {"data": base64.b64encode(data).decode()}, len(data), "<%d>" % start
        empty = self.fault("body-nil", message.uid)
        if empty and section in empty.get("sections", [section]):
            self.writer.write(b"BODY[%s] %s" % (section.encode(), empty.get("form", "NIL").encode()))
            return
        if form == "from-the-middle" and not section:       # though all of it was asked for
            size, origin = size - 100, "<100>"
            spec = {"data": base64.b64encode(messages.body(spec)[100:]).decode()}
        if not section:
            self.folder.bodies[message.uid] += 1
            self.state.counts["bodies"] += 1
        self.writer.write(b"%s[%s]%s " % (b"body" if form == "lower-case" else b"BODY", section.encode(), origin.encode()))
        if form == "quoted":
            self.writer.write(b'"' + messages.body(spec).replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"')
            return
        lie = self.fault("lie", message.uid)
        self.writer.write({"plus": b"{%d+}\r\n", "literal8": b"~{%d}\r\n"}.get(form, b"{%d}\r\n") % (size + (lie["by"] if lie else 0)))
        await self.literal(message, spec)
        if form == "two-bodies" and not section:
            self.writer.write(b" BODY[] {5}\r\nagain")
        if form == "more-bodies" and not section:
            self.writer.write(b" BODY[HEADER] {5}\r\nagain")

    async def literal(self, message, spec):
        cut, drip, hang = self.fault("close-mid-literal", message.uid), self.fault("drip"), self.fault("hang-mid-literal", message.uid)
        sent = 0
        for chunk in messages.chunks(spec):
            if cut and sent + len(chunk) >= cut["after"]:
                self.writer.write(chunk[:max(0, cut["after"] - sent)])
                if cut.get("at_expiry"):        # the token's end, in the middle of a message (5.3)
                    await self.writer.drain()
                    await clock.sleep(max(0, self.token.expires - clock.now()))
                await self.close()
            if hang and sent + len(chunk) >= hang["after"]:
                self.writer.write(chunk[:max(0, hang["after"] - sent)])
                await self.writer.drain()
                await asyncio.sleep(3600)
            self.writer.write(chunk)
            sent += len(chunk)
            await self.writer.drain()
            if drip:
                await clock.sleep(len(chunk) / drip["bytes_per_second"])
