"""Exchange Online's IMAP as it has been seen on the wire (exchange-online 4 and 5). Wording and order are the point."""
import asyncio
import base64
import calendar
import re
import ssl

import clock
import faults
import fetch
import wire

GREETINGS = {"A": "* OK The Microsoft Exchange IMAP4 service is ready. [UwBJADIAUABSADAAMQBDAEEA]",
             "B": "* OK Microsoft Exchange IMAP4 service ready. 01234567-89ab-cdef-0123-456789abcdef (tcpproxy/15.21.0406.000 "
                  "BACKENDAUTHENTICATE) [TQBOADIA]"}
BEFORE = {"P1": "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+",
          "P2": "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+",
          "P3": "IMAP4 IMAP4rev1 AUTH=XOAUTH2 LOGINDISABLED SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+"}
AFTER = {"Q1": "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CLIENTACCESSRULES CLIENTNETWORKPRESENCELOCATION "
               "BACKENDAUTHENTICATE CHILDREN IDLE NAMESPACE LITERAL+",
         "Q2": "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT ENABLE IMAP4rev2 CLIENTACCESSRULES "
               "CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE BACKENDAUTHENTICATE-IR CHILDREN IDLE NAMESPACE LITERAL+"}
COMMAND_MAX = 10240             # exchange-online 4.9; tokens are longer lines than any other command


class Closed(Exception):
    pass


def parse_set(text, uids):
    """A sequence-set over these UIDs, ascending. '*' is the last one (RFC 3501 6.4.8)."""
    wanted, last = [], uids[-1] if uids else 0
    for part in text.split(","):
        lo, _, hi = part.partition(":")
        lo, hi = (last if x == "*" else int(x) for x in (lo, hi or lo))
        wanted.append((min(lo, hi), max(lo, hi)))
    if len(wanted) == 1:
        lo, hi = wanted[0]
        return [u for u in uids if lo <= u <= hi]
    chosen = set()
    for lo, hi in wanted:
        if hi - lo < 10000:
            chosen.update(range(lo, hi + 1))
        else:
            chosen.update(u for u in uids if lo <= u <= hi)
    return [u for u in uids if u in chosen]


def decode_name(name):
    """Modified UTF-7 (RFC 3501 5.1.3), perhaps quoted."""
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:-1])

    def shifted(match):
        if not match.group(1):
            return "&"
        text = match.group(1).replace(",", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-16-be")
    return re.sub(r"&([^-]*)-", shifted, name)


def format_ranges(numbers):
    parts = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join("%d" % lo if lo == hi else "%d:%d" % (lo, hi) for lo, hi in parts)


def format_set(numbers):
    return ",".join(str(n) for n in numbers)


class Session(fetch.Fetching):
    def __init__(self, state, reader, writer):
        self.state, self.reader, self.writer = state, reader, writer
        self.mailbox = self.folder = self.token = None
        self.line = state.line_of.get((writer.get_extra_info("peername") or (None, None))[1])     # wire.Line it came by
        self.rev2 = False               # ENABLE IMAP4rev2 was sent (4.10)
        self.told = 0                   # EXISTS as last said
        self.expunged = []
        self.wake = asyncio.Event()
        self.bads = 0

    # --- lines ---

    def say(self, line):
        self.state.note("S %s" % line)
        self.writer.write(line.encode("latin-1", "replace") + b"\r\n")

    async def ok(self, tag, text):
        self.notices()
        self.say("%s OK %s" % (tag, text))
        await self.writer.drain()

    async def no(self, tag, text):
        self.say("%s NO %s" % (tag, text))
        await self.writer.drain()

    async def bad(self, tag, text):
        self.bads += 1
        self.say("%s BAD %s" % (tag, text))
        if self.bads >= self.option("bads"):       # 5.5
            self.say("* BYE Connection closed. 14")
            await self.close()
        await self.writer.drain()

    async def close(self):
        await self.writer.drain()
        raise Closed

    async def read_line(self):
        try:
            line = await self.reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise Closed
        return line.rstrip(b"\r\n").decode("latin-1")

    def notice(self):
        self.wake.set()

    def notices(self):
        """EXISTS and EXPUNGE that are due."""
        if self.folder is None:
            return
        for number in self.expunged:
            self.say("* %d EXPUNGE" % number)
            self.told -= 1
        said = bool(self.expunged)
        self.expunged = []
        count = len(self.folder.messages)
        if said or count != self.told:
            if said and self.fault("expunge-alone") and self.told == count:     # RFC 3501 7.4.1: EXPUNGE says it all
                return
            self.told = count
            self.say("* %d EXISTS" % self.told)
            if not self.rev2:
                self.say("* 0 RECENT")

    def fault(self, kind, uid=None, command=None, named=False, asked=None):
        return self.state.fault(self.mailbox, kind, uid, command, self.line, named, asked)

    def option(self, name):
        """One of state.options; a fault "options" has others for this mailbox or line."""
        fault = self.fault("options")
        return fault[name] if fault and name in fault else self.state.options[name]

    # --- the conversation ---

    async def run(self):
        cut = self.fault("cut")
        if cut:
            self.writer = wire.Cutting(self.writer, cut.get("single", False), cut.get("after"), lambda: self.state.counts.update(["cuts"]))
        if self.fault("close-on-connect"):
            return
        if self.fault("hang-greeting"):
            await asyncio.sleep(3600)
        greeting = self.fault("greeting")
        self.say(greeting["line"] if greeting else GREETINGS[self.option("greeting")])
        await self.writer.drain()
        if greeting and greeting.get("close"):
            return
        while True:
            line = await self.read_line()
            tag, _, rest = line.partition(" ")
            name, _, args = rest.partition(" ")
            name = name.upper()
            if name == "UID":
                sub, _, args = args.partition(" ")
                name = "UID " + sub.upper()
            self.state.note("C %s %s %s" % (tag, name, args))
            self.state.commands[name] += 1
            if len(line) > COMMAND_MAX and name != "AUTHENTICATE":
                await self.bad(tag, "Command Error. 10")
                continue
            await self.command(tag, name, args)

    async def command(self, tag, name, args):
        if self.token and clock.now() >= self.token.expires:
            self.say("* BYE Session invalidated - AccessTokenExpired")
            await self.close()
        if name == "LOGOUT" and self.mailbox:
            self.mailbox.logout_at = clock.now()
        delay = self.fault("delay-" + name.split()[-1].lower())
        if delay:
            await clock.sleep(delay["seconds"])
        if self.fault("unsolicited"):
            self.unsolicited()
        for kind in faults.KINDS:
            fault = self.fault(kind, command=name, named=self.mailbox is None or name == "LOGOUT", asked=lambda what: self.asks_for(name, args, what))
            if fault:
                await faults.play(self, kind, fault, tag, lambda: self.answer(tag, name, args))
                return
        await self.answer(tag, name, args)

    def asks_for(self, name, args, what):
        """For this UID; or it names this folder, or is about messages in it."""
        if not isinstance(what, str):
            return parse_set(args.split(" ")[0], [what])
        if name in ("SELECT", "EXAMINE", "STATUS"):
            return decode_name(args.rpartition(" (")[0] or args) == what
        return self.folder is not None and self.folder.name == what

    def unsolicited(self):
        """RFC 3501 7: a client must take any of these at any time."""
        for line in ("OK [ALERT] Your mailbox is almost full", "FLAGS (\\Seen $odd/flag)", "0 RECENT", "LIST (\\HasNoChildren) \"/\" \"Some \\\"one\"",
                     "CAPABILITY IMAP4rev1 X-ANY", "STATUS \"Other\" (MESSAGES 3)", "BYELAW nobody knows this", "OK still here",
                     "PREAUTH", "1 X-UNKNOWN (a {b} \"c)\")"):
            self.say("* " + line)
        if self.folder is not None and self.folder.messages:
            uid = next(iter(self.folder.messages))
            self.say("* 1 FETCH (FLAGS (\\Seen) UID %d)" % uid)
            self.say("* 1 FETCH (FLAGS (\\Seen \\Flagged))")
            self.say("* %d EXISTS" % self.told)

    def news(self, where):
        """What others do meanwhile, and what nobody asked for, told within the answer to a command."""
        fault = self.fault("news", command=where)
        if not fault:
            return
        self.unsolicited()
        if fault.get("add"):
            self.folder.add(fault["add"].pop(0))
        gone = next((uid for uid in self.folder.messages if self.folder.bodies[uid]), None) if fault.get("remove") else None
        if gone is not None:                    # one that has been given
            self.folder.remove(gone)
        self.notices()

    async def answer(self, tag, name, args):
        method = getattr(self, "do_" + name.lower().replace(" ", "_"), None)
        if method is None:
            await self.bad(tag, "Command Error. 10")
        elif self.mailbox is None and name not in ("CAPABILITY", "ID", "NOOP", "LOGOUT", "AUTHENTICATE", "LOGIN"):
            await self.bad(tag, "Command received in Invalid state.")
        elif name in ("NAMESPACE", "LIST", "LSUB", "SELECT", "EXAMINE", "STATUS") and self.fault("no-permission"):
            await self.bad(tag, "User is authenticated but not connected.")
        elif self.folder is None and name.split()[-1] in ("SEARCH", "FETCH", "STORE", "COPY", "MOVE", "EXPUNGE", "IDLE", "CLOSE", "UNSELECT"):
            await self.bad(tag, "Command received in Invalid state.")
        else:
            await method(tag, args)

    async def do_capability(self, tag, args):
        names = AFTER[self.option("after")] if self.mailbox else BEFORE[self.option("before")]
        without = list(self.option("without"))
        for kind, name in (("no-idle", "IDLE"), ("no-move", "MOVE"), ("no-uidplus", "UIDPLUS"), ("no-sasl-ir", "SASL-IR")):
            if self.fault(kind):
                without.append(name)
        names = [n for n in names.split() if n not in without]
        odd = self.fault("long-capability")
        if odd:                         # what matters stands at the end of a long line, or in a second one
            names[1:1] = ["X-%d-%s" % (i, "Y" * 40) for i in range(odd["words"])]
        if odd and odd.get("lines"):
            half = len(names) - 6
            self.say("* CAPABILITY " + " ".join(names[:half]))
            names = names[half:]
        self.say("* CAPABILITY " + " ".join(names))
        await self.ok(tag, "CAPABILITY completed.")

    async def do_id(self, tag, args):
        self.say('* ID ("name" "Microsoft.Exchange.Imap4.Imap4Server" "version" "15.20")')
        await self.ok(tag, "ID completed.")

    async def do_noop(self, tag, args):
        await self.ok(tag, "NOOP completed.")

    async def do_login(self, tag, args):
        await self.no(tag, "Basic authentication is disabled.")

    async def do_logout(self, tag, args):
        self.say("* BYE Microsoft Exchange Server IMAP4 server signing off.")
        self.say("%s OK LOGOUT completed." % tag)
        await self.close()

    async def do_authenticate(self, tag, args):
        self.state.signing_in += 1
        self.state.signing_in_most = max(self.state.signing_in_most, self.state.signing_in)
        try:
            await self.authenticate(tag, args)
        finally:
            self.state.signing_in -= 1

    async def authenticate(self, tag, args):
        at = clock.now()
        slow = self.fault("slow-sign-in")
        if slow:
            await clock.sleep(slow["seconds"])
        mechanism, _, response = args.partition(" ")
        if mechanism.upper() != "XOAUTH2":
            await self.no(tag, "AUTHENTICATE failed. Provided authentication mechanism is not supported.")
            return
        if not response:
            self.say("+")
            await self.writer.drain()
            response = await self.read_line()
        try:
            parts = base64.b64decode(response).decode().split("\x01")
            user, bearer = parts[0][5:], parts[1][12:]
            assert parts[0].startswith("user=") and parts[1].startswith("auth=Bearer ")
        except (ValueError, IndexError, AssertionError):
            user = bearer = ""
        mailbox, token = self.state.mailbox(user), self.state.good_token(bearer)
        self.state.sign_ins.append((at, user))
        if self.state.fault(mailbox, "hang-authenticate"):
            await asyncio.sleep(3600)
        for kind in faults.KINDS if mailbox else ():
            fault = self.state.fault(mailbox, kind, command="AUTHENTICATE", named=True)
            if fault:
                await faults.play(self, kind, fault, tag, lambda: self.no(tag, "AUTHENTICATE failed."))
                return
        full = self.state.fault(mailbox, "connections") if mailbox else None
        if full and len(mailbox.sessions) >= full["most"]:      # 5.13
            self.say("* BYE Connection closed. 14")
            await self.close()
        refused = self.state.fault(mailbox, "auth-refused")
        if mailbox is None or token is None or refused:
            if mailbox:
                mailbox.refused += 1
            self.state.counts["refused"] += 1
            if refused and refused.get("form") == "echo":       # a server that tells what it did not understand
                self.say("* NO what is %s" % response)
                await self.bad(tag, "unknown: AUTHENTICATE XOAUTH2 %s" % response)
                return
            if refused and refused.get("form") in ("json", "json-echo"):       # as Gmail and Dovecot do (4.2); or with what it was sent
                sent = ',"sent":"%s"' % response[:400] if refused["form"] == "json-echo" else ""
                self.say("+ " + base64.b64encode(b'{"status":"401","schemes":"bearer"%s}' % sent.encode()).decode())
                await self.writer.drain()
                await self.read_line()
            await self.no(tag, "AUTHENTICATE failed.")
            if refused and refused.get("form") == "bye":        # logins that keep failing (5.2, 5.5)
                self.say("* BYE Connection is closed.")
                await self.close()
            return
        odd = self.state.fault(mailbox, "odd-plus")
        if odd:                                 # asks again for what it has, or has something to say, and takes it all the same
            self.say("+ " + base64.b64encode(odd["says"].encode()).decode())
            await self.writer.drain()
            await self.read_line()
        self.mailbox, self.token = mailbox, token
        mailbox.came(self)
        self.state.counts["logins"] += 1
        await self.ok(tag, "AUTHENTICATE completed.")

    async def do_namespace(self, tag, args):
        self.say('* NAMESPACE (("" "/")) NIL NIL')
        await self.ok(tag, "NAMESPACE completed.")

    async def do_list(self, tag, args):
        if "RETURN" in args:
            await self.bad(tag, "Command Argument Error. 12")
            return
        if '\\"' in args:
            await self.bad(tag, "Command Argument Error. 12")
            return
        if args.replace(" ", "") == '""""':
            self.say('* LIST (\\Noselect) "/" ""')
        pattern = args.split()[-1].strip('"')
        for name in self.mailbox.folders:
            if pattern in ("*", "%") or pattern.upper() == name.upper():
                self.say('* LIST (\\HasNoChildren) "/" %s' % name)
        await self.ok(tag, "LIST completed.")

    async def do_lsub(self, tag, args):
        if self.rev2 or "IMAP4rev2" in AFTER[self.option("after")]:       # 4.3: refused while it is advertised
            await self.bad(tag, "Command Error. 10")
        else:
            await self.ok(tag, "LSUB completed.")

    async def do_enable(self, tag, args):
        """exchange-online 4.10: what a client gets that sends it"""
        self.rev2 = "IMAP4REV2" in args.upper()
        self.say("* ENABLED" + (" IMAP4rev2" if self.rev2 else ""))
        await self.ok(tag, "ENABLE completed.")

    async def do_select(self, tag, args, verb="SELECT"):
        self.leave()
        folder = self.mailbox.folder(decode_name(args))
        if folder is None or self.fault("select-no", folder.name):
            await self.no(tag, "%s failed." % verb)
            return
        self.folder, self.told, self.expunged = folder, len(folder.messages), []
        folder.sessions.add(self)
        unseen = next((i for i, m in enumerate(folder.messages.values(), 1) if "\\Seen" not in m.flags), 0)
        flags = "(\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent)"
        permanent = self.fault("permanent-flags")
        self.say("* %d EXISTS" % self.told)
        if not self.rev2:
            self.say("* %d RECENT" % (self.told if verb == "EXAMINE" else 0))
        self.say("* FLAGS %s" % flags)
        self.say("* OK [PERMANENTFLAGS %s] Permanent flags" % (permanent["flags"] if permanent else flags if verb == "SELECT" else "()"))
        if unseen:
            self.say("* OK [UNSEEN %d] Is the first unseen message" % unseen)
        uidvalidity, uidnext = self.fault("uidvalidity"), self.fault("uidnext")
        for name, text, value in (("UIDVALIDITY", "UIDVALIDITY value", uidvalidity["is"] if uidvalidity else folder.uidvalidity),
                                  ("UIDNEXT", "The next unique identifier value", uidnext["is"] if uidnext else folder.uidnext)):
            if value is not None:
                self.say("* OK [%s %s] %s" % (name, value, text))
        self.news("SELECT")
        await self.ok(tag, "[READ-%s] %s completed." % ("WRITE" if verb == "SELECT" else "ONLY", verb))

    async def do_examine(self, tag, args):
        await self.do_select(tag, args, "EXAMINE")

    async def do_status(self, tag, args):
        name, _, items = args.rpartition(" (")
        folder = self.mailbox.folder(decode_name(name))
        if folder is None or self.fault("select-no", folder.name):
            await self.no(tag, "STATUS failed.")
            return
        values = {"MESSAGES": len(folder.messages), "UIDNEXT": folder.uidnext, "UIDVALIDITY": folder.uidvalidity, "RECENT": 0,
                  "UNSEEN": sum("\\Seen" not in m.flags for m in folder.messages.values())}
        self.say("* STATUS %s (%s)" % (name, " ".join("%s %d" % (i, values[i]) for i in items.strip("()").upper().split())))
        await self.ok(tag, "STATUS completed.")

    def leave(self):
        if self.folder:
            self.folder.sessions.discard(self)
        self.folder = None

    async def do_unselect(self, tag, args):
        self.leave()
        await self.ok(tag, "UNSELECT completed.")

    async def do_close(self, tag, args):
        for uid in [u for u, m in self.folder.messages.items() if "\\Deleted" in m.flags]:
            self.folder.remove(uid)
        self.leave()
        await self.ok(tag, "CLOSE completed.")

    async def do_uid_search(self, tag, args):
        words = args.split()
        uids = list(self.folder.messages)
        if words[0].upper() == "CHARSET" and words[1].upper() != "US-ASCII":
            await self.no(tag, "[BADCHARSET (US-ASCII)] The specified charset is not supported.")
            return
        if words[0].upper() == "RETURN" or words[0].upper() not in ("UID", "SINCE", "ALL", "UNSEEN"):
            await self.bad(tag, "Command Argument Error. 11")
            return
        if words[0].upper() == "UID":
            uids = parse_set(words[1], uids)
        elif words[0].upper() == "SINCE":
            day, month, year = words[1].split("-")
            since = calendar.timegm((int(year), fetch.MONTHS.index(month) + 1, int(day), 0, 0, 0))
            uids = [u for u in uids if self.folder.messages[u].internaldate >= since]
        elif words[0].upper() == "UNSEEN":
            uids = [u for u in uids if "\\Seen" not in self.folder.messages[u].flags]
        hides, numbers = self.fault("search-hides"), [str(u) for u in uids]
        if hides:                                   # listed by nobody, for a while
            numbers = [str(u) for u in uids if "only" in hides and u not in hides["only"]]
        more = self.fault("search-also")            # what is not there, or no number at all
        numbers += more["words"] if more else []
        if self.fault("search-descending"):
            numbers.reverse()
        if self.rev2 or self.fault("esearch"):      # as after an ENABLE IMAP4rev2 that nobody asked for (4.10)
            self.say('* ESEARCH (TAG "%s") UID%s' % (tag, " ALL " + format_ranges(map(int, numbers)) if numbers else ""))
        elif not numbers and self.fault("search-silent"):       # no line at all (4.5)
            pass
        else:
            at_once = self.fault("search-lines")    # as many lines as it takes
            await self.search_lines(numbers, at_once["each"] if at_once else len(numbers) or 1)
        self.news("UID SEARCH")
        rest = self.fault("search-rest")            # what comes meanwhile is told with the end, and is not among the numbers
        if rest:
            await clock.sleep(rest["seconds"])
        await self.ok(tag, "SEARCH completed.")

    async def search_lines(self, numbers, at_once):
        for i in range(0, len(numbers) or 1, at_once):
            self.writer.write(b"* SEARCH")
            for j in range(i, min(i + at_once, len(numbers)), 10000):
                self.writer.write("".join(" " + n for n in numbers[j:min(j + 10000, i + at_once)]).encode())
                await self.writer.drain()
            self.writer.write(b"\r\n")

    # --- changes ---

    def chosen(self, text):
        return parse_set(text, list(self.folder.messages))

    async def do_uid_store(self, tag, args):
        which, action, flags = args.split(" ", 2)
        if "SILENT" in action.upper():              # seen on Exchange 2010 (4.7)
            await self.bad(tag, "Command Argument Error. 11")
            return
        if self.fault("store-no"):
            await self.no(tag, "STORE failed.")
            return
        flags = set(flags.strip("()").split())
        numbers = {u: i for i, u in enumerate(self.folder.messages, 1)}
        for uid in self.chosen(which):
            message = self.folder.messages[uid]
            message.flags = message.flags | flags if action[0] == "+" else message.flags - flags if action[0] == "-" else flags
            self.say("* %d FETCH (FLAGS (%s) UID %d)" % (numbers[uid], " ".join(sorted(message.flags)), uid))
        await self.ok(tag, "STORE completed.")

    def copy(self, uids, target):
        return [target.add(m.spec, m.internaldate, m.flags - {"\\Deleted"}).uid for m in (self.folder.messages[u] for u in uids)]

    async def do_uid_copy(self, tag, args, move=False):
        which, name = args.split(" ", 1)
        verb = "MOVE" if move else "COPY"
        target = self.mailbox.folder(decode_name(name))
        if target is None or self.fault("move-no" if move else "copy-no"):
            await self.no(tag, "[TRYCREATE] %s failed." % verb)
            return
        uids = [] if self.fault("move-nothing") else self.chosen(which)
        slow = self.fault("slow-copy")
        if slow:                                    # it comes to its end, whoever still waits
            await clock.sleep(slow["each_s"] * len(uids))
        made = self.copy(uids, target)
        code = "[COPYUID %d %s %s]" % (target.uidvalidity, format_set(uids), format_set(made))
        if not move:
            await self.ok(tag, "%s COPY completed." % code)
            return
        self.say(code if self.fault("bare-copyuid") else "* OK " + code)
        if self.fault("close-after-move"):
            for uid in uids:
                self.folder.remove(uid)
            await self.close()
        for uid in uids:
            self.folder.remove(uid)
        await self.ok(tag, "MOVE completed.")

    async def do_uid_move(self, tag, args):
        await self.do_uid_copy(tag, args, True)

    async def do_uid_expunge(self, tag, args):
        if self.fault("expunge-no"):
            await self.no(tag, "EXPUNGE failed.")
            return
        for uid in self.chosen(args):
            if "\\Deleted" in self.folder.messages[uid].flags:
                self.folder.remove(uid)
        await self.ok(tag, "EXPUNGE completed.")

    async def do_expunge(self, tag, args):
        self.state.counts["plain-expunge"] += 1
        for uid in [u for u, m in self.folder.messages.items() if "\\Deleted" in m.flags]:
            self.folder.remove(uid)
        await self.ok(tag, "EXPUNGE completed.")

    # --- IDLE ---

    async def do_idle(self, tag, args):
        if "IDLE" in self.option("without") or self.fault("no-idle"):
            await self.bad(tag, "Command Error. 10")
            return
        if self.fault("exists-before-plus"):
            self.told = -1
            self.notices()
        self.news("IDLE")
        reading, slow = asyncio.ensure_future(self.read_line()), self.fault("slow-plus")
        if slow:
            await asyncio.wait({reading}, timeout=clock.real(slow["seconds"]))
        if slow and reading.done():             # 4.8: nothing may be sent before the `+`
            reading.cancel()
            await self.bad(tag, "Command received in Invalid state.")
            return
        self.say("+ IDLE accepted, awaiting DONE command.")
        await self.writer.drain()
        self.state.idling += 1
        cut, began = self.fault("idle-cut"), clock.now()
        try:
            while not reading.done():
                if not self.fault("silent-idle"):
                    self.notices()
                await self.writer.drain()
                self.wake.clear()
                fault = self.fault("in-idle")           # also one that was set before it idled
                if fault:
                    await faults.play(self, fault["play"], fault, tag, lambda: self.ok(tag, "IDLE completed."))
                    continue
                left = min(self.token.expires - clock.now(), cut["after_s"] - (clock.now() - began) if cut else 1e9)
                waking = asyncio.ensure_future(self.wake.wait())
                await asyncio.wait({reading, waking}, timeout=max(0.0, clock.real(left)), return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if self.token.expires <= clock.now():
                    self.say("* BYE Session invalidated - AccessTokenExpired")
                    await self.close()
                if cut and clock.now() - began >= cut["after_s"] and not reading.done():
                    self.writer.transport.abort()
                    raise ConnectionAbortedError
            line = reading.result()
        finally:
            self.state.idling -= 1
            reading.cancel()
        if line.upper() != "DONE":
            await self.bad(tag, "Command received in Invalid state.")
            return
        for kind in faults.KINDS:
            fault = self.fault(kind, command="DONE", named=True)
            if fault:
                await faults.play(self, kind, fault, tag, lambda: self.ok(tag, "IDLE completed."))
                return
        self.news("DONE")
        await self.ok(tag, "IDLE completed.")


def serve(state):
    async def connection(reader, writer):
        session = Session(state, reader, writer)
        state.counts["connections"] += 1
        state.counts["tls_resumed"] += bool(writer.get_extra_info("ssl_object").session_reused)
        state.counts["connections_open"] += 1
        try:
            await session.run()
        except (Closed, ConnectionError, asyncio.LimitOverrunError, ssl.SSLError, OSError):
            pass
        finally:
            state.counts["connections_open"] -= 1
            session.leave()
            if session.mailbox:
                session.mailbox.left(session)
            writer.close()
    return connection
