"""What is wrong with one mailbox harms no other, says what to do, and is mended without a restart."""
import time

import pytest

from lib.maildir import Maildir

GOOD, OTHER = "good@contoso.example", "bad@contoso.example"


def two(simulator, daemon, **more):
    simulator.mailbox(GOOD)
    simulator.mailbox(OTHER)
    daemon.config([GOOD, {"address": OTHER, **more}])
    daemon.start()


def mended(simulator, daemon):
    """After the cause has gone; a person, or the wait's end, makes it look again."""
    daemon.poll(OTHER)
    for address in (GOOD, OTHER):
        simulator.add(address, [{"seed": 5, "size": 1500}])
        daemon.wait_delivered(address, 1)
    assert daemon.of(OTHER)["error"] is None


@pytest.mark.parametrize("kind,error,hint", [
    ("no-permission", "User is authenticated but not connected", "Add-MailboxPermission bad@contoso.example"),      # exchange-online 5.1
    ("auth-refused", "AUTHENTICATE failed", "New-ServicePrincipal"),                                                # 5.2
    ("select-no", "SELECT failed", "Folder INBOX of bad@contoso.example cannot be opened"),
])
def test_refusals(simulator, daemon, kind, error, hint):
    simulator.mailbox(OTHER)
    simulator.fault(kind, OTHER)
    two(simulator, daemon)
    daemon.wait_state(OTHER, "backing-off")
    daemon.wait_state(GOOD, "watching")
    mailbox = daemon.of(OTHER)
    assert error in mailbox["error"] and hint in mailbox["hint"] and mailbox["retry_at"] and mailbox["failures"] == 1
    daemon.wait_line("event=sign-in-failed mailbox=bad@contoso.example")
    simulator.clear(OTHER)
    mended(simulator, daemon)
    daemon.wait_line("event=sign-in-recovered mailbox=bad@contoso.example")


@pytest.mark.parametrize("name", ["stranger", "wrong-host"])
def test_certificates(simulator, daemon, name):
    simulator.post("/certificate", server="imap", name=name)
    two(simulator, daemon)
    daemon.wait_state(OTHER, "backing-off")
    assert "certificate" in daemon.of(OTHER)["hint"] and simulator.counts("logins") == 0
    simulator.post("/certificate", server="imap", name="good")
    daemon.poll(GOOD)
    mended(simulator, daemon)


def test_token_endpoints_certificate(simulator, daemon):
    simulator.post("/certificate", server="token", name="stranger")
    two(simulator, daemon)
    status = daemon.wait(lambda s: s["credentials"][0]["state"] == "failed")
    assert "certificate" in status["credentials"][0]["hint"] and simulator.counts("token_requests") == 0
    simulator.post("/certificate", server="token", name="good")
    daemon.poll(GOOD)
    mended(simulator, daemon)


def test_nobody_listens(simulator, daemon):
    two(simulator, daemon, port=1)
    daemon.wait_state(OTHER, "backing-off")
    daemon.wait_state(GOOD, "watching")
    assert "Cannot reach localhost" in daemon.of(OTHER)["hint"]


def test_throttled(simulator, daemon):
    """exchange-online 5.6: the time that was asked for, for this mailbox"""
    simulator.mailbox(OTHER)
    simulator.fault("throttle", OTHER, ms=92415, count=1)
    two(simulator, daemon)
    daemon.wait_state(OTHER, "backing-off")
    mailbox = daemon.of(OTHER)
    retry_at = time.mktime(time.strptime(mailbox["retry_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert 80 < retry_at - time.time() < 110
    assert "throttling mailbox bad@contoso.example" in mailbox["hint"]
    assert daemon.wait_line("event=throttled mailbox=bad@contoso.example")
    mended(simulator, daemon)


@pytest.mark.parametrize("form", ["NO", "bare"])
def test_server_unavailable(simulator, daemon, form):
    """exchange-online 5.4: tagged, and as a line with neither tag nor star; the next try comes by itself"""
    simulator.mailbox(OTHER)
    simulator.fault("unavailable", OTHER, form=form, count=1)
    two(simulator, daemon)
    simulator.wait("logins", 2, OTHER)
    simulator.add(OTHER, [{"seed": 1, "size": 1500}])
    daemon.wait_delivered(OTHER, 1)
    assert daemon.wait_line("Server Unavailable. 15")


def test_refusal_told_with_json(simulator, daemon):
    """exchange-online 4.2: `+` after the initial response is a failure; answered with an empty line"""
    simulator.mailbox(OTHER)
    simulator.fault("auth-refused", OTHER, form="json")
    two(simulator, daemon)
    daemon.wait_state(OTHER, "backing-off")
    assert daemon.wait_line('the server says of the refused sign-in: {\\\\"status\\\\":\\\\"401')


def test_sign_in_in_two_steps(simulator, daemon):
    simulator.post("/options", without=["SASL-IR"])
    two(simulator, daemon)
    mended(simulator, daemon)


def test_connection_cut_in_a_message(simulator, daemon):
    """A response cut short is no message; it is fetched again (exchange-online 5.11)."""
    simulator.mailbox(OTHER)
    uid = simulator.add(OTHER, [{"seed": 9, "size": 50000}])[0]
    simulator.fault("close-mid-literal", OTHER, uids=[uid], after=20000, count=1)
    simulator.mailbox(GOOD)
    daemon.config([GOOD, OTHER])
    daemon.start()
    daemon.wait_delivered(OTHER, 1)
    assert Maildir(daemon.maildir(OTHER)).sums() == {simulator.sums(OTHER)[str(uid)]: 1}
    assert Maildir(daemon.maildir(OTHER)).tmp() == []


def test_odd_answers(simulator, daemon):
    """exchange-online 4.6, 4.7, 4.8, 5.7: sequence numbers above EXISTS, a line that begins with [COPYUID, sizes that are off, EXISTS before `+`"""
    simulator.mailbox(OTHER, ["INBOX", "Done"])
    for kind, more in (("number-above-exists", {}), ("bare-copyuid", {}), ("size-off", {"by": -900}), ("exists-before-plus", {})):
        simulator.fault(kind, OTHER, **more)
    simulator.mailbox(GOOD)
    daemon.config([GOOD, {"address": OTHER, "after": {"move": "Done"}}])
    simulator.add(OTHER, [{"seed": i, "size": 1500 + i} for i in range(20)])
    daemon.start()
    daemon.wait(lambda s: sum(f["delivered"] for m in s["mailboxes"] for f in m["folders"]) == 20 and all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert len(simulator.folder(OTHER, "Done")["messages"]) == 20
    assert daemon.of(OTHER)["failures"] == 0


@pytest.mark.parametrize("line,failure,hint", [
    ("NO [OVERQUOTA] Quota exceeded.", "quota", "Mailbox bad@contoso.example is over its quota: make room in it."),      # RFC 5530
    ("NO [TRYCREATE] MOVE failed.", "no-target", "does not exist in mailbox bad@contoso.example: make it."),             # exchange-online 4.8
    ("NO Cannot move.", "refused", "refused a command for bad@contoso.example"),
])
def test_after_that_is_refused(simulator, make_daemon, line, failure, hint):
    """Told once and tried again later; mail flows on meanwhile, and nothing is fetched twice"""
    daemon = make_daemon(program="mailpolld-scaled")
    simulator.mailbox(OTHER, ["INBOX", "Done"])
    simulator.add(OTHER, [{"seed": 1, "size": 1500}])
    simulator.fault("answer", OTHER, command="UID MOVE", line="{tag} " + line)
    daemon.config([{"address": OTHER, "after": {"move": "Done"}}])
    daemon.start(env={"MAILPOLLD_CLOCK_RATE": "60"})
    told = daemon.wait_line("event=after-refused")
    assert "failure=%s " % failure in told and hint in told and "mailbox=" + OTHER in told
    simulator.add(OTHER, [{"seed": 2, "size": 1500}])
    daemon.wait_delivered(OTHER, 2)
    simulator.wait("command:UID MOVE", 3)
    assert daemon.of(OTHER)["failures"] == 0 and daemon.of(OTHER)["folders"][0]["after_owed"] == 2
    assert sum("event=after-refused" in each for each in daemon.lines) == 1
    simulator.clear(OTHER)
    daemon.wait(lambda s: all(f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert len(simulator.folder(OTHER, "Done")["messages"]) == 2 and len(Maildir(daemon.maildir(OTHER))) == 2


def test_ca_file_that_holds_none(simulator, daemon):
    """One mailbox's; the daemon goes on, and says what to correct"""
    simulator.mailbox(OTHER)
    simulator.mailbox(GOOD)
    daemon.config([GOOD, {"address": OTHER, "ca_file": daemon.file}])
    daemon.start()
    line = daemon.wait_line("failure=ca-file")
    assert "Correct `ca_file` of %s in the configuration." % OTHER in line and "mailbox=" + OTHER in line
    daemon.wait_state(GOOD, "watching")
    assert simulator.state(OTHER)["logins"] == 0


def test_message_that_cannot_be_had(simulator, daemon):
    """exchange-online 5.8 A: OK with nothing. Later mail flows on, the UID stays owed."""
    simulator.mailbox(OTHER)
    uids = simulator.add(OTHER, [{"seed": i, "size": 1500} for i in range(5)])
    simulator.fault("fetch-empty", OTHER, uids=[uids[2]])
    two(simulator, daemon)
    daemon.wait(lambda s: any(f["delivered"] == 4 and f["owed"] == 1 for m in s["mailboxes"] for f in m["folders"]))
    simulator.add(OTHER, [{"seed": 77, "size": 1500}])
    daemon.wait_delivered(OTHER, 5)


@pytest.mark.parametrize("kind", ["fetch-no", "body-nil"])
def test_message_that_is_refused(simulator, daemon, kind):
    """exchange-online 5.8 C, 5.9: NO at one UID, an empty body: the others arrive, it stays owed"""
    simulator.mailbox(OTHER)
    uids = simulator.add(OTHER, [{"seed": i, "size": 1500} for i in range(12)])
    simulator.fault(kind, OTHER, uids=[uids[4]])
    two(simulator, daemon)
    daemon.wait(lambda s: any(f["delivered"] == 11 and f["owed"] == 1 for m in s["mailboxes"] for f in m["folders"]))
    assert daemon.of(OTHER)["failures"] == 0 and daemon.of(OTHER)["folders"][0]["oldest_owed_at"]


def test_connection_that_dies_at_one_message(simulator, daemon):
    """exchange-online 5.8 C: twice at the same one, then it is owed and later mail flows on"""
    simulator.mailbox(OTHER)
    uids = simulator.add(OTHER, [{"seed": i, "size": 5000} for i in range(6)])
    simulator.fault("close-mid-literal", OTHER, uids=[uids[2]], after=1000)
    two(simulator, daemon)
    daemon.wait(lambda s: any(f["delivered"] == 5 and f["owed"] == 1 for m in s["mailboxes"] for f in m["folders"]))


SUBSTITUTE = "Retrieval using the IMAP4 protocol failed for the\r\n\tfollowing message: 2\r\n"


@pytest.mark.parametrize("more", [
    {}, {"text": "From: \"Microsoft Exchange Server 2010\"\r\nsubject: " + SUBSTITUTE + "\r\n"},
    {"text": "From: \"Microsoft Exchange Server\"\r\nSubject: =?utf-8?Q?Fehler_beim_Abruf_=C3=BCber_IMAP4=3A_2?=\r\n\r\nNachricht\r\n"},
    {"text": "Message-ID: <made@up>\r\nSubject: " + SUBSTITUTE + "\r\nThe server couldn't retrieve the following message:\r\n\r\nSubject: \"x\"\r\n"},
])
def test_substitute_is_not_the_message(simulator, daemon, more):
    """exchange-online 5.8 B: not delivered, not deleted, later mail flows on"""
    simulator.mailbox(OTHER)
    uids = simulator.add(OTHER, [{"seed": i, "size": 1500} for i in range(6)])
    simulator.fault("substitute", OTHER, uids=[uids[1]], **more)
    two(simulator, daemon, after="delete")
    daemon.wait(lambda s: any(f["delivered"] == 5 and f["owed"] == 1 and f["after_owed"] == 0 for m in s["mailboxes"] for f in m["folders"]))
    assert list(simulator.folder(OTHER)["messages"]) == [str(uids[1])]
    assert len(Maildir(daemon.maildir(OTHER))) == 5 and Maildir(daemon.maildir(OTHER)).tmp() == []


ENDS = {"serverbug": ("answer", {"line": "{tag} NO [SERVERBUG] Internal error."}), "unavailable": ("unavailable", {"form": "NO"}),
        "in-use": ("answer", {"line": "{tag} NO [INUSE] Locked."}), "bye": ("answer", {"line": "* BYE Internal error.", "close": True}),
        "closed": ("close-raw", {}), "hang": ("hang", {}), "search": ("answer", {"line": "{tag} NO SEARCH failed.", "command": "UID SEARCH"})}


@pytest.mark.parametrize("end,moment", [(end, "later") for end in ENDS] + [(end, "first-contact") for end in ("serverbug", "closed", "search")])
def test_folder_that_ends_the_session(simulator, make_daemon, end, moment):
    """exchange-online 5.4, 5.11, 5.14, RFC 5530: whatever ends it there, the folders after it have their turn in each session"""
    folders, (kind, more) = ["INBOX", "Broken", "Third"], ENDS[end]
    daemon = make_daemon(program="mailpolld-scaled")
    simulator.mailbox(OTHER, folders)
    daemon.config([{"address": OTHER, "folders": folders, "interval": "20s"}])
    if moment == "later":
        daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
        simulator.wait("idling", 1)
    simulator.fault(kind, OTHER, asks="Broken", **more)
    for i, folder in enumerate(folders):
        simulator.add(OTHER, [{"seed": i, "size": 1500}, {"seed": 10 + i, "size": 1500}], folder)
    if moment == "first-contact":
        daemon.start(env={"MAILPOLLD_CLOCK_RATE": "20"})
    daemon.wait_delivered(OTHER, 4)
    status = daemon.wait(lambda s: s["mailboxes"][0]["error"])
    if kind == "unavailable" or "{tag}" in more.get("line", ""):
        assert "Broken: " in status["mailboxes"][0]["error"]
    simulator.add(OTHER, [{"seed": 20, "size": 1500}])
    simulator.add(OTHER, [{"seed": 21, "size": 1500}], "Third")
    daemon.wait_delivered(OTHER, 6)
    assert simulator.folder(OTHER, "Broken")["bodies"] == 0
    simulator.clear(OTHER)
    daemon.poll(OTHER)
    daemon.wait_delivered(OTHER, 8)
    daemon.wait(lambda s: s["mailboxes"][0]["error"] is None and s["mailboxes"][0]["state"] == "watching")
    assert Maildir(daemon.maildir(OTHER)).tmp() == [] and set(Maildir(daemon.maildir(OTHER)).sums().values()) == {1}
