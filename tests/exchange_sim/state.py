"""What the two services know: mailboxes, tokens, faults; and what they have seen, for the tests to ask."""
import base64
import collections
import json
import re

import clock
import messages

ROLE = "IMAP.AccessAsApp"


class Message:
    __slots__ = ("uid", "spec", "flags", "internaldate", "size")

    def __init__(self, uid, spec, internaldate, flags=()):
        self.uid, self.spec, self.internaldate, self.flags = uid, spec, internaldate, set(flags)
        self.size = messages.size(spec)


class Folder:
    def __init__(self, name, uidvalidity=14):          # exchange-online 5.12: 14 in unrelated mailboxes
        self.name, self.uidvalidity, self.uidnext = name, uidvalidity, 1
        self.messages = {}                             # uid: Message, ascending
        self.sessions = set()
        self.bodies = collections.Counter()            # uid: bodies fetched

    def add(self, spec, internaldate=None, flags=(), uid=None):
        uid = uid or self.uidnext
        self.uidnext = max(self.uidnext, uid + 1)
        message = Message(uid, spec, internaldate or int(clock.wall()), flags)
        self.messages[uid] = message
        for session in self.sessions:
            session.notice()
        return message

    def remove(self, uid):
        uids = list(self.messages)
        number = uids.index(uid) + 1
        del self.messages[uid]
        for session in self.sessions:
            session.expunged.append(number)
            session.notice()


class Mailbox:
    def __init__(self, address, folders=("INBOX",), uidvalidity=14):
        self.address = address
        self.folders = {name: Folder(name, uidvalidity) for name in folders}
        self.faults = []
        self.logins = self.refused = 0
        self.sessions = set()
        self.alone_since = None                        # nobody signed in, after somebody was
        self.alone_most = 0.0                          # longest such time so far, in seconds
        self.logout_at = None                          # of a LOGOUT since the last sign-in
        self.relogins = []                             # from each LOGOUT to the next sign-in that was accepted, in seconds

    def came(self, session):
        self.logins += 1
        if self.alone_since is not None:
            self.alone_most = max(self.alone_most, clock.now() - self.alone_since)
        self.alone_since = None
        if self.logout_at is not None:
            self.relogins.append(clock.now() - self.logout_at)
        self.logout_at = None
        self.sessions.add(session)

    def left(self, session):
        self.sessions.discard(session)
        if not self.sessions:
            self.alone_since = clock.now()

    def folder(self, name):
        return self.folders.get("INBOX" if name.upper() == "INBOX" else name)


class Token:
    def __init__(self, text, expires, roles):
        self.text, self.expires, self.roles = text, expires, roles


class State:
    def __init__(self):
        self.mailboxes = {}
        self.tokens = {}
        self.last_token = None
        self.token_conf = {"life_s": 3899, "refresh_in": None, "strings": False, "roles": [ROLE], "fail": None, "hang": False,
                           "script": []}               # what the next requests get instead of "fail", one each; None: a token
        self.secret = "s3cret~value"
        self.client_id = "05cd6963-0000-0000-0000-000000000000"
        self.faults = []                               # for every mailbox
        self.line_of = {}                              # port a connection comes from: wire.Line
        self.counts = collections.Counter()
        self.commands = collections.Counter()
        self.in_flight = 0                             # FETCH commands being answered
        self.idling = 0
        self.signing_in = self.signing_in_most = 0     # AUTHENTICATE commands being answered
        self.log = collections.deque(maxlen=2000)
        self.sign_ins = []                             # when, and of which mailbox: each AUTHENTICATE, whatever comes of it
        self.options = {"greeting": "A", "before": "P3", "after": "Q1", "without": [], "bads": 2}

    def mailbox(self, address):
        return self.mailboxes.get(address.lower())

    def add_mailbox(self, address, folders=("INBOX",), uidvalidity=14):
        mailbox = self.mailboxes.setdefault(address.lower(), Mailbox(address, folders, uidvalidity))
        for name in folders:                    # one that is there gets those it lacks
            mailbox.folders.setdefault(name, Folder(name, uidvalidity))
        return mailbox

    # A fault is {"kind": ..., ...}. With "count" it happens so often, with "skip" it lets so many pass first; with "uids" it
    # is for these messages alone. Several of a kind come one after the other, in the order in which they were set.
    # named: only one that says for which command it is. With "asks" it is for the commands about this UID, or folder: is it asked(...)?
    def fault(self, mailbox, kind, uid=None, command=None, line=None, named=False, asked=None):
        for fault in (mailbox.faults if mailbox else []) + (line.faults if line else []) + self.faults:
            if fault["kind"] != kind or (named and "command" not in fault) or ("uids" in fault and uid not in fault["uids"]) or fault.get("command", command) != command:
                continue
            if "asks" in fault and not (asked and asked(fault["asks"])):
                continue
            if fault.get("skip", 0) > 0:
                fault["skip"] -= 1
                continue
            if "count" in fault:
                if fault["count"] <= 0:
                    continue
                fault["count"] -= 1
            self.counts["fault-" + kind] += 1
            return fault
        return None

    def same_token(self):
        """The last one again, while it has some life left (2.4)."""
        last = self.last_token
        return last if last and last.expires - clock.now() > self.token_conf["life_s"] / 8 else self.make_token()

    def make_token(self):
        conf, now = self.token_conf, int(clock.wall())
        payload = {"aud": "https://outlook.office365.com", "iss": "https://sts.windows.net/tenant/", "iat": now, "nbf": now,
                   "exp": now + int(conf["life_s"]), "appid": self.client_id, "idtyp": "app", "oid": "0a1b2c3d-0000-0000-0000-0000000000ff",
                   "tid": "tenant", "jti": str(self.counts["tokens"]), **conf.get("claims", {})}
        if conf["roles"]:
            payload["roles"] = conf["roles"]

        def part(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        self.counts["tokens"] += 1
        text = ".".join([part(b'{"typ":"JWT","alg":"RS256"}'), part(json.dumps(payload).encode()), part(b"not a signature" * 100)])
        token = self.last_token = Token(text, clock.now() + conf["life_s"], conf["roles"])
        self.tokens[text] = token
        return token

    def good_token(self, text):
        token = self.tokens.get(text)
        return token if token and token.expires > clock.now() and ROLE in (token.roles or []) else None

    def note(self, line):
        """A protocol line for /log, without tokens."""
        self.log.append(re.sub(r"(AUTHENTICATE XOAUTH2) \S+", r"\1 <secret>", line)[:300])
