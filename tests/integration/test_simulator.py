"""The simulator says what the services have been seen to say: without this, the other tests prove nothing."""
import base64
import contextlib
import json
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request

import pytest

from lib.simulator import messages

ADDRESS = "support@contoso.example"


class Wire:
    """A connection, line by line."""

    def __init__(self, simulator, port=None):
        context = ssl.create_default_context(cafile=simulator.ca_file)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF        # to see whether there is a close_notify
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port or simulator.imap_port), 10), server_hostname="localhost",
                                        suppress_ragged_eofs=False)
        self.file = self.sock.makefile("rb")
        self.tag = 0
        self.greeting = self.line()

    def line(self):
        return self.file.readline().decode("latin-1").rstrip("\r\n")

    def send(self, text):
        self.sock.sendall(text.encode() + b"\r\n")

    def do(self, command):
        """Untagged lines, and the tagged one without its tag."""
        self.tag += 1
        self.send("A%d %s" % (self.tag, command))
        lines = []
        while True:
            line = self.line()
            if line.startswith("A%d " % self.tag):
                return lines, line.split(" ", 1)[1]
            if line == "" and not self.file.peek(1):
                return lines, "(closed)"
            lines.append(line)

    def sign_in(self, token, address=ADDRESS):
        return self.do("AUTHENTICATE XOAUTH2 " + sasl(token, address))[1]


def sasl(token, address=ADDRESS):
    return base64.b64encode(("user=%s\x01auth=Bearer %s\x01\x01" % (address, token)).encode()).decode()


def token_request(simulator, **form):
    form = {"client_id": simulator.client_id, "client_secret": simulator.secret, "grant_type": "client_credentials",
            "scope": "https://outlook.office365.com/.default", **form}
    request = urllib.request.Request(simulator.token_url, urllib.parse.urlencode({k: v for k, v in form.items() if v is not None}).encode())
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=simulator.ca_file)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def token(simulator):
    return json.loads(token_request(simulator)[2])["access_token"]


@pytest.fixture
def wire(simulator):
    simulator.mailbox(ADDRESS, ["INBOX", "Archive"])
    w = Wire(simulator)
    yield w
    w.sock.close()


@pytest.fixture
def signed_in(simulator, wire):
    assert wire.sign_in(token(simulator)) == "OK AUTHENTICATE completed."
    return wire


def test_token_answers(simulator):
    """exchange-online 2.5, 2.6, 3.1, 3.2, 3.3"""
    status, _, body = token_request(simulator)
    answer = json.loads(body)
    assert status == 200 and answer["token_type"] == "Bearer" and answer["expires_in"] == 3899
    payload = answer["access_token"].split(".")[1]
    payload = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert payload["roles"] == ["IMAP.AccessAsApp"] and payload["aud"] == "https://outlook.office365.com" and payload["idtyp"] == "app"
    for change, code, error, aadsts in (({"client_secret": "x"}, 401, "invalid_client", 7000215), ({"client_id": "x"}, 400, "unauthorized_client", 700016),
                                        ({"scope": "x"}, 400, "invalid_scope", 1002012), ({"client_secret": None}, 400, "invalid_request", 900144)):
        status, _, body = token_request(simulator, **change)
        answer = json.loads(body)
        assert (status, answer["error"], answer["error_codes"]) == (code, error, [aadsts])
        assert answer["error_description"].startswith("AADSTS%d: " % aadsts) and "\r\nTrace ID: " in answer["error_description"]
    simulator.post("/token", strings=True, roles=[])
    answer = json.loads(token_request(simulator)[2])
    assert answer["expires_in"] == "3899"
    simulator.post("/token", fail={"status": 429, "retry_after": 60})
    status, headers, _ = token_request(simulator)
    assert status == 429 and headers["Retry-After"] == "60"
    simulator.post("/token", fail={"status": 429})
    assert "Retry-After" not in token_request(simulator)[1]
    simulator.post("/token", fail={"status": 503})
    status, _, body = token_request(simulator)
    assert status == 503 and body.startswith(b"<html>")


def test_token_answers_in_sequence(simulator):
    """exchange-online 3.2, 3.3: any row, one after the other, then as ever"""
    simulator.post("/token", script=[{"status": 503}, {"status": 401, "error": "invalid_client", "code": 7000222}, None])
    answers = [token_request(simulator) for _ in range(4)]
    assert [a[0] for a in answers] == [503, 401, 200, 200]
    assert json.loads(answers[1][2])["error_description"].startswith("AADSTS7000222: ")


@pytest.mark.parametrize("how,length,ends", [
    ({"cut_after": 30}, 30, "notify"), ({"cut_after": 30, "raw": True}, 30, "raw"), ({"length": 9}, None, None), ({"length": None}, None, "notify"),
    ({"single": True, "raw": True}, None, "raw"),
], ids=["cut", "cut-raw", "length", "no-length", "single-raw"])
def test_token_answers_in_odd_ways(simulator, how, length, ends):
    """exchange-online 3.1: what proxies make of them; and then as ever"""
    simulator.post("/token", script=[{"how": how}])
    line = simulator.post("/line", server="token")["port"]
    context = ssl.create_default_context(cafile=simulator.ca_file)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    form = urllib.parse.urlencode({"client_id": simulator.client_id, "client_secret": simulator.secret, "grant_type": "client_credentials",
                                   "scope": "x/.default"}).encode()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", line), 10), server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        sock.sendall(b"POST /tenant/oauth2/v2.0/token HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(form) + form)
        got, ended = b"", None
        while ended is None and not (ends is None and got.endswith(b"}")):
            try:
                part = sock.recv(65536)
                ended = None if part else "notify"
                assert not how.get("single") or len(part) <= 1
                got += part
            except ssl.SSLError:
                ended = "raw"
    assert ended == ends and (len(got) == length if length else got.endswith(b"}"))
    told = got.partition(b"Content-Length: ")[2].partition(b"\r")[0]
    assert length or told == {9: b"9", None: b""}.get(how.get("length", 0), b"%d" % len(got.partition(b"\r\n\r\n")[2]))
    assert token_request(simulator)[0] == 200


def test_greeting_and_capabilities(simulator, wire):
    """exchange-online 4.1"""
    assert wire.greeting.startswith("* OK The Microsoft Exchange IMAP4 service is ready. [")
    lines, end = wire.do("CAPABILITY")
    assert "LOGINDISABLED" in lines[0] and "AUTH=XOAUTH2" in lines[0] and end == "OK CAPABILITY completed."
    wire.sign_in(token(simulator))
    lines, _ = wire.do("CAPABILITY")
    assert "CLIENTACCESSRULES" in lines[0] and "LOGINDISABLED" not in lines[0]
    simulator.post("/options", greeting="B", before="P1", after="Q2")
    other = Wire(simulator)
    assert "BACKENDAUTHENTICATE) [" in other.greeting
    assert "MOVE" not in other.do("CAPABILITY")[0][0]


def test_greeting_and_capabilities_of_one_mailbox(simulator):
    """exchange-online 4.1, 5.5: by its line, as long as nobody has signed in; the others hear what they always hear"""
    simulator.mailbox(ADDRESS)
    port = simulator.post("/line")["port"]
    simulator.post("/fault", port=port, kind="options", greeting="B", before="P1", after="Q2")
    lines = Wire(simulator, port).do("CAPABILITY")[0]
    assert "MOVE" not in lines[0] and "LOGINDISABLED" in Wire(simulator).do("CAPABILITY")[0][0]
    simulator.post("/clear", port=port)
    simulator.post("/fault", port=port, kind="greeting", line="* BYE Connection is closed. 14", close=True, count=1)
    assert Wire(simulator, port).greeting == "* BYE Connection is closed. 14"
    assert Wire(simulator, port).greeting.startswith("* OK The Microsoft Exchange")
    simulator.post("/fault", port=port, kind="answer", command="CAPABILITY", line="{tag} NO not now", count=1)
    late = Wire(simulator, port)
    assert late.do("CAPABILITY")[1] == "NO not now" and late.do("CAPABILITY")[1] == "OK CAPABILITY completed."
    simulator.fault("options", ADDRESS, without=["IDLE"])
    late.sign_in(token(simulator))
    assert " IDLE" not in late.do("CAPABILITY")[0][0]


def test_sign_in(simulator, wire):
    """exchange-online 4.2, 5.14"""
    good = token(simulator)
    assert wire.do("SELECT INBOX")[1] == "BAD Command received in Invalid state."
    assert wire.do("LOGIN a b")[1] == "NO Basic authentication is disabled."
    assert wire.sign_in("wrong") == "NO AUTHENTICATE failed."
    assert wire.sign_in(good, "stranger@contoso.example") == "NO AUTHENTICATE failed."
    wire.tag += 1
    wire.send("A%d AUTHENTICATE XOAUTH2" % wire.tag)
    assert wire.line() == "+"
    wire.send(sasl(good))
    assert wire.line() == "A%d OK AUTHENTICATE completed." % wire.tag
    simulator.fault("auth-refused", ADDRESS, form="json")
    other = Wire(simulator)
    other.send("B1 AUTHENTICATE XOAUTH2 " + sasl(good))
    assert json.loads(base64.b64decode(other.line()[2:]))["status"] == "401"
    other.send("")
    assert other.line() == "B1 NO AUTHENTICATE failed."
    assert Wire(simulator).do("AUTHENTICATE PLAIN AHgAeA==")[1] == "NO AUTHENTICATE failed. Provided authentication mechanism is not supported."
    simulator.clear(ADDRESS)
    simulator.fault("auth-refused", ADDRESS, form="bye")
    other = Wire(simulator)
    assert other.sign_in("wrong") == "NO AUTHENTICATE failed." and other.line() == "* BYE Connection is closed."


def test_role_less_token(simulator, wire):
    """exchange-online 2.6, 5.2: given by Entra, refused by IMAP"""
    simulator.post("/token", roles=[])
    assert wire.sign_in(token(simulator)) == "NO AUTHENTICATE failed."
    simulator.post("/token", roles=["IMAP.AccessAsApp"])
    assert wire.sign_in(token(simulator)) == "OK AUTHENTICATE completed."


def test_id_namespace_list(simulator, signed_in):
    """exchange-online 4.3"""
    assert signed_in.do('ID ("name" "x")') == (['* ID ("name" "Microsoft.Exchange.Imap4.Imap4Server" "version" "15.20")'], "OK ID completed.")
    assert signed_in.do("NAMESPACE") == (['* NAMESPACE (("" "/")) NIL NIL'], "OK NAMESPACE completed.")
    assert signed_in.do('LIST "" "INBOX"')[0] == ['* LIST (\\HasNoChildren) "/" INBOX']
    assert signed_in.do('LIST "" ""')[0] == ['* LIST (\\Noselect) "/" ""']
    assert signed_in.do('LSUB "" "*"')[1] == "OK LSUB completed."
    assert signed_in.do('LIST "" "*" RETURN (STATUS (MESSAGES))')[1] == "BAD Command Argument Error. 12"


def test_rev2(simulator):
    """exchange-online 4.10: offered to some; LSUB is refused, and who enables it gets ESEARCH and no RECENT"""
    simulator.mailbox(ADDRESS)
    simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}])
    simulator.fault("options", ADDRESS, after="Q2")
    wire = Wire(simulator)
    wire.sign_in(token(simulator))
    assert "ENABLE IMAP4rev2" in wire.do("CAPABILITY")[0][0]
    assert wire.do('LSUB "" "*"')[1] == "BAD Command Error. 10"
    assert wire.do("ENABLE IMAP4rev2") == (["* ENABLED IMAP4rev2"], "OK ENABLE completed.")
    assert not any("RECENT" in line for line in wire.do("SELECT INBOX")[0])
    assert wire.do("UID SEARCH UID 1:*")[0] == ['* ESEARCH (TAG "A%d") UID ALL 1:2' % wire.tag]


def test_select_and_status(simulator, signed_in):
    """exchange-online 4.4, 4.5: order and wording"""
    simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}])
    lines, end = signed_in.do("SELECT INBOX")
    assert lines == ["* 2 EXISTS", "* 0 RECENT", "* FLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent)",
                     "* OK [PERMANENTFLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft $MDNSent)] Permanent flags",
                     "* OK [UNSEEN 1] Is the first unseen message", "* OK [UIDVALIDITY 14] UIDVALIDITY value",
                     "* OK [UIDNEXT 3] The next unique identifier value"]
    assert end == "OK [READ-WRITE] SELECT completed."
    assert signed_in.do("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)") == (["* STATUS INBOX (MESSAGES 2 UIDNEXT 3 UIDVALIDITY 14)"], "OK STATUS completed.")
    assert signed_in.do("SELECT Nowhere")[1] == "NO SELECT failed."
    lines, end = signed_in.do("EXAMINE INBOX")
    assert lines[1] == "* 2 RECENT" and lines[3] == "* OK [PERMANENTFLAGS ()] Permanent flags" and end == "OK [READ-ONLY] EXAMINE completed."
    simulator.fault("select-no", ADDRESS, count=1)
    assert signed_in.do("SELECT INBOX")[1] == "NO SELECT failed."          # 5.14: INBOX is being moved


def test_search_and_fetch(simulator, signed_in):
    """exchange-online 4.5, 4.6"""
    body = messages.body({"seed": 3, "size": 2000})
    simulator.add(ADDRESS, [{"text": "x"}, {"seed": 3, "size": 2000, "internaldate": 1767924132}])
    signed_in.do("SELECT INBOX")
    assert signed_in.do("UID SEARCH UID 2:*") == (["* SEARCH 2"], "OK SEARCH completed.")
    assert signed_in.do("UID SEARCH UID 9:*")[0] == ["* SEARCH 2"]		# the last one (RFC 3501 6.4.8)
    assert signed_in.do("UID SEARCH SINCE 9-Jan-2026")[0] == ["* SEARCH 1 2"]
    assert signed_in.do("UID SEARCH SINCE 10-Jan-2026")[0] == ["* SEARCH 1"]
    signed_in.tag += 1
    signed_in.send("A%d UID FETCH 2 (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])" % signed_in.tag)
    assert signed_in.line() == '* 2 FETCH (UID 2 FLAGS () INTERNALDATE "09-Jan-2026 02:02:12 +0000" RFC822.SIZE 2050 BODY[] {2000}'
    assert signed_in.file.read(2000) == body
    assert signed_in.line() == ")"
    assert signed_in.line() == "A%d OK FETCH completed." % signed_in.tag
    assert signed_in.do("UID FETCH 77 (BODY.PEEK[])") == ([], "OK FETCH completed.")
    assert simulator.folder(ADDRESS)["messages"]["2"] == []
    signed_in.do("UID FETCH 1 (BODY[])")
    assert simulator.folder(ADDRESS)["messages"]["1"] == ["\\Seen"]
    assert signed_in.do("FETCH 2 (UID)") == (["* 2 FETCH (UID 2)"], "OK FETCH completed.")
    assert signed_in.do("FETCH 3 (UID)")[1] == "NO The specified message set is invalid."
    assert signed_in.do("UID FETCH 1 (UID BODY.PEEK[]<0.65536>)")[0] == ["* 1 FETCH (UID 1 BODY[]<0> {1}", "x)"]
    assert signed_in.do("UID SEARCH CHARSET UTF-8 ALL")[1] == "NO [BADCHARSET (US-ASCII)] The specified charset is not supported."


def test_fetch_in_sequence(simulator, signed_in):
    """exchange-online 5.8 A: the third FETCH of this mailbox answers OK with nothing, the fifth and sixth fail each in its way"""
    simulator.add(ADDRESS, [{"text": "x"}])
    signed_in.do("SELECT INBOX")
    simulator.fault("answer", ADDRESS, command="UID FETCH", line="{tag} OK FETCH completed.", skip=2, count=1)
    simulator.fault("answer", ADDRESS, command="UID FETCH", line="{tag} NO first", skip=3, count=1)
    simulator.fault("answer", ADDRESS, command="UID FETCH", line="{tag} NO second", count=1, skip=3)
    answers = []
    for _ in range(7):
        lines, end = signed_in.do("UID FETCH 1 (UID)")
        answers.append(end if lines == [] else "data")
    assert answers == ["data", "data", "OK FETCH completed.", "data", "NO first", "NO second", "data"]


@pytest.mark.parametrize("form,lines", [
    ("uid-last", ["* 2 FETCH (BODY[] {1}", "y UID 2)"]), ("reversed", ["* 2 FETCH (BODY[] {1}", "y UID 2)"]),
    ("twice", ["* 2 FETCH (UID 2 BODY[] {1}", "y)"] * 2), ("quoted", ['* 2 FETCH (UID 2 BODY[] "y")']),
    ("lower-case", ["* 2 FETCH (uid 2 body[] {1}", "y)"]), ("literal8", ["* 2 FETCH (UID 2 BODY[] ~{1}", "y)"]),
])
def test_fetch_in_other_forms(simulator, signed_in, form, lines):
    """exchange-online 4.6: order, case and further items are free"""
    simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}])
    simulator.fault("fetch-odd", ADDRESS, form=form)
    signed_in.do("SELECT INBOX")
    assert signed_in.do("UID FETCH 2 (UID BODY.PEEK[])")[0] == lines


def test_sizes_and_numbers_that_are_off(simulator, signed_in):
    """exchange-online 4.6, 5.7: RFC822.SIZE is an estimate, sequence numbers may be above EXISTS"""
    simulator.add(ADDRESS, [{"text": "x" * 100}])
    signed_in.do("SELECT INBOX")
    for by in (-90, 90):
        simulator.fault("size-off", ADDRESS, by=by, count=1)
        assert signed_in.do("UID FETCH 1 (RFC822.SIZE)")[0] == ["* 1 FETCH (RFC822.SIZE %d)" % (100 + by)]
    simulator.fault("number-above-exists", ADDRESS)
    assert signed_in.do("UID FETCH 1 (UID)")[0] == ["* 100001 FETCH (UID 1)"]


def test_changes(simulator, signed_in):
    """exchange-online 4.7"""
    simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}, {"text": "z"}])
    signed_in.do("SELECT INBOX")
    assert signed_in.do("UID STORE 1 +FLAGS (\\Seen)") == (["* 1 FETCH (FLAGS (\\Seen) UID 1)"], "OK STORE completed.")
    lines, end = signed_in.do("UID MOVE 1 Archive")
    assert lines == ["* OK [COPYUID 14 1 1]", "* 1 EXPUNGE", "* 2 EXISTS", "* 0 RECENT"] and end == "OK MOVE completed."
    assert signed_in.do("UID MOVE 2 Nowhere")[1] == "NO [TRYCREATE] MOVE failed."
    signed_in.do("UID STORE 2:3 +FLAGS (\\Deleted)")
    signed_in.do("UID EXPUNGE 3")
    assert list(simulator.folder(ADDRESS)["messages"]) == ["2"]
    assert signed_in.do("UID STORE 2 +FLAGS.SILENT (\\Seen)")[1] == "BAD Command Argument Error. 11"
    simulator.fault("bare-copyuid", ADDRESS, count=1)
    assert signed_in.do("UID MOVE 2 Archive")[0][0] == "[COPYUID 14 2 2]"
    simulator.fault("move-nothing", ADDRESS, count=1)
    assert signed_in.do("UID MOVE 2 Archive") == (["* OK [COPYUID 14  ]"], "OK MOVE completed.")
    simulator.fault("expunge-no", ADDRESS, count=1)
    assert signed_in.do("UID EXPUNGE 2")[1] == "NO EXPUNGE failed."
    lines, end = signed_in.do("LOGOUT")
    assert lines == ["* BYE Microsoft Exchange Server IMAP4 server signing off."] and end == "OK LOGOUT completed."


def test_bads_that_end_the_connection(simulator):
    """exchange-online 5.5: the second was seen, and the third"""
    simulator.mailbox(ADDRESS)
    simulator.fault("options", ADDRESS, bads=3)
    wire = Wire(simulator)
    wire.sign_in(token(simulator))
    assert [wire.do("XYZZY")[1] for _ in range(3)] == ["BAD Command Error. 10"] * 3
    assert wire.line() == "* BYE Connection closed. 14"


def test_second_bad_ends_the_connection(signed_in):
    """exchange-online 5.5, 4.9"""
    assert signed_in.do("UID SEARCH UID " + ",".join(map(str, range(1, 9000, 2))))[1] == "BAD Command Error. 10"
    signed_in.do("SELECT INBOX")
    assert signed_in.do("UID SEARCH RETURN (ALL) 1:*")[1] == "BAD Command Argument Error. 11"
    assert signed_in.line() == "* BYE Connection closed. 14"


def test_no_permission(simulator, signed_in):
    """exchange-online 5.1: the sign-in is OK, the next command is not"""
    simulator.fault("no-permission", ADDRESS)
    assert signed_in.do("SELECT INBOX")[1] == "BAD User is authenticated but not connected."


def test_idle(simulator, signed_in):
    """exchange-online 4.8"""
    signed_in.do("SELECT INBOX")
    signed_in.send("B1 IDLE")
    assert signed_in.line() == "+ IDLE accepted, awaiting DONE command."
    simulator.add(ADDRESS, [{"text": "x"}])
    assert [signed_in.line(), signed_in.line()] == ["* 1 EXISTS", "* 0 RECENT"]
    signed_in.send("DONE")
    assert signed_in.line() == "B1 OK IDLE completed."
    simulator.fault("exists-before-plus", ADDRESS, count=1)
    signed_in.send("B2 IDLE")
    assert [signed_in.line() for _ in range(3)] == ["* 1 EXISTS", "* 0 RECENT", "+ IDLE accepted, awaiting DONE command."]
    simulator.post("/remove", address=ADDRESS, uids=[1])
    assert [signed_in.line() for _ in range(3)] == ["* 1 EXPUNGE", "* 0 EXISTS", "* 0 RECENT"]
    signed_in.send("B3 NOOP")
    assert signed_in.line() == "B2 BAD Command received in Invalid state."


def test_line_before_the_plus(simulator, signed_in):
    """exchange-online 4.8, 5.14"""
    simulator.fault("slow-plus", ADDRESS, seconds=5, count=1)
    signed_in.do("SELECT INBOX")
    signed_in.send("B1 IDLE")
    signed_in.send("DONE")
    assert signed_in.line() == "B1 BAD Command received in Invalid state."


def test_idle_that_is_silent(simulator, signed_in):
    """exchange-online 5.10: new mail shows with the next command"""
    simulator.fault("silent-idle", ADDRESS)
    signed_in.do("SELECT INBOX")
    signed_in.send("B1 IDLE")
    signed_in.line()
    simulator.add(ADDRESS, [{"text": "x"}])
    signed_in.send("DONE")
    assert [signed_in.line() for _ in range(3)] == ["* 1 EXISTS", "* 0 RECENT", "B1 OK IDLE completed."]


def test_unavailable_in_answer_to_done(simulator, signed_in):
    """exchange-online 4.8, 5.4"""
    simulator.fault("unavailable", ADDRESS, command="DONE", form="bare")
    signed_in.do("SELECT INBOX")
    signed_in.send("B1 IDLE")
    signed_in.line()
    signed_in.send("DONE")
    assert [signed_in.line() for _ in range(3)] == ["Server Unavailable. 15", "* BYE Connection closed.", ""]


def test_news_within_an_answer(simulator, signed_in):
    """exchange-online 4.6, 4.8: between messages, numbers and their OK, before IDLE's `+`, after DONE"""
    simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}])
    signed_in.do("SELECT INBOX")
    for command, least in (("UID FETCH", 3), ("UID SEARCH", 4), ("IDLE", 5), ("DONE", 6)):
        simulator.fault("news", ADDRESS, command=command, add=[{"text": "z"}], count=1)
        if command in ("UID FETCH", "UID SEARCH"):
            lines = signed_in.do({"UID FETCH": "UID FETCH 1:2 (UID BODY.PEEK[])", "UID SEARCH": "UID SEARCH UID 1:*"}[command])[0]
        else:
            signed_in.tag += 1
            signed_in.send("A%d IDLE" % signed_in.tag)
            lines = list(iter(signed_in.line, "+ IDLE accepted, awaiting DONE command."))
            signed_in.send("DONE")
            after = list(iter(signed_in.line, "A%d OK IDLE completed." % signed_in.tag))
            lines = after if command == "DONE" else lines
        assert "* OK [ALERT] Your mailbox is almost full" in lines and lines.index("* %d EXISTS" % least) > 0, lines
        if command == "UID FETCH":
            assert lines.index("* 3 EXISTS") < lines.index("* 2 FETCH (UID 2 BODY[] {1}")


@pytest.mark.parametrize("fault,lines", [
    ({"play": "throttle", "ms": 89117, "form": "BYE"}, ["* BYE Request is throttled. Suggested Backoff Time: 89117 milliseconds"]),     # 5.6
    ({"play": "unavailable", "form": "bare"}, ["Server Unavailable. 15", "* BYE Connection closed."]),      # 5.4
    ({"play": "answer", "line": "* BYE Connection closed. 14", "close": True}, ["* BYE Connection closed. 14"]),    # 5.5
    ({"play": "close-raw"}, []),                                                                            # 5.11
])
def test_faults_in_idle(simulator, signed_in, fault, lines):
    signed_in.do("SELECT INBOX")
    signed_in.send("B1 IDLE")
    signed_in.line()
    simulator.fault("in-idle", ADDRESS, count=1, **fault)
    assert [signed_in.line() for _ in lines] == lines
    with pytest.raises((ssl.SSLError, ConnectionError)) if not lines else contextlib.nullcontext():
        assert signed_in.line() == ""


def test_fault_in_idle_that_was_set_before(simulator, signed_in):
    simulator.fault("in-idle", ADDRESS, play="answer", line="* BYE Connection closed. 14", close=True, count=1)
    signed_in.do("SELECT INBOX")
    assert signed_in.do("IDLE") == (["+ IDLE accepted, awaiting DONE command.", "* BYE Connection closed. 14"], "(closed)")


def test_token_ends(simulator, signed_in):
    """exchange-online 5.3: in IDLE at once, else with the next command"""
    signed_in.do("SELECT INBOX")
    other = Wire(simulator)
    other.sign_in(token(simulator))
    signed_in.send("B1 IDLE")
    signed_in.line()
    simulator.post("/expire")
    assert signed_in.line() == "* BYE Session invalidated - AccessTokenExpired"
    assert other.do("SELECT INBOX")[0] == ["* BYE Session invalidated - AccessTokenExpired"]


def test_throttled_and_unavailable(simulator, signed_in):
    """exchange-online 5.4, 5.6"""
    simulator.fault("throttle", ADDRESS, ms=299910, count=1)
    assert signed_in.do("NOOP")[1] == "NO Request is throttled. Suggested Backoff Time: 299910 milliseconds"
    simulator.fault("unavailable", ADDRESS, form="bare", count=1)
    assert signed_in.do("NOOP")[0] == ["Server Unavailable. 15", "* BYE Connection closed."]


def test_throttled_forms_and_countdown(simulator):
    """exchange-online 5.6: NO, BAD with BYE 14, and each time less"""
    simulator.mailbox(ADDRESS)
    simulator.fault("throttle", ADDRESS, ms=299609, countdown=422, count=2)
    simulator.fault("throttle", ADDRESS, ms=89117, form="BAD-BYE", count=1)
    wire = Wire(simulator)
    wire.sign_in(token(simulator))
    assert [wire.do("NOOP")[1] for _ in range(3)] == ["NO Request is throttled. Suggested Backoff Time: %d milliseconds" % ms for ms in (299609, 299187)] + \
        ["BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds"]
    assert wire.line() == "* BYE Connection closed. 14"


def test_edited_message_and_uidvalidity(simulator, signed_in):
    """exchange-online 5.12: 14 in unrelated mailboxes; an edited message has a new UID; a moved mailbox has all new ones"""
    other = "other@contoso.example"
    simulator.mailbox(other)
    uids = simulator.add(ADDRESS, [{"text": "x"}, {"text": "y"}])
    assert simulator.folder(ADDRESS)["uidvalidity"] == simulator.folder(other)["uidvalidity"] == 14
    simulator.post("/remove", address=ADDRESS, uids=uids[:1])
    assert simulator.add(ADDRESS, [{"text": "x, edited"}]) == [3]
    simulator.post("/folder", address=ADDRESS, uidvalidity=15)
    lines = signed_in.do("SELECT INBOX")[0]
    assert "* OK [UIDVALIDITY 15] UIDVALIDITY value" in lines and list(simulator.folder(ADDRESS)["messages"]) == ["1", "2"]


def test_messages_that_cannot_be_had(simulator, signed_in):
    """exchange-online 5.8 A, B; 5.9"""
    simulator.add(ADDRESS, [{"text": "x"}] * 3)
    signed_in.do("SELECT INBOX")
    simulator.fault("fetch-empty", ADDRESS, uids=[1])
    assert signed_in.do("UID FETCH 1 (BODY.PEEK[])") == ([], "OK FETCH completed.")
    simulator.fault("substitute", ADDRESS, uids=[2])
    lines, _ = signed_in.do("UID FETCH 2 (BODY.PEEK[])")
    assert any(line.startswith("Subject: Retrieval using the IMAP4 protocol failed for the following message:") for line in lines)
    simulator.fault("body-nil", ADDRESS, uids=[3])
    assert signed_in.do("UID FETCH 3 (UID BODY.PEEK[])")[0] == ["* 3 FETCH (UID 3 BODY[] NIL)"]
