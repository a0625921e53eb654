"""The simulator says what the services have been seen to say: without this, the other tests prove nothing."""
import base64
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

    def __init__(self, simulator):
        context = ssl.create_default_context(cafile=simulator.ca_file)
        self.sock = context.wrap_socket(socket.create_connection(("localhost", simulator.imap_port), 10), server_hostname="localhost")
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
    simulator.post("/token", fail={"status": 503})
    status, _, body = token_request(simulator)
    assert status == 503 and body.startswith(b"<html>")


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
    lines, end = signed_in.do("LOGOUT")
    assert lines == ["* BYE Microsoft Exchange Server IMAP4 server signing off."] and end == "OK LOGOUT completed."


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
