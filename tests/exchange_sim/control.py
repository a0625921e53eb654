"""The control port: HTTP with JSON on loopback.

    POST /mailbox   {"address", "folders": [...], "uidvalidity"}
    POST /message   {"address", "folder", "messages": [{spec, "internaldate", "flags", "uid"}]}     gives the UIDs
    POST /uids      {"address", "folder", "ranges": [[lo, hi, step]]}      many tiny messages
    POST /remove    {"address", "folder", "uids"}
    POST /folder    {"address", "folder", "uidvalidity"}                   as after a move: all UIDs are new
    POST /token     {"life_s", "expires_in" (null: not told), "refresh_in", "strings", "roles", "claims", "date_offset_s", "same_end", "hang",
                     "fail": {"status", "code", "retry_after", "body", "delay_s", "how"}, "script": [as "fail", or null, ...]}
                     without "status" it is the right answer; web.py says what "how" there is
    POST /secret    {"secret"}
    POST /token-port {"open": false}                                       nothing answers there
    POST /expire    {}                                                     every token given so far ends now
    POST /fault     {"address" or "*" or "port" of a line, "kind", ...}    faults.py says which there are
    POST /line      {"port" or none, "server": "token" or none, "mode", ...} wire.py: a way to the IMAP server or the token endpoint; gives its port
    POST /clear     {"address" or "*" or "port"}                           no faults any more
    POST /drop      {"address" or "*"}                                     closes its connections without a word
    POST /options   {"greeting": "A", "before": "P1", "after": "Q2", "without": ["IDLE"], "bads": 2}
    POST /certificate {"server": "imap" or "token", "name": "good", "stranger", "wrong-host", "expired" or "ending"}
    POST /tls       {"maximum": "TLSv1_2" or "TLSv1_3"}                    what the IMAP server offers
    GET  /state     counters, and ?address= for one mailbox's folders
    GET  /sums      ?address=&folder= SHA-256 of every message by UID
    GET  /log       the last protocol lines
    GET  /sign-ins  [[when in seconds, address], ...]: each AUTHENTICATE
    GET  /wait      ?what=COUNTER&at_least=N&timeout_s=S[&address=]        answers when it is so: {"ok": true}
"""
import asyncio
import ssl
import time

import clock
import messages
import wire


class Control:
    def __init__(self, state, certificates, imap_context, token_context):
        self.state, self.certificates = state, certificates
        self.contexts = {"imap": imap_context, "token": token_context}
        self.token_server = self.loop_token = self.token_port = self.imap_port = None
        self.lines = {}

    async def handle(self, request):
        name = request.path.strip("/").replace("-", "_")
        method = getattr(self, "%s_%s" % (request.method.lower(), name), None)
        if method is None:
            return 404, {}, {"error": "no such call"}
        try:
            answer = method(request.query if request.method == "GET" else request.json())
            return 200, {}, (await answer if asyncio.iscoroutine(answer) else answer) or {}
        except (KeyError, AttributeError, TypeError) as e:
            return 400, {}, {"error": repr(e)}

    def post_mailbox(self, data):
        self.state.add_mailbox(data["address"], data.get("folders", ["INBOX"]), data.get("uidvalidity", 14))

    def folder(self, data):
        return self.state.mailbox(data["address"]).folder(data.get("folder", "INBOX"))

    def post_message(self, data):
        folder = self.folder(data)
        return {"uids": [folder.add({k: m[k] for k in ("data", "text", "seed", "size", "big") if k in m}, m.get("internaldate"), m.get("flags", ()),
                                    m.get("uid")).uid for m in data["messages"]]}

    def post_uids(self, data):
        folder = self.folder(data)
        spec = {"text": "Message-ID: <tiny@sim.example>\r\nSubject: tiny\r\n\r\nx\r\n"}
        for lo, hi, step in data["ranges"]:
            for uid in range(lo, hi + 1, step):
                folder.add(spec, 1767924132, uid=uid)

    def post_remove(self, data):
        folder = self.folder(data)
        for uid in data["uids"]:
            folder.remove(uid)

    def post_folder(self, data):
        folder = self.folder(data)
        old = list(folder.messages.values())
        folder.uidvalidity, folder.uidnext, folder.messages = data["uidvalidity"], 1, {}
        for m in old:
            folder.add(m.spec, m.internaldate, m.flags)

    def post_token(self, data):
        self.state.token_conf.update(data)

    def post_secret(self, data):
        self.state.secret = data["secret"]

    async def post_token_port(self, data):
        if data["open"] and self.token_server is None:
            handler, context, limit = self.loop_token
            self.token_server = await asyncio.start_server(handler, "127.0.0.1", self.token_port, ssl=context, limit=limit)
        elif not data["open"] and self.token_server is not None:
            self.token_server.close()
            self.token_server = None

    def post_expire(self, data):
        for token in self.state.tokens.values():
            token.expires = min(token.expires, clock.now())
        for mailbox in self.state.mailboxes.values():
            for session in mailbox.sessions:
                session.notice()

    def faults(self, data):
        if "port" in data:
            return self.lines[data["port"]].faults
        return self.state.faults if data.get("address", "*") == "*" else self.state.mailbox(data["address"]).faults

    def post_fault(self, data):
        self.faults(data).append(data)
        if data["kind"] == "in-idle":
            for mailbox in self.state.mailboxes.values():
                for session in mailbox.sessions:
                    session.notice()

    async def post_line(self, data):
        target = self.token_port if data.get("server") == "token" else self.imap_port
        line = self.lines.get(data.get("port")) or wire.Line(target, self.state.line_of)
        self.lines[line.port] = line
        await line.set(data)
        return {"port": line.port}

    def post_clear(self, data):
        self.faults(data).clear()

    def post_drop(self, data):
        for mailbox in self.state.mailboxes.values() if data["address"] == "*" else [self.state.mailbox(data["address"])]:
            for session in list(mailbox.sessions):
                session.writer.transport.abort()

    def post_options(self, data):
        self.state.options.update(data)

    def post_tls(self, data):
        self.contexts["imap"].maximum_version = ssl.TLSVersion[data["maximum"]]

    def post_certificate(self, data):
        self.certificates.choose(self.contexts[data["server"]], data["name"])

    def get_state(self, query):
        state = self.state
        answer = {"counts": dict(state.counts), "commands": dict(state.commands), "in_flight": state.in_flight, "idling": state.idling,
                  "signing_in_most": state.signing_in_most}
        if "address" in query:
            mailbox = state.mailbox(query["address"])
            answer["logins"], answer["refused"], answer["sessions"] = mailbox.logins, mailbox.refused, len(mailbox.sessions)
            answer["alone_most_s"], answer["relogins_s"] = mailbox.alone_most, mailbox.relogins
            answer["folders"] = {name: {"uidvalidity": f.uidvalidity, "uidnext": f.uidnext, "bodies": sum(f.bodies.values()),
                                        "fetched": {str(u): n for u, n in f.bodies.items()},
                                        "messages": {str(u): sorted(m.flags) for u, m in f.messages.items()}}
                                 for name, f in mailbox.folders.items()}
        return answer

    async def get_sums(self, query):
        sums = {}
        for uid, m in list(self.folder(query).messages.items()):
            sums[str(uid)] = messages.sha256(m.spec)
            await asyncio.sleep(0)
        return sums

    def get_log(self, query):
        return {"lines": list(self.state.log)}

    def get_sign_ins(self, query):
        return {"sign_ins": self.state.sign_ins}

    def value(self, query):
        state, what = self.state, query["what"]
        if "address" in query:
            mailbox = state.mailbox(query["address"])
            return {"logins": mailbox.logins, "refused": mailbox.refused, "sessions": len(mailbox.sessions)}[what]
        if what in ("in_flight", "idling"):
            return getattr(state, what)
        return state.commands[what[8:]] if what.startswith("command:") else state.counts[what]

    async def get_wait(self, query):
        until = time.monotonic() + float(query.get("timeout_s", 30))
        while self.value(query) < int(query["at_least"]) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return {"ok": self.value(query) >= int(query["at_least"]), "value": self.value(query)}
